"""ex_3: the zoo's networks, their options, their costs, and how many images a second they get through."""

import csv
import re
import shutil

import h5py
import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT, command, read, result_of, without_hashes, without_pictures, write_class
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ex_3
import pack
from common.data.arrays import pixel_hash
from common.models.cost import cost, operations, summarize
from common.system.errors import BadInput
from common.throughput import _series
from common.transforms.random_streams import Draws

DIGITS = ["--dataset", "digits", "--limit", "100", "-e", "1", "-b", "50"]


def model_of(*words, classes=10):
    return ex_3.build_model(ex_3.parse_options(list(words)), classes)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "classes", "expected"),
    [
        ("lenet", 10, 83_126),
        ("lenet", 200, 99_276),
        ("alexnet", 10, 57_044_810),
        ("alexnet", 200, 57_823_240),
        ("resnet18", 10, 11_173_962),
        ("resnet18", 200, 11_271_432),
    ],
)
def test_networks_have_the_parameters_of_the_worksheet(model, classes, expected):
    assert parameters(model_of("--model", model, classes=classes)) == expected


def test_no_convolution_of_resnet18_has_a_bias():
    convolutions = [part for part in model_of("--model", "resnet18").modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 20 and all(part.bias is None for part in convolutions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "sizes"), [("lenet", (12, 32, 96)), ("alexnet", (63, 70, 224)), ("resnet18", (8, 32, 64, 96))]
)
def test_networks_take_images_of_every_size_they_allow(model, sizes):
    for size in sizes:
        network = model_of("--model", model, "--image_size", str(size)).eval()
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 10)
    if model != "resnet18":
        with pytest.raises(BadInput, match=f"{model} needs at least {sizes[0]}"):
            model_of("--model", model, "--image_size", str(sizes[0] - 1))


@pytest.mark.slow
@pytest.mark.parametrize("model", ex_3.OF_MODEL)
def test_activation_and_dropout_act_on_each_network(model):
    published = model_of("--model", model)
    activation = getattr(nn, ex_3.OF_MODEL[model]["activation"])
    other = model_of("--model", model, "-a", "silu", "-d", "0.25")
    count = sum(isinstance(part, activation) for part in published.modules())
    assert count > 0 and sum(isinstance(part, nn.SiLU) for part in other.modules()) == count
    assert not any(isinstance(part, activation) for part in other.modules())
    assert {part.p for part in other.modules() if isinstance(part, nn.Dropout)} == {0.25}
    inputs = torch.randn(2, 3, *[ex_3.OF_MODEL[model]["image_size"]] * 2)
    assert not torch.equal(other.train()(inputs), other(inputs)), "dropout draws anew"


def test_options_of_a_model_can_be_overridden_and_are_stored():
    options = ex_3.parse_options(["--model", "alexnet"])
    assert (options.image_size, options.activation, options.dropout) == (70, "ReLU", 0.5)
    options = ex_3.parse_options(["--model", "alexnet", "--image_size", "96", "-d", "0", "-a", "GELU"])
    assert (options.image_size, options.activation, options.dropout) == (96, "GELU", 0.0)


@pytest.mark.parametrize("augment", ["none", "base", "crop", "blur"])
def test_each_augmentation_changes_training_images_and_no_others(augment):
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    seen = {}
    for name in ("none", "base", "crop", "blur"):
        train, evaluate = ex_3.build_transforms(ex_3.parse_options(["--augment", name]))
        seen[name] = train(images, Draws(0, 1, torch.arange(8)))
        assert torch.equal(evaluate(images), seen["none"])
    assert all(torch.equal(seen[augment], other) == (name == augment) for name, other in seen.items())


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_say_in_their_second_line_how_they_are_run(path):
    """The command of the comment is parsed by the script that it names, and takes every option of the file."""
    words = path.read_text().splitlines()[1].removeprefix("#").split()
    assert words[0] == "python" and words[2:4] == ["--config", f"configs/{path.name}"]
    script = __import__(words[1].removesuffix(".py"))
    options = vars(script.parse_options(["--config", str(path), *words[4:]]))
    content = yaml.safe_load(path.read_text())
    assert content and {name: options[name] for name in content} == content


def test_recipes_of_the_zoo_are_the_defaults():
    """So that `--model alexnet` alone is the worksheet's AlexNet."""
    for model in ex_3.OF_MODEL:
        assert ex_3.parse_options(["--config", str(ROOT / "configs" / f"{model}.yaml")]) == ex_3.parse_options(
            ["--model", model]
        )


