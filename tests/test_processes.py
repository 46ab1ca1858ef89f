"""Several processes end where one does, and one that dies takes the others with it."""

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import psutil
import pytest
import torch
from helpers import ROOT, command, environment, part, read, same_result, small_run, without_pictures
from PIL import Image
from pretend_gpu import PretendGPU
from torch import nn

import ex_3
from common.data.batches import Batches
from common.runs.folder import lock, unfinished_runs
from common.runs.run import _check_equal
from common.runs.saving import RunFolder
from common.system.device import Machine, prepare_machine
from common.system.distributed import Processes, join, usable_cores
from common.system.errors import BadInput
from common.training.features import FeatureBatches


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


def test_each_process_extracts_features_of_its_share_and_has_those_of_all(monkeypatch):
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).requires_grad_(False)
    seen, shares = [], []

    def of_rank(rank, count):
        machine = Machine(torch.device("cpu"), None, Processes(rank, count))
        images = Batches(part(50), lambda inputs, _: inputs.float() / 255, 8, machine, seed=0, training=True)
        return FeatureBatches(images, extractor, SimpleNamespace(machine=machine), views=2)

    extractor.register_forward_hook(lambda _, inputs, outputs: seen.append(len(outputs)))
    monkeypatch.setattr(Processes, "gather", lambda self, value: shares.append(value) or [value])
    for rank in range(3):
        seen.clear()
        of_rank(rank, 3)._extract()
        assert sum(seen) == 2 * len(Processes(rank, 3).shard(torch.arange(50)))
    together, alone, gathered = of_rank(1, 3), of_rank(0, 1), []  # shares: view 1, view 2 of the first process, …
    monkeypatch.setattr(
        Processes, "gather", lambda self, value: gathered.append(value) or shares[len(gathered) - 1 :: 2]
    )
    together._extract()
    alone._extract()
    for one, other in zip(together._kept, alone._kept, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("left", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "many"}])
def test_variables_that_another_job_has_left_do_not_make_it_several(monkeypatch, capsys, left):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert join("cpu") == Processes()
    assert ("WORLD_SIZE is 2, but RANK" in capsys.readouterr().out) == (left["WORLD_SIZE"] == "2")


@pytest.mark.parametrize(("gpus", "local_rank", "is_refused"), [(2, 2, True), (3, 2, False), (1, 0, False)])
def test_a_process_without_a_gpu_is_refused_before_they_meet(monkeypatch, gpus, local_rank, is_refused):
    torchruns = {"RANK": "2", "LOCAL_RANK": str(local_rank), "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3",
                 "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # fmt: skip
    for name, value in torchruns.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("common.system.device.join", lambda _: Processes(2, 6, local_rank))
    with PretendGPU(gpus):
        if not is_refused:
            assert prepare_machine("cuda", "auto", False).device == torch.device("cuda", local_rank)
            return
        monkeypatch.setattr("common.system.device.join", lambda _: pytest.fail("they met"))
        with pytest.raises(BadInput, match=r"started 3 processes on this machine.* needs one of its 2 GPU\(s\)"):
            prepare_machine("cuda", "auto", False)


@pytest.mark.parametrize(("images", "batch_size", "later"), [(50, 3, []), (50, 8, [[2, 3]]), (3, 8, [])])
def test_every_process_needs_two_images_of_each_batch(images, batch_size, later):
    machine = Machine(torch.device("cpu"), None, Processes(0, 2))
    with pytest.raises(BadInput, match=r"a batch of 3 image\(s\) is too small for 2 processes"):
        Batches(part(images), lambda inputs, _: inputs, batch_size, machine, 0, training=True, later_sizes=later)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "network"),
    [(2, ["-lr", "0.0001", "--sync_bn"]), pytest.param(3, ["-lr", "0.01", "-bn", "False"], marks=pytest.mark.long)],
)
def test_processes_together_have_the_loss_curve_of_one(tmp_path, processes, network):
    """With low rates: at higher ones already another number of threads changes the curve by more."""
    words = ["ex_1.py", "--dataset", "digits", "--limit", "500", "-b", "100", "-e", "3", "--optimizer", "sgd", *network,
             "--precision", "fp32", "--output_dir"]  # fmt: skip
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


