"""What every experiment does: check, load, then train and test on each data set."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from common.data.load import Data, Source
from common.evaluation.repeats import repeat
from common.models.placement import place
from common.models.pretrained import find_weights
from common.options.parser import single_runs
from common.runs.reopening import is_finished
from common.runs.resuming import has_checkpoint
from common.runs.run import Run
from common.system.device import Machine, prepare_machine


def run_experiment(
    script: str,
    options: Namespace,
    train_and_test: Callable[[Run, Namespace], None],
    image_size: int,
    val_fraction: float,
    fit: str = "crop",
) -> Path:
    """Run an experiment on each of its data sets, with each seed, and return the last run folder.

    A run that is finished is left as it is. With `--explore` the data is looked at, and nothing is trained.

    Args:
        script: `__file__` of the experiment.
        train_and_test: what it does with one data set.
        image_size, val_fraction, fit: see `Source.read`, `Undivided.divide`.

    Raises:
        BadInput: options, data or device cannot be used; nothing has been written then.
    """
    if is_finished(options.resume, options.epochs, options.test):
        return options.resume
    machine = _machine(options)
    is_new = not (options.explore or options.weights in (None, "none") or has_checkpoint(options.resume))
    weights = find_weights(options.weights, vars(options).get("model")) if is_new else None
    runs = single_runs(vars(options))
    loaded = [read.divide_for_each(runs, val_fraction) for read in Source.of(runs[0]).read(image_size, fit)]
    if options.explore:
        from common.exploring.explore import explore_only

        return explore_only(script, vars(options), [data for (data,) in loaded], machine)

    def train(one: dict, data: Data) -> Path:
        run = Run(script, one, data, machine, weights, fit)
        torch.manual_seed(one["seed"])  # so that the first weights depend on the seed alone
        train_and_test(run, Namespace(**one))
        return run.folder

    return [repeat(runs, data_of_each, train, machine.processes.is_main) for data_of_each in loaded][-1]


def measure_speed(
    script: str, options: Namespace, build_model: Callable[[Namespace, int], nn.Module], num_classes: int
) -> Path:
    """Measure how many images a second training gets through, and return the folder; `script` is a `__file__`."""
    from common.throughput import measure_throughput

    machine = _machine(options)
    torch.manual_seed(options.seed)
    shape, limits = (3, options.image_size, options.image_size), (options.max_batch, options.memory_budget)
    model = place(build_model(options, num_classes), machine, torch.zeros(2, *shape, device=machine.device))
    return measure_throughput(script, vars(options), model, shape, num_classes, machine, *limits)


def _machine(options: Namespace) -> Machine:
    return prepare_machine(options.device, options.precision, options.deterministic, options.sync_bn)
