"""What surrounds a run: files of other runs, other code and machines, signals, starts at the same moment, litter."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ROOT, command, environment, interrupt, read, same_result, small_run, table, without_pictures

import ex_1
import ex_3
from common.runs.folder import lock, make_folder, read_config, write_config
from common.runs.run import Run
from common.runs.saving import RunFolder
from common.system import files, memory
from common.system.checkpoints import load_checkpoint
from common.system.errors import BadInput
from common.system.files import write_table
from common.system.log import info, warn
from common.training import fit as training

OPTIONS = ["-e", "3", "--limit", "100", "-b", "50", "-lr", "0.003"]


def resume(folder, *options):
    return without_pictures(["--resume", str(folder), *options])


def untested(folder, *options):
    """Return a run of OPTIONS that was interrupted before its test."""

    def killed(*arguments):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ex_1.evaluate_best", killed)
        with pytest.raises(KeyboardInterrupt):
            small_run(folder, *OPTIONS, *options)
    [run] = folder.glob("*/*/*")
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("whole"), *OPTIONS, "--save_every", "1")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return untested(tmp_path_factory.mktemp("untested"), "--save_every", "1")


@pytest.fixture
def run(original, tmp_path):
    """A copy of a run that has all its epochs, and no test yet."""
    return Path(shutil.copytree(original, tmp_path / original.name))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("other"), *OPTIONS, "-s", "1")


@pytest.fixture
def trained(monkeypatch):
    """The epochs that are trained from now on."""
    epochs, honest = [], training.train_one_epoch

    def train_one_epoch(state, batches, epoch, *arguments):
        epochs.append(epoch)
        return honest(state, batches, epoch, *arguments)

    monkeypatch.setattr(training, "train_one_epoch", train_one_epoch)
    return epochs


# Files that belong together


def best_epoch(folder):
    return read(folder, "train.json")["best_epoch"]


@pytest.mark.parametrize("fault", ["missing", "damaged", "of another run", "of an older epoch"])
def test_the_best_weights_are_taken_from_the_state_that_has_them(run, whole, other, trained, capsys, fault):
    best = run / "best.pth"
    if fault == "missing":
        best.unlink()
    elif fault == "damaged":
        best.write_bytes(best.read_bytes()[:-1])
    elif fault == "of another run":
        shutil.copy(other / "best.pth", best)
    else:
        older = next(epoch for epoch in (1, 2, 3) if epoch != best_epoch(run))
        state = load_checkpoint(run / f"epoch-{older}.pth")
        content = load_checkpoint(best) | {"model": state["model"], "epoch": older}
        files.write_bytes(best, b"")
        from common.system.checkpoints import save_checkpoint

        save_checkpoint(best, content)
    resume(run)
    shown = capsys.readouterr()
    assert trained == []
    assert f"warning: {best}" in shown.err
    assert "best.pth is written anew" in shown.out
    assert same_result(run, whole)


def test_weights_that_only_claim_to_be_of_the_best_epoch_are_not_believed(run, whole, trained, capsys):
    from common.system.checkpoints import save_checkpoint

    content, state = load_checkpoint(run / "best.pth"), load_checkpoint(run / "epoch-1.pth")
    assert content["epoch"] > 1
    save_checkpoint(run / "best.pth", content | {"model": state["model"]})
    resume(run)
    assert "does not hold the weights that epoch" in capsys.readouterr().err
    assert trained == []
    assert same_result(run, whole)


@pytest.mark.slow
def test_the_running_average_is_recovered_too(tmp_path, trained):
    wanted = small_run(tmp_path / "whole", *OPTIONS, "--ema", "0.5")
    folder = untested(tmp_path / "part", "--ema", "0.5")
    assert best_epoch(folder) == 3  # so that last.pth has it
    (folder / "best.pth").unlink()
    trained.clear()
    resume(folder)
    assert trained == []
    assert same_result(folder, wanted)


def test_best_weights_that_are_nowhere_are_trained_again(run, whole, trained, capsys):
    for path in (run / "best.pth", run / f"epoch-{best_epoch(run)}.pth", run / "last.pth", run / "previous.pth"):
        path.unlink()
    resume(run)
    assert trained
    assert same_result(run, whole)


@pytest.mark.parametrize("name", ["last.pth", "previous.pth"])
def test_a_state_of_another_run_is_named_and_not_used(run, whole, other, capsys, name):
    shutil.copy(other / "last.pth", run / name)
    if name == "previous.pth":
        (run / "last.pth").unlink()
    resume(run)
    assert f"{name} belongs to another run" in capsys.readouterr().err
    assert same_result(run, whole)


def test_weights_that_are_exchanged_during_the_run_are_not_tested(run, other, monkeypatch):
    honest = RunFolder.best_weights

    def exchanged(folder):
        shutil.copy(other / "best.pth", run / "best.pth")
        return honest(folder)

    monkeypatch.setattr(RunFolder, "best_weights", exchanged)
    with pytest.raises(BadInput, match="belongs to another run"):
        resume(run)
    assert not (run / "test.json").exists()


def test_every_file_says_which_run_it_is_of(run):
    name = read(run, "config.json")["run_id"]
    assert len(name) == 16
    states = [load_checkpoint(path)["run_id"] for path in run.glob("*.pth") if path.name != "best.pth"]
    assert states == [name] * 5  # last, previous, and one an epoch
    assert load_checkpoint(run / "best.pth")["config"]["run_id"] == name


# What a resume says


@pytest.mark.parametrize(("name", "value"), [("lr", 0.2), ("batch_size", 49), ("mixup", 0.1), ("seed", 7)])
def test_an_edited_option_is_refused(run, name, value):
    config = read(run, "config.json")
    config["options"][name] = value
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="config.json was changed since the run wrote it"):
        resume(run)


def test_the_checksum_does_not_depend_on_spaces_and_order(run):
    config = read(run, "config.json")
    (run / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    assert read_config(run) == config


def test_what_differs_is_said_and_written_down(run, capsys):
    config = read(run, "config.json")
    config["code_sha256"] = "0" * 64
    config["versions"]["torch"] = "2.0.0"
    config["machine"] |= {"cpu": "Another, AVX512", "processes": 4, "precision": "fp16", "threads": 64}
    write_config(run, config)
    resume(run)
    said = capsys.readouterr().out
    for name in ("code_sha256", "torch", "cpu", "processes", "precision", "threads"):
        assert f"note: {name} was " in said
    assert "the last bits may differ" in said
    [entry] = read(run, "config.json")["resumed"]
    assert entry["differences"]["threads"][0] == 64
    assert set(entry) == {"time", "command", "differences"}


def test_where_nothing_differs_nothing_is_said(run, capsys):
    resume(run)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert all("running averages" in note for note in notes)  # three short epochs leave them unready
    assert read(run, "config.json")["resumed"][0]["differences"] == {}


@pytest.mark.slow
def test_every_image_of_a_file_must_be_what_it_was(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)

    def write(changed):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            for name, part in (("train", changed), ("val", images[:60]), ("test", images[60:120])):
                file[f"images-{name}"], file[f"labels-{name}"] = part, np.arange(len(part)) % 2

    write(images)
    words = ["--data", str(tmp_path / "a.hdf5"), "-e", "1", "--output_dir", str(tmp_path / "out")]
    folder = without_pictures(words)
    one_zeroed = images.copy()
    one_zeroed[1] = 0  # none of the hundred that tell two files apart
    write(one_zeroed)
    with pytest.raises(BadInput, match="the images are not those that the run began with"):
        resume(folder, "-e", "2")
    write(images)
    resume(folder, "-e", "2")


@pytest.mark.slow
@pytest.mark.parametrize("began", ["in the file", "in memory"])
@pytest.mark.parametrize("goes_on", ["in the file", "in memory"])
def test_images_that_do_not_fit_into_memory_are_compared_when_they_are_read(tmp_path, monkeypatch, began, goes_on):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), np.uint8)

    def write(changed):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            for name, part in (("train", changed), ("val", images[:150]), ("test", images[60:120])):
                file[f"images-{name}"], file[f"labels-{name}"] = part, np.arange(len(part)) % 2

    def hold(where):
        free = {"in the file": 0, "in memory": 2**40}[where]
        monkeypatch.setattr(memory, "available_memory", lambda: free)

    write(images)
    hold(began)
    folder = without_pictures(["--data", str(tmp_path / "a.hdf5"), "-e", "1", "--output_dir", str(tmp_path / "out")])
    changed = images.copy()
    changed[1] = 255 - changed[1]
    write(changed)
    hold(goes_on)
    both = began == goes_on == "in memory"  # then they are compared before anything is opened
    with pytest.raises(BadInput, match="not those that the run began" if both else "image 1 is not what it was"):
        resume(folder, "-e", "2")
    write(images)
    resume(folder, "-e", "2")
    assert read(folder, "train.json")["status"] == "finished"


# Saving within an epoch


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def killed_after(saves, argv):
    """Run `argv` until so many states were saved within epochs; return the run folder."""
    honest, left = RunFolder.save_step, [saves]

    def save_step(self, *arguments):
        honest(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save_step", save_step)
        patch.setattr(Run, "_end_badly", lambda self, error: self.write_json("train.json", self._train_json))
        with pytest.raises(Killed):
            without_pictures(argv)


WITHIN = [
    pytest.param(["-d", "0.5", "--schedule", "cosine", "--clip_grad", "1"], marks=pytest.mark.slow),
    pytest.param(["--ema", "0.9", "--mixup", "0.4", "--cutmix", "1", "--accumulate", "2"], marks=pytest.mark.slow),
    pytest.param(["--watch", "3", "--schedule", "onecycle", "--optimizer", "sgd"], marks=pytest.mark.slow),
    pytest.param(["--precision", "fp16", "--batch_schedule", "2:30"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", WITHIN)
def test_a_run_killed_within_an_epoch_goes_on_from_that_step(tmp_path, capsys, request, options):
    if "fp16" in options:
        request.getfixturevalue("half_precision")
    every_step = ["--save_minutes", "1e-9", "-b", "20", *options]
    wanted = small_run(tmp_path / "whole", *OPTIONS, *every_step)
    words = ["--dataset", "digits", *OPTIONS, *every_step, "--output_dir", str(tmp_path / "part")]
    killed_after(3, words)
    [folder] = (tmp_path / "part").glob("*/*/*")
    for saves in (1, 1):
        killed_after(saves, ["--resume", str(folder)])
    capsys.readouterr()
    resume(folder)
    assert ", step " in capsys.readouterr().out
    assert same_result(folder, wanted)
    [inside] = [read(one, "inside.json") if (one / "inside.json").exists() else None for one in (folder,)]
    assert inside == (read(wanted, "inside.json") if inside else None)


@pytest.mark.slow
def test_saving_within_epochs_changes_nothing(tmp_path, whole):
    folder = small_run(tmp_path, *OPTIONS, "--save_minutes", "1e-9")
    assert same_result(folder, whole)


# The same command again


@pytest.mark.slow
def test_resume_auto_goes_on_with_the_newest_unfinished_run_of_the_same_options(tmp_path, capsys):
    words = ["--dataset", "digits", *OPTIONS, "--output_dir", str(tmp_path), "--resume", "auto"]
    first = interrupt(lambda: without_pictures(words), tmp_path, before_epoch=2)
    assert "there is no unfinished run of these options" in capsys.readouterr().out
    others = interrupt(lambda: without_pictures([*words, "-s", "1"]), tmp_path, before_epoch=2)
    assert without_pictures(words) == first
    assert "going on after epoch 1" in capsys.readouterr().out
    assert read(others, "train.json")["status"] == "interrupted"
    assert without_pictures(words) not in (first, others)  # both runs of these options are finished


def test_resume_auto_leaves_alone_what_is_under_way_or_broken(tmp_path):
    words = ["--dataset", "digits", *OPTIONS, "--output_dir", str(tmp_path), "--resume", "auto"]
    first = interrupt(lambda: without_pictures(words), tmp_path, before_epoch=2)
    broken = Path(shutil.copytree(first, first.with_name("broken")))
    (broken / "config.json").write_text("[")
    with lock(first):
        assert ex_1.parse_options(words).resume is None
    assert ex_1.parse_options(words).resume == first


def test_resume_auto_knows_options_that_follow_from_others(tmp_path):
    words = ["--dataset", "digits", "-e", "2", "--limit", "30", "-b", "15", "--output_dir", str(tmp_path)]
    folder = interrupt(lambda: without_pictures(words, ex_3), tmp_path, before_epoch=2)
    assert ex_3.parse_options([*words, "--resume", "auto"]).resume == folder
    assert ex_3.parse_options([*words, "--resume", "auto", "-a", "Sigmoid"]).resume == folder  # LeNet's anyway
    assert ex_3.parse_options([*words, "--resume", "auto", "-a", "ReLU"]).resume is None


@pytest.mark.slow
def test_resume_auto_finds_a_run_of_a_machine_with_more_cores(tmp_path):
    words = ["--dataset", "digits", *OPTIONS, "--output_dir", str(tmp_path), "--resume", "auto"]
    folder = interrupt(lambda: without_pictures([*words, "--workers", "7"]), tmp_path, before_epoch=2)
    assert ex_1.parse_options([*words, "--workers", "3"]).resume == folder


def test_resume_auto_is_for_one_data_set():
    with pytest.raises(BadInput, match="one data set"):
        ex_1.parse_options(["--resume", "auto"])


# Starts at the same moment, and what killed processes leave


MANY_STARTS = """
import os, sys
from pathlib import Path
from common.runs.folder import make_folder
os.getpid = lambda: 7
for _ in range(20):
    if os.fork() == 0:
        try:
            make_folder(Path(sys.argv[1]), {})
        finally:
            os._exit(0)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""


