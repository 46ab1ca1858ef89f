"""What people and machines do to a run that is not in the manual, each once found to go wrong."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, SMALL, environment, read, small_run, without_pictures, write_class

import ex_1
from common import figures
from common.runs.folder import make_folder
from common.system.checkpoints import load_checkpoint
from common.system.errors import BadInput, Diverged, explain
from common.training import fit as training


def run_folder(root, *options):
    return without_pictures(["--data", str(root), "-e", "1", "-b", "4", "--output_dir", f"{root}-outputs", *options])


def test_weights_without_a_finite_validation_loss_are_never_the_best(tmp_path, monkeypatch):
    def overflowing(*arguments):
        return torch.full((2, 10), math.inf), torch.tensor([0, 1])

    monkeypatch.setattr(training, "evaluate", overflowing)
    with pytest.raises(Diverged, match="after the last step of epoch 1, at learning rate 0.001"):
        small_run(tmp_path)
    [folder] = tmp_path.glob("*/*/*")
    assert read(folder, "train.json") == {
        "status": "diverged", "best_val_accuracy": None, "best_epoch": None, "train_time": 0, "epochs": [],
    }  # fmt: skip
    assert not (folder / "best.pth").exists()
    assert "no weights so far are kept" in (folder / "log.txt").read_text()


def test_records_never_count_an_epoch_that_is_not_saved(tmp_path, monkeypatch):
    def full_disk(path, *arguments, **settings):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("common.runs.saving.save_checkpoint", full_disk)
    with pytest.raises(OSError) as raised:
        small_run(tmp_path)
    assert explain(raised.value)[0] == 4
    [folder] = tmp_path.glob("*/*/*")
    assert read(folder, "train.json")["epochs"] == []
    assert "0 epoch(s) are saved" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_names_that_no_terminal_can_show(tmp_path):
    for label, name in enumerate([b"caf\xe9", "日本 🦊 $\\frac{$".encode(), b"<script>", b"n" * 200]):
        write_class(Path(os.fsdecode(bytes(tmp_path / "data") + b"/" + name)), 6, 10 * label)
    folder = ex_1.main(["--data", str(tmp_path / "data"), "-e", "1", "-b", "4", "--output_dir", str(tmp_path / "out")])
    assert len(read(folder, "config.json")["classes"]) == 4
    assert read(folder, "train.json")["status"] == "finished"


def test_names_in_pictures_are_short_and_no_mathematics():
    assert figures.plain("a\nb  $x") == r"a\nb  \$x"
    assert len(figures.plain("n" * 200)) == figures.LONGEST_NAME


def test_other_folders_and_loose_files_are_told_of(tmp_path, capsys):
    for part in ("Train", "valid", "Test"):
        write_class(tmp_path / "data" / part / "a", 6)
        write_class(tmp_path / "data" / part / "b", 6, 100)
    write_class(tmp_path / "data" / "raw" / "a", 6)
    (tmp_path / "data" / "Train" / "loose.png").write_bytes(b"")
    folder = run_folder(tmp_path / "data")
    assert read(folder, "config.json")["images"] == {"train": 12, "val": 12, "test": 12}
    said = capsys.readouterr().out
    assert "not used: raw" in said
    assert "such as loose.png" in said
    assert "12 test image(s) are in the training images too" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "closed", ["| head -0", *(pytest.param(to, marks=pytest.mark.slow) for to in (">&-", "> /dev/full"))]
)
def test_a_reader_that_has_gone_does_not_end_the_run(tmp_path, closed):
    words = [sys.executable, str(ROOT / "ex_1.py"), *SMALL, "-e", "0", "--output_dir", str(tmp_path)]
    command = " ".join(f"'{word}'" for word in words)
    done = subprocess.run(["bash", "-o", "pipefail", "-c", f"{command} {closed}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    [folder] = tmp_path.glob("*/*/*")
    assert read(folder, "train.json")["status"] == "finished"
    assert "finished" in (folder / "log.txt").read_text()


def test_a_python_without_pytorch_is_one_line():
    without_packages = [sys.executable, "-S", str(ROOT / "ex_1.py"), "--help"]
    done = subprocess.run(without_packages, capture_output=True, text=True, env=environment())
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and "has no PyTorch" in line and "README.md" in line


@pytest.mark.slow
def test_help_on_a_terminal_without_unicode():
    ascii_only = environment(PYTHONIOENCODING="ascii")
    command = [sys.executable, str(ROOT / "ex_1.py"), "--help"]
    assert subprocess.run(command, capture_output=True, env=ascii_only).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_signal_when_all_is_done_shows_no_traceback(name):
    code = (
        "import atexit, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.modules['__main__'].__file__ = 'ex_1.py'  # as in a script\n"
        "import common.system.start\n"
        f"atexit.register(os.kill, os.getpid(), signal.{name})\n"
        "common.system.start.run_script(lambda: None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-getattr(signal, name), "")


@pytest.mark.slow
def test_damaged_records_are_made_anew(tmp_path):
    folder = small_run(tmp_path, "--save_every", "1")
    whole = read(folder, "train.json")
    (folder / "epoch-final.pth").write_bytes(b"no checkpoint")
    for garbage in ("{}", "[]", "no JSON"):
        (folder / "train.json").write_text(garbage)
        without_pictures(["--resume", str(folder)])
        again = read(folder, "train.json")
        assert again == whole


@pytest.mark.slow
def test_a_state_that_is_another_checkpoint_falls_back(tmp_path, capsys):
    folder = small_run(tmp_path)
    (folder / "last.pth").write_bytes((folder / "best.pth").read_bytes())
    (folder / "test.json").unlink()  # so that there is something left to do
    without_pictures(["--resume", str(folder)])
    assert "another kind of checkpoint" in capsys.readouterr().err
    assert len(load_checkpoint(folder / "last.pth")["history"]) == 2


@pytest.mark.parametrize("garbage", ["[]", "{}", "no JSON", '{"script": "ex_1"}'])
def test_a_damaged_config_is_bad_input(finished_run, tmp_path, garbage):
    (tmp_path / "config.json").write_text(garbage)
    with pytest.raises(BadInput, match="no run that can be used"):
        ex_1.main(["--resume", str(tmp_path)])


def test_renamed_classes_are_other_images(tmp_path, monkeypatch):
    write_class(tmp_path / "data" / "cat", 12)
    write_class(tmp_path / "data" / "dog", 12, 100)
    folder = run_folder(tmp_path / "data")
    (tmp_path / "data" / "cat").rename(tmp_path / "data" / "bat")
    with pytest.raises(BadInput, match="not those that the run began with"):
        without_pictures(["--resume", str(folder), "-e", "2"])


@pytest.mark.slow
def test_moved_images_are_found_with_data_and_the_current_folder_does_not_matter(tmp_path, monkeypatch):
    write_class(tmp_path / "data" / "cat", 12)
    write_class(tmp_path / "data" / "dog", 12, 100)
    monkeypatch.chdir(tmp_path)
    folder = without_pictures(["--data", "data", "-e", "1", "-b", "4", "--output_dir", "out"]).absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    without_pictures(["--resume", str(folder), "-e", "2"])
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(BadInput, match="no such folder"):
        without_pictures(["--resume", str(folder), "-e", "3"])
    without_pictures(["--resume", str(folder), "-e", "3", "--data", "../moved"])
    assert read(folder, "test.json")["test_evaluations"] == 3


def test_all_data_sets_are_there_before_the_first_is_trained_on(tmp_path):
    with pytest.raises(BadInput, match="--dataset folder needs --data"):
        small_run(tmp_path, "--dataset", "digits,folder")
    assert list(tmp_path.iterdir()) == []


def test_options_without_effect_are_told_of(capsys):
    ex_1.parse_options(["--gamma", "0.5", "--momentum", "0.5"])
    said = capsys.readouterr().out
    assert "--gamma does nothing with --schedule none" in said
    assert "--momentum does nothing with --optimizer adam" in said
    ex_1.parse_options(["--gamma", "0.5", "--schedule", "step", "--momentum", "0.5", "--optimizer", "sgd"])
    assert capsys.readouterr().out == ""


def test_weights_for_other_classes_are_told_of(finished_run, tmp_path, capsys):
    for label, name in enumerate("abcdefghij"):
        write_class(tmp_path / "data" / name, 5, 10 * label)
    run_folder(tmp_path / "data", "--weights", str(finished_run / "best.pth"))
    assert "was trained for other classes: 0, 1, 2" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_leaves_no_litter(tmp_path, monkeypatch):
    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.runs.folder.write_json", full_disk)
    with pytest.raises(OSError):
        make_folder(tmp_path / "runs", {})
    assert list((tmp_path / "runs").iterdir()) == []


def test_twenty_folders_of_one_second(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda pattern: "2026-11-21_10-00-00")
    folders = {make_folder(tmp_path, {"number": number}) for number in range(20)}
    assert len(folders) == 20
    assert {json.loads((folder / "config.json").read_text())["number"] for folder in folders} == set(range(20))
