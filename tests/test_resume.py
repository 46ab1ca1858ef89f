"""A run that is interrupted anywhere and resumed ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, command, environment, interrupt, read, same_result, small_run, without_pictures

import ex_1
from common.runs.folder import lock, write_config
from common.runs.saving import RunFolder
from common.system.checkpoints import load_checkpoint, save_checkpoint
from common.system.errors import BadInput, Diverged, Terminated
from common.transforms.random_streams import Draws

# With these every part of the saved state matters: dropout draws random numbers, Adam and the cosine have memories.
OPTIONS = ["-e", "4", "-d", "0.3", "--schedule", "cosine", "--limit", "100", "-b", "50"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("uninterrupted"), *OPTIONS)


@pytest.fixture
def interrupted(tmp_path):
    """A run of OPTIONS that got a Ctrl-C in its third epoch."""
    return interrupt(lambda: small_run(tmp_path, *OPTIONS), tmp_path, before_epoch=3)


def resume(folder, *options):
    return without_pictures(["--resume", str(folder), *options])


def test_ctrl_c_leaves_a_run_that_says_how_to_go_on(interrupted):
    train = read(interrupted, "train.json")
    assert (train["status"], len(train["epochs"])) == ("interrupted", 2)
    assert f"ex_1.py --resume {interrupted}" in (interrupted / "log.txt").read_text()


def test_a_resumed_run_ends_as_an_uninterrupted_one(interrupted, uninterrupted):
    resume(interrupted)
    assert same_result(interrupted, uninterrupted)


@pytest.mark.slow
def test_a_run_interrupted_in_its_first_epoch_starts_over(tmp_path, uninterrupted):
    folder = interrupt(lambda: small_run(tmp_path, *OPTIONS), tmp_path, before_epoch=1)
    resume(folder)
    assert same_result(folder, uninterrupted)


@pytest.mark.slow
def test_a_run_killed_before_its_last_file_is_tested_once(interrupted, uninterrupted, monkeypatch):
    def killed(run, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("common.runs.run.Run.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            resume(interrupted)
    resume(interrupted)
    assert same_result(interrupted, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["model", "optimizer", "schedule", "history"])
def test_without_one_part_of_the_state_the_end_differs(interrupted, uninterrupted, part):
    state = load_checkpoint(interrupted / "last.pth")
    options = ex_1.parse_options(["--dataset", "digits", *OPTIONS])
    fresh_model = ex_1.build_model(options, 10)
    fresh_optimizer = torch.optim.Adam(fresh_model.parameters(), lr=options.lr)
    fresh = {
        "model": fresh_model.state_dict(),
        "optimizer": fresh_optimizer.state_dict() | {"param_groups": state["optimizer"]["param_groups"]},
        "schedule": state["schedule"] | {"last_epoch": 0, "_step_count": 1},
        "history": state["history"][:1],
    }
    save_checkpoint(interrupted / "last.pth", state | {part: fresh[part]})
    resume(interrupted)
    assert not same_result(interrupted, uninterrupted)


@pytest.mark.slow
def test_without_the_draws_of_the_epoch_the_end_differs(interrupted, uninterrupted, monkeypatch):
    monkeypatch.setattr("common.training.loop.Draws", lambda seed, epoch, *rest: Draws(seed, 1, *rest))
    resume(interrupted)
    assert not same_result(interrupted, uninterrupted)


@pytest.mark.slow
def test_the_loss_scale_is_part_of_the_state(tmp_path, half_precision):
    folder = interrupt(lambda: small_run(tmp_path, "--precision", "fp16", "--limit", "20"), tmp_path, before_epoch=2)
    state = load_checkpoint(folder / "last.pth")
    assert state["scaler"]["scale"] >= 1024
    save_checkpoint(folder / "last.pth", state | {"scaler": state["scaler"] | {"scale": 8.0}})
    resume(folder)
    assert load_checkpoint(folder / "last.pth")["scaler"]["scale"] == 8.0


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["last.pth"], ["last.pth", "previous.pth"], ["best.pth"]])
def test_damaged_states_are_named_and_the_one_before_is_used(interrupted, uninterrupted, capsys, names):
    for name in names:
        damage(interrupted / name)
    resume(interrupted)
    errors = capsys.readouterr().err
    assert all(f"{interrupted / name} is damaged" in errors for name in names)
    assert same_result(interrupted, uninterrupted)


@pytest.mark.slow
def test_a_truncated_or_deleted_state_falls_back(interrupted, uninterrupted):
    (interrupted / "last.pth").write_bytes((interrupted / "last.pth").read_bytes()[:1000])
    (interrupted / "previous.pth").unlink()
    resume(interrupted)
    assert same_result(interrupted, uninterrupted)


def test_resuming_a_finished_run_changes_nothing(finished_run, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in finished_run.iterdir()}
    assert resume(finished_run) == finished_run
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in finished_run.iterdir()} == before


@pytest.mark.slow
def test_more_epochs_end_as_a_longer_run(tmp_path):
    longer = small_run(tmp_path / "longer", "-e", "3")
    extended = small_run(tmp_path / "extended")
    resume(extended, "-e", "3")
    assert read(extended, "test.json")["test_evaluations"] == 2
    test = read(extended, "test.json") | {"test_evaluations": 1}
    (extended / "test.json").write_text(json.dumps(test))
    assert same_result(extended, longer)


@pytest.mark.parametrize("options", [["-lr", "0.5"], ["-e", "1"], ["--schedule", "step"], ["--dataset", "cifar10"]])
def test_contradicting_options_are_refused_by_name(finished_run, options):
    with pytest.raises(BadInput, match=f"--{ {'-lr': 'lr', '-e': 'epochs'}.get(options[0], options[0][2:]) }"):
        resume(finished_run, *options)


def test_more_epochs_are_refused_where_the_schedule_is_planned_for_so_many(uninterrupted):
    with pytest.raises(BadInput, match="cosine"):
        resume(uninterrupted, "-e", "9")


def test_other_images_are_refused(interrupted):
    config = read(interrupted, "config.json")
    write_config(interrupted, config | {"split_sha256": "0"})
    with pytest.raises(BadInput, match="not those that the run began with"):
        resume(interrupted)


@pytest.mark.slow
def test_a_diverged_run_is_not_resumed(tmp_path):
    with pytest.raises(Diverged, match="epoch 1, step 2"):
        small_run(tmp_path, "-lr", "1e10", "-bn", "False")
    [folder] = (tmp_path / "ex_1" / "digits").iterdir()
    assert read(folder, "train.json")["status"] == "diverged"
    with pytest.raises(BadInput, match="diverged"):
        resume(folder)


@pytest.mark.slow
def test_a_second_process_on_the_same_run_is_refused(interrupted, uninterrupted):
    with lock(interrupted):
        before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
        done = command(ROOT / "ex_1.py", "--resume", interrupted)
        assert done.returncode == 2
        assert "in use by another process" in done.stderr
        assert {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()} == before
    resume(interrupted)
    assert same_result(interrupted, uninterrupted)


def start(*words, **settings):
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_in_the_middle_of_an_epoch_save_the_state(tmp_path, sent, code):
    words = ["--dataset", "digits", "-e", "50", "--output_dir", tmp_path]
    # A shell lets what it starts in the background ignore Ctrl-C, and the tests may be running there.
    process = start(ROOT / "ex_1.py", *words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while not list(tmp_path.glob("*/*/*/last.pth")):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    [folder] = tmp_path.glob("*/*/*")
    assert f"--resume {folder}" in out
    assert read(folder, "train.json")["status"] == "interrupted"
    assert not list(folder.glob(".*"))


@pytest.fixture(scope="module")
def six_epochs(tmp_path_factory):
    """An uninterrupted run of six epochs in a process of its own, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("six")
    started = time.monotonic()
    done = command(ROOT / "ex_1.py", "--dataset", "digits", "-e", "6", "--output_dir", folder)
    assert done.returncode == 0, done.stderr
    [run] = folder.glob("*/*/*")
    return run, time.monotonic() - started


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_killed_three_times_and_resumed_it_ends_the_same(tmp_path, six_epochs, seed):
    whole, seconds = six_epochs
    moments = random.Random(seed)
    words = ["--dataset", "digits", "-e", "6", "--output_dir", tmp_path]
    for _ in range(3):
        process = start(ROOT / "ex_1.py", *words)
        while not list(tmp_path.glob("*/*/*")) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.6 * seconds))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        [folder] = tmp_path.glob("*/*/*")
        if (folder / "train.json").exists():
            read(folder, "train.json")  # valid at every moment
        words = ["--resume", folder]
    done = command(ROOT / "ex_1.py", *words)
    assert done.returncode == 0, done.stderr
    assert same_result(folder, whole)
    assert not list(folder.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="a signal there cannot be sent to oneself")