@pytest.mark.slow
def test_twenty_starts_with_one_process_number_make_twenty_folders(tmp_path):
    done = command("-c", MANY_STARTS, tmp_path / "runs", cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert len({read(folder, "config.json")["run_id"] for folder in (tmp_path / "runs").iterdir()}) == 20
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.slow
def test_four_containers_on_one_disk_start_at_the_same_moment(tmp_path):
    isolated = ["unshare", "-pf", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces for process numbers here")
    words = [sys.executable, ROOT / "ex_1.py", "--dataset", "digits", "-e", "0", "--output_dir", tmp_path]
    starts = [
        subprocess.Popen([*isolated, *map(str, words)], stderr=subprocess.PIPE, env=environment(OMP_NUM_THREADS="1"))
        for _ in range(4)
    ]
    assert [(start.communicate()[1], start.returncode) for start in starts] == [(b"", 0)] * 4
    assert len(list(tmp_path.glob("*/*/2*"))) == 4


def test_what_killed_processes_left_is_removed_by_the_next_start(tmp_path):
    parent = tmp_path / "runs"
    killed = make_folder(parent, {})
    alive = make_folder(parent, {})
    (killed / ".lock").touch()
    (parent / ".2026-01-01_00-00-00.0123abcd.making").mkdir()
    for folder in (killed, alive):
        (folder / ".last.pth.0123abcd.partial").touch()
    with lock(alive):
        make_folder(parent, {})
        assert (alive / ".last.pth.0123abcd.partial").exists()
    assert not list(parent.glob(".*"))
    assert sorted(path.name for path in killed.iterdir()) == ["config.json"]


# Names


def test_no_line_steers_the_terminal(capsys, caplog):
    info("a \x1b[2J\x07 b\nerror: c")
    warn("\x9b31m d\u202e e")
    shown = capsys.readouterr()
    assert shown.out == "a \\x1b[2J\\x07 b\\nerror: c\n"
    assert shown.err == "\\x9b31m d\\u202e e\n"


def test_no_table_holds_a_formula(tmp_path):
    names = ["=cmd()", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "a=1"]
    write_table(tmp_path / "a.csv", [("id", "number"), *((name, -1.5) for name in names)])
    rows = table(tmp_path / "a.csv")
    assert [row["id"] for row in rows] == [f"'{name}" for name in names[:-1]] + ["a=1"]
    assert {row["number"] for row in rows} == {"-1.5"}


# Signals and streams


def started(*words, **settings):
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_a_closed_terminal_and_a_warned_job_save_the_state(tmp_path, name):
    process = started(ROOT / "ex_1.py", "--dataset", "digits", "-e", "50", "--output_dir", tmp_path)
    while not list(tmp_path.glob("*/*/*/last.pth")):
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, f"terminated ({name})\n")
    [folder] = tmp_path.glob("*/*/*")
    assert f"--resume {folder}" in out
    assert read(folder, "train.json")["status"] == "interrupted"


@pytest.mark.slow
def test_nohup_keeps_its_promise(tmp_path):
    ignored = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    words = ["--dataset", "digits", "-e", "1", "--output_dir", tmp_path]
    process = started(ROOT / "ex_1.py", *words, preexec_fn=ignored)
    while not list(tmp_path.glob("*/*/*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    assert process.communicate()[1] == ""
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.long] * (n > 3)) for n in range(8)])
def test_ctrl_c_while_modules_are_imported_shows_no_traceback(tmp_path, seed):
    listens = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = started(ROOT / "ex_1.py", "--dataset", "digits", "--output_dir", tmp_path, preexec_fn=listens)
    time.sleep(random.Random(seed).uniform(0.15, 2.0))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", "0<&- >&- 2>&-"])
