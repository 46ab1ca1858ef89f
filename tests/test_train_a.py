"""trainA.py: every option changes the network or the images, and a run leaves what it promises."""

import csv

import numpy as np
import pytest
import torch
from helpers import no_drawing, read, result_of, write_class
from PIL import Image
from torch import nn

import trainA
from common.options.types import _activations
from common.system.errors import BadInput

TINY = ["--image_size", "32", "-nf", "4", "-b", "8", "-e", "1"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Return a folder with train/ and val/ of two classes, bluish and reddish noise, of many sizes, one gray."""
    root = tmp_path_factory.mktemp("data") / "photo graphs"
    for part, count, seed in (("train", 5, 0), ("val", 2, 100)):
        for name, tint in (("blue", (0, 0, 250)), ("red", (250, 0, 0))):
            for place, (height, width) in enumerate([(30, 59), (45, 45), (59, 33)]):
                folder = root / part / name / f"{height}x{width}"
                write_class(folder, count, seed + 10 * place + tint[0], height, width, ".jpg", tint)
    Image.new("L", (40, 50)).save(root / "train" / "red" / "gray.png")
    return root


def model_of(*words, classes=10):
    return trainA.build_model(trainA.parse_options(list(words)), classes)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def layers(model, kind):
    return [layer for layer in model if isinstance(layer, kind)]


def run(photographs, tmp_path, *words):
    return trainA.main(["-p", str(photographs), "--output_dir", str(tmp_path / "out"), *TINY, *words])


def test_defaults_are_the_reports():
    assert parameters(model_of()) == 53_578
    options = trainA.parse_options([])
    assert (options.epochs, options.batch_size, options.lr, options.dropout) == (10, 64, 0.001, 0.3)
    assert (options.wandb_project, options.wandb_entity, options.batch_norm) == ("assignment2", "sasuke", False)
    assert options.data.endswith("nature_12K")
    assert trainA.parse_options(["--dataset", "folder"]).data == options.data
    assert trainA.parse_options(["--dataset", "digits"]).data is None


def test_blocks_have_the_reports_order():
    kinds = [type(layer) for layer in model_of("-bn", "True")]
    block = [nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Dropout, nn.BatchNorm2d]
    assert kinds == block * 5 + [nn.Flatten, nn.Linear]


@pytest.mark.parametrize(
    ("words", "kind", "attribute", "expected"),
    [
        (["-nf", "8"], nn.Conv2d, "out_channels", [8, 8, 8, 8, 8]),
        (["-nf", "8", "-fo", "half"], nn.Conv2d, "out_channels", [8, 4, 2, 1, 1]),
        (["-nf", "8", "-fo", "double"], nn.Conv2d, "out_channels", [8, 16, 32, 64, 128]),
        (["-fs", "5"], nn.Conv2d, "kernel_size", [(5, 5)] * 5),
        (["-fs", "5,5,3,3,3"], nn.Conv2d, "kernel_size", [(5, 5), (5, 5), (3, 3), (3, 3), (3, 3)]),
        (["-d", "0.5"], nn.Dropout, "p", [0.5] * 5),
        (["-d", "0"], nn.Dropout, "p", []),
        (["-bn", "True"], nn.BatchNorm2d, "num_features", [32] * 5),
        (["--bacth_norm"], nn.BatchNorm2d, "num_features", [32] * 5),
        (["-bn", "False"], nn.BatchNorm2d, "num_features", []),
        (["-a", "gelu"], nn.GELU, "approximate", ["none"] * 5),
        (["--image_size", "64"], nn.Linear, "in_features", [32 * 2 * 2]),
    ],
)
def test_an_option_acts_on_the_network(words, kind, attribute, expected):
    assert [getattr(layer, attribute) for layer in layers(model_of(*words), kind)] == expected


@pytest.mark.parametrize("name", _activations())
def test_every_activation_works(name):
    (_, activation, *_) = model_of("-a", name, "--image_size", "32", "-nf", "2")
    assert type(activation).__name__ == name
    assert activation(torch.ones(1, 2, 3, 3)).shape == (1, 2, 3, 3)


def test_classes_act_on_the_network():
    assert model_of(classes=3)[-1].out_features == 3


@pytest.mark.parametrize("words", [[], ["-fs", "5,5,3,3,3"], ["--image_size", "97"], ["-fs", "1"], ["-a", "PReLU"]])
def test_images_pass_through_the_network(words):
    size = trainA.parse_options(words).image_size
    assert model_of(*words, "-nf", "2")(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["-fs", "5", "--image_size", "32"], "block 4 shrinks its 2x2 input"),
        (["--image_size", "16"], "block 5 shrinks its 1x1 input"),
    ],
)
def test_filters_that_leave_nothing_are_refused_by_block(words, culprit):
    with pytest.raises(BadInput, match=culprit):
        model_of(*words)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["-a", "GLEU"], "did you mean GELU?"),
        (["-a", "Softmax"], "is none of"),
        (["-fs", "3,3"], "must be one number or 5"),
        (["-fs", "three"], "not an integer"),
        (["-fo", "doubel"], "did you mean double?"),
        (["-d", "1"], "must be at least 0 and below 1"),
        (["-nf", "0"], "must be from 1"),
    ],
)
def test_wrong_values_are_refused(words, hint):
    with pytest.raises(BadInput) as error:
        trainA.parse_options(words)
    assert hint in str(error.value)


def test_validation_is_not_augmented_and_training_is():
    train, evaluate = trainA.build_transforms(trainA.parse_options([]))
    assert not any("Random" in type(step).__name__ for step in evaluate.transforms)
    assert sum("Random" in type(step).__name__ for step in train.transforms) == 6
    same, also = trainA.build_transforms(trainA.parse_options(["--augment", "False"]))
    assert same is also


@pytest.mark.slow
def test_a_run_shows_classes_counts_conversions_and_keeps_its_label(photographs, tmp_path):
    folder = run(photographs, tmp_path, "-q", "4", "--shown_classes", "2")
    config = read(folder, "config.json")
    assert config["name"] == "trainA/photo graphs, question 4"
    assert config["converted"] == {"greyscale": 1} and config["skipped"] == []
    assert config["images"] == {"train": 25, "val": 6, "test": 12}
    assert config["stored_size"] == 37 and config["input_shape"] == [3, 32, 32]
    assert (folder / "class_predictions.png").exists()
    summary = (folder / "summary.txt").read_text()
    convolution = 2 * 3 * 3 * 3 * 4 * 32 * 32  # multiplications and additions of 4 filters over 3 channels
    assert f"{convolution:,}" in summary and "Conv2d" in summary


@pytest.mark.slow
def test_shown_classes_can_be_none(photographs, tmp_path):
    assert not (run(photographs, tmp_path, "--shown_classes", "0") / "class_predictions.png").exists()


@pytest.mark.slow
def test_resumed_training_ends_as_uninterrupted(photographs, tmp_path):
    with no_drawing():
        whole = run(photographs, tmp_path, "-e", "3", "-bn", "True")
        part = run(photographs, tmp_path, "-e", "1", "-bn", "True")
        trainA.main(["--resume", str(part), "-e", "3"])
    (weights, epochs, *_), (other_weights, other_epochs, *_) = result_of(whole), result_of(part)
    assert epochs["epochs"] == other_epochs["epochs"]
    assert all((weights[name] == other_weights[name]).all() for name in weights)


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="nature_12K: there is no such folder"):
        trainA.main(TINY)


@pytest.mark.slow
def test_hostile_names_survive_everything(tmp_path, capsys):
    names = ["two\nlines", r"$\frac{$", "<script>alert(1)</script>".replace("/", "-"), '😀 , "quoted"', "n" * 200]
    chance = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name in names:
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}\n$\\x{{$ <b> 🦋.png")
    folder = trainA.main(
        ["-p", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"), *TINY, "--shown_classes", "5"]
    )
    assert read(folder, "config.json")["classes"] == sorted(names)
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and {row["true"] for row in rows} == set(names)
    assert all(row["id"].startswith(f"val/{row['true']}/") for row in rows)
    assert (folder / "class_predictions.png").stat().st_size > 10_000
    known = (
        "run folder:",
        "device:",
        "images:",
        "note: few images",
        "precision:",
        "epoch",
        "test acc",
        "note: the test accuracy is not significantly better",
        "note: 90 % of the running averages",
        "finished",
    )
    assert all(line.startswith(known) for line in capsys.readouterr().out.splitlines())
