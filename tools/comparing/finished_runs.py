"""Finding run folders and reading what is in them, in whatever state they are: what cannot be used is named."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from common.runs.folder import NO_RUNS
from common.system.errors import BadInput
from common.system.files import Unreadable, read_json
from common.system.log import progress

LARGEST_NUMBER = 1e100  # what is beyond is no result, and would overflow in pictures and statistics
TEST_NAMES = ("accuracy", "loss", "images", "low", "high")  # of the test that need a "test_" before them


class PassedOver(NamedTuple):
    """What is not compared, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)  # two runs are equal if they are the same one
class FinishedRun:
    """A run that is finished or diverged.

    `scores` has every number that runs can be compared by, by its name: those of the epoch whose weights were kept, and
    those of the test; it is empty if the run diverged.
    """

    folder: Path
    label: str
    script: str
    dataset: str  # its name, or the last part of the path of its folder or file
    classes: list[str]
    options: dict
    config: dict
    diverged: bool
    epochs: list[dict[str, float]]  # the records of train.json, with numbers only
    scores: dict[str, float]
    of_test: frozenset[str]  # the names of those scores that are of the test images

    @property
    def seed(self):
        """Whatever the run says its seed is."""
        return self.options.get("seed", self.config.get("seed"))

    @property
    def fold(self):
        """Which part of the training images validates, such as "2/5", where they take turns in that."""
        fold = self.config.get("options", {}).get("folds")
        return fold if isinstance(fold, str) else None

    @property
    def overlap(self) -> float:
        """Of a fold, validation images for each training image: so much its score has in common with the others'."""
        images = self.config.get("images")
        counts = [images.get(name) for name in ("val", "train")] if isinstance(images, dict) else [None]
        if not self.fold:
            return 0.0
        return counts[0] / counts[1] if all(is_number(count) and count > 0 for count in counts) else 1.0

    @property
    def looked_at(self) -> str:
        """How the names of the files begin that tell its mistakes: "val_", or "" where only the test images were told.

        What is learned from mistakes is learned from validation images, so that those of the test stay new.
        """
        return "val_" if (self.folder / "val_predictions.npz").exists() else ""

    @property
    def times(self) -> list[float]:
        """The seconds of training until the end of each epoch."""
        return list(accumulate(record.get("seconds", 0) for record in self.epochs))


def read_runs(locations: list[str]) -> tuple[list[FinishedRun], list[PassedOver]]:
    """Return the finished and the diverged runs among and below `locations`, and all else that looked like a run.

    Raise BadInput if a location does not exist, or there is no finished run.
    """
    roots = [root for location in locations for root in expand(location)]
    passed = [PassedOver(root, "a file, no folder") for root in roots if not root.is_dir()]
    found = {}  # real path -> first path that leads there
    for folder in (folder for root in roots for folder in candidates(root)):
        found.setdefault(folder.resolve(), folder)
    runs = []
    with progress(len(found), "reading", " runs") as bar:
        for folder, label in zip(found.values(), _labels(list(found)), strict=True):
            try:
                runs.append(_read_run(folder, label))
            except Unreadable as error:
                passed.append(PassedOver(folder, str(error)))
            bar.update()
    if not any(not run.diverged for run in runs):
        reasons = [f"{one.path}: {one.reason}" for one in passed] + [f"{run.folder}: diverged" for run in runs]
        reason = f" ({'; '.join(reasons[:3])}{'; …' if len(reasons) > 3 else ''})" if reasons else ""
        raise BadInput(f"there is no finished run in {', '.join(locations)}{reason}; train something first")
    return runs, passed


def is_number(value) -> bool:
    """Tell whether `value` is a number that something can be done with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def expand(location: str) -> list[Path]:
    """Return what a path or a pattern means: not every shell expands patterns, and quoted ones stay as they are."""
    matches = [location] if os.path.lexists(location) else sorted(glob.glob(location, recursive=True))
    if not matches:
        raise BadInput(f"{location}: there is no such folder")
    return [Path(match) for match in matches]


def candidates(root: Path) -> Iterator[Path]:
    """Yield the folders at and below `root` that have one of a run's files; each real folder is entered once."""
    entered = set()
    for name, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(name)
        if real in entered:  # a link to a folder above, or to one that was there before
            folders.clear()
            continue
        entered.add(real)
        if {"config.json", "train.json"} & set(files):
            folders.clear()
            yield Path(name)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))


def _labels(paths: list[Path]) -> list[str]:
    """Return names that tell different paths apart, and whose runs they are: those of their folders, and their own."""
    names = _names_of_folders({path.parent for path in paths})
    return ["/".join([*names[path.parent], path.name]) for path in paths]


