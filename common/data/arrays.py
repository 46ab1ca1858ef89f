"""A data set in memory, the split of any data set, and which images train and which validate.

A data set hands out whole batches, because the batch is the unit of all work here. It is anything with
    classes: list of names; labels: (N,) int64 tensor, -1 where unknown; ids: names of the N images; len();
    batch(indices): (images (n, C, H, W) uint8, labels (n,)) for an int64 tensor of n indices.
"""

import copy
import hashlib
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from common.data.checks import Checks
from common.system.errors import BadInput

HASH_BYTES = 16  # of a hash of pixels
BLOCK = 2**19  # pixels read at once


class ArrayDataset:
    """Images held in memory.

    `pixels` are (N, H, W, C) uint8; channels last, so that a batch has the layout which convolutions are fastest with.
    `checks` are those of an HDF5 file.
    """

    def __init__(self, pixels, labels, classes: list[str], ids: Sequence[str], checks: Checks | None = None):
        self.pixels = torch.as_tensor(pixels)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.classes, self.ids, self.checks = list(classes), ids, checks
        self._copies = weakref.WeakValueDictionary()  # by device, as long as anybody uses them

    @property
    def size(self) -> int:
        """Side in pixels of the stored squares."""
        return self.pixels.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor, _: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        # Copies whole images: on a CPU in a sixth of the time of [...].
        images = self.pixels.index_select(0, indices.to(self.pixels.device))
        return images.permute(0, 3, 1, 2), self.labels[indices]

    def __copy__(self) -> "ArrayDataset":
        return ArrayDataset(self.pixels, self.labels, self.classes, self.ids, self.checks)  # with copies of its own

    def is_on(self, device: torch.device) -> bool:
        """Tell whether `to` has a copy on `device` already."""
        return device in self._copies

    def to(self, device: torch.device) -> "ArrayDataset":
        """Return the same data set with its tensors on `device`; all splits of it share them."""
        copy = self._copies.get(device)
        if copy is None:
            copy = ArrayDataset(self.pixels.to(device), self.labels.to(device), self.classes, self.ids)
            self._copies[device] = copy
        return copy


@dataclass
class Split:
    """The images of a data set that serve one purpose.

    `indices` (N,) are their indices. `hashes` tell images apart, whatever the order of the files: where the images were
    all read they are those of the pixels, so that copies have the same. `keys`, int64, one for each index of the data
    set, are what random numbers are drawn by: the indices themselves, but for `by_image`. A training epoch of a split
    that `is_balanced` has as many images of each class.
    """

    dataset: Any  # what the first lines of this file say
    indices: torch.Tensor
    hashes: Sequence[bytes] = field(repr=False, default_factory=list)
    keys: torch.Tensor | None = field(repr=False, default=None)
    is_balanced: bool = False

    def __post_init__(self):
        if self.keys is None:
            self.keys = torch.arange(len(self.dataset))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def has_pixel_hashes(self) -> bool:
        """Tell whether `hashes` are those of pixels; images of an HDF5 file may have keys instead, which are longer."""
        return len(self) > 0 and len(self.hashes[0]) == HASH_BYTES

    @property
    def checks(self) -> Checks | None:
        """What is known of images that are read from an HDF5 file."""
        return getattr(self.dataset, "checks", None)

    @property
    def labels(self) -> list[int]:
        return self.dataset.labels[self.indices].tolist()

    def blocks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield all images, (n, C, H, W) uint8, and their labels (n,), some at a time."""
        for indices in self.indices.split(max(1, BLOCK // self.dataset.size**2)):
            yield self.dataset.batch(indices)

    def subset(self, places: list[int]) -> "Split":
        """Return the split made of the images at `places` of this one."""
        hashes = [self.hashes[place] for place in places]
        return Split(self.dataset, self.indices[torch.tensor(places)], hashes, self.keys)

    def by_image(self) -> "Split":
        """Return the same split with an order and keys that depend on pixels and labels alone, not on names of files.

        `hashes` must be those of pixels. Copies have keys of their own, so that no two are always seen together.
        """
        halves = np.frombuffer(b"".join(self.hashes), "<i8").reshape(-1, 2)
        order = np.lexsort((self.labels, halves[:, 1], halves[:, 0]))
        first = halves[order, 0]
        split, copy = self.subset(order.tolist()), np.arange(len(first)) - np.searchsorted(first, first)
        split.keys = torch.zeros(len(self.dataset), dtype=torch.int64)
        split.keys[split.indices] = torch.from_numpy(first + copy)
        return split

    def set_aside(self, fraction: float, seed: int) -> tuple["Split", "Split"]:
        """Return (the rest, the `fraction` of every class that is set aside), as `stratified_split` divides them."""
        rest, aside = stratified_split(self.labels, self.hashes, self.dataset.classes, fraction, seed)
        return self.subset(rest), self.subset(aside)

    def fold(self, number: int, count: int, seed: int) -> tuple["Split", "Split"]:
        """Return (the rest, part `number`, from 1 on, of `count`), as `stratified_folds` divides them."""
        folds = stratified_folds(self.labels, self.hashes, self.dataset.classes, count, seed)
        aside = folds.pop(number - 1)
        return self.subset(sorted(sum(folds, []))), self.subset(aside)


def with_shuffled_labels(splits: Sequence[Split], seed: int) -> list[Split]:
    """Return the same splits with labels that are dealt out anew within each: as many of each class, at random.

    BadInput is raised if images have no labels.
    """
    if min(min(split.labels) for split in splits) < 0:
        raise BadInput("--null_test tells by the labels of test images, and here they have none")
    datasets, generator = {}, torch.Generator().manual_seed(seed)
    for split in splits:
        shuffled = datasets.setdefault(id(split.dataset), copy.copy(split.dataset))
        order = torch.randperm(len(split), generator=generator)
        shuffled.labels = shuffled.labels.clone()
        shuffled.labels[split.indices] = split.dataset.labels[split.indices][order]
    return [replace(split, dataset=datasets[id(split.dataset)]) for split in splits]


def whole(dataset: ArrayDataset) -> Split:
    """Return the split that is all of a data set in memory, with the hash of every image's pixels."""
    return Split(dataset, torch.arange(len(dataset)), [pixel_hash(pixels) for pixels in dataset.pixels.numpy()])


