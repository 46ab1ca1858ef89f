"""What a run folder claims, checked against what else lies in it; nothing is executed, and no image is needed."""

import ast
import csv
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from common.evaluation.looks import LEDGER
from common.evaluation.metrics import score
from common.evaluation.testing import confusion_rows, prediction_rows
from common.options.parser import MAY_DIFFER_ON_RESUME
from common.runs import code
from common.runs.history import best_record
from common.runs.images import NAME as IMAGES
from common.runs.images import UsedImages
from common.runs.resuming import STATE_KEYS, load_best
from common.runs.state import weights_sha256
from common.system.checkpoints import load_checkpoint
from common.system.errors import DISK_FULL, BadInput, is_out_of_memory
from common.system.files import Unreadable, table_text
from tools.comparing.predictions import Predictions, each_image, read_predictions, tell_loss
from tools.verifying.folder import FALSE, LOOK, NOT_HERE, UNKNOWN, Folder, Refuted, Unknown, as_json
from tools.verifying.report import check_report

SCORE_TOLERANCE = 1e-6  # of a score that is computed again, relatively: other machines round otherwise
LOSS_TOLERANCE = 1e-3  # probabilities are stored as float32, so that those near 0 and 1 have lost digits
FLIPPED = 2  # validation images that may be told otherwise at the end: a resumed run may be on another kind of CPU
LARGEST_CODE = 50 * 2**20  # bytes, unpacked
CURVES = ("loss.png", "accuracy.png")
PICTURES = (*CURVES, "val_confusion_matrix.png", "val_predictions.png")
NOT_COMPARED = ("notes", "calibration_error_by_chance")
NAMES_IN_LEDGER = ("run", "recipe", "images")
OF_VIEWS = "test.json: the accuracy of several views follows from no file; --predict computes it"
ABOVE = 7  # folders above a run in which the account of looks may lie


def check(folder: Folder) -> None:
    """Check all that a folder claims by itself, and add to its findings: of a run that goes on, little."""
    for one in (check_config, check_code, check_images):
        guarded(folder, one)
    if not folder.is_finished:
        folder.note("the run has not come to its end: its weights and scores were not checked", UNKNOWN)
        return
    for one in (check_history, check_last, check_best, check_looks, check_pictures, check_report):
        guarded(folder, one)
    guarded(folder, check_scores, "val_")
    if folder.is_tested:
        guarded(folder, check_scores, "")


def guarded(folder: Folder, one: Callable, *arguments: object) -> None:
    """Let a check, `one(folder, *arguments)`, add to the findings whatever ends it: a folder may hold anything."""
    try:
        one(folder, *arguments)
    except Unknown as reason:
        folder.findings.append((UNKNOWN, str(reason)))
    except (Refuted, Unreadable, BadInput) as reason:
        text = str(reason).replace(f"{folder.path}/", "")
        if (FALSE, text) not in folder.findings:  # several checks read the same file
            folder.claim(False, text)
    except Exception as error:
        what = f"{one.__name__.removeprefix('check_')}: {type(error).__name__}: {error}"
        if is_out_of_memory(error) or getattr(error, "errno", None) in DISK_FULL:  # here, which is no fault of the run
            folder.findings.append((UNKNOWN, f"{NOT_HERE} {what}"))
        else:  # types and numbers
            folder.claim(False, f"what no run writes: {what}")


def check_config(folder: Folder) -> None:
    """config.json is as the run wrote it."""
    config = folder.config
    folder.claim(True, "")  # its seal and its kinds
    if "config_sha256" not in config:
        raise Unknown("config.json has no checksum: it is of an earlier version")
    folder.digests["run_id"] = str(config.get("run_id", ""))
    for one in config.get("resumed", []):
        folder.note(f"resumed {one.get('time')}; then differed: {', '.join(one.get('differences', {})) or 'nothing'}")