MANY_RUNS_PROGRAM = """
import importlib, json, sys
from contextlib import nullcontext
from common.system.start import run_script
from helpers import without_pictures
from PIL import Image
from pretend_gpu import PretendGPU

def main():
    for words in json.loads(sys.argv[1]):
        with PretendGPU(2) if "cuda" in words else nullcontext():
            without_pictures(words[1:], importlib.import_module(words[0]))

run_script(main)
"""
COMMON_WORDS = ["--dataset", "digits", "--limit", "40", "-b", "20", "-e", "1", "--optimizer", "sgd", "-lr", "0.0001",
                "--schedule", "none", "--sync_bn", "--precision", "fp32", "--test", "False"]  # fmt: skip
MANY_RUNS = {
    "ex_1": ["--ema", "0.9", "--clip_grad", "1", "-d", "0.3"],
    "ex_2": ["--image_size", "16", "--width", "2"],
    "ex_3": ["--augment", "blur", "--accumulate", "2", "-b", "10"],
    "ex_4": ["--trivial_augment", "--heavy_augment"],
    "ex_5": ["--watch", "2"],
    "ex_6": ["--widths", "8,8,8", "--whiten", "False"],  # whitened, images in gray have channels of rounding errors
    "trainA": ["--image_size", "64", "-nf", "2", "-bn", "True"],
    "trainB": ["--image_size", "32", "--model", "resnet18", "--weights", "none", "--strategy", "staged",
               "--stage_epochs", "1", "--momentum", "0", "-e", "2"],
}  # fmt: skip


@pytest.mark.slow
def test_every_experiment_has_with_two_processes_the_loss_curve_of_one(tmp_path):
    """Also on two GPUs, that pretend: without batch norm, as PyTorch's own over several processes needs real ones."""
    runs = [[script, *COMMON_WORDS, *words, "--output_dir", script] for script, words in MANY_RUNS.items()]
    runs.append(
        ["ex_1", *COMMON_WORDS, "-bn", "False", "--sync_bn", "False", "--device", "cuda", "--output_dir", "gpu"]
    )
    (tmp_path / "program.py").write_text(MANY_RUNS_PROGRAM)
    (tmp_path / "two").mkdir()
    paths = environment(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(tmp_path / "program.py")]
    settings = {"cwd": tmp_path / "two", "env": paths, "text": True, "stderr": subprocess.PIPE}
    two = subprocess.Popen([*launcher, json.dumps(runs)], stdout=subprocess.DEVNULL, **settings)
    for script, *words, name in runs:
        words = ["cpu" if word == "cuda" else word for word in words]
        without_pictures([*words, str(tmp_path / "one" / name)], importlib.import_module(script))
    _, said = two.communicate(timeout=200)
    assert two.returncode == 0, said
    names = [run[-1] for run in runs]
    expected, found = ({name: curve(tmp_path / count / name) for name in names} for count in ("one", "two"))
    gaps = {name: np.abs(np.subtract(found[name], expected[name]))[:, :2].max() for name in names}
    assert max(gaps.values()) < 1e-4, gaps
    machines = {name: read(next((tmp_path / "two" / name).glob("*/*/*")), "config.json")["machine"] for name in names}
    assert [(machine["processes"], machine["device"]) for machine in machines.values()] == [(2, "cpu")] * 8 + [
        (2, "cuda")
    ]


@pytest.mark.slow
def test_without_sync_each_process_has_its_own_batch_norm(tmp_path):
    """With it they have the loss of one process, see above."""
    words = ["--dataset", "digits", "--limit", "200", "-b", "10", "-e", "1", "--output_dir"]
    assert torchrun("ex_1.py", *words, tmp_path / "own").returncode == 0
    without_pictures([*words, str(tmp_path / "one")])
    differences = np.array(curve(tmp_path / "own")) - np.array(curve(tmp_path / "one"))
    assert np.abs(differences).max() > 1e-3


