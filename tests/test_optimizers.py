import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.optim.optimizers import OPEN_ENDED, OPTIMIZERS, SCHEDULES, Schedule, build_optimizer
from common.system.checkpoints import load_checkpoint, save_checkpoint
from common.system.errors import BadInput

LR = 0.1


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On matrices this small several threads would mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problem():
    """A little network, and points that it can learn."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    points = torch.randn(64, 2)
    return model, points, (points[:, 0] * points[:, 1] > 0).long()


def take_step(model, optimizer, points, labels):
    loss = F.cross_entropy(model(points), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_every_optimizer_learns(name, weight_decay):
    model, points, labels = problem()
    lr = {"sgd": 0.2, "muon": 0.2, "rmsprop": 0.003}.get(name, 0.02)
    optimizer = build_optimizer(model.parameters(), name, lr, weight_decay)
    losses = [take_step(model, optimizer, points, labels) for _ in range(150)]
    assert losses[-1] < 0.3 * losses[0]


KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop,
         "muon": torch.optim.SGD}  # fmt: skip
NESTEROV = {"momentum": 0.9, "nesterov": True}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_what_was_asked_of_it(name):
    model, *_ = problem()
    optimizer = build_optimizer(model.parameters(), name, 0.03, 0.02, 0.7)
    assert isinstance(optimizer, KINDS[name])
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.03, 0.02)
    assert name not in ("sgd", "rmsprop", "muon") or group["momentum"] == 0.7
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimizer_makes_the_steps_of_pytorchs(name):
    networks = [problem()[0] for _ in range(2)]
    settings = {"lr": 0.03, "weight_decay": 0.02} | ({"momentum": 0.7, "nesterov": True} if name == "sgd" else {})
    optimizers = [build_optimizer(networks[0].parameters(), name, 0.03, 0.02, 0.7)]
    optimizers.append(KINDS[name](networks[1].parameters(), fused=True, **settings))
    _, points, labels = problem()
    for _ in range(5):
        losses = [take_step(*pair, points, labels) for pair in zip(networks, optimizers, strict=True)]
        assert losses[0] == losses[1]
    states = [optimizer.state_dict() for optimizer in optimizers]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in networks), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_may_begin_to_be_trained_later_than_others(name):
    networks = [problem()[0] for _ in range(2)]
    settings = {"lr": 0.03, "weight_decay": 0.0}
    settings |= {"sgd": NESTEROV, "muon": NESTEROV, "rmsprop": {"momentum": 0.9}}.get(name, {})
    optimizers = [build_optimizer(networks[0].parameters(), name, 0.03)]
    optimizers.append(KINDS[name](networks[1].parameters(), foreach=False, **settings))
    _, points, labels = problem()
    for step in range(4):
        for model, optimizer in zip(networks, optimizers, strict=True):
            model[0].requires_grad_(step >= 2)
            take_step(model, optimizer, points, labels)
    pairs = zip(*(model.parameters() for model in networks), strict=True)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)
    assert not torch.equal(networks[0][0].weight, problem()[0][0].weight)


@pytest.mark.parametrize("unscale_first", [False, True])
def test_rmsprop_with_a_loss_scaler_makes_the_steps_of_pytorchs(unscale_first):
    networks = [problem()[0] for _ in range(2)]
    optimizers = [build_optimizer(networks[0].parameters(), "rmsprop", 0.01, 0.1)]
    optimizers.append(torch.optim.RMSprop(networks[1].parameters(), 0.01, weight_decay=0.1, momentum=0.9))
    for step in range(6):
        for model, optimizer in zip(networks, optimizers, strict=True):
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            torch.manual_seed(step)
            loss = model(torch.randn(4, 2)).square().mean() * (math.inf if step in (0, 3) else 1.0)
            scaler.scale(loss).backward()
            if unscale_first:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            optimizer.zero_grad()
        pairs = zip(*(model.parameters() for model in networks), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs), step
    assert not torch.equal(next(networks[0].parameters()), next(problem()[0].parameters()))


def filters_and_biases(layout=torch.contiguous_format):
    """A network with filters of more and of fewer numbers than there are filters, and pictures that it can learn."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(24 * 4, 2)).to(memory_format=layout)
    images = torch.randn(32, 3, 4, 4)
    return model, images, (images[:, 0].sum((1, 2)) > 0).long()


