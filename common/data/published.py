"""Data sets that torchvision knows: found, downloaded, verified and read, by one row of SETS each.

Addresses, checksums, layout and the reading of labels are torchvision's; the download is ours (see
common/system/download.py), and what is extracted gets its name when it is whole.
"""

import atexit
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.arrays import ArrayDataset, Split, whole
from common.data.layouts import Layout
from common.system.download import DownloadFailed, download
from common.system.errors import BadInput
from common.system.files import lock
from common.system.log import info

DOWNLOAD_FOLDER = Path(__file__).resolve().parents[2] / "data"


class Published(NamedTuple):
    """A data set by its class in torchvision, which is called with the arguments of each part.

    `place`, below the folder that torchvision calls root, tells that all is there: by its name it is extracted last.
    What `is_read`, digits, letters and signs, is something else when it is mirrored.
    """

    kind: str
    place: str
    parts: dict[str, dict]
    is_read: bool = False


SWITCH = {"train": {"train": True}, "test": {"train": False}}
TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
HALF = {"train": {"split": "train", "size": "320px"}, "test": {"split": "val", "size": "320px"}}
SETS = {
    "cifar10": Published("CIFAR10", "cifar-10-batches-py", SWITCH),
    "cifar100": Published("CIFAR100", "cifar-100-python", SWITCH),
    "dtd": Published("DTD", "dtd/dtd", THREE),
    "eurosat": Published("EuroSAT", "eurosat/2750", {"train": {}}),
    "fashion_mnist": Published("FashionMNIST", "FashionMNIST/raw/train-labels-idx1-ubyte", SWITCH),
    "flowers102": Published("Flowers102", "flowers-102/jpg", THREE),
    "food101": Published("Food101", "food-101", TWO),
    "gtsrb": Published("GTSRB", "gtsrb/GTSRB", TWO, is_read=True),
    "imagenette": Published("Imagenette", "imagenette2-320", HALF),
    "kmnist": Published("KMNIST", "KMNIST/raw/train-labels-idx1-ubyte", SWITCH, is_read=True),
    "mnist": Published("MNIST", "MNIST/raw/train-labels-idx1-ubyte", SWITCH, is_read=True),
    "oxford_pets": Published("OxfordIIITPet", "oxford-iiit-pet/images", TWO | {"train": {"split": "trainval"}}),
    "stl10": Published("STL10", "stl10_binary", TWO),
    "svhn": Published("SVHN", "test_32x32.mat", TWO, is_read=True),
}


def load_published(name: str, location: str | None) -> dict:
    """Return torchvision's data sets of `name` by part, downloaded if they are not there.

    `location` is torchvision's root, the folder in it that was extracted, or an archive; by default `data/` beside the
    experiments. BadInput is raised if files are not there and cannot be downloaded, or a checksum is wrong.
    """
    from torchvision import datasets  # 1.4 s of imports that other data does without

    kind, place, parts, _ = SETS[name]
    path = Path(location).absolute() if location else DOWNLOAD_FOLDER
    if not path.exists() and path.suffix in (".gz", ".tgz", ".tar", ".zip"):
        raise BadInput(f"--data {path}: there is no such file")
    root = path.parent if path.is_file() else _root_of(path, Path(place).parts)
    if not (root / place).exists():
        root = _fetch(name, getattr(datasets, kind), root, path if path.is_file() else None)
    try:
        return {part: getattr(datasets, kind)(root, **arguments) for part, arguments in parts.items()}
    except MemoryError:
        raise
    except Exception as error:  # the readers raise nearly anything for damaged files
        what = f"{root / Path(place).parts[0]} is incomplete or damaged ({type(error).__name__})"
        raise BadInput(f"{what}; delete that folder or file and start again") from error


def layout_of(sources: dict) -> Layout | None:
    """Return the image files of the parts of a data set, or None if torchvision holds its pixels in memory."""
    first, files = sources["train"], {}
    if hasattr(first, "data"):
        return None
    for part, source in sources.items():
        paths = getattr(source, "_image_files", None) or getattr(source, "_images", None)
        pairs = (
            zip(paths, source._labels, strict=True) if paths else getattr(source, "samples", None) or source._samples
        )
        files[part] = [(Path(path), label) for path, label in pairs]
    root = Path(first.root)
    classes = _classes(first, [label for _, label in files["train"]])
    return Layout(root, {part: root / type(first).__name__ / part for part in files}, classes, files)


def splits_of(sources: dict) -> dict[str, Split]:
    """Return the parts of a data set that torchvision holds in memory."""
    splits = {}
    for part, source in sources.items():
        pixels = np.asarray(source.data)  # (N, H, W), (N, H, W, 3) or (N, 3, H, W)
        pixels = np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 3 else pixels
        pixels = pixels if pixels.shape[-1] == 3 else np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
        labels = np.asarray(source.targets if hasattr(source, "targets") else source.labels).tolist()
        ids = [f"{part}/{index}" for index in range(len(pixels))]
        splits[part] = whole(ArrayDataset(pixels, labels, _classes(source, labels), ids))
    return splits


