"""What a search tells of each option: its values over the configurations, and how they go with the metric."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm, rankdata

from common.system.files import write_table
from common.system.text import printable
from tools.searching.results import Results, mean_of
from tools.searching.spaces import OneOf, Value, Weighted

MOST_CATEGORIES = 12  # of numbers in a list; more of them are drawn as numbers, not by name


@dataclass(frozen=True)
class Column:
    """One option over N configurations: numbers (N,), or with `categories` the place of each among these names."""

    name: str
    values: np.ndarray
    categories: list[str] | None = None
    is_log: bool = False
    is_ordered: bool = True  # numbers, also if they are drawn by name


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of an option, or of whether it has a certain `value`, with the metric.

    `low` and `high` are its 95 % interval by Fisher's z with the variance of Bonett and Wright (2000), None with fewer
    than four configurations and of a correlation of 1 or -1, where z has no end. A correlation of what does not vary is
    None.
    """

    option: str
    value: str
    spearman: float | None
    low: float | None
    high: float | None
    n: int


def metric_of(results: Results) -> np.ndarray:
    """Return (N,) the metric of each finished configuration, a mean over its seeds, the best first."""
    return np.array([mean_of(group) for group in results.groups()])


def columns_of(results: Results) -> list[Column]:
    """Return the searched options over the finished configurations, in the order of `metric_of`."""
    tried = [results.configuration_of(group[0]) for group in results.groups()]
    searched = results.sweep.searched.items()
    return [_column(name, form, [options[name] for options in tried]) for name, form in searched]


def _column(name: str, form, values: list[Value]) -> Column:
    listed = form.values if isinstance(form, (OneOf, Weighted)) else values
    numbers = [_number(value) for value in listed]
    is_ordered = None not in numbers
    if is_ordered and (listed is values or len(listed) > MOST_CATEGORIES):
        column = np.array([_number(value) for value in values])
        return Column(name, column, is_log=getattr(form, "is_log", False) and column.min() > 0)
    listed = sorted(listed, key=_number) if is_ordered else listed[::-1]  # the first stands at the top
    places = np.array([listed.index(value) for value in values], float)
    return Column(name, places, [printable(value, longest=14) for value in listed], is_ordered=is_ordered)


def _number(value: Value) -> float | None:
    """Return a number, also one that is typed as text; None for all else."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def correlations_of(results: Results) -> list[Correlation]:
    """Return how each option goes with the metric: one for numbers, one for each value of the others."""
    metric, found = metric_of(results), []
    for column in columns_of(results):
        if column.is_ordered:
            found.append(_correlation(column.name, "", column.values, metric))
            continue
        for place, value in enumerate(column.categories):
            if value != "False" or "True" not in column.categories:  # which is True turned round
                found.append(_correlation(column.name, value, column.values == place, metric))
    return found


def _correlation(option: str, value: str, values: np.ndarray, metric: np.ndarray) -> Correlation:
    count = len(metric)
    if len(np.unique(values)) < 2 or len(np.unique(metric)) < 2:
        return Correlation(option, value, None, None, None, count)
    spearman = float(np.corrcoef(rankdata(values), rankdata(metric))[0, 1])
    if count < 4 or abs(spearman) > 1 - 1e-9:
        return Correlation(option, value, spearman, None, None, count)
    half = norm.ppf(0.975) * np.sqrt((1 + spearman**2 / 2) / (count - 3))
    middle = np.arctanh(spearman)
    return Correlation(option, value, spearman, float(np.tanh(middle - half)), float(np.tanh(middle + half)), count)


def write_correlations(path: Path, correlations: list[Correlation]) -> None:
    """Write the table of correlations, as CSV."""
    names = list(Correlation.__dataclass_fields__)
    rows = [[getattr(one, name) for name in names] for one in correlations]
    write_table(path, [names, *([round(cell, 4) if isinstance(cell, float) else cell for cell in row] for row in rows)])
