"""The pictures of a comparison: curves over each other, and results against one option."""

import re
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from common import figures
from common.figures import COLORS, TRAIN_COLOR, blank_figure, plain
from tools.comparing.contrasts import within
from tools.comparing.finished_runs import FinishedRun, is_number
from tools.comparing.groups import Group, key_of, short_names, shown, words
from tools.comparing.overview import Overview

OTHERS_COLOR = "#b8b8b8"
LONGEST_LABEL = 48  # characters
WIDE = 20  # largest / smallest value from which on an axis is logarithmic
MOST_TICKS = 24  # categories whose names are all written

MOST_DIFFERENCES = 40
BAND = 0.15  # how opaque it is
APART, WIDEST = 5.0, 40.0  # points of print between equal values, and at most from the first to the last

Unit = tuple[str, str, list[list[FinishedRun]]]  # label, color, the runs of each of its groups


def draw_pictures(folder: Path, overview: Overview, by: Sequence[str]) -> list[str]:
    """Draw the curves, unless no run has an epoch, and the results against options; return the files' names."""
    pictures = []
    if any(run.epochs for run in overview.runs):
        pictures = ["loss.png", "accuracy.png", "accuracy_by_time.png"]
        units = _units(overview)
        _draw_curves(folder / pictures[0], units, "loss", by_time=False)
        _draw_curves(folder / pictures[1], units, "accuracy", by_time=False)
        _draw_curves(folder / pictures[2], units, "accuracy", by_time=True)
    if any(one.estimate.has_test for one in (*overview.contrasts, *overview.effects)):
        pictures.append("differences.png")
        draw_differences(folder / pictures[-1], overview)
    for option in by:
        pictures.append(f"by_{re.sub(r'[^A-Za-z0-9_]', '_', option)[:60]}.png")  # the name comes from a file
        _draw_by_option(folder / pictures[-1], overview, option)
    return pictures


