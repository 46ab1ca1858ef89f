"""Downloading one file: it appears whole and verified under its name, or not at all."""

import contextlib
import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from common.system.errors import DISK_FULL
from common.system.files import lock, partial_file, remove_partial_files
from common.system.log import info, progress

TIMEOUT = 30  # seconds without a byte


class DownloadFailed(Exception):
    """A file cannot be had; the text, a few words, is the reason."""


def download(url: str, path: Path, algorithm: str, checksum: str) -> None:
    """Download `url` to the file `path`, with a progress bar, unless another process does so meanwhile.

    Args:
        algorithm, checksum: a name that hashlib knows, and the digest in hexadecimal digits, or its first ones.

    Raises:
        DownloadFailed: for whatever reason but a full disk; nothing is left behind.
    """
    missing = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_name(f".{path.name}.lock"), str(path), wait=True):
            remove_partial_files(path.parent, path.name)
            if not path.exists():
                _fetch(url, path, algorithm, checksum)
    except (OSError, http.client.HTTPException) as error:
        with contextlib.suppress(OSError):  # somebody else has come to use them
            for folder in missing:
                folder.rmdir()
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DownloadFailed(getattr(error, "reason", error)) from error


def _fetch(url: str, path: Path, algorithm: str, checksum: str) -> None:
    info(f"downloading {url} to {path}")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None  # of the bar only: a server may say anything
        with partial_file(path) as partial, open(partial, "wb") as file, progress(size, path.name, "B") as bar:
            while chunk := response.read(1 << 16):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
            if not digest.hexdigest().startswith(checksum):
                raise ConnectionError(f"what came is incomplete or damaged: its {algorithm} is wrong")
