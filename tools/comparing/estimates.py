"""What a few seeds tell of a recipe, and of the difference of two: with an interval, on new seeds and on new images.

Folds of a cross-validation stand where seeds do, but their training images overlap: n values vary as if they had a part
in common, so that the variance of their mean is s^2 (1 / n + overlap), where the overlap is the number of validation
images for each training image (Nadeau, Bengio: "Inference for the Generalization Error", Machine Learning 52, 2003).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from scipy import special, stats

LEVEL, POWER = 0.05, 0.8  # two-sided; how often a true difference is to be seen
MOST_SEEDS = 10_000
TINY = 1e-12  # what is smaller is a rounding error


@dataclass(frozen=True)
class Arm:
    """What came out of one recipe, by seed.

    `moves` has, of each seed, how much each image moves its value: the infinitesimal jackknife (Jaeckel, 1972), which
    for an accuracy is (correct - accuracy) / images. All arms number the images alike; an image that a seed has not
    seen moves nothing. It is None where predictions are missing.
    """

    values: Mapping[str, float]
    moves: Mapping[str, np.ndarray] | None = None
    epochs: int = 1  # among which the one was chosen that it is judged at, as far as that matters
    luck: float = 0.0  # what choosing among so many may have added to the mean
    overlap: float = 0.0  # of folds, of which there is a value each then: validation images for each training image


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or the difference of two, and how far it may be off.

    The error has two parts: `of_seeds` is the variance that more seeds lower, `of_images` the one that they do not,
    because they were judged on the same images. Both are None where one seed alone allows no test.
    """

    value: float
    seeds: tuple[int, ...]  # of each side; of a pair by seed those that both have
    of_seeds: float | None = None
    freedom: float = 0.0  # degrees of freedom of `of_seeds`
    of_images: float | None = None  # None too where the predictions are missing
    of_one_seed: float = 0.0  # what `of_seeds` would be with one seed on each side
    luck: float = 0.0  # how much of the value an unequal choice of epochs may have made, at most
    are_folds: tuple[bool, ...] = ()  # of each side, whether what is called seeds here are folds

    @property
    def is_paired(self) -> bool:
        """Whether it is of one sample: differences by seed, or the values of one recipe."""
        return len(self.seeds) == 1

    @property
    def has_test(self) -> bool:
        """Whether there is a spread to judge it by."""
        return self.of_seeds is not None and self.of_seeds > TINY**2

    @property
    def error(self) -> float:
        """The standard error: of seeds and of images together."""
        return math.sqrt(self.of_seeds + (self.of_images or 0.0))

    @property
    def all_freedom(self) -> float:
        """The degrees of freedom of the error: those of the seeds, and more the more of it the many images make.

        Satterthwaite (1946) has the square of this ratio, with which intervals of 3 seeds are too short: the error of
        the seeds is then often underestimated, and the ratio too high.
        """
        return self.freedom * self.error**2 / self.of_seeds

    def p(self) -> float | None:
        """Return the two-sided p-value of a value that is 0 but for luck: Student's t; None if there is no test."""
        if not self.has_test:
            return None
        low, high = sorted((0.0, self.luck))
        return float(2 * special.stdtr(self.all_freedom, -max(self.value - high, low - self.value, 0.0) / self.error))

    def p_equivalent(self, margin: float) -> float | None:
        """Return the p-value of being `margin` or more away from 0: two one-sided tests (Schuirmann, 1987)."""
        if not self.has_test:
            return None
        farthest = max(abs(self.value), abs(self.value - self.luck))
        return float(special.stdtr(self.all_freedom, (farthest - margin) / self.error))

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Return what has the true value within it in all but the share `level` of all cases; None without a test."""
        if not self.has_test:
            return None
        reach = float(special.stdtrit(self.all_freedom, 1 - level / 2)) * self.error
        return self.value - max(self.luck, 0.0) - reach, self.value - min(self.luck, 0.0) + reach


def mean(arm: Arm) -> Estimate:
    """Return the mean over seeds."""
    values, moves = list(arm.values.values()), _moves(arm, arm.values)
    return _of_one_sample(values, moves, arm.overlap)


def interval_of_mean(arm: Arm) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean for new seeds and images, never narrower than that for new seeds alone.

    With 2 or 3 seeds it can be narrower by itself: images add more degrees of freedom than error (see `all_freedom`).
    """
    both = mean(arm)
    ends = [one.interval() for one in (both, replace(both, of_images=None))]
    return None if None in ends else (min(low for low, _ in ends), max(high for _, high in ends))


def luck_of_choosing(curves: np.ndarray, overlap: float = 0.0) -> float:
    """Return at most how much the mean over seeds gains by being that of the best epoch: curves (seeds, epochs).

    The largest of so many independent normal numbers (Blom, 1958) is so many standard deviations above their mean; the
    epochs of a run resemble each other, which makes it less (Slepian, 1962). The deviation is that of an epoch's mean
    over seeds, by the seeds, from which what a seed has in all epochs is taken away: it favors none. `overlap` is that
    of folds.
    """
    seeds, epochs = curves.shape
    if min(seeds, epochs) < 2:
        return 0.0
    spread = np.median((curves - curves.mean(axis=1, keepdims=True)).std(axis=0, ddof=1))
    return float(special.ndtri((epochs - 0.375) / (epochs + 0.25)) * spread * math.sqrt(1 / seeds + overlap))


def difference(one: Arm, other: Arm) -> Estimate:
    """Return `one` - `other`, with the luck of the one that had more epochs to choose among."""
    luck = one.luck if one.epochs > other.epochs else -other.luck if one.epochs < other.epochs else 0.0
    return replace(_difference(one, other), luck=luck)


