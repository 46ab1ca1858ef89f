"""Opening a run again: what must be as it was, and what may differ and is told."""

import contextlib
import time
from pathlib import Path

from common.runs.config import differences
from common.runs.folder import lock, read_config, read_train_json
from common.system.distributed import Processes
from common.system.errors import BadInput
from common.system.files import remove_partial_files
from common.system.log import info


def is_finished(folder: Path | None, epochs: int, test: bool) -> bool:
    """Tell, and say, whether the run to be resumed has nothing left to do; `test` is whether to test it."""
    if folder is None or int(read_config(folder)["options"].get("epochs", epochs)) != epochs:
        return False
    if read_train_json(folder)["status"] != "finished" or (test and not _is_tested(folder)):
        return False
    with contextlib.suppress(BadInput), lock(folder):  # else somebody is at it
        remove_partial_files(folder)
    info(f"{folder} is finished: nothing to do (to train it further, add --epochs with a larger number)")
    return True


def _is_tested(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("test.json", "submission.csv"))


def reopen(folder: Path, wanted: dict, processes: Processes) -> tuple[Path, dict]:
    """Return the folder to be resumed and its config; `wanted` is the config that it would have if it began now.

    BadInput is raised if the run is of other images, or has diverged.
    """
    config, status = processes.broadcast(lambda: (read_config(folder), read_train_json(folder)["status"]))
    before, now = _images_of(config), _images_of(wanted)
    if any(before[name] != now[name] for name in before.keys() & now.keys()):  # little memory: rows of fewer splits
        raise BadInput(f"--resume {folder}: the images are not those that the run began with; give them with --data")
    if status == "diverged":
        raise BadInput(f"--resume {folder}: this run diverged and would do so again; start one with a lower --lr")
    if status == "finished":  # and asked for more epochs, or for the test that was left out
        config["earlier_test_evaluations"] += _is_tested(folder)
    epochs = wanted["options"]["epochs"]
    before = int(config["options"].get("epochs", epochs))  # the parser has read it, and can make a number of it
    if epochs > before:
        info(
            f"{epochs} epochs instead of {before}: the run will end as if it had begun with so many, because its "
            "schedule does not depend on their number; the test images are looked at once more"
        )
    config["options"] |= {"epochs": epochs, "test": wanted["options"]["test"]}
    _note_differences(config, wanted)
    return folder, config


def _note_differences(config: dict, now: dict) -> None:
    """Say in which ways this machine and code are not those that the run began with, and add them to `config`."""
    found = differences(config, now)
    for name, (before, here) in found.items():
        info(f"note: {name} was {before} when the run began, and is {here}")
    if found:
        info("so the last bits may differ from those of a run that was never interrupted")
    resumed = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "command": now["command"], "differences": found}
    config["resumed"] = [*config.get("resumed", []), resumed]


def _images_of(config: dict) -> dict:
    """Return what tells the images of a run from others; what an older version did not write is left out."""
    return {"split": config["split_sha256"], "classes": config["classes"]} | config.get("checks_sha256", {})
