"""What device.py compares: all that this kit does on a device, in functions that return tensors for a device."""

import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import ex_1  # noqa: E402
from common.data.arrays import ArrayDataset, Split  # noqa: E402
from common.data.batches import Batches  # noqa: E402
from common.evaluation.metrics import score  # noqa: E402
from common.models.placement import place  # noqa: E402
from common.optim.optimizers import OPTIMIZERS, build_optimizer  # noqa: E402
from common.system.device import Machine  # noqa: E402
from common.training.loop import evaluate  # noqa: E402
from common.training.meter import Meter  # noqa: E402
from common.transforms import basic, color, erasing, mixup, trivial_augment, tta  # noqa: E402
from common.transforms.random_streams import Draws, epoch_seed, shuffled  # noqa: E402

SIDE, CLASSES = 32, 10  # of all images here
NORMALIZE = basic.Normalize((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
TRANSFORMS = {  # each is called with images (N, 3, SIDE, SIDE) uint8 and draws
    "Resize, smaller": basic.Resize(24),
    "Resize, larger": basic.Resize((48, 40)),
    "CenterCrop": basic.CenterCrop(24),
    "RandomCrop": basic.RandomCrop(SIDE, padding=4),
    "RandomHorizontalFlip": basic.RandomHorizontalFlip(),
    "RandomVerticalFlip": basic.RandomVerticalFlip(),
    "AlternatingFlip": basic.AlternatingFlip(),
    "Grow": basic.Grow([24, SIDE], 2),
    "RandomApply": basic.RandomApply([basic.RandomHorizontalFlip(1.0)]),
    "RandomRotation": basic.RandomRotation(180),
    "Normalize": NORMALIZE,
    "Normalize, inverted": lambda images, _: NORMALIZE.invert(NORMALIZE(images)),
    "ColorJitter": color.ColorJitter(0.4, 0.4, 0.4),
    "ColorJitter with hue": color.ColorJitter(0.4, 0.4, 0.4, 0.2),
    "GaussianBlur": color.GaussianBlur(5),
    "RandomErasing": basic.Compose([NORMALIZE, erasing.RandomErasing(1.0)]),
    "RandomErasing by noise": basic.Compose([NORMALIZE, erasing.RandomErasing(1.0, value="random")]),
    "TrivialAugmentWide": trivial_augment.TrivialAugmentWide(),
    "Mix, MixUp": lambda images, draws: mixed(images, draws, 0.2, 0.0),
    "Mix, CutMix": lambda images, draws: mixed(images, draws, 0.0, 1.0),
    "views of --tta": lambda images, _: torch.cat([view(NORMALIZE(images)) for view in tta.views(tta.MOST_VIEWS)]),
}
DRAWS = {
    "bits": lambda draws: draws.bits(8),
    "uniform": lambda draws: draws.uniform(8),
    "integers": lambda draws: draws.integers(1000),
    "normal": lambda draws: draws.normal(9),
    "branch": lambda draws: draws.branch().bits(8),
    "of_images": lambda draws: draws.of_images().bits(8),
    "shuffled": lambda draws: shuffled(draws.indices, draws.seed, draws.epoch),
    "epoch_seed": lambda draws: torch.tensor(epoch_seed(draws.seed, draws.epoch)),
}


def parts(count):
    """Return {part: {what: function}} on `count` random images; a function takes a device and returns tensors."""
    split = random_split(count)
    return {
        "transform": {what: partial(transformed, one, split) for what, one in TRANSFORMS.items()},
        "draws": {what: partial(drawn, one, split) for what, one in DRAWS.items()},
        "training step": {what: partial(trained, what, split) for what in ("forward", "loss", "gradients")},
        "optimizer": {what: partial(stepped, what) for what in OPTIMIZERS},
        "metrics": {f"logits and scores, {views} view(s)": partial(tested, views, split) for views in (1, 4)},
    }


def random_split(count):
    """Return `count` random images with random labels, in main memory."""
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=chance)
    labels = torch.randint(0, CLASSES, (count,), generator=chance)
    return Split(ArrayDataset(pixels, labels, list("abcdefghij"), range(count)), torch.arange(count))


def network(machine):
    """Return ex_1's network, with the same weights on all devices."""
    torch.manual_seed(0)
    return place(ex_1.build_model(ex_1.parse_options([]), CLASSES), machine)


def mixed(images, draws, mixup_alpha, cutmix_alpha):
    """Return mixed inputs and shares of classes, one row for each image."""
    mix = mixup.Mix(mixup_alpha, cutmix_alpha, CLASSES, draws.seed)
    return torch.cat([part.flatten(1) for part in mix(NORMALIZE(images), draws.indices % CLASSES, 1, 1)], dim=1)


def transformed(transform, split, device):
    """Return [the images of a split after a transform]."""
    images, _ = split.dataset.batch(split.indices)
    return [transform(images.to(device), Draws(0, 1, split.indices.to(device)))]


def drawn(draw, split, device):
    """Return [the numbers that are drawn for the images of a split]."""
    return [draw(Draws(0, 1, split.indices.to(device)))]


def trained(stage, split, device):
    """Return what a training step on one batch has come to at a stage: "forward", "loss" or "gradients"."""
    machine = Machine(device, None)
    model, meter = network(machine).train(), Meter(machine)
    images, labels = (tensor.to(device) for tensor in split.dataset.batch(split.indices))
    logits = model(NORMALIZE(images))
    if stage == "forward":
        return [logits, *model.buffers()]
    loss = F.cross_entropy(logits, labels)
    if stage == "loss":
        meter.add(loss.detach(), logits.detach(), labels)
        meter.end_step(len(labels), torch.ones((), device=device))
        meter.read()
        return [loss, torch.tensor([meter.loss, meter.accuracy])]
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


def stepped(name, device):
    """Return the weights after two steps of an optimizer; gradients are the weights, which are the same everywhere."""
    model = network(Machine(device, None))
    optimizer = build_optimizer(model.parameters(), name, lr=0.01, weight_decay=0.1)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = parameter.detach().clone()
        optimizer.step()
    return list(model.parameters())


def tested(views, split, device):
    """Return [logits, scores] of a network on all images of a split."""
    machine = Machine(device, None)
    batches = Batches(split, NORMALIZE, 50, machine, seed=0)
    logits, labels = evaluate(network(machine), batches, machine, "testing", tta.views(views) if views > 1 else ())
    scores = score(logits.softmax(1).numpy(), labels.numpy(), split.dataset.classes)
    return [logits, torch.tensor([value for value in scores.values() if isinstance(value, float)])]
