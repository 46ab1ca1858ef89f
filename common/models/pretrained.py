"""Pretrained ResNets: the networks by name, and their ImageNet weights."""

import hashlib
import re
from pathlib import Path

import torch
from torch import nn

from common.system.distributed import local_main_first
from common.system.download import DownloadFailed, download
from common.system.errors import BadInput

# All of torchvision's, which takes a second to be imported and asked.
RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip


def resnet_backbone(name: str) -> tuple[nn.Module, int]:
    """Return one of RESNETS without its last layer, with random weights, and the number of its features F.

    The network: images (N, 3, H, W) -> features (N, F).
    """
    from torchvision import models

    backbone = models.get_model(name, weights=None)
    features = backbone.fc.in_features
    backbone.fc = nn.Identity()
    return backbone, features


def find_weights(which: str | None, name: str | None) -> str | None:
    """Return the file to begin with: `which`, a file itself, "imagenet" (weights of the network `name`) or "none"."""
    if which == "imagenet":
        with local_main_first():  # so that one downloads and the others find them
            return imagenet_weights(name)
    return None if which == "none" else which


def imagenet_weights(name: str) -> str:
    """Return the path of the ImageNet weights of one of RESNETS, downloading them if need be.

    They are torchvision's first version (IMAGENET1K_V1), which the reports of these experiments used, in the folder
    where PyTorch keeps such files. Their names end in the first digits of their SHA-256, which is verified. BadInput is
    raised if the file is not there and cannot be downloaded, or its checksum is wrong.
    """
    from torchvision import models

    url = models.get_model_weights(name).IMAGENET1K_V1.url
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
