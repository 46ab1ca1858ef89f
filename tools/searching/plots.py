"""The pictures of a search: how it went, which options mattered, and what each configuration came to."""

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.ticker import LogLocator, MaxNLocator
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from common import figures
from common.figures import TRAIN_COLOR, VAL_COLOR, blank_figure, plain
from tools.searching.columns import Column, Correlation, columns_of, correlations_of, metric_of, write_correlations
from tools.searching.results import Results, mean_of, seed_of

COLORMAP = "viridis"
SPREAD = 0.06  # of the height of an axis, over which the lines of one category are fanned out
FEWEST = 5  # configurations that an importance, or a correlation, is drawn of; two always have 100 %, and 1 or -1
MOST_ROWS = 40  # correlations in the picture; the table has all
SOLID, FAINT = 25, 0.45  # so many lines are opaque; more are less so


def draw_search(results: Results) -> None:
    """Draw `history.png`, where configurations differ in the metric `parallel.png`, and where they are not too few
    `importance.png` and `correlation.png`; write `correlation.csv`."""
    metric = metric_of(results)
    title = f"{plain(results.sweep.name, longest=60)}: {len(metric)} configuration{'s' * (len(metric) != 1)}"
    _draw_history(results, title)
    correlations = correlations_of(results)
    write_correlations(results.folder / "correlation.csv", correlations)
    columns = columns_of(results)
    if len(np.unique(metric)) < 2 or not columns:
        return  # nothing can be told apart
    _draw_parallel(results, columns, metric, title)
    if len(metric) < FEWEST:
        return
    _draw_importance(results, columns, metric, title)
    _draw_correlations(results, correlations, title)


def _draw_history(results: Results, title: str) -> None:
    """Draw the metric of each configuration in the order of the trials, and the best so far."""
    sign, groups = results.storage.sign, sorted(results.groups(), key=lambda group: group[0].number)
    numbers, metric = [group[0].number for group in groups], np.array([mean_of(group) for group in groups])
    axes = blank_figure(8, 4.5).subplots()
    axes.plot(numbers, metric, "o", color=TRAIN_COLOR, markersize=5, label="finished" + _of_seeds(results))
    best = sign * np.minimum.accumulate(sign * metric)
    axes.step(numbers, best, where="post", color=VAL_COLOR, label="best so far")
    stopped = [trial for trial in results.storage.trials(TrialState.PRUNED) if seed_of(trial) == 0]
    reached = {t.number: sign * min(sign * v for v in t.intermediate_values.values()) for t in stopped}
    if reached:
        axes.plot(*zip(*reached.items(), strict=True), "x", color="gray", label="stopped early, its best until then")
    top = int(np.argmin(sign * metric))
    axes.plot(numbers[top], metric[top], "*", color=VAL_COLOR, markersize=15, markeredgecolor="black",
              label=f"best: {metric[top]:.4f}, trial {numbers[top]}")  # fmt: skip
    if results.sweep.target is not None:
        axes.axhline(results.sweep.target, color="gray", linestyle=":", label=f"target: {results.sweep.target:g}")
    axes.set(xlabel="trial", ylabel=results.sweep.metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figures.save_figure(axes.figure, results.folder / "history.png", title)


def _of_seeds(results: Results) -> str:
    return f", mean of {results.sweep.seeds} seeds" if results.sweep.seeds > 1 else ""


def _draw_importance(results: Results, columns: list[Column], metric: np.ndarray, title: str) -> None:
    """Draw the share of the metric's variance that each option explains, by functional ANOVA (Hutter et al., 2014)."""
    importances = optuna.importance.get_param_importances(
        _study_of(columns, metric), evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    names = sorted(importances, key=importances.get)
    axes = blank_figure(8, 1.4 + 0.35 * len(names)).subplots()
    bars = axes.barh([plain(name, longest=24) for name in names], [importances[n] for n in names], color=TRAIN_COLOR)
    axes.bar_label(bars, fmt=lambda share: f"{share:.0%}", padding=3)
    axes.set(xlim=(0, 1.08), xlabel=f"share of the variance of {results.sweep.metric} that it explains (fANOVA)")
    axes.grid(axis="x", alpha=0.3)
    figures.save_figure(axes.figure, results.folder / "importance.png", title)


def _study_of(columns: list[Column], metric: np.ndarray) -> optuna.Study:
    """Return a study of the configurations by what the options were, not by what Optuna proposed for them."""
    study, distributions = optuna.create_study(), {}
    for column in columns:
        if column.categories is None:
            low, high = column.values.min(), column.values.max()
            distributions[column.name] = FloatDistribution(low, high, log=column.is_log)
        else:
            distributions[column.name] = CategoricalDistribution(range(len(column.categories)))
    for place, value in enumerate(metric):
        params = {column.name: column.values[place].item() for column in columns}
        for column in columns:
            if column.categories is not None:
                params[column.name] = int(params[column.name])
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))
    return study


