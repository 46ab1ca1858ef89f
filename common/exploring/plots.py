"""The pictures of common/exploring/explore.py."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common import figures
from common.data.arrays import Part
from common.figures import SHEET_COLUMNS, WRONG_COLOR, blank_figure, plain, sheets_figure

SAMPLES = 5 * SHEET_COLUMNS
PART_COLOURS = {"train": "#1f77b4", "val": "#d95f02", "test": "#7570b3"}
CHANNEL_COLOURS, CHANNEL_NAMES = ("#d62728", "#2ca02c", "#1f77b4"), ("red", "green", "blue")
MOST_BARS = 200  # classes whose bars have names one can read
PEAK = (
    0.05  # a histogram with a larger share in one bin is drawn with a logarithmic axis, or one would see nothing else
)
PAIRS = 24  # of exact and of near copies
LONGEST_ID = 20  # characters; of an id the last ones tell most


def draw_class_counts(path: Path, parts: dict[str, dict]) -> None:
    """Draw a bar for each class, of the first MOST_BARS, with the images of all parts one after the other.

    Args:
        parts: "train", "val" and "test" as in explore.json.
    """
    names = list(parts["train"]["per_class"])[:MOST_BARS]
    figure = blank_figure(9, 1.6 + max(0.16, 0.36 - 0.006 * len(names)) * len(names))
    axes = figure.subplots()
    left = np.zeros(len(names))
    for part, described in parts.items():
        counts = np.array([described["per_class"][name] for name in names])
        if described["unlabelled"] < described["images"]:
            label = f"{part}: {described['images']:,} images"
            axes.barh(range(len(names)), counts, left=left, color=PART_COLOURS[part], label=label)
        else:
            axes.barh([0], [0], color="none", label=f"{part}: {described['images']:,} images without labels")
        left += counts
    axes.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=9 if len(names) <= 40 else 7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max(1, 1.02 * left.max()))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    count = len(parts["train"]["per_class"])
    axes.set_xlabel("images" if count <= MOST_BARS else f"images, the first {MOST_BARS} of {count:,} classes")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    figures.save_figure(figure, path)


def draw_images(path: Path, part: Part) -> None:
    """Draw all images of a (small) part as they are stored, sorted by class, with the names of their classes."""
    images, labels = part.dataset.batch(part.samples)
    order = torch.argsort(labels, stable=True)
    titles = [(_class_name(label, part.dataset.classes), "black") for label in labels[order].tolist()]
    heading = f"training images ({images.shape[3]}x{images.shape[2]} pixels)"
    figures.save_figure(sheets_figure([(heading, _upright(images[order]), titles)]), path)


def draw_mean_images(path: Path, means: torch.Tensor, classes: Sequence[str]) -> None:
    """Draw the mean image of each class.

    Args:
        means: (n, C, H, W) from 0 to 1 of the first n classes; NaN where a class has no image.
    """
    shown = [label for label in range(len(means)) if not means[label].isnan().any()]
    titles = [(plain(classes[label]), "black") for label in shown]
    heading = "the mean training image of each class"
    if len(means) < len(classes):
        heading += f", the first {len(means)} of {len(classes):,}"
    columns = SHEET_COLUMNS if len(shown) <= 40 else 10 if len(shown) <= 100 else 16
    figures.save_figure(sheets_figure([(heading, _upright(means[shown]), titles)], columns), path)


def draw_histogram(path: Path, pixels: dict) -> None:
    """Draw how frequent each value of a pixel is, by channel, with mean and standard deviation.

    Args:
        pixels: `mean`, `std`, `histogram` and `greyscale` as in explore.json.
    """
    counts = np.array(pixels["histogram"], dtype=float)
    shares = counts / counts.sum(1, keepdims=True)
    colours, names = CHANNEL_COLOURS, CHANNEL_NAMES
    if pixels["greyscale"] == 1:  # three curves would lie on each other
        shares, colours, names = shares[:1], ("#404040",), ("grey",)
    figure = blank_figure(9, 4.5)
    axes = figure.subplots()
    levels = np.arange(256) / 255
    for place, share in enumerate(shares):
        mean, std = pixels["mean"][place], pixels["std"][place]
        seen = np.where(share > 0, share, np.nan)
        marker = {"marker": "o", "markersize": 2} if (share > 0).sum() < 64 else {}  # few levels stand alone
        axes.plot(levels, seen, color=colours[place], linewidth=1, **marker,
                  label=f"{names[place]}: mean {mean:.4f}, standard deviation {std:.4f}")  # fmt: skip
        axes.axvline(mean, color=colours[place], linestyle="--", linewidth=1)
        axes.axvspan(mean - std, mean + std, color=colours[place], alpha=0.06, linewidth=0)
    is_peaked = shares.max() > PEAK
    if is_peaked:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0)
    axes.set(xlim=(-0.01, 1.01), xlabel="value, 0 dark to 1 bright (dashed: mean; shaded: one standard deviation)",
             ylabel=f"share of the training pixels{' (logarithmic)' if is_peaked else ''}")  # fmt: skip
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(shares), fontsize=8, frameon=False)
    figures.save_figure(figure, path)


def draw_correlation(path: Path, correlation: dict) -> None:
    """Draw how much pixels correlate with others at a distance, and the channels with each other.

    Args:
        correlation: as in explore.json.
    """
    figure = blank_figure(10.5, 4.2)
    decay, channels = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for direction, marker in (("horizontal", "o"), ("vertical", "s")):
        values = [np.nan if value is None else value for value in correlation[direction]]
        decay.plot(correlation["distance"], values, marker=marker, label=f"{direction}ly")
    decay.axhline(0, color="grey", linewidth=0.8)
    decay.set(xlabel="distance in pixels", ylabel="correlation of grey values", title="pixels and their neighbours")
    decay.set_ylim(top=1.02)
    decay.xaxis.get_major_locator().set_params(integer=True)
    decay.grid(alpha=0.3)
    decay.legend()

    matrix = np.array(correlation["channels"], dtype=float)
    image = channels.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        text, colour = ("-", "black") if np.isnan(value) else (f"{value:.3f}", "white" if abs(value) > 0.6 else "black")
        channels.text(column, row, text, ha="center", va="center", color=colour)
    channels.set_xticks(range(len(matrix)), CHANNEL_NAMES)
    channels.set_yticks(range(len(matrix)), CHANNEL_NAMES)
    channels.set_title("channels")
    figure.colorbar(image, ax=channels, label="correlation", fraction=0.046)
    figures.save_figure(figure, path)


def draw_copies(path: Path, copies: Sequence, parts: dict[str, Part]) -> None:
    """Draw pairs of copies side by side, three in a row, with part, class and id; red where the classes differ.

    Args:
        copies: of common.exploring.copies.Copy, the most interesting first.
    """
    sheets = []
    for is_exact, kind in ((True, "the same pixels"), (False, "nearly the same")):
        of_kind = [copy for copy in copies if copy.exact == is_exact]
        if of_kind:
            shown = f" (the first {PAIRS} of {len(of_kind):,} pairs)" if len(of_kind) > PAIRS else ""
            images, titles = [], []
            for number, copy in enumerate(of_kind[:PAIRS]):
                _add_pair(images, titles, copy, parts)
                if number % 3 < 2:  # a gap between the pairs of a row
                    images.append(np.ones_like(images[-1]))
                    titles.append((" ", "black"))
            sheets.append((f"{kind}{shown}; red: two different labels", np.stack(images), titles))
    figures.save_figure(sheets_figure(sheets), path)


def _add_pair(images: list[np.ndarray], titles: list[tuple[str, str]], copy, parts: dict[str, Part]) -> None:
    """Append both images, (H, W, C) from 0 to 1, and their titles."""
    colour = WRONG_COLOR if copy.labels_differ else "black"
    lines = ["", "" if copy.exact else f"{'mirrored ' if copy.mirrored else ''}{copy.correlation:.2f}"]
    for part, sample, label, line in zip(copy.parts, copy.samples, copy.labels, lines, strict=True):
        dataset = parts[part].dataset
        images.append(_upright(dataset.batch(torch.tensor([sample]))[0])[0])
        identifier = dataset.ids[sample]
        tail = identifier if len(identifier) <= LONGEST_ID else "…" + identifier[1 - LONGEST_ID :]
        words = f"{part} {line}".strip()
        titles.append((f"{words}\n{_class_name(label, dataset.classes)}\n{plain(tail, LONGEST_ID)}", colour))


def _class_name(label: int, classes: Sequence[str]) -> str:
    return plain(classes[label]) if label >= 0 else "no label"


def _upright(images: torch.Tensor) -> np.ndarray:
    """Return (n, C, H, W), uint8 or from 0 to 1, as (n, H, W, C) float from 0 to 1."""
    pixels = images.permute(0, 2, 3, 1)
    return (pixels.float() / 255 if images.dtype == torch.uint8 else pixels).numpy()
