"""The forms of a searched parameter: how Optuna proposes it, and which value of the option a proposal means."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

Value = str | int | float | bool | None


class Parameter(Protocol):
    """One parameter of a search.

    Optuna knows it as a choice or as a number; `value` says what the option gets. Where the two differ, as for a normal
    distribution, which Optuna lacks, it searches the share of the distribution that lies below.
    """

    def suggest(self, trial, name: str) -> Value:
        """Return what the Optuna `trial` proposes."""

    def value(self, proposed: Value) -> Value:
        """Return the value of the option for what was proposed."""

    def count(self) -> int | None:
        """Return the number of values of a grid; None if a grid cannot be made of them."""

    def at(self, place: int) -> Value:
        """Return the value number `place` of the grid, from 0 on."""

    def examples(self) -> list[Value]:
        """Return values of which all are possible if each of the others is."""


@dataclass(frozen=True)
class OneOf:
    """One of `values`, all alike; of one value alone a constant."""

    values: list[Value]

    def suggest(self, trial, name: str) -> Value:
        return self.values[0] if len(self.values) == 1 else trial.suggest_categorical(name, self.values)

    def value(self, proposed: Value) -> Value:
        return self.values[0] if len(self.values) == 1 else proposed

    def count(self) -> int:
        return len(self.values)

    def at(self, place: int) -> Value:
        return self.values[place]

    def examples(self) -> list[Value]:
        return self.values


@dataclass(frozen=True)
class Weighted:
    """One of `values` with these `probabilities`, which a grid would have no use for."""

    values: list[Value]
    probabilities: list[float]

    def suggest(self, trial, name: str) -> float:
        return trial.suggest_float(name, 0, 1)

    def value(self, proposed: float) -> Value:
        total = 0.0
        for value, probability in zip(self.values, self.probabilities, strict=True):
            total += probability
            if proposed < total:
                return value
        likely = [value for value, share in zip(self.values, self.probabilities, strict=True) if share]
        return likely[-1]

    def count(self) -> None:
        return None

    def at(self, place: int) -> Value:
        raise ValueError("a grid takes each value once, whatever its probability")

    def examples(self) -> list[Value]:
        return self.values


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; with `is_log` their logarithms are alike, with `step` they are multiples of it."""

    low: float
    high: float
    is_integer: bool = False
    is_log: bool = False
    step: float | None = None

    def suggest(self, trial, name: str) -> float:
        if self.is_integer:
            return trial.suggest_int(name, self.low, self.high)
        return trial.suggest_float(name, self.low, self.high, log=self.is_log)

    def value(self, proposed: float) -> float:
        if self.step is None:
            return proposed
        lowest, highest = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        return _multiple(min(max(round(proposed / self.step), lowest), highest), self.step)

    def count(self) -> int | None:
        return self.high - self.low + 1 if self.is_integer else None

    def at(self, place: int) -> Value:
        return self.low + place

    def examples(self) -> list[Value]:
        return [self.value(self.low), self.value(self.high)]


@dataclass(frozen=True)
class Normal:
    """Normally distributed numbers, or with `is_log` such whose logarithms are; with `step` multiples of it."""

    mu: float
    sigma: float
    is_log: bool = False
    step: float | None = None

    def suggest(self, trial, name: str) -> float:
        return trial.suggest_float(name, 0, 1)

    def value(self, proposed: float) -> float:
        share = min(max(proposed, 1e-6), 1 - 1e-6)  # the ends are infinitely far away
        number = NormalDist(self.mu, self.sigma).inv_cdf(share)
        number = math.exp(min(number, 700)) if self.is_log else number
        return number if self.step is None else _multiple(round(number / self.step), self.step)

    def count(self) -> None:
        return None

    def at(self, place: int) -> Value:
        raise ValueError("a normal distribution has no end of values")

    def examples(self) -> list[Value]:
        return [self.value(0.5)]


def _multiple(number: int, step: float) -> float:
    """Return `number` x `step` without the dust of floating point, as a whole number where the step is one."""
    product = float(f"{number * step:.12g}")
    return int(product) if step == int(step) else product
