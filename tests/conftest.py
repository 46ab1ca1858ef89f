"""Fixtures of several test files; their functions are in helpers.py."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # with more threads, the workers would only wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, too

import pytest
import torch
from helpers import SMALL, made_once, small_run

import ex_1


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a finished run of two epochs on digits."""
    folder = made_once(tmp_path_factory, "finished", lambda folder: ex_1.main([*SMALL, "--output_dir", str(folder)]))
    return next(folder.glob("*/*/*"))


@pytest.fixture(autouse=True)
def exact_small_numbers():
    """Undo what a run does to vanishing numbers, which hypothesis wants to draw."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def half_precision(monkeypatch):
    """Let runs on this CPU compute in float16, which is refused for its slowness: its loss scale needs no GPU."""
    monkeypatch.setattr("common.system.device._check_precision", lambda *_: None)
    monkeypatch.setattr("common.models.precision._choose", lambda *_: ("fp16", "a test wants it"))


@pytest.fixture
def drawn():
    """Asks for pictures, which take longer than all else."""


@pytest.fixture
def without_drawing(request, monkeypatch):
    """Let nothing be drawn but by tests that ask for it with `drawn`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("common.figures.save_figure", lambda *arguments: None)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Four runs on digits: two learning rates with two seeds each."""

    def make(folder):
        for lr in ("0.001", "0.01"):
            for seed in ("0", "1"):
                small_run(folder / "outputs", "-lr", lr, "--seed", seed, "--precision", "fp32")

    return made_once(tmp_path_factory, "four_runs", make) / "outputs"


@pytest.fixture(scope="module")
def real(outputs):
    """The folders of the four runs, in the order in which they were made."""
    return sorted(outputs.glob("*/*/*"))
