"""How much main memory is free for this process, and what of it data may take."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil

from common.system.distributed import processes_here

MEMORY_SHARE = 0.5  # of the main memory that is free, for what may as well stay out of it
# Linux limits the memory of containers and of a cluster's jobs in groups of processes, of which there are two versions:
# the folder of their files -> (names of the limit and of what is used, prefix of what is used to keep files at hand).
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUP_FILES = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def available_memory() -> int:
    """Return the bytes of main memory that are free for this process.

    That is its share, among the processes of this run on this machine, of what is left to the machine, or to the
    container or the cluster's job that it runs in.
    """
    left = min([psutil.virtual_memory().available, *_left_to_groups()])
    return max(0, left) // processes_here()


def fits_in_memory(n_bytes: float) -> bool:
    """Tell whether so many bytes take no more than their share of the main memory that is free."""
    return n_bytes <= MEMORY_SHARE * available_memory()


def _left_to_groups() -> Iterator[int]:
    """Give the bytes that are left to each group that this process is in, where one has a limit."""
    lines = []
    with contextlib.suppress(OSError):  # no Linux
        lines = OWN_GROUPS.read_text().splitlines()
    for line in lines:
        _, kind, path = line.split(":", 2)
        if kind in GROUP_FILES:
            limit, used, prefix = GROUP_FILES[kind]
            root = GROUPS / kind
            folder = root / path.strip("/")
            for group in (folder, *folder.parents[: len(folder.parts) - len(root.parts)]):
                with contextlib.suppress(OSError, ValueError, KeyError):  # a group without a limit says "max"
                    stat = dict(entry.split() for entry in (group / "memory.stat").read_text().splitlines())
                    kept = sum(int(stat[f"{prefix}{name}"]) for name in ("active_file", "inactive_file"))  # given back
                    yield int((group / limit).read_text()) - int((group / used).read_text()) + kept
