"""Do the verdicts of compare.py keep their promises? Comparisons whose truth is known, by compare.py's own functions.

    python benchmarks/simulate_comparing.py simulated

How often are equal recipes called different, at most in 5 %, and if one had more epochs to choose among? How often is a
true difference found? How often does the interval of a difference have the true one within it, on new seeds and new
images? The folder gets simulated.json and simulated.png; docs/statistics.md tells the result.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from scipy import stats  # noqa: E402

from common import figures  # noqa: E402
from common.evaluation.repeats import t_interval  # noqa: E402
from tools.comparing.contrasts import Contrast, find_contrasts  # noqa: E402
from tools.comparing.estimates import Arm, difference, mean  # noqa: E402
from tools.comparing.finished_runs import FinishedRun  # noqa: E402
from tools.comparing.groups import Group, group_by_seed  # noqa: E402

REPETITIONS = 4000  # the 95 % interval of a rate of 5 % is then from 4.4 to 5.7 %
MORE = 4  # times as many where the rate is to be 5 % itself: from 4.7 to 5.3 %
GROUPS, SEEDS, SHARED = (2, 5, 10, 20), (3, 5, 10), (0.0, 0.4, 0.8)
ACCURACY, BETTER = 0.7, 0.01
# Images; standard deviation of the accuracy over seeds (0.003 is that of CIFAR-10); which share of its images two seeds
# have in common: all, as test images, or a tenth, as where the seed chooses a tenth for validation, or none.
EXAMS = ((500, 0.003, 1.0), (500, 0.02, 1.0), (2000, 0.003, 1.0), (2000, 0.02, 1.0), (143, 0.02, 0.1),
         (500, 0.003, 0.1), (500, 0.02, 0.0))  # fmt: skip
# What makes an image right or wrong, as shares of the variance: how hard it is, how hard here; the rest is chance.
HARD, HARD_HERE = 0.6, 0.1
CLASSES, VALIDATION = 10, 143  # with nothing to learn: digits with permuted labels
EPOCHS = ((5, 50), (1, 50), (10, 20))
KINDS = {
    "independent": 0.0,
    "alike": 0.9,
    "same start": 0.9,
}  # how much an epoch's accuracy is like that of the one before
COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#7570b3")


def main():
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N", help="(default: %(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = simulate(options.repetitions)
    (options.folder / "simulated.json").write_text(json.dumps(found, indent=2))
    draw(options.folder / "simulated.png", found)


def simulate(repetitions: int) -> dict[str, list[dict]]:
    """Return the rates of all settings, and print them as they come."""
    found = {"repetitions": repetitions, "repetitions_of_false_alarms": MORE * repetitions}
    plans = {
        "false_alarms": (false_alarms, itertools.product(GROUPS, SEEDS, SHARED)),
        "power": (power, itertools.product(SEEDS, SHARED)),
        "epochs": (false_alarms_of_epochs, itertools.product(EPOCHS, SEEDS, KINDS)),
        "epochs_power": (power_of_epochs, itertools.product(EPOCHS, SEEDS)),
        "coverage": (coverage, itertools.product(SEEDS, EXAMS)),
    }
    for name, (function, settings) in plans.items():
        found[name] = []
        for number, setting in enumerate(settings):
            row = function(np.random.default_rng([number, list(plans).index(name)]), repetitions, *setting)
            found[name].append(row)
            print(name, json.dumps(row), flush=True)
    return found


# --- values by seed


def false_alarms(rng: np.random.Generator, repetitions: int, groups: int, seeds: int, shared: float) -> dict:
    """Return how often the best of equal groups is called significantly better than at least one other."""
    repetitions *= MORE
    alarms = sum(
        any(one.is_significant for one in contrasts_of(values_of_seeds(rng, groups, seeds, shared)))
        for _ in range(repetitions)
    )
    return {"groups": groups, "seeds": seeds, "shared": shared, "rate": alarms / repetitions}


def power(rng: np.random.Generator, repetitions: int, seeds: int, shared: float) -> dict:
    """Return how often a group that is better by one standard deviation is found to be."""
    found = 0
    for _ in range(repetitions):
        values = values_of_seeds(rng, 2, seeds, shared)
        values[0] += 1
        [one] = contrasts_of(values)
        found += one.is_significant and values[0].mean() > values[1].mean()
    return {"seeds": seeds, "shared": shared, "rate": found / repetitions}


def values_of_seeds(rng: np.random.Generator, groups: int, seeds: int, shared: float) -> np.ndarray:
    """Return normal values (groups, seeds) with standard deviation 1, of whose variance a seed shares so much."""
    own, common = rng.standard_normal((groups, seeds)), rng.standard_normal(seeds)
    return np.sqrt(1 - shared) * own + np.sqrt(shared) * common


def contrasts_of(values: np.ndarray) -> list[Contrast]:
    """Return the contrasts of the best of some groups: values (groups, seeds)."""
    ranked = values[np.argsort(-values.mean(axis=1))]
    arms = [Arm(dict(enumerate(row))) for row in ranked.tolist()]
    return find_contrasts([Group(number, {}, "", [], 0, arm) for number, arm in enumerate(arms, 1)], {})


# --- the best of different numbers of epochs


def false_alarms_of_epochs(
    rng: np.random.Generator, repetitions: int, epochs: tuple[int, int], seeds: int, kind: str
) -> dict:
    """Return how often recipes are called different that had so many epochs to choose among, and nothing to learn."""
    alarms = sum(
        any(one.is_significant for one in contrasts_of_curves(chance_curves(rng, epochs, seeds, kind)))
        for _ in range(repetitions)
    )
    return {"epochs": list(epochs), "seeds": seeds, "kind": kind, "rate": alarms / repetitions}


def power_of_epochs(rng: np.random.Generator, repetitions: int, epochs: tuple[int, int], seeds: int) -> dict:
    """Return how often the longer training is found to be better that is so, by two errors of a validation accuracy."""
    better, found = 2 * error_of_guessing(), 0
    for _ in range(repetitions):
        curves = chance_curves(rng, epochs, seeds, "independent")
        curves[1] += better * (1 - np.exp(-np.arange(epochs[1]) / 5))
        found += any(one.is_significant and one.one.arm.epochs == max(epochs) for one in contrasts_of_curves(curves))
    return {"epochs": list(epochs), "seeds": seeds, "better": better, "rate": found / repetitions}


def error_of_guessing() -> float:
    """Return the standard error of the validation accuracy of a network that guesses."""
    return float(np.sqrt((1 - 1 / CLASSES) / CLASSES / VALIDATION))


def chance_curves(rng: np.random.Generator, epochs: tuple[int, int], seeds: int, kind: str) -> list[np.ndarray]:
    """Return the validation accuracies (seeds, epochs) of networks that guess, for each number of epochs.

    With the same start a seed's short run is the beginning of its long one, as it is where the rate stays the same.
    """
    curves, alike = [], KINDS[kind]
    for count in epochs:
        noise = rng.standard_normal((count, seeds))
        for epoch in range(1, count):
            noise[epoch] = alike * noise[epoch - 1] + np.sqrt(1 - alike**2) * noise[epoch]
        curves.append(np.round(VALIDATION * (1 / CLASSES + error_of_guessing() * noise.T)) / VALIDATION)
    if kind == "same start":
        curves[0] = curves[1][:, : epochs[0]]
    return curves


def contrasts_of_curves(curves: list[np.ndarray]) -> list[Contrast]:
    """Return the contrasts of recipes that differ in the number of epochs, each run at the best of them."""
    runs = [run_of(curve, seed) for recipe in curves for seed, curve in enumerate(recipe)]
    groups = group_by_seed(runs, {"epochs": {run: len(run.epochs) for run in runs}}, "val_accuracy", {})
    return find_contrasts(sorted(groups, key=lambda group: -group.mean), {})


def run_of(curve: np.ndarray, seed: int) -> FinishedRun:
    """Return a run with these validation accuracies."""
    epochs = [{"epoch": epoch, "val_accuracy": value} for epoch, value in enumerate(curve.tolist(), 1)]
    options, scores = {"epochs": len(curve), "seed": seed}, {"val_accuracy": float(curve.max())}
    return FinishedRun(Path(), "", "", "", [], options, {}, False, epochs, scores, frozenset())


# --- seeds and images


def coverage(rng: np.random.Generator, repetitions: int, seeds: int, exam: tuple[int, float, float]) -> dict:
    """Return how often intervals have the true value: of a difference, of a mean, and of the mean by seeds alone.

    A network is right on an image if a normal number is below a limit. The number is made of the image, of the seed
    (half of that is the same for both recipes) and of chance, so that the true accuracy is known, over all of them.
    """
    images, seed_std, share = exam
    truth = np.array([ACCURACY + BETTER, ACCURACY])
    hits = np.zeros(3)
    for _ in range(repetitions):
        seen, pool = images_seen(rng, seeds, images, share)
        arms = [arm_of(one, seen, pool) for one in correct_images(rng, truth, seed_std, seen, pool)]
        intervals = difference(*arms).interval(), mean(arms[0]).interval(), t_interval(list(arms[0].values.values()))
        trues = truth[0] - truth[1], truth[0], truth[0]
        hits += [
            interval is not None and interval[0] <= true <= interval[1]
            for interval, true in zip(intervals, trues, strict=True)
        ]
    setting = {"seeds": seeds, "images": images, "seed_std": seed_std, "in_common": share}
    return setting | dict(
        zip(("difference", "mean", "mean_by_seeds_alone"), (hits / repetitions).tolist(), strict=True)
    )


def images_seen(rng: np.random.Generator, seeds: int, images: int, share: float) -> tuple[np.ndarray, int]:
    """Return which images each seed sees (seeds, images), and of how many."""
    if share == 0:
        return np.arange(seeds * images).reshape(seeds, images), seeds * images
    pool = round(images / share)
    return np.stack([rng.permutation(pool)[:images] for _ in range(seeds)]), pool


def correct_images(
    rng: np.random.Generator, truth: np.ndarray, seed_std: float, seen: np.ndarray, pool: int
) -> np.ndarray:
    """Return on which of the images that are seen two recipes are right: (2, seeds, images) bool."""
    limit = stats.norm.ppf(truth)

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    of_seeds = (seed_std / stats.norm.pdf(limit).mean()) ** 2  # the share of the variance
    of_seed = np.sqrt(of_seeds / 2) * (drawn(1, len(seen), 1) + drawn(2, len(seen), 1))
    of_image = np.sqrt(HARD) * drawn(1, pool) + np.sqrt(HARD_HERE) * drawn(2, pool)
    chance = np.sqrt(1 - HARD - HARD_HERE - of_seeds) * drawn(2, *seen.shape)
    return of_image[:, seen] + of_seed + chance < limit[:, None, None]


def arm_of(correct: np.ndarray, seen: np.ndarray, pool: int) -> Arm:
    """Return what came out of one recipe: correct and seen (seeds, images)."""
    values, moves = correct.mean(axis=1), np.zeros((len(seen), pool))
    np.put_along_axis(moves, seen, (correct - values[:, None]) / seen.shape[1], axis=1)
    return Arm(dict(enumerate(values.tolist())), dict(enumerate(moves)))


# --- the picture


def draw(path: Path, found: dict) -> None:
    """Draw the rates beside what was promised of them."""
    figure = figures.blank_figure(10, 7.5)
    ((alarms, epochs), (powers, covered)) = figure.subplots(2, 2)
    _draw_alarms(alarms, found["false_alarms"])
    _draw_epochs(epochs, found["epochs"])
    _draw_power(powers, found["power"])
    _draw_coverage(covered, found["coverage"])
    for axes in (alarms, epochs, powers, covered):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    figures.save_figure(figure, path)


def _draw_alarms(axes: Axes, rows: list[dict]) -> None:
    for color, seeds in zip(COLORS, SEEDS, strict=False):
        for groups in GROUPS:
            rates = [100 * row["rate"] for row in rows if (row["groups"], row["seeds"]) == (groups, seeds)]
            place = GROUPS.index(groups) + 0.15 * (SEEDS.index(seeds) - 1)
            axes.plot([place] * len(rates), rates, "o", color=color, alpha=0.7,
                      label=f"{seeds} seeds" if groups == GROUPS[0] else None)  # fmt: skip
    axes.axhline(5, color="black", linewidth=0.8)
    axes.set_xticks(range(len(GROUPS)), GROUPS)
    axes.set(
        xlabel="equal groups, the best one chosen by its result", ylabel="at least one 'significant', %", ylim=(0, 8)
    )


def _draw_epochs(axes: Axes, rows: list[dict]) -> None:
    for color, kind in zip(COLORS, KINDS, strict=False):
        chosen = [row for row in rows if row["kind"] == kind]
        axes.plot([100 * row["rate"] for row in chosen], "o", color=color, alpha=0.7, label=f"epochs: {kind}")
    axes.axhline(5, color="black", linewidth=0.8)
    chosen = [row for row in rows if row["kind"] == "alike"]
    names = [f"{row['epochs'][0]}, {row['epochs'][1]}\n{row['seeds']}" for row in chosen]
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set(xlabel="numbers of epochs, below them of seeds; nothing to learn", ylabel="'significant', %", ylim=(0, 8))


def _draw_power(axes: Axes, rows: list[dict]) -> None:
    for color, seeds in zip(COLORS, SEEDS, strict=False):
        chosen = [row for row in rows if row["seeds"] == seeds]
        axes.plot([row["shared"] for row in chosen], [100 * row["rate"] for row in chosen], "o-", color=color,
                  label=f"{seeds} seeds")  # fmt: skip
    axes.set(xlabel="share of the variance that a seed has in both groups", ylabel="one standard deviation found, %",
             ylim=(0, 100))  # fmt: skip


def _draw_coverage(axes: Axes, rows: list[dict]) -> None:
    axes.axhspan(93, 98, color="#dddddd", linewidth=0)
    styles = (
        ("difference", "o", "a difference"),
        ("mean", "s", "a mean"),
        ("mean_by_seeds_alone", "x", "a mean, by the seeds alone"),
    )
    for color, (name, marker, label) in zip(COLORS, styles, strict=False):
        for shift, row in enumerate(rows):
            place = SEEDS.index(row["seeds"]) + 0.1 * (shift % len(EXAMS) - 3)
            axes.plot(place, 100 * row[name], marker, color=color, alpha=0.8, label=label if shift == 0 else None)
    axes.set_xticks(range(len(SEEDS)), SEEDS)
    axes.set(xlabel="seeds", ylabel="intervals with the true value, %", ylim=(40, 100))


if __name__ == "__main__":
    main()
