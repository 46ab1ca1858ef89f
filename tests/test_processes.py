"""Several processes end where one does, and one that dies takes the others with it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers import ROOT, command, environment, part, same_result
from pretend_gpu import PretendGPU

from common.data.batches import Batches
from common.system.device import Machine, prepare_machine
from common.system.distributed import Processes, join
from common.system.errors import BadInput


def torchrun(*words, processes=2, **settings):
    quiet = environment(OMP_NUM_THREADS="1")
    return command(
        "-m", "torch.distributed.run", f"--nproc_per_node={processes}", *words, cwd=ROOT, env=quiet, **settings
    )


def curve(folder):
    [path] = folder.rglob("train.json")
    train = json.loads(path.read_text())
    assert train["status"] == "finished"
    return [
        [record[name] for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy")]
        for record in train["epochs"]
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize(("images", "batch_size"), [(50, 16), (31, 10), (27, 11), (12, 12)])
def test_shares_make_up_the_batches_of_one_process(count, images, batch_size):
    def of_rank(rank, count, training):
        machine = Machine(torch.device("cpu"), None, Processes(rank, count))
        return Batches(part(images), lambda inputs, _: inputs, batch_size, machine, seed=0, training=training)

    def batches(training):
        return [of_rank(rank, count, training) for rank in range(count)]

    alone = of_rank(0, 1, training=True)
    together = [torch.cat(shares).tolist() for shares in zip(*(one.order(3) for one in batches(True)), strict=True)]
    expected = [batch.tolist() for batch in alone.order(3)]
    assert together == expected[: len(together)] and len(expected) - len(together) <= 1
    assert [len(batch) for batch in together] == batches(True)[0].sizes(3)
    evaluated = [sample for one in batches(False) for share in one.order(0) for sample in share.tolist()]
    assert evaluated == list(range(images))


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "many"}])
def test_variables_that_another_job_has_left_do_not_make_it_several(monkeypatch, capsys, left):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert join("cpu") == Processes()
    assert ("WORLD_SIZE is 2, but RANK" in capsys.readouterr().out) == (left["WORLD_SIZE"] == "2")


@pytest.mark.parametrize(("gpus", "is_refused"), [(2, True), (3, False)])
def test_more_processes_than_gpus_are_refused_before_they_meet(monkeypatch, gpus, is_refused):
    torchruns = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3",
                 "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # fmt: skip
    for name, value in torchruns.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("common.system.device.join", lambda _: Processes(1, 6, 1))
    with PretendGPU(gpus):
        if not is_refused:
            assert prepare_machine("cuda", "auto", False).device == torch.device("cuda", 1)
            return
        monkeypatch.setattr("common.system.device.join", lambda _: pytest.fail("they met"))
        with pytest.raises(
            BadInput, match=r"started 3 processes on this machine, and each needs one of its 2 GPU\(s\)"
        ):
            prepare_machine("cuda", "auto", False)


@pytest.mark.parametrize(("images", "batch_size", "later"), [(50, 3, []), (50, 8, [[2, 3]]), (3, 8, [])])
def test_every_process_needs_two_images_of_each_batch(images, batch_size, later):
    machine = Machine(torch.device("cpu"), None, Processes(0, 2))
    with pytest.raises(BadInput, match=r"a batch of 3 image\(s\) is too small for 2 processes"):
        Batches(part(images), lambda inputs, _: inputs, batch_size, machine, 0, training=True, later_sizes=later)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "network"), [(2, ["-lr", "0.0001", "--sync_bn"]), (3, ["-lr", "0.01", "-bn", "False"])]
)
def test_processes_together_have_the_loss_curve_of_one(tmp_path, processes, network):
    """With low rates: at higher ones already another number of threads changes the curve by more."""
    words = ["ex_1.py", "--dataset", "digits", "--limit", "500", "-b", "100", "-e", "3", "--optimizer", "sgd", *network,
             "--output_dir"]  # fmt: skip
    assert command(*words, tmp_path / "one", cwd=ROOT, env=environment(OMP_NUM_THREADS="1")).returncode == 0
    done = torchrun(*words, tmp_path / "many", processes=processes)
    assert done.returncode == 0, done.stderr
    expected, found = curve(tmp_path / "one"), curve(tmp_path / "many")
    for one, other in zip(expected, found, strict=True):
        assert one[:2] == pytest.approx(other[:2], abs=1e-4)
    assert done.stdout.count("epoch 3/3") == 1, "one process speaks"
    assert len(list((tmp_path / "many").rglob("config.json"))) == 1
    [config] = (tmp_path / "many").rglob("config.json")
    assert json.loads(config.read_text())["machine"]["processes"] == processes
    tests = [json.loads(next((tmp_path / name).rglob("test.json")).read_text()) for name in ("one", "many")]
    assert tests[0]["images"] == tests[1]["images"] == 359
    assert tests[0]["loss"] == pytest.approx(tests[1]["loss"], abs=1e-3)


@pytest.mark.slow
def test_without_sync_each_process_has_its_own_batch_norm(tmp_path):
    words = ["ex_1.py", "--dataset", "digits", "--limit", "200", "-b", "50", "-e", "1", "--output_dir"]
    for name, extra in (("own", []), ("all", ["--sync_bn"])):
        assert torchrun(*words, tmp_path / name, *extra).returncode == 0
    assert abs(curve(tmp_path / "own")[0][0] - curve(tmp_path / "all")[0][0]) > 1e-4


@pytest.mark.slow
def test_two_agents_that_meet_do_what_one_does(tmp_path):
    """As on two machines: each has its own torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d",
             f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test"]  # fmt: skip
    words = ["ex_1.py", "--dataset", "digits", "--limit", "200", "-b", "50", "-e", "2", "--optimizer", "sgd",
             "-lr", "0.0001", "--sync_bn", "--output_dir"]  # fmt: skip
    quiet = environment(OMP_NUM_THREADS="1")
    agents = [subprocess.Popen([*agent, *words, tmp_path / "two"], cwd=ROOT, env=quiet) for _ in range(2)]
    assert [one.wait(timeout=120) for one in agents] == [0, 0]
    assert command(*words, tmp_path / "one", cwd=ROOT, env=quiet).returncode == 0
    for one, other in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert one[:2] == pytest.approx(other[:2], abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_processes_killed_within_an_epoch_go_on_from_that_step_to_the_same_bits(tmp_path):
    """Each has random numbers (dropout) and running statistics of its own."""
    words = ["ex_1.py", "--dataset", "digits", "--limit", "200", "-b", "8", "-e", "3", "-d", "0.5", "--output_dir"]
    assert torchrun(*words, tmp_path / "whole").returncode == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *words, str(tmp_path / "part")]
    settings = {"cwd": ROOT, "env": environment(OMP_NUM_THREADS="1"), "start_new_session": True}
    job = subprocess.Popen([*launcher, "--save_minutes", "1e-9"], stdout=subprocess.DEVNULL, **settings)
    while not list((tmp_path / "part").glob("*/*/*/last.pth")):
        time.sleep(0.01)
    for process in [*psutil.Process(job.pid).children(recursive=True), job]:
        process.kill()
    job.wait()
    [folder] = (tmp_path / "part").glob("*/*/*")
    done = torchrun("ex_1.py", "--resume", folder)
    assert done.returncode == 0, done.stderr
    assert ", step " in done.stdout
    [whole] = (tmp_path / "whole").glob("*/*/*")
    assert same_result(folder, whole)


