"""Whether the best group of runs is really better than another one: over seeds, and on the same images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from scipy import stats

from tools.comparing.finished_runs import FinishedRun, Mistakes
from tools.comparing.groups import Group, key_of, words

LEVEL, POWER = 0.05, 0.8  # two-sided; how often a true difference is to be seen
ENOUGH_SEEDS = 3  # what one does without any knowledge of the spread
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Pair:
    """Two networks on the same images: on how many each alone is correct, and McNemar's p-value."""

    images: int
    kind: str  # "validation" or "test"
    only_best: int
    only_other: int
    p: float


@dataclass(frozen=True)
class Contrast:
    """The best group of a data set against another one; None is what cannot be known."""

    best: Group
    other: Group
    difference: float  # best - other
    p: float | None  # Welch's
    corrected_p: float | None  # for the number of contrasts of the data set (Holm)
    seeds: int | None  # that each side would need
    pairs: list[Pair]  # of equal seeds

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
        return "there are no images that both have been looked at on"
    if len(one.pairs) == 1:
        [pair] = one.pairs
        what = "significant" if pair.p < LEVEL else "not significant"
        alone = f"{pair.only_best} are correct in the one network alone, {pair.only_other} in the other alone"
        return f"of {pair.images:,} {pair.kind} images {alone} (McNemar {_p(pair.p)}): {what}"
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
            pairs.append(Pair(len(one.correct), one.kind, *only, mcnemar(*only)))
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


def welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the p-value of equal means, whatever the variances (Welch, 1947); None without any spread to test by."""
    if min(len(one), len(other)) < 2 or max(np.std(one), np.std(other)) < 1e-12:
        return None
    return float(stats.ttest_ind(one, other, equal_var=False).pvalue)


def seeds_needed(one: Sequence[float], other: Sequence[float]) -> int | None:
    """Return how many seeds each side needs so that a t-test sees the difference of the means in 80 % of all cases.

    The spread is that of the sides that have two values or more. None if no side has, if there is no spread or no
    difference, or if more than MOST_SEEDS are needed.
    """
    variances = [np.var(values, ddof=1) for values in (one, other) if len(values) > 1] or [0.0]
    difference, spread = abs(np.mean(one) - np.mean(other)), math.sqrt(np.mean(variances))
    if min(difference, spread) < 1e-12:
        return None

    def power(count: int) -> float:
        freedom = 2 * count - 2
        return stats.nct.sf(stats.t.ppf(1 - LEVEL / 2, freedom), freedom, difference / spread * math.sqrt(count / 2))

    # The normal approximation is never more than a few seeds too low; where it is large it is all one needs.
    quantiles = stats.norm.ppf([1 - LEVEL / 2, POWER]).sum()
    count = max(2, math.ceil(2 * (quantiles * spread / difference) ** 2))
    while count < 100 and power(count) < POWER:
        count += 1
    return count if count <= MOST_SEEDS else None


def mcnemar(only_one: int, only_other: int) -> float:
    """Return McNemar's exact p-value (1947); on so many images only the one, only the other network is correct."""
    total = only_one + only_other
    return float(stats.binomtest(only_one, total).pvalue) if total else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values that are corrected for their number (Holm, 1979); those that are None stay None."""
    ranked = sorted(p for p in p_values if p is not None)
    raised = [min(1.0, p * (len(ranked) - rank)) for rank, p in enumerate(ranked)]
    corrected = dict(zip(ranked, accumulate(raised, max), strict=True))  # none is below that of a smaller p
    return [corrected.get(p) for p in p_values]
