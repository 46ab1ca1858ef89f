"""Which images a run has used, in its file `images.npz`: whoever shows it some again can be told."""

import io
from pathlib import Path

import numpy as np

from common.data.arrays import HASH_BYTES, split_digest
from common.data.load import Data
from common.system.files import write_bytes
from common.system.log import warn

NAME = "images.npz"
KEPT = 8  # bytes of each hash


def write_images(folder: Path, data: Data) -> None:
    """Write the file, unless images are known by their place alone, as in an HDF5 file."""
    if any(len(split.hashes[0]) != HASH_BYTES for split in data.splits.values()):
        return
    hashes = {
        name: np.frombuffer(b"".join(split.hashes), np.uint8).reshape(-1, HASH_BYTES)[:, :KEPT]
        for name, split in data.splits.items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, **hashes, test_sha256=np.array(split_digest(test=(data.test.labels, data.test.hashes))))
    write_bytes(folder / NAME, buffer.getbuffer())


class UsedImages:
    """The images of a finished or interrupted run, by the hashes of their pixels.

    Args:
        folder: of the run; without the file in it nothing is known.
    """

    def __init__(self, folder: Path):
        self.splits, self.test_sha256 = {}, ""
        path = folder / NAME
        if not path.is_file():
            return
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                test_sha256 = str(file["test_sha256"])
                splits = {name: {row.tobytes() for row in file[name]} for name in ("train", "val", "test")}
        except Exception:  # whatever is damaged in it
            warn(f"warning: {path} is damaged, so images that the run knows are not told of")
        else:
            self.splits, self.test_sha256 = splits, test_sha256

    def part_of(self, pixel_hash: bytes) -> str | None:
        """Return which part an image had in the run: "train", "val", "test"; None if it was not among its images."""
        return next((name for name, known in self.splits.items() if pixel_hash[:KEPT] in known), None)
