"""What the layers of a network, any `nn.Module`, give, what it sees in an image, and which pixels decided.

Every network runs in evaluation mode and is afterwards as it was. NotThere is raised where it does not have what is
asked for: a layer of that name, a use of it, or an output with places, (N, channels, h, w).

Layers are called by their names in `model.named_modules()`. The second use of one layer in a forward pass has ":2" at
the end of its name, the third ":3": a residual block of torchvision uses its one ReLU several times.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import activation

from common.models.placement import device_of, eval_mode

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


@contextmanager
def hooked_maps(
    model: nn.Module, see: Callable[[str, nn.Module, torch.Tensor, bool], torch.Tensor | None],
    more: dict[str, nn.Module] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Let `see` have, of each use of a layer without layers in it, and of `more`, what `hooked` gives, and whether the
    channels are last in it: (N, h, w, channels), as of layers that work on the last dimension, and behind them.
    """
    channels, is_last, was_last = 0, False, False

    def note(name: str, layer: nn.Module, output: torch.Tensor) -> torch.Tensor | None:
        nonlocal channels, is_last, was_last
        if is_visible(layer) and (own := _channels_of(layer)):
            channels, is_last = own, isinstance(layer, nn.Linear) or type(layer) is nn.LayerNorm
            was_last = was_last or (is_last and output.dim() == 4)
        if was_last and (output.shape[1] == channels) != (output.shape[-1] == channels):  # it has been permuted, say
            is_last = output.shape[-1] == channels
        return see(name, layer, output, is_last and output.dim() == 4)

    leaves = find_layers(model, lambda layer: not list(layer.children()) or isinstance(layer, nn.Conv2d))
    with hooked(leaves | (more or {}), note):
        yield


def _channels_of(layer: nn.Module) -> int:
    """Return how many channels a layer with parameters gives, 0 if it does not say."""
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    names = ("out_channels", "out_features", "num_features", "num_channels")
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), 0)


def first_filters(model: nn.Module) -> torch.Tensor:
    """Return a copy (filters, channels, h, w), on the CPU, of the weights of the first `nn.Conv2d`."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.weight.detach().cpu().clone()
    raise NotThere("the network has no convolution")


def feature_maps(model: nn.Module, image: torch.Tensor, layers: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Return what layers make of one image: {name: (channels, h, w)} float32 on the CPU, in the order of their use.

    The image is (C, H, W), as the network takes it; ValueError is raised if it has another shape. Without names of
    `layers`, of any kind, they are all convolutions and activations with such an output.
    """
    if image.dim() != 3:
        raise ValueError(f"the image has the shape {tuple(image.shape)} where (channels, height, width) is needed")
    more = layers_of_uses(model, layers or ())
    maps = {}

    def keep(name: str, layer: nn.Module, output: torch.Tensor, is_last: bool) -> None:
        is_wanted = isinstance(layer, (nn.Conv2d, *ACTIVATIONS)) if layers is None else name in layers
        if output.dim() == 4 and is_wanted:
            output = output.movedim(-1, 1) if is_last else output
            maps[name] = output[0].float().cpu().clone()  # a ReLU that works in place changes the original

    with eval_mode(model), torch.no_grad(), hooked_maps(model, keep, more):
        model(image[None].to(device_of(model)))
    for name in layers or ():
        if name not in maps:
            raise NotThere(f"{name} gives no maps")
    if not maps:
        raise NotThere("no convolution or activation gives maps")
    return maps


def last_spatial_layer(model: nn.Module, inputs: torch.Tensor) -> str:
    """Return the name of the last layer, in the order of use, whose output still has places: more than 1x1 of them.

    Layers are those with parameters and activations; the first of `inputs` (N, C, H, W) is tried.
    """
    names = []

    def note(name: str, layer: nn.Module, output: torch.Tensor, is_last: bool) -> None:
        places = output.shape[1:-1] if is_last else output.shape[2:]
        if output.dim() == 4 and places.numel() > 1 and is_visible(layer):
            names.append(name)

    with eval_mode(model), torch.no_grad(), hooked_maps(model, note):
        model(inputs[:1])
    if not names:
        raise NotThere("no layer of the network has an output with places, (N, channels, h, w)")
    return names[-1]


def grad_cam(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor | None = None, layer: str | None = None
) -> torch.Tensor:
    """Return where in each image the evidence for a class was found: (N, H, W) float32 from 0 to 1, on the CPU.

    The maps of a layer are summed, each weighted by the mean gradient of the class's logit in it, and what speaks
    against the class is cut off at 0 (Selvaraju et al.: "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", 2017, equations 1 and 2). The sum is enlarged bilinearly to the size of the images
    and divided by its maximum; it is 0 everywhere where nothing speaks for the class.

    The gradients of the network are afterwards as they were, too. `inputs` are (N, C, H, W), on its device; `labels`
    (N,) int64 are the classes asked about, by default those that it predicts; the layer is by default
    `last_spatial_layer`.
    """
    layer = layer or last_spatial_layer(model, inputs)
    kept, is_turned = [], []

    def cut(name: str, _: nn.Module, output: torch.Tensor, is_last: bool) -> torch.Tensor | None:
        if name != layer:
            return None
        is_turned.append(is_last)
        kept.append(output.detach().requires_grad_())  # gradients are wanted down to here, frozen or not
        return kept[0].clone()  # which a ReLU that works in place may change

    more = layers_of_uses(model, [layer])
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(model), hooked_maps(model, cut, more):
        logits = model(inputs.clone())  # a tensor made in inference mode cannot be differentiated through, its copy can
        if not kept or kept[0].dim() != 4:
            raise NotThere(f"{layer} gives no maps (N, channels, h, w)")
        labels = logits.argmax(1) if labels is None else labels.to(logits.device)
        (gradients,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), kept[0])
    maps, gradients = (each.movedim(-1, 1) if is_turned[0] else each for each in (kept[0].detach(), gradients))
    maps, gradients = maps.float(), gradients.float()
    heat = F.relu((gradients.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True))
    heat = F.interpolate(heat, size=inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)).clamp(0, 1).cpu()
