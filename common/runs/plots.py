"""The pictures of a run: its curves, what it took of the machine, its images and its mistakes."""

import math
from pathlib import Path

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from common import figures
from common.data.batches import Batches
from common.figures import (
    SHEET_COLUMNS,
    TRAIN_COLOR,
    VAL_COLOR,
    blank_figure,
    plain,
    random_places,
    sheets_figure,
    verdict,
    viewable,
)
from common.runs.history import best_record


def draw_history(folder: Path, history: list[dict]) -> None:
    """Draw `loss.png` and `accuracy.png`: training and validation by epoch, the best epoch marked."""
    best = best_record(history)
    epochs = [record["epoch"] for record in history]
    for quantity in ("loss", "accuracy"):
        figure = blank_figure(7.5, 4.5)
        axes = figure.subplots()
        for part, name, colour in (("train", "training", TRAIN_COLOR), ("val", "validation", VAL_COLOR)):
            values = [record[f"{part}_{quantity}"] for record in history]
            axes.plot(epochs, values, color=colour, label=name, marker="o" if len(epochs) < 30 else None, markersize=3)
        axes.axvline(best["epoch"], color="grey", linestyle="--", linewidth=1)
        value = best[f"val_{quantity}"]
        label = f"best epoch {best['epoch']}: validation {quantity} {value:.4f}"
        axes.plot(best["epoch"], value, "*", color=VAL_COLOR, markersize=13, markeredgecolor="black", label=label)
        axes.set(xlabel="epoch", ylabel=f"{quantity} (cross-entropy)" if quantity == "loss" else quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(0.5, max(epochs) + 0.5)
        axes.grid(alpha=0.3)
        axes.legend()
        figures.save_figure(figure, folder / f"{quantity}.png")


RESOURCES = {  # of an epoch's record -> label
    "seconds": "seconds an epoch",
    "images_per_second": "images a second, training",
    "process_memory_mb": "peak memory of the process, MB",
    "peak_memory_mb": "peak memory of the GPU, MB",
    "gpu_utilization": "GPU utilisation, %",
    "gpu_power_w": "GPU power, W",
}


def draw_resources(path: Path, history: list[dict]) -> None:
    """Draw what each epoch took of the machine, as far as it is known; of the GPU only if there is one."""
    on_gpu = any(record["peak_memory_mb"] != record["process_memory_mb"] for record in history)
    known = [
        name
        for name in RESOURCES
        if any(record.get(name) is not None for record in history) and (on_gpu or name != "peak_memory_mb")
    ]
    rows, columns = -(-len(known) // 3), min(3, len(known))
    figure = blank_figure(4.2 * columns, 3 * rows)
    epochs = [record["epoch"] for record in history]
    for number, name in enumerate(known, 1):
        axes = figure.add_subplot(rows, columns, number)
        values = [math.nan if record.get(name) is None else record[name] for record in history]
        axes.plot(epochs, values, color=TRAIN_COLOR, marker="o", markersize=3)
        axes.set(title=RESOURCES[name], xlabel="epoch", xlim=(0.5, max(epochs) + 0.5))
        axes.set_ylim(0, 1.1 * max(np.nanmax(values), 1e-9))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
        axes.grid(alpha=0.3)
    figures.save_figure(figure, path)


def draw_throughput(path: Path, rows: list[dict], title: str) -> None:
    """Draw images a second and memory against the batch size, the largest batch marked.

    Args:
        rows: with `batch_size`, `images_per_second` and `peak_memory_mb` each.
    """
    sizes = [row["batch_size"] for row in rows]
    figure = blank_figure(8, 6.5)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, key, label, colour in (
        (upper, "images_per_second", "images a second", TRAIN_COLOR),
        (lower, "peak_memory_mb", "peak memory, MB", VAL_COLOR),
    ):
        values = [row[key] or 0.0 for row in rows]
        axes.plot(sizes, values, marker="o", color=colour)
        axes.plot(sizes[-1], values[-1], "*", color=colour, markersize=15, markeredgecolor="black",
                  label=f"largest batch: {sizes[-1]:,}")  # fmt: skip
        axes.set(xscale="log", ylabel=label)
        if max(values) > 2 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    fastest = max(rows, key=lambda row: row["images_per_second"])
    label = f"fastest batch: {fastest['batch_size']:,}"
    upper.axvline(fastest["batch_size"], color="grey", linestyle="--", linewidth=1, label=label)
    upper.legend()
    lower.legend()
    lower.set_xlabel("batch size (images in a step)")
    lower.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
    lower.xaxis.set_minor_locator(NullLocator())
    figure.suptitle(plain(title, longest=90), fontsize=11)
    figures.save_figure(figure, path)


def draw_confusion_matrix(path: Path, labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> None:
    """Draw how often each true class (row) was predicted as each class (column), as shares of the row.

    Up to 25 classes have their percentages written in; up to 200 have their names at the axes.

    Args:
        labels: (N,) int64. probabilities: (N, classes).
    """
    count = len(classes)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (labels, probabilities.argmax(1)), 1)
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)

    side = min(max(5.5, 0.62 * count), 17)
    figure = blank_figure(side + 1.5, side + 0.5)
    axes = figure.subplots()
    # Of many classes few shares come near 1: there the darkest blue is the largest share.
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1 if count <= 25 else shares.max())
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.045, pad=0.02)
    size = 10 if count <= 25 else max(3.0, 7.5 * 100 / max(count, 100))
    names = [plain(name) for name in classes]
    axes.set_xticks(range(count), names, rotation=90 if count > 5 else 0, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    if count > 25:  # a fine grid leads the eye from a cell to its names
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="grey", linewidth=0.2)
        axes.tick_params(which="minor", length=0)
    else:
        for (row, column), share in np.ndenumerate(shares):
            if matrix[row, column]:
                colour = "white" if share > 0.5 else "black"
                percent = f"{100 * share:.0f}" if share >= 0.005 else "<1"
                axes.text(column, row, percent, ha="center", va="center", color=colour, fontsize=9)
    accuracy = matrix.trace() / matrix.sum()
    unit = "; cells in % of the true class" if count <= 25 else ""
    axes.set(xlabel="predicted", ylabel="true", title=f"{len(labels):,} test images, {accuracy:.2%} right{unit}")
    figures.save_figure(figure, path)


