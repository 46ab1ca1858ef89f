"""trainB: what each strategy trains and leaves alone, the features that are kept, and how a run is resumed."""

import math

import numpy as np
import pytest
import torch
from helpers import (
    FEATURES,
    ROOT,
    TinyResNet,
    closed_port,
    command,
    environment,
    interrupt,
    read,
    same_result,
    without_pictures,
    write_class,
)

import trainB
from common.data.index import SHARED
from common.models.finetuning import Rescaler, train_only
from common.models.pretrained import backbone_of
from common.system.errors import BadInput
from common.transforms.basic import Compose, Resize

CLASSES = ["bird", "cat", "dog"]
SMALL = ["--model", "resnet18", "--image_size", "32", "-b", "8", "-e", "2", "-lr", "1e-3"]


@pytest.fixture(scope="module", autouse=True)
def tiny_network():
    """A network that takes no time instead of the chosen one, and one thread: more only wait for each other then."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainB, "backbone_of", lambda *_: (TinyResNet(FEATURES), FEATURES))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Class folders of little photographs that are no squares, told apart by their color."""
    root = tmp_path_factory.mktemp("data") / "photographs"
    for part, count, seed in (("train", 10, 0), ("val", 4, 100)):
        for label, name in enumerate(CLASSES):
            tint = [120 * (channel == label) for channel in range(3)]
            write_class(root / part / name, count, seed + 10 * label, 40, 48, tint=tint)
    return root


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A file with weights, running statistics among them, that are no network's beginning."""
    torch.manual_seed(7)
    model = trainB.build_model(trainB.parse_options([*SMALL, "--strategy", "rescale"]), len(CLASSES))
    weights = model.state_dict()
    for name, tensor in weights.items():
        if name.endswith(("running_mean", "running_var", "after.weight")):
            tensor.add_(torch.rand_like(tensor) / 10)
    path = tmp_path_factory.mktemp("weights") / "start.pth"
    torch.save(weights, path)
    return path


@pytest.fixture
def train(photographs, start, tmp_path):
    """A function that runs trainB with options and returns the run folder."""

    def run(*options):
        given = ["--data", photographs, "--weights", start, "--output_dir", tmp_path]
        return without_pictures([*SMALL, *map(str, given), *map(str, options)], trainB)

    return run


def weights_in(path):
    loaded = torch.load(path, weights_only=True)
    return loaded.get("model", loaded)


def changed_parts(before, after):
    """Return the parts of the network of which any tensor, running statistics included, has other bits."""
    names = {name for name in after if not torch.equal(before[name], after[name])}
    return {".".join(name.split(".")[: 1 if name.startswith(("head", "rescaler")) else 2]) for name in names}


STAGES = {f"backbone.layer{number}" for number in (1, 2, 3, 4)}
BACKBONE = STAGES | {"backbone.conv1", "backbone.bn1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "first_epoch", "in_the_end"),
    [
        (["--strategy", "head"], {"head"}, {"head"}),
        (["--strategy", "last"], {"head", "backbone.layer4"}, {"head", "backbone.layer4"}),
        (["--strategy", "last", "--last", "3"], {"head", *sorted(STAGES)[1:]}, {"head", *sorted(STAGES)[1:]}),
        (["--strategy", "all"], {"head"} | BACKBONE, {"head"} | BACKBONE),
        (["--strategy", "staged"], {"head"}, {"head"} | BACKBONE),
        (["--strategy", "rescale"], {"rescaler"}, {"rescaler", "head"} | BACKBONE),
    ],
)
def test_each_strategy_trains_its_parts_and_leaves_the_others_bit_for_bit(
    train, start, options, first_epoch, in_the_end
):
    folder = train(*options, "--stage_epochs", "1", "-wd", "0.5", "--optimizer", "adamw", "--save_every", "1")
    before = weights_in(start)
    assert changed_parts(before, weights_in(folder / "epoch-1.pth")) == first_epoch
    assert changed_parts(before, weights_in(folder / "epoch-2.pth")) == in_the_end


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_the_head_has_the_parameters_of_the_report(monkeypatch):
    monkeypatch.setattr(trainB, "backbone_of", backbone_of)
    options = trainB.parse_options([])
    model = trainB.build_model(options, 10)
    train_only(model, trainB.trained_parts(model, options, epoch=1))
    assert trainable(model) == 4_216_842
    assert trainable(model) == 2048 * 2048 + 2048 + 2048 * 10 + 10


