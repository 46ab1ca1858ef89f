"""Know the data before a network does: counts, sizes, pixels, copies, and in words what is unusual about them."""

import math
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from common.data.arrays import Split
from common.data.folders import Reading
from common.data.load import Data, notes_on_counts
from common.exploring.copies import (
    NEAR_DRAWINGS,
    NEAR_MOVED,
    TINY,
    Copy,
    all_exact_copies,
    all_near_copies,
    describe_copies,
    near_limit,
    pairs_of_splits,
    small_pictures,
)
from common.exploring.pixels import MOST_IMAGES, MOST_PIXELS, SEED, PixelStatistics, balanced_sample
from common.runs.config import describe_origin
from common.runs.folder import make_folder
from common.system.device import Machine
from common.system.files import PICTURE_KINDS, pictures_also_as, write_json
from common.system.log import info, log_to, progress

LISTED = 20  # sizes that explore.json names; all are counted
# From where on a note says so
LONG = 2.0  # longer side over shorter side
SOME_GRAY, ALL_GRAY = 0.01, 0.99
# What looking for copies takes of one core of an AMD EPYC, in seconds: for a pixel that is read, for an image that is
# compared with another in the small, and for an image whose nearest are compared in detail
READING, COMPARING, CONFIRMING = 3e-8, 6e-9, 7e-4
MOST_SCANNED = 2**18  # images: their small pictures take 0.8 GB
LONGEST_SCAN = 60  # seconds by these numbers: CIFAR-10 comes to 19
ENOUGH = 1000  # images to tell photographs from drawings
SPARSE = 0.25  # share of the values that are 0