def check_history(folder: Folder) -> None:
    """train.json has all epochs in their order, and what it says of them follows from them."""
    train, history, epochs = folder.json("train.json"), folder.history, folder.options["epochs"]
    folder.claim(train.get("status") == "finished", f"train.json: the run is {train.get('status')}, not finished")
    numbers = [record["epoch"] for record in history]
    folder.claim(numbers == list(range(1, len(history) + 1)), f"train.json: its epochs are {numbers[:20]}")
    is_stopped = folder.options.get("patience") and len(history) <= epochs
    folder.claim(len(history) == epochs or is_stopped, f"train.json: {len(history)} epochs, and --epochs {epochs}")
    best = best_record(history)
    if best is not None:
        said, found = (train["best_epoch"], train["best_val_accuracy"]), (best["epoch"], best["val_accuracy"])
        folder.claim(said == found, f"train.json: the best epoch is {found}, not {said}")
    total = sum(record["seconds"] for record in history)
    folder.claim(math.isclose(train["train_time"], total, rel_tol=1e-6, abs_tol=1e-6), "train.json: its train_time")
    count = folder.config["images"]["val"]
    for record in history:
        accuracy = record["val_accuracy"]
        is_share = 0 <= accuracy <= 1 and abs(accuracy * count - round(accuracy * count)) < 1e-3
        folder.claim(is_share, f"train.json: val_accuracy {accuracy} of epoch {record['epoch']} is no share of {count}")


def check_last(folder: Folder) -> None:
    """last.pth is of this run, and has the history that train.json tells."""
    if not (folder.path / "last.pth").exists():
        raise Unknown("there is no last.pth, by which train.json can be checked")
    state = load_checkpoint(folder.path / "last.pth", STATE_KEYS)
    folder.claim(state.get("run_id") == folder.config.get("run_id"), "last.pth belongs to another run")
    differing = [
        f"{name} of epoch {said.get('epoch')}: {said.get(name)}, in last.pth {record.get(name)}"
        for said, record in zip(folder.history, as_json(state["history"]), strict=False)
        for name in said.keys() | record.keys()
        if said.get(name) != record.get(name)
    ]
    folder.claim(not differing, f"train.json was changed: {'; '.join(differing[:3])}")
    count = len(state["history"])
    folder.claim(count == len(folder.history), f"last.pth is of epoch {count}, train.json has {len(folder.history)}")
    if state["history"] and "average" not in state and "weights_sha256" in state["history"][-1]:
        is_own = weights_sha256(state["model"]) == state["history"][-1]["weights_sha256"]
        folder.claim(is_own, "last.pth does not hold the weights that the last epoch ended with")


def check_best(folder: Folder) -> None:
    """best.pth is of the best epoch of this run, with the options that config.json tells."""
    record = best_record(folder.history)
    if record is None:
        raise Unknown("no epoch was trained: the weights are those that were given")
    if not (folder.path / "best.pth").exists():
        raise Refuted("best.pth is missing")
    weights = load_best(folder.path, folder.config.get("run_id"), record)
    folder.claim(True, "")
    if "weights_sha256" not in record:
        folder.findings.append((UNKNOWN, "train.json does not tell the weights of an epoch: an earlier version"))
    folder.digests["weights"] = weights_sha256(weights)
    kept = load_checkpoint(folder.path / "best.pth")["config"]
    for name in ("script", "dataset", "classes", "split_sha256", "seed", "images", "code_sha256"):
        said, then = folder.config.get(name), as_json(kept.get(name))
        folder.claim(said == then, f"config.json: {name} is {_short(said)}, in best.pth {_short(then)}")
    options = as_json(kept["options"])
    for name in sorted((options.keys() | folder.options.keys()) - {*MAY_DIFFER_ON_RESUME, "epochs"}):
        said, then = folder.options.get(name), options.get(name)
        folder.claim(said == then, f"config.json: --{name} is {_short(said)}, in best.pth {_short(then)}")


def check_code(folder: Folder) -> None:
    """The code beside the run is the one that config.json names."""
    inside = folder.path / code.FOLDER
    if not (inside / code.PROJECT).exists():
        raise Unknown("the code that made the run is not beside it")
    files = stored_code(folder)
    same = code.code_sha256(files) == folder.config["code_sha256"]
    folder.claim(same, "code/project.zip is not the code that config.json names")
    script = f"{folder.config['script']}.py"
    shown = (inside / script).read_bytes() if (inside / script).is_file() else None
    folder.claim(shown == files.get(script), f"code/{script} is not the script in code/project.zip")
    if folder.has_other_code:
        commit = folder.config.get("git_commit") or "unknown"
        folder.note(f"made with other code than this tree's, commit {commit}: report.html was not compared")


def stored_code(folder: Folder) -> dict[str, bytes]:
    """Return the files in code/project.zip by their paths."""
    with zipfile.ZipFile(folder.path / code.FOLDER / code.PROJECT) as file:
        if sum(entry.file_size for entry in file.infolist()) > LARGEST_CODE:
            raise Refuted("code/project.zip: it would unpack to more than 50 MB")
        return {name: file.read(name) for name in file.namelist()}


