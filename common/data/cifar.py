"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): found, downloaded, verified and read.

Addresses, checksums and the reader are torchvision's; the download is ours (see common/system/download.py).
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from common.system.download import DownloadFailed, download
from common.system.errors import BadInput
from common.system.files import lock
from common.system.log import info

CIFAR = ("cifar10", "cifar100")
DOWNLOAD_FOLDER = Path(__file__).resolve().parents[2] / "data"


def load_cifar(name: str, location: str | None):
    """Return torchvision's (train, test) data sets of `name`, each with `.data` (N, 32, 32, 3) uint8 and `.targets`.

    `location` is a download folder, extracted folder or archive (.tar.gz); by default `data/` beside the experiments.
    BadInput is raised if the files are not there and cannot be downloaded, or a checksum is wrong.
    """
    from torchvision.datasets import CIFAR10, CIFAR100  # 1.4 s of imports that other data sets do without

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    root = _find(source, name, Path(location) if location else DOWNLOAD_FOLDER)
    try:
        return source(root, train=True), source(root, train=False)
    except (RuntimeError, OSError) as error:
        what = f"{root / source.base_folder} is incomplete or damaged (its checksums are wrong)"
        raise BadInput(f"{what}; delete that folder and start again") from error


def _find(source, name: str, path: Path) -> Path:
    """Return the folder in which the extracted folder lies, extracting or downloading the archive if need be."""
    if path.is_file():
        return _extract(source, name, path)
    if path.name == source.base_folder and path.is_dir():
        return path.parent
    if (path / source.base_folder).is_dir():
        return path
    if not path.exists() and path.suffix in (".gz", ".tgz", ".tar"):
        raise BadInput(f"--data {path}: there is no such file")
    archive = path / source.filename
    if not archive.is_file():
        try:
            download(source.url, archive, "md5", source.tgz_md5)
        except DownloadFailed as error:
            raise BadInput(
                f"{name} is not in {path} and {source.url} cannot be downloaded ({error}); put that file at {archive}, "
                "or say where it is with --data, or use --dataset digits, which needs no download"
            ) from error
    return _extract(source, name, archive)


def _extract(source, name: str, archive: Path) -> Path:
    from torchvision.datasets.utils import extract_archive

    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != source.tgz_md5:
        what = f"{archive} is not the {name} archive, or is damaged (md5 {found}, expected {source.tgz_md5})"
        raise BadInput(f"{what}; delete it to download it again, or fetch {source.url}")
    root = archive.parent if os.access(archive.parent, os.W_OK) else Path(tempfile.mkdtemp(prefix="cifar-"))
    with lock(root / ".extracting.lock", str(root), wait=True):
        for left in root.glob(".extracting-*"):  # by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        if not (root / source.base_folder).is_dir():
            info(f"extracting {archive} to {root}")
            with tempfile.TemporaryDirectory(dir=root, prefix=".extracting-") as partial:
                extract_archive(str(archive), partial)
                _move(Path(partial) / source.base_folder, root / source.base_folder)
    return root


def _move(folder: Path, target: Path) -> None:
    """Move a folder, unless another process has done so meanwhile, on a disk that has no locks."""
    try:
        os.rename(folder, target)
    except OSError:
        if not target.is_dir():
            raise