def _draw_curves(path: Path, units: list[Unit], quantity: str, by_time: bool) -> None:
    """Draw the mean of each group over epochs or time, and a band from its lowest run to its highest."""
    runs = [run for _, _, members in units for group in members for run in group]
    figure = blank_figure(9, 5 if len(units) < 4 else 5.6)
    axes = figure.subplots()
    for _, color, members in reversed(units):  # the best on top
        for group in reversed(members):
            _draw_group(axes, group, quantity, by_time, color)
    _label(axes, runs, quantity, by_time)
    handles = [Line2D([], [], color=color, label=label) for label, color, _ in units]
    if not by_time:
        handles.append(Line2D([], [], color="black", label="validation"))
        handles.append(Line2D([], [], color="black", linestyle="--", linewidth=0.8, label="training"))
    if any(len(group) > 1 for _, color, members in units for group in members if color != OTHERS_COLOR):
        handles.append(Patch(color="black", alpha=BAND, linewidth=0, label="lowest to highest value, and mean"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figures.save_figure(figure, path)


def draw_differences(path: Path, overview: Overview) -> None:
    """Draw the contrasts and the effects with their intervals: each by itself, and thinly as they are corrected."""
    effects = [one for one in (*overview.contrasts, *overview.effects) if one.estimate.has_test][:MOST_DIFFERENCES]
    figure = blank_figure(9, 1.3 + 0.5 * len(effects))
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    if effects[0].margin is not None:
        axes.axvspan(-effects[0].margin, effects[0].margin, color="#e8e8e8", linewidth=0, label="within the margin")
    first_wide = next((row for row, one in enumerate(effects) if one.family.count > 1), None)
    for row, one in enumerate(effects):
        color = TRAIN_COLOR if one.is_significant else OTHERS_COLOR
        narrow, wide = (within(some, overview.metric) for some in (one.estimate.interval(), one.wide_interval))
        if one.family.count > 1:
            axes.plot(wide, (row, row), color=color, linewidth=1, scalex=False,
                      label="corrected for the number of tests" if row == first_wide else None)  # fmt: skip
        axes.plot(narrow, (row, row), color=color, linewidth=4, solid_capstyle="butt",
                  label="95 % interval" if row == 0 else None)  # fmt: skip
        axes.plot(one.estimate.value, row, "o", color="black", markersize=5)
    axes.set_yticks(range(len(effects)), [_wrapped(plain(one.label, 3 * LONGEST_LABEL)) for one in effects], fontsize=8)
    axes.set_ylim(len(effects) - 0.4, -0.6)
    axes.set_xlabel(f"difference of {plain(overview.metric, LONGEST_LABEL)}; blue: significant, gray: not significant")
    axes.grid(alpha=0.3, axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figures.save_figure(figure, path)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, LONGEST_LABEL))


def _draw_by_option(path: Path, overview: Overview, option: str) -> None:
    """Draw the metric and the training time against an option: a point a run, and mean and std of each group.

    Groups that are alike in all other options have a color, and stand beside the others with the same value.
    """
    runs = [run for run in overview.runs if overview.metric in run.scores]
    positions, ticks, is_log = _positions([overview.options[option][run] for run in runs])
    position_of = dict(zip(runs, positions, strict=True))
    alike = _alike(overview, option)
    shifts = _shifts(sorted(set(positions)), len(alike), is_log)
    figure = blank_figure(8.5, 6.5 + 0.1 * len(alike))
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, metric in ((upper, overview.metric), (lower, "train_time")):
        for (_, color, groups), shift in reversed(list(zip(alike, shifts, strict=True))):  # the best on top
            shifted = {run: position * shift if is_log else position + shift for run, position in position_of.items()}
            _draw_alike(axes, groups, metric, shifted, color)
        axes.set_ylabel("training time, s" if metric == "train_time" else plain(metric, LONGEST_LABEL))
        axes.grid(alpha=0.3)
    if _is_wide([run.scores.get("train_time", 0) for run in runs]):
        lower.set_yscale("log")
    else:
        lower.set_ylim(bottom=0, top=1.08 * lower.dataLim.y1)
    if is_log:
        lower.set_xscale("log")
    if ticks:
        is_long = sum(map(len, ticks.values())) >= 70
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
        lower.set_xticks(list(ticks), list(ticks.values()), **turned)
        lower.set_xticks([], minor=True)
    lower.margins(x=0.08)
    lower.set_xlabel(plain(option, LONGEST_LABEL))
    handles = [Line2D([], [], color=color, marker="o", label=label) for label, color, _ in alike if label]
    handles.append(Line2D([], [], color="black", linestyle="", marker="o", alpha=0.5, label="a run"))
    if any(len(group.runs) > 1 for group in overview.groups):
        handles.append(Line2D([], [], color="black", marker="|", label="mean and std over seeds or folds"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figures.save_figure(figure, path)


def _alike(overview: Overview, option: str) -> list[tuple[str, str, list[Group]]]:
    """Return the groups that differ in `option` alone, together: what they are called, a color, and them; best first.

    Of many such only the best have a color, and the others one for all of them.
    """
    found = defaultdict(list)
    for group in overview.groups:
        rest = {name: value for name, value in group.settings.items() if name != option}
        found[tuple(rest.items())].append(group)
    names = [words(dict(rest), dict(rest)) if rest else "" for rest in found]
    units = [(plain(name, LONGEST_LABEL), color, some)
             for name, color, some in zip(names, COLORS, found.values(), strict=False)]  # fmt: skip
    others = list(found.values())[len(COLORS) :]
    return [*units, *((f"{len(others)} other settings" if some is others[0] else "", OTHERS_COLOR, some)
                      for some in others)]  # fmt: skip


def _shifts(positions: list[float], count: int, is_log: bool) -> list[float]:
    """Return by how much each of `count` series stands beside its place, or how many times, so that none hides another.

    Together they take a third of the least distance between two places, and no more than a twelfth of all.
    """
    places = np.log(positions) if is_log else np.array(positions)
    room = min(np.diff(places).min() / 3, np.ptp(places) / 12) if len(places) > 1 else 0.0
    shifts = room * (np.arange(count) / max(count - 1, 1) - 0.5) if count > 1 else np.zeros(count)
    return (np.exp(shifts) if is_log else shifts).tolist()


def _draw_alike(axes: Axes, groups: list[Group], metric: str, position_of: dict, color: str) -> None:
    """Draw the runs of groups that differ in one option alone, of each mean and std, and lines through the means."""
    centers, is_best = [], color != OTHERS_COLOR
    for group in groups:
        runs = [run for run in group.runs if run in position_of and metric in run.scores]
        values = [run.scores[metric] for run in runs]
        if not values:
            continue
        places = [position_of[run] for run in runs]
        for place, value, step in zip(places, values, side_by_side(values), strict=True):
            [point] = axes.plot(place, value, "o", color=color, alpha=0.5, markersize=5, markeredgewidth=0)
            if step:
                aside = ScaledTranslation(step / 72, 0, axes.figure.dpi_scale_trans)
                point.set_transform(axes.transData + aside)
        centers.append((places[0], float(np.mean(values))))
        if len(values) > 1 and is_best:
            axes.errorbar(*centers[-1], np.std(values, ddof=1), fmt="_", color=color, markersize=10, capsize=4,
                          markeredgewidth=2)  # fmt: skip
    if len(centers) > 1:
        axes.plot(*zip(*sorted(centers), strict=True), "-", color=color, linewidth=1, alpha=0.7 if is_best else 0.4)


def side_by_side(values: Sequence[float]) -> list[float]:
    """Return by how many points of print each value stands beside its place, so that equal ones are all seen."""
    written = [f"{value:.4g}" for value in values]
    aside = []
    for number, text in enumerate(written):
        count, before = written.count(text), written[:number].count(text)
        aside.append(min(APART, WIDEST / count) * (before - (count - 1) / 2))
    return aside


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
    """Return the best groups, each in a color, and all others in one."""
    best, others = overview.groups[: len(COLORS)], overview.groups[len(COLORS) :]
    names = short_names(best) if len(overview.groups) > 1 else [best[0].name or best[0].dataset]
    units = []
    for group, name, color in zip(best, names, COLORS, strict=False):
        label = plain(name, LONGEST_LABEL) + plain(group.made_of, LONGEST_LABEL)
        units.append((label, color, [group.runs]))
    label = f"{len(others)} other groups, validation only"
    return [*units, (label, OTHERS_COLOR, [group.runs for group in others])] if others else units


def _draw_group(axes: Axes, runs: list[FinishedRun], quantity: str, by_time: bool, color: str) -> None:
    is_best = color != OTHERS_COLOR
    styles = {f"val_{quantity}": {"linestyle": "-", "linewidth": 1.6 if is_best else 0.7, "alpha": 0.9}}
    if is_best and not by_time:
        styles[f"train_{quantity}"] = {"linestyle": "--", "linewidth": 0.8, "alpha": 0.55}
    for key, style in styles.items():
        places, values = _curves_of(runs, key, by_time)
        if len(places):
            marker = "o" if len(places) < 4 else None
            axes.plot(places, values.mean(axis=1), color=color, marker=marker, markersize=3, **style)
        if len(places) and values.shape[1] > 1 and is_best and key.startswith("val_"):
            low, high = values.min(axis=1), values.max(axis=1)
            axes.fill_between(places, low, high, color=color, alpha=BAND, linewidth=0)


def _curves_of(runs: list[FinishedRun], key: str, by_time: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return places on the x axis, and the values there (places, runs): as far as all go that have not diverged."""
    of_epoch = defaultdict(list)
    going = [run for run in runs if not run.diverged] or runs
    for run in going:
        for time, record in zip(run.times, run.epochs, strict=True):
            if key in record:
                of_epoch[record["epoch"]].append((time if by_time else record["epoch"], record[key]))
    points = np.array([some for _, some in sorted(of_epoch.items()) if len(some) == len(going)])
    return (points[:, :, 0].mean(axis=1), points[:, :, 1]) if len(points) else (points, points)


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
