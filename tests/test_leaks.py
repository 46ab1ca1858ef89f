"""What would make a score too good: weights that know the images that are held out, labels that shine through."""

import numpy as np
import pytest
import torch
from helpers import part, read, small_run

from common.data.arrays import with_shuffled_labels
from common.data.load import Source
from common.evaluation.metrics import chance_interval
from common.system.errors import BadInput
from tools.comparing.finished_runs import read_runs


def test_weights_that_were_trained_on_what_validates_now_are_refused(tmp_path):
    folder = small_run(tmp_path, "-e", "1", "--limit", "1000")
    weights = ["--weights", str(folder / "best.pth"), "-e", "0"]
    with pytest.raises(BadInput) as error:
        small_run(tmp_path, *weights, "--split_seed", "1")
    said = str(error.value)
    assert "of the 143 validation images have trained these weights" in said and said.endswith("--split_seed 0")
    assert 80 < int(said.split(": ")[1].split()[0]) < 120  # 1,000 of 1,295 were trained on
    again = small_run(tmp_path, *weights, "--seed", "3")
    assert read(again, "validation.json")["accuracy"] == read(folder, "validation.json")["accuracy"]


def test_labels_are_dealt_out_anew_within_each_split():
    [data] = Source(["digits"]).load(8, 0.1)
    splits = list(data.splits.values())
    shuffled = with_shuffled_labels(splits, seed=3)
    for before, after in zip(splits, shuffled, strict=True):
        assert sorted(before.labels) == sorted(after.labels) and before.labels != after.labels
        assert torch.equal(before.indices, after.indices) and before.dataset is not after.dataset
        agreeing = np.mean(np.array(before.labels) == np.array(after.labels))
        assert agreeing < 0.2
    assert [one.labels for one in with_shuffled_labels(splits, 3)] == [one.labels for one in shuffled]
    assert [one.labels for one in with_shuffled_labels(splits, 4)] != [one.labels for one in shuffled]
    assert shuffled[0].dataset is shuffled[1].dataset  # as it was: one copy on a GPU, not two


def test_a_copy_of_a_data_set_has_devices_of_its_own():
    split = part()
    on_device = split.dataset.to(torch.device("cpu"))
    [shuffled] = with_shuffled_labels([split], 0)
    assert shuffled.dataset.to(torch.device("cpu")) is not on_device


def test_chance_is_that_of_a_permutation_test():
    chance = np.random.default_rng(0)
    inside = []
    for _ in range(40):
        labels, predicted = chance.integers(0, 4, 60), chance.choice(4, 60, p=[0.7, 0.1, 0.1, 0.1])
        low, high = chance_interval(labels, predicted)
        inside.append(low <= (labels == predicted).mean() <= high)
    assert 0.87 <= np.mean(inside) <= 1  # 95 % and more: accuracies come in steps of 1/60
    low, high = chance_interval(np.arange(1000) % 10, np.arange(1000) % 10)
    assert 0.07 < low < 0.1 < high < 0.13


@pytest.mark.slow
def test_shuffled_labels_teach_nothing_and_are_compared_with_nothing(tmp_path, capsys):
    folder = small_run(tmp_path, "--null_test", "True")
    test, said = read(folder, "test.json"), capsys.readouterr().out
    low, high = test["null_test"]["chance_interval_95"]
    assert test["null_test"]["is_chance"] == (low <= test["accuracy"] <= high)
    assert f"with shuffled labels: {test['accuracy']:.4f}, where chance gives {low:.4f} to {high:.4f} (95 %)" in said
    other = small_run(tmp_path, "-e", "1")
    assert read(other, "config.json")["split_sha256"] != read(folder, "config.json")["split_sha256"]
    runs, passed = read_runs([str(tmp_path)])
    assert [run.folder for run in runs] == [other]
    assert [one.reason for one in passed] == ["a null test, whose labels were shuffled"]
    with pytest.raises(BadInput, match="--null_test tells by the test images"):
        small_run(tmp_path, "--null_test", "--test", "False")


@pytest.mark.slow
def test_a_leak_is_seen(tmp_path, capsys, monkeypatch):
    """Labels that shine through a pixel: shuffled ones are learned as well, which chance does not explain."""

    def leaking(splits, seed):
        shuffled = with_shuffled_labels(splits, seed)
        for split in {id(one.dataset): one for one in shuffled}.values():
            split.dataset.pixels = split.dataset.pixels.clone()
            split.dataset.pixels[:, :, :, 0] = 25 * split.dataset.labels[:, None, None].to(torch.uint8)
        return shuffled

    monkeypatch.setattr("common.data.load.with_shuffled_labels", leaking)
    folder = small_run(tmp_path, "--null_test", "--limit", "1000", "-e", "4")
    assert not read(folder, "test.json")["null_test"]["is_chance"]
    assert "something tells the labels" in capsys.readouterr().out