def _classes(source, labels: list[int]) -> list[str]:
    """Return torchvision's names, the first ones where it has several for a class, or numbers where it has none."""
    names = getattr(source, "classes", None) or range(max(labels) + 1)
    return [name[0] if isinstance(name, tuple) else str(name) for name in names]


def _root_of(path: Path, place: tuple[str, ...]) -> Path:
    """Return the folder that has `place` below it, of which `path` may be a part."""
    for depth in range(1, len(place) + 1):
        if path.parts[-depth:] == place[:depth] and path.parents[depth - 1].joinpath(*place).exists():
            return path.parents[depth - 1]
    return path


def _fetch(name: str, kind: type, root: Path, given: Path | None) -> Path:
    """Return where the data set has been extracted: in `root`, or elsewhere if that is read-only."""
    is_new, place = not root.exists(), SETS[name].place
    try:
        root.mkdir(parents=True, exist_ok=True)
        target = _writable(root, name)
        with lock(target / f".{name}.lock", str(target), wait=True):
            for left in target.glob(f".extracting-{name}-*"):  # by processes that were killed
                shutil.rmtree(left, ignore_errors=True)
            if not (target / place).exists():
                with tempfile.TemporaryDirectory(dir=target, prefix=f".extracting-{name}-") as partial:
                    _extract(name, kind, Path(partial), root, given)
                    _move(Path(partial), target)
    except FileExistsError as error:
        raise BadInput(f"--data {root}: there is something else of that name") from error
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                root.rmdir()
    return target


def _writable(root: Path, name: str) -> Path:
    """Return where a data set can be extracted: in `root`, in data/ beside the experiments, or in a new folder."""
    for folder in (root, DOWNLOAD_FOLDER):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    temporary = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary


def _extract(name: str, kind: type, partial: Path, root: Path, given: Path | None) -> None:
    """Let torchvision extract a data set to `partial`.

    Its archive is `given`, or each has in `root` the place that torchvision has it at; those that are missing are
    downloaded to there.
    """
    failures, archives = [], []

    def fetch(url: str, folder: str, filename: str | None = None, md5: str | None = None) -> None:
        staged = Path(folder, filename or os.path.basename(url))
        archive = given or root / staged.relative_to(partial)
        if archive.is_file():
            _check(archive, name, url, md5)
        else:
            try:
                download(url, archive, "md5", md5)
            except DownloadFailed as error:
                what = f"{name} is not in {root} and {url} cannot be downloaded ({error}); put that file at {archive}"
                failures.append(f"{what}, or say where it is with --data, or use --dataset digits, which needs none")
                raise RuntimeError(failures[-1]) from error  # torchvision may know another address
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(archive, staged)
        except OSError:  # not on every disk
            shutil.copyfile(archive, staged)
        if staged.suffix != ".mat":  # which is read as it is
            info(f"extracting {archive} to {partial.parent}")
            archives.append(staged)

    try:
        with _fetching_by(fetch, kind):
            for arguments in SETS[name].parts.values():
                kind(partial, download=True, **arguments)
    except RuntimeError as error:
        raise BadInput(failures[0] if failures else f"{name} cannot be extracted: {error}") from error
    for archive in archives:
        archive.unlink()


def _check(archive: Path, name: str, url: str, md5: str) -> None:
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        what = f"{archive} is not the file of {name}, or is damaged (md5 {found}, expected {md5})"
        raise BadInput(f"{what}; delete it to download it again, or fetch {url}")


@contextlib.contextmanager
def _fetching_by(fetch: Callable[..., None], kind: type) -> Iterator[None]:
    """Let the data sets of torchvision's class `kind` get their files by `fetch`, instead of its own `download_url`."""
    from torchvision.datasets import utils

    modules = [module for module in (utils, sys.modules[kind.__module__]) if hasattr(module, "download_url")]
    honest = utils.download_url
    try:
        for module in modules:
            module.download_url = fetch
        yield
    finally:
        for module in modules:
            module.download_url = honest


def _move(folder: Path, target: Path) -> None:
    """Move to `target` what it does not have yet of `folder`, in the order of names."""
    for entry in sorted(folder.iterdir()):
        there = target / entry.name
        if entry.is_dir() and there.is_dir():
            _move(entry, there)
        elif not there.exists():
            try:
                os.rename(entry, there)
            except OSError:  # another process has done so meanwhile, on a disk that has no locks
                if not there.exists():
                    raise
