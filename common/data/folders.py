"""Image files: decoded, measured and checked at the start, and held in memory if they fit there."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from common.data.arrays import ArrayDataset, Split, pixel_hash
from common.data.images import DIM, FIRST, NEEDS_HEIF, read_frame, square, stored_shape
from common.data.index import Index, file_state, index_file
from common.data.layouts import Layout, find_images, in_their_roles
from common.system.errors import BadInput
from common.system.log import info, progress, warn
from common.system.memory import fits_in_memory
from common.system.sharing import gather_here, part_here, sharing, zeros_here
from common.system.threads import read_ahead
from common.transforms.random_streams import Draws

LISTED = 20  # unreadable files that are shown; all are counted
AHEAD = 4  # images that each thread may be ahead of who takes them


@dataclass
class Reading:
    """What there is to tell of the files that were read.

    `converted` counts pictures by what had to be done with them (see `images`); `sizes` counts them by their own
    (width, height); `skipped` names unreadable files that were left out; `fit` is how those in a packed file were made
    squares, None where this run has made them.
    """

    converted: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    fit: str | None = None


def load_folder(
    location: str | None, size: int, workers: int, fit: str = "crop", skip_unreadable: bool = False,
    output_dir: str | None = None,
) -> tuple[dict[str, Split], Reading]:  # fmt: skip
    """Return the splits "train" and, where the folder has them, "val" and "test", and what there is to tell.

    The layouts are those of `find_images`, the other arguments and errors those of `read_images` besides.

    Raises:
        BadInput: no such folder, no images, a class that training does not have.
    """
    if location is None:
        raise BadInput("--dataset folder needs --data FOLDER, the folder with the class folders")
    layout = find_images(location, "--data ")
    return read_images(layout, size, workers, fit, skip_unreadable, output_dir)


def read_images(
    layout: Layout, size: int, workers: int, fit: str = "crop", skip_unreadable: bool = False,
    output_dir: str | None = None,
) -> tuple[dict[str, Split], Reading]:  # fmt: skip
    """Return the parts of `layout` by what they serve for (see `in_their_roles`), and what there is to tell.

    Every image is decoded here, so that a damaged one is found before training starts; but not again what an index in
    `output_dir` knows of an earlier start, see `Index`. The processes of a machine divide them.

    Images become squares of this `size` in the way `fit` of FITS; see `stored_size` for the exception. `workers` are
    threads that decode. With `skip_unreadable` files that cannot be read are left out, and listed.

    BadInput is raised if files cannot be read.
    """
    files, folders = in_their_roles(layout.files), in_their_roles(layout.folders)
    indexes = {}
    for split, of_split in files.items():
        paths = [path for path, _ in of_split]
        indexes[split] = Index(layout.root, paths, index_file(output_dir, folders[split], size, fit))
    sizes = sum((index.sizes() for index in indexes.values()), Counter())
    size = stored_size(sizes, size)
    if all(width == height for width, height in sizes):
        fit = "crop"  # of squares, all fits are the same
    stored_bytes = sum(3 * math.prod(stored_shape(*shape, size, fit)) * count for shape, count in sizes.items())
    in_memory = gather_here(fits_in_memory(stored_bytes / sharing()))[0]
    if not in_memory:
        info(f"{sizes.total():,} images of {size}x{size} do not fit into memory: decoding them in every epoch")
    reading, splits = Reading(sizes=sizes), {}
    for split, index in indexes.items():
        dataset = FolderDataset(index, [label for _, label in files[split]], layout.classes, size, fit, workers)
        splits[split] = scan(dataset, in_memory, f"reading {split} images", reading)
    tell_of_converted(reading.converted)
    if reading.skipped:
        more = check_unreadable(reading.skipped, skip_unreadable, splits)
        info(f"warning: {len(reading.skipped)} file(s) that cannot be read are skipped{more}; config.json names all")
    return splits, reading


def tell_of_converted(converted: Counter) -> None:
    """Say how many pictures are used in part only, and how many are nearly black: they do not use their 16 bits."""
    if converted[FIRST]:
        info(f"note: of {converted[FIRST]} picture(s) with several frames (animated, say) the first one is used")
    if converted[DIM]:
        what = f"{converted[DIM]} 16-bit picture(s) have no value above 4095"
        info(f"warning: {what}: with 12 bits in 16 they are nearly black here; scale them by 16 beforehand")


def stored_size(sizes: Counter, size: int) -> int:
    """Return the side of the stored squares: `size`, or the images' own if all are squares of half that or less.

    Enlarging those in every epoch costs less than four times the memory.
    """
    if len(sizes) != 1:
        return size
    [(width, height)] = sizes
    return width if width == height and 2 * width <= size else size


class Frames:
    """Frames of images, by their indices, one after the other in memory that the processes of a machine have together.

    `sizes` (N, 2) are the (width, height) of all images, `size` is the shorter side of all frames.
    """

    def __init__(self, sizes: np.ndarray, size: int):
        lengths = [3 * math.prod(stored_shape(*one, size, "slide")) if one[0] else 0 for one in sizes.tolist()]
        self._starts = np.cumsum([0, *lengths])
        self._shapes, self._pixels = zeros_here((len(sizes), 2), np.int32), zeros_here((int(self._starts[-1]),))

    def __contains__(self, index: int) -> bool:
        return self._shapes[index].all()

    def __getitem__(self, index: int) -> np.ndarray:
        return self._pixels[self._starts[index] : self._starts[index + 1]].reshape(*self._shapes[index], 3)

    def __setitem__(self, index: int, pixels: np.ndarray) -> None:
        if pixels.size == self._starts[index + 1] - self._starts[index]:  # else it was replaced since it was measured
            self._shapes[index] = pixels.shape[:2]
            self[index][:] = pixels


class FolderDataset:
    """Image files, decoded in threads whenever a batch is asked for (decoding releases the interpreter lock).

    What has been decoded can be kept in `held`, by index; such images are not decoded again. `index` knows the pixels
    of the others: a file that has been replaced by another picture since then is an error.

    Every image becomes a square of `size` pixels, in the way `fit` of FITS; `workers` are threads.
    """

    def __init__(self, index: Index, labels: list[int], classes: list[str], size: int, fit: str, workers: int):
        self.index, self.classes, self.size, self.fit, self.workers = index, classes, size, fit, workers
        self.paths, self.ids = index.paths, index.names
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.held: dict[int, np.ndarray] | Frames = {}

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: torch.Tensor, draws: Draws | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the squares that lie in the middle of the images, or at random places along them if there are `draws`.

        BadInput is raised if a file cannot be read any more, or is another picture now.
        """
        places = draws.uniform().tolist() if draws else [None] * len(indices)
        decoded = read_ahead(self._decode, indices.tolist(), self.workers, AHEAD)
        squares = [square(pixels, place) for (pixels, _), place in zip(decoded, places, strict=True)]
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2), self.labels[indices]

    def readable(self, indices: Sequence[int], title: str, failures: list[str]) -> Iterator[tuple]:
        """Yield (index, pixels as `frame` returns them, what `read_image` tells) of all images that can be read.

        `failures` gets a line for each of the others; `title` is that of the progress bar.
        """

        def decode(index: int) -> tuple[int, np.ndarray, list[str]] | BadInput:
            try:
                return index, *self._decode(index)
            except BadInput as error:
                return error

        with progress(len(indices), title) as bar:
            for decoded in read_ahead(decode, indices, self.workers, AHEAD):
                if isinstance(decoded, BadInput):
                    failures.append(str(decoded))
                else:
                    yield decoded
                bar.update()

    def _decode(self, index: int) -> tuple[np.ndarray, list[str]]:
        if index in self.held:
            return self.held[index], []
        path = self.paths[index]
        state = file_state(path)  # looking at the pixels would cost a tenth more
        pixels, kinds = read_frame(path, self.size, self.fit)
        is_known, is_same = self.index.is_known[index], self.index.is_as_it_was(index, state)
        if is_known and not is_same and pixel_hash(pixels) != self.index.hash_of(index):
            raise BadInput(f"{path} has been replaced by another picture since the images were read")
        return pixels, kinds


