"""`summary.txt`: torchsummary's table of the layers, parameters and operations of each, and the true totals."""

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
    table.write(f"\n{_operations_table(replica, input_shape)}\n")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    buffers = sum(buffer.numel() for buffer in model.buffers())
    return (
        f"{table.getvalue()}\n"
        f"Parameters of the model: {parameters:,} ({trainable:,} trainable), and {buffers:,} values of running "
        f"statistics.\n"
    )


def _operations_table(model: nn.Module, input_shape: tuple[int, ...]) -> str:
    """Return a table of the layers with their parameters and the operations that one image of `input_shape` costs.

    Counted are multiplications and additions of convolutions and matrix products, where nearly all of the work is.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, *input_shape))
    counts = counter.get_flop_counts()
    rows = [("layer", "kind", "parameters", "operations")]
    for name, layer in model.named_modules():
        own = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        operations = sum(counts.get(f"{type(model).__name__}.{name}", {}).values())
        is_leaf = next(layer.children(), None) is None
        if own or (is_leaf and operations):
            rows.append((name, type(layer).__name__, f"{own:,}", f"{operations:,}"))
    total = sum(counts["Global"].values())
    rows.append(("all", "", f"{sum(parameter.numel() for parameter in model.parameters()):,}", f"{total:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
