"""The pictures of common/exploring/explore.py; what most of them draw is an entry of explore.json."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common import figures
from common.data.arrays import Split
from common.exploring.copies import Copy, noteworthy
from common.exploring.pixels import balanced_sample
from common.figures import LONGEST_ON_AXIS, SHEET_COLUMNS, WRONG_COLOR, Title, blank_figure, plain

SAMPLES = 5 * SHEET_COLUMNS
SPLIT_COLORS = {"train": "#1f77b4", "val": "#d95f02", "test": "#7570b3"}
CHANNELS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f77b4"}
MOST_BARS = 200  # classes whose bars have names one can read
PEAK = 0.05  # a histogram with a larger share in one bin has a logarithmic axis, or one would see nothing else
PAIRS = 24  # of exact and of near copies
LONGEST_ID = 20  # characters; of an id the last ones tell most


def draw_class_counts(path: Path, splits: dict[str, dict]) -> None:
    """Draw a bar for each class, of the first MOST_BARS, with the images of all splits one after the other."""
    classes = list(splits["train"]["per_class"])
    names = classes[:MOST_BARS]
    axes = blank_figure(9, 1.6 + max(0.16, 0.36 - 0.006 * len(names)) * len(names)).subplots()
    left = np.zeros(len(names))
    for split, described in splits.items():
        has_labels = described["unlabelled"] < described["images"]
        label = f"{split}: {described['images']:,} images{'' if has_labels else ' without labels'}"
        counts = np.array([described["per_class"][name] for name in names])
        color = SPLIT_COLORS[split] if has_labels else "none"
        axes.barh(range(len(names)), counts, left=left, color=color, label=label)
        left += counts
    axes.set_yticks(
        range(len(names)), [plain(name, LONGEST_ON_AXIS) for name in names], fontsize=9 if len(names) <= 40 else 7
    )
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, max(1, 1.02 * left.max())))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    of_all = f", the first {MOST_BARS} of {len(classes):,} classes" if len(classes) > MOST_BARS else ""
    axes.set_xlabel(f"images{of_all}")
    axes.grid(axis="x", alpha=0.3)
    axes.figure.legend(loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    figures.save_figure(axes.figure, path)


def draw_samples(path: Path, train: Split) -> None:
    """Draw some training images as they are stored, sorted by class, with the names of their classes."""
    indices = balanced_sample(train, SAMPLES).indices
    images, labels = train.dataset.batch(indices[torch.argsort(train.dataset.labels[indices], stable=True)])
    titles = [(_class_name(label, train.dataset.classes), "black") for label in labels.tolist()]
    heading = f"training images ({images.shape[3]}x{images.shape[2]} pixels)"
    figures.save_sheets(path, [(heading, _upright(images / 255), titles)])


def draw_mean_images(path: Path, means: torch.Tensor, classes: list[str]) -> None:
    """Draw the mean image of each class: `means` (n, C, H, W) from 0 to 1 of the first n, NaN where there is none."""
    shown = [label for label, mean in enumerate(means) if not mean.isnan().any()]
    titles = [(plain(classes[label]), "black") for label in shown]
    of_all = f", the first {len(means)} of {len(classes):,}" if len(means) < len(classes) else ""
    columns = SHEET_COLUMNS if len(shown) <= 40 else 10 if len(shown) <= 100 else 16
    sheet = (f"the mean training image of each class{of_all}", _upright(means[shown]), titles)
    figures.save_sheets(path, [sheet], columns)


def draw_histogram(path: Path, pixels: dict) -> None:
    """Draw how frequent each value of a pixel is, by channel, with mean and standard deviation."""
    # Of grayscale images three curves would lie on each other.
    channels = {"gray": "#404040"} if pixels["greyscale"] == 1 else CHANNELS
    counts = np.array(pixels["histogram"][: len(channels)], dtype=float)
    shares = counts / counts.sum(1, keepdims=True)
    axes = blank_figure(9, 4.5).subplots()
    for (name, color), share, mean, std in zip(channels.items(), shares, pixels["mean"], pixels["std"], strict=False):
        marker = "o" if (share > 0).sum() < 64 else None  # few levels stand alone
        axes.plot(np.arange(256) / 255, np.where(share > 0, share, np.nan), color=color, linewidth=1, marker=marker,
                  markersize=2, label=f"{name}: mean {mean:.4f}, standard deviation {std:.4f}")  # fmt: skip
        axes.axvline(mean, color=color, linestyle="--", linewidth=1)
        axes.axvspan(mean - std, mean + std, color=color, alpha=0.06, linewidth=0)
    axes.set(xlim=(-0.01, 1.01), xlabel="value, 0 dark to 1 bright (dashed: mean; shaded: one standard deviation)")
    if shares.max() > PEAK:
        axes.set(yscale="log", ylabel="share of the training pixels (logarithmic)")
    else:
        axes.set(ylim=(0, None), ylabel="share of the training pixels")
    axes.grid(alpha=0.3)
    axes.figure.legend(loc="outside upper center", ncols=len(shares), fontsize=8, frameon=False)
    figures.save_figure(axes.figure, path)


def draw_correlation(path: Path, correlation: dict) -> None:
    """Draw how much pixels correlate with others at a distance, and the channels with each other."""
    figure = blank_figure(10.5, 4.2)
    decay, channels = figure.subplots(1, 2, width_ratios=(1.5, 1))
    for direction, marker in (("horizontal", "o"), ("vertical", "s")):
        values = np.array(correlation[direction], dtype=float)  # None becomes NaN
        decay.plot(correlation["distance"], values, marker=marker, label=f"{direction}ly")
    decay.axhline(0, color="gray", linewidth=0.8)
    decay.set(xlabel="distance in pixels", ylabel="correlation of gray values", title="pixels and their neighbors")
    decay.set_ylim(top=1.02)
    decay.xaxis.get_major_locator().set_params(integer=True)
    decay.grid(alpha=0.3)
    decay.legend()

    matrix = np.array(correlation["channels"], dtype=float)
    image = channels.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        text = "-" if np.isnan(value) else f"{value:.3f}"
        channels.text(column, row, text, ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
    ticks = range(len(matrix))
    channels.set(title="channels", xticks=ticks, xticklabels=CHANNELS, yticks=ticks, yticklabels=CHANNELS)
    figure.colorbar(image, ax=channels, label="correlation", fraction=0.046)
    figures.save_figure(figure, path)


def draw_copies(path: Path, copies: list[Copy], splits: dict[str, Split]) -> None:
    """Draw pairs of copies side by side, with split, class and id; red where the classes differ."""
    sheets = []
    for is_exact, kind in ((True, "the same pixels"), (False, "nearly the same")):
        of_kind = [copy for copy in noteworthy(copies) if copy.exact == is_exact]
        if of_kind:
            shown = f" (the first {PAIRS} of {len(of_kind):,} pairs)" if len(of_kind) > PAIRS else ""
            row = []
            for copy in of_kind[:PAIRS]:
                row += _pair(copy, splits)
            images, titles = zip(*row, strict=True)
            sheets.append((f"{kind}{shown}; red: two different labels", images, titles))
    figures.save_sheets(path, sheets, in_pairs=True)


def _pair(copy: Copy, splits: dict[str, Split]) -> Iterator[tuple[np.ndarray, Title]]:
    """Yield both images, (H, W, C) from 0 to 1, with their titles."""
    color = WRONG_COLOR if copy.labels_differ else "black"
    similarity = "" if copy.exact else f"{' mirrored' if copy.mirrored else ''} {copy.correlation:.2f}"
    for split, index, label, line in zip(copy.splits, copy.indices, copy.labels, ("", similarity), strict=True):
        dataset = splits[split].dataset
        pixels, _ = dataset.batch(torch.tensor([index]))
        identifier = plain(dataset.ids[index], LONGEST_ID, keep_end=True)
        title = f"{split}{line}\n{_class_name(label, dataset.classes)}\n{identifier}"
        yield _upright(pixels / 255)[0], (title, color)


def _class_name(label: int, classes: list[str]) -> str:
    return plain(classes[label]) if label >= 0 else "no label"


def _upright(images: torch.Tensor) -> np.ndarray:
    """(n, C, H, W) -> (n, H, W, C)."""
    return images.permute(0, 2, 3, 1).numpy()
