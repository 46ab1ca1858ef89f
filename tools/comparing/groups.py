"""What differs between runs, and which of them differ in the seed, or in the fold, alone."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.system.text import printable
from tools.comparing.estimates import Arm, luck_of_choosing
from tools.comparing.finished_runs import FinishedRun

# Options that change nothing of what is compared, or that have a column of their own.
NO_DIFFERENCE = {
    "dataset", "data", "seed", "output_dir", "resume", "workers", "save_every", "print_every", "watch", "explore",
    "tta", "question", "wandb_project", "wandb_entity", "submission_labels", "skip_unreadable", "throughput",
    "max_batch", "memory_budget", "test", "tensorboard", "wandb", "fit", "figures", "save_minutes", "shown_classes",
}  # fmt: skip
LOWER_IS_BETTER = re.compile("loss|error|time|seconds|memory|parameters|flops|power")
NOTHING = "–"
UNKNOWN = object()  # the value of an option that a run does not know
LONGEST_VALUE, LONGEST_SETTING = 18, 200  # characters


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that are equal in all but the seed, or of one cross-validation.

    `arm` has one number a seed, of runs with the same seed their mean: they are no independent tries. Of a
    cross-validation it has one a fold instead. `mean` and `std` (n - 1) are of those; None where there are too few.
    """

    number: int  # the rank, from 1 on
    settings: dict[str, str]  # what tells the group from others, as people read it
    dataset: str
    runs: list[FinishedRun]
    diverged: int  # how many of the runs have no number because they diverged
    arm: Arm
    name: str = ""  # that a person gave it

    @property
    def values(self) -> list[float]:
        """A number for each seed, or fold."""
        return list(self.arm.values.values())

    @property
    def made_of(self) -> str:
        """How many runs it has and whose they are, in brackets and behind a space; of one no more than a time: ""."""
        label, folders = self.runs[0].label, {run.label.rpartition("/")[0] for run in self.runs}
        if len(self.runs) == 1:
            return f" ({label})" if "/" in label else ""
        whose = f"{folders.pop()}, " if len(folders) == 1 and "/" in label else ""
        return f" ({whose}{len(self.runs)} runs)"

    def called(self, names: Iterable[str]) -> str:
        """Return what the group is called: its name, or the settings of these names in words."""
        return self.name or words(self.settings, names)

    @property
    def mean(self) -> float | None:
        """The mean over seeds."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None


def group_by_seed(
    runs: Sequence[FinishedRun], options: dict[str, dict], metric: str, moves: Mapping[FinishedRun, np.ndarray]
) -> list[Group]:
    """Return the groups of runs that are equal in all but the seed, not yet ranked, by the options that differ."""
    members = defaultdict(list)
    for run in runs:
        members[(run.script, run.dataset, *(key_of(values[run]) for values in options.values()))].append(run)
    named = [name for name in ("script", "dataset") if len({getattr(run, name) for run in runs}) > 1]
    unfair = chose_unequally(runs, metric)
    groups = []
    for alike in members.values():
        settings = {name: getattr(alike[0], name) for name in named}
        settings |= {name: shown(values[alike[0]])[:LONGEST_SETTING] for name, values in options.items()}
        diverged, arm = sum(run.diverged for run in alike), _arm(alike, metric, moves, alike[0].dataset in unfair)
        groups.append(Group(0, settings, alike[0].dataset, alike, diverged, arm))
    return groups


def chose_unequally(runs: Sequence[FinishedRun], metric: str) -> set[str]:
    """Return the data sets whose runs have chosen their best among different numbers of epochs by what `metric` is of.

    The best of 50 epochs is luckier than the best of 5, by nothing but their number.
    """
    counts = defaultdict(set)
    for run in runs:
        if metric.startswith("val_") and metric in run.scores:
            counts[run.dataset].add(len(run.epochs))
    return {dataset for dataset, some in counts.items() if len(some) > 1}


def _arm(runs: Sequence[FinishedRun], metric: str, moves: Mapping[FinishedRun, np.ndarray], is_unfair: bool) -> Arm:
    """Return what came out of runs that are one group; `is_unfair`: others had more or less epochs."""
    of_seed = defaultdict(list)
    for run in runs:
        if metric in run.scores:
            of_seed[repeat_of(run)].append(run)
    overlap = float(np.mean([run.overlap for run in runs]))
    values = {seed: float(np.mean([run.scores[metric] for run in same])) for seed, same in of_seed.items()}
    known = {seed: np.mean([moves[run] for run in same], axis=0)
             for seed, same in of_seed.items() if all(run in moves for run in same)}  # fmt: skip
    curves = _curves(of_seed, "val_accuracy"), _curves(of_seed, metric)
    if not is_unfair or len(of_seed) < 2 or not all(curve.size for curve in curves):
        return Arm(values, known, overlap=overlap)
    # An epoch number is part of a recipe: one for all seeds, so that the more there are the less luck is in it.
    epoch = int(curves[0].mean(axis=0).argmax())
    values = dict(zip(values, curves[1][:, epoch].tolist(), strict=True))
    sign = -1 if LOWER_IS_BETTER.search(metric) else 1
    return Arm(values, known, curves[1].shape[1], sign * luck_of_choosing(curves[1], overlap), overlap)


def repeat_of(run: FinishedRun) -> str:
    """Return what tells a run from the others of its group: its fold, with what has divided the images, or its seed."""
    divided = key_of(run.options.get("split_seed"))
    return f"fold {run.fold} of split_seed {divided}" if run.fold else key_of(run.seed)


def _curves(of_seed: Mapping[str, Sequence[FinishedRun]], name: str) -> np.ndarray:
    """Return (seeds, epochs) of what all the runs have been through, of runs of one seed their mean; else empty."""
    count = min((len(run.epochs) for same in of_seed.values() for run in same), default=0)
    curves = [[[record.get(name, np.nan) for record in run.epochs[:count]] for run in same]
              for same in of_seed.values()]  # fmt: skip
    curves = np.array([np.mean(same, axis=0) for same in curves])
    return curves if np.isfinite(curves).all() else np.empty(0)


def differing_options(runs: Sequence[FinishedRun]) -> dict[str, dict]:
    """Return the options that have more than one value: name -> run -> value.

    A run that is older than an option counts as having it switched off. What another script does not know at all is
    no difference in itself: the name of the script says it.
    """
    known = defaultdict(dict)  # script -> option -> what it is where it is switched off
    for run in runs:
        for name, value in run.options.items():
            is_off = value in (None, False, 0, [], "none")
            if name not in known[run.script] or is_off:
                known[run.script][name] = value if is_off else UNKNOWN
    differing = {}
    for name in dict.fromkeys(name for run in runs for name in run.options if name not in NO_DIFFERENCE):
        values = {run: run.options.get(name, known[run.script].get(name, UNKNOWN)) for run in runs}
        if len({key_of(value) for run, value in values.items() if name in known[run.script]}) > 1:
            differing[name] = values
    return differing


def key_of(value) -> str:
    """Return a text that is equal for equal values of an option: 1 is 1.0, but not True."""
    if value is UNKNOWN:
        return ""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        value = float(value)
    return json.dumps(value, sort_keys=True)


def shown(value) -> str:
    """Return the value of an option as a person would write it."""
    if value is UNKNOWN:
        return NOTHING
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def words(settings: dict[str, str], names: Iterable[str]) -> str:
    """Return the settings of these names as one says them: the values of script and data set need no names."""
    said = [settings[name] if name in ("script", "dataset") else f"{name} {settings[name]}" for name in names]
    return ", ".join(word for word in said if not word.endswith(f" {NOTHING}")) or "all alike"


def short_names(groups: Sequence[Group]) -> list[str]:
    """Return names of groups with nothing in them that is the same in all."""
    differing = [name for name in groups[0].settings if len({group.settings[name] for group in groups}) > 1]
    names = []
    for group in groups:
        short = {name: printable(value, LONGEST_VALUE, keep_end=True) if "/" in value else value
                 for name, value in group.settings.items()}  # fmt: skip
        names.append(f"{group.number}: {group.name or words(short, differing)}")
    return names
