"""Every kind of picture, drawn from made-up results, to be looked at: with few and many classes, runs and epochs.

    python benchmarks/pictures.py FOLDER
    python benchmarks/pictures.py FOLDER --sheet docs/pictures.jpg

A change of a picture is judged by what it does to two classes and to a thousand, to short names and long ones. FOLDER
gets a folder for each number of classes and for each comparison; the sheet has the most telling of them, made small.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.data.arrays import ArrayDataset, Split, whole
from common.data.batches import Batches
from common.data.load import Data
from common.evaluation.metrics import score
from common.exploring.explore import explore
from common.inside.maps import layer_kinds
from common.inside.plots import look_inside
from common.inside.watch import Watch
from common.runs import plots
from common.system.device import prepare_machine
from common.transforms.basic import Compose, Normalize
from tools.comparing.finished_runs import FinishedRun
from tools.comparing.overlays import draw_pictures
from tools.comparing.overview import Question, compare
from tools.comparing.predictions import Told
from tools.comparing.report import write_report

CLASSES = (2, 10, 100, 1000)
NAMES = ("ant", "bee", "greater spotted woodpecker", "Ω-shaped", "no", "European fire-bellied toad", "x", "sea lion")
SIDE, IMAGES = 24, 400
SHEET = (
    "2/confusion_matrix.png", "10/confusion_matrix.png", "100/confusion_matrix.png", "1000/confusion_matrix.png",
    "10/accuracy.png", "100/roc.png", "2/predictions.png", "10/grad_cam.png",
    "30 runs/accuracy.png", "30 runs/by_lr.png", "30 runs/differences.png", "30 groups/accuracy.png",
)  # fmt: skip
SHEET_COLUMNS, CELL = 4, (440, 360)


def main() -> None:
    """Draw all pictures, and the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sheet", type=Path, metavar="FILE.jpg", help="put the most telling ones into one picture")
    options = parser.parse_args()
    for count in CLASSES:
        draw_run(options.folder / str(count), count)
    draw_throughput(options.folder)
    for name, settings in {
        "2 runs": [({"lr": lr}, 1) for lr in (0.001, 0.01)],
        "30 runs": [({"lr": lr, "width": w}, 5) for lr, w in product((0.001, 0.003, 0.01), (16, 32))],
        "30 groups": [({"lr": lr, "width": w}, 1) for lr, w in product(np.geomspace(1e-4, 0.1, 6).tolist(), range(5))],
    }.items():
        draw_comparison(options.folder / name, settings)
    if options.sheet:
        write_sheet(options.sheet, options.folder)


# --- a run


def draw_run(folder: Path, count: int) -> None:
    """Draw what a run on so many classes leaves, and what the data and the inside of its network are like."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, classes = np.random.default_rng(count), names_of(count)
    machine = prepare_machine("cpu", "fp32", deterministic=False)
    parts = [part(rng, classes) for _ in range(3)]
    data = Data("made up", classes, *parts)
    transform = Compose([Normalize((0.5,) * 3, (0.5,) * 3)])
    train, val, _ = (Batches(one, transform, 32, machine, 0, training=one is parts[0]) for one in parts)
    labels = np.array(val.split.labels)
    probabilities = predictions(rng, labels, count)
    plots.draw_history(folder, history(rng, 30 if count > 2 else 2, count), f"ex_1/made up, {count} classes", count)
    plots.draw_resources(folder / "resources.png", history(rng, 30, count))
    many = rng.integers(0, count, max(IMAGES, 20 * count))
    of_many = predictions(rng, many, count)
    plots.draw_confusion_matrix(folder / "confusion_matrix.png", many, of_many, classes, "validation")
    plots.draw_roc(folder / "roc.png", many, of_many, score(of_many, many, classes), "validation")
    plots.draw_samples(folder / "samples.png", train, classes)
    plots.draw_predictions(folder / "predictions.png", val, probabilities, classes, "validation")
    plots.draw_class_predictions(folder / "class_predictions.png", val, probabilities, classes, 3)
    explore(data, folder)
    draw_inside(folder, val, probabilities, classes)


def names_of(count: int) -> list[str]:
    """Return so many names of classes, short ones and long ones."""
    return [f"{NAMES[i % len(NAMES)]}{f' {i // len(NAMES)}' if i >= len(NAMES) else ''}" for i in range(count)]


def part(rng: np.random.Generator, classes: list[str]) -> Split:
    """Return images of noise in a color for each class, the first two of them the same in all parts."""
    labels = rng.integers(0, len(classes), IMAGES)
    if len(classes) > IMAGES:
        labels = np.linspace(0, len(classes) - 1, IMAGES).astype(int)
    colors = np.random.default_rng(0).integers(40, 216, (len(classes), 3))
    coarse = rng.integers(-60, 60, (IMAGES, SIDE // 4, SIDE // 4, 1)).repeat(4, 1).repeat(4, 2)
    pixels = np.clip(colors[labels][:, None, None] + coarse + rng.integers(-9, 9, (IMAGES, SIDE, SIDE, 3)), 0, 255)
    pixels[:2] = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3))
    ids = [f"a folder/{classes[label]}/{number:04}.jpg" for number, label in enumerate(labels)]
    return whole(ArrayDataset(pixels.astype(np.uint8), labels, classes, ids))


def predictions(rng: np.random.Generator, labels: np.ndarray, count: int) -> np.ndarray:
    """Return (N, classes) of a network that is right in four of five cases."""
    logits = rng.normal(size=(len(labels), count))
    logits[np.arange(len(labels)), labels] += 0.6 + np.sqrt(2 * np.log(count))  # the largest of the others is so
    powers = np.exp(2.5 * logits)
    return powers / powers.sum(1, keepdims=True)


def history(rng: np.random.Generator, epochs: int, count: int, skill: float = 0.8) -> list[dict]:
    """Return the records of a training that becomes better, and then overfits."""
    time = np.arange(1, epochs + 1)
    train = 1 - (1 - 1 / count) * np.exp(-time / 6)
    val = skill * (1 - np.exp(-time / 4)) + (1 / count) * np.exp(-time / 4) + rng.normal(0, 0.01, epochs)
    return [
        {
            "epoch": epoch,
            "train_loss": float(np.log(count) * (1 - train[i]) + 0.02), "train_accuracy": float(train[i]),
            "val_loss": float(np.log(count) * (1 - val[i]) * (1 + 0.01 * epoch)), "val_accuracy": float(val[i]),
            "seconds": float(rng.normal(20, 1)), "images_per_second": float(rng.normal(2500, 60)),
            "process_memory_mb": 900.0 + epoch, "peak_memory_mb": 900.0 + epoch,
        }
        for i, epoch in enumerate(time.tolist())
    ]  # fmt: skip


def draw_inside(folder: Path, val: Batches, probabilities: np.ndarray, classes: list[str]) -> None:
    """Draw the inside of a small network that has learned nothing, as if it had been watched."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 5), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(32 * (SIDE - 6) ** 2, len(classes)))
    watch, rng = Watch(model, 1), np.random.default_rng(0)
    facts = ("gradient_norm", "update_ratio", "activation_mean", "activation_std", "dead_share")
    watch.records = [
        {"epoch": epoch, "layers": {name: dict(zip(facts, rng.uniform(1e-4, 1, 5).tolist(), strict=True))
                                    for name in layer_kinds(model)}}
        for epoch in range(1, 9)
    ]  # fmt: skip
    with torch.no_grad():
        model[0].weight += 0.1 * torch.randn_like(model[0].weight)
    look_inside(folder, model, watch, val, probabilities, classes)