def draw_samples(path: Path, train: Batches, classes: list[str]) -> None:
    """Draw training images as the network sees them in the first epoch: after augmentation and normalisation."""
    inputs, labels = train.first_batch()
    images = viewable(inputs[: 4 * SHEET_COLUMNS], train.transform)
    titles = [(plain(classes[label]), "black") for label in labels[: 4 * SHEET_COLUMNS].tolist()]
    height, width = inputs.shape[-2:]
    heading = f"training images as the network sees them ({height}x{width} pixels)"
    figures.save_figure(sheets_figure([(heading, images, titles)]), path)


def draw_predictions(path: Path, test: Batches, probabilities: np.ndarray, classes: list[str]) -> None:
    """Draw test images with predicted name and confidence: some at random, then the most confident mistakes.

    Args:
        probabilities: (N, classes), in the order of the test images.
    """
    labels, predicted = np.array(test.part.labels), probabilities.argmax(1)
    random = random_places(len(labels))[: 2 * SHEET_COLUMNS]
    wrong = np.flatnonzero((labels != predicted) & (labels >= 0))
    worst = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][: 2 * SHEET_COLUMNS].tolist()
    sheets = []
    for heading, places in (("test images at random", random), ("the most confident mistakes", worst)):
        if places:
            sheets.append(_predicted_sheet(heading, places, test, probabilities, classes))
    figures.save_figure(sheets_figure(sheets), path)


def draw_class_predictions(
    path: Path, test: Batches, probabilities: np.ndarray, classes: list[str], shown_classes: int
) -> None:
    """Draw ten random test images of each of the first `shown_classes` classes, with predicted name and confidence.

    Args:
        probabilities: (N, classes), in the order of the test images.
    """
    labels = np.array(test.part.labels)
    random = random_places(len(labels))
    sheets = []
    for label in range(min(shown_classes, len(classes))):
        places = [place for place in random if labels[place] == label][:10]
        if places:
            hits = sum(probabilities[place].argmax() == label for place in places)
            heading = f"{plain(classes[label])}: {hits} of {len(places)} right"
            sheets.append(_predicted_sheet(heading, places, test, probabilities, classes))
    figures.save_figure(sheets_figure(sheets, columns=10), path)


def _predicted_sheet(
    heading: str, places: list[int], test: Batches, probabilities: np.ndarray, classes: list[str]
) -> tuple[str, np.ndarray, list[tuple[str, str]]]:
    """Return the sheet, as `sheets_figure` takes it, of the test images at `places`."""
    images, labels = test.part.dataset.batch(test.part.samples[places])
    verdicts = [
        verdict(label, probabilities[place], classes) for label, place in zip(labels.tolist(), places, strict=True)
    ]
    return heading, viewable(test.transform(images), test.transform), verdicts
