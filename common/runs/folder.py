"""Making a run folder that is nobody else's, locking it, and reading what is in it."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout

from common.system.errors import DISK_FULL, BadInput
from common.system.files import Unreadable, first_free, read_json, write_json

NO_RUNS = ("throughput.json", "explore.json")  # what a script leaves that did something else than train


def make_folder(parent: Path, config: dict) -> Path:
    """Make a folder of its own for this second, which appears at once with config.json in it."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    making = parent / f".{stamp}.{os.getpid()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        making.mkdir()
        write_json(making / "config.json", config)
        return first_free(parent, stamp, lambda folder: _rename_folder(making, folder))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise BadInput(f"--output_dir: nothing can be written to {parent} ({error.strerror})") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _rename_folder(source: Path, target: Path) -> None:
    """Rename a folder; unlike `os.rename` say "file exists" in one way on all systems."""
    try:
        os.rename(source, target)
    except OSError as error:
        if target.exists():
            raise FileExistsError(error.errno, error.strerror, str(target)) from error
        raise


def lock(folder: Path) -> contextlib.ExitStack:
    """Keep other processes out of `folder` until what is returned is closed, or the process ends, however it ends.

    Raises:
        BadInput: another process has it.
    """
    path = folder / ".lock"
    held = FileLock(path, blocking=False)
    try:
        held.acquire()
    except Timeout as error:
        raise BadInput(f"{folder} is in use by another process; wait for it to end") from error
    except OSError as error:
        raise BadInput(f"{folder} cannot be written to ({error.strerror})") from error

    def give_up() -> None:
        with contextlib.suppress(OSError):  # Windows keeps files that are open; there `release` removes it
            path.unlink()  # while it is held, so that nobody locks a file that goes away
        held.release()

    stack = contextlib.ExitStack()
    stack.callback(give_up)
    return stack


def read_config(folder: Path) -> dict:
    """Return the config.json of a run; one that is missing or damaged raises BadInput."""
    config = _read_json(folder / "config.json")
    if any((folder / name).exists() for name in NO_RUNS) and not (folder / "train.json").exists():
        raise BadInput(f"{folder} is no training: there is nothing to resume; start it anew")
    if not {"script", "dataset", "classes", "options", "split_sha256", "earlier_test_evaluations"} <= config.keys():
        raise BadInput(f"{folder} is no run that can be used: its config.json is missing or damaged")
    return config


def read_train_json(folder: Path) -> dict:
    """Return the train.json of a run, or an empty one if it is missing or damaged: `last.pth` knows all of it too."""
    empty = {"status": "running", "epochs": []}
    train_json = _read_json(folder / "train.json")
    return train_json if empty.keys() <= train_json.keys() else empty


def read_test_json(folder: Path) -> dict:
    """Return the test.json of a run, or an empty one if there is none."""
    return _read_json(folder / "test.json")


def _read_json(path: Path) -> dict:
    """Return the object in a JSON file, an empty one if there is none."""
    try:
        return read_json(path)
    except Unreadable:
        return {}