def test_muon_takes_all_directions_of_the_filters_equally_far_and_keeps_their_norm():
    model, images, labels = filters_and_biases()
    optimizer = build_optimizer(model.parameters(), "muon", 0.1, weight_decay=0.5)
    losses = []
    for _ in range(30):
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        losses.append(take_step(model, optimizer, images, labels))
        for layer in (model[0], model[3]):
            old, new = before["0.weight" if layer is model[0] else "3.weight"], layer.weight.detach()
            torch.testing.assert_close(new.norm(), old.norm())
            step = new - old * ((new * old).sum() / old.norm() ** 2)  # what the norm took back lies along the filters
            assert 0.05 < step.norm() / old.norm() < 0.101
            values = torch.linalg.svdvals(step.flatten(1))
            assert values[len(values) // 2] > 0.4 * values[0]
            assert layer.weight.grad is not None  # for those who watch
    assert losses[-1] < 0.6 * losses[0]


def test_what_is_no_filter_takes_the_steps_of_sgd_under_muon():
    networks = [problem()[0] for _ in range(2)]
    optimizers = [build_optimizer(networks[0].parameters(), "muon", 0.03, 0.02)]
    optimizers.append(torch.optim.SGD(networks[1].parameters(), 0.03, weight_decay=0.02, **NESTEROV))
    _, points, labels = problem()
    for _ in range(5):
        for pair in zip(networks, optimizers, strict=True):
            take_step(*pair, points, labels)
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in networks), strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_goes_on_from_a_saved_state_to_the_same_bits(layout):
    model, images, labels = filters_and_biases(layout)
    optimizer = build_optimizer(model.parameters(), "muon", 0.1)
    take_step(model, optimizer, images, labels)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    take_step(model, optimizer, images, labels)
    resumed, *_ = filters_and_biases(layout)
    resumed.load_state_dict(weights)
    optimizer = build_optimizer(resumed.parameters(), "muon", 0.1)
    optimizer.load_state_dict(state)
    take_step(resumed, optimizer, images, labels)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("filled", ["weight", "grad"])
def test_muon_divides_nothing_by_zero(filled):
    filters = nn.Parameter(torch.zeros(4, 3, 2, 2))
    filters.grad = torch.zeros_like(filters)
    (filters.data if filled == "weight" else filters.grad).fill_(1.0)
    build_optimizer([filters], "muon", 0.1).step()
    assert filters.isfinite().all()


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.5, True), (0.0, False)])
def test_momentum_of_sgd_is_nesterovs_unless_it_is_zero(momentum, nesterov):
    model, *_ = problem()
    (group,) = build_optimizer(model.parameters(), "sgd", 0.1, momentum=momentum).param_groups
    assert (group["momentum"], group["nesterov"]) == (momentum, nesterov)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # One parameter of value 1 with gradient 1, learning rate 0.1, weight decay 0.5, momentum 0.9.
        ("sgd", 1 - 0.1 * (1.5 + 0.9 * 1.5)),  # decay joins the gradient; Nesterov's looks one step ahead
        ("adam", 1 - 0.1),  # decay joins the gradient, whose size Adam divides out
        ("adamw", 1 * (1 - 0.1 * 0.5) - 0.1),  # decay beside the gradient
        ("rmsprop", 1 - 0.1 / math.sqrt(0.01)),
    ],
)
def test_the_first_step_is_the_textbooks(name, expected):
    weight = nn.Parameter(torch.ones(()))
    optimizer = build_optimizer([weight], name, 0.1, 0.5, 0.9)
    weight.backward()
    optimizer.step()
    assert weight.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_keep_rates_of_their_own(name):
    model, points, labels = problem()
    groups = [{"params": model[0].parameters(), "lr": 0.001}, {"params": list(model[2].parameters())}]
    optimizer = build_optimizer(groups, name, 0.01)
    assert [group["lr"] for group in optimizer.param_groups] == [0.001, 0.01]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    schedule = Schedule(optimizer, "step", [1] * 10, step_size=1, gamma=0.5)
    assert schedule.rate == 0.01
    take_step(model, optimizer, points, labels)
    schedule.after_epoch(1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0005, 0.005])
    assert schedule.rate == pytest.approx(0.005)