def test_costs_are_those_counted_by_hand():
    costs = cost(model_of("--model", "lenet"), (3, 32, 32))
    convolutions = 75 * 6 * 32 * 32 + 150 * 16 * 12 * 12
    linear = 576 * 120 + 120 * 84 + 84 * 10
    assert costs["flops"] == 2 * (convolutions + linear)
    assert costs["parameter_mb"] == round(4 * 83_126 / 1e6, 3)
    # Input, both sigmoids and poolings' inputs are one and the same, poolings, the input of the first linear layer
    # (a view of the second pooling), and the outputs of two sigmoids.
    kept = 3 * 32**2 + 6 * 32**2 + 6 * 16**2 + 16 * 12**2 + 16 * 6**2 + 120 + 84
    assert costs["activation_mb"] == round(4 * kept / 1e6, 3)


@pytest.mark.parametrize("model", ["lenet", pytest.param("alexnet", marks=pytest.mark.slow), "resnet18"])
def test_operations_are_those_of_pytorchs_counter(model):
    network = model_of("--model", model).eval()
    side = 224 if model == "alexnet" else 32
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    assert operations(network, (3, side, side)) == counter.get_total_flops()
    table = summarize(network, (3, side, side), cost(network, (3, side, side)))
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            count = sum(counter.get_flop_counts()[f"{type(network).__name__}.{name}"].values())
            assert re.search(rf"^{re.escape(name)} .* {count:,}$", table, re.MULTILINE)


def test_a_network_that_torchsummary_cannot_follow_has_its_operations_told():
    class Two(nn.Linear):
        def forward(self, images):
            return [super().forward(images), None]

    class First(nn.Module):
        def forward(self, both):
            return both[0]

    table = summarize(nn.Sequential(nn.Flatten(), Two(12, 3), First()), (3, 2, 2), dict.fromkeys(
        ("flops", "activation_mb", "parameter_mb"), 1))  # fmt: skip
    assert "torchsummary cannot show this network" in table and re.search("^1 +Two +39 +72$", table, re.MULTILINE)


def test_half_precision_keeps_half_the_memory():
    """Of the weights, autocast keeps copies of half the size: one for all images, which are not counted."""
    convolutions = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8 * 28**2, 9))
    single, half = (cost(model, (3, 32, 32), autocast_dtype=dtype) for dtype in (None, torch.bfloat16))
    kept = 3 * 32**2 + 8 * 30**2 + 8 * 28**2  # the images, and what rectifiers give, which the next layer takes
    assert (single["activation_mb"], half["activation_mb"]) == (round(4e-6 * kept, 3), round(2e-6 * kept, 3))


