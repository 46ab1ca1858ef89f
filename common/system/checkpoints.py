"""Checkpoint files: tensors and plain Python values, with a checksum that is verified before anything is believed.

The file is what `torch.save` writes, followed by one line with its SHA-256, as `torch.load` does not notice flipped
bits. The zip format ignores what follows, so `torch.load(path, weights_only=True)` reads it as it is.
"""

import hashlib
import io
from pathlib import Path

import torch

from common.system.errors import BadInput
from common.system.files import write_bytes

SEAL = b"\nsha256:"
SEAL_LENGTH = len(SEAL) + 64


class Damaged(BadInput):
    """A checkpoint is not what was written."""


def save_checkpoint(path: Path, content: dict, keep_old_as: Path | None = None) -> None:
    """Write `content` (tensors, numbers, strings, lists, dicts) to `path`, whole or not at all; see `write_bytes`."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.write(_seal(buffer.getvalue()))
    write_bytes(path, buffer.getbuffer(), keep_old_as)


def load_checkpoint(path: Path, keys: set[str] = frozenset()) -> dict:
    """Return the content of a checkpoint that `save_checkpoint` wrote, its tensors on the CPU.

    `Damaged` is raised if the file is missing, is not what was written, or lacks one of `keys`.
    """
    content, is_sealed = read_sealed(path)
    if not is_sealed:
        raise Damaged(f"{path} is damaged (its checksum is missing)")
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not keys <= loaded.keys():
        raise Damaged(f"{path} is damaged (it is another kind of checkpoint)")
    return loaded


def read_sealed(path: Path) -> tuple[bytes, bool]:
    """Return the bytes of a checkpoint, and whether they have the seal of `save_checkpoint`.

    `Damaged` is raised if the file cannot be read, or its seal is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from error
    is_sealed = SEAL in content[-SEAL_LENGTH:]
    if is_sealed and content[-SEAL_LENGTH:] != _seal(content[:-SEAL_LENGTH]):
        raise Damaged(f"{path} is damaged (its checksum is wrong)")
    return content, is_sealed


def _seal(content: bytes) -> bytes:
    return SEAL + hashlib.sha256(content).hexdigest().encode()
