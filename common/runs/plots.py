"""The pictures of a run: its curves, what it took of the machine, its images and its mistakes.

`probabilities` are (N, classes), in the order of the images that they are of.
"""

from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter

from common import figures
from common.data.batches import Batches
from common.figures import (
    COLORS,
    LONGEST_ON_AXIS,
    SHEET_COLUMNS,
    TRAIN_COLOR,
    VAL_COLOR,
    blank_figure,
    plain,
    random_places,
)
from common.runs.history import best_record

MOST_NAMES = 200  # classes of a confusion matrix that are named
MOST_PERCENTAGES = 25  # classes of a confusion matrix whose cells hold numbers
CLASS_IMAGES = 10  # shown of each class
RESOURCES = {  # of an epoch's record -> label
    "seconds": "seconds an epoch",
    "images_per_second": "images a second, training",
    "process_memory_mb": "peak memory of the process, MB",
    "peak_memory_mb": "peak memory of the GPU, MB",
    "gpu_utilization": "GPU utilization, %",
    "gpu_power_w": "GPU power, W",
}


def draw_history(folder: Path, history: list[dict], title: str, classes: int) -> None:
    """Draw `loss.png` and `accuracy.png`: training and validation by epoch, the best epoch and chance marked.

    The axes begin at 0, so that what comes of chance does not look like learning.
    """
    best, chance = best_record(history), {"loss": np.log(classes), "accuracy": 1 / classes}
    epochs = [record["epoch"] for record in history]
    for quantity in ("loss", "accuracy"):
        axes = blank_figure(7.5, 4.5).subplots()
        for split, name, color in (("train", "training", TRAIN_COLOR), ("val", "validation", VAL_COLOR)):
            values = [record[f"{split}_{quantity}"] for record in history]
            axes.plot(epochs, values, color=color, label=name, marker="o" if len(epochs) < 30 else None, markersize=3)
        axes.axvline(best["epoch"], color="gray", linestyle="--", linewidth=1)
        value = best[f"val_{quantity}"]
        label = f"epoch {best['epoch']}, best by validation accuracy: {quantity} {value:.4f}"
        axes.plot(best["epoch"], value, "*", color=VAL_COLOR, markersize=13, markeredgecolor="black", label=label)
        axes.set_ylabel(f"{quantity} (cross-entropy)" if quantity == "loss" else quantity)
        figures.epoch_axis(axes, epochs)
        axes.set_ylim(bottom=0, top=1.02 if quantity == "accuracy" else 1.08 * axes.get_ylim()[1])
        if chance[quantity] <= axes.get_ylim()[1]:
            label = f"chance, {classes:,} classes: {chance[quantity]:.{2 if quantity == 'accuracy' else 3}g}"
            axes.axhline(chance[quantity], color="gray", linestyle=":", linewidth=1.2, label=label)
        axes.legend()
        figures.save_figure(axes.figure, folder / f"{quantity}.png", plain(title, longest=90))