def test_a_second_signal_while_a_run_ends_hides_nothing(tmp_path, monkeypatch, capsys):
    set_status = RunFolder._set_status

    def slow_set_status(run, status):
        os.kill(os.getpid(), signal.SIGTERM)
        set_status(run, status)

    def terminate(number, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    monkeypatch.setattr(RunFolder, "_set_status", slow_set_status)
    try:
        folder = interrupt(lambda: small_run(tmp_path), tmp_path, before_epoch=2)
        assert signal.getsignal(signal.SIGTERM) is terminate
    finally:
        signal.signal(signal.SIGTERM, before)
    assert read(folder, "train.json")["status"] == "interrupted"
    assert "1 epoch(s) are saved; to go on: " in capsys.readouterr().out


@pytest.mark.long
def test_four_starts_in_the_same_second_make_four_complete_folders(tmp_path):
    words = [ROOT / "ex_1.py", "--dataset", "digits", "-e", "0", "--output_dir", tmp_path]
    processes = [start(*words, env=environment(OMP_NUM_THREADS="1")) for _ in range(4)]
    for process in processes:
        _, err = process.communicate()
        assert (process.returncode, err) == (0, "")
    folders = list(tmp_path.glob("*/*/*"))
    assert len(folders) == 4
    for folder in folders:
        assert read(folder, "train.json")["status"] == "finished"
        assert read(folder, "test.json")["images"] == 359


@pytest.mark.slow
def test_a_full_disk_ends_with_code_4_and_keeps_what_was_whole(tmp_path):
    resource = pytest.importorskip("resource")

    def limit_files_to_300_kb():  # the states of a run are larger, all else is smaller: as if the disk were full
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    process = start(
        ROOT / "ex_1.py", "--dataset", "digits", "-e", "2", "--output_dir", tmp_path, preexec_fn=limit_files_to_300_kb
    )
    _, err = process.communicate()
    assert process.returncode == 4
    assert err.startswith("error: ") and "last.pth" in err and "free some space" in err
    [folder] = tmp_path.glob("*/*/*")
    assert read(folder, "train.json")["status"] == "interrupted"
    assert not list(folder.glob(".*"))
    resume(folder)
    assert read(folder, "train.json")["status"] == "finished"


@pytest.mark.slow
def test_the_test_can_be_left_out_and_made_up_for(tmp_path, finished_run, capsys):
    folder = small_run(tmp_path, "--test", "False")
    assert read(folder, "train.json")["status"] == "finished"
    seen_of_test = {"test.json", "predictions.npz", "predictions.csv", "predictions.png", "confusion_matrix.png"}
    assert not seen_of_test & {path.name for path in folder.iterdir()}
    assert f"--resume {folder} --test True" in capsys.readouterr().out
    without_pictures(["--resume", str(folder)])
    assert "nothing to do" in capsys.readouterr().out
    without_pictures(["--resume", str(folder), "--test", "True"])
    assert same_result(folder, finished_run)
    assert read(folder, "test.json")["test_evaluations"] == 1


@pytest.mark.slow
def test_a_test_of_other_weights_is_set_aside_and_the_new_ones_can_be_tested(tmp_path, capsys):
    run = small_run(tmp_path)
    before = read(run, "test.json")
    resume(run, "-e", "3", "--test", "False")
    assert "what the test before has left is in" in capsys.readouterr().out
    assert read(run / "earlier_test", "test.json") == before
    assert not (run / "test.json").exists() and not (run / "predictions.npz").exists()
    assert "The test images were not scored." in (run / "report.html").read_text()
    resume(run, "--test", "True")
    assert read(run, "test.json")["test_evaluations"] == 2


def test_a_run_that_is_stopped_while_its_page_is_written_is_finished(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("common.runs.saving.write_report", stopped)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path, "-e", "1")
    [path] = tmp_path.glob("*/*/*/train.json")
    assert json.loads(path.read_text())["status"] == "finished" and (path.parent / "test.json").exists()


def test_a_script_that_is_edited_while_it_runs_does_not_matter(tmp_path, monkeypatch):
    def edited(*_):
        path.write_text("def broken(")
        return honest(*_)

    path, honest = tmp_path / "ex_1.py", ex_1.evaluate_best
    path.write_text((ROOT / "ex_1.py").read_text())
    monkeypatch.setattr(ex_1, "__file__", str(path))
    monkeypatch.setattr(ex_1, "evaluate_best", edited)
    run = small_run(tmp_path / "out", "-e", "1")
    assert read(run, "train.json")["status"] == "finished" and (run / "report.html").exists()