def pixel_hash(pixels: np.ndarray) -> bytes:
    """Return a digest that two images share exactly if their pixels are the same."""
    return hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=HASH_BYTES).digest()


def stratified_split(
    labels: Sequence[int], hashes: Sequence[bytes], classes: Sequence[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return the sorted indices of (the rest, the `fraction` that was set aside from every class).

    A pure function of the images: the order in which they come changes nothing. Images with the same hash stay
    together, on the side where the class with the smallest label among them puts them. BadInput is raised if a class
    has no two different images, so that one side would be empty.
    """
    counts, rest, aside = Counter(labels), [], []
    groups = _groups_of_copies(labels, hashes, seed)
    for label, name in enumerate(classes):
        if len(groups[label]) < 2:
            has = f"class {name!r} has {counts[label]} image(s) and no two different ones of its own"
            raise BadInput(f"{has}; training and held-out images need one each: add images or remove the class")
        target = max(1, round(fraction * counts[label]))
        taken = 0
        *most, last = groups[label]
        for indices in most:
            (aside if taken < target else rest).extend(indices)
            taken += len(indices)
        rest.extend(last)  # so that training never ends up with none
    return sorted(rest), sorted(aside)


def stratified_folds(
    labels: Sequence[int], hashes: Sequence[bytes], classes: Sequence[str], count: int, seed: int
) -> list[list[int]]:
    """Return the sorted indices of the images in each of `count` parts, with as many of every class as in the others.

    A pure function of the images, with copies together, like `stratified_split`. BadInput is raised if a class has
    fewer different images than there are parts.
    """
    folds, groups = [[] for _ in range(count)], _groups_of_copies(labels, hashes, seed)
    for label, name in enumerate(classes):
        if len(groups[label]) < count:
            has = f"class {name!r} has {len(groups[label])} different image(s) of its own"
            raise BadInput(f"--folds {count}: {has}, and each part needs one: add images or lower it")
        of_class = [0] * count
        for indices in groups[label]:
            least = min(range(count), key=lambda number: (of_class[number], len(folds[number])))
            folds[least] += indices
            of_class[least] += len(indices)
    return [sorted(fold) for fold in folds]


def _groups_of_copies(labels: Sequence[int], hashes: Sequence[bytes], seed: int) -> dict[int, list[list[int]]]:
    """Return the indices of all images with equal hashes together, by their smallest label, in the order of a seed."""
    copies = defaultdict(list)
    for index, pixel_hash in enumerate(hashes):
        copies[pixel_hash].append(index)
    groups = defaultdict(list)
    for pixel_hash in sorted(copies, key=lambda pixel_hash: _place(pixel_hash, seed)):
        groups[min(labels[index] for index in copies[pixel_hash])].append(copies[pixel_hash])
    return groups


def _place(pixel_hash: bytes, seed: int, purpose: bytes = b"") -> bytes:
    """Return where an image stands in the order that a seed brings the images into, for a purpose of its own."""
    return hashlib.blake2b(pixel_hash, key=str(seed).encode(), person=purpose, digest_size=16).digest()


def balanced_subset(
    labels: Sequence[int], hashes: Sequence[bytes], classes: Sequence[str], limit: int, seed: int | None = 0
) -> list[int]:
    """Return the sorted indices of at most `limit` images, of every class as equal a number as there are.

    They are drawn by the seed, whatever order they come in; None: always the same ones, as older runs have them.
    BadInput is raised if `limit` is smaller than the number of classes.
    """
    if limit < len(classes):
        raise BadInput(f"--limit {limit}: {len(classes)} classes need at least {len(classes)} images")
    places = hashes if seed is None else [_place(pixel_hash, seed, b"limit") for pixel_hash in hashes]
    order = sorted(range(len(labels)), key=lambda index: places[index])
    return take_in_rounds(order, labels, limit)


def take_in_rounds(order: Iterable[int], labels: Sequence[int], limit: int) -> list[int]:
    """Return `limit` of the indices in `order`, sorted: the first of every class, then the second of every class, …"""
    seen, ranked = Counter(), []
    for index in order:
        label = labels[index]
        ranked.append((seen[label], label, index))
        seen[label] += 1
    return sorted(index for _, _, index in sorted(ranked)[:limit])


def split_digest(**sides: tuple[Sequence[int], Sequence[bytes]]) -> str:
    """Return a SHA-256 (hexadecimal) of which images, with which labels, are on which side; order does not matter.

    Each side is (labels, hashes).
    """
    digest = hashlib.sha256()
    for side, (labels, hashes) in sorted(sides.items()):
        digest.update(side.encode())
        for pixel_hash, label in sorted(zip(hashes, labels, strict=True)):
            digest.update(pixel_hash + str(label).encode())
    return digest.hexdigest()
