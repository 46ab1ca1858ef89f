"""A network on the device, and in evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.models.batch_norm import fill_registers, synchronize
from common.system.device import Machine
from common.system.log import info


def place(model: nn.Module, machine: Machine, images: torch.Tensor | None = None) -> nn.Module:
    """Return `model` on the device, in the layout and with the kernels that are fastest there.

    It is tried on some `images` (N, C, H, W), as it will be given them; where it takes them in the plain layout only,
    which networks with `x.view(N, -1)` do, it gets that.
    """
    model = model.to(machine.device, memory_format=machine.memory_format)
    if machine.processes.world_size > 1 and machine.sync_batch_norm:
        model = synchronize(model)
    if machine.device.type == "cpu":
        fill_registers(model)
    if images is not None and not _takes(model, images, machine):
        _keep_plain(model, images, machine)
    return model


def _takes(model: nn.Module, images: torch.Tensor, machine: Machine) -> bool:
    """Tell whether a forward pass succeeds; the model is afterwards as it was."""
    try:
        with torch.no_grad(), eval_mode(model), machine.autocast():
            model(images)
        return True
    except RuntimeError:
        return False


def _keep_plain(model: nn.Module, images: torch.Tensor, machine: Machine) -> None:
    """Let `model` and its images lie channel by channel, if that helps."""
    model.to(memory_format=torch.contiguous_format)
    hooks = [part.register_forward_pre_hook(_as_plain) for part in (model, *model.children())]
    if _takes(model, images, machine):
        info("note: this network only takes images channel by channel, which can be slower; .flatten(1) takes others")
        return
    model.to(memory_format=machine.memory_format)  # it fails in any case: its own error says why
    for hook in hooks:
        hook.remove()


def _as_plain(_: nn.Module, inputs: tuple) -> tuple:
    return tuple(value.contiguous() if isinstance(value, torch.Tensor) else value for value in inputs)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the parameters; without any it is the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode; its modes and buffers and the random state are afterwards as they were."""
    modes = {part: part.training for part in model.modules()}
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    device = device_of(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.eval()
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode
            for buffer, value in values:
                buffer.copy_(value)