def test_costs_leave_the_network_and_the_random_numbers_alone():
    model = model_of("--model", "resnet18").eval()
    model.layer1.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    cost(model, (3, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, part in model.named_children() if part.training] == ["layer1"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_tells_its_costs(tmp_path):
    run = without_pictures([*DIGITS, "--output_dir", str(tmp_path)], ex_3)
    config, summary = read(run, "config.json"), (run / "summary.txt").read_text()
    assert (config["flops"], config["parameters"]) == (1_772_880, 83_126)
    assert f"One image: {config['flops']:,} operations forward; {config['activation_mb']:,} MB" in summary
    assert config["options"]["model"] == "lenet" and config["options"]["image_size"] == 32


@pytest.mark.slow
def test_resumed_training_ends_as_uninterrupted(tmp_path):
    words = [*DIGITS, "--output_dir", str(tmp_path), "--schedule", "none", "-d", "0.3", "-e"]
    whole, part = without_pictures([*words, "3"], ex_3), without_pictures([*words, "1"], ex_3)
    without_pictures(["--resume", str(part), "-e", "3"], ex_3)
    (weights, epochs, *_), (other_weights, other_epochs, *_) = result_of(whole), result_of(part)
    assert epochs["epochs"] == other_epochs["epochs"] and len(epochs["epochs"]) == 3
    assert all((weights[name] == other_weights[name]).all() for name in weights)


def test_a_network_that_collapses_is_finished_and_said_to_be_at_chance(tmp_path, capsys):
    """AlexNet's fate at 1e-3: a rate that drives LeNet's sigmoids into saturation has the same end."""
    run = without_pictures([*DIGITS, "--output_dir", str(tmp_path), "-lr", "30"], ex_3)
    assert read(run, "train.json")["status"] == "finished"
    assert read(run, "test.json")["accuracy"] < 0.16
    assert "not significantly better than always answering the most frequent class" in capsys.readouterr().out


@pytest.fixture
def unlabelled(tmp_path):
    """Return a folder with train/ of two classes and a test/ without any."""
    chance = np.random.default_rng(0)
    for place, name in enumerate(("train/ant", "train/bee", "test")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            pixels = chance.integers(0, 255, (32, 32, 3), dtype=np.uint8) // 2 + 100 * (place % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{number:02}.png")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("labels", "expected"), [("names", {"ant", "bee"}), ("indices", {"0", "1"}), (None, {"0", "1"})]
)
def test_submissions_hold_names_or_indices(unlabelled, tmp_path, labels, expected):
    words = ["--data", str(unlabelled), "-e", "1", "-b", "8", "--output_dir", str(tmp_path / "out")]
    run = without_pictures([*words, *(["--submission_labels", labels] if labels else [])], ex_3)
    with open(run / "submission.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "label"] and [row[0] for row in rows] == [f"test/{number:02}.png" for number in range(12)]
    assert {row[1] for row in rows} <= expected
    with np.load(run / "predictions.npz") as predictions:
        best = predictions["probabilities"].argmax(1)
    names = ["ant", "bee"] if labels == "names" else ["0", "1"]
    assert [row[1] for row in rows] == [names[label] for label in best]


@pytest.mark.slow
def test_packed_images_train_alike_in_memory_and_from_the_file(unlabelled, tmp_path, monkeypatch):
    """From class folders to submission.csv, and a run that began in memory goes on where memory is short."""
    file = pack.main([str(unlabelled), str(tmp_path / "packed images.hdf5"), "--size", "32"])
    words = ["--data", str(file), "-b", "8", "--schedule", "none", "--output_dir", str(tmp_path / "out"), "-e"]
    held, part = without_pictures([*words, "3"], ex_3), without_pictures([*words, "1"], ex_3)
    assert held.parent == tmp_path / "out" / "ex_3" / "packed images.hdf5"
    monkeypatch.setattr("common.system.memory.MEMORY_SHARE", 0.0)
    streamed = without_pictures([*words, "3"], ex_3)
    without_pictures(["--resume", str(part), "-e", "3"], ex_3)
    assert "do not fit into memory" in (streamed / "log.txt").read_text()
    expected = (held / "submission.csv").read_text()
    assert expected.startswith('"id","label"\n"00.png",') and expected.count("\n") == 13
    for run in (streamed, part):
        assert (run / "submission.csv").read_text() == expected
        one, other = (torch.load(folder / "best.pth", weights_only=True)["model"] for folder in (held, run))
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_packed_folder_trains_as_the_folder_does_bit_for_bit(unlabelled, tmp_path):
    shutil.rmtree(unlabelled / "test")
    for place, name in enumerate(("ant", "bee")):
        write_class(unlabelled / "val" / name, 5, 100 * place, height=32, width=32)
    file = pack.main([str(unlabelled), str(tmp_path / "packed.hdf5"), "--size", "32"])
    words = ["-b", "8", "--augment", "blur", "-e", "2", "--output_dir", str(tmp_path / "out"), "--data"]
    runs = [without_pictures([*words, str(data)], ex_3) for data in (unlabelled, file)]
    one, other = (torch.load(run / "best.pth", weights_only=True)["model"] for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len({read(run, "config.json")["split_sha256"] for run in runs}) == 1
    scores = [read(run, "test.json") for run in runs]
    assert scores[0]["accuracy"] == scores[1]["accuracy"] and scores[0]["images"] == 10


@pytest.mark.parametrize("has_hashes", [True, False])
def test_a_file_with_other_pixels_is_not_taken_for_the_one_that_a_run_began_with(unlabelled, tmp_path, has_hashes):
    file = pack.main([str(unlabelled), str(tmp_path / "packed.hdf5"), "--size", "32"])
    if not has_hashes:
        without_hashes(file)
    run = without_pictures(
        ["--data", str(file), "-b", "8", "--schedule", "none", "--output_dir", str(tmp_path / "out"), "-e", "1"], ex_3
    )
    pack.main([str(unlabelled), str(file), "--size", "32", "--overwrite"])
    if not has_hashes:
        without_hashes(file)
    ex_3.parse_options(["--resume", str(run), "-e", "2"])
    with h5py.File(file, "r+") as content:
        content["images-train"][3] = 0
        if has_hashes:
            content["hashes-train"][3] = np.frombuffer(pixel_hash(content["images-train"][3]), np.uint8)
    with pytest.raises(BadInput, match="the images are not those that the run began with"):
        ex_3.main(["--resume", str(run), "-e", "2"])


@pytest.mark.slow
def test_throughput_is_measured_up_to_the_largest_batch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("common.throughput.MIN_SECONDS", 0.0)
    words = ["--model", "lenet", "--throughput", "--max_batch", "9", "--output_dir", str(tmp_path)]
    folder = ex_3.main(words)
    assert folder.parent == tmp_path / "ex_3" / "throughput"
    assert {path.name for path in folder.iterdir()} == {"config.json", "throughput.json", "throughput.png"}
    result = read(folder, "throughput.json")
    rows = result["batch_sizes"]
    assert [row["batch_size"] for row in rows] == [1, 2, 4, 8] and result["largest_batch_size"] == 8
    for row in rows:
        assert row["steps"] >= 3 and row["peak_memory_mb"] > 0
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["seconds_per_step"])
    assert result["ended_by"] == "a batch of 16 would be above --max_batch 9"
    assert "largest batch that was trained on: 8" in capsys.readouterr().out
    assert read(folder, "config.json")["parameters"] == 83_126


def rows_of(max_batch, budget, fails_at=None, error=None):
    """Of a machine whose memory grows by 100 MB an image, from 1,000 MB."""
    result = {}

    def measure(size):
        if size == fails_at:
            raise error
        return {"batch_size": size, "peak_memory_mb": 1000 + 100.0 * size}

    rows = list(_series(measure, max_batch, budget, 100.0, result))
    return [row["batch_size"] for row in rows], result["ended_by"]


def test_the_series_ends_before_the_budget_is_exceeded():
    sizes, end = rows_of(10**6, 2.7e9)
    assert sizes == [1, 2, 4, 8, 16] and end == "a batch of 32 would need about 4.20 GB of the 2.70 GB budget"
    sizes, _ = rows_of(10**6, 4.3e9)
    assert sizes[-1] == 32


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory"), MemoryError()]
)
def test_the_series_ends_where_memory_ends(error):
    assert rows_of(10**6, None, 8, error) == ([1, 2, 4], "a batch of 8 runs out of memory")


def test_other_errors_are_not_taken_for_the_end_of_memory():
    with pytest.raises(RuntimeError, match="a fault"):
        rows_of(10**6, None, 8, RuntimeError("a fault"))


def test_a_budget_that_is_used_up_already_is_refused(tmp_path):
    words = ["--throughput", "--memory_budget", "0.001", "--output_dir", str(tmp_path)]
    with pytest.raises(BadInput, match="--memory_budget 0.001: without any batch the process takes"):
        ex_3.main(words)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_batch_norm_that_cannot_take_one_image_starts_with_two(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("common.throughput.MIN_SECONDS", 0.0)
    small = ["--model", "resnet18", "--image_size", "8", "--output_dir", str(tmp_path)]
    folder = ex_3.main([*small, "--throughput", "--max_batch", "2"])
    assert [row["batch_size"] for row in read(folder, "throughput.json")["batch_sizes"]] == [2]
    done = command(ROOT / "ex_3.py", *small, *DIGITS, "-b", "1")
    assert done.returncode == 2 and done.stderr.startswith("error: batch norm cannot take statistics of one value")
    assert not list((tmp_path / "ex_3" / "digits").glob("*"))
    resumed = command(ROOT / "ex_3.py", "--resume", folder)
    assert resumed.returncode == 2 and "is no training" in resumed.stderr


def test_options_of_throughput_are_pointless_without_it(capsys):
    ex_3.parse_options(["--max_batch", "8"])
    assert "--max_batch does nothing without --throughput" in capsys.readouterr().out


def test_attention_is_counted():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, images):
            tokens = images.flatten(2)  # (N, 6 tokens, 8)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    projections, attention = 6 * 8 * (24 + 8), 2 * 6 * 6 * 8
    assert operations(Attention(), (6, 2, 4)) == 2 * (projections + attention)
