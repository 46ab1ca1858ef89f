"""The layers of a network by their names, and what they give.

Layers are called by their names in `model.named_modules()`. The second use of one layer in a forward pass has ":2" at
the end of its name, the third ":3": a residual block of torchvision uses its one ReLU several times.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.modules import activation

NO_ACTIVATIONS = ("MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax")  # though torch puts them there
ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name not in NO_ACTIVATIONS)


class NotThere(ValueError):
    """The network does not have what was asked for."""


def find_layers(model: nn.Module, belongs: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    """Return {name: layer} of the layers that `belongs` tells to be among them; the network itself can be one."""
    return {name or type(model).__name__: layer for name, layer in model.named_modules() if belongs(layer)}


def has_parameters(layer: nn.Module) -> bool:
    """Tell whether a layer has parameters that are its own, not those of a layer in it."""
    return next(layer.parameters(recurse=False), None) is not None


def is_visible(layer: nn.Module) -> bool:
    """Tell whether a layer, without layers in it, has parameters or is an activation."""
    return not list(layer.children()) and (has_parameters(layer) or isinstance(layer, ACTIVATIONS))


def layer_kinds(model: nn.Module) -> dict[str, str]:
    """Return {name: kind, such as "Conv2d"} of all layers that have parameters or are activations."""
    layers = find_layers(model, lambda layer: has_parameters(layer) or is_visible(layer))
    return {name: type(layer).__name__ for name, layer in layers.items()}


def name_of_layer(name_of_use: str) -> str:
    """Return the name of the layer whose second or later use has the name `name_of_use`: "relu" for "relu:2"."""
    layer, separator, number = name_of_use.rpartition(":")
    return layer if separator and number.isdigit() else name_of_use


def layers_of_uses(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the layers of which `names` are uses; NotThere is raised, with the nearest name, for one that is not."""
    layers = find_layers(model, lambda layer: True)
    wanted = [name_of_layer(name) for name in names]
    for name in wanted:
        if name not in layers:
            nearest = difflib.get_close_matches(name, layers, n=1, cutoff=0)
            raise NotThere(f"the network has no layer {name!r}; the nearest name is {nearest[0]!r}")
    return {name: layers[name] for name in wanted}


@contextmanager
def hooked(
    layers: dict[str, nn.Module], see: Callable[[str, nn.Module, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Let `see` have (name of the use, layer, output) of each use of `layers`; what it returns replaces the output.

    Outputs that are no tensors, or have no units, are not shown.
    """
    uses = Counter()

    def hook(name: str, layer: nn.Module, _, output) -> torch.Tensor | None:
        uses[name] += 1
        if torch.is_tensor(output) and output.is_floating_point() and output.dim() > 1:
            return see(name if uses[name] == 1 else f"{name}:{uses[name]}", layer, output)
        return None

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(hook, name)).remove)
        yield
