"""Writing class folders into one HDF5 file, laid out as common/data/hdf5.py reads it."""

import contextlib
import itertools
import os
import re
import shlex
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from common.data.arrays import pixel_hash
from common.data.folders import LISTED, folder_names, labelled_files, list_unreadable, part_folders, suggestion
from common.data.hdf5 import PARTS, HDF5Dataset, open_hdf5
from common.data.images import frame, read_image
from common.data.splits import stratified_split
from common.system.errors import BadInput
from common.system.files import PARTIAL, check_writable, partial_file
from common.system.log import progress, say

VAL_FRACTION, VAL_SEED = 0.1, 0  # set aside of the training images of a folder without val/
AHEAD = 4  # images that each thread may be ahead of the writer
ENDINGS = (".hdf5", ".h5")  # by which --data knows such a file
BLOCK = 256  # images read back at once
FORMAT = ("v108", "v108")  # every HDF5 library since 2008 reads it; the one before has no room for 10,000 class names
NAME = h5py.string_dtype("utf-8")


@dataclass
class Source:
    """The image files of one part: `labels` are class numbers, -1 where they are unknown."""

    folder: Path
    paths: list[Path]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> list[str]:
        """The files' paths in the folder, as every system writes them."""
        return [_text(path.relative_to(self.folder).as_posix()) for path in self.paths]

    def subset(self, places: list[int]) -> "Source":
        """Return the files at `places`."""
        return Source(self.folder, [self.paths[place] for place in places], [self.labels[place] for place in places])


@dataclass(frozen=True)
class Decoding:
    """How image files become squares of one size, and in how many threads."""

    size: int
    fit: str
    workers: int


def find_sources(location: str) -> tuple[dict[str, Source], list[str]]:
    """Return the parts of the folder, which are what they are called, and the names of the classes.

    Raises:
        BadInput: no such folder, no images, or a class that training does not have.
    """
    root = Path(location)
    if not root.is_dir():
        raise BadInput(f"{location}: there is no such folder")
    parts = part_folders(root)
    classes = folder_names(parts["train"])
    if len(classes) == 1:
        only = f"{parts['train']} has one class folder only, {classes[0]!r}"
        raise BadInput(f"{only}: nothing to tell apart{suggestion(root)}")
    sources = {}
    for part in sorted(parts, key=PARTS.index):
        files = labelled_files(parts[part], classes, part)
        sources[part] = Source(parts[part], [path for path, _ in files], [label for _, label in files])
    return sources, classes


def check_target(target: Path, folder: Path, overwrite: bool, image_bytes: int) -> None:
    """Make sure that the file can be written, before the work and without changing anything.

    Args:
        image_bytes: of all images together, the least that the file will need.

    Raises:
        BadInput: something else is in its place, it cannot be written there, or the disk has no room for it.
    """
    if target.is_dir() or (target.exists() and not target.is_file()):
        raise BadInput(f"{target} cannot be written: there is something else of that name")
    if target.suffix.lower() not in ENDINGS:
        raise BadInput(f"{target} will be an HDF5 file: choose a name that ends in {' or '.join(ENDINGS)}")
    if target.exists() and not overwrite:
        raise BadInput(f"{target} exists already: choose another name, or add --overwrite")
    if not target.parent.is_dir():
        raise BadInput(f"{target} cannot be written: there is no folder {target.parent}")
    if folder.resolve() in target.resolve().parents:
        raise BadInput(f"{target} would lie among the images in {folder}: write it elsewhere")
    check_writable(target, str(target))
    for left in target.parent.glob(f".{_escaped(target.name)}.*{PARTIAL}"):
        say(f"note: {left} is half of a file; unless another process is writing it now, remove it")
    _check_room(target, image_bytes)


def pack(
    sources: dict[str, Source], classes: list[str], target: Path, decoding: Decoding, skip_unreadable: bool
) -> dict[str, int]:
    """Write the images, read them back, and give the file its name; return the number of images of each part.

    Without a part "val", VAL_FRACTION of the training images of every class become it, copies of an image together.

    Raises:
        BadInput: files cannot be read, or what was written does not read back the same. There is no file then.
        OSError: the file cannot be written.
    """
    failures = []
    if "val" not in sources:
        sources = _with_validation(sources, classes, decoding, failures, skip_unreadable)
    with partial_file(target) as partial:
        with _new_file(partial) as file:
            file.attrs.create("classes", [_text(name) for name in classes], dtype=NAME)
            written = {}
            for part, source in sources.items():
                written[part] = _write_part(file, part, source, decoding, failures)
            _check_failures(failures, skip_unreadable, sources, {part: kept for part, (kept, _) in written.items()})
        _flush_to_disk(partial)
        _verify(partial, written, classes)
    if failures:
        say(f"warning: {len(failures)} file(s) that cannot be read are left out, see above")
    return {part: len(kept) for part, (kept, _) in written.items()}


def report(target: Path, counts: dict[str, int], classes: list[str], size: int) -> None:
    """Say what the file holds and how to use it."""
    images = ", ".join(f"{count:,} {part}" for part, count in counts.items())
    megabytes = target.stat().st_size / 1e6
    say(f"{target}: {images} images of {size}x{size}, {len(classes)} classes, {megabytes:,.1f} MB")
    say(f"python ex_3.py --data {shlex.quote(str(target))}")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[h5py.File]:
    """Give an open file, and raise what the system says to its writing or closing as OSError with its number."""
    file = h5py.File(path, "w", libver=FORMAT)
    try:
        yield file
        file.close()
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # where writing has failed, closing does too
            file.close()


