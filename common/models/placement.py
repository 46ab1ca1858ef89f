"""Bringing a network onto the device."""

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
