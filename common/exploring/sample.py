"""Which images are looked at, and the reading of them."""

from collections.abc import Iterator

import torch

from common.data.arrays import Part
from common.transforms.random_streams import shuffled

# Of each part at most so many pixels are looked at: all of CIFAR, five thousand photographs of 224x224.
MOST_PIXELS = 2**28
MOST_IMAGES = 2**16  # of each part: the time to compare all images with each other grows with the square of it
SEED = 0  # of the choice, if there are more
BLOCK = 2**19  # pixels read at once


def balanced_sample(part: Part, limit: int, seed: int = SEED) -> Part:
    """Return at most `limit` images of `part` in their order, of every class as equal a number as there are."""
    count = len(part)
    if count <= limit:
        return part
    order = shuffled(torch.arange(count), seed, epoch=0)
    labels = part.dataset.labels[part.samples][order]
    by_class = torch.argsort(labels, stable=True)
    _, sizes = torch.unique(labels, return_counts=True)
    firsts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    place_in_class = torch.arange(count) - firsts
    chosen = order[by_class[torch.argsort(place_in_class, stable=True)[:limit]]]
    return part.subset(chosen.sort().values.tolist())


def most_images(part: Part) -> int:
    """Return how many images of `part` are looked at."""
    return max(1, min(MOST_IMAGES, MOST_PIXELS // part.dataset.size**2))


def blocks(part: Part) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield all images of `part`, (n, C, H, W) uint8, and their labels (n,), some at a time."""
    for samples in part.samples.split(max(1, BLOCK // part.dataset.size**2)):
        yield part.dataset.batch(samples)
