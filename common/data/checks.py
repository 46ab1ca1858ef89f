"""A check of each image that is read from an HDF5 file, by which a run that goes on knows the images again."""

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from common.system.errors import BadInput

WORDS = 512  # of 8 bytes: no more than a third of the longest row
WEIGHTS = np.frombuffer(hashlib.shake_256(b"images").digest(8 * WORDS), "<i8") | 1


def checks_of(images: np.ndarray) -> np.ndarray:
    """Return (N,) int64, none of them 0, of about a third of the middle row of each image (N, side, side, 3).

    To look at all pixels would cost more than reading them. Two rows have the same check by chance in one of billions
    of cases (multilinear hashing: Carter and Wegman, "Universal classes of hash functions", 1979).
    """
    side = images.shape[1]
    rows = images.reshape(len(images), 3 * side**2)
    if side == 1:
        rows = np.pad(rows, ((0, 0), (0, 5)))  # to one word
    size = 8 * max(1, side // 8)  # bytes
    start = max(0, min(3 * (side * (side // 2) + side // 2) - size // 2, rows.shape[1] - size))
    return rows[:, start : start + size].view("<i8") @ WEIGHTS[: size // 8] | 1


class Checks:
    """What the images of one data set were like when they were first read: `seen` (N,) int64, 0 of those unread.

    Args:
        where: the data set, for the error that names one of its images.
    """

    def __init__(self, where: str, count: int):
        self.where, self.seen = where, np.zeros(count, np.int64)

    def look(self, indices: np.ndarray, images: np.ndarray) -> None:
        """Note what the `images` at these indices are like; BadInput is raised if one was another before."""
        self._add(indices, checks_of(images))

    def share(self, gather: Callable[[np.ndarray], list[np.ndarray]]) -> None:
        """Learn what the other processes have read, who learn the same; `gather` returns what each has given."""
        for other in gather(self.seen):
            self._add_known(other)

    def sha256(self) -> str | None:
        """Return a digest of all images, if all have been read."""
        return hashlib.sha256(self.seen.astype("<i8").tobytes()).hexdigest() if self.seen.all() else None

    def state_dict(self) -> dict:
        """Return what a checkpoint keeps."""
        return {"seen": torch.from_numpy(self.seen.copy())}

    def load_state_dict(self, state: dict) -> None:
        """Add what `state_dict` returned; BadInput is raised if an image that was read since is another one."""
        self._add_known(state["seen"].numpy())

    def _add_known(self, seen: np.ndarray) -> None:
        if seen.shape != self.seen.shape:
            raise ValueError("the checks are of another number of images")
        known = np.flatnonzero(seen)
        self._add(known, seen[known])

    def _add(self, indices: np.ndarray, checks: np.ndarray) -> None:
        before = self.seen[indices]
        differing = (before != checks) & (before != 0)
        if differing.any():
            place = indices[differing.argmax()]
            raise BadInput(
                f"{self.where}: image {place} is not what it was when this run first read it (images are counted from "
                "0); put the file back as it was, or start a new run"
            )
        self.seen[indices] = checks
