"""Several runs together: which is best, in what groups they fall, what to know before comparing them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.options.types import nearest
from common.system.errors import BadInput
from tools.comparing.contrasts import Contrast, find_contrasts
from tools.comparing.finished_runs import FinishedRun, Mistakes, PassedOver
from tools.comparing.groups import NO_DIFFERENCE, Group, differing_options, group_by_seed, key_of, shown

LOWER_IS_BETTER = re.compile("loss|error|time|seconds|memory|parameters|flops|power")


@dataclass(frozen=True)
class Overview:
    """All that is known of the runs together; `runs` and `groups` are sorted, the best first, those without last."""

    runs: list[FinishedRun]
    metric: str
    options: dict[str, dict]  # those that differ -> run -> value, UNKNOWN where it has none
    groups: list[Group]
    notes: list[str]
    contrasts: list[Contrast]
    mistakes: dict[FinishedRun, Mistakes]  # of those runs that tell them
    passed: list[PassedOver]

    def group_of(self, run: FinishedRun) -> Group:
        """Return the group of one of the runs."""
        return next(group for group in self.groups if run in group.runs)


def compare(
    runs: Sequence[FinishedRun], metric: str, mistakes: dict[FinishedRun, Mistakes], passed: list[PassedOver]
) -> Overview:
    """Sort the runs by `metric`, group those that differ in the seed alone, and contrast the groups."""
    lower = bool(LOWER_IS_BETTER.search(metric))
    runs = sorted(runs, key=lambda run: _rank(run.scores.get(metric), lower))
    options = differing_options(runs)
    groups = sorted(group_by_seed(runs, options, metric), key=lambda group: _rank(group.mean, lower))
    groups = [replace(group, number=number) for number, group in enumerate(groups, 1)]
    contrasts = find_contrasts(groups, mistakes)
    return Overview(runs, metric, options, groups, _notes(runs, groups, metric), contrasts, mistakes, passed)


def check_metric(runs: Sequence[FinishedRun], metric: str) -> None:
    """Make sure that runs can be sorted by `metric`: raise BadInput if none has it."""
    names = sorted({name for run in runs for name in run.scores})
    if metric not in names:
        raise BadInput(f"--metric {metric}: no run has it{nearest(metric, names)}; there are {', '.join(names)}")


def option_to_draw(runs: Sequence[FinishedRun], by: str | None) -> str | None:
    """Return the option that results are drawn against: `by`, or the only one that differs, or None.

    Raise BadInput if `by` does not differ.
    """
    options = differing_options(runs)
    if by is None:
        return next(iter(options)) if len(options) == 1 else None
    name = by.lstrip("-").replace("-", "_")
    if name in options:
        return name
    differing = f"; these differ: {', '.join(options) or 'none'}"
    values = [run.options[name] for run in runs if name in run.options]
    if not values:
        known = sorted({name for run in runs for name in run.options})
        raise BadInput(f"--by {by}: no run has such an option{nearest(name, known)}{differing}")
    if name in NO_DIFFERENCE:
        raise BadInput(f"--by {by}: this option does not make runs different{differing}")
    raise BadInput(f"--by {by}: it is {shown(values[0])} in all runs that know it{differing}")


def _rank(value: float | None, lower: bool) -> tuple[bool, float]:
    return (True, 0.0) if value is None else (False, value if lower else -value)


def _notes(runs: Sequence[FinishedRun], groups: Sequence[Group], metric: str) -> list[str]:
    """Return what a person must know before comparing."""
    notes = []
    if any(metric in run.of_test for run in runs):
        notes.append(f"{metric} is of the test images: whoever chooses by it has no honest estimate left of the chosen")
    tested = sum("test_accuracy" in run.scores for run in runs)
    if tested > 1:
        advice = "choose by validation, and report the test of the one that was chosen"
        notes.append(
            f"test accuracies of {tested} runs stand beside each other: the best of them is so by luck, too; {advice}"
        )
    datasets = sorted({run.dataset for run in runs})
    if len(datasets) > 1:
        notes.append(f"{len(datasets)} data sets ({', '.join(datasets)}): their scores say nothing about each other")
    splits = defaultdict(dict)  # what makes splits equal -> split -> the first run that had it
    for run in runs:
        # The images are told apart as they were stored, so those of another size are others.
        same = [run.seed, run.options.get("limit"), run.config.get("stored_size"), run.fold]
        splits[(run.dataset, *map(key_of, same))].setdefault(str(run.config.get("split_sha256")), run.label)
    for (dataset, *_), label_of in splits.items():
        if len(label_of) > 1:
            two = " and ".join(list(label_of.values())[:2])
            what = f"runs of one seed have not had the same images (split_sha256), such as {two}"
            notes.append(f"{dataset}: {what}; that comparison is not fair")
    commits = {run.config.get("git_commit") for run in runs if isinstance(run.config.get("git_commit"), str)}
    if len(commits) > 1:
        notes.append(f"the runs were made by {len(commits)} states of the code (git_commit in config.json)")
    repeats = sum(metric in run.scores for run in runs) - sum(len(group.values) for group in groups)
    if repeats:
        notes.append(f"{repeats} run(s) repeat a seed of their group: one seed counts once, as the mean of its runs")
    return notes
