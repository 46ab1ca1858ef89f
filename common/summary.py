"""`summary.txt`: torchsummary's table of the layers, and the true totals."""

import contextlib
import copy
import io

import torch
from torch import nn


def summarize(model: nn.Module, input_shape: tuple[int, ...]) -> str:
    """Return the text of `summary.txt` for images of `input_shape` (C, H, W), without touching the model.

    torchsummary prints instead of returning, runs the model in whatever mode it is in (which moves batch norm's
    statistics), draws random numbers, and counts a shared layer at each use: hence the copy, the mode, the fork of the
    random state, and the totals from the parameters themselves.
    """
    from torchsummary import summary

    replica = copy.deepcopy(model).cpu().eval()
    table = io.StringIO()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(table):
            summary(replica, tuple(input_shape), device="cpu")
    except Exception as error:  # a network that torchsummary cannot follow must not stop an experiment
        table.write(f"torchsummary cannot show this network: {error}\n")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    buffers = sum(buffer.numel() for buffer in model.buffers())
    return (
        f"{table.getvalue()}\n"
        f"Parameters of the model: {parameters:,} ({trainable:,} trainable), and {buffers:,} values of running "
        f"statistics.\n"
    )