def test_streams_that_are_closed_do_not_end_the_run(tmp_path, closed):
    words = [sys.executable, ROOT / "ex_1.py", "--dataset", "digits", "--limit", "300", "-e", "1"]
    line = " ".join(f"'{word}'" for word in [*words, "--output_dir", tmp_path])
    assert subprocess.run(["bash", "-c", f"{line} {closed}"], capture_output=True).returncode == 0
    [folder] = tmp_path.glob("*/*/*")
    assert read(folder, "train.json")["status"] == "finished"


# Kills at every point where something is written


KILLED_AT_A_POINT = """
import json, os, sys
import scipy.stats, sklearn.datasets, sklearn.metrics, torchsummary  # once, and not in each process below
from helpers import no_drawing
import common.runs.plots, ex_1

def run(argv, point):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.stdout = sys.stderr = open(os.devnull, "w")
    count = 0

    def reach():
        nonlocal count
        count += 1
        if count == point:
            os._exit(9)

    def counting(rename):
        def call(*names):
            reach()
            rename(*names)
            reach()
        return call

    os.replace, os.rename = counting(os.replace), counting(os.rename)
    try:
        with no_drawing():
            ex_1.main(argv)
    except BaseException:
        os._exit(1)
    os._exit(0)

for line in sys.stdin:
    argv, point = json.loads(line)
    print(run(argv, point), flush=True)
"""  # before a rename a temporary file is there, after it the new one


