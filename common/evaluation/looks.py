"""The account of looks at test images: a line in `test_looks.jsonl` of the output folder for each, written before it.

Whoever looks often at the same test images, and keeps what did best there, has chosen by them. So every look counts:
whatever run it is of, whether it came to an end, and whether its `test.json` is still there.
"""

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from common.data.arrays import Split, split_digest
from common.runs.folder import read_config
from common.runs.images import UsedImages
from common.runs.run import OF_A_MACHINE, Run
from common.system.errors import DISK_FULL, BadInput
from common.system.files import json_text, sync_folder
from common.system.log import info, warn

LEDGER = "test_looks.jsonl"
FOLDER = "TEST_LOOKS"  # environment: the folder of the account, where runs are deeper than others, as those of a search
# Options that make no other recipe of a run: what else is the same is tried on other splits, or elsewhere.
NOT_OF_A_RECIPE = {
    *OF_A_MACHINE, "device", "seed", "split_seed", "folds", "test", "tta", "print_every", "tensorboard", "wandb",
    "save_every", "figures",
}  # fmt: skip


@dataclass(frozen=True)
class Looks:
    """How often test images have been looked at: by a run, by its recipe with any seed, by all `recipes` together."""

    of_run: int
    of_recipe: int
    of_images: int
    recipes: int

    def entries(self) -> dict:
        """Return what test.json says of it."""
        names = {"of_run": "test_evaluations", "of_recipe": "looks_of_recipe", "of_images": "looks_at_images"}
        return {name: getattr(self, count) for count, name in names.items()} | {"recipes_looking": self.recipes}


def note_look(run: Run, test: Split, what: str) -> Looks:
    """Write down that a run is about to look at its test images, and return what that makes together.

    BadInput is raised where that cannot be written: then nobody looks.
    """
    images = split_digest(test=(test.labels, test.hashes))
    return _note(run.folder, run.config, _recipe(run.config, run.weights), images, what)


class Encounters:
    """Counts the images that a run is shown again, by the part that they had in it: such scores are not of new images.

    Args:
        folder: of the run, in which its images are known.
    """

    def __init__(self, folder: Path):
        self._folder, self._used, self._parts, self._look = folder, UsedImages(folder), Counter(), None

    def meet(self, squares: list[np.ndarray], hashes: list[bytes]) -> None:
        """Count images before they are predicted; the first test image is a look at them, which is written down.

        They are told by their squares (side, side, 3), of which all are of one size, or by the hashes of their frames.
        """
        self._parts.update(filter(None, self._used.parts_of(np.stack(squares), hashes)))
        if self._parts["test"] and self._look is None:
            self._look = 0
            try:
                config = read_config(self._folder)
                recipe = _recipe(config, config["options"].get("weights"))
                self._look = _note(self._folder, config, recipe, self._used.test_sha256, "predictions").of_images
            except BadInput as error:  # a copy of a run, say, that cannot be written to
                warn(f"warning: this look at test images is not counted ({error})")

    def tell(self, count: int) -> None:
        """Say how many of `count` images the run knows."""
        trained, chose, tested = (self._parts[part] for part in ("train", "val", "test"))
        if trained:
            info(f"note: {trained:,} of these {count:,} images have trained the network: this is too good for new ones")
        if chose:
            info(f"note: {chose:,} are validation images of this run, by which its weights were chosen")
        if tested:
            which = f"; this was look {self._look} at them" if self._look else ""
            info(f"note: {tested:,} are test images of this run{which}")


def _note(run_folder: Path, config: dict, recipe: str, images: str, what: str) -> Looks:
    path = Path(os.environ.get(FOLDER) or _output_folder(run_folder, config)) / LEDGER
    own = {"run": config.get("run_id", str(run_folder)), "recipe": recipe, "images": images}
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        _append(path, own | {"what": what, "time": now, "folder": str(run_folder)})
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise BadInput(f"{path}: looks at test images are written down there, and it cannot be written to") from error
    lines, unknown = _read(path)
    if unknown:
        info(f"{path}: {unknown} line(s) cannot be read; each counts as a look at these images")
    same = [line for line in lines if line["images"] == images]
    return Looks(
        max(sum(line["run"] == own["run"] for line in same), config["earlier_test_evaluations"] + 1),
        sum(line["recipe"] == own["recipe"] for line in same),
        len(same) + unknown,
        len({line["recipe"] for line in same}),
    )


def _output_folder(folder: Path, config: dict) -> Path:
    """Return the folder that has the experiments' folders; of a run that lies elsewhere, the one that it lies in."""
    folder = folder.resolve()
    return folder.parents[2] if folder.parent.parent.name == config["script"] else folder.parent


def _recipe(config: dict, weights: str | None) -> str:
    """Return a digest that two runs share if they differ in nothing but seed, machine and place."""
    options = {name: value for name, value in config["options"].items() if name not in NOT_OF_A_RECIPE}
    start = {"weights": weights and Path(weights).name, "script": config["script"]}
    return hashlib.sha256(json_text(options | start, sort_keys=True).encode(errors="backslashreplace")).hexdigest()[:32]


def _append(path: Path, line: dict) -> None:
    """Add a line in one piece, as several runs may do at a time, and wait until it lies on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        is_whole = file.read()[-1:] in (b"", b"\n")  # what is not was cut off, by a loss of power, say
        file.write(b"\n" * (not is_whole) + json.dumps(line).encode() + b"\n")
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _read(path: Path) -> tuple[list[dict], int]:
    """Return the lines, and the number of those that cannot be read."""
    lines, unknown = [], 0
    for text in filter(None, path.read_bytes().splitlines()):
        try:
            line = json.loads(text)
            lines.append({name: str(line[name]) for name in ("run", "recipe", "images")})
        except (ValueError, KeyError, TypeError, RecursionError):
            unknown += 1
    return lines, unknown