def scan(dataset: FolderDataset, in_memory: bool, title: str, reading: Reading) -> Split:
    """Decode the images that the index of `dataset` does not know, or whose pixels it lacks if they are to be held.

    The processes of a machine decode a part each. Held are pixels if they fit into memory, in that of all together, and
    told is what there is, to `reading` and to the index. Files that cannot be read are in `reading.skipped`, and not in
    the split that is returned.
    """
    index, shape, pixels = dataset.index, (len(dataset), dataset.size, dataset.size, 3), None
    missing = index.missing(dataset.size, dataset.fit, in_memory)
    if in_memory and dataset.fit == "slide":
        dataset.held = Frames(index.facts["size"], dataset.size)
    elif in_memory:
        pixels = zeros_here(shape) if index.pixels is None or sharing() > 1 else index.pixels
        if index.pixels is not None and pixels is not index.pixels:
            kept = np.delete(np.arange(len(dataset)), missing)
            pixels[kept], index.pixels = index.pixels[kept], None
    failures = []
    for row, image, kinds in dataset.readable(part_here(missing).tolist(), title, failures):
        index.learn(row, pixel_hash(image), kinds)
        if pixels is not None:
            pixels[row] = image
        elif in_memory:
            dataset.held[row] = image
    failures = sum(gather_here(failures), [])
    reading.skipped += failures
    reading.converted.update(index.converted())
    index.write(len(missing) - len(failures), pixels)
    held = dataset if pixels is None else ArrayDataset(pixels, dataset.labels, dataset.classes, dataset.ids)
    readable = np.flatnonzero(index.is_known)
    return Split(held, torch.from_numpy(readable), [index.hash_of(row) for row in readable.tolist()])


def check_unreadable(failures: list[str], skip: bool, splits: dict[str, Split], at_most: int = LISTED) -> str:
    """List files that cannot be read, and return a remark if those are not all; `splits` are left without them.

    BadInput is raised if they may not be skipped, or a split has none left of a class.
    """
    if len(failures) == 1 and not skip:
        raise BadInput(f"{failures[0]}; repair or remove it, or add --skip_unreadable")
    if not skip and len(heic := [failure for failure in failures if NEEDS_HEIF in failure]) > 1:  # all of one cause
        raise BadInput(f"{len(heic)} files are like this one: {heic[0]}")
    for failure in failures[:at_most]:
        warn(failure)
    more = f" (the first {at_most} are listed above)" if len(failures) > at_most else ""
    if not skip:
        raise BadInput(f"{len(failures)} files cannot be read{more}: repair or remove them, or add --skip_unreadable")
    for name, split in splits.items():
        for label in sorted(set(split.dataset.labels.tolist()) - set(split.labels)):
            which = f" of class {split.dataset.classes[label]!r}" if label >= 0 else ""
            raise BadInput(f"none of the {name} images{which} can be read")
    return more