@pytest.mark.long
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
@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.long)])
def test_processes_killed_within_an_epoch_go_on_from_that_step_to_the_same_bits(tmp_path, processes):
    """Each has random numbers (dropout) and running statistics of its own; of three, the order of a sum shows."""
    words = ["ex_1.py", "--dataset", "digits", "--limit", "200", "-b", "9", "-e", "3", "-d", "0.5", "--output_dir"]
    assert torchrun(*words, tmp_path / "whole", processes=processes).returncode == 0
    start = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    launcher = [*start, *words, str(tmp_path / "part")]
    settings = {"cwd": ROOT, "env": environment(OMP_NUM_THREADS="1"), "start_new_session": True}
    job = subprocess.Popen([*launcher, "--save_minutes", "1e-9"], stdout=subprocess.DEVNULL, **settings)
    while not list((tmp_path / "part").glob("*/*/*/last.pth")):
        time.sleep(0.01)
    for process in [*psutil.Process(job.pid).children(recursive=True), job]:
        process.kill()
    job.wait()
    [folder] = (tmp_path / "part").glob("*/*/*")
    done = torchrun("ex_1.py", "--resume", folder, processes=processes)
    assert done.returncode == 0, done.stderr
    assert ", step " in done.stdout
    [whole] = (tmp_path / "whole").glob("*/*/*")
    assert same_result(folder, whole)


