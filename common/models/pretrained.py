"""Pretrained ResNets: the networks by name, their ImageNet weights, and loading what fits from any checkpoint."""

import hashlib
import re
from pathlib import Path

import torch
from torch import nn

from common.system.checkpoints import read_weights
from common.system.distributed import first_on_each_machine
from common.system.download import DownloadFailed, download
from common.system.errors import BadInput
from common.system.log import say

# All of torchvision's, which takes a second to be imported and asked.
RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
LISTED = 4  # names of tensors in a message; all are counted


def resnet_backbone(name: str) -> tuple[nn.Module, int]:
    """Return one of RESNETS without its last layer, with random weights, and the number of its features F.

    The network: images (N, 3, H, W) -> features (N, F).
    """
    from torchvision import models

    backbone = models.get_model(name, weights=None)
    features = backbone.fc.in_features
    backbone.fc = nn.Identity()
    return backbone, features


def find_weights(which: str, name: str) -> str | None:
    """Return the file with the weights to begin with: `which` names it, or is "imagenet", or "none": then None."""
    if which == "imagenet":
        with first_on_each_machine():  # so that one downloads and the others find them
            return imagenet_weights(name)
    return None if which == "none" else which


def imagenet_weights(name: str) -> str:
    """Return the path of the ImageNet weights of one of RESNETS, downloading them if need be.

    They are torchvision's first version (IMAGENET1K_V1), which the reports of these experiments used, in the folder
    where PyTorch keeps such files. Their names end in the first digits of their SHA-256, which is verified.

    Raises:
        BadInput: the file is not there and cannot be downloaded, or its checksum is wrong.
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
        raise BadInput(
            f"{path} is damaged (its SHA-256 begins with {found[: len(checksum)]}); delete it to download it again, "
            f"or fetch {url}"
        )
    return str(path)


def load_fitting(model: nn.Module, file: str, classes: list[str], head: str = "head") -> None:
    """Load the weights in `file` that fit into `model`, and say in one line which do not.

    The tensors of `model.backbone`, if it has one, are loaded one by one, under their names with or without
    `backbone.` before them. Its other parts are loaded whole or not at all: half a head is of no use. Nor is a head
    that is known to tell other classes apart.

    Args:
        classes: those that `model` tells apart.
        head: name of the part that does.

    Raises:
        BadInput: the file cannot be read, or nothing in it fits.
    """
    tensors, trained_for = read_weights(file)
    wanted = model.state_dict()
    found = {name if name in wanted else f"backbone.{name}": tensor for name, tensor in tensors.items()}
    fitting = {name for name in wanted if getattr(found.get(name), "shape", None) == wanted[name].shape}
    for part in {name.partition(".")[0] for name in wanted} - {"backbone"}:
        of_part = {name for name in wanted if name.startswith(f"{part}.")}
        is_of_others = part == head and trained_for not in (None, classes)
        if is_of_others or not of_part <= fitting:
            fitting -= of_part
    if not any(wanted[name].dim() for name in fitting):  # counters of batches fit everywhere
        raise BadInput(
            f"--weights {file} does not fit this network: none of its tensors does (is it of another --model?)"
        )
    model.load_state_dict({name: found[name] for name in fitting}, strict=False)

    # Old files have no counters of batches, which nothing needs.
    new = [name for name in wanted if name not in fitting and not name.endswith("num_batches_tracked")]
    unused = [name for name in tensors if not fitting & {name, f"backbone.{name}"}]
    warning = "" if all(name.startswith((f"{head}.", "rescaler.")) for name in new) else "warning: "
    others = f" (trained for other classes: {_listed(trained_for)})" if trained_for not in (None, classes) else ""
    say(
        f"{warning}{len(fitting)} of {len(wanted)} tensors are from {file}{others}; "
        f"not in it, or of another shape: {_listed(new)}; not used of it: {_listed(unused)}"
    )


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''})"
