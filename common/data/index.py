"""What an earlier start has found out of image files, so that the next one neither opens nor decodes them again.

It lies in the folder that the environment names, or else in the output folder, and not beside the images: a data set
that comes from elsewhere cannot bring an index along, and folders that may only be read have one too.
"""

import contextlib
import hashlib
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import __version__ as pillow_version

from common.data import images
from common.data.arrays import HASH_BYTES
from common.system.checkpoints import Damaged, load_checkpoint, save_checkpoint
from common.system.distributed import is_first_here
from common.system.errors import BadInput
from common.system.files import lock, remove_partial_files
from common.system.log import info
from common.system.sharing import gather_here, leads, part_here, zeros_here

SHARED = "DECODED_IMAGES"  # the environment names a folder for several output folders, such as those of a search
IN_OUTPUTS = ".index"
LARGEST, SMALL = 2 * 10**9, 2 * 10**8  # bytes of squares that are kept too: in the shared folder, in an output folder
WORTHWHILE = 1000  # files that are new: fewer are read as fast; a shared folder has been asked for, and keeps any
SETTLED = 2 * 10**9  # nanoseconds: what is written twice within less may have the same time
STATE = ("bytes", "modified", "changed")  # times in nanoseconds; `changed` is that of the name and the rights, too
UNKNOWN = -1  # no file has such a state
FACTS = np.dtype([(name, "<i8") for name in STATE] + [("size", "<i4", 2), ("kinds", "<i4"), ("hash", "u1", HASH_BYTES)])
KEYS = {"rules", "made_as", "names", "facts"}
TEXT = ("utf-8", "surrogateescape")


def index_file(output_dir: str | None, folder: Path, size: int, fit: str) -> Path | None:
    """Return where the index of the images in `folder` is, asked for as squares of `size`; None if there is none."""
    if shared := os.environ.get(SHARED):
        home = Path(shared)
    elif output_dir is not None:
        home = Path(output_dir, IN_OUTPUTS)
    else:
        return None
    key = hashlib.sha256(f"{size} {fit} {folder.resolve()}".encode(*TEXT)).hexdigest()
    return home / f"{key[:32]}.index"


def file_state(path: Path) -> tuple[int, int, int]:
    """Return the STATE of a file: another one when it has been written to, replaced, or locked away."""
    try:
        state = os.stat(path)
    except OSError:  # reading it will tell
        return (UNKNOWN,) * len(STATE)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


