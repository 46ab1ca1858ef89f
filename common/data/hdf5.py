"""Images in one HDF5 file, laid out as Medium ImageNet is; `pack.py` makes such files of class folders.

`images-train`, `images-val` and, if there are test images, `images-test`: (N, side, side, 3) uint8.
`labels-train`, `labels-val` and, if they are known, `labels-test`: (N,) integers.
`files-train` … (optional): (N,) strings, the names of the images.
`hashes-train` … (optional): (N, 16) uint8, see `pixel_hash`. `pack.py` writes them, and with them a file is divided as
the folder that it was made of: `images-val` may be missing, and is the test set where there are no test images.
Attribute `classes` of the file (optional): the names of the classes, in the order of the labels.

The file may come from anywhere: what it holds is looked at before it is used, and nothing is read that another file
holds.
"""

import contextlib
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from common.data.arrays import HASH_BYTES, ArrayDataset, Split, pixel_hash
from common.data.checks import Checks
from common.data.layouts import in_their_roles
from common.system.distributed import processes_here
from common.system.errors import BadInput, Terminated
from common.system.log import info, progress
from common.system.memory import fits_in_memory
from common.system.sharing import gather_here, part_here, sharing, zeros_here
from common.system.text import printable

SPLITS, KINDS = ("train", "val", "test"), ("images", "labels", "files", "hashes")
REQUIRED = ("images-train", "labels-train", "images-val", "labels-val")
LONGEST_SIDE = 4096
MOST_IMAGES, MOST_CLASSES = 2**26, 100_000  # a damaged file can claim any number: each image costs some bytes of memory
LARGEST_CHUNK = 2**28  # bytes; the HDF5 library holds whole chunks in memory
READING = threading.Lock()  # threads share the position in a file
BLOCK = 2**24  # bytes read between two movements of the bar
TEXTS = 4096  # names read at once
PATIENCE, PACE = 60, 10_000  # seconds in which texts must have been read, and texts for each of which there is one more
FINGERPRINTED = 100  # images of each split that are read to tell two files apart
LONGEST_LINE, LONGEST_REASON = 110, 400  # characters told of a file that is not as expected
# What h5py raises for damaged files, depending on where the damage is.
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, SystemError)


class Numbered(Sequence):
    """The texts `template % index`, made when they are asked for: millions of them take no memory."""

    def __init__(self, template: str | bytes, count: int):
        self.template, self.count = template, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> str | bytes:
        return self.template % range(self.count)[index]


