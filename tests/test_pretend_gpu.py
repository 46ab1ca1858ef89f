"""On a GPU a training step waits for nothing and mixes no devices, whatever it is asked to do; see pretend_gpu.py."""

import re
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers import read, without_pictures, write_class
from pretend_gpu import Event, OnGPU, PretendGPU, Stream
from torch import nn

import ex_1
import ex_2
import ex_3
import ex_4
import ex_5
import ex_6
import trainA
import trainB
from common.data.arrays import ArrayDataset, Split
from common.data.batches import Batches
from common.models.finetuning import FineTuned
from common.models.placement import place
from common.optim.recipe import Recipe
from common.runs.state import TrainState
from common.system.device import prepare_machine
from common.system.distributed import Processes
from common.training.features import FeatureBatches
from common.training.loop import train_one_epoch
from common.training.meter import Meter
from common.transforms.basic import AlternatingFlip, Compose, Grow
from common.transforms.color import ColorJitter, GaussianBlur
from common.transforms.mixup import Mix

CLASSES = list("0123456789")
BATCH, SIDE = 8, 64  # a batch is more than a driver takes from ordinary memory at once
RECIPE = replace(Recipe.of(vars(ex_1.parse_options([]))), epochs=1)


def transforms_of(script, *words):
    return script.build_transforms(script.parse_options(words))[0]


PLAIN = transforms_of(ex_4)
OF_PHOTOGRAPHS = transforms_of(trainA, "--image_size", "64")
HEAVY = transforms_of(ex_4, "--trivial_augment", "--heavy_augment")
OTHERS = Compose([AlternatingFlip(), Grow([24, 28], 2), GaussianBlur(3), ColorJitter(hue=0.1), PLAIN.normalize])


