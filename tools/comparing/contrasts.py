"""Whether the best group of runs, or the baseline, really differs from another: over seeds, and on the same images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tools.comparing.estimates import (
    LEVEL,
    Estimate,
    difference,
    holm,
    interval_of_seeds_needed,
    mcnemar,
    seeds_needed,
)
from tools.comparing.finished_runs import FinishedRun
from tools.comparing.groups import Group, repeat_of
from tools.comparing.predictions import Mistakes

ENOUGH_SEEDS = 3  # what one does without any knowledge of the spread
SEEDS_FOR_ADVICE = 5  # with fewer the number of seeds that it would take is noise
SHARES = re.compile("accuracy|_score$")  # scores from 0 to 1
FEW_SEEDS, TOO_WIDE = 3, 0.02  # an interval of so few that reaches further than this to both sides decides nothing


@dataclass(frozen=True)
class Pair:
    """Two networks on the same images: on how many each alone is correct, and McNemar's p-value."""

    images: int
    kind: str  # "validation" or "test"
    only_one: int
    only_other: int
    p: float


@dataclass(frozen=True)
class Family:
    """Tests that are corrected together, because a false alarm in any of them would be one.

    Holm's method for contrasts that were named before. The best is chosen by its result, and would be whichever group
    is luckiest: then as many tests count as there are pairs (Bonferroni; Dunn, 1961), of which some are told.
    """

    count: int
    is_chosen: bool

    def corrected_p_values(self, estimates: Sequence[Estimate], margin: float | None) -> list[tuple]:
        """Return of each difference that is told the corrected p-values: of being 0, and of being beyond the margin."""
        both = [one.p() for one in estimates], [margin and one.p_equivalent(margin) for one in estimates]
        if not self.is_chosen:
            return list(zip(*map(holm, both), strict=True))
        return list(zip(*([p if p is None else min(1.0, p * self.count) for p in some] for some in both), strict=True))


@dataclass(frozen=True)
class Effect:
    """A difference that is told: its size, its error, and its p-values; None is what cannot be known."""

    title: str
    sides: tuple[str, str]  # in words: what something is said of, and what that is compared with
    estimate: Estimate
    family: Family
    corrected_p: float | None
    margin: float | None = None  # differences below it do not matter
    p_equivalent: float | None = None  # corrected, of the difference being as large as the margin or larger

    @property
    def label(self) -> str:
        """What a picture calls it."""
        return self.title

    @property
    def p(self) -> float | None:
        """The p-value, not corrected."""
        return self.estimate.p()

    @property
    def test(self) -> str:
        """Which test it is of."""
        test = "paired t" if self.estimate.is_paired else "Welch"
        return f"{test} corrected for training images in common" if any(self.estimate.are_folds) else test

    @property
    def is_significant(self) -> bool:
        """Whether the means differ significantly."""
        return self.corrected_p is not None and self.corrected_p < LEVEL

    @property
    def wide_interval(self) -> tuple[float, float] | None:
        """The interval that is corrected as the p-value is: all those of the family have the true values at once."""
        return self.estimate.interval(LEVEL / max(1, self.family.count))

    @property
    def equivalence(self) -> str:
        """Equivalent, different, or undecided; nothing without a margin."""
        if self.margin is None:
            return ""
        if self.p_equivalent is not None and self.p_equivalent < LEVEL:
            return "equivalent"
        return "different" if self.is_significant else "undecided"


@dataclass(frozen=True)
class Contrast(Effect):
    """Two groups of a data set: the best against each other one, or each one against the baseline."""

    one: Group = None
    other: Group = None
    against: Group = None  # which of the two is in all contrasts of the data set
    pairs: list[Pair] = field(default_factory=list)  # of equal seeds

    @property
    def change(self) -> str:
        """What is not the same in the one group, in words."""
        return self.sides[0]

    @property
    def label(self) -> str:
        """What a picture calls it: against a baseline the change says it all."""
        return self.title if self.family.is_chosen else self.change

    @property
    def short_verdict(self) -> str:
        """The verdict in a word or two."""
        if self.margin is not None:
            return self.equivalence
        return "significant" if self.is_significant else "not significant"


