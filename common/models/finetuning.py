"""What fine-tuning adds to a network: a model in three parts, each of which can be frozen."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from common.system.errors import BadInput

NEARLY_ALL = 0.9


class FineTuned(nn.Module):
    """A pretrained backbone between what prepares its images and what classifies its features.

    Args:
        backbone: images (N, 3, H, W) -> features (N, F).
        head: features (N, F) -> logits (N, classes).
        rescaler: images of another size -> images of the size that the backbone takes.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, rescaler: nn.Module | None = None):
        super().__init__()
        self.rescaler = rescaler or nn.Identity()
        self.backbone, self.head = backbone, head

    @property
    def extractor(self) -> nn.Module:
        """All but the head: images (N, 3, H, W) -> features (N, F)."""
        return nn.Sequential(self.rescaler, self.backbone)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes) for images (N, 3, H, W), or for features (N, F) computed before."""
        return self.head(inputs if inputs.dim() == 2 else self.extractor(inputs))


class Rescaler(nn.Module):
    """A learned reduction of images: bilinear resizing, plus what a small network adds to it, at first nothing.

    So a pretrained network behind it meets, in the first step, the images that it knows (Talebi and Milanfar,
    "Learning to Resize Images for Computer Vision Tasks", 2021, have the same bypass).

    `size` is the side in pixels of what comes out, `channels` are those of the layers within.
    """

    def __init__(self, size: int, channels: int = 16):
        super().__init__()
        self.size = size
        self.before = nn.Sequential(  # at half the side: strides make the large image cheap
            nn.Conv2d(3, channels, kernel_size=5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.after = nn.Conv2d(channels, 3, kernel_size=3, padding=1)
        nn.init.zeros_(self.after.weight)
        nn.init.zeros_(self.after.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 3, size, size)."""
        size = (self.size, self.size)
        resized = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
        details = F.interpolate(self.before(images), size=size, mode="bilinear", align_corners=False)
        return resized + self.after(details)


def stages_of(network: nn.Module, least: int) -> list[nn.Module]:
    """Return the parts that follow each other in a network, the last ones first: of a ResNet layer4 to layer1.

    They are the parts, of several layers each, of the innermost one that has nearly all layers of the network. BadInput
    is raised if there are not at `least` so many.
    """
    part = network
    while inner := [child for child in part.children() if _layers(child) > NEARLY_ALL * _layers(network)]:
        if len(_parts(inner[0])) < 2 and not any(map(_parts, inner[0].children())):
            break  # as in VGG, it is a series of single layers
        [part] = inner
    stages = _parts(part)[::-1]
    if len(stages) < least:
        raise BadInput(f"this network has only {len(stages)} stages that can be told apart, and {least} are needed")
    return stages


def _parts(network: nn.Module) -> list[nn.Module]:
    return [child for child in network.children() if _layers(child) > 1]


def _layers(network: nn.Module) -> int:
    return len({name.rpartition(".")[0] for name, _ in network.named_parameters()})


def train_only(model: nn.Module, parts: Iterable[nn.Module]) -> None:
    """Freeze all parameters of `model` but those of `parts`: no gradient, so no step and no decay."""
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)


def is_frozen(module: nn.Module) -> bool:
    """Tell whether no parameter of `module` is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def discriminative_lrs(parts: Iterable[nn.Module], lr: float, factor: float) -> list[dict]:
    """Return an optimizer's parameter groups, one for each part: the first has the rate `lr`, each next one `factor`
    times the rate of the one before (Howard and Ruder: "Universal Language Model Fine-tuning", 2018).
    """
    return [{"params": list(part.parameters()), "lr": lr * factor**place} for place, part in enumerate(parts)]
