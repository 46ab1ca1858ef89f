"""What runs that differ in the seed alone, or in the fold, come to together."""

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.system.files import Unreadable, read_json
from common.system.log import info

LEVEL = 0.05  # two-sided: intervals are of 95 %


def repeat(runs: Sequence[dict], data: Sequence, train: Callable[[dict, object], Path], is_main: bool) -> Path:
    """Train with the options of each of `runs` on its data, say what they come to, and return the last run folder.

    Where one fails, what it raises ends the others that were to come. It is said which are finished, and, by the notes
    of the error, how that one goes on.

    Args:
        train: trains with options on data, and returns the run folder.
        is_main: whether this is the process that may read what the first one has written.
    """
    if len(runs) == 1:
        return train(runs[0], data[0])
    varied = "folds" if runs[0]["folds"] else "seed"
    folders, names = [], [f"--{varied} {options[varied]}" for options in runs]
    for number, (name, options, images) in enumerate(zip(names, runs, data, strict=True), 1):
        info(f"run {number} of {len(runs)}: {name}")
        try:
            folders.append(train(options, images))
        except BaseException as error:
            done = [f"{one} in {folder}" for one, folder in zip(names, folders, strict=False)]
            how = f" ({'; '.join(error.__notes__)})" if hasattr(error, "__notes__") else ""
            info(
                f"finished: {', '.join(done) or 'none'}; not finished: {name}{how}; "
                f"not begun: {', '.join(names[number:]) or 'none'}"
            )
            raise
    if is_main:
        info(*summary(folders))
    return folders[-1]


def summary(folders: Sequence[Path]) -> list[str]:
    """Return what such runs come to: the means, what they are of, and two rows to paste."""
    configs = [read_json(folder / "config.json") for folder in folders]
    name, options = configs[0]["name"], configs[0]["options"]
    training, validation = (sum(config["images"][split] for config in configs) for split in ("train", "val"))
    overlap = validation / training if options["folds"] else 0.0
    count, means, epochs = f"{len(folders)} {'folds' if options['folds'] else 'seeds'}", {}, 1
    for kind in ("test", "validation"):
        with contextlib.suppress(Unreadable):  # not tested, or without labels
            scores = [read_json(folder / f"{kind}.json") for folder in folders]
            means[kind] = mean_in_words([one["accuracy"] for one in scores], overlap)
            epochs = max(one.get("best_of_epochs", 1) for one in scores)
    said = [f"{kind} accuracy {mean} (95 % interval {interval})" for kind, (mean, interval) in means.items()]
    chosen = f"; each the best of {epochs} epochs on these validation images" if epochs > 1 else ""
    how = "t corrected for training images in common" if options["folds"] else "Student's t"
    cells = [f"{mean} ({interval})" for mean, interval in means.values()]
    return [
        f"{count}: {', '.join(said)}; mean of {count}, {how}{chosen}",
        _what_varied(options),
        f"row (run, n, {', '.join(means)}): | {' | '.join([_escaped(name, '|'), count, *cells])} |",
        rf"LaTeX: {' & '.join([_escaped(name, '&%$#_{}'), count, *cells])} \\",
    ]


def _what_varied(options: dict) -> str:
    limited = ", and which images --limit takes" if options["limit"] else ""
    if options["folds"]:
        return f"what varied: which training images validate, each once; not what --seed {options['seed']} chooses"
    chosen = f"first weights, order and augmentation{limited}, but not the validation images"
    return f"what the seeds chose: {chosen}; the intervals are of other seeds, not of other images"


def mean_in_words(shares: Sequence[float], overlap: float = 0.0) -> tuple[str, str]:
    """Return the mean of shares, and its 95 % interval as far as shares can be, in words; see `t_interval`."""
    if len(shares) < 2:
        return f"{np.mean(shares):.4f}", "unknown: of one alone"
    low, high = t_interval(shares, overlap)
    has_spread = max(shares) - min(shares) > 1e-12
    interval = f"{max(0, low):.4f} to {min(1, high):.4f}" if has_spread else "unknown: all are equal"
    return f"{np.mean(shares):.4f}", interval


def _escaped(text: str, special: str) -> str:
    return re.sub(f"([{re.escape(special)}])", r"\\\1", text)


def t_interval(values: Sequence[float], overlap: float = 0.0) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the mean of normal values (Student, 1908), None of less than two.

    Runs whose training sets overlap know less than so many values: with `overlap`, validation images for each training
    image, the variance of the mean is s^2 (1 / n + overlap) instead of s^2 / n. Nadeau, Bengio: "Inference for the
    Generalization Error", Machine Learning 52, 2003: the corrected resampled t-test, an approximation for folds too.
    """
    from scipy import stats

    if len(values) < 2:
        return None
    mean, count = np.mean(values), len(values)
    margin = stats.t.ppf(1 - LEVEL / 2, count - 1) * np.std(values, ddof=1) * np.sqrt(1 / count + overlap)
    return float(mean - margin), float(mean + margin)
