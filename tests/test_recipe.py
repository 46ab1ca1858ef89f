"""Mixing, averaging, growing batches, views and compilation: each changes what it should, and resumes exactly."""

import json

import numpy as np
import pytest
import torch
from helpers import ROOT, command, part, read, result_of, small_run, without_pictures
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ex_1
from common.data.batches import Batches
from common.optim.ema import EMA
from common.options.types import batch_schedule
from common.runs.state import compiled
from common.system.device import Machine
from common.system.errors import BadInput
from common.training.loop import evaluate
from common.transforms.mixup import Mix
from common.transforms.tta import MOST_VIEWS, views

CPU = Machine(torch.device("cpu"), None)


def images_and_labels(count=8):
    torch.manual_seed(0)
    return torch.randn(count, 3, 8, 8), torch.arange(count) % 4


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 0.2), (1.0, 1.0)])
def test_mixed_labels_are_the_shares_of_the_mixed_images(mixup, cutmix):
    inputs, labels = images_and_labels()
    constant = labels[:, None, None, None].float().expand(-1, 3, 8, 8).clone()
    mixed, shares = Mix(mixup, cutmix, 4, seed=0)(constant, labels, epoch=1, step=1)
    assert shares.shape == (8, 4) and torch.allclose(shares.sum(1), torch.ones(8))
    means = mixed.mean((1, 2, 3))
    assert torch.allclose(means, shares @ torch.arange(4.0), atol=1e-5)


def test_what_is_mixed_depends_on_seed_epoch_and_step_alone():
    inputs, labels = images_and_labels()
    mixed = {key: Mix(1.0, 1.0, 4, key[0])(inputs, labels, *key[1:])[0] for key in
             [(0, 1, 1), (0, 1, 2), (0, 2, 1), (1, 1, 1)]}  # fmt: skip
    state = torch.get_rng_state()
    torch.manual_seed(99)
    again, _ = Mix(1.0, 1.0, 4, 0)(inputs, labels, 1, 1)
    assert torch.equal(again, mixed[0, 1, 1])
    assert all(not torch.equal(again, other) for key, other in mixed.items() if key != (0, 1, 1))
    torch.set_rng_state(state)


def test_mixing_leaves_the_random_state_alone():
    batch, state = images_and_labels(), torch.get_rng_state()
    Mix(1.0, 1.0, 4, 0)(*batch, 1, 1)
    assert torch.equal(state, torch.get_rng_state())


def test_mixing_does_not_seed_a_gpu(monkeypatch):
    """Each process has seeded its own otherwise than the others, for dropout."""
    batch = images_and_labels()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the generators of GPUs are seeded"))
    Mix(1.0, 1.0, 4, 0)(*batch, 1, 1)


def test_both_kinds_of_mixing_take_turns():
    inputs, labels = images_and_labels()
    mix = Mix(1.0, 1.0, 4, 0)
    # A pasted pixel is one of the batch's own, a blended one is none.
    pasted = [torch.isin(mix(inputs, labels, 1, step)[0], inputs).all().item() for step in range(30)]
    assert 5 < sum(pasted) < 25


def test_the_average_follows_the_weights_by_the_formula():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = EMA(model, 0.9)
    average.update_parameters(model)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(3):
        with torch.no_grad():
            for value in model.state_dict().values():
                if value.is_floating_point():
                    value.add_(step + 1.0)
        average.update_parameters(model)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = 0.9 * expected[name] + 0.1 * value
    for name, value in average.model.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-6)


def test_the_average_has_the_bits_and_names_of_pytorchs():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    ours = EMA(model, 0.7)
    pytorchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
    for _ in range(9):
        model(torch.randn(4, 2))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        for average in (ours, pytorchs):
            average.update_parameters(model)
        one, other = ours.state_dict(), pytorchs.state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def digits_batches(later_sizes, images=40):
    return Batches(part(images), lambda images, draws: images, 8, CPU, 0, training=True, later_sizes=later_sizes)


def test_batches_grow_at_the_epochs_of_the_schedule():
    source = digits_batches([[2, 16], [4, 39]])
    assert [source.size_in(epoch) for epoch in (1, 2, 3, 4, 9)] == [8, 16, 16, 39, 39]
    assert [source.sizes(epoch) for epoch in (1, 2, 4)] == [[8] * 5, [16, 16, 8], [39]]  # the 40th would be alone
    assert [[len(labels) for _, labels in source.epoch(epoch)] for epoch in (1, 2, 4)] == [[8] * 5, [16, 16, 8], [39]]


