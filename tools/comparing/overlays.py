"""The pictures of a comparison: curves over each other, and results against one option."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from common import figures
from common.figures import TRAIN_COLOR, VAL_COLOR, blank_figure, plain
from tools.comparing.finished_runs import FinishedRun, is_number
from tools.comparing.groups import key_of, short_names, shown
from tools.comparing.overview import Overview

COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#e7298a", "#7570b3", "#a6761d", "#17becf", "#b2182b", "#66a61e", "#e6ab02")
OTHERS_COLOR = "#b8b8b8"
LONGEST_LABEL = 48  # characters
WIDE = 20  # largest / smallest value from which on an axis is logarithmic
MOST_TICKS = 24  # categories whose names are all written

Unit = tuple[str, str, list[FinishedRun]]  # label, color, runs


def draw_pictures(folder: Path, overview: Overview, by: Sequence[str]) -> list[str]:
    """Draw the curves, unless no run has an epoch, and the results against options; return the files' names."""
    pictures = []
    if any(run.epochs for run in overview.runs):
        pictures = ["loss.png", "accuracy.png", "accuracy_by_time.png"]
        units = _units(overview)
        _draw_curves(folder / pictures[0], units, "loss", by_time=False)
        _draw_curves(folder / pictures[1], units, "accuracy", by_time=False)
        _draw_curves(folder / pictures[2], units, "accuracy", by_time=True)
    for option in by:
        pictures.append(f"by_{re.sub(r'[^A-Za-z0-9_]', '_', option)[:60]}.png")  # the name comes from a file
        _draw_by_option(folder / pictures[-1], overview, option)
    return pictures


def _draw_curves(path: Path, units: list[Unit], quantity: str, by_time: bool) -> None:
    """Draw a curve of each run over epochs, or over the time of training."""
    runs = [run for _, _, members in units for run in members]
    figure = blank_figure(9, 5 if len(runs) < 4 else 5.6)
    axes = figure.subplots()
    for _, color, members in reversed(units):  # the best on top
        for run in reversed(members):
            _draw_run(axes, run, quantity, by_time, color)
    _label(axes, runs, quantity, by_time)
    handles = [Line2D([], [], color=color, label=label) for label, color, _ in units]
    if not by_time:
        handles.append(Line2D([], [], color="black", label="validation"))
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=0.8, label="training"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figures.save_figure(figure, path)


def _draw_by_option(path: Path, overview: Overview, option: str) -> None:
    """Draw the metric and the training time against an option: a point a run, and mean and std of each group."""
    runs = [run for run in overview.runs if overview.metric in run.scores]
    positions, ticks, is_log = _positions([overview.options[option][run] for run in runs])
    position_of = dict(zip(runs, positions, strict=True))
    figure = blank_figure(8.5, 6.5)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, metric, color in ((upper, overview.metric, TRAIN_COLOR), (lower, "train_time", VAL_COLOR)):
        known = [run for run in runs if metric in run.scores]
        axes.plot([position_of[run] for run in known], [run.scores[metric] for run in known], "o", color=color,
                  alpha=0.5, markersize=6, markeredgewidth=0, label="a run")  # fmt: skip
        _draw_means(axes, overview, metric, position_of, color)
        axes.set_ylabel("training time, s" if metric == "train_time" else plain(metric, LONGEST_LABEL))
        axes.grid(alpha=0.3)
    if _is_wide([run.scores.get("train_time", 0) for run in runs]):
        lower.set_yscale("log")
    else:
        lower.set_ylim(bottom=0)
    if is_log:
        lower.set_xscale("log")
    if ticks:
        is_long = sum(map(len, ticks.values())) >= 70
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
        lower.set_xticks(list(ticks), list(ticks.values()), **turned)
        lower.set_xticks([], minor=True)
    lower.margins(x=0.08)
    lower.set_xlabel(plain(option, LONGEST_LABEL))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figures.save_figure(figure, path)


