"""ex_4: the networks, what pretraining changes, and that every option acts."""

import pytest
import torch
from helpers import read, without_pictures, write_class
from torch import nn

import ex_4
from common.optim.optimizers import build_optimizer
from common.system.errors import BadInput
from common.transforms.color import ColorJitter
from common.transforms.erasing import RandomErasing
from common.transforms.random_streams import Draws
from common.transforms.trivial_augment import TrivialAugmentWide

DIGITS = ["--dataset", "digits", "--limit", "30", "-e", "1", "-b", "15", "-lr", "0.01"]


def model_of(*words, classes=100):
    return ex_4.build_model(ex_4.parse_options(list(words)), classes)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "resnet18"], 11_220_132),
        (["--model", "resnet50"], 23_705_252),
        (["--model", "resnet50", "--pretrained"], 23_712_932),
    ],
)
def test_networks(words, expected):
    model = model_of(*words)
    assert parameters(model) == expected
    assert isinstance(model.maxpool, nn.MaxPool2d if "--pretrained" in words else nn.Identity)


def test_pretrained_networks_are_trained_at_three_rates():
    options = ex_4.parse_options(["--pretrained", "-lr", "0.04"])
    model = ex_4.build_model(options, 100)
    groups = ex_4.parameter_groups(model, options)
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    names = {name: rates[parameter] for name, parameter in model.named_parameters()}
    assert len(names) == len(rates)
    for name, rate in names.items():
        part = name.partition(".")[0]
        assert rate == pytest.approx({"layer3": 0.02, "layer4": 0.04, "fc": 0.04}.get(part, 0.01)), name


def test_other_networks_are_trained_at_three_rates_too():
    options = ex_4.parse_options(["--pretrained", "-lr", "0.04", "--model", "mobilenet_v3_small"])
    with torch.device("meta"):
        model = ex_4.build_model(options, 100)
    rates = {each: group["lr"] for group in ex_4.parameter_groups(model, options) for each in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        part = name.rpartition(".")[0]
        late = part.startswith("features.12") or part == "classifier.3"
        assert rates[parameter] == pytest.approx(0.04 if late else 0.02 if part.startswith("features.11") else 0.01)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet19", "did you mean resnet1"), ("convnext", "did you mean convnext_")]
)
def test_a_network_that_does_not_exist(name, hint):
    with pytest.raises(BadInput, match=f"'{name}' is no classification network of torchvision; {hint}"):
        ex_4.parse_options(["--model", name])


@pytest.mark.slow
def test_fine_tuning_of_the_published_network_trains(tmp_path):
    for number, name in enumerate("ab"):
        write_class(tmp_path / "images" / name, 8, first_seed=8 * number)
    words = ["--data", str(tmp_path / "images"), "--pretrained", "--weights", "none", "-e", "1", "-b", "4"]
    folder = without_pictures([*words, "--model", "resnet18", "--output_dir", str(tmp_path / "out")], ex_4)
    assert len(read(folder, "train.json")["epochs"]) == 1


def kinds(*words):
    train, _ = ex_4.build_transforms(ex_4.parse_options(list(words)))
    return [type(transform) for transform in train.transforms]


def test_augmentation_is_what_the_options_say():
    assert RandomErasing not in kinds() and TrivialAugmentWide not in kinds() and ColorJitter not in kinds()
    assert RandomErasing in kinds("--heavy_augment") and RandomErasing in kinds("--erasing", "0.5")
    assert TrivialAugmentWide in kinds("--trivial_augment") and ColorJitter in kinds("--pretrained")
    assert ex_4.parse_options(["--heavy_augment"]).erasing == ex_4.HEAVY_ERASING
    assert ex_4.parse_options(["--heavy_augment", "--erasing", "0.7"]).erasing == 0.7


@pytest.mark.parametrize(("words", "side"), [([], 32), (["--pretrained"], 224)])
def test_images_have_the_size_that_the_network_wants(words, side):
    train, evaluate = ex_4.build_transforms(ex_4.parse_options(words))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert train(images, Draws(0, 1, torch.arange(2))).shape == evaluate(images).shape == (2, 3, side, side)


def test_weights_come_from_imagenet_only_if_asked_for(tmp_path):
    assert ex_4.parse_options([]).weights == "none"
    assert ex_4.parse_options(["--pretrained"]).weights == "imagenet"
    assert ex_4.parse_options(["--pretrained", "--weights", "none"]).weights == "none"


@pytest.mark.slow
def test_a_run_from_the_weights_of_another(tmp_path, capsys):
    first = without_pictures([*DIGITS, "--output_dir", str(tmp_path)], ex_4)
    assert read(first, "config.json")["parameters"] == 11_173_962
    again = without_pictures([*DIGITS, "--weights", str(first / "best.pth"), "--output_dir", str(tmp_path)], ex_4)
    assert "122 of 122 tensors are from" in capsys.readouterr().out
    assert read(again, "train.json")["status"] == "finished"


def test_networks_of_two_stages_have_an_optimizer(capsys):
    options = ex_4.parse_options(["--pretrained", "-lr", "0.04", "--model", "alexnet"])
    with torch.device("meta"):
        model = ex_4.build_model(options, 100)
    optimizer = build_optimizer(ex_4.parameter_groups(model, options), "sgd", 0.04)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.04])


@pytest.mark.parametrize(("words", "side"), [(["--pretrained"], 256), ([], 32)])
def test_photographs_are_kept_as_large_as_crops_need_them(monkeypatch, words, side):
    asked = []
    monkeypatch.setattr(ex_4, "run_experiment", lambda *arguments: asked.append(arguments))
    ex_4.main(words)
    assert asked[0][3] == side
