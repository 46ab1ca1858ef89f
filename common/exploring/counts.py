"""How many images there are of each class, how equal the classes are, and how large the pictures are by themselves."""

import math
from collections import Counter
from collections.abc import Collection

import numpy as np
import torch

from common.data.arrays import Part
from common.data.folders import Reading

LONG = 2.0  # longer side over shorter side
LISTED = 20  # sizes that explore.json names; all are counted


def describe_part(part: Part, looked_at: int) -> dict:
    """Return the number of images of a part, of those that were looked at, and of each class."""
    labels = part.dataset.labels[part.samples]
    counts = torch.bincount(labels[labels >= 0], minlength=len(part.dataset.classes)).tolist()
    return {
        "images": len(part),
        "looked_at": looked_at,
        "unlabelled": len(part) - sum(counts),
        "per_class": dict(zip(part.dataset.classes, counts, strict=True)),
    }


def describe_balance(counts: Collection[int]) -> dict:
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


def describe_sizes(reading: Reading, side: int, images: int) -> dict:
    """Return the sizes in pixels that the pictures have by themselves, and that of the squares they have become.

    Args:
        side: of those squares.
        images: how many there are; without files to tell their sizes, all of them have the one of the squares.
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