@pytest.mark.slow
@pytest.mark.parametrize("within", [False, pytest.param(True, marks=pytest.mark.long)])
def test_killed_at_any_point_of_writing_it_ends_the_same(tmp_path, within):
    options = ["--dataset", "digits", "-e", "2", "--limit", "60", "-b", "30", "-d", "0.2"]
    options += ["--save_every", "1"] + ["--save_minutes", "1e-9"] * within
    paths = environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}", OMP_NUM_THREADS="1")
    with started("-c", KILLED_AT_A_POINT, stdin=subprocess.PIPE, env=paths, cwd=tmp_path) as server:

        def ask(argv, point=0):
            server.stdin.write(json.dumps([argv, point]) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        assert ask([*options, "--output_dir", str(tmp_path / "whole")]) == 0
        [wanted] = (tmp_path / "whole").glob("*/*/*")
        point, ended = 0, 9
        while ended == 9:
            point += 1
            out = tmp_path / f"{point}"
            ended = ask([*options, "--output_dir", str(out)], point)
            folders = list(out.glob("*/*/2*"))
            again = ["--resume", str(folders[0])] if folders else [*options, "--output_dir", str(out)]
            assert ended == 0 or ask(again) == 0, point
            [folder] = out.glob("*/*/2*")
            assert same_result(folder, wanted), point
            assert not list(folder.glob(".*")), point
            shutil.rmtree(out)
    assert (ended, point > 30) == (0, True)