def check_images(folder: Folder) -> None:
    """The images are as many as config.json says, and no image is in two parts."""
    if not (folder.path / IMAGES).exists():
        raise Unknown("the images are not told one by one (there is no images.npz)")
    used = UsedImages(folder.path)
    if not used.splits:
        raise Refuted(f"{IMAGES} is damaged")
    if not all(isinstance(known, set) for known in used.splits.values()):
        raise Unknown("the images of an HDF5 file are not told one by one")
    counts = {name: len(known) for name, known in used.splits.items()}
    said = folder.config["images"]
    for name, count in counts.items():  # images with the same pixels are one there
        folder.claim(0 < count <= said[name], f"config.json: {said[name]} {name} images; {IMAGES} knows {count}")
    both = len(used.splits["train"] & used.splits["val"])
    if both:  # a data set with validation images of its own may have copies
        folder.note(f"{both} validation images have a copy among the training images, or were trained on", LOOK)
    shared = len(used.splits["test"] & (used.splits["train"] | used.splits["val"]))
    if shared:
        folder.note(f"{shared} test images have a copy among the training or validation images")


def check_looks(folder: Folder) -> None:
    """The test images were not looked at more often than test.json says."""
    if not (folder.path / "test.json").exists():
        return
    ledger = ledger_of(folder)
    if ledger is None:
        raise Unknown(f"looks at the test images: their account, {LEDGER}, is not above the run")
    lines = lines_of(ledger)
    own = [line for line in lines if line.get("run") == folder.config.get("run_id")]
    tests = sum(line.get("what") != "predictions" for line in own)
    said = folder.json("test.json").get("test_evaluations", 0)
    folder.claim(tests <= said, f"test.json: {said} look(s) at the test images; the account has {tests}")
    images = {line.get("images") for line in own}
    same = [line for line in lines if line.get("images") in images]
    recipes = len({line.get("recipe") for line in same})
    if len(same) > 1:
        folder.note(f"these test images were looked at {len(same)} times, by {recipes} recipe(s)")


def ledger_of(folder: Folder) -> Path | None:
    """Return the account of looks at test images above a run, None if there is none."""
    above = [parent / LEDGER for parent in folder.path.resolve().parents[:ABOVE]]
    return next((path for path in above if path.is_file()), None)


def lines_of(ledger: Path) -> list[dict]:
    """Return the lines of an account of looks that can be read."""
    return list(filter(None, map(_line, ledger.read_bytes().splitlines())))


def check_pictures(folder: Folder) -> None:
    """The pictures that every run has are there, but for the curves of one that has trained no epoch."""
    for name in PICTURES:
        is_wanted = folder.history or name not in CURVES
        folder.claim(not is_wanted or (folder.path / name).is_file(), f"{name} is missing")


def check_scores(folder: Folder, prefix: str) -> None:
    """Every score, and every row of a table, follows from the stored predictions."""
    name, npz = "validation.json" if prefix else "test.json", f"{prefix}predictions.npz"
    if not prefix and not folder.is_labeled:
        folder.claim(not (folder.path / name).exists(), f"{name} beside submission.csv: no run writes both")
        raise Unknown("the test images have no labels: there is no score")
    said, classes = folder.json(name), folder.config["classes"]
    try:
        stored = read_predictions(folder.path / npz, len(classes))
    except ValueError as error:
        raise Refuted(str(error)) from error
    if stored is None:
        raise Refuted(f"{npz} {'has no labels' if (folder.path / npz).exists() else 'is missing'}")
    count = folder.config["images"]["val" if prefix else "test"]
    folder.claim(len(stored.labels) == count, f"{npz} is of {len(stored.labels)} images; config.json: {count}")
    labels, probabilities = stored.labels.astype(np.int64), stored.probabilities
    found = folder.computed[name] = score(probabilities, labels, classes)
    if tell_loss(stored):
        found["loss"] = float(each_image("loss", stored).mean())
    else:
        folder.note(f"{npz} has a true class of probability 0, so the loss in {name} cannot be checked")
    compared = found if not folder.has_other_code else {key: found[key] for key in found if key != "top5_accuracy"}
    differing = list(_differing(said, compared))  # ties among five were counted otherwise before
    folder.claim(not differing, f"{name} does not follow from {npz}: {'; '.join(differing[:4])}")
    tables = {
        f"{prefix}predictions.csv": prediction_rows(labels, probabilities, stored.ids.astype(str).tolist(), classes),
        f"{prefix}confusion.csv": confusion_rows(labels, probabilities, classes),
    }
    for table, rows in tables.items():
        if (folder.path / table).exists():
            folder.claim(_same_table(folder.path / table, rows), f"{table} does not follow from {npz}")
    if folder.history:  # else the weights are those that were given, and many may have tested them
        folder.digests[npz] = _digest(stored)
    if prefix:
        _check_epoch(folder, said)
    elif "tta" in said:
        views, asked = said["tta"]["views"], folder.options.get("tta")
        folder.claim(views == asked, f"test.json: {_short(views)} views; --tta is {_short(asked)}")
        folder.note(OF_VIEWS, UNKNOWN)