def draw_throughput(folder: Path) -> None:
    """Draw how speed and memory grow with the batch."""
    rows = [{"batch_size": 2**n, "images_per_second": 4000 * 2**n / (2**n + 90), "peak_memory_mb": 700 + 1.5 * 2**n}
            for n in range(11)]  # fmt: skip
    plots.draw_throughput(folder / "throughput.png", rows, "resnet18: the memory is full")


# --- a comparison


def draw_comparison(folder: Path, settings: list[tuple[dict, int]]) -> None:
    """Draw what compare.py makes of runs with these options, each with so many seeds; write its page too."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    runs = [made_up_run(folder, rng, options, seed) for options, seeds in settings for seed in range(seeds)]
    by = tuple(name for name in ("lr", "width") if name in settings[0][0])
    overview = compare(runs, Question("val_accuracy", by), Told(), [])
    draw_pictures(folder, overview, by)
    write_report(folder / "report.html", overview)


def made_up_run(folder: Path, rng: np.random.Generator, options: dict, seed: int) -> FinishedRun:
    """Return a run that is the better the nearer its options are to the best ones."""
    far = abs(np.log10(options["lr"] / 0.003))
    skill = 0.8 - 0.12 * far + 0.001 * options.get("width", 16) + float(rng.normal(0, 0.004))
    records = history(rng, 30, 10, skill)
    best = max(records, key=lambda one: one["val_accuracy"])
    scores = {"val_accuracy": best["val_accuracy"], "test_accuracy": best["val_accuracy"] - 0.01,
              "best_epoch": best["epoch"], "train_time": sum(one["seconds"] for one in records)}  # fmt: skip
    label = f"{'-'.join(f'{name}{value:.3g}' for name, value in options.items())}-{seed}"
    config = {"script": "ex_1", "dataset": "digits", "command": "python ex_1.py --dataset digits", "parameters": 50326}
    return FinishedRun(
        folder / label, label, "ex_1", "digits", names_of(10), options | {"seed": seed, "epochs": 30}, config, False,
        records, scores, frozenset({"test_accuracy"}),
    )  # fmt: skip


# --- the sheet


def write_sheet(path: Path, folder: Path) -> None:
    """Put some of the pictures side by side, each within its cell, on white."""
    rows = -(-len(SHEET) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * CELL[0], rows * CELL[1]), "white")
    pen = ImageDraw.Draw(sheet)
    for place, name in enumerate(SHEET):
        left, top = CELL[0] * (place % SHEET_COLUMNS), CELL[1] * (place // SHEET_COLUMNS)
        with Image.open(folder / name) as picture:
            small = picture.convert("RGB")
        small.thumbnail((CELL[0] - 16, CELL[1] - 34), Image.Resampling.LANCZOS)
        sheet.paste(small, (left + (CELL[0] - small.width) // 2, top + 24))
        pen.text((left + 10, top + 6), name.removesuffix(".png"), fill="#444444", font_size=14)
    sheet.save(path, quality=80, optimize=True)


if __name__ == "__main__":
    main()