def _names_of_folders(folders: set[Path]) -> dict[Path, tuple[str, ...]]:
    """Return of each folder what tells it from the others: none of a single one, of several as few parts as it takes.

    The first of them that not all have in common are taken. Of people's hand-ins these are their names.
    """
    common = set.intersection(*(set(folder.parts) for folder in folders)) if folders else set()
    own = {folder: [part for part in folder.parts if part not in common] for folder in folders}
    for count in range(max(map(len, own.values()), default=0) + 1):
        names = {folder: tuple(parts[:count]) for folder, parts in own.items()}
        if len(set(names.values())) == len(folders):
            return names
    return {folder: folder.parts[1:] for folder in folders}  # they have the same parts in another order


def _read_run(folder: Path, label: str) -> FinishedRun:
    """Return the run in a folder, or raise `Unreadable` if it is none that can be compared."""
    if not (folder / "train.json").exists() and any((folder / name).exists() for name in NO_RUNS):
        raise Unreadable("no training, but a look at the data or the speed")
    config, train = read_json(folder / "config.json"), read_json(folder / "train.json")
    kinds = {"script": str, "dataset": str, "classes": list, "options": dict}
    if not all(isinstance(config.get(name), kind) for name, kind in kinds.items()):
        raise Unreadable("foreign: its config.json is none of these experiments'")
    if config["options"].get("null_test"):
        raise Unreadable("a null test, whose labels were shuffled")
    epochs = train.get("epochs")
    if not isinstance(epochs, list) or not all(isinstance(record, dict) for record in epochs):
        raise Unreadable("damaged: train.json has no records of epochs")
    status = train.get("status")
    if status in ("running", "interrupted"):
        what = "running, or killed" if status == "running" else "interrupted"
        raise Unreadable(f"{what}, after {len(epochs)} epoch(s)")
    if status not in ("finished", "diverged"):
        raise Unreadable("damaged: train.json does not say how the run ended")
    records = [record for record in map(_numbers, epochs) if "epoch" in record]
    diverged = status == "diverged"
    from_training = {} if diverged else _training_scores(config, train, records)
    from_test = {} if diverged else _test_scores(folder / "test.json")
    dataset, data = config["dataset"], config["options"].get("data")
    if dataset in ("folder", "hdf5") and isinstance(data, str):
        dataset = data.replace("\\", "/").rstrip("/").rpartition("/")[2] or dataset
    return FinishedRun(
        folder, label, config["script"], dataset, classes=[str(name) for name in config["classes"]],
        options=_as_they_acted(config), config=config, diverged=diverged, epochs=records,
        scores=from_test | from_training,
        of_test=frozenset(from_test.keys() - from_training.keys()),
    )  # fmt: skip


def _as_they_acted(config: dict) -> dict:
    """Return the options of a run, with the number format that "auto" became.

    Of a fold they are those of the whole cross-validation: its runs belong together.
    """
    options, machine = dict(config["options"]), config.get("machine")
    if isinstance(folds := options.get("folds"), str):
        options["folds"] = folds.rpartition("/")[2]
    if isinstance(machine, dict) and isinstance(machine.get("precision"), str):
        options["precision"] = machine["precision"]
    return options


def _training_scores(config: dict, train: dict, records: list[dict]) -> dict[str, float]:
    """Return the numbers of the epoch whose weights were kept, and those of the whole training, by name."""
    kept = next((record for record in records if record["epoch"] == train.get("best_epoch")), {})
    scores = {"parameters": config.get("parameters"), "flops": config.get("flops")}
    scores |= {"best_epoch": train.get("best_epoch"), "train_time": train.get("train_time")}
    scores |= {"val_accuracy": train.get("best_val_accuracy")} | kept  # a run of no epochs has no record
    scores.pop("epoch", None)  # which is best_epoch
    return _numbers(scores)


def _test_scores(path: Path) -> dict[str, float]:
    """Return the numbers in a test.json by name, none if there is no such file."""
    test = read_json(path) if path.exists() else {}
    if isinstance(test.get("accuracy_without_copies"), dict):
        test["accuracy_without_copies"] = test["accuracy_without_copies"].get("accuracy")
    if isinstance(test.get("accuracy_interval_95"), list):
        test |= zip(("low", "high"), test["accuracy_interval_95"], strict=False)
    return {f"test_{name}" if name in TEST_NAMES else name: value for name, value in _numbers(test).items()}


def _numbers(values: dict) -> dict[str, float]:
    """Return the values that are numbers."""
    return {name: value for name, value in values.items() if is_number(value)}
