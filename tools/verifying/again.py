"""Doing again what a run did, in a folder of its own: predictions from its weights, weights from its code and data.

The folder that is verified is only read: what is needed is copied. A copy that is tested again counts as no look at
test images, as nothing is chosen by it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.evaluation.looks import FOLDER as LOOKS_FOLDER
from common.runs import code
from common.runs.config import differences
from common.runs.folder import read_config, read_train_json, write_config
from common.system.files import read_json, write_json
from common.system.log import info
from common.system.text import printable
from tools.comparing.finished_runs import is_number
from tools.comparing.predictions import read_predictions
from tools.verifying.claims import FLIPPED, OF_VIEWS, guarded, stored_code
from tools.verifying.folder import LOOK, UNKNOWN, Folder, Refuted, Unknown
from tools.verifying.options import BESIDE_TRAINING

HARDWARE = ("precision", "device", "device_name", "cpu")  # entries of a config's machine
ROUNDED = 0.1  # of a probability: what bfloat16 and float16 may change besides
CLOSE = 1e-3  # of a probability: what another kind of CPU may change
ANOTHER_RESULT = 0.02  # of a validation accuracy: what other code changes, and last bits hardly ever do
PAUSE = 0.2  # seconds between two looks at what a run has come to
PATIENCE = 60  # seconds for a run that is asked to end


def predict_again(folder: Folder, data: str | None) -> None:
    """Let this tree's script test the stored weights on the images again, and compare with the stored predictions.

    Args:
        data: where the images are, if not where the run found them.
    """
    if not (folder.path / "last.pth").exists():
        raise Unknown("predictions are not made again: there is no last.pth")
    with tempfile.TemporaryDirectory(prefix="verify-") as place:
        copy = Path(place, folder.config["script"], "data", "run")
        copy.mkdir(parents=True)
        for name in ("config.json", "train.json", "last.pth", "best.pth"):
            shutil.copyfile(folder.path / name, copy / name)
        words = ["--resume", str(copy), "--test", str(folder.is_tested)]
        if not folder.is_tested:  # a finished run that is not to be tested has nothing to do
            write_json(copy / "train.json", folder.json("train.json") | {"status": "interrupted"})
        done = _run(code.ROOT / f"{folder.config['script']}.py", words + _data(data), place)
        if done.returncode:
            raise Unknown(f"predictions cannot be made again: {_last_line(done)}")
        for name in ("val_predictions.npz", "predictions.npz"):
            if (copy / name).exists():
                guarded(folder, _compare, name, copy / name, _reasons(copy))
        if (copy / "test.json").exists() and (folder.path / "test.json").exists():
            _compare_others(folder, folder.json("test.json"), read_json(copy / "test.json"))


def _reasons(copy: Path) -> list[str]:
    """Return what is other here than where the run was, if its network rounds so coarsely that this can be seen."""
    config = read_config(copy)
    if config["machine"]["precision"] == "fp32":
        return []
    differing = config.get("resumed", [{}])[-1].get("differences", {})
    return [name for name in differing if name in HARDWARE]


def _compare(folder: Folder, name: str, again: Path, reasons: list[str]) -> None:
    stored, new = (read_predictions(path, len(folder.config["classes"])) for path in (folder.path / name, again))
    if new is None:
        raise Unknown(f"{name}: there are no labels")
    if stored is None:
        raise Refuted(f"{name} is missing, or has no labels, and made again it has")
    same_images = np.array_equal(stored.ids, new.ids) and np.array_equal(stored.labels, new.labels)
    folder.claim(same_images, f"{name} is of other images than the data has")
    if not same_images:
        return
    largest = float(np.abs(stored.probabilities - new.probabilities).max())
    changed = int((stored.probabilities.argmax(1) != new.probabilities.argmax(1)).sum())
    told = f"{name}: made again, the largest difference of a probability is {largest:.2g}, {changed} answers differ"
    if CLOSE < largest <= ROUNDED and reasons and changed <= ANOTHER_RESULT * len(new.labels):
        why = f"{', '.join(reasons)} was another, and the network is not in float32"
        folder.note(f"{told}, as may be: {why}", LOOK)
        return
    folder.claim(largest <= CLOSE, told)
    if largest <= CLOSE:
        folder.note(told)


def _compare_others(folder: Folder, said: dict, found: dict) -> None:
    """Compare the scores of test.json that do not follow from the stored predictions."""
    for name in ("tta", "accuracy_without_copies"):
        one, two = ((scores.get(name) or {}).get("accuracy") for scores in (said, found))
        are_numbers = is_number(one) and is_number(two)
        is_same = abs(one - two) * found["images"] < FLIPPED + 0.5 if are_numbers else one is two is None
        folder.claim(is_same, f"test.json: {name} {one}, made again {two}")
        if name == "tta" and are_numbers:
            folder.findings.remove((UNKNOWN, OF_VIEWS))


def rerun(folder: Folder, epochs: int | None, this_code: bool, data: str | None) -> None:
    """Train again, and tell up to which epoch the weights are the same bit for bit, and what may be the reason.

    Args:
        epochs: so many are enough: the last ones, where a state before them was kept, else the first. None: all.
        this_code: train with the code of this tree, not with what is stored beside the run.
    """
    history = folder.history
    if not all("weights_sha256" in record for record in history) or not history:
        raise Unknown("not trained again: train.json does not tell the weights of the epochs")
    if folder.config["machine"].get("processes", 1) > 1:
        raise Unknown("not trained again: several processes trained it together")
    if folder.options.get("split_seed", 0) is None:
        raise Unknown("not trained again: an earlier version divided its images")
    epochs = min(epochs or len(history), len(history))
    with tempfile.TemporaryDirectory(prefix="verify-") as place:
        scripts = code.ROOT if this_code else _unpacked(folder, Path(place, "project"))
        start, words = _from_kept_state(folder, epochs, Path(place)) or (0, _from_the_beginning(folder, Path(place)))
        script = scripts / f"{folder.config['script']}.py"
        found, copy, said = _train(script, words + _data(data), Path(place), start + epochs, folder)
        if copy is None or len(found) <= start:
            raise Unknown(f"not trained again: {said}")
        now = read_config(copy)
        reasons = now["resumed"][-1]["differences"] if start else differences(folder.config, now)
        _judge(folder, found[start : start + epochs], history[start : start + epochs], reasons)


def _judge(folder: Folder, found: list[dict], wanted: list[dict], reasons: dict) -> None:
    first = next(
        (one for one, other in zip(wanted, found, strict=False) if one["weights_sha256"] != other["weights_sha256"]),
        None,
    )
    span = f"epochs {wanted[0]['epoch']} to {wanted[len(found) - 1]['epoch']}"
    if first is None:
        folder.claim(True, "")
        folder.note(f"trained again: bits agree, {span}")
        return
    why = ", ".join(f"{name} was {before}, is {here}" for name, (before, here) in reasons.items())
    same = first["epoch"] - wanted[0]["epoch"]
    agree = f"bits agree for {same} epoch(s), " if same else ""
    text = f"trained again: {agree}from epoch {first['epoch']} on they differ"
    if not why:
        raise Refuted(f"{text}; code, versions, machine and threads are the same")
    largest = max(abs(one["val_accuracy"] - two["val_accuracy"]) for one, two in zip(wanted, found, strict=False))
    if "code_sha256" in reasons and largest > ANOTHER_RESULT:
        text = (
            "trained again with other code than the run's, the result does NOT come out: validation accuracies differ"
        )
        folder.note(f"{text} by up to {largest:.4f}, far more than last bits do; read what was changed in code/", LOOK)
        return
    raise Unknown(f"{text}, as may be: {why}; validation accuracies differ by up to {largest:.4f}")


def _train(script: Path, words: list[str], place: Path, epochs: int, folder: Folder) -> tuple[list, Path | None, str]:
    """Run a script until it has come to so many epochs, or to its end, or to other weights that need a reason.

    Weights by other code are others from the first epoch on: there only the accuracies of all tell something.

    Returns:
        the records of its epochs, its run folder, and the last line that it has said.
    """
    output = place / "output.txt"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(script), *words], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=_environment(place, folder.config["machine"].get("threads")), cwd=place,
        )  # fmt: skip
    wanted = [record["weights_sha256"] for record in folder.history]
    is_other_code = script.parent == code.ROOT and folder.has_other_code
    try:
        while True:
            is_over = process.poll() is not None
            copy = next((path.parent for path in sorted(place.glob("outputs/*/*/*/config.json"))), None)
            records = read_train_json(copy)["epochs"] if copy else []
            digests = [record["weights_sha256"] for record in records]
            is_enough = len(records) >= epochs or (digests != wanted[: len(digests)] and not is_other_code)
            if is_over or is_enough:
                lines = [line for line in output.read_text(errors="replace").splitlines() if line.strip()]
                return records, copy, printable((lines or ["it said nothing"])[-1], 300)
            time.sleep(PAUSE)
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    if process.poll() is None:
        process.kill()
        process.wait()


def _from_the_beginning(folder: Folder, place: Path) -> list[str]:
    options = {name: value for name, value in folder.options.items() if name not in BESIDE_TRAINING}
    options["dataset"] = [folder.config["dataset"]]
    file = place / "options.yaml"  # JSON is YAML
    file.write_text(json.dumps({name: value for name, value in options.items() if value is not None}))
    test = str(bool(options.get("null_test")))  # which needs them to tell what it tells
    return ["--config", str(file), "--output_dir", str(place / "outputs"), "--test", test]


def _from_kept_state(folder: Folder, epochs: int, place: Path) -> tuple[int, list[str]] | None:
    """Copy the newest kept state that has so many epochs behind it, for a resume; None if there is none."""
    kept = {int(path.stem.removeprefix("epoch-")): path for path in folder.path.glob("epoch-[0-9]*.pth")}
    starts = [epoch for epoch in kept if epoch <= len(folder.history) - epochs]
    if not starts:
        return None
    start = max(starts)
    copy = place / "outputs" / folder.config["script"] / "data" / "run"
    copy.mkdir(parents=True)
    shutil.copyfile(kept[start], copy / "last.pth")
    shutil.copyfile(folder.path / "best.pth", copy / "best.pth")
    train = folder.json("train.json") | {"status": "interrupted", "epochs": folder.history[:start]}
    write_json(copy / "train.json", train)
    write_config(copy, {name: value for name, value in folder.config.items() if name != "config_sha256"})
    return start, ["--resume", str(copy), "--test", "False"]


def _unpacked(folder: Folder, place: Path) -> Path:
    """Write the stored code to a folder, and return that."""
    if not (folder.path / code.FOLDER / code.PROJECT).exists():
        raise Unknown("not trained again: its code is not beside it; --this_code trains with the code of this tree")
    for name, content in stored_code(folder).items():
        path = (place / name).resolve()
        if not path.is_relative_to(place.resolve()):
            raise Refuted(f"code/{code.PROJECT} has a file outside of its folder: {printable(name, 60)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return place


def _run(script: Path, words: list[str], place: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(script), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", env=_environment(Path(place)), cwd=place,
    )  # fmt: skip


def _environment(place: Path, threads: int | None = None) -> dict[str, str]:
    """Return the environment of a process: looks are counted apart; its threads are the run's, unless they are set."""
    own = {LOOKS_FOLDER: str(place)} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    return own | os.environ | {LOOKS_FOLDER: str(place)}


def _data(data: str | None) -> list[str]:
    return ["--data", str(Path(data).resolve())] if data else []


def _last_line(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return printable((lines or ["it said nothing"])[-1].removeprefix("error: "), 300)


def told(folders: list[Folder], what: str) -> Iterator[Folder]:
    """Yield the folders, saying each time which is done again now: that takes a while."""
    for number, folder in enumerate(folders, 1):
        info(f"{what} {number} of {len(folders)}: {folder.path}")
        yield folder
