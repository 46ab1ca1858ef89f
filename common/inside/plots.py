"""The pictures of the inside of a network, and `inside.json`. What they show is computed in watch.py and maps.py.

`records` are those of a `Watch`, `kinds` what `layer_kinds` returns, `probabilities` (N, classes) what the network
gives for the images. Every function that draws raises NotThere, with the reason, where there is nothing to draw.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from common import figures
from common.data.batches import Batches
from common.figures import blank_figure, plain
from common.inside.maps import (
    NotThere,
    feature_maps,
    first_filters,
    grad_cam,
    last_spatial_layer,
    layer_kinds,
    name_of_layer,
)
from common.inside.watch import Watch
from common.models.placement import device_of
from common.system.files import write_json
from common.system.log import info

GOOD_UPDATE = 1e-3  # Karpathy: "CS231n", notes on "Neural Networks Split 3": the rule of thumb for update / weights
MOST_LINES = 12  # layers that can be told apart as lines; more become a heat map
MOST_NAMES = 180  # layers whose names fit beside a heat map
MOST_FILTERS = 100
MAPS_IN_ROW, MAPPED_LAYERS = 10, 6
IMAGES_OF_A_KIND = 8  # right ones, and wrong ones
NO_VALUE_COLOR = "#d9d9d9"
MARKERS = "os^vD*"
NO_STEP = "no step of the training was recorded"


def look_inside(
    folder: Path, model: nn.Module, watch: Watch, images: Batches, probabilities: np.ndarray, classes: list[str]
) -> None:
    """Write `inside.json` and draw all pictures of this module into `folder`; say which cannot be drawn, and why.

    The trained `model` is afterwards as it was; `images` are test or validation images, with or without labels.
    """
    kinds = layer_kinds(model)
    shown = _shown_places(np.array(images.split.labels), probabilities)
    first = next(iter(shown.values()))[0]
    pictures = {
        "gradients.png": lambda path: draw_gradients(path, watch.records, kinds),
        "updates.png": lambda path: draw_updates(path, watch.records, kinds),
        "activations.png": lambda path: draw_activations(path, watch.records, kinds),
        "filters.png": lambda path: draw_filters(path, watch.initial_filters, first_filters(model)),
        "feature_maps.png": lambda path: draw_feature_maps(path, model, images, first, probabilities, classes),
        "grad_cam.png": lambda path: draw_grad_cam(path, model, images, shown, probabilities, classes),
    }
    skipped = {}
    for name, draw in pictures.items():
        try:
            draw(folder / name)
        except NotThere as reason:
            skipped[name] = str(reason)
            info(f"no {name}: {reason}")
    content = {"watched_every": watch.every, "layers": kinds, "epochs": watch.records, "skipped": skipped}
    write_json(folder / "inside.json", content)


def draw_gradients(path: Path, records: list[dict], kinds: dict[str, str]) -> None:
    """Draw the gradient norm of each layer by epoch, on a logarithmic scale."""
    names, (values,) = _recorded(records, kinds, ["gradient_norm"], NO_STEP)
    shown = HeatMap(values, "L2 norm of the gradient", _log_norm(values))
    few = len(names) <= MOST_LINES
    figure = _lines(names, values, records, shown.label) if few else _heat_maps(names, records, [shown])
    figures.save_figure(figure, path, "Gradient norm of each layer, mean of the watched steps of an epoch")


def draw_updates(path: Path, records: list[dict], kinds: dict[str, str]) -> None:
    """Draw by how much a step changes the weights of each layer, by epoch, against the rule of thumb of 1e-3."""
    names, (values,) = _recorded(records, kinds, ["update_ratio"], NO_STEP)
    if len(names) <= MOST_LINES:
        figure = _lines(names, values, records, "L2 of the update / L2 of the weights", GOOD_UPDATE)
    else:
        norm = _log_norm(values)
        reach = min(max(norm.vmax / GOOD_UPDATE, GOOD_UPDATE / norm.vmin, 10), 1e4)
        norm.vmin, norm.vmax = GOOD_UPDATE / reach, GOOD_UPDATE * reach
        label = "update / weights (white: 0.001, the rule of thumb; red: larger steps; blue: smaller)"
        figure = _heat_maps(names, records, [HeatMap(values, label, norm, "RdBu_r")])
    figures.save_figure(figure, path, "Change by a step / weights, of each layer (L2 norms, mean of the watched steps)")


def draw_activations(path: Path, records: list[dict], kinds: dict[str, str]) -> None:
    """Draw mean, standard deviation and share of dead units of what each layer gives, by epoch, as heat maps."""
    keys = ["activation_mean", "activation_std", "dead_share"]
    names, (means, deviations, dead) = _recorded(records, kinds, keys, "no outputs of layers were recorded")
    reach = float(np.nanquantile(np.abs(means), 0.98)) or 1.0  # a single large mean must not hide the others
    maps = [
        HeatMap(means, "mean", Normalize(-reach, reach), "RdBu_r", extend="both"),
        HeatMap(deviations, "standard deviation", _log_norm(deviations)),
    ]
    title = "Outputs of each layer for the same images after each epoch"
    if np.isnan(dead).all():
        title += "\n(no activation layers, of which to count dead units)"
    else:
        maps.append(HeatMap(dead, "share of dead units", Normalize(0, 1), "Reds", gray="no activation"))
    figures.save_figure(_heat_maps(names, records, maps), path, title)


def draw_filters(path: Path, before: torch.Tensor | None, after: torch.Tensor) -> None:
    """Draw the filters (filters, channels, h, w) before and after training, in the same scale, and the change.

    Filters of three channels are drawn in color, others as the mean of their channels.
    """
    if before is None or before.shape != after.shape:
        raise NotThere("the filters from before the training are not known")
    count, channels, height, width = after.shape
    largest, changed = _reach(torch.cat([before, after])), _reach(after - before)
    panels = {
        "before training": before / largest,
        "after training": after / largest,
        f"change (own scale: full brightness {changed:.2g})": (after - before) / changed,
    }
    mosaics = [_mosaic(filters[:MOST_FILTERS]) for filters in panels.values()]
    figure = blank_figure(14, 4.8 * mosaics[0].shape[0] / mosaics[0].shape[1] + 1.0)
    for axes, title, mosaic in zip(figure.subplots(1, 3), panels, mosaics, strict=True):
        axes.imshow(mosaic, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.axis("off")
    shown = "" if count <= MOST_FILTERS else f", the first {MOST_FILTERS}"
    colors = "" if channels in (1, 3) else f", mean of their {channels} channels"
    share = f"{float((after - before).norm() / before.norm()):.1%}" if before.any() else "more than all"
    title = f"The {count} filters ({height}x{width}) of the first convolution{shown}{colors}; gray is 0"
    title += f", full brightness {largest:.2g}; training changed them by {share} of their norm"
    figures.save_figure(figure, path, title)


def draw_feature_maps(
    path: Path, model: nn.Module, images: Batches, place: int, probabilities: np.ndarray, classes: list[str]
) -> None:
    """Draw the image at `place` and what layers from the first to the last make of it: the maps that vary most.

    Each map has its own scale, written above it: dark to bright is its least to its greatest number.
    """
    inputs, pictures, titles = figures.predicted(images, [place], probabilities, classes)
    maps = [(name, m) for name, m in feature_maps(model, inputs[0]).items() if m.shape[1:].numel() > 1]
    if not maps:
        raise NotThere("no convolution or activation gives maps of more than one place")
    kinds = layer_kinds(model)
    sheets = [("an image as the network sees it", pictures, titles)]
    for index in np.unique(np.linspace(0, len(maps) - 1, MAPPED_LAYERS).round().astype(int)):
        name, of_layer = maps[index]
        strongest = of_layer.flatten(1).std(1).argsort(descending=True, stable=True)[:MAPS_IN_ROW].tolist()
        channels, height, width = of_layer.shape
        heading = f"{_row_name(name, kinds)}: {len(strongest)} of {channels} maps of {height}x{width}"
        titles = [(f"channel {c}\n{of_layer[c].min():.2g} to {of_layer[c].max():.2g}", "black") for c in strongest]
        pictures = [colormaps["viridis"](Normalize()(of_layer[c].numpy()))[..., :3] for c in strongest]
        sheets.append((heading, pictures, titles))
    figures.save_sheets(path, sheets, columns=MAPS_IN_ROW)


def draw_grad_cam(
    path: Path, model: nn.Module, images: Batches, places: dict, probabilities: np.ndarray, classes: list[str]
) -> None:
    """Draw those `images` that `places` has below each heading, each beside itself with Grad-CAM's evidence over it."""
    sheets = []
    for heading, chosen in places.items():
        inputs, pictures, titles = figures.predicted(images, chosen, probabilities, classes)
        inputs = inputs.to(device_of(model))
        layer = last_spatial_layer(model, inputs)
        predicted = probabilities[chosen].argmax(1)
        heats = grad_cam(model, inputs, torch.from_numpy(predicted), layer).numpy()
        pairs, pair_titles = [], []
        for picture, title, label, heat in zip(pictures, titles, predicted, heats, strict=True):
            pairs += [picture, figures.with_heat(picture, heat)]
            pair_titles += [title, (f"{'' if heat.any() else 'no '}evidence for\n{plain(classes[label])}", "black")]
        kind = layer_kinds(model).get(name_of_layer(layer), "")
        sheets.append((f"{heading}: Grad-CAM at {plain(layer, 60)} {kind}", pairs, pair_titles))
    scale, title = figures.heat_scale(len(pairs[0]))
    sheets[-1] = (sheets[-1][0], [*pairs, scale], [*pair_titles, title])
    figures.save_sheets(path, sheets, in_pairs=True)


