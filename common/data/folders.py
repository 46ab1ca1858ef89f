"""Class folders: `train/`, `val/` and `test/` with a folder of images for each class, or class folders alone."""

import contextlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from common.data.arrays import ArrayDataset, Split, pixel_hash
from common.data.decoded import keep, recall
from common.data.images import DIM, opened, read_frame, square, stored_shape
from common.system.errors import BadInput
from common.system.log import info, progress, warn
from common.system.memory import fits_in_memory
from common.system.threads import read_ahead
from common.transforms.random_streams import Draws

LISTED = 20  # unreadable files that are shown; all are counted
AHEAD = 4  # images that each thread may be ahead of who takes them
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # what operating systems leave in folders
NO_PICTURES = (".txt", ".csv", ".xml", ".json", ".md")  # what data sets come with, beside their pictures
NAMES_OF_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}  # in any case


@dataclass
class Reading:
    """What there is to tell of the files that were read.

    `converted` counts pictures by what had to be done with them (see `images`); `sizes` counts them by their own
    (width, height); `skipped` names unreadable files that were left out.
    """

    converted: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)


def load_folder(
    location: str | None, size: int, workers: int, fit: str = "crop", skip_unreadable: bool = False
) -> tuple[dict[str, Split], Reading]:
    """Return the splits "train" and, where the folder has them, "val" and "test", and what there is to tell.

    With `train/` and one of `val/` and `test/`, that one is the test set. A `test/` that holds images but no class
    folders has no labels. Every image is decoded once here, so that a damaged one is found before training starts.

    Images become squares of this `size` in the way `fit` of FITS; see `_stored_size` for the exception. `workers` are
    threads that decode. With `skip_unreadable` files that cannot be read are left out, and listed.

    Raises:
        BadInput: no such folder, no images, a class that training does not have, files that cannot be read.
    """
    if location is None:
        raise BadInput("--dataset folder needs --data FOLDER, the folder with the class folders")
    root = Path(location)
    if not root.is_dir():
        raise BadInput(f"--data {location}: there is no such folder")
    folders, classes = split_folders(root)
    if "test" not in folders and "val" in folders:
        folders["test"] = folders.pop("val")
    files = {split: labeled_files(folder, classes, split) for split, folder in folders.items()}

    shapes = []  # (width, height), from the headers of all that can be opened; `scan` will name the others
    for path, _ in (file for of_split in files.values() for file in of_split):
        with contextlib.suppress(BadInput), opened(path) as image:
            shapes.append(image.size)
    size = _stored_size(shapes, size)
    if all(width == height for width, height in shapes):
        fit = "crop"  # of squares, all fits are the same
    stored_bytes = sum(3 * math.prod(stored_shape(*shape, size, fit)) for shape in shapes)
    in_memory = fits_in_memory(stored_bytes)
    if not in_memory:
        info(f"{len(shapes):,} images of {size}x{size} do not fit into memory: decoding them in every epoch")
    reading, splits = Reading(sizes=Counter(shapes)), {}
    for split in files:
        dataset = FolderDataset(root, files[split], classes, size, fit, workers)
        splits[split] = scan(dataset, in_memory, f"reading {split} images", reading)
    warn_of_dim(reading.converted)
    if reading.skipped:
        more = check_unreadable(reading.skipped, skip_unreadable, splits)
        info(f"warning: {len(reading.skipped)} file(s) that cannot be read are skipped{more}; config.json names all")
    return splits, reading


def warn_of_dim(converted: Counter) -> None:
    """Say how many of the pictures are nearly black because they do not use their 16 bits."""
    if converted[DIM]:
        what = f"{converted[DIM]} 16-bit picture(s) have no value above 4095"
        info(f"warning: {what}: with 12 bits in 16 they are nearly black here; scale them by 16 beforehand")


