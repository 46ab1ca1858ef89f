from types import SimpleNamespace

import psutil
import torch

from common.system import device
from common.system.device import Machine


def test_the_most_memory_of_the_process_is_known_on_every_system(monkeypatch):
    machine = Machine(torch.device("cpu"), None)
    now = psutil.Process().memory_info().rss / 1e6
    assert 0.9 * now < machine.process_memory_mb() < 100 * now
    monkeypatch.setattr(device, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(peak_wset=123_456_789))
    assert machine.process_memory_mb() == machine.peak_memory_mb() == 123.5