def find_contrasts(
    groups: Sequence[Group], mistakes: dict[FinishedRun, Mistakes], baseline: Sequence[Group] = (),
    margin: float | None = None,
) -> list[Contrast]:  # fmt: skip
    """Return the contrasts of one group of each data set with each other group of it.

    It is that of the `baseline` that is of this data set, else the best one: of those with several seeds, so that one
    lucky run does not hide what there is to say of the others.
    """
    contrasts, has_several = [], len({group.dataset for group in groups}) > 1
    for dataset in dict.fromkeys(group.dataset for group in groups):
        known = [group for group in groups if group.dataset == dataset and group.values]
        named = [group for group in baseline if group in known]
        several = [group for group in known if len(group.values) > 1]
        against = next(iter(named or several or known), None)
        others = [group for group in known if group is not against]
        sides = [(group, against) if named else (against, group) for group in others]
        family = Family(len(several) * (len(several) - 1) // 2, is_chosen=True)
        if named:
            family = Family(len([group for group in several if group is not against]), is_chosen=False)
        estimates = [difference(one.arm, other.arm) for one, other in sides]
        corrected = family.corrected_p_values(estimates, margin)
        for (one, other), estimate, (p, p_equivalent) in zip(sides, estimates, corrected, strict=True):
            differing = _differing(one, other)
            where = f", {one.dataset}" if has_several else ""
            words = _title(one, other) + where, (one.called(differing) + where, other.called(differing))
            numbers = estimate, family, p, margin, p_equivalent
            contrasts.append(Contrast(*words, *numbers, one, other, against, _pairs(one, other, mistakes)))
    return contrasts


def within(
    interval: tuple[float, float] | None, metric: str, lowest: float = -1.0
) -> tuple[float | None, float | None]:
    """Return an interval without what cannot be: a share is between 0 and 1, a difference of two from -1 to 1."""
    if interval is None or not SHARES.search(metric):
        return interval or (None, None)
    return max(lowest, interval[0]), min(1.0, interval[1])


def verdict(one: Effect, metric: str) -> str:
    """Return in words how large the difference is, whether it is significant, and what it would take."""
    low, high = within(one.estimate.interval(), metric)
    interval = "" if low is None else f" (95 % interval {low:+.4f} to {high:+.4f}{_of_what(one.estimate)})"
    return f"{metric} {one.estimate.value:+.4f}{interval} {_seeds(one)}: {_judgment(one, metric)}{_equivalence(one)}"


def told(one: Effect, metric: str) -> list[str]:
    """Return all lines on a contrast or an effect, the plain sentence last."""
    networks = [network_verdict(one)] if isinstance(one, Contrast) else []
    return [verdict(one, metric), *networks, *filter(None, [in_plain_words(one, metric)])]


def in_plain_words(one: Effect, metric: str) -> str:
    """Return the 95 % interval of a difference as a sentence, "" if there is none."""
    low, high = within(one.estimate.interval(), metric)
    if low is None:
        return ""
    this, other = one.sides
    name = metric.replace("val_", "validation ").replace("_", " ")
    unit, scale = (" points", 100) if SHARES.search(metric) else ("", 1)
    ends = [f"{abs(end) * scale:.1f}" if abs(end) * scale >= 0.1 else f"{abs(end) * scale:.2g}" for end in (low, high)]
    if low <= 0 <= high:
        either = f"lower by up to {ends[0]}{unit}, or higher by up to {ends[1]}{unit},"
        return f"with {this} {name} may be {either} than with {other}"
    which, (least, most) = ("higher", ends) if low > 0 else ("lower", ends[::-1])
    corrected = "" if one.is_significant else f"; one of {one.family.count} tests may well show that by luck"
    return f"with {this} {name} is {which} by {least} to {most}{unit} than with {other}{corrected}"


def network_verdict(one: Contrast) -> str:
    """Return in words what McNemar's test says of the networks, which is less than what there is to say of recipes."""
    if not one.pairs:
        return "there are no images that both have been looked at on"
    if len(one.pairs) == 1:
        [pair] = one.pairs
        what = "significant" if pair.p < LEVEL else "not significant"
        alone = f"{pair.only_one} are correct in the one network alone, {pair.only_other} in the other alone"
        images = f"of these two networks only: of {pair.images:,} {pair.kind} images"
        return f"{images} {alone} (McNemar {_p(pair.p)}): {what}"
    significant = sum(pair.p < LEVEL for pair in one.pairs)
    repeat = "fold" if all(one.estimate.are_folds) else "seed"
    counts = f"{significant} of {len(one.pairs)} pairs of one {repeat}"
    median = _p(np.median([pair.p for pair in one.pairs]))
    return f"of single networks only: in {counts} they differ significantly (McNemar, median {median})"


def advice(estimate: Estimate) -> tuple[int | None, int | None, int | None]:
    """Return how many seeds it would take, and the interval of that; nothing with few seeds, where it is noise."""
    if min(estimate.seeds) < SEEDS_FOR_ADVICE or any(estimate.are_folds):
        return None, None, None
    return seeds_needed(estimate), *interval_of_seeds_needed(estimate)


def _title(one: Group, other: Group) -> str:
    """Return the two groups, by their numbers and by the settings that are not the same."""
    differing = _differing(one, other)
    return " against ".join(f"group {side.number} ({side.called(differing)})" for side in (one, other))


def _differing(one: Group, other: Group) -> list[str]:
    return [name for name, value in one.settings.items() if other.settings[name] != value]


def _pairs(one: Group, other: Group, mistakes: dict[FinishedRun, Mistakes]) -> list[Pair]:
    """Return the pairs of one seed, or fold, the best run of each; without any, the best run of each group."""
    runs = [[run for run in group.runs if run in mistakes] for group in (one, other)]  # sorted, the best first
    ones, others = ({repeat_of(run): mistakes[run] for run in reversed(side)} for side in runs)
    candidates = [(ones[seed], others[seed]) for seed in ones if seed in others]
    if not candidates and all(runs):
        candidates = [[mistakes[side[0]] for side in runs]]
    pairs = []
    for one, two in candidates:
        if one.images == two.images:
            only = int((one.correct & ~two.correct).sum()), int((two.correct & ~one.correct).sum())
            pairs.append(Pair(len(one.correct), one.kind, *only, mcnemar(*only)))
    return pairs


def _of_what(estimate: Estimate) -> str:
    repeats = "folds" if all(estimate.are_folds) else "seeds"
    seeds = f", of {repeats} alone" if estimate.of_images is None else ""
    return seeds + (f", allowing {estimate.luck:+.4f} for the luck of more epochs" if estimate.luck else "")


def _seeds(one: Effect) -> str:
    """Return what the difference was found with, and the p-values."""
    estimate = one.estimate
    units = ["folds" if is_fold else "seeds" for is_fold in estimate.are_folds]
    if estimate.is_paired:
        counts = f"over {estimate.seeds[0]} shared {units[0]}"
    elif units[0] == units[1]:
        counts = f"with {estimate.seeds[0]} and {estimate.seeds[1]} {units[0]}"
    else:
        counts = " and ".join(f"{count} {unit}" for count, unit in zip(estimate.seeds, units, strict=True))
        counts = f"with {counts}"
    if one.p is None:
        return counts
    what = "pairs" if one.family.is_chosen else "tests"
    corrected = f", for {one.family.count} {what} {_p(one.corrected_p)}" if one.family.count > 1 else ""
    return f"{counts}, {one.test} {_p(one.p)}{corrected}"


def _judgment(one: Effect, metric: str) -> str:
    estimate, fewest = one.estimate, min(one.estimate.seeds)
    if one.is_significant:
        return "significant"
    if abs(estimate.value) < 1e-12:
        return "the means are equal"
    if fewest < 2:
        if any(estimate.are_folds):
            return "one fold, or one seed beside folds, allows no test"
        return f"one seed allows no test; begin with {ENOUGH_SEEDS} seeds each, which show the spread"
    if one.p is None:
        repeat = "fold" if all(estimate.are_folds) else "seed"
        return f"every {repeat} gave the same difference, so there is no spread to judge it by"
    count = " and ".join(map(str, dict.fromkeys(estimate.seeds)))
    return f"not significant at n = {count}{_advice(estimate)}{_too_wide(one, metric)}"


def _too_wide(one: Effect, metric: str) -> str:
    """Say of few seeds if their interval has differences of both signs that matter: beyond the margin, or 2 points."""
    limit = one.margin or (TOO_WIDE if SHARES.search(metric) else np.inf)
    low, high = one.estimate.interval()
    if min(one.estimate.seeds) > FEW_SEEDS or not (low < -limit and high > limit):
        return ""
    beyond = "the margin" if one.margin else f"{100 * TOO_WIDE:g} points"
    return f": this interval is too wide to decide (it has more than {beyond} to either side)"


def _advice(estimate: Estimate) -> str:
    if min(estimate.seeds) < SEEDS_FOR_ADVICE or any(estimate.are_folds):
        return ""
    seeds, low, high = advice(estimate)
    if low is None:
        return "; with these images no number of seeds would show a difference of this size"
    interval = f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
    about = "thousands of seeds" if seeds is None else f"about {seeds:,} seeds"
    return f"; it would take {about} each (95 % interval {interval})"


def _equivalence(one: Effect) -> str:
    if one.margin is None:
        return ""
    p = "" if one.p_equivalent is None else f", {_p(one.p_equivalent)}"
    return f"; {one.equivalence} (margin {one.margin:g}{p})"


def p_in_words(value: float | None) -> str:
    """Return a p-value as people write it, "" where there is none."""
    return "" if value is None else f"{value:.2g}" if value >= 0.001 else "< 0.001"


def _p(value: float) -> str:
    return f"p = {p_in_words(value)}".replace("= <", "<")