class HDF5Dataset:
    """Images read from the file whenever a batch is asked for.

    The file is opened once by each process, when the first batch is read; pickling leaves the open file behind. Where
    every image lies in the file as it is, in one piece, its bytes are read past the HDF5 library, which takes many
    times as long to find them.

    Of `images`, the open dataset, only what is known of it is kept; `labels` (N,) are -1 where unknown. BadInput is
    raised if some image lies outside the file.
    """

    _file = _process = None  # the open file, and the process that opened it
    hashes: list[bytes] | None = None  # of the pixels of each image, if the file has them

    def __init__(self, path: Path, images: h5py.Dataset, labels, classes: list[str], ids: Sequence[str]):
        self.path, self.key, self.size = path, images.name, images.shape[1]
        self.labels = torch.from_numpy(np.asarray(labels, np.int64))  # of whatever byte order they are in the file
        self.classes, self.ids = list(classes), ids
        self.checks = Checks(f"--data {path}, {images.name.strip('/')}", len(self.labels))
        self._offsets = _image_offsets(images)
        self._cache = _cache_bytes(images)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict:
        return vars(self) | {"_file": None, "_process": None}

    def batch(self, indices: torch.Tensor, _: object = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images uint8 (n, 3, H, W), labels (n,)); BadInput is raised if the file cannot be read any more."""
        return torch.from_numpy(self.read(indices.numpy())).permute(0, 3, 1, 2), self.labels[indices]

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return (n, H, W, 3) uint8; raises as `batch` does, also if an image is not what it was."""
        rows = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        with READING, damage_is_bad_input(self.path):
            if self._process != os.getpid():  # a file that was opened before a fork shares its position with the parent
                self.close()
                if self._offsets is None:
                    self._file = h5py.File(self.path, "r", locking=False, rdcc_nbytes=self._cache, rdcc_nslots=10_007)
                else:
                    self._file = open(self.path, "rb", buffering=0)
                self._process = os.getpid()
            if self._offsets is None:
                self._read_datasets(self._file[self.key], indices, rows)
            else:
                offsets = self._offsets[indices]
                for place in np.argsort(offsets, kind="stable").tolist():
                    self._file.seek(offsets[place])
                    if self._file.readinto(rows[place]) != rows[place].nbytes:
                        raise OSError("it ends too early")
            self.checks.look(indices, rows)
        return rows

    def mapped(self) -> np.ndarray | None:
        """Return (N, H, W, 3) as they lie in the file; None if they do not lie there one after the other.

        Processes of one machine that do this have the pages in memory once, together. They must not cut the file off:
        the system ends a process that looks at a page which is gone.
        """
        if self._offsets is None or (np.diff(self._offsets) != 3 * self.size**2).any():
            return None
        shape = (len(self), self.size, self.size, 3)
        return np.memmap(self.path, np.uint8, "c", int(self._offsets[0]), shape)  # "c": the file is never written to

    def close(self) -> None:
        """Close the file; the next batch opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = self._process = None

    def __del__(self):
        self.close()

    def _read_datasets(self, images: h5py.Dataset, indices: np.ndarray, rows: np.ndarray) -> None:
        """Read images that only the HDF5 library can find or unpack, neighbors together."""
        order = np.argsort(indices, kind="stable")
        breaks = (np.diff(indices[order]) != 1) | (np.diff(order) != 1)
        for places in np.split(order, np.flatnonzero(breaks) + 1):
            if len(places):
                first, last, start = indices[places[0]], indices[places[-1]], places[0]
                images.read_direct(rows, np.s_[first : last + 1], np.s_[start : start + len(places)])


def load_hdf5(location: str | None) -> dict[str, Split]:
    """Return the splits "train" and, where the file has them, "val" and "test", in memory if they fit there.

    Several processes on a machine share one map of what lies in the file in one piece; of all else each reads a part,
    into memory that they have together. A process on its own has a copy in any case, which no change of the file
    reaches.

    Without hashes in the file, copies of images are not looked for, because that would read all of a large file: the
    `hashes` are keys then that tell an image by its split, its number and the pixels of some images of the split,
    whether or not it fits into memory today. Hashes in the file are believed if they are right for these. Each image
    has a check besides, which is compared whenever it is read, and by runs that go on: `checks`.

    BadInput is raised if there is no such file, or it is damaged or not laid out as this module says.
    """
    datasets, processes = open_hdf5(location), processes_here()
    count, size = sum(map(len, datasets.values())), datasets["train"].size
    with damage_is_bad_input(datasets["train"].path):
        maps = {split: dataset.mapped() if processes > 1 else None for split, dataset in datasets.items()}
    parts = [len(one) / (sharing() if maps[split] is None else processes) for split, one in datasets.items()]
    in_memory = gather_here(fits_in_memory(3 * size**2 * sum(parts)))[0]
    if not in_memory:
        info(f"{count:,} images of {size}x{size} do not fit into memory: reading them from the file in every epoch")
    splits = {}
    for split, dataset in datasets.items():
        keys = _keys(dataset, split)
        held = _in_memory(dataset, split, maps[split]) if in_memory else dataset
        splits[split] = Split(held, torch.arange(len(dataset)), keys)
    return splits


def _keys(dataset: HDF5Dataset, split: str) -> Sequence[bytes]:
    """Return what tells the images apart; BadInput is raised if some cannot be read, or have other hashes."""
    some = np.unique(np.linspace(0, len(dataset) - 1, FINGERPRINTED).astype(np.int64))
    rows = dataset.read(some)  # what cannot be unpacked shows here
    if dataset.hashes is None:
        return Numbered(f"{split}-{pixel_hash(rows).hex()[:16]}/%d".encode(), len(dataset))
    if [pixel_hash(row) for row in rows] != [dataset.hashes[place] for place in some]:
        name = dataset.key.strip("/")
        raise BadInput(f"--data {dataset.path}: {name} is not what it was when it was packed; pack the folder again")
    return dataset.hashes


def fit_of(location: str) -> str:
    """Return how pictures became the squares in a file, see `images.frame`: as pack.py says it, else "crop"."""
    with _opened(Path(location).absolute()) as file:
        return "squash" if file.attrs.get("fit") == "squash" else "crop"


def open_hdf5(location: str | None) -> dict[str, HDF5Dataset]:
    """Return the data sets in the file by what they serve for, without reading images; raises as `load_hdf5`."""
    if location is None:
        raise BadInput("--dataset hdf5 needs --data FILE, the HDF5 file with the images")
    path = Path(location).absolute()
    with _opened(path) as file:
        _check_keys(file)
        images = {split: _images(file, f"images-{split}") for split in SPLITS if _has(file, f"images-{split}")}
        side = images["train"].shape[1]
        for split, other in images.items():
            sides = f"{other.shape[1]} pixels, those of images-train {side}; all must have the same"
            _require(other.shape[1] == side, file, f"the images of images-{split} have a side of {sides}")
        labels = {split: _labels(file, f"labels-{split}", len(images[split])) for split in images}
        names = {split: _names(file, f"files-{split}", len(images[split])) for split in images}
        _check_texts(file, [dataset for dataset in names.values() if dataset is not None])
        classes = _class_names(file, labels["train"])
        for split, numbers in labels.items():
            _check_range(file, f"labels-{split}", numbers, len(classes))
        ids = {split: _texts(names[split], len(images[split])) for split in images}
        datasets = {split: HDF5Dataset(path, images[split], labels[split], classes, ids[split]) for split in images}
        if not _has(file, "hashes-train"):
            return datasets
        for split, dataset in datasets.items():
            dataset.hashes = _hashes(file, f"hashes-{split}", len(dataset))
        return in_their_roles(datasets)


@contextlib.contextmanager
def damage_is_bad_input(path: Path) -> Iterator[None]:
    """Raise what h5py raises for damaged files as BadInput."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error.__context__, KeyboardInterrupt | Terminated):  # a signal that arrived inside h5py
            raise error.__context__ from None
        reason = printable(getattr(error, "strerror", None) or error, LONGEST_REASON)
        raise BadInput(f"--data {path} cannot be read, it may be damaged ({reason})") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        raise BadInput(f"--data {path}: {'that is no file' if path.exists() else 'there is no such file'}")
    with damage_is_bad_input(path):
        with open(path, "rb"):  # whose errors are shorter than those of h5py
            pass
        if not h5py.is_hdf5(path):
            raise BadInput(f"--data {path} is no HDF5 file")
        with h5py.File(path, "r", locking=False) as file:  # some network file systems have no locks
            yield file


