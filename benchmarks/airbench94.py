"""The network and the recipe of airbench94 on a CPU: what ex_6 is measured against in the fast lane.

    python benchmarks/fast_lane.py benchmarks/airbench94.py --seeds 2 -- --data cifar-10-python.tar.gz

Written anew from what Jordan's "94% on CIFAR-10 in 3.29 Seconds on a Single A100" (2024) and its repository describe,
as a plain loop: all images at 32x32 pixels, 9.9 epochs of batches of 1,024, Nesterov's momentum, a first layer that is
computed and whose bias is learned for three epochs, an average of the weights that they are set to every fifth step,
six views at the test. It has the same settings of memory and number format as the experiments, and the same training
images as ex_6: 1,000 of the 50,000 are left out.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from tqdm import tqdm  # noqa: E402

import ex_6  # noqa: E402
from common.data.load import Source  # noqa: E402
from common.models.pooling import GlobalMaxPool2d  # noqa: E402
from common.models.precision import has_bf16  # noqa: E402
from common.system.clock import process_seconds  # noqa: E402
from common.system.device import cpu_name, prepare_machine  # noqa: E402
from common.transforms.tta import views  # noqa: E402

EPOCHS, BATCH, MOMENTUM, SMOOTHING, SHIFT = 9.9, 1024, 0.85, 0.2, 2
SCALE = 1024 * (1 + 1 / (1 - MOMENTUM))  # by which its rates, for 1,024 images and without momentum, become PyTorch's
RATE, DECAY, BIAS_SCALE = 11.5 / SCALE, 0.0153 * BATCH / SCALE, 64
PEAK, FIRST, LAST = 0.23, 0.2, 0.07  # of all steps, where the rate is highest; its shares at both ends
WHITEN_BIAS_EPOCHS, LOOKAHEAD_STEPS, LOOKAHEAD_DECAY = 3, 5, 0.95**5
VIEWS = 6


def main(argv=None):
    """Train once, test the last weights, write what the rules of the fast lane ask for, and return the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-10: a folder of images, or its archive")
    parser.add_argument("-s", "--seed", type=int, default=0, metavar="N")
    parser.add_argument("-e", "--epochs", type=float, default=EPOCHS, metavar="N", help=f"(default: {EPOCHS})")
    parser.add_argument("--limit", type=int, metavar="N", help="so many training images, for a quick look")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16" if has_bf16() else "fp32")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs"), metavar="DIR")
    options = parser.parse_args(argv)
    machine = prepare_machine("cpu", options.precision, deterministic=False)
    kind = "cifar10" if Path(options.data).is_file() else "folder"
    source = Source([kind], str(Path(options.data).resolve()), limit=options.limit, seed=options.seed)
    [data] = source.load(ex_6.IMAGE_SIZE, ex_6.VAL_FRACTION)
    torch.manual_seed(options.seed)
    images, labels = pixels(data.train)
    model = build_model(len(data.classes))
    started = time.perf_counter()
    ex_6.whiten(model[0], images[:5000])
    train(model, images, labels, options.epochs, machine)
    clock = {"training_seconds": time.perf_counter() - started}
    test = evaluate(model, *pixels(data.test), machine)
    folder = options.output_dir / "airbench94" / "data" / time.strftime("%Y-%m-%d_%H-%M-%S")
    folder.mkdir(parents=True)
    config = {"seed": options.seed, "images": {"train": len(images)}, "versions": {"torch": torch.__version__},
              "machine": {"cpu": cpu_name(), "threads": torch.get_num_threads(), "precision": options.precision},
              "epochs": options.epochs}  # fmt: skip
    clock["process_seconds"] = process_seconds()
    for name, content in {"test": test, "config": config, "clock": clock}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"test accuracy {test['accuracy']:.4f}, of {VIEWS} views {test['tta']['accuracy']:.4f}, {clock}, {folder}")
    return folder


def pixels(split):
    """Return all images of a split (N, 3, H, W), normalized, and their labels."""
    images, labels = split.dataset.batch(split.indices)
    mean, std = (torch.tensor(values)[:, None, None] for values in (ex_6.MEAN, ex_6.STD))
    return ((images / 255 - mean) / std).contiguous(memory_format=torch.channels_last), labels


def build_model(num_classes: int, width: int = 64) -> nn.Sequential:
    """Return the network: (N, 3, 32, 32) -> logits; its three blocks have two convolutions each."""
    first = nn.Conv2d(3, 24, 2)
    nn.init.zeros_(first.bias)
    layers, channels = [first, nn.GELU()], 24
    for out in (width, 4 * width, 4 * width):
        layers += block(channels, out)
        channels = out
    head = nn.Linear(channels, num_classes, bias=False)
    model = nn.Sequential(*layers, GlobalMaxPool2d(), nn.Flatten(), head)
    return model.to(memory_format=torch.channels_last)


