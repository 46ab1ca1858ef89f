"""Downloading one file: it appears whole and verified under its name, or not at all."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from common.system.errors import DISK_FULL
from common.system.files import partial_file
from common.system.log import info, progress

TIMEOUT = 30  # seconds without a byte


class DownloadFailed(Exception):
    """A file cannot be had; the text, a few words, is the reason."""


def download(url: str, path: Path, algorithm: str, checksum: str) -> None:
    """Download `url` to the file `path`, with a progress bar.

    Args:
        algorithm, checksum: a name that hashlib knows, and the digest in hexadecimal digits, or its first ones.

    Raises:
        DownloadFailed: for whatever reason but a full disk; nothing is left behind.
    """
    info(f"downloading {url} to {path}")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            path.parent.mkdir(parents=True, exist_ok=True)
            size = int(response.headers.get("Content-Length", 0))
            with partial_file(path) as partial, open(partial, "wb") as file, progress(size, path.name, "B") as bar:
                while chunk := response.read(1 << 16):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
                if not digest.hexdigest().startswith(checksum):
                    raise ConnectionError(f"what came is incomplete or damaged: its {algorithm} is wrong")
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise DownloadFailed(getattr(error, "reason", error)) from error
