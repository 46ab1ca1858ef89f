"""Pretrained weights: from the network, and from every kind of checkpoint."""

import hashlib
import io
import re
import sys
from argparse import Namespace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import FEATURES, TinyResNet, closed_port, safetensors, send, serving, without_pictures, write_class
from torch import nn
from torchvision import models

import ex_4
import predict
import trainB
from common.models.finetuning import FineTuned, stages_of
from common.models.pretrained import RESNETS, backbone_of, find_weights, head_of, imagenet_weights, named_network
from common.models.weights import load_matching, read_weights
from common.system.checkpoints import save_checkpoint
from common.system.errors import BadInput

CLASSES = ["cat", "dog", "frog"]


def small_model(classes=3):
    """A network whose head is new each time."""
    head = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, classes))
    return FineTuned(TinyResNet(FEATURES), head)


def prefixed(weights, prefix):
    return {prefix + name: tensor for name, tensor in weights.items()}


PUBLISHED = TinyResNet(FEATURES).state_dict()
IN_BACKBONE = len(PUBLISHED)
PUBLISHED |= {"fc.weight": torch.rand(1000, FEATURES), "fc.bias": torch.rand(1000)}


OF_TORCHVISION = [
    ("resnet18", "fc", 512, ["layer4", "layer3", "layer2", "layer1"]),
    ("squeezenet1_1", "classifier.1", 512, ["features.12", "features.11"]),
    ("vit_b_32", "heads.head", 768, ["encoder.layers.encoder_layer_11", "encoder.layers.encoder_layer_10"]),
]
OTHERS = [
    ("mobilenet_v3_small", "classifier.3", 1024, ["features.12", "features.11"]),
    ("vgg13_bn", "classifier.6", 4096, ["classifier", "features"]),
    ("regnet_y_400mf", "fc", 440, ["trunk_output.block4", "trunk_output.block3"]),
]


@pytest.mark.parametrize(
    ("name", "head", "features", "stages"),
    [*OF_TORCHVISION, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)],
)
def test_networks_of_torchvision_have_a_head_and_stages(name, head, features, stages):
    with torch.device("meta"):
        network = named_network(name, 224, 7)
        backbone, count = backbone_of(name, 224)
    assert head_of(network) == head and network.state_dict()[f"{head}.weight"].shape[0] == 7
    assert count == features and f"{head}.weight" not in backbone.state_dict()
    names = {part: name for name, part in backbone.named_modules()}
    assert [names[part] for part in stages_of(backbone, 2)][: len(stages)] == stages
    tensors = {name: tensor.to("meta") for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]}
    images = torch.empty(2, 3, 224, 224, device="meta")
    assert torch.func.functional_call(backbone, tensors, images).shape == (2, features)


def test_what_a_network_has_not_is_one_line():
    with torch.device("meta"):
        with pytest.raises(BadInput, match="--model vit_b_32 takes no images of 32x32 pixels, as they are here"):
            named_network("vit_b_32", 32)
        with pytest.raises(BadInput, match="this network has only 2 stages that can be told apart, and 3 are needed"):
            stages_of(named_network("vgg13_bn", 64), 3)
    with pytest.raises(BadInput, match="there are none of vit_h_14 here; give a file"):
        imagenet_weights("vit_h_14")
    with pytest.raises(BadInput, match="there are none of timm:resnet18 here; give a file"):
        imagenet_weights("timm:resnet18")


