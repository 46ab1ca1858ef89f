"""Decoded image files, kept for the processes that come after: of the trials of a search only the first decodes."""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import __version__ as pillow_version

from common.data.arrays import HASH_BYTES
from common.system.checkpoints import Damaged, load_checkpoint, save_checkpoint

FOLDER = "DECODED_IMAGES"  # the environment names the folder; without it nothing is kept
LARGEST = 2 * 10**9  # bytes of pixels that are kept
KEYS = {"pixels", "hashes", "converted"}


def recall(paths: Sequence[Path], size: int, fit: str) -> tuple[np.ndarray, list[bytes], Counter] | None:
    """Return (pixels (N, size, size, 3) uint8, hashes, what had to be converted) of files as they are now, or None."""
    place = _place(paths, size, fit)
    if place is None or not place.exists():
        return None
    with contextlib.suppress(Damaged):
        kept = load_checkpoint(place, KEYS)
        return kept["pixels"].numpy(), [row.tobytes() for row in kept["hashes"].numpy()], Counter(kept["converted"])
    return None


def keep(paths: Sequence[Path], fit: str, pixels: np.ndarray, hashes: list[bytes], converted: Counter) -> None:
    """Keep what `recall` returns; a full disk is no reason to stop."""
    place = _place(paths, pixels.shape[1], fit)
    if place is None or pixels.nbytes > LARGEST:
        return
    of_all = torch.from_numpy(np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), HASH_BYTES).copy())
    content = {"pixels": torch.from_numpy(pixels), "hashes": of_all, "converted": dict(converted)}
    with contextlib.suppress(OSError):
        save_checkpoint(place, content)


def _place(paths: Sequence[Path], size: int, fit: str) -> Path | None:
    """Return where the pixels of these very files are kept: they are known by name, size and time."""
    folder = os.environ.get(FOLDER)
    if not folder or not Path(folder).is_dir():
        return None
    digest = hashlib.sha256(f"{size} {fit} {pillow_version}".encode())
    try:
        for path in paths:
            state = path.stat()
            digest.update(f"\n{path} {state.st_size} {state.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    except OSError:
        return None
    return Path(folder) / f"{digest.hexdigest()}.images"