def test_stages_learn_more_slowly_the_deeper_they_lie():
    options = trainB.parse_options([*SMALL, "--strategy", "last", "--last", "3", "--stage_lr_factor", "0.5"])
    model = trainB.build_model(options, 3)
    parts = trainB.trained_parts(model, options, epoch=math.inf)
    groups = trainB.discriminative_lrs(parts, options.lr, options.stage_lr_factor)
    assert [group["lr"] for group in groups] == [1e-3, 5e-4, 2.5e-4, 1.25e-4]
    backbone = model.backbone
    for group, part in zip(groups, [model.head, backbone.layer4, backbone.layer3, backbone.layer2], strict=True):
        assert [*map(id, group["params"])] == [*map(id, part.parameters())]


def test_rates_of_stages_reach_the_optimizer(train):
    folder = train("--strategy", "last", "--last", "2", "-e", "1")
    groups = torch.load(folder / "last.pth", weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 3e-4, 9e-5])


def records(folder):
    """Return the records of all epochs without times."""
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    return [[record[name] for name in names] for record in read(folder, "train.json")["epochs"]]


@pytest.mark.slow
def test_views_are_the_augmentations_of_the_first_epochs(train):
    one, two = (records(train("--input", "crop", "--views", views, "-e", "3", "-lr", "1e-9")) for views in (1, 2))
    losses = [[record[0] for record in run] for run in (one, two)]
    # At so low a rate the loss tells images apart, but for dropout; see the next test for the images alone.
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


def test_a_view_is_seen_again_after_all_views(train):
    losses = [record[0] for record in records(train("-e", "5", "--views", "2", "-lr", "1e-12", "-d", "0", "-b", "24"))]
    assert losses[0] == pytest.approx(losses[2], rel=1e-6) and losses[1] == pytest.approx(losses[3], rel=1e-6)
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_without_augmentation_kept_features_are_exact(train, monkeypatch):
    kept = train("--augment", "False", "--views", "3")
    assert "are kept in 1 view(s)" in (kept / "log.txt").read_text()
    monkeypatch.setattr(trainB, "FeatureBatches", lambda images, *_, **__: images)
    computed = train("--augment", "False")
    assert "are kept" not in (computed / "log.txt").read_text()
    assert np.allclose(records(kept), records(computed), rtol=1e-5, atol=0)
    last = [weights_in(folder / "last.pth") for folder in (kept, computed)]
    assert all(torch.allclose(last[0][name], last[1][name], rtol=1e-4, atol=1e-6) for name in last[0])


