"""What a person should notice of what explore.json says, in words."""

from collections.abc import Iterator

from common.exploring.copies import TINY
from common.exploring.counts import LONG

# From where on a note says so
UNBALANCED = 2.0  # images of the largest class for one of the smallest
FEW = 100  # training images of a class
SOME_GREY, ALL_GREY = 0.01, 0.99
SPARSE = 0.25  # share of the values that are 0


def notes(report: dict) -> list[str]:
    """Return in words what a person should notice of what explore.json says, or that there is nothing."""
    found = [
        *_notes_on_counts(report["parts"], report["balance"]),
        *_notes_on_sizes(report["sizes"]),
        *_notes_on_pixels(report["pixels"], report["parts"]["train"]["looked_at"]),
        *_notes_on_copies(report["copies"], report["parts"]),
    ]
    return found or ["nothing unusual"]


def _notes_on_counts(parts: dict, balance: dict) -> Iterator[str]:
    counts = parts["train"]["per_class"]
    smallest, largest = min(counts, key=counts.get), max(counts, key=counts.get)
    if balance["ratio"] is None or balance["ratio"] >= UNBALANCED:
        yield (
            f"the classes are unbalanced: {counts[largest]:,} training images of {_quoted(largest)}, "
            f"{counts[smallest]:,} of {_quoted(smallest)}; accuracy hides what happens to small classes"
        )
    if counts[smallest] < FEW:
        few = sum(count < FEW for count in counts.values())
        yield (
            f"few images: {few:,} of {len(counts):,} classes have fewer than {FEW} training images, the smallest "
            f"{counts[smallest]:,}; pretrained weights and augmentation help"
        )
    for name, part in parts.items():
        if part["unlabelled"]:
            yield f"{part['unlabelled']:,} of {part['images']:,} {name} images have no label: there is no score on them"
        missing = sum(count == 0 for count in part["per_class"].values())
        if missing and part["unlabelled"] < part["images"]:
            yield f"{missing:,} of {len(counts):,} classes have no {name} image"


def _notes_on_sizes(sizes: dict) -> Iterator[str]:
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


def _notes_on_pixels(pixels: dict, looked_at: int) -> Iterator[str]:
    if pixels["greyscale"] >= ALL_GREY:
        yield "the images are greyscale: three equal channels tell no more than one"
    elif pixels["greyscale"] >= SOME_GREY:
        yield f"{pixels['greyscale']:.1%} of the training images are greyscale among coloured ones"
    if pixels["constant_images"]:
        yield f"{pixels['constant_images']:,} of {looked_at:,} training images show one colour and nothing else"
    if pixels["zero"] >= SPARSE:
        yield f"{pixels['zero']:.0%} of all pixel values are exactly 0: strokes or objects on a black ground"


def _notes_on_copies(copies: dict, parts: dict) -> Iterator[str]:
    if copies["exact"] is None:
        yield "exact copies were not looked for: the images stay in their file, and all of it would have to be read"
    if any(part["looked_at"] < part["images"] for part in parts.values()):
        seen, total = (sum(part[key] for part in parts.values()) for key in ("looked_at", "images"))
        yield f"{seen:,} of {total:,} images were looked at; near copies of the others are not counted"
    for kind, found in (("exact", copies["exact"] or {}), ("near", copies["near"])):
        for name, count in found.items():
            yield from _notes_on(kind, name.split("/"), count)


def _notes_on(kind: str, names: list[str], count: dict) -> Iterator[str]:
    if not count["images"]:
        return
    are = "are the same as" if kind == "exact" else "are nearly the same as"
    if len(names) == 1:
        yield f"{count['images']:,} {names[0]} image(s) {are} another {names[0]} image"
    else:
        effect = f"{names[1]} accuracy is too good" if names[0] == "train" else "the two are not independent"
        yield f"{count['images']:,} {names[1]} image(s) {are} a {names[0]} image: {effect}"
    if count["labels_differ"]:
        advice = "at most one of the two can be right" if kind == "exact" else "look at them in duplicates.png"
        yield f"{count['labels_differ']:,} of those pairs have two different labels: {advice}"


def _quoted(name: str, longest: int = 40) -> str:
    return repr(name if len(name) <= longest else name[: longest - 1] + "…")
