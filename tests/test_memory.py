"""Memory that is free: of the machine, of the container or job, and shared among the processes of a run."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from helpers import ROOT

from common.system import memory
from common.system.device import Machine
from common.system.memory import available_memory, fits_in_memory


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with 1000 bytes left and no groups."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000, total=10_000))
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")


def write_group(folder, limit, used, cached, names=("memory.max", "memory.current"), prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{prefix}active_file {cached}\n{prefix}inactive_file 1\n")


def test_half_of_the_free_memory_may_be_filled():
    assert fits_in_memory(500) and not fits_in_memory(501)


def test_the_processes_of_a_machine_share_its_memory(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_memory() == 1000, "left of another job"
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert available_memory() == 250
    assert fits_in_memory(125) and not fits_in_memory(126)


def test_a_container_has_what_its_limit_leaves(tmp_path):
    (tmp_path / "own").write_text("0::/\n")
    write_group(tmp_path / "cgroup", 600, 400, cached=99)
    assert available_memory() == 600 - 400 + 100  # files that are kept at hand give way


def test_the_smallest_limit_of_a_job_and_of_what_holds_it_counts(tmp_path):
    (tmp_path / "own").write_text("0::/slurm/job_7/step_0\n")
    write_group(tmp_path / "cgroup/slurm/job_7/step_0", "max", 10, 0)
    write_group(tmp_path / "cgroup/slurm/job_7", 300, 100, 0)
    write_group(tmp_path / "cgroup/slurm", 9000, 100, 0)
    assert available_memory() == 201


def test_the_first_version_of_groups_is_read_too(tmp_path):
    (tmp_path / "own").write_text("5:cpu:/x\n4:memory:/docker/abc\n0::/\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    write_group(tmp_path / "cgroup/memory/docker/abc", 500, 450, 9, names, "total_")
    assert available_memory() == 60
    write_group(tmp_path / "cgroup/memory/docker/abc", 2**63 - 4096, 450, 9, names, "total_")  # no limit
    assert available_memory() == 1000


def test_a_group_that_uses_more_than_its_limit_has_nothing_left(tmp_path):
    (tmp_path / "own").write_text("0::/a\n")
    write_group(tmp_path / "cgroup/a", 100, 150, 0)
    assert available_memory() == 0


PEAK_PROGRAM = """
import torch
from common.system.device import Machine
print(Machine(torch.device("cpu"), None).process_memory_mb())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep no such count")
def test_the_peak_of_who_started_the_process_is_not_its_own():
    torch.ones(2**30, dtype=torch.uint8)  # more than PyTorch alone takes
    assert Machine(torch.device("cpu"), None).process_memory_mb() > 1000
    done = subprocess.run([sys.executable, "-c", PEAK_PROGRAM], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert 100 < float(done.stdout) < 900
