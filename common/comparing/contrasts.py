"""Whether the best group of runs is really better than another one: over seeds, and on the test images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.comparing.finished_runs import FinishedRun
from common.comparing.groups import Group, key_of, words
from common.comparing.mistakes import Mistakes
from common.comparing.significance import LEVEL, holm, mcnemar, seeds_needed, welch

ENOUGH_SEEDS = 3  # what one does without any knowledge of the spread


@dataclass(frozen=True)
class Pair:
    """Two networks on the same test images: on how many each alone is right, and McNemar's p-value."""

    best: FinishedRun
    other: FinishedRun
    images: int
    only_best: int
    only_other: int
    p: float


@dataclass(frozen=True)
class Contrast:
    """The best group of a data set against another one.

    `difference` is best - other. `p` is Welch's, `corrected_p` the same corrected for the number of contrasts of the
    data set (Holm). `seeds` is how many each side would need; None where that is unknown. `pairs` are of equal seeds.
    """

    best: Group
    other: Group
    difference: float
    p: float | None
    corrected_p: float | None
    seeds: int | None
    pairs: list[Pair]

    @property
    def title(self) -> str:
        """The two groups, by their numbers and by the settings that are not the same."""
        sides = []
        for one, two in ((self.best, self.other), (self.other, self.best)):
            differing = {name: value for name, value in one.settings.items() if two.settings.get(name) != value}
            sides.append(f"group {one.number} ({words(differing)})")
        return " against ".join(sides)

    @property
    def can_be_told(self) -> bool:
        """Whether the means differ by more than noise."""
        return self.corrected_p is not None and self.corrected_p < LEVEL


def find_contrasts(groups: Sequence[Group], mistakes: dict[str, Mistakes]) -> list[Contrast]:
    """Return the contrasts of the best group of each data set with each other group of it.

    Args:
        groups: the best first.
        mistakes: label of a run -> what is known of its test images.
    """
    contrasts = []
    for dataset in dict.fromkeys(group.dataset for group in groups):
        best, *others = [group for group in groups if group.dataset == dataset and group.values] or [None]
        p_values = [welch(best.values, other.values) for other in others]
        for other, p, corrected in zip(others, p_values, holm(p_values), strict=True):
            difference, seeds = best.mean - other.mean, seeds_needed(best.values, other.values)
            contrasts.append(Contrast(best, other, difference, p, corrected, seeds, _pairs(best, other, mistakes)))
    return contrasts


def verdict(one: Contrast, metric: str) -> str:
    """Return in words whether the two groups can be told apart, and what it would take."""
    counts = f"{len(one.best.values)} and {len(one.other.values)} seeds"
    difference = f"{metric} {one.difference:+.4f}"
    chance = "" if one.p is None else f", Welch {_p(one.p)}, corrected {_p(one.corrected_p)}"
    return f"{difference} with {counts}{chance}: {_judgement(one)}"


def network_verdict(one: Contrast) -> str:
    """Return in words what McNemar's test says of the networks, which is less than what there is to say of recipes."""
    if not one.pairs:
        return "they were not tested on the same images"
    if len(one.pairs) == 1:
        [pair] = one.pairs
        what = "these two networks differ" if pair.p < LEVEL else "these two networks cannot be told apart"
        return (
            f"of {pair.images:,} test images {pair.only_best} are right in the one alone, {pair.only_other} in the "
            f"other alone (McNemar {_p(pair.p)}): {what}"
        )
    differing = sum(pair.p < LEVEL for pair in one.pairs)
    median = float(np.median([pair.p for pair in one.pairs]))
    return f"in {differing} of {len(one.pairs)} pairs of one seed the networks differ (McNemar, median {_p(median)})"


def _pairs(best: Group, other: Group, mistakes: dict[str, Mistakes]) -> list[Pair]:
    """Return the pairs of one seed; without any, the best run of each group."""
    sides = [{}, {}]
    for side, group in zip(sides, (best, other), strict=True):
        for run in group.runs:  # sorted, so the best of each seed
            if run.label in mistakes:
                side.setdefault(key_of(run.seed), run)
    seeds = [seed for seed in sides[0] if seed in sides[1]]
    candidates = [(sides[0][seed], sides[1][seed]) for seed in seeds]
    if not candidates and all(sides):
        candidates = [(next(iter(sides[0].values())), next(iter(sides[1].values())))]
    pairs = []
    for one, two in candidates:
        first, second = mistakes[one.label], mistakes[two.label]
        if first.images == second.images:
            only_one, only_two = int((first.right & ~second.right).sum()), int((second.right & ~first.right).sum())
            pairs.append(Pair(one, two, len(first.right), only_one, only_two, mcnemar(only_one, only_two)))
    return pairs


def _judgement(one: Contrast) -> str:
    fewest = min(len(one.best.values), len(one.other.values))
    if one.can_be_told:
        return "more than noise"
    if abs(one.difference) < 1e-12:
        return "no difference"
    if fewest > 1 and one.p is None:
        return "every seed gave the same, so there is no spread to judge it by"
    if fewest > 1:
        enough = f"it would take about {max(one.seeds, fewest + 1):,}" if one.seeds else "it would take thousands of"
        return f"cannot be told from noise; {enough} seeds each"
    if one.seeds:
        return f"cannot be told from one seed; it would take about {one.seeds:,} seeds each"
    return f"cannot be told from one seed; begin with {ENOUGH_SEEDS} seeds each, which show the spread"


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"
