"""Know the data before a network does: counts, sizes, pixels, copies, and in words what is unusual about them."""

import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from common.data.arrays import Split
from common.data.folders import Reading
from common.data.load import Data
from common.exploring.copies import Copy, all_exact_copies, all_near_copies, describe_copies, near_limit, thumbnails
from common.exploring.notes import LONG, notes
from common.exploring.pixels import MOST_IMAGES, MOST_PIXELS, SEED, PixelStatistics, balanced_sample, blocks
from common.runs.config import describe_origin
from common.runs.folder import make_folder
from common.system.device import Machine
from common.system.files import write_json
from common.system.log import info, log_to, progress

LISTED = 20  # sizes that explore.json names; all are counted


def explore(data: Data, folder: Path) -> dict:
    """Look at a data set: write `explore.json` and pictures into `folder`, say what is unusual, return explore.json.

    Pixels and near copies of larger sets are taken from a sample, the same in every run, with as many images of each
    class as there are; explore.json says of how many. Exact copies are looked for among all images.

    Raises:
        BadInput: an image cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = data.splits
    looked_at = {name: balanced_sample(split) for name, split in splits.items()}
    statistics, small = _look(looked_at)
    limit = near_limit(statistics)
    exact, near = all_exact_copies(splits), all_near_copies(looked_at, small, limit)
    described = {name: _describe_part(split, len(looked_at[name])) for name, split in splits.items()}
    report = {
        "dataset": data.name,
        "parts": described,
        "looked_at": {"most_pixels_a_part": MOST_PIXELS, "most_images_a_part": MOST_IMAGES, "seed": SEED},
        "balance": _describe_balance(described["train"]["per_class"].values()),
        "sizes": _describe_sizes(data.reading, statistics.side, sum(map(len, splits.values()))),
        "pixels": statistics.describe(),
        "correlation": statistics.correlations(),
        "copies": {
            "exact": None if exact is None else describe_copies(exact, splits),
            "near": describe_copies(near, splits),
            "near_limit": limit,
        },
    }
    report["notes"] = notes(report)

    _draw(folder, splits, report, statistics, (exact or []) + near)
    write_json(folder / "explore.json", report)  # last: whoever finds it finds the pictures too
    for note in report["notes"]:
        info(f"note: {note}")
    return report


def explore_only(script: str, options: dict, loaded: list[Data], machine: Machine) -> Path:
    """Explore data sets instead of training on them, each in a folder of its own; return the last one.

    `script` is `__file__` of the experiment, `options` are all by name.
    """
    name = Path(script).stem
    for data in loaded:
        config = {"script": name, "dataset": data.name, "classes": data.classes, "options": options}
        folder = make_folder(Path(options["output_dir"]) / name / "explore", config | describe_origin(machine))
        log_to(folder / "log.txt")
        info(f"looking at {data.name}: {folder}")
        explore(data, folder)
        info(f"finished: {folder}")
    return folder


def _look(looked_at: dict[str, Split]) -> tuple[PixelStatistics, dict[str, torch.Tensor]]:
    """Return the statistics of the training images and the thumbnails of all, reading each image once."""
    train = looked_at["train"].dataset
    statistics = PixelStatistics(train.size, len(train.classes))
    small = {name: [] for name in looked_at}
    with progress(sum(map(len, looked_at.values())), "looking at images") as bar:
        for name, split in looked_at.items():
            for images, labels in blocks(split):
                small[name].append(thumbnails(images))
                if name == "train":
                    statistics.add(images, labels)
                bar.update(len(images))
    return statistics, {name: torch.cat(of_blocks) for name, of_blocks in small.items()}


def _describe_part(split: Split, looked_at: int) -> dict:
    labels = split.dataset.labels[split.indices]
    counts = torch.bincount(labels[labels >= 0], minlength=len(split.dataset.classes)).tolist()
    return {
        "images": len(split),
        "looked_at": looked_at,
        "unlabelled": len(split) - sum(counts),
        "per_class": dict(zip(split.dataset.classes, counts, strict=True)),
    }


def _describe_balance(counts: Collection[int]) -> dict:
    """Return how equal in number the images of the classes are.

    `entropy` is that of the classes' shares over its largest value: 1 if all are equal, 0 if there is one only
    (Shannon: "A Mathematical Theory of Communication", 1948).
    """
    shares = np.array([count for count in counts if count]) / sum(counts)
    return {
        "largest_class": max(counts),
        "smallest_class": min(counts),
        "ratio": max(counts) / min(counts) if min(counts) else None,
        "entropy": abs(float((shares * np.log(shares)).sum())) / math.log(len(counts)),
    }


def _describe_sizes(reading: Reading, side: int, images: int) -> dict:
    """Return the sizes in pixels that the pictures have by themselves, and the `side` of the squares they have become.

    Without files to tell their sizes, all `images` (their number) have the one of the squares.
    """
    sizes = reading.sizes or Counter({(side, side): images})
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    ratios = np.repeat([width / height for width, height in sizes], list(sizes.values()))
    lowest, median, highest = np.quantile(ratios, (0, 0.5, 1), method="inverted_cdf").tolist()
    return {
        "stored": [side, side],
        "different": len(sizes),
        "most_frequent": [{"size": list(size), "images": number} for size, number in sizes.most_common(LISTED)],
        "smallest": list(by_area[0]),
        "largest": list(by_area[-1]),
        "width_over_height": {"lowest": lowest, "median": median, "highest": highest},
        "long": int((np.maximum(ratios, 1 / ratios) > LONG).sum()),
        "enlarged": sum(number for size, number in sizes.items() if min(size) < side),
        "converted": dict(reading.converted),
    }


def _draw(folder: Path, splits: dict, report: dict, statistics: PixelStatistics, copies: list[Copy]) -> None:
    from common.exploring import plots  # imports matplotlib

    plots.draw_class_counts(folder / "class_counts.png", report["parts"])
    plots.draw_samples(folder / "explore_samples.png", splits["train"])
    plots.draw_histogram(folder / "pixel_histogram.png", report["pixels"])
    plots.draw_mean_images(folder / "mean_images.png", statistics.mean_images(), splits["train"].dataset.classes)
    plots.draw_correlation(folder / "correlation.png", report["correlation"])
    path = folder / "duplicates.png"
    path.unlink(missing_ok=True)  # of an earlier look, when there were copies
    if copies:
        plots.draw_copies(path, copies, splits)