def _shown_places(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, list[int]]:
    """Return heading -> places of some images that are right, and of some that are wrong, or of any without labels."""
    random = np.array(figures.random_places(len(labels)))
    if (labels < 0).any():
        return {"images without labels": random[: 2 * IMAGES_OF_A_KIND].tolist()}
    is_correct = (probabilities.argmax(1) == labels)[random]
    found = {"right": random[is_correct], "wrong": random[~is_correct]}
    return {heading: places[:IMAGES_OF_A_KIND].tolist() for heading, places in found.items() if len(places)}


def _recorded(records: list[dict], kinds: dict[str, str], keys: list[str], missing: str) -> tuple[list, np.ndarray]:
    """Return names of layers and (keys, layers, epochs) float64 of what was recorded of them, NaN where nothing was.

    Layers of which the first key was never recorded are left out; NotThere, with the text `missing`, if all are.
    """
    names = list(dict.fromkeys(name for record in records for name in record["layers"]))
    numbers = [record["layers"].get(name, {}).get(key) for key in keys for name in names for record in records]
    values = np.array(numbers, float).reshape(len(keys), len(names), len(records))  # None becomes NaN
    used = ~np.isnan(values[0]).all(1)
    if not used.any():
        raise NotThere(missing)
    return [_row_name(names[place], kinds) for place in np.flatnonzero(used)], values[:, used]