def draw_resources(path: Path, history: list[dict]) -> None:
    """Draw what each epoch took of the machine, as far as it is known; of the GPU only if there is one."""
    series = {name: [record.get(name) for record in history] for name in RESOURCES}
    if series["peak_memory_mb"] == series["process_memory_mb"]:  # without a GPU
        del series["peak_memory_mb"]
    known = {name: np.array(values, float) for name, values in series.items() if any(v is not None for v in values)}
    rows, columns = -(-len(known) // 3), min(3, len(known))
    figure = blank_figure(4.2 * columns, 3 * rows)
    epochs = [record["epoch"] for record in history]
    for number, (name, values) in enumerate(known.items(), 1):
        axes = figure.add_subplot(rows, columns, number)
        axes.plot(epochs, values, color=TRAIN_COLOR, marker="o", markersize=3)
        axes.set(title=RESOURCES[name], ylim=(0, 1.1 * max(np.nanmax(values), 1e-9)))
        axes.yaxis.set_major_formatter("{x:,.6g}")
        figures.epoch_axis(axes, epochs)
    figures.save_figure(figure, path)


def draw_throughput(path: Path, rows: list[dict], title: str) -> None:
    """Draw images a second and memory of each row of throughput.json against its batch size, the largest marked."""
    sizes = [row["batch_size"] for row in rows]
    figure = blank_figure(8, 6.5)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, key, label, color in (
        (upper, "images_per_second", "images a second", TRAIN_COLOR),
        (lower, "peak_memory_mb", "peak memory, MB", VAL_COLOR),
    ):
        values = [row[key] for row in rows]
        axes.plot(sizes, values, marker="o", color=color)
        axes.plot(sizes[-1], values[-1], "*", color=color, markersize=15, markeredgecolor="black",
                  label=f"largest batch: {sizes[-1]:,}")  # fmt: skip
        axes.set(xscale="log", ylabel=label)
        if max(values) > 2 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
    fastest = max(rows, key=lambda row: row["images_per_second"])["batch_size"]
    upper.axvline(fastest, color="gray", linestyle="--", linewidth=1, label=f"fastest batch: {fastest:,}")
    upper.legend()
    lower.legend()
    lower.set_xlabel("batch size (images in a step)")
    lower.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
    lower.xaxis.set_minor_locator(NullLocator())
    figures.save_figure(figure, path, plain(title, longest=90))


def draw_confusion_matrix(
    path: Path, labels: np.ndarray, probabilities: np.ndarray, classes: list[str], kind: str
) -> None:
    """Draw how often each true class (row) was predicted as each class (column), as shares of the row.

    Up to 25 classes have their percentages written in, up to 200 their names. `labels` are (N,) int64, of validation or
    test: the `kind`.
    """
    count = len(classes)
    is_small = count <= MOST_PERCENTAGES
    matrix = np.zeros((count, count))
    np.add.at(matrix, (labels, probabilities.argmax(1)), 1)
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)

    side = min(max(5.5, 0.62 * count), 17)
    figure = blank_figure(side + (3 if count <= 5 else 1.5), side + 0.5)  # the names of few are written at length
    axes = figure.subplots()
    # Of many classes few shares come near 1: there the darkest blue is the largest share.
    is_named = count <= MOST_NAMES
    # Of hundreds of classes a cell would be a pixel or two, and a mistake too light to be seen.
    block = -(-count // MOST_NAMES)
    side_of_all = block * -(-count // block)
    blocks = np.pad(shares, (0, side_of_all - count)).reshape(side_of_all // block, block, -1, block).max((1, 3))
    norm = PowerNorm(1 if is_named else 0.4, vmin=0, vmax=1 if is_small else shares.max())
    image = axes.imshow(blocks, "Blues", norm, extent=(-0.5, side_of_all - 0.5, side_of_all - 0.5, -0.5))
    written = 10 if is_small else 18  # a large picture is looked at from further away
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, format=PercentFormatter(1))
    of_block = "" if is_named else f", the largest of {block} x {block} classes"
    bar.set_label(f"share of the true class{of_block}", fontsize=written)
    size = 10 if is_small else max(3.0, 7.5 * 100 / max(count, 100))
    if not is_small:
        bar.ax.tick_params(labelsize=14)
        axes.tick_params(labelsize=14)
    if is_named:
        names = [plain(name, LONGEST_ON_AXIS) for name in classes]
        axes.set_xticks(range(count), names, rotation=90 if count > 5 else 0, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    if is_small:
        for row, column in np.argwhere(matrix):
            share = shares[row, column]
            percent = f"{100 * share:.0f}" if share >= 0.005 else "<1"
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, percent, ha="center", va="center", color=color, fontsize=9)
    elif is_named:  # a fine grid leads the eye from a cell to its names
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="gray", linewidth=0.2)
        axes.tick_params(which="minor", length=0)
    accuracy = matrix.trace() / matrix.sum()
    unit = "; cells in % of the true class" if is_small else ""
    of = "" if is_named else " (number of the class in config.json, from 0 on)"
    pairs = "" if is_small else f"; {'val_' if kind == 'validation' else ''}confusion.csv names the pairs"
    axes.set_title(f"{len(labels):,} {kind} images, {accuracy:.2%} right{unit}{pairs}", fontsize=1.2 * written)
    axes.set_xlabel(f"predicted{of}", fontsize=written)
    axes.set_ylabel(f"true{of}", fontsize=written)
    figures.save_figure(figure, path)


def draw_roc(path: Path, labels: np.ndarray, probabilities: np.ndarray, scores: dict, kind: str) -> None:
    """Draw the ROC curve of each class against the rest (Fawcett, 2006), of many classes the hardest ones.

    Args:
        labels: (N,) int64, of validation or test: the `kind`.
        scores: of the same images, as `score` returns them.
    """
    from sklearn.metrics import roc_curve

    areas = {name: one["auc_score"] for name, one in scores["per_class"].items()}
    known = sorted((area, place, name) for place, (name, area) in enumerate(areas.items()) if area is not None)
    if not known:  # images of one class alone
        return
    axes, farthest = blank_figure(8.5, 5.2).subplots(), 0.0
    for (area, label, name), color in zip(known, COLORS, strict=False):
        false, true, _ = roc_curve(labels == label, probabilities[:, label])
        farthest = max(farthest, np.maximum(false, 1 - true).min())  # from the upper left corner
        axes.plot(false, true, color=color, linewidth=1.2, label=f"{plain(name, LONGEST_ON_AXIS)}: {area:.4f}")
    few = f"\nthe {len(COLORS)} hardest of {len(known):,} classes" if len(known) > len(COLORS) else ""
    side = max(0.05, 3 * farthest)
    if side < 0.5:
        few += "\nthe upper left corner alone"
        axes.set(xlim=(-0.03 * side, side), ylim=(1 - side, 1 + 0.03 * side))
    else:
        axes.plot([0, 1], [0, 1], color="gray", linestyle="--", linewidth=1, label="chance: 0.5")
    axes.set(xlabel="share of the other classes' images taken for it", ylabel="share of its images recognized",
             title=f"ROC, each class against the rest: {len(labels):,} {kind} images{few}")  # fmt: skip
    title = f"area under the curve\n(mean of all {scores['auc_score']:.4f})"
    axes.figure.legend(title=title, loc="outside right center", fontsize=9)
    figures.save_figure(axes.figure, path)


def draw_samples(path: Path, train: Batches, classes: list[str]) -> None:
    """Draw training images as the network sees them in the first epoch: after augmentation and normalization."""
    inputs, labels = (first[: 4 * SHEET_COLUMNS] for first in train.first_batch())
    height, width = inputs.shape[-2:]
    heading = f"training images as the network sees them ({height}x{width} pixels)"
    titles = [(plain(classes[label]), "black") for label in labels.tolist()]
    figures.save_sheets(path, [(heading, figures.viewable(inputs, train.transform), titles)])


def draw_predictions(path: Path, batches: Batches, probabilities: np.ndarray, classes: list[str], kind: str) -> None:
    """Draw images of a `kind`, validation or test: some at random, then the most confident mistakes.

    Each has the predicted name and its confidence.
    """
    labels, predicted = np.array(batches.split.labels), probabilities.argmax(1)
    wrong = np.flatnonzero((labels != predicted) & (labels >= 0))
    shown = {
        f"{kind} images at random": random_places(len(labels)),
        "the most confident mistakes": wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")].tolist(),
    }
    sheets = []
    for heading, places in shown.items():
        if places:
            _, pictures, titles = figures.predicted(batches, places[: 2 * SHEET_COLUMNS], probabilities, classes)
            sheets.append((heading, pictures, titles))
    figures.save_sheets(path, sheets)


def draw_class_predictions(
    path: Path, test: Batches, probabilities: np.ndarray, classes: list[str], shown_classes: int
) -> None:
    """Draw ten random test images of each of the first `shown_classes` classes that have any, with the answers."""
    labels = test.split.labels
    random = random_places(len(labels))
    sheets = []
    for label in sorted(set(labels))[:shown_classes]:
        places = [place for place in random if labels[place] == label][:CLASS_IMAGES]
        correct = (probabilities[places].argmax(1) == label).sum()
        _, pictures, titles = figures.predicted(test, places, probabilities, classes)
        sheets.append((f"{plain(classes[label])}: {correct} of {len(places)} right", pictures, titles))
    figures.save_sheets(path, sheets, columns=CLASS_IMAGES)
