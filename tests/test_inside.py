"""Inside a network: what a Watch records, what its layers give, where it looks, and that looking changes nothing."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import read
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ex_1
import ex_2
import ex_3
import trainA
import trainB
from common.data.arrays import ArrayDataset, Split
from common.data.batches import Batches
from common.inside.maps import NotThere, feature_maps, first_filters, grad_cam, last_spatial_layer, layer_kinds
from common.inside.plots import draw_activations, draw_gradients, draw_updates, look_inside
from common.inside.watch import Watch, dead_share
from common.models.batch_norm import fill_registers
from common.models.finetuning import train_only
from common.system.device import prepare_machine
from common.transforms.basic import Compose, Normalize

KEYS = {"gradient_norm", "update_ratio", "activation_mean", "activation_std", "dead_share"}
PICTURES = {"gradients.png", "updates.png", "activations.png", "filters.png", "feature_maps.png", "grad_cam.png"}


class Functional(nn.Module):
    """What students write: the activations are functions, not layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.max_pool2d(F.relu(self.conv1(x)), 2)), inplace=True)
        return self.fc(F.dropout(x.mean((2, 3)), training=True))


def plain_network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    )  # fmt: skip


def built(script, *words):
    return script.build_model(script.parse_options(["--dataset", "digits", *words]), 10)


NETWORKS = {
    "plain": (plain_network, 16),
    "functional": (Functional, 16),
    "ex_1": (lambda: built(ex_1), 32),
    "ex_2": (lambda: built(ex_2, "--image_size", "16", "--width", "4"), 16),
    "trainA": (lambda: built(trainA, "--image_size", "64", "--num_filters", "4", "-bn", "True"), 64),
    "trainB": (lambda: built(trainB, "--model", "resnet18", "--image_size", "64"), 64),
    "lenet": (lambda: built(ex_3, "--model", "lenet"), 32),
    "resnet18": (lambda: built(ex_3, "--model", "resnet18"), 16),
}


@pytest.fixture(params=NETWORKS)
def network_and_size(request):
    torch.manual_seed(0)
    build, size = NETWORKS[request.param]
    model = build().to(memory_format=torch.channels_last)
    fill_registers(model)
    return model.train(), size


