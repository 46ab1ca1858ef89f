"""A network on the device, and in evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.models.batch_norm import fill_registers, synchronize
from common.system.device import Machine


def place(model: nn.Module, machine: Machine) -> nn.Module:
    """Return `model` on the device, in the layout and with the kernels that are fastest there."""
    model = model.to(machine.device, memory_format=machine.memory_format)
    if machine.processes.world_size > 1 and machine.sync_batch_norm:
        model = synchronize(model)
    if machine.device.type == "cpu":
        fill_registers(model)
    return model


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the parameters; without any it is the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and its modes and the random state back to what they were."""
    modes = {part: part.training for part in model.modules()}
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.eval()
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