# The rates of the groups as ex_6, ex_4 --pretrained and trainB have them, which of them is that of -lr, and none.
@pytest.mark.parametrize(
    ("rates", "place"), [([None, 0.014, 70.0], 0), ([0.001, 0.01, LR], 2), ([LR, 0.05, 0.025], 0), ([3.0, 2.0], 0)]
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_that_is_told_is_that_of_lr(name, rates, place):
    def build():
        groups = [{"params": [nn.Parameter(torch.zeros(1))]} | ({"lr": rate} if rate else {}) for rate in rates]
        optimizer = build_optimizer(groups, "sgd", LR)
        return optimizer, Schedule(optimizer, name, [2] * 8, **OPTIONS.get(name, {}))

    optimizer, schedule = build()
    for epoch in range(8):
        assert schedule.rate == optimizer.param_groups[place]["lr"]
        for _ in range(2):
            optimizer.step()
            schedule.after_step()
        schedule.after_epoch(LOSSES[epoch])
        resumed = build()
        for part, saved in zip(resumed, (optimizer, schedule), strict=True):
            part.load_state_dict(copy.deepcopy(saved.state_dict()))
        optimizer, schedule = resumed


def no_work_optimizer(name="sgd", **options):
    return build_optimizer([nn.Parameter(torch.zeros(1))], name, LR, **options)


def curve(name, epochs, steps_per_epoch=1, losses=None, optimizer=None, **options):
    """The learning rate of every step, and the one after the last, as the training loop calls a schedule."""
    optimizer = optimizer or no_work_optimizer()
    schedule = Schedule(optimizer, name, [steps_per_epoch] * epochs, **options)
    rates = []
    for epoch in range(epochs):
        for _ in range(steps_per_epoch):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.after_step()
        schedule.after_epoch(losses[epoch] if losses else 1.0)
    return [*rates, optimizer.param_groups[0]["lr"]]


def by_epoch(rates, steps_per_epoch):
    """The rate of each epoch, which must not change within it, and the one after the last."""
    for start in range(0, len(rates) - 1, steps_per_epoch):
        assert len(set(rates[start : start + steps_per_epoch])) == 1
    return rates[::steps_per_epoch]


def test_none_is_constant():
    assert curve("none", 5, 3) == [LR] * 16


@pytest.mark.parametrize("steps_per_epoch", [1, 4])
@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.5), (3, 0.1), (20, 0.1)])
def test_step_multiplies_every_so_many_epochs(steps_per_epoch, step_size, gamma):
    rates = by_epoch(curve("step", 10, steps_per_epoch, step_size=step_size, gamma=gamma), steps_per_epoch)
    assert rates == pytest.approx([LR * gamma ** (epoch // step_size) for epoch in range(11)])


@pytest.mark.parametrize("steps_per_epoch", [1, 4])
@pytest.mark.parametrize(("milestones", "gamma"), [([4], 0.1), ([2, 3, 7], 0.5), ([30], 0.1)])
def test_multistep_multiplies_at_the_milestones(steps_per_epoch, milestones, gamma):
    rates = by_epoch(curve("multistep", 10, steps_per_epoch, milestones=milestones, gamma=gamma), steps_per_epoch)
    expected = [LR * gamma ** sum(milestone <= epoch for milestone in milestones) for epoch in range(11)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 1), (4, 5), (10, 1), (3, 100)])
def test_cosine_falls_to_zero_by_step(epochs, steps_per_epoch):
    steps = epochs * steps_per_epoch
    expected = [LR / 2 * (1 + math.cos(math.pi * step / steps)) for step in range(steps + 1)]
    assert curve("cosine", epochs, steps_per_epoch) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "warmup_epochs", "warmup_steps"),
    [(5, 4, 1, 4), (5, 4, 2, 8), (5, 4, 0.5, 2), (5, 4, 4.75, 19), (2, 10, 0.04, 0)],
)
def test_cosine_rises_linearly_first_if_asked(epochs, steps_per_epoch, warmup_epochs, warmup_steps):
    rates = curve("cosine", epochs, steps_per_epoch, warmup_epochs=warmup_epochs)
    rise = [LR * (step + 1) / (warmup_steps + 1) for step in range(warmup_steps)]
    left = epochs * steps_per_epoch - warmup_steps
    fall = [LR / 2 * (1 + math.cos(math.pi * step / left)) for step in range(left + 1)]
    assert rates == pytest.approx(rise + fall)
    assert rates[0] > 0 and max(rates) == pytest.approx(LR)


def test_cosine_by_hand():
    expected = [0.1 / 3, 0.2 / 3, 0.1, 0.1 * (2 + 2**0.5) / 4, 0.05, 0.1 * (2 - 2**0.5) / 4, 0]
    assert curve("cosine", 3, 2, warmup_epochs=1) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ([5, 4, 3, 2, 1], 0, [1, 1, 1, 1, 1, 1]),
        ([5, 5, 5, 5, 5], 0, [1, 1, 0.1, 0.01, 0.001, 0.0001]),
        ([5, 5, 5, 5, 5], 1, [1, 1, 1, 0.1, 0.1, 0.01]),
        ([5, 6, 7, 4, 5], 1, [1, 1, 1, 0.1, 0.1, 0.1]),
        ([5, 6, 4, 6, 3], 1, [1, 1, 1, 1, 1, 1]),
        ([5, 5, 5, 5, 5], 10, [1, 1, 1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("steps_per_epoch", [1, 3])
def test_plateau_multiplies_when_the_loss_has_stopped_falling(losses, patience, expected, steps_per_epoch):
    rates = curve("plateau", 5, steps_per_epoch, losses, gamma=0.1, plateau_patience=patience)
    assert by_epoch(rates, steps_per_epoch) == pytest.approx([LR * factor for factor in expected])


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(10, 10), (2, 5), (1, 300)])
def test_onecycle_rises_to_the_rate_and_ends_low(epochs, steps_per_epoch):
    rates = curve("onecycle", epochs, steps_per_epoch)
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(LR / 25) and max(rates) == pytest.approx(LR, rel=0.05)
    assert 0.2 < top / len(rates) < 0.4
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < LR / 1000


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_change_the_rate_and_nothing_else(name, momentum, schedule):
    optimizer = no_work_optimizer(name, momentum=momentum)
    curve(schedule, 3, 4, optimizer=optimizer, milestones=[1])
    assert optimizer.param_groups[0]["momentum"] == momentum


