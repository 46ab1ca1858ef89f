"""The layers of a network by their names, and what they give.

Layers are called by their names in `model.named_modules()`. The second use of one layer in a forward pass has ":2" at
the end of its name, the third ":3": a residual block of torchvision uses its one ReLU several times.
"""

import difflib
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules import activation

NO_ACTIVATIONS = ("MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax")  # though torch puts them there
ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name not in NO_ACTIVATIONS)


class NotThere(ValueError):
    """The network does not have what was asked for."""


def layer_kinds(model: nn.Module) -> dict[str, str]:
    """Return {name: kind, such as "Conv2d"} of all layers that have parameters or are activations."""
    layers = visible_layers(model) | layers_with_parameters(model)
    return {name: type(layer).__name__ for name, layer in layers.items()}


def name_of_layer(name_of_use: str) -> str:
    """Return the name of the layer whose second or later use has the name `name_of_use`: "relu" for "relu:2"."""
    layer, separator, number = name_of_use.rpartition(":")
    return layer if separator and number.isdigit() else name_of_use


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [part for part in model.modules() if isinstance(part, nn.Conv2d)]


def _layers(model: nn.Module, belongs: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    return {name or type(model).__name__: part for name, part in model.named_modules() if belongs(part)}


def layers_with_parameters(model: nn.Module) -> dict[str, nn.Module]:
    return _layers(model, _has_parameters)


def visible_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers without parts of their own that have parameters or are activations."""
    return _layers(
        model, lambda part: not list(part.children()) and (_has_parameters(part) or isinstance(part, ACTIVATIONS))
    )


def layers_with_maps(model: nn.Module) -> dict[str, nn.Module]:
    return _layers(model, lambda part: isinstance(part, (nn.Conv2d, *ACTIVATIONS)))


def named_layers(model: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """Return the layers of which `names` are uses."""
    layers = _layers(model, lambda part: True)
    wanted = [name_of_layer(name) for name in names]
    for name in wanted:
        if name not in layers:
            nearest = difflib.get_close_matches(name, layers, n=1, cutoff=0)
            raise NotThere(f"the network has no layer {name!r}; the nearest name is {nearest[0]!r}")
    return {name: layers[name] for name in wanted}


def _has_parameters(part: nn.Module) -> bool:
    return next(part.parameters(recurse=False), None) is not None


@contextmanager
def hooked(layers: dict[str, nn.Module], see: Callable[[str, nn.Module, torch.Tensor], torch.Tensor | None]):
    """Let `see` have (name of the use, layer, output) of each use of `layers`; what it returns replaces the output.

    Outputs that are no tensors, or have no units, are not shown.
    """
    uses = Counter()

    def hook_of(name: str):
        def hook(layer, _, output):
            uses[name] += 1
            if torch.is_tensor(output) and output.is_floating_point() and output.dim() > 1:
                return see(name if uses[name] == 1 else f"{name}:{uses[name]}", layer, output)
            return None

        return hook

    handles = []
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(hook_of(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