class Index:
    """What is known of the image files `paths`, in their order; their `names` are relative to `root`.

    What `file` says, an index that was written earlier, holds for the files that are as they were then. `facts` (N,)
    has the state of each file as it is now and the width and height of the picture; if `is_known`, also the hash of its
    pixels and what had to be converted: all processes of a machine have both together. `pixels` (N, side, side, 3), if
    they are there, are those of known files; only the process that leads has them.
    """

    def __init__(self, root: Path, paths: Sequence[Path], file: Path | None = None):
        depth = len(root.parts)
        self.paths, self.names = paths, ["/".join(path.parts[depth:]) for path in paths]
        self.facts, self.is_known = zeros_here((len(paths),), FACTS), zeros_here((len(paths),), bool)
        self.pixels: np.ndarray | None = None
        self._now, self._file, self._made_as = time.time_ns(), file, ""
        if leads():
            states = np.array([file_state(path) for path in paths], np.int64).reshape(-1, len(STATE))
            for column, name in enumerate(STATE):
                self.facts[name] = states[:, column]
            if file is not None and os.path.exists(file):
                try:
                    self._take_over(load_checkpoint(file, KEYS))
                except Damaged as error:
                    info(f"note: {error}: the images are read anew")
        gather_here(None)  # all wait until that is done

    def sizes(self) -> Counter:
        """Return how many pictures there are of each (width, height); those that cannot be opened are left out."""
        for row in part_here(np.flatnonzero(~self.is_known)).tolist():
            with contextlib.suppress(BadInput), images.opened(self.paths[row]) as image:
                self.facts["size"][row] = image.size
        gather_here(None)
        return Counter((width, height) for width, height in self.facts["size"].tolist() if width)

    def missing(self, size: int, fit: str, needs_pixels: bool) -> np.ndarray:
        """Return which files have to be decoded, as they are not known or, if needed, their pixels are not there.

        What was made with another `size` or `fit` is forgotten.
        """
        if leads():
            made_as = f"{size} {fit}"
            if made_as != self._made_as:
                self.is_known[:], self.pixels, self._made_as = False, None, made_as
            if self.pixels is not None and (self.pixels.dtype, *self.pixels.shape[1:]) != (np.uint8, size, size, 3):
                self.pixels = None
            if needs_pixels and self.pixels is None:
                self.is_known[:] = False
        return gather_here(np.flatnonzero(~self.is_known) if leads() else None)[0]

    def learn(self, row: int, pixel_hash: bytes, kinds: Sequence[str]) -> None:
        """Note what was found out of a file."""
        self.facts["hash"][row] = np.frombuffer(pixel_hash, np.uint8)
        self.facts["kinds"][row] = sum(1 << images.ALL_KINDS.index(kind) for kind in kinds)
        self.is_known[row] = True

    def hash_of(self, row: int) -> bytes:
        """Return the hash of the pixels of a known file."""
        return self.facts["hash"][row].tobytes()

    def is_as_it_was(self, row: int, state: tuple[int, int, int]) -> bool:
        """Tell whether a file that has this state now had it at the start."""
        return state == tuple(self.facts[row][name] for name in STATE)

    def converted(self) -> Counter:
        """Return how many of the known files had to be converted in each way."""
        kinds = self.facts["kinds"][self.is_known]
        counts = {kind: int((kinds >> place & 1).sum()) for place, kind in enumerate(images.ALL_KINDS)}
        return Counter({kind: count for kind, count in counts.items() if count})

    def write(self, learned: int, pixels: np.ndarray | None) -> None:
        """Leave what is known, `learned` files of it now, and few `pixels` to later starts; a full disk stops none."""
        if self._file is None or not is_first_here():
            return
        is_shared = self._file.parent.name != IN_OUTPUTS
        if learned < (1 if is_shared else WORTHWHILE):
            return
        facts = self.facts.copy()
        facts["changed"][~self.is_known | (facts["changed"] > self._now - SETTLED)] = UNKNOWN
        content = {
            "rules": _rules(),
            "made_as": self._made_as,
            "names": torch.frombuffer(bytearray("\0".join(self.names).encode(*TEXT)), dtype=torch.uint8),
            "facts": torch.from_numpy(facts.view(np.uint8).reshape(len(facts), FACTS.itemsize)),
        }
        if pixels is not None and pixels.nbytes <= (LARGEST if is_shared else SMALL):
            pixels[~self.is_known] = 0  # what was in memory there is nobody's business
            content["pixels"] = torch.from_numpy(pixels)
        with contextlib.suppress(OSError, BadInput):  # BadInput: another process is writing the same
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with lock(self._file.with_suffix(".lock"), str(self._file)):
                remove_partial_files(self._file.parent, self._file.name)  # of processes that were killed
                save_checkpoint(self._file, content)

    def _take_over(self, kept: dict) -> None:
        """Take what was kept of files that are the same now; `Damaged` is raised if that is not what `write` writes."""
        if kept["rules"] != _rules():
            return
        try:
            names, facts = _table(kept)
            pixels = kept["pixels"].numpy().reshape(len(names), *kept["pixels"].shape[1:]) if "pixels" in kept else None
            row_of = {name: row for row, name in enumerate(names)}
            rows = np.array([row_of.get(name, UNKNOWN) for name in self.names])
            same = rows != UNKNOWN
            for name in STATE:
                same &= (facts[name][rows] == self.facts[name]) & (self.facts[name] != UNKNOWN)
            self.facts[same] = facts[rows[same]]
        except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise Damaged(f"{self._file} is damaged ({type(error).__name__})") from error
        self.is_known[:], self._made_as = same, str(kept["made_as"])
        if pixels is not None:
            self.pixels = pixels if np.array_equal(rows, np.arange(len(names))) else pixels[rows]


def _rules() -> str:
    """Return what decides, beside a file, which pixels it becomes."""
    return f"{pillow_version} {hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()}"


def _table(kept: dict) -> tuple[list[str], np.ndarray]:
    """Return (names, facts) as they were kept; nearly any error is raised if they cannot be that."""
    names = kept["names"].numpy().tobytes().decode(*TEXT).split("\0")
    facts = kept["facts"].numpy().view(FACTS)[:, 0]
    if len(names) != len(facts) or (facts["size"][facts["changed"] != UNKNOWN] < 1).any():
        raise ValueError("a file without a name, or a picture without pixels")
    return names, facts
