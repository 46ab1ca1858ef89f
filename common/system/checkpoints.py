"""Checkpoint files: tensors and plain Python values, with a checksum that is verified before anything is believed.

The file is what `torch.save` writes, followed by one line with its SHA-256, as `torch.load` does not notice flipped
bits. The zip format ignores what follows, so `torch.load(path, weights_only=True)` reads it as it is.
"""

import hashlib
import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from common.system.errors import BadInput
from common.system.files import Unreadable, write_bytes
from common.system.text import printable

SEAL = b"\nsha256:"
SEAL_LENGTH = len(SEAL) + 64


class Damaged(BadInput):
    """A checkpoint is not what was written."""


class Foreign(Damaged):
    """A checkpoint has not been written by `save_checkpoint`, though what it holds is whole."""


def save_checkpoint(path: Path, content: dict | bytes, keep_old_as: Path | None = None) -> None:
    """Write `content`, or what `pack` has made of it, to `path`, whole or not at all; see `write_bytes`."""
    packed = content if isinstance(content, bytes) else pack(content)
    write_bytes(path, packed + _seal(packed), keep_old_as)


def pack(content: dict) -> bytes:
    """Return what `torch.save` writes of tensors, numbers, texts, lists and dicts: they are then free to change."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_checkpoint(path: Path, keys: set[str] = frozenset()) -> dict:
    """Return the content of a checkpoint that `save_checkpoint` wrote, its tensors on the CPU.

    `Damaged` is raised if the file is missing, is not what was written, or lacks one of `keys`, or if what it has there
    cannot be: weights that are no plain tensors or larger than the file, records of epochs that are none.
    """
    content, is_sealed = read_sealed(path)
    if not is_sealed:
        is_cut_off = (
            not content.strip(b"\0") or content.startswith(b"PK") and not zipfile.is_zipfile(io.BytesIO(content))
        )
        raise (Damaged if is_cut_off else Foreign)(f"{path} is damaged (its checksum is missing)")
    try:
        loaded = unpack(content)
    except Unreadable as error:
        raise Damaged(f"{path} is no checkpoint that can be read safely ({error})") from error
    if not (isinstance(loaded, dict) and keys <= loaded.keys()):
        raise Damaged(f"{path} is damaged (it is another kind of checkpoint)")
    for name in keys & KINDS.keys():
        if not KINDS[name](loaded[name]):
            raise Damaged(f"{path} is damaged (its {name} cannot be)")
    if "model" in keys and _size(loaded["model"].values()) > len(content):
        raise Damaged(f"{path} is damaged (its tensors are larger than the file)")
    return loaded


def _size(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes that tensors claim to have; those of layers that share their weights count once."""
    of_memory = {tensor.data_ptr(): tensor.nbytes for tensor in sorted(tensors, key=lambda tensor: tensor.nbytes)}
    return sum(of_memory.values())


def is_plain(value: object) -> bool:
    """Tell whether `value` is a tensor of real numbers in memory: not nested, sparse or quantized."""
    if not isinstance(value, torch.Tensor) or value.is_nested or value.is_quantized or value.is_complex():
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def _are_weights(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) and is_plain(value[name]) for name in value)


def _is_history(value: object) -> bool:
    return isinstance(value, list) and all(_is_record(record, epoch) for epoch, record in enumerate(value, 1))


def _is_record(value: object, epoch: int) -> bool:
    """Tell whether `value` can be the record of an epoch: numbers, and a checksum of the weights."""
    if not isinstance(value, dict) or value.get("epoch") != epoch:
        return False
    known = [number for name, number in value.items() if name != "weights_sha256" and number is not None]
    return all(map(_is_number, known + [value.get(name) for name in RECORDED]))


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


# What a run relies on in the checkpoints that it goes on from. Its optimizer checks its own state.
RECORDED = ("lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")
KINDS = {
    "model": _are_weights,
    "history": _is_history,
    "config": lambda value: isinstance(value, dict),
    "epoch": lambda value: type(value) is int,
    "val_accuracy": _is_number,
}


def unpack(content: bytes, stand_ins: Sequence[tuple[type, str]] = ()) -> object:
    """Return what `torch.save` has written, its tensors on the CPU; nothing in it is executed.

    `stand_ins` are classes that are made instead of others, with the names of those. `Unreadable` is raised if the file
    holds any other class, or cannot be read, or could take far more memory than it has bytes.
    """
    try:
        if content.startswith(b"PK"):  # `torch.save` compresses nothing, but `torch.load` would unpack it
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                entries = archive.infolist()
            if any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise Unreadable("it is TorchScript")
            if any(entry.compress_type for entry in entries) or sum(e.file_size for e in entries) > len(content):
                raise Unreadable("it is compressed")
        if b"bytearray" in content and _makes_bytearrays(content):  # `torch.load` would make one of any length
            raise Unreadable("it holds other things than tensors and plain values")
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(list(stand_ins)):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (MemoryError, Unreadable):
        raise
    except Exception as error:  # the readers of old formats raise nearly anything for other files
        unknown = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        what = f"it holds {printable(unknown[1], 80)}" if unknown else f"{type(error).__name__} in it"
        raise Unreadable(what) from error


def _makes_bytearrays(content: bytes) -> bool:
    """Tell whether a file that has the word may make a bytearray, and does not just have a text with it."""
    if not content.startswith(b"PK"):
        return True
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickles = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".pkl")]
        if len(pickles) != 1:  # else `torch.load` may read another one
            return True
        used = [(opcode.name, str(argument)) for opcode, argument, _ in pickletools.genops(archive.read(pickles[0]))]
    return any(
        name in ("BYTEARRAY8", "STACK_GLOBAL") or (name in ("GLOBAL", "INST") and "bytearray" in argument)
        for name, argument in used
    )


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
