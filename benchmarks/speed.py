"""How fast is training on this CPU, against the machine itself and against the loops that people write?

    python benchmarks/speed.py                    everything, about a quarter of an hour on a quiet machine
    python benchmarks/speed.py --rounds 1         a quick look

Four contestants train the networks of ex_1 and ex_2 on the same images, each in a process of its own, in turn, round
after round, so that a machine whose speed drifts treats all alike. Evaluation and start-up are not in these times.

    floor      the same step again and again on one batch that is there already, at the fastest settings
    ours       `train_one_epoch`: order, augmentation, progress and sums included
    usual      torchvision data set, PIL transforms, DataLoader(num_workers=2), `loss.item()` at every step
    lightning  Lightning's Trainer on that same loader

Then the start of a script: how long until `--help`, a wrong option and the first progress bar answer, against
`python -c "import torch"`. Prints two tables and writes outputs/benchmarks/speed.json.
"""

import argparse
import importlib
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

BATCH_SIZE = 128
STEPS = {"ex_1": 200, "ex_2": 24}  # about as long as each other
WARM_UP_STEPS = 5
CONTESTANTS = ("floor", "ours", "usual", "lightning")
FIRST_BAR = b"epoch 1/"


def main(argv=None):
    """Measure everything and print it; with --one, measure one contestant and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant (default: 3)")
    parser.add_argument("--experiments", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks" / "speed.json")
    parser.add_argument("--one", nargs=2, metavar=("EXPERIMENT", "CONTESTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    result = {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "rounds": options.rounds,
        "training": {name: compare(name, options.rounds) for name in options.experiments},
        "start": compare_starts(options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    print(f"\nwritten to {options.out}")


def compare(experiment: str, rounds: int) -> dict:
    """Return each contestant's median images/s, its ratio to the floor's in the same round, and its peak memory."""
    runs = {name: [] for name in CONTESTANTS if name != "lightning" or importlib.util.find_spec("lightning")}
    for turn in range(rounds):
        for name, measured in runs.items():
            command = [sys.executable, __file__, "--one", experiment, name]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{experiment} {turn + 1}/{rounds} {name}: {measured[-1]['images_per_second']:,.0f} images/s")
    speeds = {name: [run["images_per_second"] for run in measured] for name, measured in runs.items()}
    return {
        name: {
            "images_per_second": statistics.median(speeds[name]),
            "floor_time_ratio": median_ratio(speeds["floor"], speeds[name]),
            "ours_is_faster_by": median_ratio(speeds["ours"], speeds[name]),
            "peak_memory_mb": statistics.median(run["peak_memory_mb"] for run in runs[name]),
            "all_images_per_second": speeds[name],
        }
        for name in runs
    }


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def measure(experiment: str, contestant: str) -> dict:
    """Train for STEPS steps in this process and return images/s and the peak memory of this process."""
    seconds, images = {"floor": floor, "ours": ours, "usual": usual, "lightning": lightning}[contestant](experiment)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"images_per_second": images / seconds, "peak_memory_mb": peak}


def ours(experiment: str) -> tuple[float, int]:
    """Time a whole call of `train_one_epoch`, after a few steps of warm-up."""
    from common.batches import Batches
    from common.optimizers import Schedule
    from common.training import train_one_epoch

    script, options, machine, model, optimizer = prepare(experiment)
    train_transform, _ = script.build_transforms(options)
    schedule = Schedule(optimizer, "none", 1, STEPS[experiment])
    for steps in (WARM_UP_STEPS, STEPS[experiment]):
        batches = Batches(images_part(steps * BATCH_SIZE), train_transform, BATCH_SIZE, machine, seed=0, training=True)
        started = time.perf_counter()
        train_one_epoch(model, batches, 1, optimizer, schedule, machine.scaler(), machine)
        seconds = time.perf_counter() - started
    return seconds, batches.images


def floor(experiment: str) -> tuple[float, int]:
    """Time the bare step on one batch."""
    from torch.nn import functional as F

    from common.batches import Batches

    script, options, machine, model, optimizer = prepare(experiment)
    train_transform, _ = script.build_transforms(options)
    batches = Batches(images_part(BATCH_SIZE), train_transform, BATCH_SIZE, machine, seed=0, training=True)
    inputs, labels = next(batches.epoch(1))
    model.train()

    def step():
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return timed(step() for _ in range(WARM_UP_STEPS + STEPS[experiment]))


def usual(experiment: str) -> tuple[float, int]:
    """Time the loop of the tutorials."""
    from torch import nn

    model, optimizer, loader = as_in_tutorials(experiment)
    criterion = nn.CrossEntropyLoss()
    model.train()

    def steps():
        running_loss = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            yield

    return timed(steps())


def lightning(experiment: str) -> tuple[float, int]:
    """Time Lightning's Trainer, without its logger, checkpoints and bar."""
    import logging

    from lightning import Callback, LightningModule, Trainer
    from torch.nn import functional as F

    model, optimizer, loader = as_in_tutorials(experiment)
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
    return ends[-1] - ends[WARM_UP_STEPS - 1], (len(ends) - WARM_UP_STEPS) * BATCH_SIZE


