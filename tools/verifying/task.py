"""What was asked for: a task file, and whether what a person hands in does it.

    script: ex_1                # the experiment
    dataset: digits             # its name, or split_sha256: of exactly these images and this split
    options: {epochs: 10, batch_norm: true}
    seeds: [0, 1, 2]            # a run with each
    min_runs: 3                 # the smallest n
    min_test_images: 300

Every line may be left out. What is given to verify.py as one folder is what one person hands in.
"""

from collections import defaultdict

from common.options.types import nearest
from common.system.errors import BadInput
from common.system.files import read_yaml
from common.system.text import printable
from tools.verifying.folder import Folder

KINDS = {"script": str, "dataset": str, "split_sha256": str, "options": dict, "seeds": list, "min_runs": int,
         "min_test_images": int}  # fmt: skip


def read_task(path: str) -> dict:
    """Return the content of a task file, or raise BadInput."""
    task = read_yaml(path, f"--task {path}") or {}
    if not isinstance(task, dict):
        raise BadInput(f"--task {path} must hold lines such as `script: ex_1`")
    for name, value in task.items():
        if name not in KINDS:
            raise BadInput(f"--task {path}: there is nothing called {name!r}{nearest(name, list(KINDS))}")
        if type(value) is not KINDS[name]:
            raise BadInput(f"--task {path}: {name} cannot be {printable(repr(value), 60)}")
    return task


def check_task(task: dict, folders: list[Folder]) -> None:
    """Add to the findings of folders where they are not what was asked for; each group is one person's."""
    for folder in folders:
        _check_run(task, folder)
    groups = defaultdict(list)
    for folder in folders:
        groups[folder.group].append(folder)
    for group in groups.values():
        found = sorted(str(folder.known("config.json", "seed")) for folder in group if folder.is_as_claimed)
        missing = [str(seed) for seed in task.get("seeds", []) if str(seed) not in found]
        group[0].claim(not missing, f"the task wants seeds {', '.join(missing)} too; those that hold are {found}")
        wanted = task.get("min_runs", 0)
        group[0].claim(len(found) >= wanted, f"the task wants {wanted} runs that hold; there are {len(found)}")


def _check_run(task: dict, folder: Folder) -> None:
    for name in ("script", "dataset", "split_sha256"):
        if name in task:
            said, wanted = folder.known("config.json", name), task[name].removesuffix(".py")
            folder.claim(said == wanted, f"the task wants {name} {wanted}, not {printable(said, 80)}")
    options = folder.known("config.json", "options") or {}
    for name, wanted in task.get("options", {}).items():
        said = options.get(name)
        folder.claim(_same(said, wanted), f"the task wants --{name} {wanted}, not {printable(said, 80)}")
    if "min_test_images" in task:
        count, wanted = folder.known("test.json", "images") or 0, task["min_test_images"]
        folder.claim(count >= wanted, f"the task wants {wanted} test images, not {count}")


def _same(said: object, wanted: object) -> bool:
    """Tell whether an option has the value that a task file gives; 1 is 1.0, a list is its members."""
    if isinstance(wanted, list) or isinstance(said, list):
        one, two = (value if isinstance(value, list) else [value] for value in (said, wanted))
        return len(one) == len(two) and all(map(_same, one, two))
    return said == wanted and isinstance(said, bool) == isinstance(wanted, bool)