def test_a_network_of_timm(monkeypatch):
    with pytest.raises(BadInput, match="timm:x needs timm, which is not installed: pip install timm"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        trainB.parse_options(["--model", "timm:x"])

    def create_model(name, pretrained, num_classes):
        if name != "x":
            raise RuntimeError(f"Unknown model ({name})")
        return nn.Sequential(TinyResNet(FEATURES), nn.Linear(FEATURES, num_classes))

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    backbone, features = backbone_of("timm:x", 32)
    assert features == FEATURES and backbone(torch.zeros(2, 3, 32, 32)).shape == (2, FEATURES)
    with pytest.raises(BadInput, match=r"Unknown model \(y\); timm.list_models\(\) has the names"):
        named_network("timm:y", 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto"])
def test_real_networks_of_timm(name):
    pytest.importorskip("timm")
    backbone, features = backbone_of(f"timm:{name}", 64)
    assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, features)
    with pytest.raises(BadInput, match="takes no images of 64x64 pixels, as they are here"):
        named_network("timm:vit_tiny_patch16_224", 64)
    with pytest.raises(BadInput, match=r"timm.list_models\(\) has the names"):
        named_network("timm:resnet10_not_there", 64)


def test_a_densenet_with_the_names_of_the_published_file(tmp_path, capsys):
    stored, model = (models.DenseNet(2, (1, 2), 4, bn_size=1, num_classes=3) for _ in range(2))
    weights = {re.sub(r"(denselayer\d\.(norm|conv))", r"\1.", name): tensor for name, tensor in
               without_counters(stored.state_dict()).items()}  # fmt: skip
    assert "features.denseblock1.denselayer1.norm.1.weight" in weights
    torch.save(weights, tmp_path / "a.pth")
    load_matching(model, str(tmp_path / "a.pth"), CLASSES, "classifier", is_trained=False)
    assert same(model.state_dict(), stored.state_dict())


def test_every_resnet_of_torchvision_has_its_name_and_its_weights():
    names = {
        name for name in models.list_models() if models.get_model_builder(name).__module__ == models.resnet.__name__
    }
    assert set(RESNETS) == names
    for name in RESNETS:
        assert models.get_model_weights(name).IMAGENET1K_V1.url.endswith(".pth")


@pytest.mark.parametrize(
    "content",
    [
        PUBLISHED,
        {"model": PUBLISHED, "epoch": 3},
        {"state_dict": prefixed(PUBLISHED, "module."), "best_acc1": torch.tensor(76.1)},
        {"net": prefixed(PUBLISHED, "_orig_mod."), "acc": 93.0},
        {"model": prefixed(PUBLISHED, "module._orig_mod.")},
        prefixed(PUBLISHED, "_orig_mod.module."),
        prefixed(PUBLISHED, "backbone."),
        {"state_dict": {name: tensor.half() for name, tensor in PUBLISHED.items()}},
        {"model_state_dict": PUBLISHED, "optimizer_state_dict": {"state": {0: {"step": torch.ones(3)}}}},
        {"model_state": PUBLISHED},
        {"weights": PUBLISHED},
        {"epoch": 3, "student": PUBLISHED},
        {"model": {"state_dict": PUBLISHED}, "class_weights": torch.ones(3)},
        {"state_dict": prefixed(PUBLISHED, "model.") | {"loss.weight": torch.ones(3)}, "hyper_parameters": {"lr": 1}},
        *(prefixed(PUBLISHED, prefix) for prefix in ("net.", "encoder.", "base_model.", "learner.model.backbone.")),
        {"model": PUBLISHED, "args": Namespace(lr=0.1, out=Path("here"), best=np.float64(3)), "time": datetime.now()},
        {"model": {"n_averaged": torch.tensor(5)} | prefixed(PUBLISHED, "module.")},
    ],
)
def test_a_backbone_is_loaded_from_every_kind_of_checkpoint(tmp_path, capsys, content):
    torch.save(content, tmp_path / "a.pth")
    model = small_model()
    head = model.head[0].weight.clone()
    load_matching(model, str(tmp_path / "a.pth"), CLASSES)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.allclose(tensor.float(), PUBLISHED[name].float(), rtol=1e-3, atol=1e-3), name
    assert torch.equal(model.head[0].weight, head)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{IN_BACKBONE} of {IN_BACKBONE + 4} tensors are from {tmp_path / 'a.pth'}")
    assert "another shape: 4 (head.0.weight, head.0.bias, head.2.weight, head.2.bias)" in line
    unused = line.partition("not used of it: ")[2]
    assert "fc.weight" in unused and "fc.bias" in unused and unused[0] in "23"


def without_counters(weights):
    return {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}


def as_in_another_repository(weights):
    """The names of github.com/kuangliu/pytorch-cifar."""
    return {name.replace("downsample", "shortcut").replace("fc.", "linear."): weights[name] for name in weights}


@pytest.mark.parametrize("change", [without_counters, pytest.param(as_in_another_repository, marks=pytest.mark.slow)])
def test_all_of_a_resnet_without_counters_or_with_other_names_is_loaded(tmp_path, capsys, change):
    options = ex_4.parse_options([])
    stored, model = (ex_4.build_model(options, len(CLASSES)) for _ in range(2))
    torch.save(change(stored.state_dict()), tmp_path / "a.pth")
    load_matching(model, str(tmp_path / "a.pth"), CLASSES, "fc", is_trained=False)
    assert same(model.state_dict(), stored.state_dict())
    [line] = capsys.readouterr().out.splitlines()
    counters = " (without 20 counters of batches, which nothing needs)" if change is without_counters else ""
    loaded = 102 if counters else 122
    file = tmp_path / "a.pth"
    assert line == (
        f"{loaded} of 122 tensors are from {file}{counters}; not in it, or of another shape: none; not used of it: none"
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_average_is_taken_by_choice_and_what_was_taken_is_said(tmp_path, capsys):
    average = {"n_averaged": torch.tensor(3)} | prefixed({name: 0 * PUBLISHED[name] for name in PUBLISHED}, "module.")
    torch.save({"model": PUBLISHED, "model_ema": average, "epoch": 7}, tmp_path / "a.pth")
    model = small_model()
    load_matching(model, str(tmp_path / "a.pth"), CLASSES)
    assert torch.equal(model.backbone.conv1.weight, PUBLISHED["conv1.weight"])
    assert f"{tmp_path / 'a.pth'} (model; it has model_ema too (--weights_key))" in capsys.readouterr().out
    load_matching(model, str(tmp_path / "a.pth"), CLASSES, key="model_ema")
    assert not model.backbone.conv1.weight.any()
    assert f"{tmp_path / 'a.pth'} (model_ema; it has model too (--weights_key))" in capsys.readouterr().out


def test_weights_that_have_to_be_chosen_are_listed(tmp_path):
    torch.save({"student": PUBLISHED, "teacher": {"net": PUBLISHED}, "epoch": 7}, tmp_path / "a.pth")
    for key, problem in ((None, "no weights by name"), ("ema", "no weights of that name")):
        with pytest.raises(BadInput, match=problem) as refused:
            load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES, key=key)
        assert str(refused.value).endswith("choose with --weights_key: student, teacher.net")
    for key in ("student", "teacher", "teacher.net"):
        load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES, key=key)


