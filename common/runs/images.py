"""Which images a run has used, in its file `images.npz`: whoever shows it some again can be told.

They are known by the hashes of their pixels. To hash those of an HDF5 file that has no hashes would cost more than
reading them: of such images the checks are kept, which tell few that may be the same, and these few are compared with
the file itself.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from common.data.arrays import HASH_BYTES, Split, pixel_hash, split_digest
from common.data.checks import checks_of
from common.data.load import Data
from common.runs.folder import read_config
from common.system.errors import BadInput
from common.system.files import write_bytes
from common.system.log import warn

NAME = "images.npz"
KEPT = 8  # bytes of each hash


def write_images(folder: Path, data: Data, config: dict) -> None:
    """Write the file of a run with this config.json.

    Of an HDF5 file without hashes it has the checks of what has been read by now, in the order of the file, 0 where
    nothing is known.
    """
    buffer, known = io.BytesIO(), {}
    for name, split in data.splits.items():
        if not split.has_pixel_hashes:
            known[name] = np.zeros_like(split.checks.seen)
            known[name][split.indices] = split.checks.seen[split.indices]
        else:
            known[name] = np.frombuffer(b"".join(split.hashes), np.uint8).reshape(-1, HASH_BYTES)[:, :KEPT]
    known["test_sha256"] = split_digest(test=(data.test.labels, data.test.hashes))
    known["hdf5"] = str(Path(config["options"]["data"]).absolute()) if not data.train.has_pixel_hashes else ""
    np.savez(buffer, **known, split_sha256=config["split_sha256"])
    write_bytes(folder / NAME, buffer.getbuffer())


def without_leaks(weights: str | None, data: Data) -> str | None:
    """Return the file of the first weights; raise BadInput if a run trained them on images that are held out now."""
    used = UsedImages(Path(weights).resolve().parent) if weights else None
    if not used or not used.splits or used.split_sha256 == data.digest:
        return weights
    for name, what in (("val", "validation"), ("test", "test")):
        known = used.parts_in(data.splits[name]).count("train")
        if known:
            options = read_config(Path(weights).resolve().parent)["options"]
            seed = options.get("split_seed", options.get("seed", 0))  # which divided the images, in older runs
            where = f"give --data {options['data']}, and " if options.get("data") else ""
            raise BadInput(
                f"--weights {weights}: {known:,} of the {len(data.splits[name]):,} {what} images have trained these "
                f"weights, so their accuracy would say nothing; {where}divide the images as that run did: "
                f"--split_seed {seed}"
            )
    return weights


class UsedImages:
    """The images of a finished or interrupted run.

    Args:
        folder: of the run; without the file in it nothing is known.
    """

    def __init__(self, folder: Path):
        self.splits, self.test_sha256, self.split_sha256 = {}, "", ""
        self._folder, self._file, self._opened = folder, "", {}
        path = folder / NAME
        if not path.is_file():
            return
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                stored = {name: str(file[name]) if file[name].shape == () else file[name] for name in file}
            splits = {name: stored.pop(name) for name in ("train", "val", "test")}
            if stored.get("hdf5"):  # of a run from before it there are hashes
                self.splits = {name: (order := np.argsort(checks), checks[order]) for name, checks in splits.items()}
            else:
                self.splits = {name: {row.tobytes() for row in hashes} for name, hashes in splits.items()}
            self.test_sha256, self._file = stored["test_sha256"], stored.get("hdf5", "")
            self.split_sha256 = stored.get("split_sha256", "")
        except Exception:  # whatever is damaged in it
            self.splits = {}
            warn(f"warning: {path} is damaged, so images that the run knows are not told of")

    def parts_in(self, split: Split) -> list[str | None]:
        """Return what `parts_of` does of a split; unless hashes of all pixels are known, its images are read for it."""
        if split.has_pixel_hashes and not self._file:
            return _parts(split.hashes, self.splits)
        parts = []
        for images, _ in split.blocks():
            parts += self.parts_of(images.permute(0, 2, 3, 1).numpy())
        return parts

    def parts_of(self, squares: np.ndarray, hashes: Sequence[bytes] | None = None) -> list[str | None]:
        """Return which part each image had in the run: "train", "val", "test"; None if it was not among its images.

        Args:
            squares: (N, side, side, 3) uint8.
            hashes: of what the squares are the middle of, where that is more.
        """
        if self._file:
            known = self._hashes_like(checks_of(squares))
            return _parts(map(pixel_hash, squares), known) if known else [None] * len(squares)
        return _parts(hashes or map(pixel_hash, squares), self.splits)

    def _hashes_like(self, checks: np.ndarray) -> dict[str, set[bytes]]:
        """Return, by part, hashes of the images in the HDF5 file with one of these checks; none if it is not there."""
        from common.data.hdf5 import open_hdf5  # imports h5py, which other data does not need

        found, checks = {}, np.unique(checks)
        try:
            for name, (order, known) in self.splits.items():
                ends = zip(np.searchsorted(known, checks), np.searchsorted(known, checks, "right"), strict=True)
                ranks = [rank for of_one in ends for rank in range(*of_one)]
                if ranks:
                    self._opened = self._opened or open_hdf5(self._file)
                    dataset = self._opened.get(name, self._opened["train"])  # where test images are set aside
                    rows = dataset.read(order[ranks])
                    if (checks_of(rows) != known[ranks]).any():
                        raise BadInput(f"--data {self._file} is not as it was")
                    found[name] = {pixel_hash(row)[:KEPT] for row in rows}
        except BadInput as error:
            self.splits = {}
            warn(f"warning: some images look like those of {self._folder}, and cannot be compared with them ({error})")
            return {}
        return found


def _parts(hashes: Iterable[bytes], known: dict[str, set[bytes]]) -> list[str | None]:
    return [next((name for name in known if pixel_hash[:KEPT] in known[name]), None) for pixel_hash in hashes]
