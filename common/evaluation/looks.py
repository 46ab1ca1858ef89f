"""The account of looks at test images: a line in `test_looks.jsonl` of the output folder for each, written before it.

Whoever looks often at the same test images, and keeps what did best there, has chosen by them. So every look counts:
whatever run it is of, whether it came to an end, and whether its `test.json` is still there.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.data.arrays import Split, split_digest
from common.runs.run import OF_A_MACHINE, Run
from common.system.errors import DISK_FULL, BadInput
from common.system.files import json_text, sync_folder
from common.system.log import info

LEDGER = "test_looks.jsonl"
FOLDER = "TEST_LOOKS"  # environment: the folder of the account, where runs are deeper than others, as those of a search
# Options that make no other recipe of a run: what else is the same is tried on other splits, or elsewhere.
NOT_OF_A_RECIPE = {
    *OF_A_MACHINE, "device", "seed", "split_seed", "folds", "test", "tta", "print_every", "tensorboard", "wandb",
    "save_every", "figures",
}  # fmt: skip


@dataclass(frozen=True)
class Looks:
    """How often test images have been looked at, as test.json says it."""

    test_evaluations: int  # by the run
    looks_of_recipe: int  # by its recipe, with any seed
    looks_at_images: int  # by all runs
    recipes_looking: int  # the recipes of these


def note_look(run: Run, test: Split, what: str) -> Looks:
    """Write down that a run is about to look at its test images, and return what that makes together.

    BadInput is raised where that cannot be written: then nobody looks.
    """
    images = split_digest(test=(test.labels, test.hashes))
    return note_look_at(run.folder, run.config, images, what)


def note_look_at(run_folder: Path, config: dict, images: str, what: str) -> Looks:
    """Do what `note_look` does for the run in a folder, given its config.json and the digest of its test `images`."""
    path = Path(os.environ.get(FOLDER) or _output_folder(run_folder, config)) / LEDGER
    own = {"run": config.get("run_id", str(run_folder)), "recipe": _recipe(config), "images": images}
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
    if [folder.parents[depth].name for depth in (3, 5) if depth < len(folder.parents)] == ["trials", "sweeps"]:
        return folder.parents[6]  # of a trial of a search
    return folder.parents[2] if folder.parent.parent.name == config["script"] else folder.parent


def _recipe(config: dict) -> str:
    """Return a digest that two runs share if they differ in nothing but seed, machine and place."""
    options = {name: value for name, value in config["options"].items() if name not in NOT_OF_A_RECIPE}
    if "save_minutes" in options:  # changes nothing, and was counted in earlier versions
        options["save_minutes"] = None
    weights = config["options"].get("weights")
    start = {"weights": None if weights in (None, "none") else Path(weights).name, "script": config["script"]}
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
