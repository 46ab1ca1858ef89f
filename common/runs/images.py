"""Which images a run has used, in its file `images.npz`: whoever shows it some again can be told."""

import io
from pathlib import Path

import numpy as np

from common.data.arrays import HASH_BYTES, split_digest
from common.data.load import Data
from common.runs.folder import read_config
from common.system.errors import BadInput
from common.system.files import write_bytes
from common.system.log import warn

NAME = "images.npz"
KEPT = 8  # bytes of each hash


def write_images(folder: Path, data: Data) -> None:
    """Write the file, unless images are known by their place alone, as in an HDF5 file."""
    if any(len(split.hashes[0]) != HASH_BYTES for split in data.splits.values()):
        return
    buffer, hashes = io.BytesIO(), {}
    for name, split in data.splits.items():
        hashes[name] = np.frombuffer(b"".join(split.hashes), np.uint8).reshape(-1, HASH_BYTES)[:, :KEPT]
    np.savez(buffer, **hashes, test_sha256=np.array(split_digest(test=(data.test.labels, data.test.hashes))))
    write_bytes(folder / NAME, buffer.getbuffer())


def without_leaks(weights: str | None, data: Data) -> str | None:
    """Return the file of the first weights; raise BadInput if a run trained them on images that are held out now."""
    used = UsedImages(Path(weights).resolve().parent) if weights else None
    for name, what in (("val", "validation"), ("test", "test")) if used and used.splits else ():
        hashes = data.splits[name].hashes
        known = sum(used.part_of(pixel_hash) == "train" for pixel_hash in hashes)
        if known:
            options = read_config(Path(weights).resolve().parent)["options"]
            seed = options.get("split_seed", options.get("seed", 0))  # which divided the images, in older runs
            raise BadInput(
                f"--weights {weights}: {known:,} of the {len(hashes):,} {what} images have trained these weights, so "
                f"their accuracy would say nothing; divide the images as that run did: --split_seed {seed}"
            )
    return weights


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
                splits = {name: {row.tobytes() for row in file[name]} for name in ("train", "val", "test")}
                self.splits, self.test_sha256 = splits, str(file["test_sha256"])
        except Exception:  # whatever is damaged in it
            warn(f"warning: {path} is damaged, so images that the run knows are not told of")

    def part_of(self, pixel_hash: bytes) -> str | None:
        """Return which part an image had in the run: "train", "val", "test"; None if it was not among its images."""
        return next((name for name, known in self.splits.items() if pixel_hash[:KEPT] in known), None)
