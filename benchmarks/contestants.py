"""The contestants of speed.py: each trains the network of an experiment for some steps and returns its images/s."""

import importlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BATCH_SIZE = 128
WARM_UP_STEPS = 5
TURNS = 4  # of floor and ours within one process


def floor(experiment: str, steps: int) -> dict:
    """Time the bare step on one batch."""
    model, optimizer, batches, _ = prepare(experiment, 1)
    step = bare_step(model, optimizer, *next(batches.epoch(1)))
    model.train()
    return timed(step() for _ in range(WARM_UP_STEPS + steps))


def ours(experiment: str, steps: int) -> dict:
    """Time whole calls of `train_one_epoch`, in turn with as many bare steps."""
    from common.optimizers import Schedule
    from common.training import train_one_epoch

    model, optimizer, batches, machine = prepare(experiment, steps // TURNS)
    step = bare_step(model, optimizer, *(tensor.clone() for tensor in next(batches.epoch(1))))
    schedule = Schedule(optimizer, "none", 1, len(batches))
    model.train()
    for _ in range(WARM_UP_STEPS):
        step()
    floors, epochs = [], []
    for _ in range(TURNS):
        started = time.perf_counter()
        for _ in range(len(batches)):
            step()
        floors.append(time.perf_counter() - started)
        started = time.perf_counter()
        train_one_epoch(model, batches, 1, optimizer, schedule, machine.scaler(), machine)
        epochs.append(time.perf_counter() - started)
    ratios = [epoch / floor for epoch, floor in zip(epochs, floors, strict=True)]
    return {"images_per_second": TURNS * batches.images / sum(epochs), "floor_time_ratios": ratios}


def bare_step(model, optimizer, inputs, labels):
    """Return a function that does one step on this batch."""
    from torch.nn import functional as F

    def step():
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def usual(experiment: str, steps: int) -> dict:
    """Time the loop of the tutorials."""
    from torch import nn

    model, optimizer, loader = as_in_tutorials(experiment, steps)
    criterion = nn.CrossEntropyLoss()
    model.train()

    def loop():
        running_loss = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            yield

    return timed(loop())


def lightning(experiment: str, steps: int) -> dict:
    """Time Lightning's Trainer, without its logger, checkpoints and bar."""
    import logging

    from lightning import Callback, LightningModule, Trainer
    from torch.nn import functional as F

    model, optimizer, loader = as_in_tutorials(experiment, steps)
    ends = []

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, _):
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return optimizer

    class Clock(Callback):
        def on_train_batch_end(self, *_):
            ends.append(time.perf_counter())

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, callbacks=[Clock()], **quiet)
    trainer.fit(Module(), loader)
    return speed(ends)


def timed(steps) -> dict:
    """Return the speed of `steps`, of which each is done when it yields."""
    return speed([time.perf_counter() for _ in steps])


def speed(ends: list[float]) -> dict:
    """Return images/s from the moments at which the steps ended, without the warm-up."""
    return {"images_per_second": (len(ends) - WARM_UP_STEPS) * BATCH_SIZE / (ends[-1] - ends[WARM_UP_STEPS - 1])}


def prepare(experiment: str, steps: int):
    """Return (model, optimizer, batches of so many steps, machine) as the experiment itself makes them."""
    from common.batches import Batches
    from common.machine import prepare_machine
    from common.optimizers import build_optimizer

    script = importlib.import_module(experiment)
    options = script.parse_options(["--device", "cpu", "--dataset", "digits"])
    machine = prepare_machine("cpu", "fp32", deterministic=False)
    model = machine.place(script.build_model(options, 10))
    optimizer = build_optimizer(model.parameters(), "adam", options.lr)
    transform, _ = script.build_transforms(options)
    batches = Batches(images_part(steps * BATCH_SIZE), transform, BATCH_SIZE, machine, seed=0, training=True)
    return model, optimizer, batches, machine


def as_in_tutorials(experiment: str, steps: int):
    """Return (model, optimizer, loader) as people write them: nothing set, one PIL image at a time."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    class Digits(CIFAR10):
        """CIFAR10's own `__getitem__` over other pixels, so that nothing need be downloaded."""

        def __init__(self, part, transform):
            self.data, self.targets = part.dataset.pixels.numpy(), part.labels
            self.transform, self.target_transform = transform, None

    script = importlib.import_module(experiment)
    options = script.parse_options(["--device", "cpu", "--dataset", "digits"])
    augmentation = []
    if experiment == "ex_2":
        size = options.image_size
        resize = transforms.Resize((size, size), antialias=True)
        crop = transforms.RandomCrop(size, padding=size // 8)
        augmentation = [resize, crop, transforms.RandomHorizontalFlip()]
    to_tensor = [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
    part = images_part((WARM_UP_STEPS + steps) * BATCH_SIZE)
    data = Digits(part, transforms.Compose(augmentation + to_tensor))
    model = script.build_model(options, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    return model, optimizer, DataLoader(data, batch_size=BATCH_SIZE, shuffle=True, num_workers=2)


def images_part(images: int):
    """Return scanned digits at CIFAR's size, 32x32, repeated until there are `images` of them."""
    import torch

    from common.data import load_data
    from common.datasets import ArrayDataset, Part
    from common.transforms import Resize

    digits = load_data("digits", None, 32, 0.1, seed=0).train.dataset
    chosen = torch.arange(images) % len(digits)
    small, labels = digits.batch(chosen)
    pixels = Resize((32, 32))(small).permute(0, 2, 3, 1).contiguous()
    return Part(ArrayDataset(pixels, labels, digits.classes, []), torch.arange(images))


CONTESTANTS = {"floor": floor, "ours": ours, "usual": usual, "lightning": lightning}
