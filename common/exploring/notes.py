"""What a person should notice of what explore.json says, in words."""

from collections.abc import Iterator
from itertools import chain

from common.exploring.copies import TINY
from common.system.text import printable

# From where on a note says so
LONG = 2.0  # longer side over shorter side
UNBALANCED = 2.0  # images of the largest class for one of the smallest
FEW = 100  # training images of a class
SOME_GRAY, ALL_GRAY = 0.01, 0.99
SPARSE = 0.25  # share of the values that are 0


def notes(report: dict) -> list[str]:
    """Return in words what a person should notice of what explore.json says, or that there is nothing."""
    splits = report["parts"]
    found = (
        _on_counts(splits, report["balance"]),
        _on_sizes(report["sizes"]),
        _on_pixels(report["pixels"], splits["train"]["looked_at"]),
        _on_copies(report["copies"], splits),
    )
    return list(chain(*found)) or ["nothing unusual"]


def _on_counts(splits: dict, balance: dict) -> Iterator[str]:
    counts = splits["train"]["per_class"]
    smallest, largest = min(counts, key=counts.get), max(counts, key=counts.get)
    if balance["ratio"] is None or balance["ratio"] >= UNBALANCED:
        yield (
            f"the classes are unbalanced: {counts[largest]:,} training images of '{printable(largest, 40)}', "
            f"{counts[smallest]:,} of '{printable(smallest, 40)}'; accuracy hides what happens to small classes"
        )
    if counts[smallest] < FEW:
        few = sum(count < FEW for count in counts.values())
        yield (
            f"few images: {few:,} of {len(counts):,} classes have fewer than {FEW} training images, the smallest "
            f"{counts[smallest]:,}; pretrained weights and augmentation help"
        )
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
        yield f"{sizes['long']:,} images are more than {LONG:g} times as long as wide: a square shows split of them"


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
