"""How many images a second does training get through, by batch size, and how many fit into memory?"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from common.models.precision import choose_precision
from common.optim.optimizers import build_optimizer
from common.optim.recipe import Recipe
from common.runs.config import describe_network, describe_origin, device_line
from common.runs.folder import make_folder
from common.system.device import Machine
from common.system.errors import BadInput, is_out_of_memory, is_single_value
from common.system.files import pictures_also_as, write_json
from common.system.log import info, progress
from common.system.memory import MEMORY_SHARE, available_memory

WARM_STEPS = 2
MIN_STEPS, MIN_SECONDS = 3, 2.0  # of the timed part: whichever takes longer


def measure_throughput(
    script: str, options: dict, model: nn.Module, input_shape: tuple[int, ...], num_classes: int, machine: Machine,
    max_batch: int, memory_budget: float | None,
) -> Path:  # fmt: skip
    """Train on batches of 1, 2, 4, … made-up images and write `throughput.json` and `.png` to the folder returned.

    The series ends before the batch that would exceed the budget, or with the one that memory does not suffice for.
    `memory_budget` is for the process on a CPU, in 10^9 bytes; None is a share of what is free. A GPU has its own end.
    The `model`, on the device of `machine`, takes images of `input_shape` (C, H, W). BadInput is raised if the budget
    is less than what the process takes already.
    """
    from common.runs import plots

    name = Path(script).stem
    budget = None if memory_budget is None else memory_budget * 1e9
    if budget is None and machine.device.type == "cpu":
        budget = MEMORY_SHARE * available_memory()
    before = machine.peak_memory_mb()
    if budget is not None and before * 1e6 > budget:
        raise BadInput(f"--memory_budget {budget / 1e9:g}: without any batch the process takes {before / 1e3:.2f} GB")
    machine, why = choose_precision(machine, model, input_shape, options)
    config = {"script": name, "options": options, "memory_budget_mb": budget and round(budget / 1e6)}
    config |= describe_network(model, input_shape, machine) | describe_origin(machine) | {"precision_because": why}
    folder = make_folder(Path(options["output_dir"]) / name / "throughput", config)
    info(f"run folder: {folder}", device_line(config, "made up"), f"precision: {machine.precision} ({why})")
    measure = _measurement(model, input_shape, num_classes, machine, Recipe.of(options))
    rows: list[dict] = []

    def draw(rows: list[dict], ending: str) -> None:
        with pictures_also_as(options["figures"]):
            plots.draw_throughput(folder / "throughput.png", rows, f"{options['model']}: {ending}")

    result = {"model": options["model"], "input_shape": list(input_shape), "batch_sizes": rows}
    for row in _series(measure, max_batch, budget, config["activation_mb"], result):
        rows.append(row)
        write_json(folder / "throughput.json", result)
        draw(rows, "so far")
        speed, memory = f"{row['images_per_second']:>9,.1f} images/s", f"{row['peak_memory_mb']:>9,.1f} MB"
        info(f"batch size {row['batch_size']:>6,}  {speed}  {memory}")
    result["largest_batch_size"] = rows[-1]["batch_size"] if rows else None
    info(f"{result['ended_by']}; the largest batch that was trained on: {result['largest_batch_size']}")
    write_json(folder / "throughput.json", result)
    if rows:
        draw(rows, result["ended_by"])
    info(f"finished: {folder}")
    return folder


def _series(
    measure: Callable[[int], dict], max_batch: int, budget: float | None, image_mb: float, result: dict
) -> Iterator[dict]:
    """Yield the row that `measure` gives for each batch size, and note in `result` what the series `ended_by`.

    An image adds at least `image_mb`, unless memory that was freed before has room for it.
    """
    previous, size = None, 1
    while size <= max_batch:
        try:
            row = measure(size)
        except Exception as error:
            if size == 1 and is_single_value(error):
                info("note: this network's batch norm cannot train on a single image: the series begins with two")
                size = 2
                continue
            if not is_out_of_memory(error):
                raise
            result["ended_by"] = f"a batch of {size:,} runs out of memory"
            return
        yield row
        peak = row["peak_memory_mb"]
        growth = 0.0 if previous is None else peak - previous
        needed = peak + max(2 * growth, image_mb * size)  # twice as many images more than last time
        previous, size = peak, 2 * size
        if budget is not None and needed * 1e6 > budget and size <= max_batch:
            sizes = f"{needed / 1e3:,.2f} GB of the {budget / 1e9:,.2f} GB budget"
            result["ended_by"] = f"a batch of {size:,} would need about {sizes}"
            return
    result["ended_by"] = f"a batch of {size:,} would be above --max_batch {max_batch:,}"


def _measurement(
    model: nn.Module, input_shape: tuple[int, ...], num_classes: int, machine: Machine, recipe: Recipe
) -> Callable[[int], dict]:
    """Return a function that trains on batches of a size and returns the row of that size."""
    optimizer = build_optimizer(model.parameters(), recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.momentum)
    scaler = machine.scaler()
    model.train()

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with machine.autocast():
            loss = recipe.loss(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        machine.synchronize()

    def measure(size: int) -> dict:
        images = torch.randn(size, *input_shape, device=machine.device)
        images = images.contiguous(memory_format=machine.memory_format)
        labels = torch.arange(size, device=machine.device) % num_classes
        machine.reset_peak_memory()
        with progress(MIN_STEPS, f"batch size {size}", unit=" steps") as bar:
            for _ in range(WARM_STEPS):
                step(images, labels)
            started, steps, seconds = time.perf_counter(), 0, 0.0
            while steps < MIN_STEPS or seconds < MIN_SECONDS:
                step(images, labels)
                steps += 1
                bar.update(steps <= MIN_STEPS)
                seconds = time.perf_counter() - started
        return {
            "batch_size": size,
            "images_per_second": size * steps / seconds,
            "seconds_per_step": seconds / steps,
            "steps": steps,
            "peak_memory_mb": machine.peak_memory_mb(),
        }

    return measure