@pytest.mark.slow
def test_bad_input_is_one_line_from_all_processes_together(tmp_path):
    done = torchrun("ex_1.py", "--dataset", "digits", "--epoch", "3", "--output_dir", tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and "did you mean --epochs" in done.stderr


def started_until(words, output, command, **settings):
    """Start a command that writes into the file `output`, and return it once a line there begins with `words`."""
    with open(output, "w") as file:
        job = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **settings)
    while not any(line.startswith(words) for line in output.read_text().splitlines()):
        assert job.poll() is None, output.read_text()
        time.sleep(0.02)
    return job


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_ends_the_job_and_the_run_can_be_resumed(tmp_path):
    words = ["--dataset", "digits", "--limit", "500", "-b", "50", "-e", "5", "--sync_bn"]
    words += ["--output_dir", str(tmp_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "ex_1.py", *words]
    output = tmp_path / "output.txt"
    job = started_until("epoch 2/5", output, launcher, cwd=ROOT, env=environment(OMP_NUM_THREADS="1"))
    children = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
    victim = next(pid for pid in children if "RANK=1" in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    os.kill(int(victim), signal.SIGKILL)
    started = time.monotonic()
    assert job.wait(timeout=60) != 0 and time.monotonic() - started < 60
    rest = output.read_text()
    assert (
        rest.count("to go on: torchrun --nproc_per_node=2 ") == 1 and "Traceback" not in rest.split("to go on: ")[0]
    ), rest
    [config] = tmp_path.rglob("config.json")
    train = json.loads((config.parent / "train.json").read_text())
    assert train["status"] == "interrupted"
    resumed = torchrun("ex_1.py", "--resume", config.parent)
    assert resumed.returncode == 0, resumed.stderr
    assert len(curve(tmp_path)) == 5


FAILING_PROGRAM = """
import os, signal, sys, time
from common.system.start import run_script
import ex_1
from common.system.errors import BadInput
from common.training import fit

honest = fit.train_one_epoch

def train_one_epoch(state, batches, epoch, *arguments, **settings):
    if epoch == 2 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        print("FAILS", flush=True)
        {failure}
    return honest(state, batches, epoch, *arguments, **settings)

fit.train_one_epoch = train_one_epoch
run_script(lambda: ex_1.main(sys.argv[1:]))
"""
SMALL_WORDS = ["--dataset", "digits", "--limit", "200", "-b", "50", "-e", "3"]


def failing(tmp_path, failure, *launcher):
    """Start a job of two processes, the second of which fails in epoch 2; return it when that has happened."""
    program = tmp_path / "program.py"
    program.write_text(FAILING_PROGRAM.format(failure=failure))
    words = [*launcher, "--nproc_per_node=2", str(program), *SMALL_WORDS, "--output_dir", str(tmp_path / "out")]
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    paths = environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    return started_until("FAILS", tmp_path / "output.txt", command, cwd=tmp_path, env=paths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "line"),
    [("raise BadInput('its disk is gone')", "process 1: error: its disk is gone"),
     pytest.param("raise ValueError('a fault')", "process 1: ends with an internal error, see above",
                  marks=pytest.mark.long)],
)  # fmt: skip
def test_an_error_of_one_process_ends_all_and_is_told(tmp_path, failure, line):
    job, started = failing(tmp_path, failure), time.monotonic()
    assert job.wait(timeout=60) != 0 and time.monotonic() - started < 10
    said = (tmp_path / "output.txt").read_text()
    assert line in said.splitlines() and ("ValueError: a fault" in said) == ("ValueError" in failure)
    assert said.count("saved; to go on: torchrun") == 1  # a traceback may say it, too
    [path] = tmp_path.glob("out/*/*/*/train.json")
    assert json.loads(path.read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_job_with_a_process_that_hangs_ends_when_it_is_asked_to(tmp_path):
    job = failing(tmp_path, "time.sleep(1000)")
    time.sleep(1)  # so that the other one waits for it, inside of PyTorch
    started = time.monotonic()
    job.send_signal(signal.SIGTERM)
    code = job.wait(timeout=60)
    assert code != 0 and time.monotonic() - started < 10, (tmp_path / "output.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_torchrun_restarts_the_run_that_it_began(tmp_path):
    job = failing(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", "--max-restarts=1")
    code, said = job.wait(timeout=200), (tmp_path / "output.txt").read_text()
    assert code == 0, said
    assert len(curve(tmp_path / "out")) == 3 and len(list(tmp_path.glob("out/*/*/*/config.json"))) == 1
    assert "resuming " in said


ON_TWO_MACHINES_PROGRAM = """
import sys
from datetime import timedelta
from common.system import distributed
from common.system.start import run_script
import ex_1
distributed.JOINING = timedelta(seconds=15)
run_script(lambda: ex_1.main(sys.argv[1:]))
"""


@pytest.mark.long
def test_a_second_machine_without_the_run_folder_says_so_and_both_end(tmp_path):
    folder = small_run(tmp_path / "first" / "out", "-e", "1")
    (tmp_path / "second").mkdir()
    (tmp_path / "program.py").write_text(ON_TWO_MACHINES_PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d",
             f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test", "../program.py",
             "--resume", folder.relative_to(tmp_path / "first"), "-e", "2"]  # fmt: skip
    paths = environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    agents = [subprocess.Popen(words, cwd=tmp_path / name, env=paths, text=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE) for name in ("first", "second")]  # fmt: skip
    said = [agent.communicate(timeout=120)[1] for agent in agents]
    assert all(agent.returncode for agent in agents)
    told = [[line for line in text.splitlines() if "error: " in line] for text in said]
    assert [len(lines) for lines in told] == [1, 1], told
    assert any("there is no run in that folder" in line for line in told[1]), told
    assert "not all 2 processes have started within 0.25 minutes" in told[0][0]


STUCK_PROGRAM = """
import ctypes
from common.system import ending, start
ending.STUCK = 0.5
start._catch_signals(True)
lock = ctypes.create_string_buffer(64)
print("ready", flush=True)
for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(lock)  # the second time it waits for ever, whatever signals come
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a lock there looks different")
def test_a_process_that_is_stuck_inside_a_library_ends_at_a_signal():
    process = subprocess.Popen([sys.executable, "-c", STUCK_PROGRAM], cwd=ROOT, env=environment(RANK="1"), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)  # until it waits
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (143, "process 1: ended while it waited for another one\n")


ENDING_PROGRAM = """
import atexit, os, sys
from common.system import start
atexit.register(os.write, 1, b"Python is taken down\\n")

def main():
    print("all is said", end="")

start.run_script(main)
"""


def test_one_of_several_ends_without_taking_python_down():
    places = environment(RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="1")
    ended = command("-c", ENDING_PROGRAM, cwd=ROOT, env=places | {"PYTHONUNBUFFERED": ""})
    assert (ended.returncode, ended.stdout) == (0, "all is said")
    alone = command("-c", ENDING_PROGRAM, cwd=ROOT, env=environment(PYTHONUNBUFFERED=""))
    assert (alone.returncode, alone.stdout) == (0, "Python is taken down\nall is said")


def test_cores_are_those_of_the_job_divided_among_its_processes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert usable_cores() == 12
    for name, value in {
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "RANK": "1",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert usable_cores() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert usable_cores() == 1


def test_srun_alone_is_refused_with_the_command_that_works(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(BadInput, match="srun has started this 4 times.*srun --ntasks-per-node=1 torchrun"):
        join("cpu")


def test_processes_with_other_images_or_options_are_named():
    class Four(Processes):
        def gather(self, value):
            return [value, value, value | {"images": 1}, value | {"images": 1, "options": 2}]

    with pytest.raises(BadInput, match="process 2 has other images than the first one"):
        _check_equal(Four(0, 4), {"images": 0, "options": 0})
    _check_equal(Processes(), {"images": 0})


LOADING_PROGRAM = """
import hashlib, os, signal, sys
from common.data import folders
from common.data.load import Source
from common.system.device import prepare_machine
from common.system.distributed import leave
from common.system.start import run_script

kind, path, fit, victim = sys.argv[1:]
decoded, honest = [], folders.read_frame

def read_frame(*arguments):
    decoded.append(1)
    if victim == os.environ.get("RANK") and len(decoded) == 3:
        print("FAILS", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(*arguments)

def memory():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

def main():
    folders.read_frame = read_frame
    processes = prepare_machine("cpu", "fp32", False).processes
    before = processes.gather(memory())
    read = Source([kind], path, skip_unreadable=True).read(24, fit)[0]
    digest = hashlib.sha256(repr((read.reading.converted, read.reading.skipped)).encode())
    for split in read.splits.values():
        for start in range(0, len(split), 64):
            digest.update(split.dataset.batch(split.indices[start : start + 64])[0].contiguous().numpy())
        digest.update(repr((list(split.hashes), split.labels, split.checks and split.checks.sha256())).encode())
    counts = processes.gather((digest.hexdigest(), len(decoded)))
    grown = sum(processes.gather(memory())) - sum(before)
    if processes.is_main:
        print("TOLD", len({digest for digest, _ in counts}), counts[0][0], *(count for _, count in counts), grown)
    leave()

run_script(main)
"""


def loaded(tmp_path, processes, kind, path, fit="crop", victim="none"):
    """Load images in so many processes; return their digest, how many each has decoded, and the MB they take."""
    program = tmp_path / "program.py"
    program.write_text(LOADING_PROGRAM)
    done = command(
        "-m", "torch.distributed.run", f"--nproc_per_node={processes}", program, kind, path, fit, victim, cwd=tmp_path,
        env=environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), DECODED_IMAGES=""),
    )  # fmt: skip
    if victim != "none":
        return done
    [told] = [line.split() for line in done.stdout.splitlines() if line.startswith("TOLD")]
    assert told[1] == "1", done.stderr
    return told[2], [int(count) for count in told[3:-1]], float(told[-1])


def mixed_pictures(folder):
    """Write pictures of several sizes, upright and turned, and two files that are none."""
    numbers, turned = np.random.default_rng(0), Image.Exif()
    turned[0x0112] = 6
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for index in range(10):
            pixels = numbers.integers(0, 256, (*numbers.integers(20, 60, 2), 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.jpg", exif=turned if index % 3 else Image.Exif())
        (folder / name / "4.jpg").write_bytes(b"no picture")
    return folder


LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="memory is shared by memfd_create")


@pytest.mark.slow
@LINUX_ONLY
@pytest.mark.parametrize("fit", ["crop", "slide"])
def test_the_processes_of_a_machine_divide_the_decoding(tmp_path, fit):
    folder = mixed_pictures(tmp_path / "pictures")
    digest, counts, _ = loaded(tmp_path, 1, "folder", folder, fit)
    assert counts == [20]
    assert loaded(tmp_path, 2, "folder", folder, fit)[:2] == (digest, [10, 10])


@pytest.mark.slow
@LINUX_ONLY
@pytest.mark.parametrize("chunks", [None, (1, 128, 128, 3)])
def test_the_images_of_an_hdf5_file_are_in_memory_once(tmp_path, chunks):
    images = np.random.default_rng(0).integers(0, 256, (4000, 128, 128, 3), dtype=np.uint8)  # 197 MB
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for split, part in (("train", images), ("val", images[:2])):
            file.create_dataset(f"images-{split}", data=part, chunks=chunks)
            file.create_dataset(f"labels-{split}", data=np.arange(len(part)) % 2)
    digest, _, alone = loaded(tmp_path, 1, "hdf5", tmp_path / "a.hdf5")
    both = loaded(tmp_path, 2, "hdf5", tmp_path / "a.hdf5")
    assert both[0] == digest and both[2] < 1.3 * alone


@pytest.mark.slow
@LINUX_ONLY
def test_a_process_that_dies_while_it_decodes_ends_the_others_with_a_line(tmp_path):
    started = time.monotonic()
    done = loaded(tmp_path, 2, "folder", mixed_pictures(tmp_path / "pictures"), victim="1")
    assert done.returncode != 0 and "FAILS" in done.stdout and time.monotonic() - started < 40
    lines = done.stderr.partition("Traceback")[0].splitlines()
    own = [line for line in lines if line[:1] not in "WE"]  # the others are torchrun's
    assert own == ["another process of this run has ended or hangs, so this one ends too; see what it said, and resume"]


def test_features_are_extracted_in_the_number_format_that_the_run_settles_on():
    formats = []
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).requires_grad_(False)
    extractor.register_forward_hook(lambda *_: formats.append(torch.is_autocast_enabled("cpu")))
    run = SimpleNamespace(machine=Machine(torch.device("cpu"), None))
    images = Batches(part(50), lambda inputs, _: inputs.float(), 50, run.machine, seed=0, training=True)
    features = FeatureBatches(images, extractor, run)
    run.machine = Machine(torch.device("cpu"), torch.bfloat16)  # as opening a run does
    next(features.epoch(1))
    assert formats == [True]


def test_the_command_that_goes_on_is_that_of_each_machine(monkeypatch):
    run = RunFolder()
    run.script, run.folder, run.processes = Path("ex_1.py"), Path("run"), Processes(0, 8)
    places = {"RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"} | places).items():
        monkeypatch.setenv(name, value)
    assert run.resume_command() == "torchrun --nnodes=2 --nproc_per_node=4 ex_1.py --resume run"


@pytest.mark.parametrize("option", ["explore", "throughput"])
def test_what_one_process_should_do_is_refused_with_several(monkeypatch, option):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"--{option} is the work of one process: start it without torchrun"):
        ex_3.parse_options(["--dataset", "digits", f"--{option}"])


def test_processes_that_ask_at_once_which_run_goes_on_find_the_same(tmp_path, monkeypatch, finished_run):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "train.json").write_text(json.dumps(read(run, "train.json") | {"status": "interrupted"}))
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", lambda _: held.close())
    held = contextlib.ExitStack()
    held.enter_context(lock(run))  # as another one does for a moment
    assert unfinished_runs(tmp_path, "*") == [run]
