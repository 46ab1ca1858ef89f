"""What a network, any `nn.Module`, sees in an image, and which pixels a decision came from.

Every network runs in evaluation mode and is afterwards as it was. NotThere is raised where it does not have what is
asked for: a layer of that name, a use of it, or an output with places, (N, channels, h, w).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from common.inside.layers import ACTIVATIONS, NotThere, find_layers, hooked, is_visible, layers_of_uses
from common.models.placement import device_of, eval_mode


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
    if layers is None:
        hookable = find_layers(model, lambda layer: isinstance(layer, (nn.Conv2d, *ACTIVATIONS)))
    else:
        hookable = layers_of_uses(model, layers)
    maps = {}

    def keep(name: str, _: nn.Module, output: torch.Tensor) -> None:
        if output.dim() == 4 and (layers is None or name in layers):
            maps[name] = output[0].float().cpu().clone()  # a ReLU that works in place changes the original

    with eval_mode(model), torch.no_grad(), hooked(hookable, keep):
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

    def note(name: str, _: nn.Module, output: torch.Tensor) -> None:
        if output.dim() == 4 and output.shape[2:].numel() > 1:
            names.append(name)

    with eval_mode(model), torch.no_grad(), hooked(find_layers(model, is_visible), note):
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

    The gradients of the network are afterwards as they were, too.

    Args:
        inputs: (N, C, H, W), as the network takes them, on its device.
        labels: (N,) int64, the class asked about for each image; by default the one that the network predicts.
        layer: by default `last_spatial_layer`.
    """
    layer = layer or last_spatial_layer(model, inputs)
    kept = []

    def cut(name: str, _: nn.Module, output: torch.Tensor) -> torch.Tensor | None:
        if name != layer:
            return None
        kept.append(output.detach().requires_grad_())  # gradients are wanted down to here, frozen or not
        return kept[0].clone()  # which a ReLU that works in place may change

    layers = layers_of_uses(model, [layer])
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(model), hooked(layers, cut):
        logits = model(inputs.clone())  # a tensor made in inference mode cannot be differentiated through, its copy can
        if not kept or kept[0].dim() != 4:
            raise NotThere(f"{layer} gives no maps (N, channels, h, w)")
        labels = logits.argmax(1) if labels is None else labels.to(logits.device)
        (gradients,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), kept[0])
    maps, gradients = kept[0].detach().float(), gradients.float()
    heat = F.relu((gradients.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True))
    heat = F.interpolate(heat, size=inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)).clamp(0, 1).cpu()
