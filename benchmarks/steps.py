"""What one change does to the time of a training step: PyTorch's dropout against ours, float32 against bfloat16.

The SHA-256 of all weights, which every epoch's record has, takes its turn too: its ratio is a number of steps.

    python benchmarks/steps.py                 all networks, all changes that this CPU has
    python benchmarks/steps.py trainA --blocks 9

For each network all variants take turns in one process, block after block of steps on one batch of random images, so
that a machine whose speed wavers treats all alike. A ratio is that of two neighboring blocks; shown are the median and
the range over the blocks. The first variant is float32 with PyTorch's own dropout.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from contestants import bare_step  # noqa: E402

import ex_1  # noqa: E402
import ex_2  # noqa: E402
import ex_3  # noqa: E402
import ex_5  # noqa: E402
import ex_6  # noqa: E402
import trainA  # noqa: E402
from common.models.dropout import hash_dropouts, set_draws  # noqa: E402
from common.models.placement import place  # noqa: E402
from common.models.precision import has_bf16  # noqa: E402
from common.optim.optimizers import build_optimizer  # noqa: E402
from common.runs.state import weights_sha256  # noqa: E402
from common.system.device import cpu_name, prepare_machine  # noqa: E402
from common.transforms.random_streams import Draws  # noqa: E402

NETWORKS = {  # name: script, options, side of its images, batch size
    "EX-1": (ex_1, [], 32, 128),
    "EX-2": (ex_2, [], 128, 128),
    "LeNet": (ex_3, ["--model", "lenet"], 32, 256),
    "AlexNet": (ex_3, ["--model", "alexnet"], 70, 256),
    "ResNet-18": (ex_3, ["--model", "resnet18"], 32, 64),
    "ex_5": (ex_5, [], 32, 64),
    "ex_6": (ex_6, ["--target", "0.85"], 32, 512),
    "trainA": (trainA, ["-p", "/tmp"], 224, 64),
}
SECONDS = 2.0  # of a block, at least


def variants(name):
    """Return {variant: function that makes one step}."""
    script, words, side, size = NETWORKS[name]
    options = script.parse_options(words)
    first = script.build_model(options, 10)
    torch.manual_seed(0)
    images, labels = torch.randn(size, 3, side, side), torch.arange(size) % 10
    images = images.contiguous(memory_format=torch.channels_last)
    made = {}
    for variant in ("fp32, PyTorch's dropout", "fp32", *(["bf16"] if has_bf16() else [])):
        machine = prepare_machine("cpu", variant[:4], deterministic=False)
        model = place(copy.deepcopy(first), machine).train()
        dropouts = hash_dropouts(model) if variant != "fp32, PyTorch's dropout" else []
        optimizer = build_optimizer(model.parameters(), "adam", 1e-4)
        made[variant] = step_of(bare_step(machine.autocast, model, optimizer, images, labels), dropouts, size)
    made["SHA-256 of the weights"] = lambda: weights_sha256(first.state_dict())
    return made


def step_of(step, dropouts, size):
    """Return `step` with masks drawn for it."""

    def with_draws():
        if dropouts:
            set_draws(dropouts, Draws(0, 1, torch.arange(size), "dropout"))
        step()

    return with_draws


def measure(steps, blocks):
    """Return {variant: [seconds of a step, for each block]}; the variants take turns."""
    started = time.perf_counter()
    for step in steps.values():
        step()  # allocates
    count = max(1, round(SECONDS * len(steps) / (time.perf_counter() - started)))
    seconds = {variant: [] for variant in steps}
    for _ in range(blocks):
        for variant, step in steps.items():
            started = time.perf_counter()
            for _ in range(count):
                step()
            seconds[variant].append((time.perf_counter() - started) / count)
    return seconds


def main(argv=None):
    """Measure, print a table, and write outputs/benchmarks/steps.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NAME", help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--blocks", type=int, default=7, metavar="N", help="blocks of each variant (default: 7)")
    parser.add_argument("--output_dir", default="outputs", metavar="DIR")
    options = parser.parse_args(argv)
    if unknown := set(options.networks) - NETWORKS.keys():
        parser.error(f"there is no network {sorted(unknown)[0]}: there are {', '.join(NETWORKS)}")
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, bf16: {has_bf16()}, PyTorch {torch.__version__}")
    print("| network | variant | ms a step | time / PyTorch's fp32 |\n|---|---|---|---|")
    results = {}
    for name in options.networks or NETWORKS:
        results[name] = measure(variants(name), options.blocks)
        base, *_ = results[name].values()
        for variant, seconds in results[name].items():
            ratios = [one / other for one, other in zip(seconds, base, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {name} | {variant} | {1e3 * statistics.median(seconds):,.1f} | {spread} |", flush=True)
    folder = Path(options.output_dir) / "benchmarks"
    os.makedirs(folder, exist_ok=True)
    (folder / "steps.json").write_text(json.dumps({"cpu": cpu_name(), "seconds": results}, indent=2))
    return results


if __name__ == "__main__":
    main()
