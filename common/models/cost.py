"""What a network costs, and `summary.txt`: torchsummary's table of its layers, the operations of each, the totals."""

import contextlib
import copy
import io
from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from common.models.placement import eval_mode


def summarize(model: nn.Module, input_shape: tuple[int, ...], costs: dict) -> str:
    """Return the text of `summary.txt` for images of `input_shape` (C, H, W), without touching the model.

    `costs` are what `cost` returns.

    torchsummary prints, moves batch norm's statistics, draws random numbers, and counts a shared layer at each use:
    hence the copy in evaluation mode, the fork of the random state, and the totals from the parameters themselves.
    """
    from torchsummary import summary

    replica = copy.deepcopy(model).cpu().eval()
    table, operations_table = io.StringIO(), _operations_table(replica, input_shape)  # before torchsummary's hooks
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(table):
            summary(replica, tuple(input_shape), device="cpu")
    except Exception as error:  # a network that torchsummary cannot follow must not stop an experiment
        table.write(f"torchsummary cannot show this network: {error}\n")
    trainable = _numel(parameter for parameter in model.parameters() if parameter.requires_grad)
    return (
        f"{table.getvalue()}\n{operations_table}\n\n"
        f"Parameters of the model: {_numel(model.parameters()):,} ({trainable:,} trainable), "
        f"and {_numel(model.buffers()):,} values of running statistics.\n"
        f"One image: {costs['flops']:,} operations forward; {costs['activation_mb']:,} MB kept for the backward pass.\n"
        f"Parameters take {costs['parameter_mb']:,} MB, their gradients as much again, and Adam's averages twice.\n"
    )


def cost(
    model: nn.Module, input_shape: tuple[int, ...], images: int = 2, autocast_dtype: torch.dtype | None = None
) -> dict:
    """Return what one image of `input_shape` (C, H, W) costs; the model is afterwards as it was.

    `flops` are the multiplications and additions of a forward pass, as `torch.utils.flop_counter` counts them;
    `activation_mb` what a training step in the number format `autocast_dtype` keeps of it for the backward pass,
    `parameter_mb` the size of all parameters, both in 10^6 bytes. A batch of `images` is tried: of one alone batch norm
    may not be able to take statistics.
    """
    parameters = list(model.parameters())
    inputs = torch.zeros(images, *input_shape, device=parameters[0].device)
    autocast = torch.autocast(inputs.device.type, autocast_dtype, enabled=autocast_dtype is not None)
    with eval_mode(model), autocast:  # which puts back what training mode moves, without a copy of all the network
        model.train()
        before, graph = _kept_by_a_pass(model, inputs)  # held, so that no address is given away again
        kept, _ = _kept_by_a_pass(model, inputs.clone())
    # What both passes keep is the network's own: parameters, and what autocast has made of them.
    n_bytes = sum(size for address, size in kept.items() if address not in before)
    return {
        "flops": operations(model, input_shape),
        "activation_mb": round(n_bytes / images / 1e6, 3),
        "parameter_mb": round(sum(parameter.nbytes for parameter in parameters) / 1e6, 3),
    }


def operations(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the `flops` of one image, see `cost`."""
    return sum(_operations_by_layer(model, input_shape).values())


def _kept_by_a_pass(model: nn.Module, inputs: torch.Tensor) -> tuple[dict[int, int], torch.Tensor]:
    """Return the memory blocks that the backward pass needs (address -> bytes), and what keeps them alive."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return kept, model(inputs)


def _numel(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


class _Counting:
    """Counts what convolutions and matrix products multiply and add, nearly all work, for the layer it happens in."""

    def __init__(self):
        super().__init__()
        self.by_layer, self.layer = Counter(), ""

    def __torch_dispatch__(self, operator, types, arguments=(), settings=None):
        result = operator(*arguments, **(settings or {}))
        formula = flop_registry.get(operator.overloadpacket)
        if formula is not None:
            self.by_layer[self.layer] += formula(*arguments, **(settings or {}), out_val=result)
        return result


class _OperationCounter(_Counting, TorchDispatchMode):
    """As two classes: for a mode that is one, such as `FlopCounterMode`, PyTorch would import its compiler."""


@torch.no_grad()
def _operations_by_layer(model: nn.Module, input_shape: tuple[int, ...]) -> Counter:
    """Return how many operations each layer takes by its name, as `flop_counter` has them, in a pass of one image."""
    counter, hooks, is_fast = _OperationCounter(), [], torch.backends.mha.get_fastpath_enabled()
    inputs = torch.zeros(1, *input_shape, device=next(model.parameters()).device)
    for name, layer in model.named_modules():
        if next(layer.children(), None) is None:
            hooks.append(layer.register_forward_pre_hook(lambda *_, name=name: setattr(counter, "layer", name)))
            hooks.append(layer.register_forward_hook(lambda *_: setattr(counter, "layer", "")))
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # it and fused attention are operators that nothing counts
        with eval_mode(model), sdpa_kernel(SDPBackend.MATH), counter:
            model(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)
        for hook in hooks:
            hook.remove()
    return counter.by_layer


def _operations_table(model: nn.Module, input_shape: tuple[int, ...]) -> str:
    """Return a table of the layers with their parameters and the operations that one image of `input_shape` costs."""
    counts = _operations_by_layer(model, input_shape)
    rows = [("layer", "kind", "parameters", "operations")]
    for name, layer in model.named_modules():
        own = _numel(layer.parameters(recurse=False))
        if own or counts[name]:
            rows.append((name, type(layer).__name__, f"{own:,}", f"{counts[name]:,}"))
    rows.append(("all", "", f"{_numel(model.parameters()):,}", f"{sum(counts.values()):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
