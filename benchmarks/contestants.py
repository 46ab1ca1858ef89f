"""The contestants of speed.py: each trains the network of an experiment for some steps and returns its images/s."""

import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WARM_UP_STEPS = 5
TURNS = 4  # of floor and ours within one process
HDF5_IMAGES = 20_000  # of 32x32 pixels


def floor(experiment: str, steps: int, photographs: Path, precision: str = "fp32") -> dict:
    """Time the bare step on one batch."""
    model, optimizer, batches, machine, _ = prepare(experiment, 1, photographs, precision)
    step = bare_step(machine.autocast, model, optimizer, *next(batches.epoch(1)))
    model.train()
    return timed((step() for _ in range(WARM_UP_STEPS + steps)), batches.batch_size)


def ours(experiment: str, steps: int, photographs: Path, precision: str = "fp32") -> dict:
    """Time whole calls of `train_one_epoch`, in turn with as many bare steps, after the images have been read."""
    from common.optim.optimizers import Schedule
    from common.optim.recipe import Recipe
    from common.runs.state import TrainState
    from common.training.loop import train_one_epoch

    model, optimizer, batches, machine, reading_seconds = prepare(experiment, steps // TURNS, photographs, precision)
    step = bare_step(machine.autocast, model, optimizer, *(tensor.clone() for tensor in next(batches.epoch(1))))
    schedule = Schedule(optimizer, "none", [batches.batches_in(1)])
    recipe = Recipe.of(vars(experiment_and_options(experiment)[1]))
    state = TrainState.of(model, optimizer, schedule, recipe, machine)
    model.train()
    for _ in range(WARM_UP_STEPS):
        step()
    floors, epochs = [], []
    for _ in range(TURNS):
        started = time.perf_counter()
        for _ in range(batches.batches_in(1)):
            step()
        floors.append(time.perf_counter() - started)
        started = time.perf_counter()
        train_one_epoch(state, batches, 1, machine, recipe)
        epochs.append(time.perf_counter() - started)
    ratios = [epoch / floor for epoch, floor in zip(epochs, floors, strict=True)]
    return {
        "images_per_second": TURNS * batches.images_in(1) / sum(epochs),
        "first_epoch_images_per_second": batches.images_in(1) / (reading_seconds + epochs[0]),
        "floor_time_ratios": ratios,
    }


def bare_step(autocast, model, optimizer, inputs, labels):
    """Return a function that does one step on this batch; `autocast` makes the context of its forward pass."""
    from torch.nn import functional as F

    def step():
        with autocast():
            loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def usual(experiment: str, steps: int, photographs: Path) -> dict:
    """Time the loop of the tutorials: the loss is summed as a number."""
    losses = []
    return looped(experiment, steps, photographs, lambda loss, *_: losses.append(loss.item()))


def kuangliu(experiment: str, steps: int, photographs: Path) -> dict:
    """Time the loop of kuangliu/pytorch-cifar: loss and hits are summed as numbers, with a line at each step."""
    sums = {"loss": 0.0, "correct": 0, "total": 0}

    def note(loss, outputs, labels):
        sums["loss"] += loss.item()
        _, predicted = outputs.max(1)
        sums["total"] += labels.size(0)
        sums["correct"] += predicted.eq(labels).sum().item()
        sys.stderr.write(f"\r{sums['loss']:.3f} {100 * sums['correct'] / sums['total']:.3f}%")
        sys.stderr.flush()

    return looped(experiment, steps, photographs, note)


def imagenet(experiment: str, steps: int, photographs: Path) -> dict:
    """Time the loop of pytorch/examples/imagenet: top-1 and top-5 of each batch, and a line at each tenth step."""
    meters = {"loss": [], "top1": [], "top5": []}

    def note(loss, outputs, labels):
        _, best = outputs.topk(5, 1)
        is_hit = best.t().eq(labels.expand(5, -1))
        meters["loss"].append(loss.item())
        for name, count in (("top1", 1), ("top5", 5)):
            meters[name].append(is_hit[:count].reshape(-1).float().sum(0).mul(100 / len(labels)).item())
        if len(meters["loss"]) % 10 == 1:
            print({name: sum(values) / len(values) for name, values in meters.items()}, file=sys.stderr)

    return looped(experiment, steps, photographs, note)


def looped(experiment: str, steps: int, photographs: Path, note: Callable) -> dict:
    """Time a loop over what people write; `note` gets (loss, outputs, labels) of each step."""
    from torch import nn

    model, optimizer, loader = as_in_tutorials(experiment, steps, photographs)
    criterion = nn.CrossEntropyLoss()
    model.train()

    def loop():
        for inputs, labels in loader:
            outputs = model(inputs)
            loss = criterion(outputs, labels)
            note(loss, outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield

    return timed(loop(), loader.batch_size)


def lightning(experiment: str, steps: int, photographs: Path) -> dict:
    """Time Lightning's Trainer, without its logger, checkpoints and bar."""
    import logging

    from lightning import Callback, LightningModule, Trainer
    from torch.nn import functional as F

    model, optimizer, loader = as_in_tutorials(experiment, steps, photographs)
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
    return speed(ends, loader.batch_size)


def timed(steps, batch_size: int) -> dict:
    """Return the speed of `steps`, of which each is done when it yields."""
    return speed([time.perf_counter() for _ in steps], batch_size)


def speed(ends: list[float], batch_size: int) -> dict:
    """Return images/s from the moments at which the steps ended, without the warm-up."""
    return {"images_per_second": (len(ends) - WARM_UP_STEPS) * batch_size / (ends[-1] - ends[WARM_UP_STEPS - 1])}


def prepare(experiment: str, steps: int, photographs: Path, precision: str):
    """Return (model, optimizer, batches of so many steps, machine, seconds of reading) as the experiment makes them."""
    from common.data.batches import Batches
    from common.models.placement import place
    from common.optim.optimizers import build_optimizer
    from common.system.device import prepare_machine

    script, options = experiment_and_options(experiment)
    machine = prepare_machine("cpu", precision, deterministic=False)
    model = place(script.build_model(options, 10), machine)
    optimizer = build_optimizer(model.parameters(), "adam", options.lr)
    transform, _ = script.build_transforms(options)
    started = time.perf_counter()
    split = read(experiment, script, options, photographs)
    reading_seconds = time.perf_counter() - started
    split = repeated(split, steps * options.batch_size)
    batches = Batches(split, transform, options.batch_size, machine, seed=0, training=True)
    return model, optimizer, batches, machine, reading_seconds


def experiment_and_options(experiment: str):
    """Return the script of an experiment, and its default options; ex_3 trains a ResNet-18."""
    script = importlib.import_module(experiment)
    own = ["--model", "resnet18", "-b", "64"] if experiment == "ex_3" else []
    return script, script.parse_options(["--device", "cpu", "--dataset", "digits", *own])


def read(experiment: str, script, options, folder: Path):
    """Return the training images: scanned digits, those of an HDF5 file that is left on disk, or photographs."""
    if experiment == "trainA":
        return read_photographs(script, options, folder)
    return streamed(folder) if experiment == "ex_3" else digits()


def as_in_tutorials(experiment: str, steps: int, photographs: Path):
    """Return (model, optimizer, loader) as people write them: nothing set, one PIL image at a time."""
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms
    from torchvision.datasets import CIFAR10, ImageFolder

    class Digits(CIFAR10):
        """CIFAR10's own `__getitem__` over other pixels, so that nothing need be downloaded."""

        def __init__(self, split, transform):
            self.data, self.targets = split.dataset.pixels.numpy(), split.labels
            self.transform, self.target_transform = transform, None

    script, options = experiment_and_options(experiment)
    before, after = pil_augmentation(experiment, options)
    normalize = transforms.Normalize((0.5,) * 3, (0.5,) * 3)
    transform = transforms.Compose([*before, transforms.ToTensor(), normalize, *after])
    images = (WARM_UP_STEPS + steps) * options.batch_size
    if experiment == "trainA":
        data = ImageFolder(photographs / "train", transform)
    elif experiment == "ex_3":
        data = WorksheetHDF5(write_hdf5(photographs), transform)
    else:
        data = Digits(digits(), transform)
    data = Subset(data, [index % len(data) for index in range(images)])
    model = script.build_model(options, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    return model, optimizer, DataLoader(data, batch_size=options.batch_size, shuffle=True, num_workers=2)


def pil_augmentation(experiment: str, options):
    """Return the torchvision transforms of an experiment, before and after `ToTensor` and `Normalize`."""
    from torchvision import transforms as T

    if experiment == "ex_1":
        return [], []
    if experiment == "ex_3":
        return [T.RandomHorizontalFlip(), T.ColorJitter(0.4, 0.4, 0.4)], []
    size = options.image_size
    if experiment == "ex_2":
        resize = T.Resize((size, size), antialias=True)
        return [resize, T.RandomCrop(size, padding=size // 8), T.RandomHorizontalFlip()], []
    jitter = T.RandomApply([T.ColorJitter(0.2, 0.2, 0.2)], p=0.5)
    flips = [T.RandomHorizontalFlip(), T.RandomVerticalFlip(), T.RandomRotation(180)]
    return [*flips, jitter, T.Resize(256), T.RandomCrop(size)], [T.RandomErasing(p=0.4, value="random")]


def digits():
    """Return scanned digits at CIFAR's size, 32x32."""
    from common.data.arrays import ArrayDataset, whole
    from common.data.load import Source
    from common.transforms.basic import Resize

    scans = Source(["digits"]).load(32, 0.1)[0].train.dataset
    small, labels = scans.batch(scans.labels.new_tensor(range(len(scans))))
    pixels = Resize((32, 32))(small).permute(0, 2, 3, 1).contiguous()
    return whole(ArrayDataset(pixels, labels, scans.classes, scans.ids))


def read_photographs(script, options, folder: Path):
    """Return the training photographs in `folder`, decoded as the experiment does it before its first epoch."""
    from common.data.folders import load_folder

    splits, _ = load_folder(str(folder / "train"), script.stored_size(options), options.workers)
    return splits["train"]


class WorksheetHDF5:
    """An image at a time out of an HDF5 file, as the worksheet's data set reads it, opened in each worker."""

    def __init__(self, path: Path, transform):
        self.path, self.transform, self.file = path, transform, None

    def __len__(self) -> int:
        return HDF5_IMAGES

    def __getitem__(self, index: int):
        import h5py
        from PIL import Image

        self.file = self.file or h5py.File(self.path)
        return self.transform(Image.fromarray(self.file["images-train"][index])), int(self.file["labels-train"][index])


def streamed(folder: Path):
    """Return the training images of an HDF5 file, read from it batch by batch as if they did not fit into memory."""
    from common.data.hdf5 import load_hdf5
    from common.system import memory

    memory.MEMORY_SHARE = 0.0
    return load_hdf5(str(write_hdf5(folder)))["train"]


def write_hdf5(folder: Path) -> Path:
    """Write scanned digits to an HDF5 file, an image a chunk, unless it is there; the page cache then has it."""
    import h5py
    import numpy as np

    path = folder / "digits.hdf5"
    if not path.exists():
        split = digits()
        places = np.arange(HDF5_IMAGES) % len(split)
        with h5py.File(path, "w") as file:
            file.attrs["classes"] = split.dataset.classes
            for name, chosen in (("train", places), ("val", places[:100])):
                pixels = split.dataset.pixels.numpy()[chosen]
                file.create_dataset(f"images-{name}", data=pixels, chunks=(1, *pixels.shape[1:]))
                file.create_dataset(f"labels-{name}", data=split.dataset.labels.numpy()[chosen])
    return path


def repeated(split, images: int):
    """Return `part` with its images taken again and again until there are `images` of them."""
    import torch

    from common.data.arrays import Split

    return Split(split.dataset, split.indices[torch.arange(images) % len(split)])


def write_photographs(folder: Path, count: int = 640) -> None:
    """Write `count` JPEG files of 224x224 pixels to ten class folders: blurred noise, as large as photographs are."""
    import numpy as np
    from PIL import Image

    chance = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(chance.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((224, 224))
        pixels = np.asarray(coarse) // 2 + chance.integers(0, 40, (224, 224, 3), dtype=np.uint8)
        (folder / "train" / str(number % 10)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "train" / str(number % 10) / f"{number}.jpg", quality=75)


CONTESTANTS = {
    "floor": floor, "ours": ours, "usual": usual, "kuangliu": kuangliu, "imagenet": imagenet, "lightning": lightning,
    "floor bf16": partial(floor, precision="bf16"), "ours bf16": partial(ours, precision="bf16"),
}  # fmt: skip
