from types import SimpleNamespace

import psutil
import pytest
import torch
from helpers import part

from common.data.batches import Batches
from common.runs.config import device_line
from common.system import device
from common.system.device import Machine


def test_the_most_memory_of_the_process_is_known_on_every_system(monkeypatch):
    machine = Machine(torch.device("cpu"), None)
    now = psutil.Process().memory_info().rss / 1e6
    assert 0.9 * now < machine.process_memory_mb() < 100 * now
    monkeypatch.setattr(device, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(peak_wset=123_456_789))
    assert machine.process_memory_mb() == machine.peak_memory_mb() == 123.5


CPU = {"device": "cpu", "device_name": "AMD EPYC", "threads": 2, "processes": 1}
GPUS = {"device": "cuda", "device_name": "NVIDIA H100", "threads": 16, "processes": 8}


@pytest.mark.parametrize(
    ("machine", "asked", "line"),
    [
        (CPU, "auto", "cpu (AMD EPYC, 2 thread(s); PyTorch finds no GPU), images in main memory"),
        (CPU | {"processes": 2}, "cpu", "cpu (AMD EPYC, 2 thread(s)), 2 processes, images in main memory"),
        (GPUS, "auto", "cuda (NVIDIA H100), 8 processes, images in main memory"),
    ],
)
def test_the_first_lines_say_what_computes(machine, asked, line):
    batches = Batches(part(4), None, 2, Machine(torch.device("cpu"), None), seed=0)
    config = {"machine": machine, "options": {"device": asked}}
    assert device_line(config, batches.place) == f"device: {line}"


def test_where_images_lie():
    batches = Batches(part(4), None, 2, Machine(torch.device("cpu"), None), seed=0)
    assert batches.place == "in main memory"
    batches.dataset = batches.dataset.to(torch.device("meta"))
    assert batches.place == "on the device"
    batches.dataset = object()
    assert batches.place == "read from files"