@pytest.fixture(autouse=True)
def as_it_was():
    """Undo what is set for a whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def dataset(images):
    pixels = np.random.default_rng(0).integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8)
    return ArrayDataset(pixels, np.arange(images) % len(CLASSES), CLASSES, range(images))


def network():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return FineTuned(backbone, nn.Sequential(nn.Dropout(0.1), nn.Linear(4, len(CLASSES))))


def batches(images, transform, machine):
    return Batches(Split(dataset(images), torch.arange(images)), transform, BATCH, machine, 0, training=True)


def train(steps, transform=PLAIN, precision="auto", deterministic=False, frozen=False, images_stay=False, **settings):
    """Train for an epoch of so many steps on a GPU."""
    recipe = replace(RECIPE, **settings)
    machine = prepare_machine("cuda", precision, deterministic)
    with mock.patch("common.data.batches.GPU_MEMORY_SHARE", 0.0 if images_stay else 0.4):
        source = batches(BATCH * steps * recipe.accumulate, transform, machine)
    model = place(network(), machine)
    if frozen:
        model.backbone.requires_grad_(False)
        source = FeatureBatches(source, model.extractor, SimpleNamespace(machine=machine), views=1)
    optimizer, schedule = recipe.build([p for p in model.parameters() if p.requires_grad], source)
    state = TrainState.of(model, optimizer, schedule, recipe, machine)
    mix = Mix(recipe.mixup, recipe.cutmix, len(CLASSES), seed=0)
    train_one_epoch(state, source, 1, machine, recipe, mix)


def per_step(images_together, **case):
    """Return (waits, launches) of a step, as two groups of batches have more of them than one."""
    gpus = []
    together = images_together // BATCH
    with mock.patch("common.data.batches.TOGETHER", images_together):
        for groups in (1, 2):
            with PretendGPU() as gpu:
                train(groups * together // case.get("accumulate", 1), **case)
            gpus.append(gpu)
    waits, launches = gpus[1].waits - gpus[0].waits, gpus[1].launches - gpus[0].launches
    return waits, {name: count / together for name, count in launches.items()}


CASES = {
    "bf16": {},
    "fp32": {"precision": "fp32"},
    "fp16": {"precision": "fp16"},
    "fp16, rmsprop": {"precision": "fp16", "optimizer": "rmsprop"},
    "muon": {"optimizer": "muon"},
    "ema": {"ema": 0.9},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "loss": {"label_smoothing": 0.1, "accumulate": 2, "clip_grad": 1.0},
    "class weights": {"class_weights": "auto", "label_smoothing": 0.1},
    "class weights, mixup": {"class_weights": "auto", "mixup": 0.2},
    "watch": {"watch": 1},
    "frozen": {"frozen": True},
    "images in main memory": {"images_stay": True},
    "heavy": {"transform": HEAVY},
    "photographs": {"transform": OF_PHOTOGRAPHS},
    "others": {"transform": OTHERS},
}
FEW = ("bf16", "fp32", "fp16")  # with what an experiment does unasked


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_for_nothing_and_mixes_no_devices(name):
    waits, launches = per_step(4 * BATCH, **CASES[name])  # 4 batches of 128 photographs, 32 of CIFAR
    assert waits == {}
    # At 5 to 8 microseconds each, a small network would wait for what is to be begun before and after it.
    around = sum(count for (_, where), count in launches.items() if re.search("transforms/|data/|meter", where))
    assert 0 < around <= (60 if name in FEW else 100)


def test_a_gpu_transforms_several_batches_in_one_call():
    with PretendGPU():
        machine = prepare_machine("cuda", "fp32", False)
        one, few = batches(40, HEAVY, machine), batches(40, HEAVY, machine)
        with mock.patch("common.data.batches.TOGETHER", 1):
            assert one.batches_together(1) == 1
            expected = list(one.epoch(3))
        with mock.patch("common.data.batches.TOGETHER", 3 * BATCH):
            assert few.batches_together(1) == 3
            whole, rest = list(few.epoch(3)), list(few.epoch(3, skip=2))
            few.later_sizes = [(4, 3 * BATCH)]
            assert (few.batches_together(3), few.batches_together(4)) == (3, 1)
    assert len(whole) == 5 and len(rest) == 3
    for (inputs, labels), (wanted, numbers) in zip(whole + rest, expected + expected[2:], strict=True):
        assert torch.equal(inputs.numbers, wanted.numbers) and torch.equal(labels.numbers, numbers.numbers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp16", "loss", "watch"])
def test_a_step_of_several_processes_waits_for_nothing_and_mixes_no_devices(monkeypatch, name):
    """The group has one, so that a message comes back as it was; test_processes.py has two that pretend."""
    monkeypatch.setattr("common.system.device.join", lambda _: Processes(0, 2))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        waits, launches = per_step(20 * BATCH, **CASES[name])
    finally:
        dist.destroy_process_group()
    assert waits == {}
    messages = {where.split(":")[0]: count for (what, where), count in launches.items() if "c10d::" in what}
    steps = 1 / CASES[name].get("accumulate", 1)  # of a batch; a message of gradients; of what was counted, every tenth
    assert messages == {"common/training/loop.py": steps, "common/system/distributed.py": steps / 10}


def test_an_epoch_ends_with_two_looks_at_the_gpu():
    with PretendGPU() as gpu:
        train(1)
    looks = [(what, where.split(":")[0], count) for (what, where), count in gpu.waits.items()]
    assert [look for look in looks if re.search("training/|device", look[1])] == [
        ("synchronize", "common/system/device.py", 1),  # losses
        ("tolist", "common/training/loop.py", 1),  # weights
    ]


def test_what_a_gpu_has_not_counted_yet_is_waited_for_at_the_end(monkeypatch):
    is_done = []
    monkeypatch.setattr(Event, "query", lambda _: bool(is_done))
    with PretendGPU():
        meter, one = Meter(prepare_machine("cuda", "auto", False)), torch.ones((), device="cuda")
        for _ in range(20):
            meter.add(one, torch.zeros(2, 4, device="cuda"), torch.ones(2, device="cuda").long())
            meter.end_step(2, one)
        assert np.isnan(meter.loss)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: is_done.append(1))
        assert meter.read() == (None, 1.0) and (meter.loss, meter.accuracy) == (1.0, 0.0)


@pytest.mark.parametrize("transform", [HEAVY, OF_PHOTOGRAPHS, OTHERS], ids=["heavy", "photographs", "others"])
def test_what_is_deterministic_uses_nothing_that_cuda_refuses(transform):
    with PretendGPU():
        train(1, transform, deterministic=True, mixup=0.2, label_smoothing=0.1, clip_grad=1.0, watch=1, ema=0.9)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_lie_in_memory_as_images_do(precision):
    with PretendGPU():
        machine = prepare_machine("cuda", precision, False)
        images, _ = batches(BATCH, PLAIN, machine).first_batch()
        for tensor in (images, place(network(), machine).backbone[0].weight):
            assert tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_the_splits_of_one_array_are_copied_to_the_gpu_once():
    whole = dataset(24)
    n_bytes = whole.pixels.nbytes + whole.labels.nbytes
    with PretendGPU(memory=3 * n_bytes) as gpu:
        machine = prepare_machine("cuda", "auto", False)
        splits = [Split(whole, torch.arange(first, 24, 3)) for first in range(3)]
        all_batches = [Batches(split, PLAIN, BATCH, machine, seed=0) for split in splits]
        assert {id(each.dataset.pixels) for each in all_batches} != {id(whole.pixels)}
        assert len({each.dataset for each in all_batches}) == 1
        assert gpu.bytes_up == n_bytes
        del all_batches
        assert not whole.is_on(machine.device)


# The pretend GPU itself


def test_a_wait_in_the_loop_is_noticed(monkeypatch):
    honest = Meter.add
    monkeypatch.setattr(Meter, "add", lambda self, loss, *rest: (loss.item(), honest(self, loss, *rest)))
    waits, _ = per_step(4 * BATCH)
    assert [(what, count) for (what, _), count in waits.items()] == [("_local_scalar_dense", 4)]  # a group


def test_a_constant_on_the_cpu_is_noticed():
    with PretendGPU(), pytest.raises(RuntimeError, match="not all tensors are on the same device"):
        train(1, Compose([lambda images, draws: images + torch.zeros(SIDE), PLAIN.normalize]))


@pytest.mark.parametrize("forgotten", ["wait_stream", "record_stream"])
def test_copies_beside_the_work_that_nobody_waits_for_are_noticed(monkeypatch, forgotten):
    train_on = {"wait_stream": Stream, "record_stream": OnGPU}[forgotten]
    monkeypatch.setattr(train_on, forgotten, lambda *_: None)
    with PretendGPU(), pytest.raises(RuntimeError, match="does not wait|used again"):
        train(1, images_stay=True)


def test_what_cuda_refuses_is_noticed():
    torch.use_deterministic_algorithms(True)
    with PretendGPU(), pytest.raises(RuntimeError, match="_adaptive_avg_pool2d_backward does not have"):
        images = torch.ones(1, 1, 2, 2, device="cuda", requires_grad=True)
        nn.AdaptiveAvgPool2d(3)(images).sum().backward()


def test_copies_wait_unless_they_are_small_or_pinned():
    small, large = torch.zeros(8), torch.zeros(2**15)
    with PretendGPU() as gpu:
        for copy in (small, large, large.pin_memory()):
            copy.to("cuda", non_blocking=True)
        assert sum(gpu.waits.values()) == 1
        on_gpu = small.to("cuda")
        assert sum(gpu.waits.values()) == 2
        assert on_gpu.tolist() == [0.0] * 8 and on_gpu.cpu().device.type == "cpu"
        assert sum(gpu.waits.values()) == 4
        with pytest.raises(TypeError, match="Tensor.cpu"):
            on_gpu.numpy()
        on_gpu[2:] = 5  # a kernel that is told the number
        assert sum(gpu.waits.values()) == 4
        on_gpu[0] = 5  # a copy
        torch.where(on_gpu > 1, on_gpu, torch.ones(()))
        assert sum(gpu.waits.values()) == 6
        assert torch.tensor([1.0], device="cuda").is_cuda and torch.zeros(1, device="cuda").is_cuda
        assert sum(gpu.waits.values()) == 7
    assert gpu.bytes_up == 2 * small.nbytes + 2 * large.nbytes + 8


# Whole experiments

DIGITS = ["--dataset", "digits", "--limit", "60", "-b", "30", "-e", "2"]
PICTURES = ["--dataset", "folder", "-b", "8", "-e", "2", "--precision", "fp32"]  # few, and in color
RUNS = {
    ex_1: [*DIGITS, "--ema", "0.9", "--watch", "2", "--save_minutes", "0.0001"],
    ex_2: [*DIGITS, "--image_size", "16", "--width", "2", "--precision", "fp16"],
    ex_3: [*DIGITS, "--augment", "blur", "--batch_schedule", "2:20", "--tta", "4"],
    ex_4: [*PICTURES, "--trivial_augment", "--heavy_augment", "--cutmix", "1"],
    ex_5: [*DIGITS, "--watch", "3", "--precision", "fp32"],
    ex_6: [*PICTURES, "--widths", "8,8,8"],
    trainA: [*DIGITS, "--image_size", "64", "-nf", "2", "-bn", "True"],
    trainB: [*PICTURES, "--image_size", "32", "--model", "resnet18", "--weights", "none", "--strategy", "staged",
             "--stage_epochs", "1"],
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 12), ("test", 2)):
        for label, name in enumerate(("a", "b")):
            write_class(folder / split / name, count, first_seed=100 * label + 50 * (split == "test"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", RUNS, ids=lambda script: script.__name__)
def test_an_experiment_runs_from_its_first_line_to_its_last(script, pictures, tmp_path):
    words = [*RUNS[script], "--device", "cuda", "--deterministic", "--output_dir", str(tmp_path)]
    if "folder" in words:
        words += ["--data", str(pictures)]
    with PretendGPU() as gpu:
        folder = without_pictures(words, script)
    assert read(folder, "config.json")["machine"]["device"] == "cuda"
    assert read(folder, "train.json")["status"] == "finished" and read(folder, "test.json")["images"] > 0
    assert gpu.launches
