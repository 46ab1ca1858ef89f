"""Several runs together: which is best, in what groups they fall, what to know before comparing them."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.options.types import nearest
from common.system.errors import BadInput
from tools.comparing.contrasts import Contrast, Effect, find_contrasts
from tools.comparing.effects import find_effects
from tools.comparing.finished_runs import FinishedRun, PassedOver
from tools.comparing.groups import (
    LOWER_IS_BETTER,
    NO_DIFFERENCE,
    Group,
    chose_unequally,
    differing_options,
    group_by_seed,
    key_of,
    shown,
)
from tools.comparing.predictions import Mistakes, Told


@dataclass(frozen=True)
class Question:
    """What a person wants to know of the runs."""

    metric: str
    by: tuple[str, ...] = ()  # options whose effects are told
    baseline: str | None = None  # what all others are compared with, instead of the best
    margin: float | None = None  # differences below it do not matter
    names: tuple[str, ...] = ()  # "GROUP=NAME" of groups that a person calls something


@dataclass(frozen=True)
class Overview:
    """All that is known of the runs together; `runs` and `groups` are sorted, the best first, those without last."""

    runs: list[FinishedRun]
    metric: str
    options: dict[str, dict]  # those that differ -> run -> value, UNKNOWN where it has none
    groups: list[Group]
    notes: list[str]
    contrasts: list[Contrast]
    effects: list[Effect]
    mistakes: dict[FinishedRun, Mistakes]  # of those runs that tell them
    passed: list[PassedOver]

    def group_of(self, run: FinishedRun) -> Group:
        """Return the group of one of the runs."""
        return next(group for group in self.groups if run in group.runs)


def compare(runs: Sequence[FinishedRun], question: Question, told: Told, passed: list[PassedOver]) -> Overview:
    """Sort the runs by the metric, group those that differ in the seed or fold alone, and contrast the groups."""
    metric, lower = question.metric, bool(LOWER_IS_BETTER.search(question.metric))
    runs = sorted(runs, key=lambda run: _rank(run.scores.get(metric), lower))
    options = differing_options(runs)
    groups = group_by_seed(runs, options, metric, told.moves)
    groups = sorted(groups, key=lambda group: _rank(group.mean, lower))
    groups = [replace(group, number=number) for number, group in enumerate(groups, 1)]
    groups = named(groups, question.names)
    baseline = find_groups(groups, question.baseline, f"--baseline {question.baseline}") if question.baseline else []
    if any(not group.values for group in baseline):
        raise BadInput(f"--baseline {question.baseline}: no run of it has {question.metric}")
    contrasts = find_contrasts(groups, told.mistakes, baseline, question.margin)
    effects = find_effects(groups, question.by, baseline, question.margin) if len(options) > 1 else []
    notes = [*_notes(runs, groups, metric), *_notes_on_luck(runs, groups, contrasts, metric), *told.doubts]
    passed = [*passed, *told.passed]
    return Overview(runs, metric, options, groups, notes, contrasts, effects, told.mistakes, passed)


def named(groups: Sequence[Group], names: Sequence[str]) -> list[Group]:
    """Return the groups with the names that people gave them: by each "GROUP=NAME", or as the question of their runs.

    GROUP is what `find_groups` takes; the name is what stands behind the last "=".
    """
    name_of = {}
    for text in names:
        what, _, name = text.rpartition("=")
        if not what or not name.strip():
            raise BadInput(f"--name {text}: it must be GROUP=NAME, such as lr=0.01=high or the folder of a run=mine")
        for group in find_groups(groups, what, f"--name {text}"):
            if group in name_of:
                raise BadInput(f"--name {text}: that group is called {name_of[group]} already")
            name_of[group] = name.strip()
    asked = {group: {run.options.get("question") for run in group.runs} for group in groups}
    for group, labels in asked.items():
        is_its_own = list(asked.values()).count(labels) == 1
        if len(labels) == 1 and is_its_own and isinstance(label := next(iter(labels)), str):
            name_of.setdefault(group, label)
    return [replace(group, name=name_of.get(group, "")) for group in groups]


def find_groups(groups: Sequence[Group], text: str, option: str) -> list[Group]:
    """Return the group of each data set that is meant by the folder of one of its runs or by `option=value,…`.

    Raise BadInput, in a text that begins with `option`, if there is none, or more than one of a data set.
    """
    folder = Path(text).resolve()
    found = [group for group in groups if any(run.folder.resolve() == folder for run in group.runs)]
    if not found:
        wanted = _wanted(groups, text, option)
        found = [
            group for group in groups
            if group.values and all(_is_same(group.settings[name], value) for name, value in wanted.items())
        ]  # fmt: skip
    for dataset, count in Counter(group.dataset for group in found).items():
        if count > 1:
            options = ", ".join(found[0].settings)
            raise BadInput(f"{option}: {count} groups of {dataset} are so; say more of {options}")
    if not found:
        raise BadInput(f"{option}: no group is so; compare.csv of a comparison without it has all groups")
    return found


def _wanted(groups: Sequence[Group], text: str, option: str) -> dict[str, str]:
    """Return what `option=value,…` asks for, by name."""
    wanted = {}
    for part in re.split(r",(?=[\w-]+=)", text):
        name, sign, value = part.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not sign:
            raise BadInput(f"{option}: neither the folder of a run that is compared nor option=value")
        if name not in groups[0].settings:
            known = list(groups[0].settings)
            what = f"{nearest(name, known)}; these differ: {', '.join(known) or 'none'}"
            raise BadInput(f"{option}: {name} does not differ between the runs{what}")
        wanted[name] = value.strip()
    return wanted


def _is_same(setting: str, value: str) -> bool:
    """Tell whether a setting is what a person means by `value`; a list is typed without brackets."""
    setting, value = (text.strip("[]").replace(", ", ",") for text in (setting, value))
    try:
        return float(setting) == float(value)
    except ValueError:
        return setting.lower() == value.lower()


def check_metric(runs: Sequence[FinishedRun], metric: str) -> None:
    """Make sure that runs can be sorted by `metric`: raise BadInput if none has it."""
    names = sorted({name for run in runs for name in run.scores})
    if metric not in names:
        raise BadInput(f"--metric {metric}: no run has it{nearest(metric, names)}; there are {', '.join(names)}")


def options_to_draw(runs: Sequence[FinishedRun], by: Sequence[str]) -> tuple[str, ...]:
    """Return the options that results are drawn against: those of `by`, or the only one that differs, or none.

    Raise BadInput if one of `by` does not differ.
    """
    options = differing_options(runs)
    words = [word for words in by for word in words.split(",") if word.strip()]
    if not words:
        return tuple(options) if len(options) == 1 else ()
    return tuple(dict.fromkeys(_option(runs, options, word.strip()) for word in words))


def _option(runs: Sequence[FinishedRun], options: dict[str, dict], by: str) -> str:
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
    differing = [run for run in runs if _is_of_copies(run)]
    if differing:
        with_copies, without = (differing[0].scores[name] for name in ("test_accuracy", "accuracy_without_copies"))
        notes.append(
            f"test_accuracy of {len(differing)} run(s) is further from accuracy_without_copies than its interval is "
            f"wide to either side: copies of training or validation images made it, such as {with_copies:.4f} instead "
            f"of {without:.4f} in {differing[0].label}"
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
        notes.append(
            f"{repeats} run(s) repeat a seed of their group, or a fold: it counts once, as the mean of its runs"
        )
    return notes


def _is_of_copies(run: FinishedRun) -> bool:
    """Tell whether copies move the test accuracy of a run by more than half the width of its interval."""
    names = ("test_accuracy", "accuracy_without_copies", "test_low", "test_high")
    if not all(name in run.scores for name in names):
        return False
    accuracy, without, low, high = (run.scores[name] for name in names)
    return abs(accuracy - without) > (high - low) / 2


def _notes_on_luck(
    runs: Sequence[FinishedRun], groups: Sequence[Group], contrasts: Sequence[Contrast], metric: str
) -> list[str]:
    """Return what a person must know of how the groups were chosen and judged."""
    notes = []
    for dataset in sorted(chose_unequally(runs, metric)):
        some = [group for group in groups if group.dataset == dataset]
        alone = [group for group in some if len(group.values) == 1]
        notes.append(
            f"{dataset}: the runs had different numbers of epochs to choose among, so a group is judged "
            f"at the one epoch where its mean is best, and what luck may add to the longer ones is taken off"
        )
        if alone:
            notes[-1] += f"; {len(alone)} group(s) of one seed keep the best of their epochs, which is too good"
    for against in dict.fromkeys(one.against for one in contrasts):
        first = next(group for group in groups if group.dataset == against.dataset)
        if len(first.values) == 1 and len(against.values) > 1:
            notes.append(
                f"group {first.number} has one seed, which may be a lucky one: the others are compared with group "
                f"{against.number}, the best of several seeds"
            )
    return notes