def images_of(size, count=4, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def hooks_of(model):
    return sum(len(part._forward_hooks) + len(part._backward_hooks) for part in model.modules())


def train(model, watch=None, epochs=2, steps=3, size=16, first_epoch=1):
    """Train as the train loop does; the numbers are always the same."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for epoch in range(first_epoch, first_epoch + epochs):
        torch.manual_seed(epoch)
        for step in range(steps):
            logits = model(images_of(size, seed=10 * epoch + step))
            F.cross_entropy(logits, torch.arange(len(logits))).backward()
            if watch:
                watch.before_step(step)
            optimizer.step()
            if watch:
                watch.after_step(step)
            optimizer.zero_grad()
        if watch:
            watch.end_epoch(epoch, images_of(size))


def test_gradient_norms_and_update_ratios_are_those_computed_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1, bias=False))
    for parameter, values in zip(model.parameters(), ([[3.0, 4.0]], [12.0], [[2.0]]), strict=True):
        parameter.data = torch.tensor(values)
    watch, optimizer = Watch(model, every=2), torch.optim.SGD(model.parameters(), 0.5)
    # Step 0 has gradients 3, 4 and 0 in the first layer and 6 in the second; step 1 is not watched; step 2 has twice
    # as large ones. The weights of the layers have norms 13 and 2 at first.
    expected = {"1": ([], []), "3": ([], [])}
    for step, factor in enumerate((1.0, 100.0, 2.0)):
        for parameter, values in zip(model.parameters(), ([[3.0, 4.0]], [0.0], [[6.0]]), strict=True):
            parameter.grad = factor * torch.tensor(values)
        for name, norm in (("1", 5 * factor), ("3", 6 * factor)):
            if step != 1:
                size = sum(p.double().square().sum() for p in model[int(name)].parameters()).sqrt().item()
                expected[name][0].append(norm)
                expected[name][1].append(0.5 * norm / size)
        watch.before_step(step)
        optimizer.step()
        watch.after_step(step)
    layers = watch.end_epoch(1, torch.zeros(2, 2))["layers"]
    assert expected["1"][0] == [5, 10] and expected["1"][1][0] == pytest.approx(2.5 / 13)
    for name, (norms, ratios) in expected.items():
        assert layers[name]["gradient_norm"] == pytest.approx(np.mean(norms))
        assert layers[name]["update_ratio"] == pytest.approx(np.mean(ratios))
    assert layers["2"]["gradient_norm"] is None and layers["2"]["dead_share"] is not None


def test_activation_statistics_are_those_computed_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 2), nn.Sigmoid())
    model[0].weight.data = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1)
    model[0].bias.data = torch.tensor([0.0, 0.0, -1.0])
    model[3].weight.data = torch.zeros(2, 12)
    model[3].weight.data[0, 0] = 1.0
    layers = Watch(model, 1).end_epoch(1, torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2).repeat(2, 1, 1, 1))["layers"]
    before = np.array([1, 2, 3, 4, -1, -2, -3, -4, -1, -1, -1, -1.0])
    assert layers["0"]["activation_mean"] == pytest.approx(before.mean()), "not of what the ReLU has made of it"
    assert layers["0"]["activation_std"] == pytest.approx(before.std())
    assert layers["1"]["activation_mean"] == pytest.approx(before.clip(0).mean())
    assert layers["1"]["activation_std"] == pytest.approx(before.clip(0).std())
    assert layers["1"]["dead_share"] == pytest.approx(2 / 3) and layers["0"]["dead_share"] is None
    assert layers["4"]["dead_share"] == 1, "both images are the same"


@pytest.mark.parametrize(
    ("layer", "units", "share"),
    [  # two images, four units
        (nn.ReLU(), [[0.0, 0, 1, 0], [0, 2, 3, 0]], 0.5),
        (nn.GELU(), [[-0.1, -0.1, 1, 0], [-0.2, 2, 3, 0]], 0.5),
        (nn.Sigmoid(), [[1.0, 0.2, 0.5, 0], [1.0, 0.3, 0.9, 0.0005]], 0.5),
        (nn.Tanh(), [[-1.0, -0.2, -0.5, -0.1], [-1.0, -0.3, -0.9, -0.2]], 0.25),
        (nn.LeakyReLU(), [[-1.0, -2, -3, -4], [-2, -3, -4, -5]], 0),
    ],
)
def test_a_unit_is_dead_if_no_image_moves_it(layer, units, share):
    features = torch.tensor(units)
    assert dead_share(layer, features).item() == share
    assert dead_share(layer, features[:, :, None, None].expand(2, 4, 3, 3)).item() == share
    assert dead_share(layer, features[:, None].expand(2, 5, 4)).item() == share, "of tokens"


def test_one_place_or_one_image_keeps_a_unit_alive():
    output = torch.zeros(3, 2, 4, 4)
    output[2, 1, 3, 3] = 1e-6
    assert dead_share(nn.ReLU(), output).item() == 0.5


def test_frozen_and_unused_layers_have_no_gradients():
    model = plain_network()
    model.append(nn.Linear(3, 3))
    model.forward = lambda x: nn.Sequential.forward(model[:9], x)
    train_only(model, [model[4], model[8], model[9]])
    watch = Watch(model, 1)
    train(model, watch, epochs=1)
    layers = watch.records[0]["layers"]
    assert [name for name, values in layers.items() if values["gradient_norm"] is not None] == ["4", "8"]
    assert layers["0"]["update_ratio"] is None and layers["0"]["activation_std"] > 0
    assert set(layers["9"].values()) == {None}
    assert all(values.keys() == KEYS for values in layers.values())


def test_steps_that_overflow_and_weights_of_zero_do_not_count():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    nn.init.zeros_(model[2].weight), nn.init.zeros_(model[2].bias)
    watch = Watch(model, 1)
    for step, value in enumerate((1.0, float("inf"), float("nan"))):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        model[1].weight.grad[0, 0] = value
        watch.before_step(step)
        watch.after_step(step)
    layers = watch.end_epoch(1, torch.ones(2, 2))["layers"]
    assert layers["1"]["gradient_norm"] == 2 and layers["1"]["update_ratio"] == 0
    assert layers["2"]["gradient_norm"] == pytest.approx(6**0.5) and layers["2"]["update_ratio"] is None


@pytest.mark.slow
def test_watching_changes_nothing(network_and_size):
    """Weights, statistics, modes, hooks and random numbers are those of a training that was not watched."""
    model, size = network_and_size
    start = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, epochs=1, steps=2, size=size)
    alone, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    model.load_state_dict(start)
    train(model, watch := Watch(model, 1), epochs=1, steps=2, size=size)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, alone[name]) for name, value in model.state_dict().items())
    assert all(part.training for part in model.modules()) and hooks_of(model) == 0
    trained = {name for name, values in watch.records[0]["layers"].items() if values["update_ratio"] is not None}
    assert trained and {name.partition(":")[0] for name in watch.records[0]["layers"]} == set(layer_kinds(model))


def test_steps_that_are_not_watched_cost_nothing(monkeypatch):
    model = plain_network()
    watch, seen = Watch(model, 10), []
    monkeypatch.setattr("common.inside.watch.find_layers", lambda *_: seen.append(1) or {})
    for step in range(20):
        watch.before_step(step)
        watch.after_step(step)
        assert hooks_of(model) == 0
    assert len(seen) == 2 and [step for step in range(21) if watch.is_watched(step)] == [0, 10, 20]
    with pytest.raises(ValueError, match="every is 0"):
        Watch(model, 0)


class NothingIsRead(TorchDispatchMode):
    """Fails where Python would read a number from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket is not torch.ops.aten._local_scalar_dense
        return func(*args, **(kwargs or {}))


def test_watched_steps_wait_for_nothing():
    model = plain_network()
    F.cross_entropy(model(images_of(16)), torch.arange(4)).backward()
    watch = Watch(model, 1)
    with NothingIsRead():
        watch.before_step(0)
        watch.after_step(0)
    with pytest.raises(AssertionError), NothingIsRead():
        bool(torch.ones(1))
    assert watch.end_epoch(1, images_of(16))["layers"]["0"]["update_ratio"] == 0


def test_layers_used_several_times_are_told_apart():
    torch.manual_seed(0)
    model = built(ex_3, "--model", "resnet18")
    names = list(Watch(model, 1).end_epoch(1, images_of(16))["layers"])
    first_block = ["conv1", "bn1", "relu", "conv2", "bn2", "relu:2"]
    assert names[3:9] == [f"layer1.0.{name}" for name in first_block], "in the order of use"
    assert last_spatial_layer(model, images_of(16)) == "layer4.1.relu:2"


def test_resumed_watching_ends_with_the_same_records():
    torch.manual_seed(0)
    model = plain_network()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, whole := Watch(model, 2), epochs=3)
    model.load_state_dict(state)
    train(model, part := Watch(model, 2), epochs=1)
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    resumed = Watch(model, 2)
    assert not torch.equal(resumed.initial_filters, whole.initial_filters)
    for parameter in model.parameters():  # of a step that was cut off
        parameter.grad = torch.ones_like(parameter)
    resumed.before_step(0)
    resumed.after_step(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    model.zero_grad()
    train(model, resumed, epochs=2, first_epoch=2)
    assert resumed.records == whole.records and [record["epoch"] for record in whole.records] == [1, 2, 3]
    assert torch.equal(resumed.initial_filters, whole.initial_filters)
    assert torch.equal(whole.initial_filters, state["0.weight"])


def test_first_filters_are_a_copy():
    model = Functional()
    filters = first_filters(model)
    assert filters.shape == (4, 3, 3, 3) and torch.equal(filters, model.conv1.weight)
    filters.zero_()
    assert model.conv1.weight.any()
    with pytest.raises(NotThere, match="no convolution"):
        first_filters(nn.Linear(2, 2))


def test_feature_maps_are_those_of_each_layer():
    torch.manual_seed(0)
    model, image = plain_network(), images_of(16)[0]
    model[1].running_mean.fill_(0.1)
    maps = feature_maps(model, image)
    model.eval()
    assert list(maps) == ["0", "2", "4", "5"]
    with torch.no_grad():
        assert torch.allclose(maps["0"], model[0](image[None])[0]), "before the ReLU worked in its place"
        assert torch.allclose(maps["4"], model[:5](image[None])[0])
    assert torch.equal(maps["5"], maps["4"].relu()) and maps["5"].shape == (6, 5, 5)
    assert list(feature_maps(model, image, ["3"])) == ["3"], "a layer that is asked for may be of any kind"
    with pytest.raises(NotThere, match="no layer 'conv'"):
        feature_maps(model, image, ["conv"])
    with pytest.raises(NotThere, match="8 gives no maps"):
        feature_maps(model, image, ["8"])
    with pytest.raises(ValueError, match="shape"):
        feature_maps(model, image[None])


def test_grad_cam_is_that_computed_by_hand():
    """Maps A and B, logits 2 mean(A) - mean(B) and mean(B): their weights are 2/4 and -1/4, and 0 and 1/4."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    model[0].weight.data = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    model[3].weight.data, model[3].bias.data = torch.tensor([[2.0, -1.0], [0.0, 1.0]]), torch.tensor([0.0, 100.0])
    pixels = torch.tensor([[4.0, 2.0], [-1.0, 0.0]]).view(1, 1, 2, 2)
    # Class 0: relu(0.5 x - 0.25 * 3 x) = relu(-0.25 x), 0.25 at the negative pixel. Class 1: relu(0.75 x).
    expected = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[1.0, 0.5], [0.0, 0.0]]])
    heat = grad_cam(model, pixels.repeat(2, 1, 1, 1), torch.tensor([0, 1]))
    assert torch.allclose(heat, expected)
    assert torch.allclose(grad_cam(model, pixels)[0], expected[1]), "class 1 is predicted"
    assert not grad_cam(model, -pixels.abs(), torch.tensor([1])).any(), "nothing speaks for class 1"


def test_grad_cam_is_enlarged_to_the_images():
    model = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(4, 2))
    model[1].weight.data.fill_(1.0)
    model[3].weight.data = torch.tensor([[1.0] * 4, [0.0] * 4])
    pixels = torch.tensor([[-6.0, 8.0], [4.0, 0.0]]).view(1, 1, 2, 2)
    images = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = F.interpolate(pixels.relu(), size=(4, 4), mode="bilinear")[0]
    assert torch.allclose(grad_cam(model, images, torch.tensor([0])), expected / expected.max())


def test_grad_cam_leaves_everything_as_it_was(network_and_size):
    """Under no_grad, with frozen parameters, with gradients that are there already, in training mode."""
    model, size = network_and_size
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    images = images_of(size).to(memory_format=torch.channels_last)
    heat = grad_cam(model, images)
    assert heat.shape == (4, size, size) and heat.min() >= 0 and heat.max() == 1
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.allclose(grad_cam(model, images), heat, atol=1e-4)
        maps = feature_maps(model, images[0])
    assert all(m.dim() == 3 for m in maps.values()) and torch.is_grad_enabled()
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in parameters)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and hooks_of(model) == 0
    assert all(part.training for part in model.modules())


def test_outputs_of_a_single_place_show_no_places():
    model = nn.Sequential(*list(plain_network())[:7], nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Flatten())
    assert last_spatial_layer(model, images_of(16)) == "5"


def test_grad_cam_works_in_inference_mode():
    torch.manual_seed(0)
    model = plain_network()
    expected = grad_cam(model, images_of(16))
    with torch.inference_mode():
        assert torch.equal(grad_cam(model, images_of(16)), expected)


def test_a_relu_in_place_is_seen_through():
    torch.manual_seed(0)
    model = plain_network().eval()
    images, heat = images_of(16), grad_cam(model, images_of(16), layer="4")
    model[5] = nn.ReLU()
    assert torch.equal(heat, grad_cam(model, images, layer="4")), "of the convolution's output, not of the ReLU's"
    assert not torch.equal(heat, grad_cam(model, images))


def test_layers_without_places_are_refused():
    model = plain_network()
    for layer, message in (("8", "gives no maps"), ("2:2", "gives no maps"), ("relu", "no layer 'relu'")):
        with pytest.raises(NotThere, match=message):
            grad_cam(model, images_of(16), layer=layer)
    with pytest.raises(NotThere, match="no layer of the network"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), images_of(2))
    assert hooks_of(model) == 0


class Failing(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt


def test_hooks_are_removed_whatever_happens():
    model = plain_network()
    model[1].eval()
    model.insert(6, Failing())
    modes = [part.training for part in model.modules()]
    for look in (
        lambda: Watch(model, 1).end_epoch(1, images_of(16)),
        lambda: feature_maps(model, images_of(16)[0]),
        lambda: grad_cam(model, images_of(16), layer="4"),
        lambda: last_spatial_layer(model, images_of(16)),
    ):
        with pytest.raises(KeyboardInterrupt):
            look()
        assert hooks_of(model) == 0 and [part.training for part in model.modules()] == modes


def looked_at(folder, model, watch, size=16, classes=10, labelled=True, wrong=True, names=None):
    """Look inside with 20 random images, and return inside.json."""
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (20, size, size, 3), dtype=np.uint8)
    labels = chance.integers(0, classes, 20)
    names = names or [f"class {number}" for number in range(classes)]
    part = Split(ArrayDataset(pixels, labels if labelled else np.full(20, -1), names, range(20)), torch.arange(20))
    batches = Batches(part, Compose([Normalize((0.5,) * 3, (0.5,) * 3)]), 8, prepare_machine("cpu", "fp32", False), 0)
    probabilities = np.full((20, classes), 0.5 / (classes - 1), dtype=np.float32)
    probabilities[range(20), (labels + np.arange(20) % 2 * wrong) % classes] = 0.5
    look_inside(folder, model, watch, batches, probabilities, names)
    return read(folder, "inside.json")


@pytest.mark.slow
def test_inside_json_holds_the_records_and_all_pictures_are_there(tmp_path):
    torch.manual_seed(0)
    model = plain_network()
    train(model, watch := Watch(model, 2))
    inside = looked_at(tmp_path, model, watch)
    assert {path.name for path in tmp_path.iterdir()} == {*PICTURES, "inside.json"}
    assert inside["epochs"] == watch.records and inside["watched_every"] == 2 and inside["skipped"] == {}
    assert inside["layers"] == {
        "0": "Conv2d",
        "1": "BatchNorm2d",
        "2": "ReLU",
        "4": "Conv2d",
        "5": "ReLU",
        "8": "Linear",
    }
    assert model.training and hooks_of(model) == 0


@pytest.mark.slow
def test_what_a_network_cannot_have_is_skipped_and_said(tmp_path, capsys):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 200))
    train(model, watch := Watch(model, 2), epochs=1)
    inside = looked_at(tmp_path, model, watch, classes=200, labelled=False)
    skipped = {"filters.png", "feature_maps.png", "grad_cam.png"}
    assert set(inside["skipped"]) == skipped
    assert {path.name for path in tmp_path.iterdir()} == {*PICTURES - skipped, "inside.json"}
    assert "no filters.png: the network has no convolution" in capsys.readouterr().out


@pytest.mark.slow
def test_without_training_there_is_still_something_to_see(tmp_path):
    model = Functional()
    inside = looked_at(tmp_path, model, Watch(model, 1), classes=2, wrong=False, names=["$a$", "b" * 80])
    assert set(inside["skipped"]) == {"gradients.png", "updates.png", "activations.png"} and inside["epochs"] == []
    assert (tmp_path / "grad_cam.png").exists() and (tmp_path / "feature_maps.png").exists()


@pytest.fixture
def figures(monkeypatch):
    """The figures that would have been saved."""
    saved = []
    monkeypatch.setattr("common.figures.save_figure", lambda figure, path, title="": saved.append(figure))
    return saved


def records_of(layers, epochs, value=1e-3):
    """The first layer has a gradient norm of 1, each next one a tenth of the one before; all else is `value`."""
    numbers = dict.fromkeys(KEYS, value)
    of_layers = {f"layer {layer}": numbers | {"gradient_norm": 10.0**-layer} for layer in range(layers)}
    return [{"epoch": epoch, "layers": dict(of_layers)} for epoch in range(1, epochs + 1)]


def test_few_layers_are_lines_with_their_values(figures):
    draw_gradients(None, records_of(5, 3), {"layer 0": "Conv2d"})
    draw_updates(None, records_of(5, 3), {})
    (gradients,), (updates,) = (figure.axes for figure in figures)
    assert [line.get_ydata().tolist() for line in gradients.lines] == [[10.0**-layer] * 3 for layer in range(5)]
    assert gradients.get_yscale() == updates.get_yscale() == "log"
    assert [text.get_text() for text in figures[0].legends[0].texts][:2] == ["layer 0 Conv2d", "layer 1"]
    assert list(updates.lines[-1].get_ydata()) == [1e-3, 1e-3] and len(updates.lines) == 6


def test_many_layers_are_a_heat_map_with_all_their_names(figures):
    records = records_of(60, 3)
    records[0]["layers"]["layer 7"] = dict.fromkeys(KEYS)
    for draw in (draw_gradients, draw_updates, draw_activations):
        draw(None, records, {})
    for figure in figures:
        axes = figure.axes[0]
        assert [label.get_text().strip() for label in axes.get_yticklabels()] == [f"layer {row}" for row in range(60)]
        shown = axes.images[0].get_array()
        assert shown.shape == (60, 3) and shown.mask.sum() == 1 and shown.mask[7, 0], "frozen is not 0"
    center = figures[1].axes[0].images[0].norm(1e-3)
    assert center == pytest.approx(0.5), "the rule of thumb is white"


def test_values_that_are_all_zero_or_not_there_are_drawn(figures):
    draw_updates(None, records_of(20, 1, value=0.0), {})
    draw_activations(None, records_of(3, 1, value=0.0), {})
    with pytest.raises(NotThere, match="no step"):
        draw_gradients(None, [{"epoch": 1, "layers": {"a": dict.fromkeys(KEYS)}}], {})
    with pytest.raises(NotThere, match="no outputs"):
        draw_activations(None, [], {})


class Turned(nn.Module):
    """Swaps the places of the channels of an output, as ConvNeXt and Swin do."""

    def __init__(self, to_last):
        super().__init__()
        self.dims = (0, 2, 3, 1) if to_last else (0, 3, 1, 2)

    def forward(self, inputs):
        return inputs.permute(self.dims)


def twins():
    """Return two networks that compute the same, with the channels second and last in their middle."""
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 6, 3), nn.Linear(5, 4)
    wide = nn.Linear(6, 5)
    narrow = nn.Conv2d(6, 5, 1)
    narrow.weight.data, narrow.bias.data = wide.weight.data[:, :, None, None], wide.bias.data
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    second = nn.Sequential(stem, nn.Identity(), narrow, nn.GELU(), nn.Identity(), *end)
    return second, nn.Sequential(stem, Turned(True), wide, nn.GELU(), Turned(False), *end)


def test_networks_with_their_channels_last_are_looked_into_like_others():
    second, last = twins()
    images = torch.randn(3, 3, 10, 12)
    assert last_spatial_layer(second, images) == last_spatial_layer(last, images) == "3"
    for layer in (None, "2", "4"):
        torch.testing.assert_close(grad_cam(last, images, layer=layer), grad_cam(second, images, layer=layer))
    one, other = feature_maps(second, images[0]), feature_maps(last, images[0])
    torch.testing.assert_close(one["3"], other["3"])
    assert feature_maps(last, images[0], ["2"])["2"].shape == (5, 8, 10)
    for network in twins():
        with torch.no_grad():
            network[2].bias[:2] = -1000  # two of five units are dead
        assert Watch(network, 1).end_epoch(1, images)["layers"]["3"]["dead_share"] == pytest.approx(2 / 5)
