"""The pictures of a comparison: curves over each other, and results against one option."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from common import figures
from common.comparing.finished_runs import FinishedRun, number
from common.comparing.groups import key_of, short_names, shown
from common.comparing.overview import Overview
from common.figures import TRAIN_COLOR, VAL_COLOR, blank_figure, plain

COLOURS = ("#1f77b4", "#d95f02", "#1b9e77", "#e7298a", "#7570b3", "#a6761d", "#17becf", "#b2182b", "#66a61e", "#e6ab02")
OTHERS_COLOUR = "#b8b8b8"
LONGEST_LABEL = 48  # characters
WIDE = 20  # largest / smallest value from which on an axis is logarithmic
MOST_TICKS = 24  # categories whose names are all written


def draw_curves(folder: Path, overview: Overview) -> list[str]:
    """Draw `loss.png`, `accuracy.png` and `accuracy_by_time.png`, and return their names.

    Each group has a colour, the best ten of them; if there is one group alone, each run has. Runs without epochs have
    no curves.
    """
    if not any(run.epochs for run in overview.runs):
        return []
    styles = _styles(overview)
    for name, quantity, by_time in (
        ("loss.png", "loss", False),
        ("accuracy.png", "accuracy", False),
        ("accuracy_by_time.png", "accuracy", True),
    ):
        figure = blank_figure(9, 5 if len(overview.runs) < 4 else 5.6)
        axes = figure.subplots()
        for place, run in reversed(list(enumerate(overview.runs))):  # the best on top
            _draw_run(axes, run, quantity, by_time, *styles[place][1:])
        _label(axes, overview.runs, quantity, by_time)
        handles = _handles(styles, with_training=not by_time)
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
        figures.save_figure(figure, folder / name)
    return ["loss.png", "accuracy.png", "accuracy_by_time.png"]


def draw_by_option(path: Path, overview: Overview, option: str) -> None:
    """Draw the metric and the training time against an option: a point a run, and mean and std of each group."""
    places = [place for place, run in enumerate(overview.runs) if overview.metric in run.scores]
    values = overview.options[option]
    positions, ticks, is_log = _positions([values[place] for place in places])
    position_of = dict(zip(places, positions, strict=True))
    figure = blank_figure(8.5, 6.5)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, metric, colour in ((upper, overview.metric, TRAIN_COLOR), (lower, "train_time", VAL_COLOR)):
        scores = {place: overview.runs[place].scores.get(metric) for place in places}
        known = [place for place in places if scores[place] is not None]
        axes.plot([position_of[place] for place in known], [scores[place] for place in known], "o", color=colour,
                  alpha=0.5, markersize=6, markeredgewidth=0, label="a run")  # fmt: skip
        _draw_means(axes, overview, scores, position_of, colour)
        axes.set_ylabel("training time, s" if metric == "train_time" else plain(metric, LONGEST_LABEL))
        axes.grid(alpha=0.3)
    times = [overview.runs[place].scores.get("train_time", 0) for place in places]
    if min(times) > 0 and max(times) > WIDE * min(times):
        lower.set_yscale("log")
    else:
        lower.set_ylim(bottom=0)
    if is_log:
        lower.set_xscale("log")
    if ticks:
        rotation = 0 if sum(map(len, ticks.values())) < 70 else 60
        ha = "right" if rotation else "center"
        lower.set_xticks(list(ticks), list(ticks.values()), rotation=rotation, ha=ha, rotation_mode="anchor")
        lower.set_xticks([], minor=True)
    lower.margins(x=0.08)
    lower.set_xlabel(plain(option, LONGEST_LABEL))
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figures.save_figure(figure, path)


def _draw_means(axes: Axes, overview: Overview, scores: dict, position_of: dict, colour: str) -> None:
    """Draw mean and std over the runs of each group that has several, and lines through the means if that is a path."""
    centres, cap = [], 5 if len(overview.groups) < 20 else 2
    label = "mean and std over seeds"
    by_id = {id(run): place for place, run in enumerate(overview.runs)}
    for group in overview.groups:
        places = [by_id[id(run)] for run in group.runs]
        values = [scores[place] for place in places if scores.get(place) is not None]
        if not values:
            continue
        position = position_of[next(place for place in places if place in position_of)]
        centres.append((position, float(np.mean(values))))
        if len(values) > 1:
            axes.errorbar(position, np.mean(values), np.std(values, ddof=1), fmt="_", color=colour, markersize=3 * cap,
                          capsize=cap, markeredgewidth=2, label=label)  # fmt: skip
            label = None
    if len(overview.options) == 1 and len(centres) > 1:
        axes.plot(*zip(*sorted(centres), strict=True), "-", color=colour, linewidth=1, alpha=0.6)


def _positions(values: list) -> tuple[list[float], dict[float, str], bool]:
    """Return where values lie on an axis, its ticks (none: matplotlib's own), and whether it is logarithmic."""
    if all(number(value) is not None for value in values):
        distinct = sorted({float(value) for value in values})
        is_log = distinct[0] > 0 and distinct[-1] > WIDE * distinct[0]
        scaled = [math.log(value) for value in distinct] if is_log else distinct
        room = 0.07 * (scaled[-1] - scaled[0])
        is_roomy = all(after - before > room for before, after in zip(scaled, scaled[1:], strict=False))
        return list(map(float, values)), {value: f"{value:g}" for value in distinct} if is_roomy else {}, is_log
    # Missing and mixed values are names; a few numbers among them come first, in their order.
    keys = {key_of(value): value for value in values}
    order = sorted(keys, key=lambda key: (number(keys[key]) is None, number(keys[key]) or 0, key))
    place = {key: float(position) for position, key in enumerate(order)}
    step = -(-len(order) // MOST_TICKS)
    ticks = {place[key]: plain(shown(keys[key]), 24) for key in order[::step]}
    return [place[key_of(value)] for value in values], ticks, False


def _styles(overview: Overview) -> list[tuple[str, str, bool]]:
    """Return (label, colour, whether it is one of the best) of each run."""
    alone = len(overview.groups) == 1
    units = [[run] for run in overview.runs] if alone else [group.runs for group in overview.groups]
    names = _names_of_runs(overview.runs) if alone else short_names(overview.groups[: len(COLOURS)])
    style_of = {}
    for rank, unit in enumerate(units):
        is_best = rank < len(COLOURS)
        label = plain(names[rank], LONGEST_LABEL) + (f" ({len(unit)} runs)" if len(unit) > 1 else "") if is_best else ""
        for run in unit:
            style_of[id(run)] = (label, COLOURS[rank] if is_best else OTHERS_COLOUR, is_best)
    return [style_of[id(run)] for run in overview.runs]


def _names_of_runs(runs: Sequence[FinishedRun]) -> list[str]:
    seeds = [f"seed {shown(run.seed)}" for run in runs]
    names = seeds if len(set(seeds)) == len(seeds) else [run.label for run in runs]
    return [f"{rank}: {name}" for rank, name in enumerate(names, 1)]


def _draw_run(axes: Axes, run: FinishedRun, quantity: str, by_time: bool, colour: str, is_best: bool) -> None:
    for part, style, width in (("val", "-", 1.6), ("train", "--", 0.8)):
        key = f"{part}_{quantity}"
        if part == "train" and (by_time or not is_best):
            continue
        seconds = np.cumsum([record.get("seconds", 0) for record in run.epochs])
        points = [
            (second if by_time else record["epoch"], record[key])
            for record, second in zip(run.epochs, seconds, strict=True)
            if key in record
        ]
        if points:
            marker = "o" if len(points) < 4 else None
            axes.plot(*zip(*points, strict=True), style, color=colour, linewidth=width if is_best else 0.7,
                      alpha=0.9 if part == "val" else 0.55, marker=marker, markersize=3)  # fmt: skip


def _label(axes: Axes, runs: Sequence[FinishedRun], quantity: str, by_time: bool) -> None:
    if by_time:
        axes.set(xlabel="training time so far, s", ylabel="validation accuracy")
        totals = [sum(record.get("seconds", 0) for record in run.epochs) for run in runs if run.epochs]
        firsts = [run.epochs[0].get("seconds", 0) for run in runs if run.epochs]
        if min(firsts) > 0 and max(totals) > WIDE * min(totals):
            axes.set_xscale("log")
    else:
        axes.set(xlabel="epoch", ylabel="loss (cross-entropy)" if quantity == "loss" else quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if quantity == "loss":
        values = [record[key] for run in runs for record in run.epochs for key in ("val_loss",) if key in record]
        if values and min(values) > 0 and max(values) > WIDE * float(np.median(values)):
            axes.set_yscale("log")  # one run that nearly diverged would press all others to the ground
    axes.grid(alpha=0.3)


def _handles(styles: list[tuple[str, str, bool]], with_training: bool) -> list[Line2D]:
    of_best = sorted((COLOURS.index(colour), label) for label, colour, is_best in set(styles) if is_best)
    handles = [Line2D([], [], color=COLOURS[rank], label=label) for rank, label in of_best]
    others = sum(not is_best for _, _, is_best in styles)
    if others:
        handles.append(Line2D([], [], color=OTHERS_COLOUR, label=f"{others} other runs, validation only"))
    if with_training:
        handles.append(Line2D([], [], color="black", label="validation"))
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=0.8, label="training"))
    return handles
