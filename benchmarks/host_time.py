"""How long does the host take for a training step, beside the step itself? A GPU may be faster than that, and waits.

    python benchmarks/host_time.py

One thread trains a network of one layer on images of 8x8 pixels, where arithmetic takes next to nothing, by the loop of
the experiments and by a bare loop in turn. Told is the CPU time of a step of the first less that of the second: order,
gathering, augmentation, meter and checks. Batches are transformed one by one, as large images on a CPU, and 32 in one
call, as on a GPU and small images on a CPU; median and range of some rounds.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import ex_1  # noqa: E402
from common.data.arrays import ArrayDataset, Split  # noqa: E402
from common.data.batches import Batches  # noqa: E402
from common.optim.recipe import Recipe  # noqa: E402
from common.runs.state import TrainState  # noqa: E402
from common.system.device import cpu_name, prepare_machine  # noqa: E402
from common.training.loop import train_one_epoch  # noqa: E402
from common.transforms.basic import Compose, Normalize, RandomCrop, RandomHorizontalFlip  # noqa: E402
from common.transforms.color import ColorJitter  # noqa: E402

SIDE, BATCH, STEPS, CLASSES = 8, 8, 1024, 10
NORMALIZE = Normalize((0.5,) * 3, (0.5,) * 3)
TRANSFORMS = {
    "normalize": Compose([NORMALIZE]),
    "crop and flip": Compose([RandomCrop(SIDE, padding=1), RandomHorizontalFlip(), NORMALIZE]),
    "flip and jitter": Compose([RandomHorizontalFlip(), ColorJitter(0.2, 0.2, 0.2), NORMALIZE]),
}
TOGETHER = (1, 32)


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="turns of each (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{cpu_name()}, one thread, torch {torch.__version__}\n")
    print("| transform | batches in one call | ms a step |\n|---|---|---|")
    for name, transform in TRANSFORMS.items():
        for together in TOGETHER:
            times = [1000 * beside_the_step(transform, together) for _ in range(options.rounds)]
            shown = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
            print(f"| {name} | {together} | {shown} |", flush=True)


def beside_the_step(transform, together):
    """Return the seconds that a step of the experiments' loop takes longer than a bare one."""
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH * STEPS, SIDE, SIDE, 3), dtype=np.uint8)
    names = [str(label) for label in range(CLASSES)]
    dataset = ArrayDataset(pixels, np.arange(len(pixels)) % CLASSES, names, range(len(pixels)))
    machine = prepare_machine("cpu", "fp32", False)
    recipe = replace(Recipe.of(vars(ex_1.parse_options([]))), epochs=1)
    batches = Batches(Split(dataset, torch.arange(len(pixels))), transform, BATCH, machine, 0, training=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES))
    optimizer, schedule = recipe.build(model.parameters(), batches)
    state = TrainState.of(model, optimizer, schedule, recipe, machine)
    inputs, labels = batches.first_batch()

    started = time.thread_time()
    for _ in range(STEPS):
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    bare = time.thread_time() - started
    with mock.patch.object(Batches, "batches_together", lambda *_: together):
        started = time.thread_time()
        train_one_epoch(state, batches, 1, machine, recipe)
    return (time.thread_time() - started - bare) / STEPS


if __name__ == "__main__":
    main()