def _check_epoch(folder: Folder, said: dict) -> None:
    """The validation images of the weights that are tested score what their epoch scored."""
    if not folder.history:
        return
    last = _tests_last_weights(folder)
    record = folder.history[-1] if last else best_record(folder.history)
    flipped = abs(said["accuracy"] - record["val_accuracy"]) * said["images"]
    text = (
        f"validation.json: accuracy {said['accuracy']}; train.json, epoch {record['epoch']}: {record['val_accuracy']}"
    )
    folder.claim(flipped < FLIPPED + 0.5, text)
    epochs = 1 if last or len(folder.history) < 2 else len(folder.history)
    folder.claim(said.get("best_of_epochs", epochs) == epochs, f"validation.json: the best of {epochs} epochs")


def _tests_last_weights(folder: Folder) -> bool:
    """Tell whether the script of a run calls `evaluate_last`: this tree's, or the stored one if that is other code."""
    name = f"{folder.config['script']}.py"
    if folder.has_other_code and (folder.path / code.FOLDER / code.PROJECT).exists():
        text = stored_code(folder).get(name, b"")
    else:
        text = (code.ROOT / name).read_bytes() if (code.ROOT / name).is_file() else b""
    calls = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return any("evaluate_last" in (getattr(one, "id", ""), getattr(one, "attr", "")) for one in calls)


def _differing(said: object, found: dict, path: str = "") -> Iterable[str]:
    """Yield in words where `said` is not what was `found`; words, and what is drawn at random, are left alone."""
    for name, value in found.items():
        other = said.get(name) if isinstance(said, dict) else None
        where = f"{path}{name}"
        if name in NOT_COMPARED or (other is None and name not in ("accuracy", "images")):  # of an earlier version
            continue
        if isinstance(value, dict):
            yield from _differing(other, value, f"{where}.")
        elif not _is_close(other, value, LOSS_TOLERANCE if name == "loss" else SCORE_TOLERANCE):
            yield f"{where} {_short(other)}, computed {_short(value)}"


def _is_close(said: object, found: object, tolerance: float) -> bool:
    if isinstance(found, list):
        is_list = isinstance(said, list) and len(said) == len(found)
        return is_list and all(_is_close(one, two, tolerance) for one, two in zip(said, found, strict=True))
    if found is None or isinstance(found, str):
        return said == found
    is_number = isinstance(said, int | float) and not isinstance(said, bool)
    return is_number and abs(said - found) <= tolerance * (1 + abs(found))


def _same_table(path: Path, rows: list) -> bool:
    """Tell whether a CSV file holds these rows; the last digit of a number may differ.

    Excel, once it has saved one, leaves a mark at the beginning, and in some countries `;` between the columns.
    """
    text = path.read_bytes().decode("utf-8-sig")
    wanted = list(csv.reader(io.StringIO(table_text(rows), newline="")))
    tables = (list(csv.reader(io.StringIO(text, newline=""), delimiter=between)) for between in ",;")
    return any(len(found) == len(wanted) and all(map(_same_row, found, wanted)) for found in tables)


def _same_row(found: list[str], wanted: list[str]) -> bool:
    if len(found) != len(wanted):
        return False
    return all(one == two or _is_near(one, two) for one, two in zip(found, wanted, strict=True))


def _is_near(one: str, two: str) -> bool:
    try:
        return abs(float(one.replace(",", ".")) - float(two)) < 2e-6  # a comma for the point goes with `;`
    except ValueError:
        return False


def _digest(stored: Predictions) -> str:
    return hashlib.sha256(stored.labels.tobytes() + stored.probabilities.tobytes()).hexdigest()


def _line(text: bytes) -> dict:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    is_line = isinstance(line, dict) and all(isinstance(line.get(name), str | None) for name in NAMES_IN_LEDGER)
    return line if is_line else {}


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