def explore(data: Data, folder: Path) -> dict:
    """Look at a data set: write `explore.json` and pictures into `folder`, say what is unusual, return explore.json.

    Pixels and near copies of larger sets are taken from a sample, the same in every run, with as many images of each
    class as there are; explore.json says of how many. Exact copies are looked for among all images. BadInput is raised
    if an image cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = data.splits
    looked_at = {name: balanced_sample(split) for name, split in splits.items()}
    statistics, pictures = _look(looked_at)
    limit, pairs = near_limit(statistics), pairs_of_splits(splits)
    exact = all_exact_copies(splits)
    with progress(sum(len(looked_at[second]) for _, second in pairs), "comparing images") as bar:
        near = all_near_copies(looked_at, pictures, limit, pairs, bar.update)
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
            "near_moved_limit": None if limit == NEAR_DRAWINGS else NEAR_MOVED,
        },
    }
    report["notes"] = notes(report)

    _draw(folder, splits, report, statistics, (exact or []) + near)
    write_json(folder / "explore.json", report)  # last: whoever finds it finds the pictures too
    info(*(f"note: {note}" for note in report["notes"]))
    return report


def explore_only(script: str, options: dict, loaded: list[Data], machine: Machine) -> Path:
    """Explore data sets instead of training on them, each in a folder of its own; return the last one."""
    name = Path(script).stem
    for data in loaded:
        config = {"script": name, "dataset": data.name, "classes": data.classes, "options": options}
        folder = make_folder(Path(options["output_dir"]) / name / "explore", config | describe_origin(machine))
        log_to(folder / "log.txt")
        info(f"looking at {data.name}: {folder}")
        with pictures_also_as(options["figures"]):
            explore(data, folder)
        info(f"finished: {folder}")
    return folder


def copied_test_images(splits: dict[str, Split]) -> tuple[np.ndarray, list[str]] | None:
    """Return which test images (N,) have a copy among training or validation images, and which kinds were looked for.

    Exact copies always are, near ones where that takes LONGEST_SCAN at most, by the numbers of images and pixels alone:
    all runs on the same data look for the same. None: the images have keys instead of hashes of their pixels.
    """
    if not all(split.has_pixel_hashes for split in splits.values()):
        return None
    test, others = splits["test"], [splits["train"], splits["val"]]
    known, kinds = {digest for split in others for digest in split.hashes}, ["exact"]
    if scan_seconds(splits) <= LONGEST_SCAN:
        near, kinds = _near_copies_of_test(splits), ["exact", "near"]
        place_of = {index: place for place, index in enumerate(test.indices.tolist())}
        known |= {test.hashes[place_of[copy.indices[1]]] for copy in near}
    return np.array([digest in known for digest in test.hashes]), kinds


def scan_seconds(splits: dict[str, Split]) -> float:
    """Return about how long it takes to look for near copies of the test images, infinite for too many images."""
    images, tested = sum(map(len, splits.values())), len(splits["test"])
    if images > MOST_SCANNED:
        return math.inf
    pixels = sum(len(split) * split.dataset.size**2 for split in splits.values())
    return READING * pixels + COMPARING * tested * (images - tested) + CONFIRMING * 2 * tested


def _near_copies_of_test(splits: dict[str, Split]) -> list[Copy]:
    statistics, _ = _look({"train": balanced_sample(splits["train"], ENOUGH)})
    pictures = {part: torch.cat([small_pictures(some) for some, _ in one.blocks()]) for part, one in splits.items()}
    pairs = [("train", "test"), ("val", "test")]
    return all_near_copies(splits, pictures, near_limit(statistics), pairs)


def _look(looked_at: dict[str, Split]) -> tuple[PixelStatistics, dict[str, torch.Tensor]]:
    """Return the statistics of the training images and small pictures of all, reading each image once."""
    train = looked_at["train"].dataset
    statistics = PixelStatistics(train.size, len(train.classes))
    small = {name: [] for name in looked_at}
    with progress(sum(map(len, looked_at.values())), "looking at images") as bar:
        for name, split in looked_at.items():
            for images, labels in split.blocks():
                small[name].append(small_pictures(images))
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


def _draw(folder: Path, splits: dict, report: dict, statistics: PixelStatistics, copies: list) -> None:
    from common.exploring import plots  # imports matplotlib

    plots.draw_class_counts(folder / "class_counts.png", report["parts"])
    plots.draw_samples(folder / "explore_samples.png", splits["train"])
    plots.draw_histogram(folder / "pixel_histogram.png", report["pixels"])
    plots.draw_mean_images(folder / "mean_images.png", statistics.mean_images(), splits["train"].dataset.classes)
    plots.draw_correlation(folder / "correlation.png", report["correlation"])
    for kind in PICTURE_KINDS:
        (folder / f"duplicates.{kind}").unlink(missing_ok=True)  # of an earlier look, when there were copies
    if copies:
        plots.draw_copies(folder / "duplicates.png", copies, splits)


def notes(report: dict) -> list[str]:
    """Return in words what a person should notice of what explore.json says, or that there is nothing."""
    splits = report["parts"]
    found = (
        _on_counts(splits),
        _on_sizes(report["sizes"]),
        _on_pixels(report["pixels"], splits["train"]["looked_at"]),
        _on_copies(report["copies"], splits),
    )
    return list(chain(*found)) or ["nothing unusual"]


def _on_counts(splits: dict) -> Iterator[str]:
    counts = splits["train"]["per_class"]
    yield from notes_on_counts(counts)
    for name, split in splits.items():
        if split["unlabelled"]:
            yield f"{split['unlabelled']:,} of {split['images']:,} {name} images have no label: no score on them"
        missing = sum(count == 0 for count in split["per_class"].values())
        if missing and split["unlabelled"] < split["images"]:
            yield f"{missing:,} of {len(counts):,} classes have no {name} image"


def _on_sizes(sizes: dict) -> Iterator[str]:
    side = sizes["stored"][0]
    if side < TINY:
        yield f"the images are tiny, {side}x{side} pixels: a network made for photographs pools them away"
    if sizes["different"] > 1:
        smallest, largest = (f"{width}x{height}" for width, height in (sizes["smallest"], sizes["largest"]))
        yield f"the images come in {sizes['different']:,} sizes, {smallest} to {largest}; all become {side}x{side}"
    if sizes["enlarged"]:
        yield f"{sizes['enlarged']:,} images are smaller than {side} pixels and are enlarged"
    if sizes["long"]:
        yield f"{sizes['long']:,} images are more than {LONG:g} times as long as wide: a square shows part of them"


def _on_pixels(pixels: dict, looked_at: int) -> Iterator[str]:
    if pixels["greyscale"] >= ALL_GRAY:
        yield "the images are grayscale: three equal channels tell no more than one"
    elif pixels["greyscale"] >= SOME_GRAY:
        yield f"{pixels['greyscale']:.1%} of the training images are grayscale among colored ones"
    if pixels["constant_images"]:
        yield f"{pixels['constant_images']:,} of {looked_at:,} training images show one color and nothing else"
    if pixels["zero"] >= SPARSE:
        yield f"{pixels['zero']:.0%} of all pixel values are exactly 0: strokes or objects on a black ground"


def _on_copies(copies: dict, splits: dict) -> Iterator[str]:
    if copies["exact"] is None:
        yield "exact copies were not looked for: the images stay in their file, and all of it would have to be read"
    if any(split["looked_at"] < split["images"] for split in splits.values()):
        seen, total = (sum(split[key] for split in splits.values()) for key in ("looked_at", "images"))
        yield f"{seen:,} of {total:,} images were looked at; near copies of the others are not counted"
    for kind, are, advice in (
        ("exact", "are the same as", "at most one of the two can be right"),
        ("near", "are nearly the same as", "look at them in duplicates.png"),
    ):
        for names, count in (copies[kind] or {}).items():
            one, _, other = names.partition("/")
            effect = f"{other} accuracy is too good" if one == "train" else "the two are not independent"
            if count["images"] and other:
                yield f"{count['images']:,} {other} image(s) {are} a {one} image: {effect}"
            elif count["images"]:
                yield f"{count['images']:,} {one} image(s) {are} another {one} image"
            if count["labels_differ"]:
                yield f"{count['labels_differ']:,} of those pairs have two different labels: {advice}"