def _difference(one: Arm, other: Arm) -> Estimate:
    """Return `one` - `other`: of the seeds that both have, if there are two or more, for these met the same images.

    Else it is the difference of the means, whatever the variances (Welch, 1947).
    """
    shared = [seed for seed in one.values if seed in other.values]
    ours, theirs = _moves(one, shared), _moves(other, shared)
    if len(shared) > 1:
        moves = None if ours is None or theirs is None else ours - theirs
        values = [one.values[seed] - other.values[seed] for seed in shared]
        return _of_one_sample(values, moves, max(one.overlap, other.overlap))
    sides = mean(one), mean(other)
    value, seeds = sides[0].value - sides[1].value, (len(one.values), len(other.values))
    parts, folds = [side.of_seeds for side in sides], sides[0].are_folds + sides[1].are_folds
    if None in parts or sum(parts) < TINY**2:
        return Estimate(value, seeds, are_folds=folds)
    freedom = sum(parts) ** 2 / sum(part**2 / (count - 1) for part, count in zip(parts, seeds, strict=True))
    of_images, of_one_seed = _image_variance_of_two(one, other), sum(side.of_one_seed for side in sides)
    return Estimate(value, seeds, sum(parts), freedom, of_images, of_one_seed, are_folds=folds)


def _of_one_sample(values: Sequence[float], moves: np.ndarray | None, overlap: float) -> Estimate:
    """Return the mean of the values of some seeds, or folds with an `overlap`; `moves` (seeds, images)."""
    count, value, folds = len(values), math.fsum(values) / len(values), (overlap > 0,)
    if count < 2:
        return Estimate(value, (count,), are_folds=folds)
    variance = math.fsum((one - value) ** 2 for one in values) / (count - 1)
    of_images = None if moves is None else _image_variance(moves)
    of_seeds = variance * (1 / count + overlap)
    return Estimate(value, (count,), of_seeds, count - 1, of_images, variance, are_folds=folds)


def _image_variance(moves: np.ndarray) -> float:
    """Return the mean covariance that two seeds have through the images that they share.

    The variance of the values over seeds is too small by just that: what the images do to all of them alike it does not
    show. With the same images for all seeds, that plus this is the variance of a mean in a crossed layout of seeds and
    images with both at random (Searle, Casella, McCulloch, 1992). With other images for each seed this is 0.
    """
    count, together = len(moves), moves.sum(axis=0)
    return max(0.0, float(together @ together - np.vdot(moves, moves)) / (count * (count - 1)))


def _image_variance_of_two(one: Arm, other: Arm) -> float | None:
    """Return the same of a difference of means: the covariances within the arms less those between them."""
    ours, theirs = _moves(one, one.values), _moves(other, other.values)
    if ours is None or theirs is None:
        return None
    between = float(ours.mean(axis=0) @ theirs.mean(axis=0))
    return max(0.0, _image_variance(ours) + _image_variance(theirs) - 2 * between)


def _moves(arm: Arm, seeds: Sequence[str]) -> np.ndarray | None:
    if arm.moves is None or not seeds or any(seed not in arm.moves for seed in seeds):
        return None
    return np.stack([arm.moves[seed] for seed in seeds])


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values that are corrected for their number (Holm, 1979); those that are None stay None."""
    ranked = sorted(p for p in p_values if p is not None)
    raised = [min(1.0, p * (len(ranked) - rank)) for rank, p in enumerate(ranked)]
    corrected = dict(zip(ranked, accumulate(raised, max), strict=True))  # none is below that of a smaller p
    return [corrected.get(p) for p in p_values]


def mcnemar(only_one: int, only_other: int) -> float:
    """Return McNemar's exact p-value (1947); on so many images only the one, only the other network is correct."""
    total = only_one + only_other
    return float(stats.binomtest(only_one, total).pvalue) if total else 1.0


def seeds_needed(estimate: Estimate, value: float | None = None) -> int | None:
    """Return how many seeds (of each side) see a difference of `value`, or the one found, in 80 % of all cases.

    In a t-test of these two alone, at the spread that was found. None if the images are too few for any number of
    seeds, or if more than MOST_SEEDS are needed; and of folds, which are of a number that is part of the question.
    """
    value = abs(estimate.value if value is None else value)
    if not estimate.has_test or value < TINY or any(estimate.are_folds):
        return None
    sides = len(estimate.seeds)

    def power(count: int) -> float:
        one = Estimate(value, (), estimate.of_one_seed / count, sides * (count - 1), estimate.of_images)
        limit = special.stdtrit(one.all_freedom, 1 - LEVEL / 2)
        return float(stats.nct.sf(limit, one.all_freedom, value / one.error))

    if power(MOST_SEEDS) < POWER:
        return None
    low, high = 1, MOST_SEEDS  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def interval_of_seeds_needed(estimate: Estimate) -> tuple[int | None, int | None]:
    """Return the 95 % interval of `seeds_needed`, None for no end: from that of the difference in units of its error.

    The latter by the noncentral t distribution (Steiger, Fouladi, 1997); the difference itself is as uncertain as the
    spread is, so the interval is wide.
    """
    if not estimate.has_test:
        return None, None
    ratio = abs(estimate.value) / estimate.error
    least, most = (float(special.nctdtrinc(estimate.all_freedom, p, ratio)) for p in (1 - LEVEL / 2, LEVEL / 2))
    few = seeds_needed(estimate, most * estimate.error)
    return few, seeds_needed(estimate, least * estimate.error) if least > 0 else None