def _require(condition: bool, file: h5py.File, otherwise: str) -> None:
    if not condition:
        raise BadInput(f"--data {file.filename}: {printable(otherwise, LONGEST_REASON)}")


def _check_keys(file: h5py.File) -> None:
    """Refuse a file that lacks something, and tell what is not used: it may be a mistyped key."""
    listed = printable(", ".join(sorted(map(_text, file))) or "nothing", LONGEST_LINE)
    required = REQUIRED[:2] if _has(file, "hashes-train") else REQUIRED
    missing = [key for key in required if not _has(file, key)]
    needed = f"an HDF5 data set needs {', '.join(required)}"
    _require(not missing, file, f"it lacks {', '.join(missing)}; {needed}; it has {listed}")
    others = sorted(_text(key) for key in set(file) - {f"{kind}-{split}" for kind in KINDS for split in SPLITS})
    if others:
        listed = printable(", ".join(others), LONGEST_LINE)
        info(f"note: {file.filename} has other content, which is not used: {listed}")


def _has(file: h5py.File, key: str) -> bool:
    return file.id.links.exists(key.encode())


def _dataset(file: h5py.File, key: str) -> h5py.Dataset:
    """Return the dataset `key` if all of it is in this file, in pieces that fit into memory."""
    is_here = file.id.links.get_info(key.encode()).type == h5py.h5l.TYPE_HARD
    _require(is_here, file, f"{key} is a link to another place; copy the data to where the link is")
    found = file[key]
    has_numbers = isinstance(found, h5py.Dataset) and found.shape is not None
    _require(has_numbers, file, f"{key} is no dataset with numbers in it")
    is_whole = not found.is_virtual and not found.external
    _require(is_whole, file, f"{key} keeps its data in other files; copy them into this one")
    size = math.prod(found.chunks or (0,)) * found.dtype.itemsize
    _require(size <= LARGEST_CHUNK, file, f"{key} has chunks of {size:,} bytes; write it with chunks of one image")
    return found


