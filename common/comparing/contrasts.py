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
    """Two networks on the same test images: on how many each alone is correct, and McNemar's p-value."""

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
        differing = [name for name, value in self.best.settings.items() if self.other.settings[name] != value]
        sides = [f"group {one.number} ({words(one.settings, differing)})" for one in (self.best, self.other)]
        return " against ".join(sides)

    @property
    def is_significant(self) -> bool:
        """Whether the means differ significantly."""
        return self.corrected_p is not None and self.corrected_p < LEVEL


def find_contrasts(groups: Sequence[Group], mistakes: dict[FinishedRun, Mistakes]) -> list[Contrast]:
    """Return the contrasts of the best group of each data set, which comes first, with each other group of it."""
    contrasts = []
    for dataset in dict.fromkeys(group.dataset for group in groups):
        best, *others = [group for group in groups if group.dataset == dataset and group.values] or [None]
        p_values = [welch(best.values, other.values) for other in others]
        for other, p, corrected in zip(others, p_values, holm(p_values), strict=True):
            seeds, pairs = seeds_needed(best.values, other.values), _pairs(best, other, mistakes)
            contrasts.append(Contrast(best, other, best.mean - other.mean, p, corrected, seeds, pairs))
    return contrasts


def verdict(one: Contrast, metric: str) -> str:
    """Return in words whether the difference of the two groups is significant, and what it would take."""
    counts = f"{len(one.best.values)} and {len(one.other.values)} seeds"
    chance = "" if one.p is None else f", Welch {_p(one.p)}, corrected {_p(one.corrected_p)}"
    return f"{metric} {one.difference:+.4f} with {counts}{chance}: {_judgment(one)}"


def network_verdict(one: Contrast) -> str:
    """Return in words what McNemar's test says of the networks, which is less than what there is to say of recipes."""
    if not one.pairs:
        return "they were not tested on the same images"
    if len(one.pairs) == 1:
        [pair] = one.pairs
        what = "significant" if pair.p < LEVEL else "not significant"
        return (
            f"of {pair.images:,} test images {pair.only_best} are correct in the one network alone, "
            f"{pair.only_other} in the other alone (McNemar {_p(pair.p)}): {what}"
        )
    significant = sum(pair.p < LEVEL for pair in one.pairs)
    counts = f"{significant} of {len(one.pairs)} pairs of one seed"
    return f"in {counts} the networks differ significantly (McNemar, median {_p(np.median([p.p for p in one.pairs]))})"


def _pairs(best: Group, other: Group, mistakes: dict[FinishedRun, Mistakes]) -> list[Pair]:
    """Return the pairs of one seed, the best run of each; without any, the best run of each group."""
    runs = [[run for run in group.runs if run in mistakes] for group in (best, other)]  # sorted, the best first
    ones, others = ({key_of(run.seed): mistakes[run] for run in reversed(side)} for side in runs)
    candidates = [(ones[seed], others[seed]) for seed in ones if seed in others]
    if not candidates and all(runs):
        candidates = [[mistakes[side[0]] for side in runs]]
    pairs = []
    for one, two in candidates:
        if one.images == two.images:
            only = int((one.correct & ~two.correct).sum()), int((two.correct & ~one.correct).sum())
            pairs.append(Pair(len(one.correct), *only, mcnemar(*only)))
    return pairs


def _judgment(one: Contrast) -> str:
    sizes = len(one.best.values), len(one.other.values)
    fewest = min(sizes)
    if one.is_significant:
        return "significant"
    if abs(one.difference) < 1e-12:
        return "the means are equal"
    if fewest > 1 and one.p is None:
        return "every seed gave the same, so there is no spread to judge it by"
    if fewest > 1:
        count = " and ".join(map(str, dict.fromkeys(sizes)))
        enough = f"about {max(one.seeds, fewest + 1):,}" if one.seeds else "thousands of"
        return f"not significant at n = {count}; it would take {enough} seeds each"
    if one.seeds:
        return f"one seed allows no test; it would take about {one.seeds:,} seeds each"
    return f"one seed allows no test; begin with {ENOUGH_SEEDS} seeds each, which show the spread"


def _p(value: float) -> str:
    return f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"
