"""The forms of a searched parameter, and how a search proposes trials and stops poor ones: W&B's ways, by Optuna."""

import bisect
import itertools
import math
import os
import platform
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

Value = str | int | float | bool | None


class Parameter(ABC):
    """One parameter of a search.

    Optuna knows it as a choice or as a number; `value` says what the option gets. Where the two differ, as for a normal
    distribution, which Optuna lacks, it searches the share of the distribution that lies below.
    """

    def suggest(self, trial: Trial, name: str) -> Value:
        """Return what Optuna proposes, a share from 0 to 1 unless a form says otherwise."""
        return trial.suggest_float(name, 0, 1)

    @abstractmethod
    def value(self, proposed: Value) -> Value:
        """Return the value of the option for what was proposed."""

    def grid(self) -> Sequence[Value] | None:
        """Return the values of a grid; None if it cannot be made of them."""
        return None

    @abstractmethod
    def examples(self) -> list[Value]:
        """Return values of which all are possible if each of the others is."""


@dataclass(frozen=True)
class OneOf(Parameter):
    """One of `values`, all alike; of one value alone a constant, which Optuna need not know."""

    values: list[Value]

    def suggest(self, trial: Trial, name: str) -> Value:
        return trial.suggest_categorical(name, self.values)

    def value(self, proposed: Value) -> Value:
        return self.values[0] if len(self.values) == 1 else proposed

    def grid(self) -> list[Value] | None:
        return self.values

    def examples(self) -> list[Value]:
        return self.values


@dataclass(frozen=True)
class Weighted(Parameter):
    """One of `values` with these `probabilities`, which a grid would have no use for."""

    values: list[Value]
    probabilities: list[float]

    def value(self, proposed: float) -> Value:
        place = bisect.bisect(list(itertools.accumulate(self.probabilities)), proposed)
        last = max(place for place, share in enumerate(self.probabilities) if share)  # all together can be just below 1
        return self.values[min(place, last)]

    def examples(self) -> list[Value]:
        return self.values


@dataclass(frozen=True)
class Range(Parameter):
    """Numbers from `low` to `high`; with `is_log` their logarithms are alike, with `step` they are multiples of it."""

    low: float
    high: float
    is_integer: bool = False
    is_log: bool = False
    step: float | None = None

    def suggest(self, trial: Trial, name: str) -> float:
        if self.is_integer:
            return trial.suggest_int(name, self.low, self.high)
        return trial.suggest_float(name, self.low, self.high, log=self.is_log)

    def value(self, proposed: float) -> float:
        if self.step is None:
            return proposed
        lowest, highest = multiples_between(self.low, self.high, self.step)
        return _multiple(min(max(round(proposed / self.step), lowest), highest), self.step)

    def grid(self) -> range | None:
        return range(self.low, self.high + 1) if self.is_integer else None

    def examples(self) -> list[Value]:
        return [self.value(self.low), self.value(self.high)]


def multiples_between(low: float, high: float, step: float) -> tuple[int, int]:
    """Return the first and the last n for which n times `step` is in a range; bounds count: 0.3 / 0.1 is below 3."""
    low, high = low / step, high / step
    return math.ceil(low - 1e-9 * max(1, abs(low))), math.floor(high + 1e-9 * max(1, abs(high)))


@dataclass(frozen=True)
class Normal(Parameter):
    """Normally distributed numbers, or with `is_log` such whose logarithms are; with `step` multiples of it."""

    mu: float
    sigma: float
    is_log: bool = False
    step: float | None = None

    def value(self, proposed: float) -> float:
        share = min(max(proposed, 1e-6), 1 - 1e-6)  # the ends are infinitely far away
        number = NormalDist(self.mu, self.sigma).inv_cdf(share)
        number = math.exp(min(number, 600)) if self.is_log else number
        return number if self.step is None else _multiple(round(number / self.step), self.step)

    def examples(self) -> list[Value]:
        return [self.value(0.5)]


@dataclass(frozen=True)
class Beta(Parameter):
    """Numbers from 0 to 1 of the beta distribution with shapes `a` and `b`; with `step` multiples of it."""

    a: float
    b: float
    step: float | None = None

    def value(self, proposed: float) -> float:
        from scipy.special import betaincinv  # which hardly any search needs

        number = float(betaincinv(self.a, self.b, proposed))
        return number if self.step is None else _multiple(round(number / self.step), self.step)

    def examples(self) -> list[Value]:
        return [self.value(0.5)]


def _multiple(number: int, step: float) -> float:
    """Return `number` x `step` without the dust of floating point, as a whole number where the step is one."""
    product = float(f"{number * step:.12g}")
    return int(product) if step == int(step) else product


def sign_of(study: optuna.Study) -> int:
    """Return the factor that makes a lower value of the metric a better one."""
    return -1 if study.direction == StudyDirection.MAXIMIZE else 1


class Bands(optuna.pruners.BasePruner):
    """Hyperband's successive halving as W&B does it (Li et al., 2018): of those at a band all but the best 1 / eta end.

    The threshold is taken from the values at the band of all trials that have got there, and is compared, after
    every epoch, with the best value of a trial so far, or if `is_strict` with its value at the band.
    """

    def __init__(self, bands: list[int], eta: float, is_strict: bool = False):  # bands: increasing epochs
        self.bands, self.eta, self.is_strict = bands, eta, is_strict

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether `trial` is worse than the threshold of the last band that it has reached."""
        mine, sign = trial.intermediate_values, sign_of(study)
        reached = [band for band in self.bands if band in mine]
        if not reached:
            return False
        states = (TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE)
        others = [
            other.intermediate_values for other in study.get_trials(deepcopy=False, states=states)
            if not other.user_attrs.get("seed")  # only configurations that end well get the others
        ]  # fmt: skip
        values = sorted(sign * values[reached[-1]] for values in others if reached[-1] in values)
        value = sign * mine[reached[-1]] if self.is_strict else min(sign * value for value in mine.values())
        return value > values[int(len(values) / self.eta)]


def sampler_for(method: str, bayes: str, seed: int, storage) -> BaseSampler:
    """Return what proposes trials, going on from an earlier start; `bayes` is "tpe" (Bergstra et al., 2011) or "gp"."""
    key = f"{seed} {len(storage.study.get_trials(deepcopy=False))}"
    if storage.is_shared:
        key += f" {platform.node()} {os.getpid()}"  # machines that begin together must not propose the same
    sampler = RandomSampler if method != "bayes" else GPSampler if bayes == "gp" else TPESampler
    return sampler(seed=zlib.crc32(key.encode()))
