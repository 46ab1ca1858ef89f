"""The number format of a network on a CPU where none was asked for: it follows from the CPU and the network alone.

A choice by timing would give the same command other bits on a busy day. The rule comes from the time of a training step
in bf16, as a share of that in float32 (2 cores of an AMD EPYC with AVX-512 BF16, both in one process):

    network     million operations forward, one image    bf16 / fp32
    ResNet-18                                    1,111           0.52
    trainA                                         365           0.49
    AlexNet                                        186           0.53
    EX-2                                           119           0.58
    EX-1                                            12           0.69
    LeNet                                          1.5           1.00

The smallest networks spend their time beside the convolutions and matrix products, which alone bf16 makes faster. EX-1
stays in float32 although its steps would be faster: what that does to its accuracy has not been measured. The figures
are of `python benchmarks/steps.py`, see docs/speed.md.
"""

import dataclasses

import torch

from common.system.device import AUTOCAST_DTYPES, Machine

LEAST_OPERATIONS = 15e6  # forward, for one image: between EX-1 and the smallest network of ex_6


def has_bf16() -> bool:
    """Tell whether this CPU multiplies matrices of bfloat16 itself; without, PyTorch does it many times slower."""
    found = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.10 cannot tell
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))


def choose_precision(machine: Machine, flops: int, options: dict, before: object = None) -> tuple[Machine, str]:
    """Return `machine` with the number format of a run, and why it is that; all processes take that of the first.

    Args:
        flops: operations forward, for one image.
        options: every option by name.
        before: the format that a run which is resumed began with; None for a new run.
    """
    precision, why = machine.processes.broadcast(lambda: _choose(machine, flops, options, before))
    return dataclasses.replace(machine, autocast_dtype=AUTOCAST_DTYPES[precision]), why


def _choose(machine: Machine, flops: int, options: dict, before: object) -> tuple[str, str]:
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
    if not has_bf16():
        return "fp32", "this CPU has no faster format"
    if flops < LEAST_OPERATIONS:
        return "fp32", f"{flops / 1e6:,.1f} million operations an image are too few for bf16 to pay"
    return "bf16", f"this CPU has it, and {flops / 1e6:,.0f} million operations an image are enough for it to pay"
