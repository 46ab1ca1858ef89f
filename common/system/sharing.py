"""What the processes of a run on one machine tell each other, and have in memory once, all together.

All of them call each of these functions, in the same order. A process on its own, and each where there is no such
memory (it takes Linux), has all for itself.
"""

import functools
import math
import mmap
import os

import numpy as np
import torch.distributed as dist

from common.system.distributed import processes_here
from common.system.errors import BadInput


def sharing() -> int:
    """Return the number of processes that share memory with this one, and it."""
    return processes_here() if processes_here() > 1 and dist.is_initialized() and _can_share() else 1


def leads() -> bool:
    """Tell whether this is the one of them that does what one alone should do."""
    return sharing() == 1 or _place() == 0


def gather_here(value) -> list:
    """Return what each of them has given, the leading one's first."""
    return _gather(value) if sharing() > 1 else [value]


def part_here(items: np.ndarray) -> np.ndarray:
    """Return this process's part of `items` (N,), which are neighbors."""
    return np.array_split(items, sharing())[_place()] if sharing() > 1 else items


def zeros_here(shape: tuple[int, ...], dtype: np.dtype | type = np.uint8) -> np.ndarray:
    """Return zeros that all of them can read and write; BadInput is raised if they ask for different shapes."""
    if sharing() == 1:
        return np.zeros(shape, dtype)
    count = math.prod(shape)
    if len(set(_gather(shape))) > 1:
        raise BadInput("the processes of this machine do not see the same images: has --data been changed just now?")
    memory = _shared_memory(max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def _place() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _gather(value) -> list:
    """Return what each process of this machine has given; the others hear of it too, but do not look."""
    machine, values = os.environ.get("GROUP_RANK"), [None] * dist.get_world_size()
    dist.all_gather_object(values, (machine, value))
    return [value for where, value in values if where == machine]


@functools.cache
def _can_share() -> bool:
    return hasattr(os, "memfd_create") and _shared_memory(1) is not None


def _shared_memory(size: int) -> mmap.mmap | None:
    """Return `size` bytes that all have together, or None if one of them cannot reach what the first has made.

    They have no name that would outlive the processes, and take no room in /dev/shm, which is small in containers.
    """
    made, memory = None, None
    if _place() == 0:
        made = os.memfd_create("images")
        os.truncate(made, size)
    where = _gather(f"/proc/{os.getpid()}/fd/{made}")[0]
    try:
        file = os.open(where, os.O_RDWR)
        memory = mmap.mmap(file, size)
        os.close(file)
    except OSError:  # in a container of its own, say
        pass
    have_it = all(_gather(memory is not None))
    if made is not None:
        os.close(made)
    return memory if have_it else None
