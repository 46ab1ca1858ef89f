"""How long does a run take to start, and how much memory, when there are very many images?

    python benchmarks/scale.py                                         1.5 million images in HDF5, 200,000 files
    python benchmarks/scale.py --images 20000 --files 2000             a quick look

The images are small (8x8 pixels, random), because what is measured is what grows with their number. They are written
first, which is not timed: one HDF5 file with its images in one piece, and class folders of PNG files. Then `ex_1.py`
starts on them in processes of its own, which train on 1,000 images for one epoch: anew, again (when an index knows the
files), resumed for a second epoch, and by two processes. Time is that of the whole process, less that of the same
commands on the scanned digits; beside other work, the time of all CPUs tells more. Memory is the most that all
processes of a run had at a moment, pages that they share divided among them (Linux), or else the most that they had
alone. Prints a table and writes outputs/benchmarks/scale.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
from PIL import Image  # noqa: E402

from common.system.device import cpu_name  # noqa: E402
from tools.packing import fixed_length  # noqa: E402

SIDE, CLASSES, VAL = 8, 10, 1000  # pixels, classes, validation images
TRAINED = ["--limit", "1000", "-e", "1", "--test", "False"]
INTERVAL = 0.5  # seconds between two looks at the memory, which cost some time themselves


def main(argv=None):
    """Write the images, measure, print a table, and return it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_500_000, metavar="N", help="in the HDF5 file")
    parser.add_argument("--files", type=int, default=200_000, metavar="N", help="in class folders")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs"), metavar="DIR")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        hdf5, files = Path(folder, "many.hdf5"), Path(folder, "many")
        write_hdf5(hdf5, options.images)
        write_files(files, options.files)
        print(f"{cpu_name()}, {psutil.cpu_count()} cores\n")
        print("| images | start | seconds | less those of digits | of CPUs | MB |")
        print("|---|---|---|---|---|---|")
        rows = [*measured("digits", ["--dataset", "digits"], Path(folder, "a"), {})]
        less = {row["start"]: row["seconds"] for row in rows}
        rows += measured(f"{options.images:,} in HDF5", ["--data", hdf5], Path(folder, "b"), less)
        rows += measured(f"{options.files:,} files", ["--data", files], Path(folder, "c"), less)
    target = options.output_dir / "benchmarks"
    target.mkdir(parents=True, exist_ok=True)
    (target / "scale.json").write_text(json.dumps({"cpu": cpu_name(), "rows": rows}, indent=2))
    return rows


def write_hdf5(path, count):
    """Write `count` training images, and some to validate, in one piece each."""
    chance = np.random.default_rng(0)
    with h5py.File(path, "w", libver="v108") as file:
        file.attrs["classes"] = fixed_length([str(number) for number in range(CLASSES)])
        for name, images in (("train", count), ("val", VAL)):
            shape = (images, SIDE, SIDE, 3)
            file.create_dataset(f"images-{name}", data=chance.integers(0, 256, shape, dtype=np.uint8))
            file[f"labels-{name}"] = np.arange(images) % CLASSES
            file[f"files-{name}"] = fixed_length([f"{number}.png" for number in range(images)])


def write_files(folder, count):
    """Write `count` PNG files into class folders."""
    chance = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        pixels = chance.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / str(number % CLASSES) / f"{number}.png")


def measured(name, words, folder, less):
    """Yield a row for each start on the same images, and print it; `less` are the seconds to be taken off."""
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    new = [ROOT / "ex_1.py", *words, *TRAINED, "--output_dir", folder]
    starts = {
        "anew": lambda: new,
        "again": lambda: new,
        "resumed": lambda: [ROOT / "ex_1.py", "--resume", min(folder.glob("*/*/*")), "-e", "2"],
        "two processes": lambda: [*torchrun, *new],
    }
    for start, command in starts.items():
        seconds, cpu, memory = run([sys.executable, *map(str, command())])
        row = {"images": name, "start": start, "seconds": seconds, "cpu_seconds": cpu, "memory_mb": memory}
        extra = f"{seconds - less[start]:.1f}" if less else ""
        print(f"| {name} | {start} | {seconds:.1f} | {extra} | {cpu:.1f} | {memory:,.0f} |", flush=True)
        yield row


def run(command):
    """Return (seconds, those of CPUs, most MB) of a command with all its processes; an error ends this program."""
    started, before, most = time.perf_counter(), cpu_seconds(), 0
    with tempfile.TemporaryFile("w+") as said:
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None:
            most = max(most, sum(map(memory_of, [process, *process.children(recursive=True)])))
            time.sleep(INTERVAL)
        said.seek(0)
        if process.returncode:
            sys.exit(f"error: {' '.join(command)} ended with code {process.returncode}: {said.read()}")
    return time.perf_counter() - started, cpu_seconds() - before, most / 1e6


def cpu_seconds():
    """Return what processes that have ended have taken of all CPUs; 0 on Windows."""
    times = os.times()
    return times.children_user + times.children_system


def memory_of(process):
    """Return the bytes that are a process's: of pages shared by n processes an n-th; 0 if it has gone."""
    try:
        info = process.memory_full_info() if sys.platform == "linux" else process.memory_info()
        return getattr(info, "pss", info.rss)
    except psutil.Error:
        return 0


if __name__ == "__main__":
    main()
