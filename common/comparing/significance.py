"""Whether a difference is significant, and how many seeds it would take to tell."""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from scipy import stats

LEVEL, POWER = 0.05, 0.8  # two-sided; how often a true difference is to be seen
MOST_SEEDS = 10_000


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the mean of normal values (Student, 1908), None of less than two."""
    if len(values) < 2:
        return None
    margin = stats.t.ppf(1 - LEVEL / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - margin), float(np.mean(values) + margin)


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
    """Return the exact p-value of two classifiers that are equally often correct (McNemar, 1947).

    It takes on how many images only the one, only the other is correct.
    """
    total = only_one + only_other
    return float(stats.binomtest(only_one, total).pvalue) if total else 1.0


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values that are corrected for their number (Holm, 1979); those that are None stay None."""
    ranked = sorted(p for p in p_values if p is not None)
    raised = [min(1.0, p * (len(ranked) - rank)) for rank, p in enumerate(ranked)]
    corrected = dict(zip(ranked, accumulate(raised, max), strict=True))  # none is below that of a smaller p
    return [corrected.get(p) for p in p_values]
