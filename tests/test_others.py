"""The comparison with other projects: what it feeds them, what it tells, and a kill of this project by it."""

import pickle
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")


@pytest.fixture
def others(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import others

    return others


def write_pictures(folder, parts, each=12):
    random = np.random.default_rng(0)
    for part in parts:
        for name in ("ant", "bee"):
            (folder / part / name).mkdir(parents=True)
            for number in range(each):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")


def test_pictures_become_the_pickles_of_cifar(others, tmp_path):
    write_pictures(tmp_path / "pictures", ["train", "val"])
    others.write_cifar(tmp_path / "pictures", tmp_path / "pickles")
    batches = [pickle.loads((tmp_path / "pickles" / f"data_batch_{number}").read_bytes()) for number in range(1, 6)]
    assert sorted(label for batch in batches for label in batch["labels"]) == [0] * 12 + [1] * 12
    first = np.asarray(Image.open(tmp_path / "pictures" / "train" / "ant" / "0.png"))
    assert np.array_equal(batches[0]["data"][0].reshape(3, 32, 32).transpose(1, 2, 0), first)
    assert pickle.loads((tmp_path / "pickles" / "batches.meta").read_bytes()) == {"label_names": ["ant", "bee"]}


def test_a_difference_of_one_bit_is_told(others):
    def result(weight, mean):
        return others.Result({"layer": torch.tensor([weight]), "running_mean": torch.tensor([mean])}, 0.5, [])

    assert others.difference(result(1.0, 2.0), result(1.0, 2.0)) == "the same bits"
    assert others.difference(result(1.0, 2.0), result(1.25, 9.0)) == "trained weights differ by up to 0.25"
    assert others.difference(result(1.0, 2.0), result(1.0, 9.0)) != "the same bits"


@pytest.mark.slow
@pytest.mark.parametrize("within", [False, True])
def test_a_killed_run_of_this_project_ends_with_the_same_bits(others, tmp_path, within):
    folder = tmp_path / "a folder"
    write_pictures(folder, ["train", "val", "test"], each=160)
    told = others.measure(others.this_project(folder), tmp_path / "runs", within)
    assert told["two runs without interruption"] == told["resumed"] == "the same bits"
    assert told["first step after resuming"].startswith("Epoch [3/4], Step [" if within else "Epoch [")
