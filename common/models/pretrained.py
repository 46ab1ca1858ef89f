"""Networks of torchvision and timm by name, and the ImageNet weights of torchvision's."""

import contextlib
import hashlib
import re
from pathlib import Path

import torch
from torch import nn

from common.models.placement import eval_mode
from common.system.distributed import local_main_first
from common.system.download import DownloadFailed, download
from common.system.errors import BadInput
from common.system.text import printable

# Of torchvision, which takes a second to be imported and asked for its others.
RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
TIMM = "timm:"  # begins the names of the networks of that library
# These have second heads for training, and were pretrained on images that are normalized in another way.
SPECIAL = dict.fromkeys(
    ("googlenet", "inception_v3"), {"aux_logits": False, "init_weights": True, "transform_input": True}
)


def named_network(name: str, size: int, num_classes: int = 1000) -> nn.Module:
    """Return a classification network of torchvision, or with "timm:" before its name of timm, with random weights.

    The network: images (N, 3, size, size) -> logits (N, num_classes). BadInput is raised if it takes no such images.
    """
    if name.startswith(TIMM):
        import timm

        try:
            network = timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=num_classes)
        except RuntimeError as error:
            raise BadInput(f"--model {name}: {error}; timm.list_models() has the names") from error
    else:
        from torchvision import models

        # Regnets compute their widths with tensors, which the device "meta", for shapes only, cannot do.
        with torch.device("cpu") if name.startswith("regnet") else contextlib.nullcontext():
            network = models.get_model(name, weights=None, num_classes=num_classes, **SPECIAL.get(name, {}))
    if name not in RESNETS:  # which take all
        _check_size(network, name, size)
    return network


def _check_size(network: nn.Module, name: str, size: int) -> None:
    try:
        _output_shape(network, size)
    except (AssertionError, RuntimeError, ValueError) as error:
        why = printable(error, 100)
        raise BadInput(f"--model {name} takes no images of {size}x{size} pixels, as they are here ({why})") from error


def _output_shape(network: nn.Module, size: int) -> torch.Size:
    """Return the shape of what comes of one image, without computing anything."""
    tensors = {name: tensor.to("meta") for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    with eval_mode(network):
        return torch.func.functional_call(network, tensors, torch.empty(1, 3, size, size, device="meta")).shape


def head_of(network: nn.Module) -> str:
    """Return the name of the layer that tells classes apart: the last one."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]


def backbone_of(name: str, size: int) -> tuple[nn.Module, int]:
    """Return a network without its last layer, see `named_network`, and the number of its features F.

    The network: images (N, 3, size, size) -> features (N, F).
    """
    backbone = named_network(name, size)
    head = head_of(backbone)
    layer = backbone.get_submodule(head)
    backbone.set_submodule(head, nn.Identity())
    features = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    try:
        is_alone = name in RESNETS or _output_shape(backbone, size) == (1, features)
    except RuntimeError:
        is_alone = False
    if not is_alone:
        raise BadInput(f"--model {name}: its last layer does not tell the classes alone (several heads, say)")
    return backbone, features


def find_weights(which: str | None, name: str | None) -> str | None:
    """Return the file to begin with: `which`, a file itself, "imagenet" (weights of the network `name`) or "none"."""
    if which == "imagenet":
        with local_main_first():  # so that one downloads and the others find them
            return imagenet_weights(name)
    return None if which == "none" else which


def imagenet_weights(name: str) -> str:
    """Return the path of the ImageNet weights of a network of torchvision, downloading them if need be.

    They are torchvision's first version (IMAGENET1K_V1), which the reports of these experiments used, in the folder
    where PyTorch keeps such files. Their names end in the first digits of their SHA-256, which is verified. BadInput is
    raised if the file is not there and cannot be downloaded, or its checksum is wrong.
    """
    from torchvision import models

    versions = {} if name.startswith(TIMM) else models.get_model_weights(name).__members__
    if "IMAGENET1K_V1" not in versions:
        raise BadInput(f"--weights imagenet: there are none of {name} here; give a file, or --weights none")
    url = versions["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    checksum = re.search(r"-([0-9a-f]{8,})\.", path.name)[1]
    if not path.is_file():
        try:
            download(url, path, "sha256", checksum)
        except DownloadFailed as error:
            raise BadInput(
                f"the ImageNet weights of {name} cannot be downloaded ({error}); fetch {url} elsewhere and put that "
                f"file at {path}, or give another with --weights FILE, or start without by --weights none"
            ) from error
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(checksum):
        what = f"{path} is damaged (its SHA-256 begins with {found[: len(checksum)]})"
        raise BadInput(f"{what}; delete it to download it again, or fetch {url}")
    return str(path)