@pytest.mark.slow
def test_bad_input_is_one_line_from_all_processes_together(tmp_path):
    done = torchrun("ex_1.py", "--dataset", "digits", "--epoch", "3", "--output_dir", tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and "did you mean --epochs" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_ends_the_job_and_the_run_can_be_resumed(tmp_path):
    words = [
        "--dataset",
        "digits",
        "--limit",
        "500",
        "-b",
        "50",
        "-e",
        "12",
        "--sync_bn",
        "--output_dir",
        str(tmp_path),
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "ex_1.py", *words]
    job = subprocess.Popen(launcher, cwd=ROOT, text=True, env=environment(OMP_NUM_THREADS="1"),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    for line in job.stdout:
        if line.startswith("epoch  2/12"):
            break
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    victim = next(pid for pid in children if "RANK=1" in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    os.kill(int(victim), signal.SIGKILL)
    started = time.monotonic()
    rest = job.communicate(timeout=60)[0]
    assert job.returncode != 0 and time.monotonic() - started < 60
    assert (
        rest.count("to go on: torchrun --nproc_per_node=2 ") == 1 and "Traceback" not in rest.split("to go on: ")[0]
    ), rest
    [config] = tmp_path.rglob("config.json")
    train = json.loads((config.parent / "train.json").read_text())
    assert train["status"] == "interrupted"
    resumed = torchrun("ex_1.py", "--resume", config.parent)
    assert resumed.returncode == 0, resumed.stderr
    assert len(curve(tmp_path)) == 12
