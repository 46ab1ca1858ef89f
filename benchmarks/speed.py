"""How fast is training on this CPU, against the machine itself and against the loops that people write?

    python benchmarks/speed.py                                    everything, an hour on a quiet machine
    python benchmarks/speed.py --rounds 1 --experiments ex_1      a quick look

All contestants train the networks of ex_1, ex_2, ex_3 (ResNet-18) and trainA on the same images, each in a process of
its own, in turn, round after round, so that a machine whose speed drifts treats all alike. Evaluation and start-up are
in none of them.

    floor      the same step again and again on one batch that is there already, at the fastest settings
    ours       `train_one_epoch`: order, augmentation, progress and sums included
    usual      torchvision data set, PIL transforms, DataLoader(num_workers=2), `loss.item()` at every step; trainA's
               is an ImageFolder of JPEG files, ex_3's an HDF5 file read image by image
    kuangliu   the loop of kuangliu/pytorch-cifar over that same loader, with a line drawn at every step
    imagenet   the loop of pytorch/examples/imagenet over it, with top-1 and top-5 of every batch
    lightning  Lightning's Trainer on it

Floor and ours are measured in bf16 too where the CPU has it. The loops are written anew from what the originals do at
each step. Ours changes how memory is given back to the system, so the others cannot run in its process; but ours is so
near the floor that two processes after each other differ by more than the two do: for that one ratio, floor and ours
take turns within a process. A ratio is that of one round; shown are the median and the range. ex_3 reads its images
from an HDF5 file as if they did not fit into memory. Of trainA, ours is measured twice: a first epoch, which reads and
decodes all files, and later ones, which need not.

Then the start of a script: how long until `--help`, a wrong option and the first progress bar answer, against
`python -c "import torch"`. Prints two tables and writes outputs/benchmarks/speed.json and speed.png.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from contestants import CONTESTANTS, write_photographs  # noqa: E402

from common.figures import TRAIN_COLOR, VAL_COLOR, blank_figure, save_figure  # noqa: E402
from common.models.precision import has_bf16  # noqa: E402
from common.system.device import Machine, cpu_name  # noqa: E402

STEPS = {"ex_1": 200, "ex_2": 24, "ex_3": 24, "trainA": 40}
FIRST_BAR = b"epoch 1/"


def main(argv=None):
    """Measure everything and print it; with --one, measure one contestant and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contestant (default: 3)")
    parser.add_argument("--experiments", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks" / "speed.json")
    parser.add_argument(
        "--photographs", type=Path, help="a folder with train/ and ten class folders (default: made up)"
    )
    parser.add_argument("--one", nargs=2, metavar=("EXPERIMENT", "CONTESTANT"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(*options.one, options.photographs)))
        return
    with tempfile.TemporaryDirectory() as made_up:
        if options.photographs is None:
            options.photographs = Path(made_up)
            write_photographs(options.photographs)
        measure_all(options, {name: Path(made_up) for name in STEPS} | {"trainA": options.photographs})


def measure_all(options: argparse.Namespace, images: dict[str, Path]) -> None:
    """Measure, write and print everything; `images` is a folder for the image files of each experiment."""
    result = {
        "machine": {
            "processor": cpu_name(),
            "bf16": has_bf16(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
        },
        "rounds": options.rounds,
        "training": {name: compare(name, options.rounds, images[name]) for name in options.experiments},
        "start": compare_starts(options.rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    draw(result, options.out.with_suffix(".png"))
    show(result)
    print(f"\nwritten to {options.out}")


def compare(experiment: str, rounds: int, photographs: Path) -> dict:
    """Return each contestant's median images/s, its ratio to the floor's in the same round, and its peak memory."""
    runs = {name: [] for name in contestants_here()}
    for turn in range(rounds):
        for name, measured in runs.items():
            measured.append(measure_in_a_process(experiment, name, photographs))
            print(f"{experiment} {turn + 1}/{rounds} {name}: {measured[-1]['images_per_second']:,.0f} images/s")
    speeds = {name: [run["images_per_second"] for run in measured] for name, measured in runs.items()}
    paired = {
        name: [ratio for run in measured for ratio in run.get("floor_time_ratios", ())]
        for name, measured in runs.items()
    }
    if experiment == "trainA":
        runs["ours, first epoch"] = runs["ours"]
        speeds["ours, first epoch"] = [run["first_epoch_images_per_second"] for run in runs["ours"]]
    return {
        name: {
            "images_per_second": statistics.median(speeds[name]),
            "floor_time_ratio": spread(paired.get(name) or ratios(speeds["floor"], speeds[name])),
            "ours_is_faster_by": spread(ratios(speeds["ours"], speeds[name])),
            "peak_memory_mb": statistics.median(run["peak_memory_mb"] for run in runs[name]),
            "all_images_per_second": speeds[name],
        }
        for name in runs
    }


def contestants_here() -> list[str]:
    """Return those that this machine can run."""
    lacks = {"lightning": not importlib.util.find_spec("lightning"), "bf16": not has_bf16()}
    return [name for name in CONTESTANTS if not any(lacks.get(word) for word in name.split())]


def ratios(numerators: list[float], denominators: list[float]) -> list[float]:
    """Return the ratios within each round."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def spread(values: list[float]) -> list[float]:
    """Return [median, smallest, largest]."""
    return [statistics.median(values), min(values), max(values)]


def measure_in_a_process(experiment: str, contestant: str, photographs: Path) -> dict:
    """Return what `measure` returns in a process of its own."""
    command = [sys.executable, __file__, "--one", experiment, contestant, "--photographs", photographs]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def measure(experiment: str, contestant: str, photographs: Path) -> dict:
    """Train for STEPS steps in this process; return images/s, what else is measured, and this process's peak memory."""
    figures = CONTESTANTS[contestant](experiment, STEPS[experiment], photographs)
    return figures | {"peak_memory_mb": Machine.process_memory_mb()}


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
    return {name: spread(ratios(values, seconds["import torch"])) for name, values in seconds.items()}


def time_command(arguments: list[str]) -> float:
    """Return the seconds that Python takes with these arguments."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - started


def time_first_bar(arguments: list[str]) -> float:
    """Return the seconds until the first progress bar appears on a terminal, and end the script then."""
    import pty

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


def show(result: dict) -> None:
    """Print the tables."""
    machine = result["machine"]
    print(f"\n{machine['processor']}, {machine['cores']} cores, bf16: {machine['bf16']}, {result['rounds']} rounds\n")
    columns = ("network", "contestant", "images/s", "time / floor", "ours is faster by", "peak memory")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for experiment, contestants in result["training"].items():
        for name, row in contestants.items():
            figures = (
                f"{row['images_per_second']:,.0f} | {told(row['floor_time_ratio'])} | {told(row['ours_is_faster_by'])}"
            )
            print(f"| {experiment} | {name} | {figures} | {row['peak_memory_mb']:,.0f} MB |")
    print("\nuntil it answers, as a multiple of `import torch`:")
    for name, ratio in result["start"].items():
        print(f"  {name:15} {told(ratio)}")


def draw(result: dict, path: Path) -> None:
    """Draw how long each contestant takes, as a multiple of ours: median and range over the rounds."""
    networks, machine = result["training"], result["machine"]
    figure = blank_figure(7.5, 1 + 0.9 * len(networks) + 0.22 * sum(map(len, networks.values())))
    for axes, (network, rows) in zip(figure.subplots(len(networks), squeeze=False).flat, networks.items(), strict=True):
        others = {contestant: row["ours_is_faster_by"] for contestant, row in rows.items() if contestant != "ours"}
        for place, (median, low, high) in enumerate(others.values()):
            axes.barh(place, median, color=VAL_COLOR if median > 1 else TRAIN_COLOR, height=0.6)
            axes.plot([low, high], [place, place], color="black", linewidth=1)
            axes.text(high + 0.03, place, f"{median:.2f}", va="center", fontsize=9)
        axes.axvline(1, color="black", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(others)), others, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, max(high for *_, high in others.values()) * 1.1)
        axes.set_title(f"{network}: time of an epoch, as a multiple of ours", fontsize=10)
    told = f"{machine['processor']}, {machine['cores']} cores, PyTorch {torch.__version__}"
    save_figure(figure, path, f"{told}; medians and ranges of {result['rounds']} rounds")


def told(ratio: list[float]) -> str:
    """Return a ratio with its range as text."""
    median, low, high = ratio
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