def _whole(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return `dataset`, or raise BadInput if not all of it is in the file: what is not takes room in memory alone."""
    if dataset.chunks:
        pieces = zip(dataset.shape, dataset.chunks, strict=True)
        is_written = dataset.id.get_num_chunks() == math.prod(-(-length // piece) for length, piece in pieces)
    else:
        is_written = dataset.id.get_storage_size() >= dataset.nbytes
    key = dataset.name.strip("/")
    _require(is_written, dataset.file, f"parts of {key} were never written; make the file anew")
    return dataset


def _images(file: h5py.File, key: str) -> h5py.Dataset:
    images = _dataset(file, key)
    shape = images.shape
    _require(images.dtype == np.uint8, file, f"{key} is {images.dtype}; images must be uint8")
    is_square = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]
    expected = "images must be squares of three colors: (N, side, side, 3)"
    _require(is_square, file, f"{key} has the shape {shape}; {expected}")
    expected = f"there must be from 1 to {MOST_IMAGES:,}{' (leave it out)' if key == 'images-test' else ''}"
    _require(1 <= shape[0] <= MOST_IMAGES, file, f"{key} has {shape[0]:,} images; {expected}")
    expected = f"it must be from 1 to {LONGEST_SIDE}"
    _require(1 <= shape[1] <= LONGEST_SIDE, file, f"{key} has a side of {shape[1]} pixels; {expected}")
    return _whole(images)


def _labels(file: h5py.File, key: str, count: int) -> np.ndarray:
    """Return (count,) integers as they are stored, or -1 for all if there is no such key."""
    if not _has(file, key):
        return np.full(count, -1)
    labels = _dataset(file, key)
    _require(labels.dtype.kind in "iu", file, f"{key} is {labels.dtype}; labels must be integers")
    expected = f"for {count:,} images it must be ({count},)"
    _require(labels.shape == (count,), file, f"{key} has the shape {labels.shape}; {expected}")
    return _whole(labels)[:]


def _hashes(file: h5py.File, key: str, count: int) -> list[bytes]:
    _require(_has(file, key), file, f"it has hashes-train, and lacks {key}; pack the folder again")
    hashes = _dataset(file, key)
    expected = f"it must be ({count}, {HASH_BYTES}), uint8"
    are_hashes = hashes.dtype == np.uint8 and hashes.shape == (count, HASH_BYTES)
    _require(are_hashes, file, f"{key} is {hashes.dtype} of shape {hashes.shape}; {expected}")
    return [row.tobytes() for row in _whole(hashes)[:]]


def _class_names(file: h5py.File, train_labels: np.ndarray) -> list[str]:
    """Return the names in the file's attribute `classes`; without it they are the numbers of the training labels."""
    if "classes" not in file.attrs:
        largest = int(train_labels.max())
        expected = f"there can be {MOST_CLASSES:,} classes"
        _require(largest < MOST_CLASSES, file, f"labels-train has the label {largest}; {expected}")
        info(f"note: {file.filename} has no attribute 'classes': the classes are called 0 to {largest}")
        return [str(label) for label in range(max(largest, 0) + 1)]
    attribute = file.attrs.get_id("classes")
    is_list = len(attribute.shape or ()) == 1 and 1 <= attribute.shape[0] <= MOST_CLASSES
    has_names = is_list and h5py.check_string_dtype(attribute.dtype) is not None
    _require(has_names, file, "its attribute 'classes' is no list of names")
    names = [_text(name) for name in file.attrs["classes"]]
    are_different = "" not in names and len(set(names)) == len(names)
    _require(are_different, file, "its attribute 'classes' has an empty name, or the same name twice")
    return names


def _text(name: str | bytes) -> str:
    """Return a name that every encoding of Unicode can write; h5py gives undecodable bytes as lone surrogates."""
    stored = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return stored.decode("utf-8", "backslashreplace")


def _check_range(file: h5py.File, key: str, labels: np.ndarray, classes: int) -> None:
    if not _has(file, key) or (key == "labels-test" and (labels == -1).all()):  # a common way to say "unknown"
        return
    for label in (int(labels.min()), int(labels.max())):
        expected = f"with {classes} classes they are 0 to {classes - 1}"
        _require(0 <= label < classes, file, f"{key} has the label {label}; {expected}")


def _names(file: h5py.File, key: str, count: int) -> h5py.Dataset | None:
    """Return the dataset with the names of the images, or None if there is none."""
    if not _has(file, key):
        return None
    names = _dataset(file, key)
    are_names = h5py.check_string_dtype(names.dtype) is not None and names.shape == (count,)
    _require(are_names, file, f"{key} is {names.dtype} of shape {names.shape}; it must be {count:,} names")
    _check_lengths(_whole(names))
    return names


def _texts(names: h5py.Dataset | None, count: int) -> Sequence[str]:
    """Return the names of the images, which are their numbers unless the file has others."""
    if names is None:
        return Numbered("%d", count)
    texts = names.asstr("utf-8", "backslashreplace")
    return [text for start in range(0, count, TEXTS) for text in texts[start : start + TEXTS]]


READ_TEXTS = f"""
import sys, h5py
with h5py.File(sys.argv[1], "r", locking=False) as file:
    file.attrs.get("classes")
    for key in sys.argv[2:]:
        for start in range(0, len(file[key]), {TEXTS}):
            file[key][start : start + {TEXTS}]
"""


def _check_texts(file: h5py.File, names: list[h5py.Dataset]) -> None:
    """Refuse texts of several lengths with which the HDF5 library never ends, in which it hears no signal.

    A process of its own reads them first. Texts of one length, which `pack.py` writes, need none.
    """
    keys = [dataset.name for dataset in names if _varies(dataset.dtype)]
    if not keys and not ("classes" in file.attrs and _varies(file.attrs.get_id("classes").dtype)):
        return
    words = [sys.executable, "-P", "-c", READ_TEXTS, file.filename, *keys]  # -P: nothing of the folder is imported
    seconds = PATIENCE + sum(map(len, names)) / PACE
    try:
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        _require(False, file, f"its names cannot be read within {seconds:.0f} s: it is damaged")


def _varies(dtype: np.dtype) -> bool:
    """Tell whether texts of this type have a length each."""
    kind = h5py.check_string_dtype(dtype)
    return kind is not None and kind.length is None


def _check_lengths(names: h5py.Dataset) -> None:
    """Refuse texts that are longer than the file: the HDF5 library takes memory for them before it looks for them.

    Looked at is what `pack.py` writes: (length, place) of each text, 16 bytes, one after the other.
    """
    path, offset = names.file.filename, names.id.get_offset()
    if offset is None or names.file.userblock_size or names.id.get_storage_size() != 16 * len(names):
        return
    lengths = np.fromfile(path, "<u4", 4 * len(names), offset=offset)[::4]
    is_fixed = h5py.check_string_dtype(names.dtype).length is not None
    _require(is_fixed or lengths.sum() <= os.path.getsize(path), names.file, f"{names.name.strip('/')} is damaged")


def _image_offsets(images: h5py.Dataset) -> np.ndarray | None:
    """Return where in the file each image starts, (N,) int64 bytes, or None where only the HDF5 library can tell."""
    if images.file.userblock_size:  # whether offsets count from its end has changed between versions of the library
        return None
    image_bytes, unknown = math.prod(images.shape[1:]), -1
    steps, offsets = np.arange(len(images)) * image_bytes, np.full(len(images), unknown)
    layout, images_in_chunk = images.id.get_create_plist(), (images.chunks or (0,))[0]

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        place = offsets[chunk.chunk_offset[0] :][:images_in_chunk]
        place[:] = chunk.byte_offset + steps[: len(place)]

    if layout.get_layout() == h5py.h5d.CONTIGUOUS and images.id.get_offset() is not None:
        offsets = images.id.get_offset() + steps
    elif images.chunks and images.chunks[1:] == images.shape[1:] and not layout.get_nfilters():
        images.id.chunk_iter(note)
    if offsets.min() == unknown:  # packed, say
        return None
    is_inside = offsets.min() >= 0 and offsets.max() + image_bytes <= os.path.getsize(images.file.filename)
    reason = f"images of {images.name.strip('/')} lie beyond the end of the file: it is cut off"
    _require(is_inside, images.file, reason)
    return offsets


def _cache_bytes(images: h5py.Dataset) -> int:
    """Return the bytes of all chunks that one image is cut into: with less, each is unpacked again for every image."""
    if not images.chunks:
        return 0
    pieces = [-(-length // piece) for length, piece in zip(images.shape[1:], images.chunks[1:], strict=True)]
    return min(LARGEST_CHUNK, math.prod(pieces) * math.prod(images.chunks))  # a pixel is a byte


def _in_memory(dataset: HDF5Dataset, split: str, mapped: np.ndarray | None) -> ArrayDataset:
    """Read all images, which brings them into the system's memory, and keep them unless they are `mapped` there."""
    pixels = zeros_here((len(dataset), dataset.size, dataset.size, 3)) if mapped is None else mapped
    indices = part_here(np.arange(len(dataset)))
    step = max(1, BLOCK // (3 * dataset.size**2))
    with progress(len(indices), f"reading {split} images") as bar:
        for start in range(0, len(indices), step):
            some = indices[start : start + step]
            rows = dataset.read(some)
            if mapped is None:
                pixels[some] = rows
            bar.update(len(rows))
    dataset.checks.share(gather_here)
    return ArrayDataset(pixels, dataset.labels, dataset.classes, dataset.ids, dataset.checks)