@pytest.mark.slow
def test_in_its_first_epochs_a_kept_view_is_what_the_epoch_would_see(train, monkeypatch):
    kept = train("--input", "crop", "--views", "2")
    monkeypatch.setattr(trainB, "FeatureBatches", lambda images, *_, **__: images)
    assert np.allclose(records(kept), records(train("--input", "crop")), rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_frozen_backbone_is_run_once_and_in_a_search_once_for_all_trials(train, monkeypatch, tmp_path):
    seen = []
    honest = trainB.backbone_of

    def counted(*which):
        backbone, features = honest(*which)
        backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
        return backbone, features

    monkeypatch.setattr(trainB, "backbone_of", counted)
    monkeypatch.setattr("common.models.placement._takes", lambda *_: True)
    monkeypatch.setattr("common.models.precision.operations", lambda *_: 0)
    monkeypatch.setattr("common.runs.run.summarize", lambda *_: "")
    monkeypatch.setattr("common.runs.config.cost", lambda *_: {"flops": 0})
    train("-e", "5", "--views", "2")
    assert sum(seen) == 2 * 24 + 6 + 12  # two views of the training images, validation images once, test images once
    monkeypatch.setenv(SHARED, str(tmp_path))
    alone = train("--views", "2", "-lr", "1e-2")
    seen.clear()
    again = train("--views", "2", "-lr", "1e-2")
    assert sum(seen) == 12 and same_result(alone, again)
    for path in tmp_path.glob("*.features"):
        path.write_bytes(b"damaged")
    assert same_result(alone, train("--views", "2", "-lr", "1e-2"))
    assert sum(seen) == 12 + 2 * 24 + 6 + 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["head"],
        ["last", "--last", "2"],
        ["staged", "--stage_epochs", "2", "--optimizer", "sgd"],
        ["all"],
        ["rescale", "--stage_epochs", "1"],
    ],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one_without_the_file_it_began_with(
    train, start, tmp_path, monkeypatch, options
):
    begin = tmp_path / "begin.pth"
    begin.write_bytes(start.read_bytes())
    options = ["--strategy", *options, "--weights", begin, "-e", "3", "--schedule", "cosine"]
    whole = train(*options)
    interrupted = interrupt(lambda: train(*options), tmp_path, 2)
    begin.unlink()
    without_pictures(["--resume", str(interrupted)], trainB)
    assert same_result(interrupted, whole)


@pytest.mark.slow
def test_a_run_interrupted_in_its_first_epoch_starts_over_from_its_weights(train, start, tmp_path, monkeypatch):
    begin = tmp_path / "begin.pth"
    begin.write_bytes(start.read_bytes())
    whole = train("--weights", begin)
    interrupted = interrupt(lambda: train("--weights", begin), tmp_path, 1)
    begin.rename(tmp_path / "elsewhere.pth")
    with pytest.raises(BadInput, match="begin.pth"):
        without_pictures(["--resume", str(interrupted)], trainB)
    (tmp_path / "elsewhere.pth").rename(begin)
    without_pictures(["--resume", str(interrupted)], trainB)
    assert same_result(interrupted, whole)


def test_best_weights_are_the_whole_network_and_can_be_evaluated_alone(train):
    run = train("--strategy", "rescale", "--stage_epochs", "1")
    with np.load(run / "predictions.npz") as predictions:
        probabilities = predictions["probabilities"]
    again = train("--strategy", "rescale", "-e", "0", "--weights", run / "best.pth")
    with np.load(again / "predictions.npz") as predictions:
        assert np.array_equal(predictions["probabilities"], probabilities)
    assert read(again, "train.json")["best_val_accuracy"] == read(run, "train.json")["best_val_accuracy"]


@pytest.mark.slow
def test_config_says_how_photographs_become_squares(train):
    squashed = read(train("-e", "1"), "config.json")
    assert (squashed["fit"], squashed["stored_size"], squashed["input_shape"]) == ("squash", 32, [3, 32, 32])
    assert squashed["normalization"] == {"mean": list(trainB.MEAN), "std": list(trainB.STD)}
    cropped = read(train("-e", "1", "--input", "crop"), "config.json")
    assert (cropped["fit"], cropped["stored_size"], cropped["input_shape"]) == ("slide", 37, [3, 32, 32])
    plain = read(train("-e", "1", "--input", "crop", "--augment", "False"), "config.json")
    assert plain["fit"] == "crop"


@pytest.mark.parametrize(
    ("options", "stored", "side"),
    [
        ([], 224, 224),
        (["--input", "crop"], 256, 224),
        (["--strategy", "rescale"], 512, 512),
        (["--strategy", "rescale", "--input", "crop"], 585, 512),
        (["--image_size", "64"], 64, 64),
    ],
)
@pytest.mark.parametrize("augment", [True, False])
def test_sizes_on_the_way_into_the_network(options, stored, side, augment):
    options = trainB.parse_options([*options, f"--augment={augment}"])
    assert trainB.stored_size(options) == stored
    assert trainB.input_size(options) == side
    for transform in trainB.build_transforms(options):
        assert transform.transforms[0].size == stored
        assert transform.transforms[1].size == (side, side)


