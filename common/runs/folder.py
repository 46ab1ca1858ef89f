"""Making a run folder that is nobody else's, locking it, and reading what is in it."""

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from pathlib import Path

from common.system import files
from common.system.distributed import started_by_torchrun
from common.system.errors import DISK_FULL, BadInput
from common.system.files import Unreadable, first_free, json_text, read_json, remove_partial_files, write_json

MAKING = ".making"
ASKED, PAUSE = 10, 0.1  # how often it is asked whether somebody is at a run, and the seconds between
NO_RUNS = ("throughput.json", "explore.json")  # what a script leaves that did something else than train


def make_folder(parent: Path, config: dict) -> Path:
    """Make a folder of its own for this second, which appears at once with config.json in it.

    `config` gets a "run_id", by which the files of the run know one another. What killed processes have left in
    `parent` and in its runs is removed.
    """
    stamp, config["run_id"] = time.strftime("%Y-%m-%d_%H-%M-%S"), secrets.token_hex(8)
    making = parent / f".{stamp}.{secrets.token_hex(4)}{MAKING}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with files.lock(parent / ".lock", str(parent), wait=True):
            _remove_litter(parent)
            making.mkdir()
            write_config(making, config)
            return first_free(parent, stamp, lambda folder: _rename_folder(making, folder))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise BadInput(f"--output_dir: nothing can be written to {parent} ({error.strerror})") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _remove_litter(parent: Path) -> None:
    """Remove what killed processes have left: nobody else makes a folder in `parent` now."""
    for making in parent.glob(f".*{MAKING}"):
        shutil.rmtree(making, ignore_errors=True)
    for left in parent.glob("*/.lock"):
        with contextlib.suppress(BadInput), lock(left.parent):  # else the run goes on
            remove_partial_files(left.parent)


def _rename_folder(source: Path, target: Path) -> None:
    """Rename a folder; unlike `os.rename` say "file exists" in one way on all systems."""
    try:
        files.patiently(lambda: os.rename(source, target))
    except OSError as error:
        if target.exists():
            raise FileExistsError(error.errno, error.strerror, str(target)) from error
        raise


def lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Keep other processes out of `folder`, see `files.lock`."""
    return files.lock(folder / ".lock", str(folder))


def write_config(folder: Path, config: dict) -> None:
    """Write the config.json of a run, with a checksum by which `read_config` notices that it was edited."""
    write_json(folder / "config.json", config | {"config_sha256": _digest(config)})


def _digest(config: dict) -> str:
    """Return the SHA-256 of all entries but its own, in whatever order they are."""
    entries = {name: value for name, value in config.items() if name != "config_sha256"}
    return hashlib.sha256(json_text(entries, sort_keys=True).encode("utf-8", errors="backslashreplace")).hexdigest()


def read_config(folder: Path) -> dict:
    """Return the config.json of a run; one that is missing or damaged raises BadInput."""
    config = read_run_json(folder / "config.json")
    if any((folder / name).exists() for name in NO_RUNS) and not (folder / "train.json").exists():
        raise BadInput(f"{folder} is no training: there is nothing to resume; start it anew")
    if not {"script", "dataset", "classes", "options", "split_sha256", "earlier_test_evaluations"} <= config.keys():
        raise BadInput(f"{folder} is no run that can be used: its config.json is missing or damaged")
    if config.get("config_sha256", _digest(config)) != _digest(config):  # runs of earlier versions have none
        raise BadInput(
            f"{folder}/config.json was changed since the run wrote it, so what it says may not be what was done; "
            "put it back, or start a new run (what may change on --resume is typed there, such as -e 20)"
        )
    return config


def unfinished_runs(parent: Path, *patterns: str) -> list[Path]:
    """Return the runs in `parent` that can go on and are not under way, newest first; `patterns` find their folders."""
    found = []
    for path in (path for pattern in patterns for path in parent.glob(f"{pattern}/config.json")):
        with contextlib.suppress(BadInput):  # no run, or in use
            read_config(path.parent)
            if read_train_json(path.parent)["status"] in ("running", "interrupted"):
                if _is_free(path.parent):
                    found.append(path.parent)
    return sorted(found, key=lambda folder: (folder / "config.json").stat().st_mtime, reverse=True)


def _is_free(folder: Path) -> bool:
    """Tell whether nobody is at a run; the processes of torchrun all ask at once, each for a moment."""
    for again in reversed(range(ASKED if started_by_torchrun() else 1)):
        with contextlib.suppress(BadInput), lock(folder):
            return True
        time.sleep(PAUSE if again else 0)
    return False


def why_no_run(folder: Path) -> str:
    """Return in words what is there instead of a run, and which runs below it can be resumed."""
    if folder.is_file():
        return f"it is a file; give its folder, {folder.parent}"
    why = "no config.json" if folder.exists() else "it does not exist"
    if runs := ", ".join(map(str, unfinished_runs(folder, "*", "*/*", "*/*/*")[:3])):
        why += f"); unfinished below it: {runs} (--resume auto takes the newest with the options of the command"
    return f"there is no run in that folder ({why})"


def read_train_json(folder: Path) -> dict:
    """Return the train.json of a run, or an empty one if it is missing or damaged: `last.pth` knows all of it too."""
    empty = {"status": "running", "epochs": []}
    train_json = read_run_json(folder / "train.json")
    return train_json if empty.keys() <= train_json.keys() else empty


def read_run_json(path: Path) -> dict:
    """Return the object in a JSON file, an empty one if there is none."""
    try:
        return read_json(path)
    except Unreadable:
        return {}
