"""The number format of a network on a CPU where none was asked for: it follows from the CPU and the network alone.

A choice by timing would give the same command other bits on a busy day. The rule comes from the times of training steps
in docs/speed.md: with the same instructions an AMD EPYC is faster in bf16 and an Intel Xeon slower, and LeNet gains
nowhere, as the smallest networks spend their time beside the convolutions and matrix products, which alone bf16 can
make faster. CPUs with AMX should gain much, but none was at hand. Networks with grouped convolutions or layer norms
were not measured on the CPU that gains.
"""

import dataclasses

import torch
from torch import nn

from common.models.cost import operations
from common.system.device import AUTOCAST_DTYPES, Machine, cpu_name

LEAST_OPERATIONS = 10e6  # forward, for one image: between LeNet and EX-1, whose accuracy is the same in both formats


def has_bf16() -> bool:
    """Tell whether this CPU multiplies matrices of bfloat16 itself; without, PyTorch does it many times slower."""
    found = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 cannot tell
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))


def gains_by_bf16() -> bool:
    """Tell whether this is a kind of CPU on which steps were measured to be faster in bf16."""
    return has_bf16() and any(name in cpu_name() for name in ("AMD ", "AuthenticAMD"))


def is_plain(model: nn.Module) -> bool:
    """Tell whether a network has none of the layers for which bf16 was not measured."""
    layers = list(model.modules())
    return not any(isinstance(one, nn.LayerNorm) or getattr(one, "groups", 1) > 1 for one in layers)


def choose_precision(
    machine: Machine, model: nn.Module, input_shape: tuple[int, ...], options: dict, before: object = None
) -> tuple[Machine, str]:
    """Return `machine` with the number format of a run, and why it is that; all processes take that of the first.

    Args:
        model: on the device, for images of `input_shape` (C, H, W).
        options: every option by name.
        before: the format that a run which is resumed began with; None for a new run.
    """
    flops = operations(model, input_shape) if is_plain(model) else None
    precision, why = machine.processes.broadcast(lambda: _choose(machine, flops, options, before))
    return dataclasses.replace(machine, autocast_dtype=AUTOCAST_DTYPES[precision]), why


def _choose(machine: Machine, flops: int | None, options: dict, before: object) -> tuple[str, str]:
    """Return the format, and why; `flops` are operations forward for one image, None if the network is not plain."""
    on_cpu = machine.device.type == "cpu"
    if before in ("fp32", "bf16") or (before == "fp16" and not on_cpu):
        is_slow = before == "bf16" and on_cpu and not has_bf16()
        return before, "as the run began" + (", but this CPU is many times slower at it" if is_slow else "")
    if options["precision"] != "auto":
        return machine.precision, "as asked for"
    if not on_cpu:
        return machine.precision, "what this device is fast at"
    if options["deterministic"]:
        return "fp32", "--deterministic"
    if not gains_by_bf16():
        what = "was not measured to be faster at bf16" if has_bf16() else "has no faster format"
        return "fp32", f"this CPU {what}"
    if flops is None:
        return "fp32", "bf16 was not measured with layer norms and grouped convolutions"
    if flops < LEAST_OPERATIONS:
        return "fp32", f"{flops / 1e6:,.1f} million operations an image are too few for bf16 to be faster"
    what = f"this CPU computes it, and the network has {flops / 1e6:,.0f} million operations an image"
    return "bf16", f"faster here: {what}; --precision fp32 for the usual format"