def _lines(
    names: list[str], values: np.ndarray, records: list[dict], label: str, rule_of_thumb: float | None = None
) -> Figure:
    """Return a figure with a line for each layer, from blue (first) to red (last)."""
    figure = blank_figure(10, 5.5)
    axes = figure.subplots()
    epochs = [record["epoch"] for record in records]
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    for place, (name, of_layer, color) in enumerate(zip(names, values, colors, strict=True)):
        axes.plot(epochs, of_layer, color=color, marker=MARKERS[place % len(MARKERS)], markersize=4,
                  markevery=max(1, len(epochs) // 15), linewidth=1.3, label=name)  # fmt: skip
    if rule_of_thumb:
        axes.axhline(rule_of_thumb, color="black", ls="--", lw=1.2, label=f"rule of thumb: {rule_of_thumb}")
    axes.set(ylabel=label, yscale="log")
    figures.epoch_axis(axes, epochs)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


class HeatMap(NamedTuple):
    """What one panel shows: `values` (layers, epochs), what they are, and how they become colors; NaN is gray."""

    values: np.ndarray
    label: str
    norm: Normalize
    colors: str = "viridis"
    gray: str = "frozen or not used"
    extend: str = "neither"


def _heat_maps(names: list[str], records: list[dict], maps: list[HeatMap]) -> Figure:
    """Return a figure, high enough for the names of the layers, with the maps side by side, the first layer on top."""
    figure = blank_figure(12 if len(maps) > 2 else 9, min(max(0.17 * len(names) + 1.8, 4), 22))
    extent = (records[0]["epoch"] - 0.5, records[-1]["epoch"] + 0.5, len(names) - 0.5, -0.5)
    for axes, shown in zip(figure.subplots(1, len(maps), squeeze=False)[0], maps, strict=True):
        colors = colormaps[shown.colors].with_extremes(bad=NO_VALUE_COLOR)
        image = axes.imshow(shown.values, colors, shown.norm, aspect="auto", interpolation="nearest", extent=extent)
        ticks, style = MaxNLocator(5), None
        if isinstance(shown.norm, LogNorm):  # its own ticks run into each other where the scale is short
            ticks, style = np.geomspace(shown.norm.vmin, shown.norm.vmax, 5), "{x:.2g}"
        bar = figure.colorbar(image, ax=axes, location="bottom", pad=0.01, aspect=40, extend=shown.extend,
                              ticks=ticks, format=style)  # fmt: skip
        bar.set_label(shown.label, fontsize=9)
        bar.minorticks_off()
        bar.ax.tick_params(labelsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(f"epoch (gray: {shown.gray})" if np.isnan(shown.values).any() else "epoch")
        axes.set_title(shown.label if len(maps) > 1 else "", fontsize=10)
        axes.set_yticks([])
    rows = range(0, len(names), math.ceil(len(names) / MOST_NAMES))
    figure.axes[0].set_yticks(rows, [names[row] for row in rows], fontsize=7 if len(names) > 20 else 9)
    return figure


def _row_name(name: str, kinds: dict[str, str]) -> str:
    return plain(f"{name} {kinds.get(name_of_layer(name), '')}".strip(), longest=44)


def _log_norm(values: np.ndarray) -> LogNorm:
    """Return a logarithmic scale for `values`: at most six powers of ten; 0 gets the lowest color."""
    positive = values[values > 0]
    if not len(positive):
        return LogNorm(1e-6, 1.0, clip=True)
    low, high = float(positive.min()), float(positive.max())
    return LogNorm(max(low, high * 1e-6) / 1.1, high * 1.1, clip=True)


def _reach(filters: torch.Tensor) -> float:
    """Return the number that is drawn at full brightness: a single larger weight must not darken all others."""
    return float(filters.abs().flatten().quantile(0.995, interpolation="lower")) or 1.0


def _mosaic(filters: torch.Tensor) -> np.ndarray:
    """(N, channels, h, w) from -1 to 1 -> one picture (rows, columns, 3), with white gaps, about as wide as high."""
    from torchvision.utils import make_grid  # takes a second to import

    filters = filters if filters.shape[1] == 3 else filters.mean(1, keepdim=True)
    columns = math.ceil(math.sqrt(len(filters)))
    return make_grid((filters / 2 + 0.5).clamp(0, 1), columns, padding=1, pad_value=1).permute(1, 2, 0).numpy()