def _with_validation(
    sources: dict[str, Source], classes: list[str], decoding: Decoding, failures: list[str], skip_unreadable: bool
) -> dict[str, Source]:
    """Return `sources` with a part "val" taken from "train", and without the files that cannot be read."""
    readable, hashes = {}, {}
    for part, source in sources.items():
        digests = {
            place: pixel_hash(square) for place, square in _squares(source, decoding, f"checking {part}", failures)
        }
        readable[part], hashes[part] = source.subset(list(digests)), list(digests.values())
    _check_failures(failures, skip_unreadable, sources, readable)
    train = readable["train"]
    rest, aside = stratified_split(train.labels, hashes["train"], classes, VAL_FRACTION, VAL_SEED)
    say(f"there is no val folder: {len(aside):,} of {len(train):,} training images are set aside for validation")
    return readable | {"train": train.subset(rest), "val": train.subset(aside)}


def _write_part(
    file: h5py.File, part: str, source: Source, decoding: Decoding, failures: list[str]
) -> tuple[Source, list[bytes]]:
    """Write all that can be read; return these files and the hashes of their pixels, in the order of the file."""
    shape = (decoding.size, decoding.size, 3)
    images = file.create_dataset(
        f"images-{part}", (len(source), *shape), np.uint8, chunks=(1, *shape), maxshape=(len(source), *shape)
    )
    places, hashes = [], []
    for place, square in _squares(source, decoding, f"packing {part}", failures):
        images.id.write_direct_chunk((len(places), 0, 0, 0), square)
        places.append(place)
        hashes.append(pixel_hash(square))
    images.resize(len(places), axis=0)
    kept = source.subset(places)
    if any(label >= 0 for label in source.labels):
        file.create_dataset(f"labels-{part}", data=np.array(kept.labels, np.int64))
    file.create_dataset(f"files-{part}", data=kept.names, dtype=NAME)
    return kept, hashes


def _squares(source: Source, decoding: Decoding, title: str, failures: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (place in `source`, (size, size, 3) uint8) of every file that can be read; add to `failures` the others."""
    with progress(len(source), title) as bar:
        for place, decoded in enumerate(_decoded(source.paths, decoding)):
            if isinstance(decoded, BadInput):
                failures.append(str(decoded))
            else:
                yield place, decoded
            bar.update()


def _decoded(paths: list[Path], decoding: Decoding) -> Iterator[np.ndarray | BadInput]:
    """Yield the square or the error of each file in turn, decoded in threads that stay a few images ahead."""

    def decode(path: Path) -> np.ndarray | BadInput:
        try:
            image, _ = read_image(path)
            return np.ascontiguousarray(frame(image, decoding.size, decoding.fit))
        except BadInput as error:
            return error

    threads = ThreadPoolExecutor(decoding.workers)
    try:
        coming = iter(paths)
        waiting = deque(threads.submit(decode, path) for path in itertools.islice(coming, AHEAD * decoding.workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(threads.submit(decode, path) for path in itertools.islice(coming, 1))
    finally:
        threads.shutdown(cancel_futures=True)


def _check_failures(
    failures: list[str], skip_unreadable: bool, before: dict[str, Source], after: dict[str, Source]
) -> None:
    """List the files that cannot be read; raise unless they may be skipped and each class keeps some in each part."""
    if not failures:
        return
    list_unreadable(failures, skip_unreadable, at_most=len(failures) if skip_unreadable else LISTED)
    for part, source in after.items():
        if set(source.labels) != set(before[part].labels):
            raise BadInput(f"of a class in {source.folder}, none of the {part} images can be read")


def _verify(path: Path, written: dict[str, tuple[Source, list[bytes]]], classes: list[str]) -> None:
    datasets = open_hdf5(str(path))
    if datasets.keys() != written.keys():
        raise _fault(path, "its parts")
    for part, (source, hashes) in written.items():
        dataset = datasets[part]
        if dataset.classes != [_text(name) for name in classes] or dataset.labels.tolist() != source.labels:
            raise _fault(path, f"the labels of {part}")
        if list(dataset.ids) != source.names:
            raise _fault(path, f"the names of the {part} images")
        _verify_pixels(path, dataset, hashes, part)
        dataset.close()  # Windows renames no open file


def _verify_pixels(path: Path, dataset: HDF5Dataset, hashes: list[bytes], part: str) -> None:
    with progress(len(hashes), f"verifying {part}") as bar:
        for start in range(0, len(hashes), BLOCK):
            expected = hashes[start : start + BLOCK]
            rows = dataset.read(np.arange(start, start + len(expected)))
            if [pixel_hash(row) for row in rows] != expected:
                raise _fault(path, f"the pixels of {part} images {start} to {start + len(expected) - 1}")
            bar.update(len(expected))


def _fault(path: Path, what: str) -> BadInput:
    return BadInput(f"{path}: {what} read back are not what was written; test the disk and the memory of this machine")


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _check_room(target: Path, image_bytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if image_bytes > free:
        raise BadInput(
            f"{target} needs {image_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free there: free some space, "
            "write elsewhere or choose a smaller --size"
        )


def _text(name: str) -> str:
    """Return `name` with what is no Unicode in it spelled out, as every reader can show it."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _escaped(name: str) -> str:
    """Return a pattern for `glob` that only `name` matches."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