@pytest.mark.parametrize("text", ["", "5", "5:", "2:8,1:9", "2:8,2:9", "0:5", "a:b", "1:2:3"])
def test_batch_schedules_that_are_none_are_refused(text):
    if not text:
        assert batch_schedule(text) == []
        return
    with pytest.raises(Exception, match="pairs of an epoch and a batch size"):
        batch_schedule(text)


def test_views_show_the_image_shifted_mirrored_and_enlarged():
    inputs = torch.arange(32.0).expand(1, 3, 32, 32).clone()  # every column its number
    seen = [view(inputs) for view in views(MOST_VIEWS)]
    assert all(view.shape == inputs.shape for view in seen)
    assert torch.equal(seen[0], inputs) and torch.equal(seen[1], inputs.flip(-1))
    assert torch.equal(seen[2][0, 0, 0], torch.arange(1.0, 33).clamp(max=31))  # shifted to the left by a pixel
    assert torch.equal(seen[3], seen[2].flip(-1)) and torch.equal(seen[4][0, 0, 0], torch.arange(-1.0, 31).clamp(min=0))
    assert (seen[10][..., 16] - seen[10][..., 15] < 1).all()  # enlarged
    rows_too = inputs + 100 * inputs.mT
    assert len({tuple(view(rows_too).flatten().tolist()) for view in views(MOST_VIEWS)}) == MOST_VIEWS
    for bad in (0, MOST_VIEWS + 1):
        with pytest.raises(ValueError, match="views"):
            views(bad)


def train(tmp_path, *words):
    return small_run(tmp_path, "-b", "50", *words)


