"""What several test files need: small runs, and the comparison of two runs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import ex_1

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--dataset", "digits", "-e", "2", "--limit", "300"]
TIMES = ("seconds", "images_per_second", "peak_memory_mb", "process_memory_mb", "gpu_utilization", "gpu_power_w")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The folder of a finished run of two epochs on digits."""
    return ex_1.main([*SMALL, "--output_dir", str(tmp_path_factory.mktemp("outputs"))])


def small_run(output_dir, *options, script=ex_1):
    """Run two epochs on 300 scanned digits in this process and return the run folder."""
    return without_pictures([*SMALL, "--output_dir", str(output_dir), *options], script)


def without_pictures(argv, script=ex_1):
    """Run an experiment in this process without saving its pictures, which takes longer than all else in small runs."""
    with mock.patch("common.figures.save_figure"):
        return script.main(argv)


def command(*words, **settings):
    """Run `python WORDS` as people do and return what subprocess.run returns."""
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, **settings
    )


def environment(**changes):
    """Return this process's environment with changes."""
    return os.environ | changes


def read(folder, name):
    """Return the content of a JSON file of a run."""
    return json.loads((Path(folder) / name).read_text(encoding="utf-8"))


def table(path):
    """Return the rows of a CSV file as dicts."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def result_of(folder):
    """Return what interruptions must not change: (weights, train.json, test.json, probabilities), without times."""
    train, test = read(folder, "train.json"), read(folder, "test.json")
    del train["train_time"], test["testing_time"]
    for record in train["epochs"]:
        for name in TIMES:
            del record[name]
    weights = torch.load(Path(folder) / "best.pth", weights_only=True)["model"]
    with np.load(Path(folder) / "predictions.npz") as predictions:
        probabilities = predictions["probabilities"]
    return {name: tensor.numpy() for name, tensor in weights.items()}, train, test, probabilities


def same_result(one, other):
    """Tell whether two runs ended alike, bit for bit."""
    weights, train, test, probabilities = result_of(one)
    other_weights, other_train, other_test, other_probabilities = result_of(other)
    return (
        weights.keys() == other_weights.keys()
        and all(np.array_equal(weights[name], other_weights[name]) for name in weights)
        and (train, test) == (other_train, other_test)
        and np.array_equal(probabilities, other_probabilities)
    )


@pytest.fixture(autouse=True)
def exact_small_numbers():
    """Undo what a run does to vanishing numbers, which hypothesis wants to draw."""
    yield
    torch.set_flush_denormal(False)
