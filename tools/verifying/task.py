"""What was asked for: a task file, and whether runs are that.

    script: ex_1                # the experiment
    dataset: digits             # its name, or split_sha256: of exactly these images and this split
    options: {epochs: 10, batch_norm: true}
    code: this tree             # made with exactly the code that verifies
    seeds: [0, 1, 2]            # a run with each
    min_runs: 3                 # the smallest n: runs of different seeds
    min_test_images: 300

Every line may be left out. A run of something else is not asked for, which is no fault of it. What persons have handed
in altogether is people.py's.
"""

import argparse
import importlib

from common.data.load import DATASETS
from common.options.types import nearest, one_of
from common.runs import code
from common.system.errors import BadInput
from common.system.files import read_yaml
from common.system.text import printable
from tools.verifying.folder import NOT_ASKED, Folder

KINDS = {"script": str, "dataset": str, "split_sha256": str, "options": dict, "code": str, "seeds": list,
         "min_runs": int, "min_test_images": int}  # fmt: skip


def read_task(path: str) -> dict:
    """Return the content of a task file, with names as they are spelled; BadInput: it asks for what there is not."""
    task = read_yaml(path, f"--task {path}") or {}
    if not isinstance(task, dict):
        raise BadInput(f"--task {path} must hold lines such as `script: ex_1`")
    for name, value in task.items():
        if name not in KINDS:
            raise BadInput(f"--task {path}: there is nothing called {name!r}{nearest(name, list(KINDS))}")
        are_seeds = name != "seeds" or (type(value) is list and all(type(seed) is int for seed in value))
        if type(value) is not KINDS[name] or not are_seeds:
            raise BadInput(f"--task {path}: {name} cannot be {printable(repr(value), 60)}")
    known = {
        "script": [name.removesuffix(".py") for name in code.experiments()],
        "dataset": DATASETS,
        "code": ["this tree"],
    }
    for name in known.keys() & task.keys():
        try:
            task[name] = one_of(known[name])(task[name].removesuffix(".py"))
        except argparse.ArgumentTypeError as error:
            raise BadInput(f"--task {path}: {name}: {error}") from error
    return task


def check_options(task: dict, folders: list[Folder]) -> None:
    """Raise BadInput if the task asks for an option that the experiment has not: nobody could fulfill it."""
    known = {name for folder in folders for name in folder.known("config.json", "options") or {}}
    if "script" in task:
        known = vars(importlib.import_module(task["script"]).parse_options([])).keys()
    for name in task.get("options", {}) if known else ():
        if name not in known:
            hint = nearest(name, sorted(known)) or "; it takes the long names, such as batch_norm for -bn"
            raise BadInput(f"--task: options: there is no option {name!r}{hint}")


def check_task(task: dict, folders: list[Folder]) -> None:
    """Add to the findings of runs where they are not what was asked for."""
    for folder in folders:
        if folder.known("config.json", "options") is not None:  # else it is false, whatever was asked for
            if texts := _other_than_asked(task, folder):
                folder.note(f"the task wants {', '.join(texts)}", NOT_ASKED)
            elif "code" in task:
                commit = folder.known("config.json", "git_commit") or "unknown"
                folder.claim(not folder.has_other_code, f"the task wants the code of this tree; its commit is {commit}")


def _other_than_asked(task: dict, folder: Folder) -> list[str]:
    """Return in words what a run has other than the task wants."""
    found = []
    for name in ("script", "dataset", "split_sha256"):
        said = folder.known("config.json", name)
        if task.get(name, said) != said:
            found.append(f"{name} {task[name]}, not {printable(said, 80)}")
    for name, wanted in task.get("options", {}).items():
        said = folder.options.get(name)
        if not _same(said, wanted):
            what = f"no --{name}" if wanted is None else f"--{name} {wanted}"
            found.append(what if wanted is None else f"{what}, not {printable(said, 80)}")
    count, least = folder.score("test.json", "images") or 0, task.get("min_test_images", 0)
    return found + [f"{least} test images, not {count}"] * (count < least)


def _same(said: object, wanted: object) -> bool:
    """Tell whether an option has the value that a task file gives; 1 is 1.0, a list is its members."""
    if isinstance(wanted, list) or isinstance(said, list):
        one, two = (value if isinstance(value, list) else [value] for value in (said, wanted))
        return len(one) == len(two) and all(map(_same, one, two))
    return said == wanted and isinstance(said, bool) == isinstance(wanted, bool)