def weights(run):
    return result_of(run)[0]


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of two epochs without any of these options."""
    return train(tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--mixup", "0.4"],
        pytest.param(["--cutmix", "1"], marks=pytest.mark.slow),
        ["--ema", "0.9"],
        ["--batch_schedule", "2:100"],
    ],
)
def test_each_option_changes_the_weights_and_resumes_exactly(tmp_path, plain, words):
    whole, part = train(tmp_path, *words), train(tmp_path, *words, "-e", "1")
    without_pictures(["--resume", str(part), "-e", "2"])
    (trained, epochs, *_), (resumed, other_epochs, *_) = result_of(whole), result_of(part)
    assert epochs == other_epochs | {"epochs": epochs["epochs"]} and epochs["epochs"] == other_epochs["epochs"]
    assert same(trained, resumed)
    assert not same(trained, weights(plain))


@pytest.mark.slow
def test_mixing_says_what_its_training_accuracy_is(tmp_path, plain):
    assert "training accuracies are of mixed images" in (train(tmp_path, "--mixup", "1") / "log.txt").read_text()
    assert "mixed images" not in (plain / "log.txt").read_text()


@pytest.mark.slow
def test_the_record_tells_the_batch_size(tmp_path):
    run = train(tmp_path, "--batch_schedule", "2:100")
    assert [record["batch_size"] for record in read(run, "train.json")["epochs"]] == [50, 100]


def test_a_batch_that_cannot_fit_is_refused_before_the_run(tmp_path):
    with pytest.raises(BadInput, match="--batch_schedule: a batch of 2,000,000,000 images needs about"):
        train(tmp_path, "--batch_schedule", "2:2000000000")
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.slow
def test_views_are_told_beside_the_plain_score_never_instead(tmp_path, plain):
    plain, many = (read(run, "test.json") for run in (plain, train(tmp_path, "--tta", "6")))
    assert "tta" not in plain and many["tta"]["views"] == 6
    assert many["accuracy"] == plain["accuracy"] and many["loss"] == plain["loss"]
    assert many["tta"]["loss"] != many["loss"] and 0 <= many["tta"]["accuracy"] <= 1


@pytest.mark.slow
def test_step_lines_are_those_of_the_report(tmp_path, capsys):
    train(tmp_path, "--print_every", "4")
    lines = [line for line in capsys.readouterr().out.splitlines() if "Step" in line]
    assert [line.rpartition(" ")[0] for line in lines] == [
        f"Epoch [{epoch}/2], Step [{step}/6], Loss:" for epoch in (1, 2) for step in (4, 6)
    ]
    assert all(0 < float(line.rpartition(" ")[2]) < 10 for line in lines)


def test_a_network_that_cannot_be_compiled_runs_as_it_is(monkeypatch, capsys):
    def refuses(model):
        def fail(inputs):
            raise RuntimeError("Not enough SMs\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", refuses)
    model = nn.Linear(2, 2)
    forward, inputs = compiled(model), torch.ones(1, 2)
    assert torch.equal(forward(inputs), model(inputs)) and torch.equal(forward(inputs), model(inputs))
    assert capsys.readouterr().out.count("--compile does not work here") == 1


def test_a_network_that_cannot_be_compiled_for_a_smaller_batch_goes_on_as_it_is(monkeypatch, capsys):
    def for_one_shape(model):
        def run(inputs):
            if len(inputs) != 4:
                raise RuntimeError("dynamic shapes are too much")
            return model(inputs) + 1

        return run

    monkeypatch.setattr(torch, "compile", for_one_shape)
    model = nn.Linear(2, 2)
    forward = compiled(model)
    whole, rest = torch.ones(4, 2), torch.ones(3, 2)
    assert torch.equal(forward(whole), model(whole) + 1)
    assert torch.equal(forward(rest), model(rest)) and torch.equal(forward(whole), model(whole))
    assert capsys.readouterr().out.count("--compile does not work here") == 1


def test_out_of_memory_is_not_taken_for_a_compiler_that_fails(monkeypatch):
    def full(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lambda model: full)
    with pytest.raises(torch.OutOfMemoryError):
        compiled(nn.Linear(2, 2))(torch.ones(1, 2))


def test_a_compiled_network_is_what_runs(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: lambda inputs: model(inputs) + 1)
    model, inputs = nn.Linear(2, 2), torch.ones(1, 2)
    assert torch.equal(compiled(model)(inputs), model(inputs) + 1)


@pytest.mark.long
def test_a_really_compiled_run_ends_near_the_plain_one(tmp_path):
    words = ["ex_1.py", "--dataset", "digits", "--limit", "300", "-b", "150", "-e", "2", "--output_dir"]
    losses = []
    for place, extra in enumerate(([], ["--compile"])):
        done = command(*words, tmp_path / str(place), *extra, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        [path] = (tmp_path / str(place)).rglob("train.json")
        losses.append([record["train_loss"] for record in json.loads(path.read_text())["epochs"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--watch", "1", "--clip_grad", "0.01"], pytest.param(["--watch", "3"], marks=pytest.mark.long)]
)
def test_watching_changes_nothing_and_resumes_exactly(tmp_path, words):
    plain = train(tmp_path, *words[2:])
    whole, part = train(tmp_path, *words), train(tmp_path, *words, "-e", "1")
    ex_1.main(["--resume", str(part), "-e", "2"])
    assert same(weights(plain), weights(whole)) and not (plain / "inside.json").exists()
    inside = read(whole, "inside.json")
    assert inside == read(part, "inside.json") and len(inside["epochs"]) == 2
    assert all(values["gradient_norm"] > 0 for name, values in inside["epochs"][0]["layers"].items() if name == "0")
    pictures = ("gradients", "updates", "activations", "filters", "feature_maps", "grad_cam")
    assert all((part / f"{name}.png").exists() for name in pictures)


def test_features_can_be_mixed_like_images():
    features, labels = torch.randn(8, 5), torch.arange(8) % 4
    mixed, shares = Mix(1.0, 0.0, 4, 0)(features, labels, 1, 1)
    assert mixed.shape == (8, 5) and shares.shape == (8, 4) and not torch.equal(mixed, features)


def test_the_loss_of_several_views_is_finite_however_sure_a_network_is():
    class Sure(nn.Module):
        def forward(self, inputs):
            return torch.tensor([[500.0, -500.0]]).expand(len(inputs), 2) + 0 * inputs.mean((1, 2, 3))[:, None]

    images = Batches(part(20), lambda inputs, _: inputs.float(), 10, CPU, seed=0, training=False)
    logits, _ = evaluate(Sure(), images, CPU, "testing", views(2))
    assert logits.isfinite().all() and logits[0].tolist() == pytest.approx([0, -1000], abs=1e-3)
