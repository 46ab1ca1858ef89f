"""Does everything here do on your device what it does on a CPU, and how fast? For people with hardware that we lack.

    python benchmarks/device.py            the best device that PyTorch finds
    python benchmarks/device.py --quick    fewer images and steps

Prints a table to paste into an issue, and writes outputs/benchmarks/device.json. Each transform, draw, score and part
of a training step is made on the CPU and on the device, from the same numbers (device_parts.py). Bytes, whole numbers
and draws should be equal, but for resized bytes, which may differ by 1; other numbers may differ in their last digits.
Then training epochs are timed, with the images on the device and in main memory. On CUDA those lines are named at which
the CPU waits for the GPU: there should be only the one at the end of an epoch.
"""

import argparse
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common.system.start import run_script  # noqa: E402

import psutil  # noqa: E402
import torch  # noqa: E402
from device_parts import CLASSES, parts, random_split  # noqa: E402
from steps import NETWORKS  # noqa: E402

from common.data import batches as feeding  # noqa: E402
from common.models.placement import place  # noqa: E402
from common.optim.recipe import Recipe  # noqa: E402
from common.runs.config import describe_origin  # noqa: E402
from common.runs.state import TrainState  # noqa: E402
from common.system.device import DEVICES, prepare_machine  # noqa: E402
from common.system.files import write_json  # noqa: E402
from common.system.text import printable  # noqa: E402
from common.training.loop import train_one_epoch  # noqa: E402


def compared(work, device):
    """Return in a few words how the tensors that `work(device)` returns compare with those of the CPU."""
    try:
        expected, found = ([one.detach().cpu() for one in work(where)] for where in (torch.device("cpu"), device))
    except Exception as error:  # devices have many ways to say that they lack something
        return not_there(error)
    if [(one.dtype, one.shape) for one in expected] != [(one.dtype, one.shape) for one in found]:
        return "different by type or shape"
    if all(map(torch.equal, expected, found)):
        return "equal"
    expected, found = (torch.cat([one.double().flatten() for one in tensors]) for tensors in (expected, found))
    gaps = (found - expected).abs()
    share, greatest = (gaps != 0).double().mean(), expected.abs().max()
    return f"different by {gaps.max():.2g}: {100 * share:.3g} % of the values, which go to {greatest:.3g}"


def not_there(error):
    """Return what the table says of an error."""
    return f"not there ({printable(f'{type(error).__name__}: {error}', 120)})".replace("|", "/")


def prepared(name, machine, is_on_device, steps):
    """Return (function that trains for an epoch of so many steps, number of images in it).

    The random images are on the device all the time, or in main memory.
    """
    script, words, _, size = NETWORKS[name]
    options, split = script.parse_options(words), random_split(steps * size)
    transform, _ = script.build_transforms(options)
    if is_on_device:
        split.dataset = split.dataset.to(machine.device)
    with mock.patch.object(feeding, "GPU_MEMORY_SHARE", 0.0):  # so that they stay where they are
        batches = feeding.Batches(split, transform, size, machine, seed=0, training=True)
    model, recipe = place(script.build_model(options, CLASSES), machine), Recipe.of(vars(options))
    state = TrainState.of(model, *recipe.build(model.parameters(), batches), recipe, machine)
    return lambda: train_one_epoch(state, batches, 1, machine, recipe), batches.images_in(1)


def measured(name, machine, is_on_device, steps):
    """Yield (part, what, result) of training epochs: images a second, and on CUDA what is waited for."""
    kind = machine.device.type
    what = f"{name}, {machine.precision} on {kind}, images {f'on {kind}' if is_on_device else 'in main memory'}"
    try:
        train, images = prepared(name, machine, is_on_device, steps)
        train()  # memory is allocated, kernels are chosen
        machine.synchronize()
        started = time.perf_counter()
        train()
        machine.synchronize()
        yield "images a second", what, f"{images / (time.perf_counter() - started):,.0f}"
        if kind == "cuda":
            lines = [f"{line} {times}x" for line, times in waits_of(train).most_common()]
            yield f"waits in {steps} steps", what, ", ".join(lines) or "none"
    except Exception as error:
        yield "images a second", what, not_there(error)


def waits_of(work):
    """Return at which lines of ours `work()` makes the CPU wait for the GPU, and how often: {"file:line": times}."""
    waits = Counter()

    def note(message, *_, **__):
        if "called a synchronizing" in str(message):
            frames = [(Path(frame.filename).resolve(), frame.lineno) for frame in traceback.extract_stack()[:-1]]
            ours = [one for one in frames if one[0].is_relative_to(ROOT) and "site-packages" not in one[0].parts]
            waits[f"{ours[-1][0].relative_to(ROOT).as_posix()}:{ours[-1][1]}"] += 1

    with warnings.catch_warnings(), mock.patch.object(warnings, "showwarning", note):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return waits


def first_lines(machine, origin):
    """Return what there is to know of the machine and the versions, a text a line."""
    about, kind, in_all = origin["machine"], machine.device.type, psutil.virtual_memory().total
    device = "cpu; there is no accelerator, so the CPU is compared with itself"
    if kind == "cuda":
        memory = torch.cuda.get_device_properties(machine.device).total_memory
        software = f"driver {driver_version()}, CUDA {torch.version.cuda}, HIP {torch.version.hip}"
        device = f"cuda, {about['device_name']}, {memory / 1e9:,.1f} GB; {software}"
    elif kind == "mps":
        device = f"mps, {about['device_name']}, {torch.mps.recommended_max_memory() / 1e9:,.1f} GB"
    versions = {"commit": origin["git_commit"], **origin["versions"]}
    return [
        f"device: {device}",
        f"CPU: {about['cpu']}, threads: {about['threads']}, {in_all / 1e9:,.1f} GB; {about['system']}",
        f"versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]


def driver_version():
    """Return the version of NVIDIA's driver."""
    question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        answer = ""
    return (answer.split() or ["unknown"])[0]


def rows(machine, quick):
    """Yield all rows of the table: (part, what, result)."""
    for part, works in parts(20 if quick else 200).items():
        for what, work in works.items():
            yield part, what, compared(work, machine.device)
    steps, cpu_steps = (3, 3) if quick else (30, 6)  # a CPU is slow, and steady
    for name in ["EX-1"] if quick else ["EX-1", "ResNet-18"]:
        if machine.device.type != "cpu":
            yield from measured(name, machine, True, steps)
            yield from measured(name, machine, False, steps)
        yield from measured(name, prepare_machine("cpu", "fp32", deterministic=False), False, cpu_steps)


def main(argv=None):
    """Compare and measure, print a table, and write outputs/benchmarks/device.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: the best that is there)")
    parser.add_argument("--quick", action="store_true", help="fewer images and steps")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs"), metavar="DIR")
    options = parser.parse_args(argv)
    machine = prepare_machine(options.device, "auto", deterministic=False)
    origin = describe_origin(machine)
    lines, results = first_lines(machine, origin), {}
    print(*(f"- {line}" for line in lines), sep="\n")
    print(f"\n| part | what | {machine.device.type}, against the CPU |\n|---|---|---|")
    for part, what, result in rows(machine, options.quick):
        results.setdefault(part, {})[what] = result
        print(f"| {part} | {what} | {result} |", flush=True)
    file = options.output_dir / "benchmarks" / "device.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"first_lines": lines, "results": results, **origin})
    print(f"\nwritten to {file}")
    return results


if __name__ == "__main__":
    run_script(main)