def test_only_training_images_are_augmented():
    names = [
        [type(step).__name__ for step in transform.transforms]
        for transform in trainB.build_transforms(trainB.parse_options(["--input", "crop"]))
    ]
    assert names[0] == ["Resize", "RandomCrop", "RandomHorizontalFlip", "Normalize"]
    assert names[1] == ["Resize", "CenterCrop", "Normalize"]


def test_the_rescaler_begins_as_plain_resizing():
    images = torch.rand(2, 3, 73, 73)
    assert torch.allclose(Rescaler(32)(images), Compose([Resize((32, 32))])(images), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (["--last", "2"], "--last does nothing with --strategy head"),
        (["--strategy", "all", "--views", "3"], "--views does nothing with --strategy all"),
        (["--strategy", "last", "--stage_epochs", "3"], "--stage_epochs does nothing with --strategy last"),
        (["--strategy", "staged", "--stage_lr_factor", "1"], "--stage_lr_factor does nothing with --strategy staged"),
        (["--strategy", "staged", "--stage_epochs", "2", "--views", "1"], ""),
        (["--strategy", "last", "--last", "2", "--stage_lr_factor", "1"], ""),
    ],
)
def test_options_without_effect_are_told(capsys, options, note):
    trainB.parse_options(options)
    assert capsys.readouterr().out.strip().removeprefix("note: ") == note


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--model", "resnet5"], "did you mean resnet50?"), (["--strategy", "heads"], "did you mean head?"),
        (["--last", "5"], "--last"), (["--last", "0"], "--last"), (["--input", "croped"], "did you mean crop?"),
        (["-p", "/no/such/folder"], "/no/such/folder"), (["--weights", "/no/such/file"], "/no/such/file"),
        (["--image_size", "16"], "--image_size"), (["--views", "0"], "--views"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_leaves_nothing(photographs, tmp_path, options, culprit):
    weights = [] if "--weights" in options else ["--weights", "none"]
    data = [] if "-p" in options else ["--data", str(photographs)]
    with pytest.raises(BadInput) as refused:
        trainB.main([*SMALL, *data, *weights, *options, "--output_dir", str(tmp_path)])
    assert culprit in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_network_a_command_says_which_file_to_fetch_and_where_to_put_it(photographs, tmp_path):
    proxy = f"http://127.0.0.1:{closed_port()}"
    alone = environment(TORCH_HOME=str(tmp_path / "torch"), https_proxy=proxy, HTTPS_PROXY=proxy, no_proxy="")
    done = command(ROOT / "trainB.py", "-p", photographs, "--model", "resnet18", cwd=tmp_path, env=alone)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the ImageNet weights of resnet18 cannot be downloaded")
    assert done.stderr.count("\n") == 1
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in done.stderr
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_cutmix_on_kept_features_is_said_to_do_nothing(capsys):
    trainB.parse_options(["--cutmix", "0.5"])
    assert "note: --cutmix does nothing with --strategy head" in capsys.readouterr().out
    trainB.parse_options(["--cutmix", "0.5", "--strategy", "all"])
    assert "does nothing" not in capsys.readouterr().out


def test_the_last_stages_are_looked_for_where_they_are_trained_alone(monkeypatch):
    def too_few(*_, **__):
        raise BadInput("only 2 stages")

    monkeypatch.setattr(trainB, "stages_of", too_few)
    options = trainB.parse_options([*SMALL, "--last", "3"])
    model = trainB.build_model(options, 3)
    assert trainB.trained_parts(model, options, 1) == [model.head]
    options = trainB.parse_options([*SMALL, "--last", "3", "--strategy", "last"])
    with pytest.raises(BadInput, match="only 2 stages"):
        trainB.trained_parts(model, options, 1)