def _draw_means(axes: Axes, overview: Overview, metric: str, position_of: dict, color: str) -> None:
    """Draw mean and std over the runs of each group that has several, and lines through the means if that is a path."""
    centers, cap, label = [], 5 if len(overview.groups) < 20 else 2, "mean and std over seeds"
    for group in overview.groups:
        runs = [run for run in group.runs if run in position_of and metric in run.scores]
        values = [run.scores[metric] for run in runs]
        if values:
            position = position_of[runs[0]]
            centers.append((position, float(np.mean(values))))
        if len(values) > 1:
            axes.errorbar(position, np.mean(values), np.std(values, ddof=1), fmt="_", color=color, markersize=3 * cap,
                          capsize=cap, markeredgewidth=2, label=label)  # fmt: skip
            label = None
    if len(overview.options) == 1 and len(centers) > 1:
        axes.plot(*zip(*sorted(centers), strict=True), "-", color=color, linewidth=1, alpha=0.6)


def _positions(values: list) -> tuple[list[float], dict[float, str], bool]:
    """Return where values lie on an axis, its ticks (none: matplotlib's own), and whether it is logarithmic."""
    if all(map(is_number, values)):
        distinct = sorted({float(value) for value in values})
        is_log = _is_wide(distinct)
        scaled = np.log(distinct) if is_log else np.array(distinct)
        is_roomy = (np.diff(scaled) > 0.07 * (scaled[-1] - scaled[0])).all()
        return list(map(float, values)), {value: f"{value:g}" for value in distinct} if is_roomy else {}, is_log
    # Missing and mixed values are names; a few numbers among them come first, in their order.
    keys = {key_of(value): value for value in values}
    order = sorted(keys, key=lambda key: (0, keys[key], key) if is_number(keys[key]) else (1, 0, key))
    place = {key: float(position) for position, key in enumerate(order)}
    step = -(-len(order) // MOST_TICKS)
    ticks = {place[key]: plain(shown(keys[key]), 24) for key in order[::step]}
    return [place[key_of(value)] for value in values], ticks, False


def _is_wide(values: Sequence[float]) -> bool:
    """Tell whether a logarithmic axis is possible and shows these values better."""
    return min(values) > 0 and max(values) > WIDE * min(values)


def _units(overview: Overview) -> list[Unit]:
    """Return the best groups, or if there is one alone its best runs, each in a color, and all others in one."""
    units, names = [group.runs for group in overview.groups], short_names(overview.groups[: len(COLORS)])
    if len(overview.groups) == 1:
        units, names = [[run] for run in overview.runs], [f"seed {shown(run.seed)}" for run in overview.runs]
        if len(set(names)) < len(names):
            names = [run.label for run in overview.runs]
        names = [f"{rank}: {name}" for rank, name in enumerate(names, 1)]
    colored = []
    for members, name, color in zip(units, names, COLORS, strict=False):
        count = f" ({len(members)} runs)" if len(members) > 1 else ""
        colored.append((plain(name, LONGEST_LABEL) + count, color, members))
    others = [run for members in units[len(COLORS) :] for run in members]
    label = f"{len(others)} other runs, validation only"
    return [*colored, (label, OTHERS_COLOR, others)] if others else colored


def _draw_run(axes: Axes, run: FinishedRun, quantity: str, by_time: bool, color: str) -> None:
    is_best = color != OTHERS_COLOR
    places = run.times if by_time else [record["epoch"] for record in run.epochs]
    styles = {f"val_{quantity}": {"linestyle": "-", "linewidth": 1.6 if is_best else 0.7, "alpha": 0.9}}
    if is_best and not by_time:
        styles[f"train_{quantity}"] = {"linestyle": "--", "linewidth": 0.8, "alpha": 0.55}
    for key, style in styles.items():
        points = [(place, record[key]) for place, record in zip(places, run.epochs, strict=True) if key in record]
        if points:
            marker = "o" if len(points) < 4 else None
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=3, **style)


def _label(axes: Axes, runs: Sequence[FinishedRun], quantity: str, by_time: bool) -> None:
    if by_time:
        axes.set(xlabel="training time so far, s", ylabel="validation accuracy")
        times = [run.times for run in runs if run.epochs]
        if min(one[0] for one in times) > 0 and _is_wide([one[-1] for one in times]):
            axes.set_xscale("log")
    else:
        axes.set(xlabel="epoch", ylabel="loss (cross-entropy)" if quantity == "loss" else quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if quantity == "loss":
        values = [record["val_loss"] for run in runs for record in run.epochs if "val_loss" in record]
        if values and min(values) > 0 and max(values) > WIDE * float(np.median(values)):
            axes.set_yscale("log")  # one run that nearly diverged would press all others to the ground
    axes.grid(alpha=0.3)
