"""The pictures of the inside of a network, and `inside.json`. What they show is computed in watch.py and maps.py."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from common import figures
from common.data.batches import Batches
from common.figures import blank_figure, plain, random_places, sheets_figure, verdict, viewable
from common.inside.layers import NotThere, layer_kinds, name_of_layer
from common.inside.maps import feature_maps, first_filters, grad_cam, last_spatial_layer
from common.inside.watch import Watch
from common.system.files import write_json
from common.system.log import say

GOOD_UPDATE = 1e-3  # Karpathy: "CS231n", notes on "Neural Networks Part 3": the rule of thumb for update / weights
MOST_LINES = 12  # layers that can be told apart as lines; more become a heat map
MOST_FILTERS = 100
MAPS_IN_ROW, MAPPED_LAYERS = 10, 6
IMAGES_OF_A_KIND = 8  # right ones, and wrong ones
NO_VALUE_COLOUR = "#d9d9d9"
MARKERS = "os^vD*"


def look_inside(
    folder: Path, model: nn.Module, watch: Watch, images: Batches, probabilities: np.ndarray, classes: list[str]
) -> None:
    """Write `inside.json` and draw all pictures of this module; say which cannot be drawn, and why.

    Args:
        folder: the run folder.
        model: the trained network; it is afterwards as it was.
        watch: what was recorded while it was trained.
        images: test or validation images, with or without labels.
        probabilities: (N, classes) that the network gives for them, in their order.
        classes: names.
    """
    kinds = layer_kinds(model)
    shown = _shown_places(np.array(images.part.labels), probabilities)
    pictures: dict[str, Callable[[Path], None]] = {
        "gradients.png": lambda path: draw_gradients(path, watch.records, kinds),
        "updates.png": lambda path: draw_updates(path, watch.records, kinds),
        "activations.png": lambda path: draw_activations(path, watch.records, kinds),
        "filters.png": lambda path: draw_filters(path, watch.initial_filters, first_filters(model)),
        "feature_maps.png": lambda path: draw_feature_maps(
            path, model, images, next(iter(shown.values()))[0], probabilities, classes
        ),
        "grad_cam.png": lambda path: draw_grad_cam(path, model, images, shown, probabilities, classes),
    }
    skipped = {}
    for name, draw in pictures.items():
        try:
            draw(folder / name)
        except NotThere as reason:
            skipped[name] = str(reason)
            say(f"no {name}: {reason}")
    content = {"watched_every": watch.every, "layers": kinds, "epochs": watch.records, "skipped": skipped}
    write_json(folder / "inside.json", content)


def draw_gradients(path: Path, records: list[dict], kinds: dict[str, str]) -> None:
    """Draw the gradient norm of each layer by epoch, on a logarithmic scale.

    Args:
        records: of a `Watch`. kinds: of `layer_kinds`.

    Raises:
        NotThere: nothing was recorded.
    """
    names, values = _trained_layers(records, "gradient_norm")
    title = "Gradient norm of each layer, mean of the watched steps of an epoch"
    if len(names) <= MOST_LINES:
        figure, _ = _lines(values, names, kinds, records, "L2 norm of the gradient")
    else:
        figure, axes = _tall_figure(len(names), 9)
        _heat_map(axes, values, records, LogNorm(*_positive_limits(values)), "viridis", "L2 norm of the gradient")
        _name_rows(axes, names, kinds)
    _entitle(figure, title)
    figures.save_figure(figure, path)


def draw_updates(path: Path, records: list[dict], kinds: dict[str, str]) -> None:
    """Draw by how much a step changes the weights of each layer, by epoch, against the rule of thumb of 1e-3.

    Args:
        records: of a `Watch`. kinds: of `layer_kinds`.

    Raises:
        NotThere: nothing was recorded.
    """
    names, values = _trained_layers(records, "update_ratio")
    title = "Change by a step / weights, of each layer (L2 norms, mean of the watched steps)"
    if len(names) <= MOST_LINES:
        figure, axes = _lines(values, names, kinds, records, "L2 of the update / L2 of the weights")
        axes.axhline(GOOD_UPDATE, color="black", linestyle="--", linewidth=1.2, label="rule of thumb: 0.001")
    else:
        figure, axes = _tall_figure(len(names), 9)
        low, high = _positive_limits(values)
        reach = min(max(high / GOOD_UPDATE, GOOD_UPDATE / low, 10), 1e4)
        norm = LogNorm(GOOD_UPDATE / reach, GOOD_UPDATE * reach)
        label = "update / weights (white: 0.001, the rule of thumb; red: larger steps; blue: smaller)"
        _heat_map(axes, values, records, norm, "RdBu_r", label)
        _name_rows(axes, names, kinds)
    _entitle(figure, title)
    figures.save_figure(figure, path)


def draw_activations(path: Path, records: list[dict], kinds: dict[str, str]) -> None:
    """Draw mean, standard deviation and share of dead units of what each layer gives, by epoch, as heat maps.

    Args:
        records: of a `Watch`. kinds: of `layer_kinds`.

    Raises:
        NotThere: nothing was recorded.
    """
    all_names, means = _values(records, "activation_mean")
    used = np.flatnonzero(~np.isnan(means).all(1))
    if not len(used):
        raise NotThere("no outputs of layers were recorded")
    names, means = [all_names[row] for row in used], means[used]
    deviations, dead = (_values(records, key)[1][used] for key in ("activation_std", "dead_share"))
    has_activations = not np.isnan(dead).all()

    figure, all_axes = _tall_figure(len(names), 12 if has_activations else 9, columns=3 if has_activations else 2)
    reach = float(np.nanquantile(np.abs(means), 0.98)) or 1.0  # a single large mean must not hide the others
    panels = [
        ("mean", means, Normalize(-reach, reach), "RdBu_r", "mean"),
        ("standard deviation", deviations, LogNorm(*_positive_limits(deviations)), "viridis", "standard deviation"),
        ("share of dead units", dead, Normalize(0, 1), "Reds", "share of the units (grey: no activation)"),
    ]
    for axes, (title, values, norm, colours, label) in zip(all_axes, panels, strict=False):
        _heat_map(axes, values, records, norm, colours, label, explain_grey=title != "share of dead units")
        axes.set_title(title, fontsize=10)
        axes.set_yticks([])
    _name_rows(all_axes[0], names, kinds)
    missing = "" if has_activations else "\n(no activation layers, of which to count dead units)"
    _entitle(figure, f"Outputs of each layer for the same images after each epoch{missing}")
    figures.save_figure(figure, path)


def draw_filters(path: Path, before: torch.Tensor | None, after: torch.Tensor) -> None:
    """Draw the filters of a convolution before and after training, in the same scale, and the change.

    Filters of three channels are drawn in colour, others as the mean of their channels.

    Args:
        before, after: (filters, channels, h, w); `before` may be None.

    Raises:
        NotThere: there are none from before.
    """
    if before is None or before.shape != after.shape:
        raise NotThere("the filters from before the training are not known")
    count, channels, height, width = after.shape
    largest, changed = _reach(torch.cat([before, after])), _reach(after - before)
    panels = [
        ("before training", before / largest),
        ("after training", after / largest),
        (f"change (own scale: full brightness {changed:.2g})", (after - before) / changed),
    ]
    if channels != 3:
        panels = [(title, filters.mean(1, keepdim=True).expand(-1, 3, -1, -1)) for title, filters in panels]
    mosaics = [_mosaic((filters[:MOST_FILTERS] / 2 + 0.5).clamp(0, 1)) for _, filters in panels]
    figure = blank_figure(14, 4.8 * mosaics[0].shape[0] / mosaics[0].shape[1] + 1.0)
    for axes, (title, _), mosaic in zip(figure.subplots(1, 3), panels, mosaics, strict=True):
        axes.imshow(mosaic, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.axis("off")
    shown = "" if count <= MOST_FILTERS else f", the first {MOST_FILTERS}"
    colours = "" if channels in (1, 3) else f", mean of their {channels} channels"
    share = f"{float((after - before).norm() / before.norm()):.1%}" if before.any() else "more than all"
    figure.suptitle(
        f"The {count} filters ({height}x{width}) of the first convolution{shown}{colours}; grey is 0, full brightness "
        f"{largest:.2g}; training changed them by {share} of their norm",
        fontsize=11,
    )
    figures.save_figure(figure, path)


def draw_feature_maps(
    path: Path, model: nn.Module, images: Batches, place: int, probabilities: np.ndarray, classes: list[str]
) -> None:
    """Draw one image and what layers from the first to the last make of it: the maps that vary most.

    Each map has its own scale, written above it: dark to bright is its least to its greatest number.

    Args:
        place: of the image among `images`. probabilities: (N, classes).

    Raises:
        NotThere: no convolution or activation gives maps.
    """
    inputs, labels = _inputs(images, [place])
    maps = {name: m for name, m in feature_maps(model, inputs[0]).items() if m.shape[1:].numel() > 1}
    if not maps:
        raise NotThere("no convolution or activation gives maps of more than one place")
    kinds = layer_kinds(model)
    title = verdict(int(labels[0]), probabilities[place], classes)
    sheets = [("an image as the network sees it", _coloured(viewable(inputs, images.transform)), [title])]
    for index in np.unique(np.linspace(0, len(maps) - 1, MAPPED_LAYERS).round().astype(int)):
        name, layer_maps = list(maps.items())[index]
        strongest = layer_maps.flatten(1).std(1).argsort(descending=True, stable=True)[:MAPS_IN_ROW]
        channels, height, width = layer_maps.shape
        heading = f"{_row_name(name, kinds)}: {len(strongest)} of {channels} maps of {height}x{width}"
        titles = [(f"channel {c}\n{layer_maps[c].min():.2g} to {layer_maps[c].max():.2g}", "black") for c in strongest]
        sheets.append((heading, np.stack([_heat(layer_maps[channel].numpy()) for channel in strongest]), titles))
    figure = sheets_figure(sheets, columns=MAPS_IN_ROW)
    figures.save_figure(figure, path)


def draw_grad_cam(
    path: Path,
    model: nn.Module,
    images: Batches,
    places: dict[str, list[int]],
    probabilities: np.ndarray,
    classes: list[str],
) -> None:
    """Draw images, each beside the same with Grad-CAM's evidence for the predicted class laid over it.

    Args:
        places: heading -> which of `images`. probabilities: (N, classes).

    Raises:
        NotThere: no layer of the network has an output with places.
    """
    sheets = []
    for heading, chosen in places.items():
        inputs, labels = _inputs(images, chosen)
        inputs = inputs.to(next(model.parameters()).device)
        layer = last_spatial_layer(model, inputs)
        predicted = probabilities[chosen].argmax(1)
        heat = grad_cam(model, inputs, torch.from_numpy(predicted), layer).numpy()
        pictures, titles = [], []
        for place, image, label, of_image in zip(
            chosen, _coloured(viewable(inputs, images.transform)), labels.tolist(), heat, strict=True
        ):
            text, colour = verdict(label, probabilities[place], classes)
            pictures += [image, _overlay(image, of_image)]
            found = "evidence for" if of_image.any() else "no evidence for"
            titles += [(text, colour), (f"{found}\n{plain(classes[probabilities[place].argmax()])}", "black")]
        kind = layer_kinds(model).get(name_of_layer(layer), "")
        sheets.append((f"{heading}: Grad-CAM at {plain(layer, 60)} {kind}", np.stack(pictures), titles))
    figures.save_figure(sheets_figure(sheets), path)


def _shown_places(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, list[int]]:
    """Return heading -> places of some images that are right, and of some that are wrong, or of any without labels."""
    random = random_places(len(labels))
    if (labels < 0).any():
        return {"images without labels": random[: 2 * IMAGES_OF_A_KIND]}
    is_right = probabilities.argmax(1) == labels
    right = [place for place in random if is_right[place]][:IMAGES_OF_A_KIND]
    wrong = [place for place in random if not is_right[place]][:IMAGES_OF_A_KIND]
    return {heading: places for heading, places in (("right", right), ("wrong", wrong)) if places}


def _inputs(images: Batches, places: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = images.part.dataset.batch(images.part.samples[places])
    return images.transform(pixels), labels


def _values(records: list[dict], key: str) -> tuple[list[str], np.ndarray]:
    """Return the names of all layers, and (layers, epochs) float64 of what was recorded, NaN where nothing was."""
    names = list(dict.fromkeys(name for record in records for name in record["layers"]))
    values = np.full((len(names), len(records)), np.nan)
    for column, record in enumerate(records):
        for row, name in enumerate(names):
            value = record["layers"].get(name, {}).get(key)
            values[row, column] = np.nan if value is None else value
    return names, values


def _trained_layers(records: list[dict], key: str) -> tuple[list[str], np.ndarray]:
    """Return what `_values` returns, without the layers that have no value in any epoch."""
    names, values = _values(records, key)
    trained = np.flatnonzero(~np.isnan(values).all(1))
    if not len(trained):
        raise NotThere("no step of the training was recorded")
    return [names[row] for row in trained], values[trained]


def _lines(values, names, kinds, records, label: str) -> tuple[Figure, Axes]:
    """Return a figure, and its axes, with a line for each layer, from blue (first) to red (last)."""
    figure = blank_figure(10, 5.5)
    axes = figure.subplots()
    epochs = [record["epoch"] for record in records]
    colours = colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    for row, name in enumerate(names):
        axes.plot(epochs, values[row], color=colours[row], marker=MARKERS[row % len(MARKERS)], markersize=4,
                  markevery=max(1, len(epochs) // 15), linewidth=1.3, label=_row_name(name, kinds))  # fmt: skip
    axes.set(xlabel="epoch", ylabel=label, yscale="log", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    return figure, axes


def _entitle(figure: Figure, title: str) -> None:
    """Write the title, and the legend if there are lines to explain."""
    figure.suptitle(title, fontsize=11)
    if figure.axes[0].lines:
        figure.legend(loc="outside right upper", fontsize=8)


def _tall_figure(rows: int, width: float, columns: int = 1):
    """Return a figure that is high enough for the names of `rows` layers, and its axes."""
    figure = blank_figure(width, min(max(0.17 * rows + 1.8, 4), 22))
    return figure, figure.subplots(1, columns)


def _heat_map(axes, values, records, norm, colours: str, label: str, explain_grey: bool = True) -> None:
    """Draw `values` (layers, epochs), the first layer at the top; NaN is grey."""
    if isinstance(norm, LogNorm):
        values = np.maximum(values, norm.vmin)  # a 0 has no logarithm, and would look like no value
    first, last = records[0]["epoch"], records[-1]["epoch"]
    image = axes.imshow(
        values,
        cmap=colormaps[colours].with_extremes(bad=NO_VALUE_COLOUR),
        norm=norm,
        aspect="auto",
        interpolation="nearest",
        extent=(first - 0.5, last + 0.5, len(values) - 0.5, -0.5),
    )
    extend = "both" if label == "mean" else "neither"
    colour_bar = axes.figure.colorbar(
        image, ax=axes, location="bottom", pad=0.01, aspect=40, extend=extend, ticks=MaxNLocator(5)
    )
    colour_bar.set_label(label, fontsize=9)
    if isinstance(norm, LogNorm):  # its own ticks run into each other where the scale is short
        ends_and_between = np.geomspace(norm.vmin, norm.vmax, 5)
        colour_bar.set_ticks(ends_and_between, labels=[f"{tick:.2g}" for tick in ends_and_between])
        colour_bar.minorticks_off()
    colour_bar.ax.tick_params(labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch (grey: frozen or not used)" if explain_grey and np.isnan(values).any() else "epoch")


def _name_rows(axes: Axes, names: list[str], kinds: dict[str, str]) -> None:
    step = math.ceil(len(names) / 180)  # so many fit
    rows = range(0, len(names), step)
    axes.set_yticks(rows, [_row_name(names[row], kinds) for row in rows], fontsize=7 if len(names) > 20 else 9)


def _row_name(name: str, kinds: dict[str, str]) -> str:
    return plain(f"{name} {kinds.get(name_of_layer(name), '')}".strip(), longest=44)


def _positive_limits(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of a logarithmic scale for `values`: at most six powers of ten, more than nothing."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return 1e-6, 1.0
    low, high = float(positive.min()), float(positive.max())
    return max(low, high * 1e-6) / 1.1, high * 1.1


def _reach(filters: torch.Tensor) -> float:
    """Return the number that is drawn at full brightness: a single larger weight must not darken all others."""
    sizes = filters.abs().flatten().sort().values
    return float(sizes[int(0.995 * (len(sizes) - 1))]) or 1.0


def _mosaic(filters: torch.Tensor) -> np.ndarray:
    """(N, 3, h, w) from 0 to 1 -> one picture (rows, columns, 3) of all, with white gaps, about as wide as high."""
    count, _, height, width = filters.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    picture = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3))
    for place, tile in enumerate(filters.permute(0, 2, 3, 1).numpy()):
        top, left = (place // columns) * (height + 1) + 1, (place % columns) * (width + 1) + 1
        picture[top : top + height, left : left + width] = tile
    return picture


def _heat(values: np.ndarray) -> np.ndarray:
    """(h, w) -> (h, w, 3) float from 0 to 1, from the darkest for the least to the brightest for the greatest."""
    low, high = values.min(), values.max()
    return colormaps["viridis"]((values - low) / (high - low if high > low else 1))[..., :3]


def _overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay `heat` (H, W) from 0 to 1 over `image` (H, W, 3): where it is 0 the image is as it was."""
    share = 0.65 * heat[..., None]
    return np.clip((1 - share) * image + share * colormaps["jet"](heat)[..., :3], 0, 1)


def _coloured(images: np.ndarray) -> np.ndarray:
    """Return `images` (N, H, W, 1 or 3) with three channels, which matplotlib needs."""
    return np.broadcast_to(images, (*images.shape[:3], 3))
