"""Checkpoint files: tensors and plain Python values, with a checksum that is verified before anything is believed.

The file is what `torch.save` writes, followed by one line with its SHA-256. The zip format ignores what follows, so
`torch.load(path, weights_only=True)` reads it as it is. The line is needed because `torch.load` does not notice
flipped bits.
"""

import hashlib
import io
from pathlib import Path

import torch
from torch import nn

from common.system.errors import BadInput
from common.system.files import write_bytes
from common.system.log import say

SEAL = b"\nsha256:"
SEAL_LENGTH = len(SEAL) + 64
CONTAINERS = ("model", "state_dict", "net")  # under one of these keys training scripts store the weights, or bare
PREFIXES = ("module.", "_orig_mod.")


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

    Raises:
        Damaged: the file is missing, is not what was written, or lacks one of `keys`.
    """
    content = _read(path)
    if content[-SEAL_LENGTH:] != _seal(content[:-SEAL_LENGTH]):
        raise Damaged(f"{path} is damaged (its checksum is wrong)")
    loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not keys <= loaded.keys():
        raise Damaged(f"{path} is damaged (it is another kind of checkpoint)")
    return loaded


def load_weights(model: nn.Module, file: str, classes: list[str]) -> None:
    """Load the weights in `file` into `model`: any checkpoint that `read_weights` reads.

    Warns if a checkpoint of ours was trained for other classes than `classes`.

    Raises:
        BadInput: the file cannot be read or belongs to another network; the text says what differs.
    """
    weights, trained_for = read_weights(file)
    difference = _difference(model.state_dict(), weights)
    if difference:
        raise BadInput(f"--weights {file} does not fit this network: {difference}")
    model.load_state_dict(weights)
    if trained_for not in (None, classes):
        say(f"warning: --weights {file} was trained for other classes: {', '.join(trained_for[:10])}")


def read_weights(file: str) -> tuple[dict, list[str] | None]:
    """Return the weights by name in a checkpoint, of ours or of others, and the classes it was trained for, if known.

    The weights are all that the file holds, or what it holds as "model", "state_dict" or "net". The names lose the
    prefixes that `DataParallel` and `torch.compile` give them.

    Raises:
        BadInput: the file cannot be read safely, is damaged, or holds no weights by name.
    """
    try:
        content = _read(Path(file))
    except Damaged as error:
        raise BadInput(f"--weights: {error}") from error
    is_ours = SEAL in content[-SEAL_LENGTH:]
    if is_ours and content[-SEAL_LENGTH:] != _seal(content[:-SEAL_LENGTH]):
        raise Damaged(f"--weights {file} is damaged (its checksum is wrong)")
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # the readers of old formats raise nearly anything for other files
        raise BadInput(f"--weights {file} is no checkpoint that can be read safely") from error
    weights = loaded
    if isinstance(loaded, dict):
        weights = next((loaded[key] for key in CONTAINERS if key in loaded), loaded)
    if not isinstance(weights, dict):
        raise BadInput(f"--weights {file} does not fit this network: it holds no weights by name")
    classes = loaded.get("config", {}).get("classes") if is_ours else None
    return {_without_prefixes(str(name)): value for name, value in weights.items()}, classes


def _without_prefixes(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from error


def _seal(content: bytes) -> bytes:
    return SEAL + hashlib.sha256(content).hexdigest().encode()


def _difference(wanted: dict, found: dict) -> str | None:
    for name, tensor in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if getattr(found[name], "shape", None) != tensor.shape:
            shape = list(getattr(found[name], "shape", []))
            return f"{name} has the shape {shape} where {list(tensor.shape)} is needed"
    extra = set(found) - set(wanted)
    return f"it has {sorted(extra)[0]} too" if extra else None
