"""The loop against plain loops written out by hand, and how it stops a run that is dead."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import noise, part, read, small_run
from PIL import Image
from torch import nn

import ex_1
import predict
from common.data.batches import Batches
from common.models.placement import place
from common.optim.optimizers import Schedule, build_optimizer
from common.optim.recipe import Recipe
from common.runs.history import best_record
from common.runs.state import TrainState
from common.system.device import Machine
from common.system.errors import Diverged
from common.training.loop import Meter, evaluate, train_one_epoch
from common.transforms.basic import Compose, Normalize, RandomHorizontalFlip

CPU = Machine(torch.device("cpu"), None)
RECIPE = Recipe.of(vars(ex_1.parse_options([])))


def batches(batch_size=16, training=True, images=50, seed=0):
    flips = [RandomHorizontalFlip()] if training else []
    transform = Compose([*flips, Normalize((0.5,) * 3, (0.5,) * 3)])
    return Batches(part(images), transform, batch_size, CPU, seed=seed, training=training)


def network(batch_norm=True):
    torch.manual_seed(0)
    norm = [nn.BatchNorm2d(6)] if batch_norm else []
    return nn.Sequential(nn.Conv2d(3, 6, 3), *norm, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4))


def epoch_of_ours(model, source, machine=CPU, lr=0.1, optimizer="sgd", **settings):
    optimizer = build_optimizer(model.parameters(), optimizer, lr, momentum=0.9)
    schedule = Schedule(optimizer, "none", [source.batches_in(1)])
    recipe = replace(RECIPE, **settings)
    state = TrainState.of(model, optimizer, schedule, recipe, machine)
    return train_one_epoch(state, source, 1, machine, recipe)


def difference(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a.float() - b.float()).abs().max().item() for a, b in pairs)


def test_an_epoch_is_the_textbook_loop():
    model, source = network(), batches()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    losses, hits = 0.0, 0
    plain.train()
    for inputs, labels in source.epoch(1):
        optimizer.zero_grad()
        logits = plain(inputs)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(labels)
        hits += (logits.argmax(1) == labels).sum().item()
    loss, accuracy = epoch_of_ours(model, source)
    assert difference(model, plain) < 1e-6  # ours takes the fused kernel of the optimizer
    assert loss == pytest.approx(losses / 50)
    assert accuracy == hits / 50


def test_accumulated_batches_make_the_step_of_one_large_batch():
    model, large = network(batch_norm=False), network(batch_norm=False)
    epoch_of_ours(model, batches(batch_size=8), accumulate=4)  # the last step has 18 images of 50, in 8 + 8 + 2
    epoch_of_ours(large, batches(batch_size=32))
    assert difference(model, large) < 1e-6
    assert difference(model, network(batch_norm=False)) > 1e-3


def test_label_smoothing_is_pytorchs():
    model, source = network(), batches(batch_size=50)
    [(inputs, labels)] = source.epoch(1)
    expected = F.cross_entropy(copy.deepcopy(model).train()(inputs), labels, label_smoothing=0.3).item()
    assert epoch_of_ours(model, source, label_smoothing=0.3)[0] == pytest.approx(expected)


def unbalanced(batch_size=16, **settings):
    """Batches of 50 images, of which class a has two thirds."""
    source = batches(batch_size, **settings)
    source.dataset.labels[:] = torch.tensor([0, 0, 0, 0, 1, 2] * 9)[:50]
    return source


def test_with_class_weights_each_class_counts_the_same():
    source = unbalanced(batch_size=50)
    weights, counts = source.class_weights("auto"), torch.bincount(torch.tensor(source.split.labels), minlength=4)
    assert (weights * counts).tolist() == pytest.approx([50 / 3] * 3 + [0]) and weights[3] == 0
    assert source.class_weights("none") is None
    model = network()
    [(inputs, labels)] = source.epoch(1)
    losses = F.cross_entropy(copy.deepcopy(model).train()(inputs), labels, reduction="none").detach()
    expected = sum(losses[labels == label].mean() for label in range(3)).item() / 3
    assert epoch_of_ours(model, source, class_weights="auto")[0] == pytest.approx(expected, rel=1e-5)


def test_a_balanced_epoch_has_as_many_images_of_each_class():
    source = unbalanced(batch_size=16)
    source.split.is_balanced = True
    labels = torch.tensor(source.split.labels)
    epochs = [torch.cat(source.order(epoch)) for epoch in (1, 2)]
    for indices in epochs:
        counts = torch.bincount(source.dataset.labels[indices])
        assert len(indices) == 50 - 50 % 16 % 2 and counts.max() - counts.min() <= 2 and (counts > 0).sum() == 3
    assert set(epochs[0][labels[epochs[0]] == 1].tolist()) == set(torch.where(labels == 1)[0].tolist())  # all are there
    large = [set(indices[labels[indices] == 0].tolist()) for indices in epochs]
    assert len(large[0]) == len(large[1]) >= 16 and large[0] != large[1]  # none twice, others in the next epoch
    whole = list(zip(torch.cat([inputs for inputs, _ in source.epoch(1)]), epochs[0], strict=True))
    rest = torch.cat([inputs for inputs, _ in source.epoch(1, skip=2)])
    assert torch.equal(rest, torch.stack([image for image, _ in whole[32:]]))


def test_repetitions_in_a_balanced_epoch_are_augmented_each_in_its_own_way():
    source = unbalanced(batch_size=50)
    source.split.is_balanced = True
    [(inputs, _)], [indices] = source.epoch(1), source.order(1)
    views = {index: inputs[indices == index].unique(dim=0) for index in indices.unique().tolist()}
    repeated = [index for index in views if (indices == index).sum() > 1]
    assert len(repeated) > 10 and {len(views[index]) for index in repeated} == {1, 2}  # as they are, and mirrored


def test_class_weights_are_the_same_for_accumulated_and_for_mixed_images():
    model, large = network(batch_norm=False), network(batch_norm=False)
    epoch_of_ours(model, unbalanced(batch_size=8), accumulate=4, class_weights="auto")
    epoch_of_ours(large, unbalanced(batch_size=32), class_weights="auto")
    assert difference(model, large) < 1e-6
    logits, weights = torch.randn(6, 4), torch.tensor([0.5, 1.0, 2.0, 4.0])
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    recipe = replace(RECIPE, label_smoothing=0.1)
    assert torch.allclose(
        recipe.loss(logits, labels, weights), recipe.loss(logits, F.one_hot(labels, 4).float(), weights)
    )


def test_clipping_bounds_the_step_in_every_number_format():
    for autocast_dtype in (None, torch.bfloat16, torch.float16):
        model = network()
        before = copy.deepcopy(model)
        machine = Machine(torch.device("cpu"), autocast_dtype)
        epoch_of_ours(model, batches(batch_size=50), machine, lr=1.0, clip_grad=0.01)
        pairs = zip(model.parameters(), before.parameters(), strict=True)
        step = torch.cat([(a - b).flatten() for a, b in pairs]).norm().item()
        assert step == pytest.approx(0.01 * 1.9, rel=0.01)  # Nesterov's first step is 1 + momentum gradients long


def test_half_precision_learns_what_full_precision_learns():
    losses = [
        epoch_of_ours(network(), batches(), Machine(torch.device("cpu"), autocast_dtype))[0]
        for autocast_dtype in (None, torch.bfloat16, torch.float16)
    ]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=0.05)
    assert losses[1] != losses[0] != losses[2]


class Viewing(nn.Module):
    """Flattens by view, and counts its passes in a buffer, in evaluation mode too."""

    def __init__(self, features=4 * 8 * 8):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.linear = nn.Linear(features, 10)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, images):
        self.passes += 1
        x = F.adaptive_avg_pool2d(self.conv(images), 8)
        return self.linear(F.dropout(x.view(x.size(0), -1), training=True))


def test_a_network_that_flattens_by_view_trains_and_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ex_1, "build_model", lambda options, num_classes: Viewing())
    folder = small_run(tmp_path, "-e", "1")
    assert read(folder, "train.json")["status"] == "finished"
    Image.fromarray(noise(0)).save(tmp_path / "a.png")
    predict.main([str(folder), str(tmp_path / "a.png")])
    lines = [line for line in capsys.readouterr().out.splitlines() if "channel by channel" in line]
    assert len(lines) == 2 and lines[0].startswith("note: this network only takes images channel by channel")


@pytest.mark.parametrize("features", [4 * 8 * 8, 7])  # with 7 it fails in any layout
def test_trying_a_network_changes_nothing_of_it(features, capsys):
    images = torch.rand(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    model = Viewing(features).train()
    model.conv.eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert place(model, CPU, images) is model
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and model.linear.training and not model.conv.training and not model.conv[1].training
    is_plain = model.conv[0].weight.is_contiguous()
    said = "channel by channel" in capsys.readouterr().out
    assert is_plain == said == bool(model._forward_pre_hooks) != (features == 7)


def test_a_network_that_takes_every_layout_keeps_the_fast_one(capsys):
    model = place(network(), CPU, torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) and not model._forward_pre_hooks
    assert capsys.readouterr().out == ""


class Sick(nn.Module):
    """A network whose loss is not finite from the third batch on, or whose gradients or statistics never are."""

    def __init__(self, symptom):
        super().__init__()
        self.inner, self.symptom, self.calls = network(), symptom, 0
        self.norm = nn.BatchNorm2d(3)

    def forward(self, inputs):
        self.calls += 1
        logits = self.inner(inputs)
        if self.symptom == "loss" and self.calls >= 3:
            return logits * float("inf")
        if self.symptom == "statistics":
            self.norm(inputs * 1e25)
        if self.symptom == "gradient":
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits


def test_a_loss_that_is_not_finite_stops_at_its_step():
    with pytest.raises(Diverged, match="epoch 1, step 3, at learning rate 0.1"):
        epoch_of_ours(Sick("loss"), batches())


def test_a_dead_loss_scale_stops_the_run():
    model = Sick("gradient")
    with pytest.raises(Diverged, match="half precision overflows at every step in epoch 1"):
        epoch_of_ours(model, batches(batch_size=1), Machine(torch.device("cpu"), torch.float16))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert 31 <= model.calls <= 40  # 2^16 halved 31 times is the first scale below 2^-14, seen every ten steps


def test_statistics_that_overflow_stop_the_run():
    with pytest.raises(Diverged, match=r"running_var of the network is not finite"):
        epoch_of_ours(Sick("statistics"), batches())


def test_a_glance_that_lags_does_not_hide_the_step():
    meter = Meter(CPU)
    for loss in (1.0, 2.0, float("nan"), 3.0):
        count(meter, loss)
    assert meter.read() == (3, 1.0)


def count(meter, loss):
    meter.add(torch.tensor(loss), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    return meter.end_step(2, torch.ones(()))


def test_sums_do_not_depend_on_which_steps_are_counted_at_once():
    losses = torch.rand(30, generator=torch.Generator().manual_seed(0)).tolist()
    at_once, one_by_one, resumed = Meter(CPU), Meter(CPU), Meter(CPU)
    news = [count(at_once, loss) is not None for loss in losses]
    assert news == ([False] * 9 + [True]) * 3
    for loss in losses:
        count(one_by_one, loss)
        assert one_by_one.last_loss() == pytest.approx(loss)
    for loss in losses[:13]:
        count(resumed, loss)
    state = resumed.state_dict()
    resumed = Meter(CPU)
    resumed.load_state_dict(state)
    for loss in losses[13:]:
        count(resumed, loss)
    total = torch.zeros(())
    for loss in losses:
        total += torch.tensor(loss) * 2
    for meter in (at_once, one_by_one, resumed):
        assert meter.read() == (None, 1.0) and meter.images == 60
        assert (meter.loss, meter.accuracy) == (total.item() / 60, 1.0)


def test_evaluation_does_not_depend_on_the_batches_and_changes_nothing():
    model = network().train()
    before = copy.deepcopy(model)
    logits, labels = evaluate(model, batches(batch_size=16, training=False), CPU, "validation")
    alone, _ = evaluate(model, batches(batch_size=1, training=False), CPU, "validation")
    assert torch.allclose(logits, alone, atol=1e-6)
    assert not logits.requires_grad
    assert torch.equal(labels, part().dataset.labels)
    assert difference(model, before) == 0


def test_the_best_epoch_is_the_earliest_of_equals():
    history = [{"epoch": n, "val_accuracy": accuracy} for n, accuracy in ((1, 0.5), (2, 0.7), (3, 0.7))]
    assert best_record(history)["epoch"] == 2
    assert best_record([]) is None


def test_training_batches_are_shuffled_and_augmented_anew_and_repeatably():
    source = batches(batch_size=50)
    (first, labels), (second, _), (again, _) = (next(source.epoch(number)) for number in (1, 2, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(labels, part().dataset.labels)
    assert sorted(labels.tolist()) == sorted(part().dataset.labels.tolist())


def test_batch_size_changes_no_image():
    together = torch.cat([inputs for inputs, _ in batches(batch_size=50).epoch(3)])
    apart = torch.cat([inputs for inputs, _ in batches(batch_size=7).epoch(3)])
    assert torch.equal(together[: len(apart)], apart)


@pytest.mark.parametrize(
    ("images", "batch_size", "training", "counts"),
    [(33, 16, True, [16, 16]), (33, 16, False, [16, 16, 1]), (34, 16, True, [16, 16, 2]), (1, 16, True, [1]),
     (3, 1, True, [1, 1, 1])],
)  # fmt: skip
def test_a_last_training_batch_of_one_image_is_dropped(images, batch_size, training, counts):
    source = batches(batch_size, training, images)
    assert [len(labels) for _, labels in source.epoch(1)] == counts
    assert (source.batches_in(1), source.images_in(1)) == (len(counts), sum(counts))