def test_a_dict_that_is_there_a_million_times_takes_no_time(tmp_path):
    content = PUBLISHED
    for _ in range(3):
        content = {f"k{number}": content for number in range(300)}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(BadInput, match="choose with --weights_key: k0.k0.k0, k0.k0.k1,"):
        load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES)


def test_safetensors_are_read(tmp_path):
    others = {"half": torch.ones(3).half(), "none": torch.empty(0), "one": torch.ones(()).bool()}
    (tmp_path / "a").write_bytes(safetensors(PUBLISHED | others))
    model = small_model()
    load_matching(model, str(tmp_path / "a"), CLASSES)
    assert same(read_weights(str(tmp_path / "a")).tensors, PUBLISHED | others)
    assert same(model.backbone.state_dict(), {name: PUBLISHED[name] for name in model.backbone.state_dict()})


@pytest.mark.parametrize(
    "content",
    [
        safetensors(PUBLISHED)[:-4],
        safetensors(PUBLISHED)[:500],
        safetensors(PUBLISHED, a={"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}),
        safetensors(PUBLISHED, a={"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}),
        safetensors(PUBLISHED, a={"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}),
        safetensors(PUBLISHED, a={"dtype": "F32", "shape": [1], "data_offsets": [0, 3]}),
        safetensors(PUBLISHED, a={"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}),
        safetensors(PUBLISHED, a={"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}),
        safetensors(PUBLISHED, a={"dtype": "F32", "shape": None, "data_offsets": [0, 4]}),
        safetensors(PUBLISHED, a={"dtype": "F32"}),
        safetensors(PUBLISHED, a=3),
        (9).to_bytes(8, "little") + b"{" + bytes(20),
        (2).to_bytes(8, "little") + b"{}" + bytes(20),
    ],
)
def test_safetensors_that_cannot_be_are_one_line(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(BadInput) as refused:
        load_matching(small_model(), str(tmp_path / "a.safetensors"), CLASSES)
    assert str(tmp_path / "a.safetensors") in str(refused.value) and str(refused.value).isprintable()


def test_tensors_that_lie_over_each_other_take_no_memory(tmp_path):
    entry = {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}
    header = dict.fromkeys((f"a{number}" for number in range(1000)), entry)
    (tmp_path / "a.safetensors").write_bytes(safetensors({"a": torch.zeros(1000)}, **header))
    with pytest.raises(BadInput, match="cut off or damaged"):
        load_matching(small_model(), str(tmp_path / "a.safetensors"), CLASSES)


def changed(name, tensor):
    return PUBLISHED | {name: tensor}


STAGES = {name: tensor for name, tensor in PUBLISHED.items() if name.startswith("layer")}
OF_OTHERS = {
    "architecture": ({"features.0.weight": torch.zeros(3)}, "it has features.0.weight where backbone.conv1.weight is"),
    "shape": (TinyResNet(2 * FEATURES).state_dict(), "have another shape: backbone.conv1.weight has the shape [32, 3"),
    "deeper": ({name.replace(".0.", ".1.", 1): STAGES[name] for name in STAGES} | PUBLISHED,
               "have no place in it, such as layer1.1.conv1.weight"),
    "less deep": ({name: PUBLISHED[name] for name in PUBLISHED if name[:6] not in ("layer2", "layer3", "layer4")},
                  "are missing, such as backbone.layer2.0.conv1.weight"),
    "not a number": (changed("bn1.bias", torch.full((FEATURES,), torch.nan)), "bn1.bias holds a number that is not"),
    "infinite": (changed("bn1.bias", 1e300 * torch.ones(FEATURES).double()), "bn1.bias holds a number that is not"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_OTHERS)
def test_weights_of_another_network_are_refused_with_what_differs(tmp_path, kind):
    content, reason = OF_OTHERS[kind]
    torch.save(content, tmp_path / "a.pth")
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(BadInput) as refused:
        load_matching(model, str(tmp_path / "a.pth"), CLASSES)
    assert reason in str(refused.value) and str(tmp_path / "a.pth") in str(refused.value)
    assert same(model.state_dict(), before)


def test_what_only_evaluates_needs_a_head(tmp_path):
    torch.save(PUBLISHED, tmp_path / "a.pth")
    with pytest.raises(BadInput, match="-e 0 only evaluates") as refused:
        load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES, is_trained=False)
    assert "4 (head.0.weight, head.0.bias" in str(refused.value)
    torch.save(small_model().state_dict(), tmp_path / "a.pth")
    load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES, is_trained=False)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0", b"<html>"])
def test_a_text_is_shown(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(BadInput, match="it is text: (version https://git-lfs.github.com/spec/v1|<html>)\\)"):
        load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("save", [torch.save, lambda model, path: torch.jit.script(model).save(path)])
def test_a_whole_network_says_how_to_get_its_weights(tmp_path, save):
    save(nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(BadInput, match="torch.nn.modules.linear.Linear|TorchScript") as refused:
        load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES)
    assert str(refused.value).endswith("torch.save(model.state_dict(), FILE)")


def test_our_own_checkpoint_is_loaded_whole_and_its_seal_checked(tmp_path, capsys):
    trained, model = small_model(), small_model()
    trained.backbone.conv1.weight.data.zero_()
    path = tmp_path / "best.pth"
    save_checkpoint(path, {"model": trained.state_dict(), "config": {"classes": CLASSES}})
    load_matching(model, str(path), CLASSES)
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in model.state_dict().items())
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{IN_BACKBONE + 4} of {IN_BACKBONE + 4} tensors") and line.count("none") == 2
    other = small_model()
    head = [tensor.clone() for tensor in other.head.state_dict().values()]
    load_matching(other, str(path), ["ant", "bee", "fly"])
    assert all(torch.equal(*pair) for pair in zip(head, other.head.state_dict().values(), strict=True))
    assert torch.equal(other.backbone.conv1.weight, trained.backbone.conv1.weight)
    [line] = capsys.readouterr().out.splitlines()
    assert "trained for other classes: 3 (cat, dog, frog)" in line and "4 (head.0.weight" in line
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="checksum"):
        load_matching(model, str(path), CLASSES)


def test_a_head_for_another_number_of_classes_is_left_out_whole(tmp_path, capsys):
    trained, model = small_model(classes=5), small_model()
    trained.backbone.conv1.weight.data.zero_()
    head = [tensor.clone() for tensor in model.head.state_dict().values()]
    save_checkpoint(tmp_path / "best.pth", {"model": trained.state_dict(), "config": {"classes": list("abcde")}})
    load_matching(model, str(tmp_path / "best.pth"), CLASSES)
    assert all(torch.equal(*pair) for pair in zip(head, model.head.state_dict().values(), strict=True))
    assert torch.equal(model.backbone.conv1.weight, trained.backbone.conv1.weight)
    [line] = capsys.readouterr().out.splitlines()
    assert "4 (head.0.weight" in line.partition("not used")[0] and "4 (head.0.weight" in line.partition("not used")[2]


def test_a_backbone_that_is_incomplete_is_a_warning(tmp_path, capsys):
    part = {name: tensor for name, tensor in PUBLISHED.items() if not name.startswith("layer4.")}
    torch.save(part | {"conv1.weight": torch.zeros(16, 1, 7, 7)}, tmp_path / "a.pth")
    load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES)
    [line] = capsys.readouterr().out.splitlines()
    assert (
        line.startswith(f"warning: {IN_BACKBONE - 12 - 1} of {IN_BACKBONE + 4} tensors")
        and "backbone.conv1.weight" in line
    )


def test_a_file_without_counters_of_batches_is_complete(tmp_path, capsys):
    old = without_counters(PUBLISHED)
    torch.save(old, tmp_path / "a.pth")
    load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES)
    assert capsys.readouterr().out.startswith(f"{len(old) - 2} of {IN_BACKBONE + 4} tensors are from")


@pytest.mark.parametrize(
    "content",
    [
        {}, {"a": torch.zeros(3)}, {"model": {"0.weight": torch.zeros(3)}}, [1, 2], torch.zeros(3), {"model": 3},
        {name: tensor for name, tensor in PUBLISHED.items() if name.endswith("num_batches_tracked")},
        dict.fromkeys(PUBLISHED, 3),
    ],
)  # fmt: skip
def test_a_file_in_which_nothing_fits_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(BadInput, match="fit this network") as refused:
        load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES)
    assert str(tmp_path / "a.pth") in str(refused.value)


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for content in ({"model": Trap()}, {"model": PUBLISHED, "args": Namespace(trap=Trap())}):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(BadInput, match="safely"):
            load_matching(small_model(), str(tmp_path / "a.pth"), CLASSES)
    assert not (tmp_path / "sprung").exists()


def saved(weights):
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


FILE = saved(PUBLISHED)
NAME = f"resnet18-{hashlib.sha256(FILE).hexdigest()[:8]}.pth"


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A function that lets ImageNet weights of resnet18 come from this machine, as `answer` says; an empty cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def at(port, name=NAME):
        value = models.ResNet18_Weights.IMAGENET1K_V1.value
        monkeypatch.setattr(value, "url", f"http://127.0.0.1:{port}/models/{name}")

    at(closed_port())
    return at


def test_imagenet_weights_are_downloaded_once(served, tmp_path):
    place = tmp_path / "torch" / "hub" / "checkpoints" / NAME
    with serving(lambda handler: send(handler, FILE)) as (server, asked):
        served(server.server_port)
        assert [imagenet_weights("resnet18") for _ in range(2)] == [str(place)] * 2
    assert asked == [f"/models/{NAME}"]
    assert [path.name for path in place.parent.iterdir()] == [NAME]
    assert find_weights("imagenet", "resnet18") == str(place)
    assert find_weights("none", "resnet18") is None
    assert find_weights("/a/file", "resnet18") == "/a/file"


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: send(handler, FILE[:-100], announced=len(FILE)),
        lambda handler: send(handler, FILE[:5000] + b"?" + FILE[5001:]),
        lambda handler: send(handler, b"<html>log in first</html>"),
        lambda handler: send(handler, b"no such page", status=404),
    ],
)
def test_a_failed_download_is_one_line_with_every_way_out_and_leaves_nothing(served, tmp_path, answer):
    with serving(answer) as (server, _):
        served(server.server_port)
        with pytest.raises(BadInput) as refused:
            imagenet_weights("resnet18")
    line = str(refused.value)
    assert f"http://127.0.0.1:{server.server_port}/models/{NAME}" in line
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / NAME) in line
    assert "--weights FILE" in line and "--weights none" in line
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_without_network_nothing_is_made(served, tmp_path):
    with pytest.raises(BadInput, match="refused"):
        imagenet_weights("resnet18")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_to_is_bad_input(served, tmp_path):
    (tmp_path / "torch").write_text("a file where a folder should be")
    with serving(lambda handler: send(handler, FILE)) as (server, _):
        served(server.server_port)
        with pytest.raises(BadInput, match="--weights FILE"):
            imagenet_weights("resnet18")


def test_a_damaged_file_in_the_cache_is_named(served, tmp_path):
    place = tmp_path / "torch" / "hub" / "checkpoints" / NAME
    place.parent.mkdir(parents=True)
    place.write_bytes(FILE[:-1])
    with pytest.raises(BadInput, match="damaged") as refused:
        imagenet_weights("resnet18")
    assert str(place) in str(refused.value)


@pytest.mark.slow
def test_trainb_starts_from_imagenet_weights_by_default(served, tmp_path):
    published = models.resnet18().state_dict()
    content = saved(published)
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    with serving(lambda handler: send(handler, content)) as (server, _):
        served(server.server_port, name)
        options = ["--dataset", "digits", "--model", "resnet18", "--image_size", "32", "--limit", "20", "-e", "1"]
        folder = without_pictures([*options, "--output_dir", str(tmp_path)], trainB)
    trained = torch.load(folder / "best.pth", weights_only=True)["model"]
    assert all(torch.equal(trained[f"backbone.{name}"], published[name]) for name in published if "fc" not in name)


@pytest.mark.slow
def test_ex_4_starts_from_published_weights_without_counters(served, tmp_path, capsys):
    for number, name in enumerate("ab"):
        write_class(tmp_path / "images" / name, 8, first_seed=8 * number)
    published = without_counters(models.resnet18().state_dict())
    content = saved(published)
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    words = ["--data", str(tmp_path / "images"), "--pretrained", "True", "-lr", "1e-30", "-e", "1", "-b", "4"]
    with serving(lambda handler: send(handler, content)) as (server, asked):
        served(server.server_port, name)
        folder = without_pictures([*words, "--output_dir", str(tmp_path / "out")], ex_4)
    assert len(asked) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if "tensors" in line]
    assert line.startswith("100 of 122 tensors are from ")
    trained = torch.load(folder / "best.pth", weights_only=True)["model"]
    convs = [name for name in published if published[name].dim() == 4]
    assert len(convs) == 20 and all(torch.allclose(trained[name], published[name]) for name in convs)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["head", "last"])
def test_a_network_that_is_no_resnet_is_fine_tuned_and_predicts(tmp_path, capsys, strategy):
    for number, name in enumerate("ab"):
        write_class(tmp_path / "images" / name, 8, first_seed=8 * number)
    (tmp_path / "a.safetensors").write_bytes(safetensors(models.get_model("mobilenet_v3_small").state_dict()))
    given = {"--data": tmp_path / "images", "--weights": tmp_path / "a.safetensors", "--model": "mobilenet_v3_small"}
    words = [str(word) for pair in given.items() for word in pair]
    words += ["--strategy", strategy, "--image_size", "32", "-e", "1", "-b", "4"]
    folder = without_pictures([*words, "--output_dir", str(tmp_path / "out")], trainB)
    assert "242 of 246 tensors are from " in capsys.readouterr().out
    predict.main([str(folder), str(tmp_path / "images" / "a" / "000.png")])
    assert trainB.main(["--resume", str(folder)]) == folder


class TwoHeads(nn.Module):
    """Tells the classes by the mean of two layers, as distilled networks do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.one, self.two = nn.Linear(6, 9), nn.Linear(6, 9)

    def forward(self, inputs):
        features = self.body(inputs)
        return (self.one(features) + self.two(features)) / 2


def test_a_network_with_two_heads_is_refused_as_a_backbone(monkeypatch):
    monkeypatch.setattr("common.models.pretrained.named_network", lambda *_: TwoHeads())
    with pytest.raises(BadInput, match="its last layer does not tell the classes alone"):
        backbone_of("timm:deit_tiny_distilled_patch16_224", 32)
