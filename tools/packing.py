"""Writing class folders into one HDF5 file, laid out as common/data/hdf5.py reads it."""

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

from common.data.arrays import HASH_BYTES, Split, pixel_hash
from common.data.folders import (
    LISTED,
    FolderDataset,
    check_unreadable,
    stored_size,
    tell_of_converted,
)
from common.data.hdf5 import open_hdf5
from common.data.index import Index
from common.data.layouts import find_images, in_their_roles
from common.system.errors import BadInput
from common.system.files import lock, partial_file, remove_partial_files
from common.system.log import info, progress
from common.system.text import shell_line
from tools.outputs import check_writable

ENDINGS = (".hdf5", ".h5")  # by which --data knows such a file
BLOCK = 256  # images read back at once
FORMAT = ("v108", "v108")  # every HDF5 library since 2008 reads it; the one before has no room for 10,000 class names


def find_splits(location: str, size: int, fit: str, workers: int) -> dict[str, Split]:
    """Return the parts of the folder by what they are called; the other arguments are of FolderDataset.

    Much smaller squares keep their own size, as in a run on the folder, which knows images by these pixels. BadInput is
    raised as `find_images` does.
    """
    layout, splits = find_images(location), {}
    indexes = {
        name: Index(layout.folders[name], [path for path, _ in of_part]) for name, of_part in layout.files.items()
    }
    wanted, size = size, stored_size(sum((index.sizes() for index in indexes.values()), Counter()), size)
    if size != wanted:
        info(f"note: all pictures have {size}x{size} pixels and keep them; a run enlarges them")
    for name, files in layout.files.items():
        index = indexes[name]
        dataset = FolderDataset(index, [label for _, label in files], layout.classes, size, fit, workers)
        splits[name] = Split(dataset, torch.arange(len(files)))
    return splits


def check_target(target: Path, folder: Path, overwrite: bool, image_bytes: int) -> None:
    """Make sure that the file, of `image_bytes` at least, can be written, before the work; nothing is changed.

    BadInput is raised if something else is in its place, it cannot be written there, or the disk has no room for it.
    """
    if not target.parent.is_dir():
        raise BadInput(f"{target} cannot be written: there is no folder {target.parent}")
    check_writable(target, str(target))
    if target.suffix.lower() not in ENDINGS:
        raise BadInput(f"{target} will be an HDF5 file: choose a name that ends in {' or '.join(ENDINGS)}")
    if target.exists() and not overwrite:
        raise BadInput(f"{target} exists already: choose another name, or add --overwrite")
    if folder.resolve() in target.resolve().parents:
        raise BadInput(f"{target} would lie among the images in {folder}: write it elsewhere")
    free = shutil.disk_usage(target.parent).free
    if image_bytes > free:
        has = f"{target} needs {image_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free there"
        raise BadInput(f"{has}: free some space, write elsewhere or choose a smaller --size")


def pack(splits: dict[str, Split], target: Path, skip_unreadable: bool) -> dict[str, Split]:
    """Write the images, read them back, and give the file its name; return what was written.

    Raises:
        BadInput: files cannot be read, or what was written does not read back the same. There is no file then.
        OSError: the file cannot be written.
    """
    failures, written, converted = [], {}, Counter()
    with lock(target.with_name(f".{target.name}.lock"), str(target)), partial_file(target) as partial:
        remove_partial_files(target.parent, target.name)  # of processes that were killed
        with _new_file(partial) as file:
            file.attrs["fit"] = splits["train"].dataset.fit
            file.attrs["classes"] = fixed_length([_text(name) for name in splits["train"].dataset.classes])
            for name, split in splits.items():
                written[name] = _write_split(file, name, split, failures, converted)
            _check_failures(failures, skip_unreadable, written)
        _flush_to_disk(partial)
        _verify(partial, written)
    if converted:
        info(f"converted: {', '.join(f'{count:,} {kind}' for kind, count in sorted(converted.items()))}")
    tell_of_converted(converted)
    return written


def report(target: Path, written: dict[str, Split]) -> None:
    """Say what the file holds and how to use it."""
    roles = in_their_roles({name: name for name in written}).items()
    counts = [f"{len(written[name]):,} {role}{f' (from {name})' if name != role else ''}" for role, name in roles]
    size, classes = written["train"].dataset.size, len(written["train"].dataset.classes)
    megabytes = target.stat().st_size / 1e6
    info(f"{target}: {', '.join(counts)} images of {size}x{size}, {classes} classes, {megabytes:,.1f} MB")
    info(shell_line(["python", "ex_3.py", "--data", str(target)]))


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


def _write_split(file: h5py.File, name: str, split: Split, failures: list[str], converted: Counter) -> Split:
    """Write all images that can be read, and return these; add to `failures` the others, and count in `converted`."""
    shape = (split.dataset.size, split.dataset.size, 3)
    all_shape = (len(split), *shape)
    images = file.create_dataset(f"images-{name}", all_shape, np.uint8, chunks=(1, *shape), maxshape=all_shape)
    kept, hashes = [], []
    for index, square, kinds in split.dataset.readable(split.indices.tolist(), f"packing {name}", failures):
        images.id.write_direct_chunk((len(kept), 0, 0, 0), np.ascontiguousarray(square))
        kept.append(index)
        hashes.append(pixel_hash(square))
        converted.update(kinds)
    images.resize(len(kept), axis=0)
    written = Split(split.dataset, torch.tensor(kept, dtype=torch.int64), hashes)
    if max(split.labels) >= 0:
        file.create_dataset(f"labels-{name}", data=np.array(written.labels, np.int64))
    file.create_dataset(f"files-{name}", data=fixed_length(_names(written)))
    file.create_dataset(f"hashes-{name}", data=np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES))
    return written


def _names(split: Split) -> list[str]:
    return [_text(split.dataset.ids[index]) for index in split.indices.tolist()]


def fixed_length(names: list[str]) -> np.ndarray:
    """Return (N,) texts of one length: damaged texts of several lengths can keep the HDF5 library busy for ever."""
    stored = [name.encode() for name in names]
    return np.array(stored, h5py.string_dtype("utf-8", max(map(len, stored), default=1)))


def _text(name: str) -> str:
    """Return `name` with what is no Unicode in it spelled out, as every reader can show it."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _check_failures(failures: list[str], skip_unreadable: bool, readable: dict[str, Split]) -> None:
    if failures:
        check_unreadable(failures, skip_unreadable, readable, len(failures) if skip_unreadable else LISTED)
        info(f"warning: {len(failures)} file(s) that cannot be read are left out, see above")


def _verify(path: Path, written: dict[str, Split]) -> None:
    """Read everything back; raise BadInput unless it is what was written."""
    for dataset in open_hdf5(str(path)).values():
        name, hashes = dataset.key.partition("-")[2], []
        split = written[name]
        with progress(len(dataset), f"verifying {name}") as bar:
            for start in range(0, len(dataset), BLOCK):
                rows = dataset.read(np.arange(start, min(start + BLOCK, len(dataset))))
                hashes += map(pixel_hash, rows)
                bar.update(len(rows))
        dataset.close()  # Windows renames no open file
        are_same = {
            "classes": dataset.classes == [_text(one) for one in split.dataset.classes],
            "labels": dataset.labels.tolist() == split.labels,
            "names": list(dataset.ids) == _names(split),
            "pixels": hashes == split.hashes == dataset.hashes,
        }
        for what, is_same in are_same.items():
            if not is_same:
                fault = f"the {what} of the {name} images read back are not what was written"
                raise BadInput(f"{path}: {fault}; test the disk and the memory of this machine")


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
