"""What would make a score too good: weights that know the images that are held out, labels that shine through."""

import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import torch
from helpers import part, read, small_run, without_hashes, without_pictures
from PIL import Image
from sklearn.datasets import load_digits

import pack
import predict
from common.data.arrays import with_shuffled_labels
from common.data.checks import checks_of
from common.data.load import Source
from common.evaluation.metrics import chance_interval
from common.runs.images import UsedImages, write_images
from common.system.errors import BadInput
from tools.comparing.finished_runs import read_runs


@pytest.mark.slow
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


SIDE = 16


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Class folders, an HDF5 file of them as others write it, and a run on that; some have the same middle row."""
    folder, file = digits_in(tmp_path_factory.mktemp("packed"))
    without_hashes(file)
    return folder, file, run_on(file)


def run_on(file):
    return without_pictures(["--data", str(file), "-e", "1", "-b", "8", "--output_dir", str(file.parent / "o")])


def digits_in(root):
    """Return a folder of 48 digits of two classes, and the HDF5 file that it was packed to."""
    gray = (load_digits().images[:48] * 255 / 16).round().astype(np.uint8)
    for place, image in enumerate(gray.repeat(2, 1).repeat(2, 2)):
        path = root / "digits" / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    pack.main([str(root / "digits"), str(root / "digits.hdf5"), "--size", str(SIDE)])
    return root / "digits", root / "digits.hdf5"


def squares_of(folder):
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*/*.png"))])


def test_predict_knows_the_photographs_that_were_packed(packed, capsys):
    folder, _, run = packed
    predict.main([str(run), str(folder)])
    images, said = read(run, "config.json")["images"], capsys.readouterr().out
    assert f"note: {images['train']} of these 48 images have trained the network" in said
    assert f"note: {images['val']} are validation images of this run" in said
    assert f"note: {images['test']} are test images of this run; this was look 2 at them" in said
    squares = squares_of(folder)
    assert len(set(checks_of(squares))) < 48  # so that the middle row alone would not tell them apart
    squares[:, 0] ^= 1
    assert UsedImages(run).parts_of(squares) == [None] * 48


@pytest.mark.slow
def test_a_run_on_a_file_with_hashes_knows_its_images_without_it(tmp_path, capsys):
    folder, file = digits_in(tmp_path)
    run = run_on(file)
    file.unlink()
    predict.main([str(run), str(folder)])
    images, said = read(run, "config.json")["images"], capsys.readouterr().out
    assert f"note: {images['train']} of these 48 images have trained the network" in said
    assert f"note: {images['test']} are test images of this run" in said
    again = without_pictures(
        ["--data", str(folder), "-e", "0", "--weights", str(run / "best.pth"), "--output_dir", str(tmp_path / "other")]
    )
    assert read(again, "validation.json")["accuracy"] == read(run, "validation.json")["accuracy"]


def test_weights_of_a_run_on_an_hdf5_file_know_its_images_elsewhere(packed):
    folder, file, run = packed
    weights, output = ["-e", "0", "-b", "8", "--weights", str(run / "best.pth")], ["--output_dir", str(run / "other")]
    with pytest.raises(BadInput, match=r"of the \d+ (validation|test) images have trained .*; give --data .*hdf5, and"):
        without_pictures(["--data", str(folder), *weights, *output])
    again = without_pictures(["--data", str(file), *weights, *output, "--test", "False"])
    assert read(again, "validation.json")["accuracy"] == read(run, "validation.json")["accuracy"]


def test_what_a_run_on_class_folders_knows_is_known_in_an_hdf5_file_too(packed, tmp_path):
    folder, file, _ = packed
    [data], [in_file] = (
        Source([kind], str(path)).load(SIDE, 0.1) for kind, path in (("folder", folder), ("hdf5", file))
    )
    write_images(tmp_path, data, {"split_sha256": data.digest})

    def known():
        return Counter(part for split in in_file.splits.values() for part in UsedImages(tmp_path).parts_in(split))

    assert known() == {name: len(split) for name, split in data.splits.items()}
    with np.load(tmp_path / "images.npz") as written:
        older = {name: written[name] for name in ("train", "val", "test", "test_sha256")}
    np.savez(tmp_path / "images.npz", **older)
    assert known() == {name: len(split) for name, split in data.splits.items()}


@pytest.mark.parametrize("what", ["gone", "another"])
def test_a_run_whose_hdf5_file_has_gone_claims_nothing_and_says_why(packed, tmp_path, capsys, what):
    folder, file, run = packed
    kept = file.rename(tmp_path / "kept.hdf5")
    try:
        if what == "another":
            shutil.copy(kept, file)
            with h5py.File(file, "r+") as opened:
                opened["images-train"][:] = 255 - opened["images-train"][:]
        predict.main([str(run), str(folder)])
    finally:
        kept.replace(file)
    said = capsys.readouterr()
    reason = "there is no such file" if what == "gone" else "is not as it was"
    assert "note: " not in said.out and said.err.count("cannot be compared with them") == 1 and reason in said.err


@pytest.mark.slow
def test_images_that_stay_in_their_file_are_known_when_they_have_been_read(packed, tmp_path, monkeypatch):
    folder, file, run = packed
    monkeypatch.setattr("common.system.memory.available_memory", lambda: 0)
    monkeypatch.setattr("common.data.hdf5.FINGERPRINTED", 1)
    options = ["--data", str(file), "-b", "8", "--output_dir", str(tmp_path), "-e", "1"]
    large, squares = without_pictures([*options, "--test", "False"]), squares_of(folder)
    before, images = Counter(UsedImages(large).parts_of(squares)), read(run, "config.json")["images"]
    assert (before["train"], before["val"]) == (images["train"], images["val"]) and before["test"] < images["test"]
    without_pictures(["--resume", str(large), "--test", "True"])
    assert Counter(UsedImages(large).parts_of(squares)) == images
