"""EX-6: the fast lane's parts do what their names say, and together they are an experiment like the others."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, interrupt, noise, read, same_result, small_run, without_pictures, write_class
from torch import nn

import ex_6
from common.predicting.classifier import load_run
from common.system.checkpoints import load_checkpoint
from common.system.errors import BadInput
from common.transforms.basic import AlternatingFlip, Grow
from common.transforms.random_streams import Draws

SMALL = ["--dataset", "digits", "--limit", "200", "-b", "50", "--widths", "4,8,8", "-e", "2", "--sizes", "12,16"]


def options(*words):
    return ex_6.parse_options(list(words))


def images(count, side=8):
    return torch.from_numpy(np.stack([noise(seed, side, side) for seed in range(count)])).permute(0, 3, 1, 2)


def test_any_two_epochs_in_a_row_show_an_image_both_ways():
    pictures, flip = images(40), AlternatingFlip()
    shown = [flip(pictures, Draws(0, epoch, torch.arange(40))) for epoch in (1, 2, 3)]
    assert torch.equal(shown[0], shown[1].flip(-1)) and torch.equal(shown[0], shown[2])
    mirrored = [not torch.equal(one, other) for one, other in zip(shown[0], pictures, strict=True)]
    assert 8 < sum(mirrored) < 32
    part = flip(pictures[[5, 30]], Draws(0, 1, torch.tensor([5, 30])))
    assert torch.equal(part, shown[0][[5, 30]])
    assert torch.equal(
        flip(pictures, Draws(0, 1, torch.arange(60))[20:]), flip(pictures, Draws(0, 1, torch.arange(20, 60)))
    )


@pytest.mark.parametrize(
    ("sizes", "epochs", "expected"),
    [([20, 24, 28, 32], 4, [20, 24, 28, 32]), ([24, 28, 32], 6, [24, 24, 28, 28, 32, 32]),
     ([20, 32], 3, [20, 20, 32]), ([16, 20, 32], 1, [16]), ([32], 2, [32, 32])],
)  # fmt: skip
def test_images_grow_in_the_course_of_the_epochs(sizes, epochs, expected):
    grow = Grow(sizes, epochs)
    sides = [grow(images(2, 32), Draws(0, epoch, torch.arange(2))).shape[-1] for epoch in range(1, epochs + 1)]
    assert sides == expected
    assert grow(images(2, 32), Draws(0, epochs + 5, torch.arange(2))).shape[-1] == sizes[-1]


def test_whitened_patches_are_uncorrelated():
    pictures = images(300, 12).float() / 255
    pictures += 0.5 * pictures.mean(1, keepdim=True).roll(1, -1)  # that neighbors and colors have something in common
    layer = nn.Conv2d(3, 24, 2)
    ex_6.whiten(layer, pictures)
    with torch.no_grad():
        layer.bias.zero_()
        out = layer(pictures)
    assert torch.equal(layer.weight[:12], -layer.weight[12:]) and not layer.weight.requires_grad
    of_patches = out[:, :12].permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(of_patches.cov(), torch.eye(12), atol=0.12, rtol=0)


def test_the_target_chooses_network_sizes_and_epochs():
    for target, of_target in ex_6.TARGETS.items():
        chosen = options("--target", target)
        assert {name: getattr(chosen, name) for name in of_target} == of_target
    assert options("--target", "0.90", "-e", "3").epochs == 3


@pytest.mark.parametrize(("epochs", "warmup"), [(0, 0), (1, 0.25), (3, 0.75), (4, 1), (10, 1)])
def test_the_rate_rises_for_an_epoch_or_a_quarter_of_few(epochs, warmup):
    assert options("-e", str(epochs)).warmup_epochs == warmup
    assert options("-e", "2", "--warmup_epochs", "1.5").warmup_epochs == 1.5


@pytest.mark.parametrize("side", [10, 20, 32])
@pytest.mark.parametrize("words", [[], ["--whiten", "False"], ["--pool_first", "False"], ["--dirac", "False"]])
def test_the_network_takes_images_of_any_size(side, words):
    model = ex_6.build_model(options(*words), 7)
    assert model(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_convolutions_begin_by_passing_on_what_they_get():
    *_, layer = (layer for layer in ex_6.build_model(options(), 10) if isinstance(layer, nn.Conv2d))
    inputs = torch.randn(2, layer.in_channels, 5, 5)
    torch.testing.assert_close(layer(inputs), inputs)


def test_a_run_tests_its_last_weights_and_is_resumed_to_the_same_bits(tmp_path):
    whole = without_pictures([*SMALL, "--output_dir", str(tmp_path / "whole")], ex_6)
    scores = read(whole, "test.json")
    assert scores["selected_on"] == "nothing: the last epoch"
    folder = interrupt(
        lambda: without_pictures([*SMALL, "--output_dir", str(tmp_path / "part")], ex_6),
        tmp_path / "part",
        before_epoch=2,
    )
    without_pictures(["--resume", str(folder)], ex_6)
    assert same_result(folder, whole)
    rates = [record["lr"] for record in read(folder, "train.json")["epochs"]]
    assert rates == [record["lr"] for record in read(whole, "train.json")["epochs"]]
    assert rates == pytest.approx([0.12 / 3, 0.12 * 2 / 3])  # of the filters: of four steps two are the warm-up
    last = torch.load(whole / "last.pth", weights_only=True)["model"]
    assert not last["1.bias" if "1.bias" in last else "2.weight"].isnan().any()
    assert read(whole, "clock.json").keys() == {"training_seconds", "process_seconds"}


@pytest.mark.slow
def test_it_learns(tmp_path):
    words = ["--dataset", "digits", "-b", "100", "--widths", "8,16,16", "-e", "6", "--sizes", "16,32"]
    folder = without_pictures([*words, "--flip", "none", "--output_dir", str(tmp_path)], ex_6)
    assert read(folder, "test.json")["accuracy"] > 0.8


@pytest.mark.slow
def test_a_submission_is_run_by_the_rules(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import fast_lane

    begun = []

    def run(words, **settings):
        if words[0] != sys.executable:  # git, which a run asks for its commit
            return honest(words, **settings)
        begun.append(words[2:])
        return without_pictures([*SMALL, *words[2:]], ex_6)

    honest = subprocess.run
    monkeypatch.setattr("subprocess.run", run)
    for words in ([], [], ["--", "--flip", "none"]):  # the second time all is there, the third is another series
        row = fast_lane.main(["ex_6.py", "--seeds", "2", "--output_dir", str(tmp_path), *words])
        if not words:
            first = row
    assert [words[words.index("-s") + 1] for words in begun] == ["0", "1"] * 2 and begun[2][:2] == ["--flip", "none"]
    row, series = first, Path(begun[0][-1]).parent
    tests = [read(path, "test.json") for path in sorted(series.glob("*/*/*/*"))]
    assert row["test_accuracy"] == pytest.approx(sum(test["tta"]["accuracy"] for test in tests) / 2)
    assert row["test_accuracy_of_one_view"] == pytest.approx(sum(test["accuracy"] for test in tests) / 2)
    assert row["views"] == 6
    low, high = row["interval_95_of_the_mean"]
    assert low <= row["test_accuracy"] <= high
    assert row["training_seconds_range"][0] <= row["training_seconds_median"] < row["process_seconds_range"][1]
    small_run(tmp_path / "other" / "seed-0")
    for folder in tmp_path.glob("other/*/*/*/*"):
        (folder / "clock.json").write_text('{"training_seconds": 1, "process_seconds": 2}')
    with pytest.raises(SystemExit, match="the last ones"):
        fast_lane.row([*tmp_path.glob("other/*/*/*/*")])


@pytest.mark.slow
def test_what_ex_6_is_measured_against_enters_by_the_same_rules(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import airbench94
    import fast_lane

    for number, name in enumerate(("ant", "bee")):
        write_class(tmp_path / "images" / name, 60, first_seed=100 * number, height=32, width=32, tint=number)
    words = ["--data", str(tmp_path / "images"), "-e", "1.5", "--precision", "fp32"]
    folders = [
        airbench94.main([*words, "-s", str(seed), "--output_dir", str(tmp_path / f"seed-{seed}")]) for seed in (0, 1)
    ]
    row = fast_lane.row(folders)
    assert row["views"] == 6 and row["seeds"] == [0, 1] and 0 <= row["test_accuracy"] <= 1
    rates = [airbench94.share_of_rate(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[23] == 1 and rates[100] == pytest.approx(0.07)
    assert rates[:24] == sorted(rates[:24]) and rates[23:] == sorted(rates[23:], reverse=True)


def test_the_weights_are_set_to_their_average(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import airbench94

    model = nn.Linear(2, 1)
    average = [torch.zeros_like(each) for each in model.state_dict().values()]
    before = model.weight.detach().clone()
    airbench94.set_to_average(model, average, 0.75)
    torch.testing.assert_close(model.weight.detach(), before / 4)
    torch.testing.assert_close(average[0], before / 4)


@pytest.mark.slow
def test_a_setting_is_tried_on_training_images_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import fast_lane_tries

    monkeypatch.setattr(ex_6, "evaluate_last", ex_6.evaluate_last)  # put back after the test
    folder = fast_lane_tries.main([*SMALL, "--output_dir", str(tmp_path)])
    assert "2 view(s) of 143 validation images: 0." in capsys.readouterr().out
    assert read(folder, "config.json")["images"]["val"] == 143 and not (folder / "test.json").exists()


@pytest.mark.slow
def test_a_run_that_is_planned_by_its_epochs_takes_no_more(tmp_path):
    folder = without_pictures([*SMALL, "--schedule", "none", "--output_dir", str(tmp_path)], ex_6)
    with pytest.raises(BadInput, match="all that it does is planned for exactly so many"):
        options("--resume", str(folder), "-e", "9")


@pytest.mark.slow
def test_weights_that_were_given_are_not_said_to_be_chosen_by_nothing(tmp_path):
    weights = without_pictures([*SMALL, "--output_dir", str(tmp_path / "first")], ex_6) / "best.pth"
    words = [*SMALL, "--weights", str(weights), "-e", "0", "--output_dir", str(tmp_path)]
    assert read(without_pictures(words, ex_6), "test.json")["selected_on"].startswith("not known: best.pth")
    assert read(weights.parent, "test.json")["selected_on"] == "nothing: the last epoch"


def test_momentum_is_not_said_to_do_nothing(capsys):
    options("--momentum", "0.9")
    assert "does nothing" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_was_tested_is_what_predicts(tmp_path, capsys):
    folder = without_pictures([*SMALL, "--output_dir", str(tmp_path)], ex_6)
    network = load_run(str(folder), "cpu").model.state_dict()
    last = load_checkpoint(folder / "last.pth")["model"]
    assert all(torch.equal(network[name], last[name]) for name in last)
    assert "weights of the last epoch, which are those that were tested" in capsys.readouterr().out
    (folder / "last.pth").unlink()
    load_run(str(folder), "cpu")
    assert "note: this script tests the last weights" in capsys.readouterr().out