def split_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the folders of the splits "train", "val" and "test" below `root`, and the names of the classes.

    The folder of "train" is `root` if that holds the classes. BadInput is raised if there is one class only.
    """
    names = folder_names(root)
    folders = {NAMES_OF_SPLITS[name.lower()]: root / name for name in names if name.lower() in NAMES_OF_SPLITS}
    if "train" not in folders or (len(names) > len(folders) and not folder_names(folders["train"])):
        folders = {"train": root}  # where a folder named "train" may be one of the classes
    elif others := [name for name in names if root / name not in folders.values()]:
        info(f"warning: {root} has other folders beside {', '.join(sorted(folders))}; not used: {', '.join(others)}")
    classes = folder_names(folders["train"])
    if len(classes) == 1:
        only = f"{folders['train']} has one class folder only, {classes[0]!r}"
        raise BadInput(f"{only}: nothing to tell apart{_suggestion(root)}")
    return folders, classes


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, sorted, without hidden ones and litter."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_ignored(entry.name))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _suggestion(root: Path) -> str:
    """Return a hint at a folder below `root` that looks more like what is wanted, or nothing."""
    inner = [root / name for name in folder_names(root) if folder_names(root / name)]
    return f"; did you mean {inner[0]}?" if inner else ""


def labeled_files(folder: Path, classes: list[str], split: str) -> list[tuple[Path, int]]:
    """Return (path, label) of every image in `folder`, sorted; the label is -1 if there are no class folders."""
    names = folder_names(folder)
    if split != "test" and not names:
        raise BadInput(f"{folder} has no class folders{_suggestion(folder)}")
    unknown = sorted(set(names) - set(classes))
    if unknown:
        known = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
        extra = f"{folder} has the class folder {unknown[0]!r}, which the training images do not have"
        raise BadInput(f"{extra} (they have {known}): rename or remove it")
    if names and len(names) < len(classes):
        info(f"warning: {folder} lacks {len(classes) - len(names)} of {len(classes)} classes")
    loose = [entry.name for entry in folder.iterdir() if entry.is_file() and not _is_ignored(entry.name)]
    if names and loose:
        info(f"warning: {len(loose)} file(s) in {folder} are in no class folder, and not used (such as {loose[0]})")
    files, passed_over = [], []
    for name in names or [""]:
        label = classes.index(name) if name else -1
        of_class = [(path, label) for path in image_files(folder / name, passed_over)]
        if not of_class and names:
            raise BadInput(f"the class folder {folder / name} is empty: add images or remove it{_suggestion(folder)}")
        files += of_class
    if not files:
        raise BadInput(f"{folder} is empty: remove it, or put the test images there")
    tell_passed_over(passed_over)
    return files


def image_files(folder: Path, passed_over: list[Path]) -> Iterator[Path]:
    """Yield all files below `folder` in sorted order, without hidden ones, litter and what is no picture by its name.

    The latter are added to `passed_over`. Links to other folders are followed, once each.
    """
    followed = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not _is_ignored(name))
        subfolders[:] = [name for name in subfolders if _leads_on(Path(parent, name), folder, followed)]
        for path in (Path(parent, name) for name in sorted(names) if not _is_ignored(name)):
            if path.suffix.lower() not in NO_PICTURES:
                yield path
            else:
                passed_over.append(path)


def _leads_on(subfolder: Path, start: Path, followed: set[Path]) -> bool:
    """Tell whether a walk that began at `start` shall go into `subfolder`: not if that is a link back to where it is.

    The targets of links are added to `followed`.
    """
    if not subfolder.is_symlink():
        return True
    target, start = subfolder.resolve(), start.resolve()
    if target in followed or target.is_relative_to(start) or start.is_relative_to(target):
        info(f"warning: {subfolder} is passed over: it is a link back to {target}, whose images are read anyway")
        return False
    followed.add(target)
    return True


def tell_passed_over(passed_over: list[Path]) -> None:
    """Say how many files `image_files` has passed over."""
    if passed_over:
        info(f"note: {len(passed_over)} file(s) are no pictures by their names, not used (such as {passed_over[0]})")


def _stored_size(shapes: list[tuple[int, int]], size: int) -> int:
    """Return the side of the stored squares: `size`, or the images' own if all are squares of half that or less.

    Enlarging those in every epoch costs less than four times the memory.
    """
    if len(set(shapes)) != 1:
        return size
    width, height = shapes[0]
    return width if width == height and 2 * width <= size else size


class FolderDataset:
    """Image files, decoded in threads whenever a batch is asked for (decoding releases the interpreter lock).

    What has been decoded can be kept in `held`, by index; such images are not decoded again. `hashes` knows the pixels
    of the others: a file that has been replaced by another picture since then is an error.

    The names of the images in `files`, (path, label) of each, are relative to `root`. Every image becomes a square of
    `size` pixels, in the way `fit` of FITS; `workers` are threads.
    """

    def __init__(self, root: Path, files: list, classes: list[str], size: int, fit: str, workers: int):
        self.classes, self.size, self.fit, self.workers = classes, size, fit, workers
        self.paths = [path for path, _ in files]
        self.labels = torch.tensor([label for _, label in files], dtype=torch.int64)
        self.ids = [path.relative_to(root).as_posix() for path in self.paths]
        self.held: dict[int, np.ndarray] = {}
        self.hashes: list[bytes | None] = [None] * len(files)
        self._stamps = [0] * len(files)

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
        path, stamp = self.paths[index], 0  # another one when the file has been written to; pixels cost a tenth more
        with contextlib.suppress(OSError):  # reading the file will tell
            state = path.stat()
            stamp = hash((state.st_size, state.st_mtime_ns))
        pixels, kinds = read_frame(path, self.size, self.fit)
        if self.hashes[index] is None:
            self._stamps[index] = stamp
        elif stamp != self._stamps[index] and pixel_hash(pixels) != self.hashes[index]:
            raise BadInput(f"{path} has been replaced by another picture since the images were read")
        return pixels, kinds


def scan(dataset: FolderDataset, in_memory: bool, title: str, reading: Reading) -> Split:
    """Decode every image once: keep the pixels if they fit, their hashes in any case, and add to `reading`.

    Files that cannot be read are in `reading.skipped`, and not in the split that is returned.
    """
    are_squares = dataset.fit != "slide"
    if in_memory and are_squares and (known := recall(dataset.paths, dataset.size, dataset.fit)):
        pixels, hashes, converted = known
        reading.converted.update(converted)
        held = ArrayDataset(pixels, dataset.labels, dataset.classes, dataset.ids)
        return Split(held, torch.arange(len(hashes)), hashes)
    pixels = np.empty((len(dataset), dataset.size, dataset.size, 3), np.uint8) if in_memory and are_squares else None
    readable, hashes, converted = [], [], Counter()
    for index, image, kinds in dataset.readable(range(len(dataset)), title, reading.skipped):
        converted.update(kinds)
        readable.append(index)
        hashes.append(pixel_hash(image))
        dataset.hashes[index] = hashes[-1]
        if pixels is not None:
            pixels[index] = image
        elif in_memory:
            dataset.held[index] = image
    reading.converted.update(converted)
    if pixels is not None and len(readable) == len(dataset):
        keep(dataset.paths, dataset.fit, pixels, hashes, converted)
    held = dataset if pixels is None else ArrayDataset(pixels, dataset.labels, dataset.classes, dataset.ids)
    return Split(held, torch.tensor(readable, dtype=torch.int64), hashes)


def check_unreadable(failures: list[str], skip: bool, splits: dict[str, Split], at_most: int = LISTED) -> str:
    """List files that cannot be read, and return a remark if those are not all; `splits` are left without them.

    BadInput is raised if they may not be skipped, or a split has none left of a class.
    """
    if len(failures) == 1 and not skip:
        raise BadInput(f"{failures[0]}; repair or remove it, or add --skip_unreadable")
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