@pytest.mark.parametrize("name", ["cosine", "onecycle"])
@pytest.mark.parametrize("epochs", [0, 1])
def test_a_schedule_by_step_may_be_planned_for_next_to_nothing(name, epochs):
    assert all(math.isfinite(rate) for rate in curve(name, epochs, 1))


OPTIONS = {"step": {"step_size": 2, "gamma": 0.5}, "multistep": {"milestones": [2, 6]},
           "cosine": {"warmup_epochs": 1}, "plateau": {"plateau_patience": 1, "gamma": 0.5}}  # fmt: skip
LOSSES = [5, 4, 6, 6, 6, 3, 4, 4]


def train_on(model, points, labels, optimizer, schedule, epochs):
    rates = []
    for epoch in epochs:
        for _ in range(3):
            rates.append([group["lr"] for group in optimizer.param_groups])
            take_step(model, optimizer, points, labels)
            schedule.after_step()
        schedule.after_epoch(LOSSES[epoch])
    return rates


def build(name, optimizer_name, model):
    optimizer = build_optimizer(model.parameters(), optimizer_name, 0.01)
    return optimizer, Schedule(optimizer, name, [3] * 8, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("optimizer_name", ["sgd", "adam"])
@pytest.mark.parametrize("at", [1, 4])
def test_a_saved_state_continues_the_same_curve_and_the_same_training(tmp_path, name, optimizer_name, at):
    model, points, labels = problem()
    optimizer, schedule = build(name, optimizer_name, model)
    train_on(model, points, labels, optimizer, schedule, range(at))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    save_checkpoint(tmp_path / "a.pth", {key: part.state_dict() for key, part in parts.items()})
    expected = train_on(model, points, labels, optimizer, schedule, range(at, 8))

    resumed, _, _ = problem()
    optimizer, schedule = build(name, optimizer_name, resumed)
    state = load_checkpoint(tmp_path / "a.pth")  # which reads with weights_only=True
    for key, part in {"model": resumed, "optimizer": optimizer, "schedule": schedule}.items():
        part.load_state_dict(state[key])
    assert train_on(resumed, points, labels, optimizer, schedule, range(at, 8)) == expected
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "none"])
def test_the_state_of_a_schedule_is_needed_to_continue(name):
    """Without it the curve differs: else the test above would show nothing."""
    at = 3
    model, points, labels = problem()
    optimizer, schedule = build(name, "sgd", model)
    train_on(model, points, labels, optimizer, schedule, range(at))
    state = copy.deepcopy(optimizer.state_dict())
    expected = train_on(model, points, labels, optimizer, schedule, range(at, 8))
    optimizer, schedule = build(name, "sgd", model)
    optimizer.load_state_dict(state)
    assert train_on(model, points, labels, optimizer, schedule, range(at, 8)) != expected


@pytest.mark.parametrize("name", SCHEDULES)
def test_states_are_plain_enough_for_torch_load(name):
    model, points, labels = problem()
    optimizer, schedule = build(name, "sgd", model)
    train_on(model, points, labels, optimizer, schedule, range(2))
    buffer = io.BytesIO()
    torch.save(schedule.state_dict(), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == schedule.state_dict()


@pytest.mark.parametrize("name", OPEN_ENDED)
def test_an_open_ended_schedule_does_not_ask_how_long_the_training_is(name):
    options = OPTIONS.get(name, {})
    short, long = (curve(name, epochs, 2, LOSSES, **options) for epochs in (4, 8))
    assert long[: len(short)] == short


@pytest.mark.parametrize(("epochs", "warmup"), [(5, 5), (5, 6.5), (1, 1), (0, 1)])
def test_a_warm_up_that_leaves_nothing_is_refused(epochs, warmup):
    with pytest.raises(BadInput, match=f"--warmup_epochs {warmup:g} must be less than --epochs {epochs}"):
        curve("cosine", epochs, warmup_epochs=warmup)


def test_multistep_without_milestones_is_refused():
    with pytest.raises(BadInput, match="--milestones"):
        curve("multistep", 5)