def block(channels_in: int, channels_out: int) -> list[nn.Module]:
    """Return the layers of a block, which halves its images first; convolutions begin as the identity."""
    convs = [nn.Conv2d(channels, channels_out, 3, padding=1, bias=False) for channels in (channels_in, channels_out)]
    norms = [nn.BatchNorm2d(channels_out, eps=1e-12, momentum=0.4) for _ in convs]
    for conv, norm in zip(convs, norms, strict=True):
        nn.init.dirac_(conv.weight.data[: conv.in_channels])
        norm.weight.requires_grad = False
    return [convs[0], nn.MaxPool2d(2), norms[0], nn.GELU(), convs[1], norms[1], nn.GELU()]


def logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits, a ninth of what the last layer says."""
    return model(images) / 9


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: float, machine) -> None:
    """Train for `epochs`, which need not be whole."""
    model.train()
    of_an_epoch = max(1, len(images) // BATCH)
    steps = math.ceil(of_an_epoch * epochs)
    biases = [layer.bias for layer in model if isinstance(layer, nn.BatchNorm2d)]
    others = [each for layer in model if not isinstance(layer, nn.BatchNorm2d) for each in layer.parameters()
              if each.requires_grad]  # fmt: skip
    rates = [(biases, RATE * BIAS_SCALE), (others, RATE)]
    groups = [{"params": params, "lr": rate, "weight_decay": DECAY / rate} for params, rate in rates]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, steps))
    average = [each.detach().clone() for each in model.state_dict().values()]
    flipped = torch.rand(len(images)) < 0.5
    bar = tqdm(total=steps, unit="step")
    for step in range(1, steps + 1):
        epoch, place = divmod(step - 1, of_an_epoch)
        if place == 0:
            model[0].bias.requires_grad = epoch < WHITEN_BIAS_EPOCHS
            order = torch.randperm(len(images))
        chosen = order[place * BATCH : (place + 1) * BATCH]
        inputs = shifted(mirrored(images[chosen], flipped[chosen] ^ (epoch % 2 == 1)))
        with machine.autocast():
            loss = F.cross_entropy(logits_of(model, inputs), labels[chosen], label_smoothing=SMOOTHING, reduction="sum")
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % LOOKAHEAD_STEPS == 0 or step == steps:
            set_to_average(model, average, LOOKAHEAD_DECAY * (step / steps) ** 3 if step < steps else 1.0)
        bar.set_postfix_str(f"loss {loss.item() / len(chosen):.3f}", refresh=False)
        bar.update()
    bar.close()


def share_of_rate(step: int, steps: int) -> float:
    """Return the share of the highest rate: up along a line, and down along another."""
    peak = int(PEAK * steps)
    return FIRST + (1 - FIRST) * step / peak if step < peak else 1 + (LAST - 1) * (step - peak) / max(1, steps - peak)


@torch.no_grad()
def set_to_average(model: nn.Module, average: list[torch.Tensor], decay: float) -> None:
    """Move the average so far towards the weights (decay 1 leaves it), and the weights to it."""
    for kept, value in zip(average, model.state_dict().values(), strict=True):
        if value.is_floating_point():
            kept.lerp_(value, 1 - decay)
            value.copy_(kept)


def mirrored(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Return the images, of which some are mirrored."""
    return torch.where(which[:, None, None, None], images.flip(-1), images)


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Return each image moved by up to SHIFT pixels, the border mirrored."""
    side = images.shape[-1]
    padded = F.pad(images, (SHIFT,) * 4, "reflect")
    rows, columns = (torch.randint(0, 2 * SHIFT + 1, (len(images), 1)) + torch.arange(side) for _ in range(2))
    number = torch.arange(len(images))[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)  # channels innermost in memory


@torch.no_grad()
def evaluate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, machine) -> dict:
    """Return what test.json must have: the accuracy of one view, and of all of them."""
    model.eval()
    with machine.autocast():
        seen = [torch.cat([logits_of(model, view(part)).float().softmax(1) for part in images.split(1000)])
                for view in views(VIEWS)]  # fmt: skip
    one, many = ((chances.argmax(1) == labels).double().mean().item() for chances in (seen[0], sum(seen)))
    return {"accuracy": one, "tta": {"views": VIEWS, "accuracy": many}, "selected_on": "nothing: the last epoch"}


if __name__ == "__main__":
    main()
