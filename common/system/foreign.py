"""Checkpoint files that others have written: what `torch.save` makes, with what their training scripts put in, and
safetensors. Nothing in them is executed.
"""

import json
from collections import OrderedDict

import torch

from common.system.checkpoints import unpack
from common.system.files import Unreadable

SAFETENSORS_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class Inert:
    """What is left of an object of a file that has nothing to do with weights: nothing."""

    def __new__(cls, *_, **__):
        return super().__new__(cls)

    def __init__(self, *_, **__): ...

    def __setstate__(self, state): ...


# What training scripts put beside the weights: their options, paths, times, scores. Instead of each class of this list
# an empty one is made; whatever else is no tensor or plain value is refused.
INERT = (
    "argparse.Namespace", "datetime.datetime", "datetime.timedelta", "numpy.dtype", "numpy.ndarray",
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("", "Posix", "Windows")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)  # fmt: skip
DICTS = (  # of PyTorch Lightning
    "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict",
)  # fmt: skip
STAND_INS = [*((Inert, name) for name in INERT), *((OrderedDict, name) for name in DICTS)]


def unpack_foreign(content: bytes) -> object:
    """Return what is in the bytes of a checkpoint, its tensors on the CPU; see `unpack` for what is refused."""
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        return _unpack_safetensors(content)
    first_line = content[:60].partition(b"\n")[0]
    if first_line.isascii() and first_line.decode().isprintable() and first_line:
        raise Unreadable(f"it is text: {first_line.decode()}")  # a page, or where the file is to be had
    return unpack(content, STAND_INS)


def _unpack_safetensors(content: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors by name: the format is the length of a header, the header in JSON, and the numbers.

    Unreadable is raised if it is damaged, or its tensors would take more memory than it has bytes.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    numbers, tensors = memoryview(content)[start:], {}
    try:
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        places = {name: entry["data_offsets"] for name, entry in header.items()}
        sizes = [end - begin for begin, end in places.values() if 0 <= begin <= end <= len(numbers)]
        if len(sizes) < len(places) or sum(sizes) > len(numbers):
            raise Unreadable("it is cut off or damaged")
        for name, (begin, end) in places.items():
            dtype, shape = SAFETENSORS_TYPES[header[name]["dtype"]], header[name]["shape"]
            tensor = torch.frombuffer(bytearray(numbers[begin:end]), dtype=dtype) if end > begin else torch.empty(0)
            tensors[name] = tensor.to(dtype).reshape(shape)  # which fails if the numbers are not so many
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise Unreadable(f"{type(error).__name__} in its header") from error
    return tensors
