"""The kinds of data sets. Each hands out whole batches, because the batch is the unit of all work here.

A data set is anything with
    classes: list of names; labels: (N,) int64 tensor, -1 where unknown; ids: names of the N images; len();
    batch(indices): (images (n, C, H, W) uint8, labels (n,)) for an int64 tensor of n indices.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from common.data.splits import stratified_split

HASH_BYTES = 16  # of a hash of pixels


class ArrayDataset:
    """Images held in memory.

    Args:
        pixels: (N, H, W, C) uint8; channels last, so that a batch has the layout which convolutions are fastest with.
        labels: N class numbers.
        rows_sha256: of the middle row of every image, if anybody needs it.
    """

    def __init__(
        self, pixels: np.ndarray | torch.Tensor, labels, classes: list[str], ids: Sequence[str],
        rows_sha256: str | None = None,
    ):  # fmt: skip
        self.pixels = torch.as_tensor(pixels)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.classes, self.ids, self.rows_sha256 = list(classes), ids, rows_sha256

    @property
    def size(self) -> int:
        """Side in pixels of the stored squares."""
        return self.pixels.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels[indices].permute(0, 3, 1, 2), self.labels[indices]

    def to(self, device: torch.device) -> "ArrayDataset":
        """Return the same data set with its tensors on `device`."""
        return ArrayDataset(self.pixels.to(device), self.labels.to(device), self.classes, self.ids)


@dataclass
class Split:
    """The images of a data set that serve one purpose.

    `indices` (N,) are their indices. `hashes` tell images apart, whatever the order of the files: where the images were
    all read they are those of the pixels, so that copies have the same.
    """

    dataset: Any  # what the first lines of this file say
    indices: torch.Tensor
    hashes: Sequence[bytes] = field(repr=False, default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> list[int]:
        return self.dataset.labels[self.indices].tolist()

    def subset(self, places: list[int]) -> "Split":
        """Return the split made of the images at `places` of this one."""
        return Split(self.dataset, self.indices[torch.tensor(places)], [self.hashes[place] for place in places])

    def set_aside(self, fraction: float, seed: int) -> tuple["Split", "Split"]:
        """Return (the rest, the `fraction` of every class that is set aside), as `stratified_split` divides them."""
        rest, aside = stratified_split(self.labels, self.hashes, self.dataset.classes, fraction, seed)
        return self.subset(rest), self.subset(aside)


def whole(dataset: ArrayDataset) -> Split:
    """Return the split that is all of a data set in memory, with the hash of every image's pixels."""
    return Split(dataset, torch.arange(len(dataset)), [pixel_hash(pixels) for pixels in dataset.pixels.numpy()])


def pixel_hash(pixels: np.ndarray) -> bytes:
    """Return a digest that two images share exactly if their pixels are the same."""
    return hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=HASH_BYTES).digest()