def _draw_correlations(results: Results, correlations: list[Correlation], title: str) -> None:
    """Draw the strongest correlations, with their intervals."""
    known = sorted((one for one in correlations if one.spearman is not None), key=lambda one: abs(one.spearman))
    if not known:
        return
    shown = known[-MOST_ROWS:]
    axes = blank_figure(8, 1.4 + 0.32 * len(shown)).subplots()
    axes.axvline(0, color="gray", linewidth=1)
    for row, one in enumerate(shown):
        if one.low is not None:
            axes.plot([one.low, one.high], [row, row], color=TRAIN_COLOR, linewidth=2, alpha=0.5)
        axes.plot(one.spearman, row, "o", color=TRAIN_COLOR)
    labels = [plain(f"{one.option} = {one.value}" if one.value else one.option, longest=32) for one in shown]
    axes.set_yticks(range(len(shown)), labels)
    better = "higher" if results.storage.sign < 0 else "lower"
    interval = ", 95 % interval" if any(one.low is not None for one in shown) else ""
    said = f"Spearman's correlation with {results.sweep.metric} ({better} is better){interval}"
    axes.set(xlim=(-1.02, 1.02), ylim=(-0.6, len(shown) - 0.4), xlabel=said)
    axes.grid(axis="x", alpha=0.3)
    figures.save_figure(axes.figure, results.folder / "correlation.png", title)


def _draw_parallel(results: Results, columns: list[Column], metric: np.ndarray, title: str) -> None:
    """Draw a line for each configuration through an axis for each option to its metric; the best stands out.

    `metric` (N,) is the best first; the best lines lie on top.
    """
    columns = [*columns, Column(results.sweep.metric, metric)]
    figure = blank_figure(max(8, 1.5 * len(columns)), 5)
    axes = figure.subplots()
    heights = np.stack([_heights(column, len(metric)) for column in columns], axis=1)  # (N, axes)
    places = np.arange(len(columns))
    lines = [np.stack([places, row], axis=1) for row in heights[::-1]]
    scale = Normalize(metric.min(), metric.max())
    colormap = f"{COLORMAP}_r" if results.storage.sign < 0 else COLORMAP  # the best is dark
    alpha = 1.0 if len(metric) <= SOLID else FAINT
    collection = LineCollection(lines, cmap=colormap, norm=scale, array=metric[::-1], linewidths=1.3, alpha=alpha)
    axes.add_collection(collection)
    best = f"best: {metric[0]:.4f}, trial {results.best()[0].number}"
    axes.plot(places, heights[0], color=VAL_COLOR, linewidth=3, label=best, zorder=3)
    for place, column in zip(places, columns, strict=True):
        _draw_axis(axes, place, column)
    names = [plain(column.name, longest=20) for column in columns]
    axes.set_xticks(places, names, rotation=20 if len(columns) > 5 else 0, ha="right" if len(columns) > 5 else "center")
    axes.set(xlim=(-0.1, len(columns) - 0.75), ylim=(-0.05, 1.05), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    colors = figure.colorbar(collection, ax=axes, label=results.sweep.metric + _of_seeds(results), pad=0.02)
    colors.solids.set_alpha(1)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figures.save_figure(figure, results.folder / "parallel.png", title)


def _scaled(column: Column, values: np.ndarray) -> np.ndarray:
    """Return where values lie on the axis of a column, from 0 to 1."""
    if column.categories is not None:
        return (values + 0.5) / len(column.categories)
    numbers, ends = values, (column.values.min(), column.values.max())
    if column.is_log:
        numbers, ends = np.log(values), np.log(ends)
    return (numbers - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else np.full(len(values), 0.5)


def _heights(column: Column, count: int) -> np.ndarray:
    """Return (N,) where the lines cross an axis; those of one category lie side by side, the best at the top."""
    heights = _scaled(column, column.values)
    for place in np.unique(column.values) if column.categories is not None else ():
        members = np.flatnonzero(column.values == place)
        width = SPREAD * len(members) / count * (len(members) > 1)
        heights[members] += np.linspace(width, -width, len(members))
    return heights


def _draw_axis(axes: Axes, place: int, column: Column) -> None:
    axes.plot([place, place], [0, 1], color="black", linewidth=0.8, zorder=4)
    if column.categories is not None:
        ticks, labels = np.arange(len(column.categories)), [plain(name) for name in column.categories]
    else:
        ticks, labels = _ticks(column)
    for height, label in zip(_scaled(column, np.asarray(ticks, float)), labels, strict=True):
        axes.plot([place, place + 0.03], [height, height], color="black", linewidth=0.8, zorder=4)
        axes.text(place + 0.05, height, label, va="center", fontsize=8, zorder=5,
                  bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8})  # fmt: skip


def _ticks(column: Column) -> tuple[np.ndarray, list[str]]:
    """Return round numbers between the ends of an axis, and how they are written."""
    low, high = column.values.min(), column.values.max()
    locator = LogLocator(subs=(1, 3)) if column.is_log and high / low > 10 else MaxNLocator(5)
    ticks = np.array([tick for tick in locator.tick_values(low, high) if low <= tick <= high] or [low, high])
    return ticks, [f"{tick:.6g}" for tick in ticks]