def timed(steps) -> tuple[float, int]:
    """Return (seconds, images) of all steps after the warm-up; a step is done when `steps` yields."""
    ends = [time.perf_counter() for _ in steps]
    return ends[-1] - ends[WARM_UP_STEPS - 1], (len(ends) - WARM_UP_STEPS) * BATCH_SIZE


def prepare(experiment: str):
    """Return (script, options, machine, model, optimizer) as the experiment itself makes them."""
    from common.machine import prepare_machine
    from common.optimizers import build_optimizer

    script = importlib.import_module(experiment)
    options = script.parse_options(["--device", "cpu", "--dataset", "digits"])
    machine = prepare_machine("cpu", "fp32", deterministic=False)
    model = machine.place(script.build_model(options, 10))
    return script, options, machine, model, build_optimizer(model.parameters(), "adam", options.lr)


def as_in_tutorials(experiment: str):
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
    part = images_part((WARM_UP_STEPS + STEPS[experiment]) * BATCH_SIZE)
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


def compare_starts(rounds: int) -> dict:
    """Return the median seconds until each command answers, as ratios to importing torch in the same round."""
    script = str(ROOT / "ex_1.py")
    commands = {
        "import torch": ["-c", "import torch"],
        "--help": [script, "--help"],
        "a wrong option": [script, "--epoch", "3"],
        "the first bar": [script, "--dataset", "digits", "-e", "1"],
    }
    seconds = {name: [] for name in commands}
    for _ in range(max(5, rounds)):
        for name, arguments in commands.items():
            seconds[name].append(time_first_bar(arguments) if name == "the first bar" else time_command(arguments))
    return {name: median_ratio(values, seconds["import torch"]) for name, values in seconds.items()}


def time_command(arguments: list[str]) -> float:
    """Return the seconds that Python takes with these arguments."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - started


def time_first_bar(arguments: list[str]) -> float:
    """Return the seconds until the first progress bar appears on a terminal, and end the script then."""
    import pty
    import tempfile

    terminal, its_end = pty.openpty()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, *arguments, "--output_dir", folder]
        process = subprocess.Popen(command, stdout=its_end, stderr=its_end, stdin=its_end)
        os.close(its_end)
        seen = b""
        while FIRST_BAR not in seen:
            seen += os.read(terminal, 1024)
        seconds = time.perf_counter() - started
        process.kill()
        process.wait()
    os.close(terminal)
    return seconds


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show(result: dict) -> None:
    """Print the tables."""
    print(f"\n{result['machine']['processor']}, {result['machine']['cores']} cores, {result['rounds']} rounds")
    print(f"{'':6} {'':10} {'images/s':>9} {'time / floor':>13} {'ours faster by':>15} {'peak MB':>8}")
    for experiment, contestants in result["training"].items():
        for name, row in contestants.items():
            print(
                f"{experiment:6} {name:10} {row['images_per_second']:9,.0f} {row['floor_time_ratio']:13.3f} "
                f"{row['ours_is_faster_by']:15.2f} {row['peak_memory_mb']:8,.0f}"
            )
    print("\nuntil it answers, as a multiple of `import torch`:")
    for name, ratio in result["start"].items():
        print(f"  {name:15} {ratio:5.2f}")


if __name__ == "__main__":
    main()
