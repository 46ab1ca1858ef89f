"""What config.json says of a run: everything that a person needs to understand it or to do it again."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from common.data.arrays import Split
from common.data.batches import Batches
from common.data.load import Data
from common.models.cost import cost
from common.runs.code import code_sha256, git_commit, project_code
from common.system.device import Machine
from common.system.text import shell_line

PACKAGES = ("torchvision", "numpy", "scikit-learn", "matplotlib", "pillow")
LOOKED_AT, PIXELS = 500, 2**26  # training images, spread evenly, and pixels of them: to look at more would be felt


def describe(script: str, options: dict, data: Data, model: nn.Module, train: Batches, machine: Machine) -> dict:
    """Return the content of config.json; `script` is the experiment's name, `options` has every option by name."""
    normalize = train.transform.normalize
    return {
        "script": script,
        "dataset": data.name,
        "classes": data.classes,
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "split_sha256": data.digest,
        "checks_sha256": data.checks_sha256,
        "converted": dict(data.reading.converted),
        "skipped": data.reading.skipped,
        "stored_size": data.train.dataset.size,
        "brightness": brightness(data.train),
        **describe_network(model, train.input_shape, machine, min(2, train.batch_size)),
        "normalization": {"mean": list(normalize.mean), "std": list(normalize.std)},
        "options": {name: value for name, value in options.items() if name != "resume"} | {"dataset": [data.name]},
        "seed": options["seed"],
        "earlier_test_evaluations": 0,
        **describe_origin(machine),
    }


def brightness(train: Split) -> dict[str, float]:
    """Return the least and the greatest mean of some training images, from 0 to 1, and how far the means spread."""
    count = max(1, min(LOOKED_AT, PIXELS // train.dataset.size**2, len(train)))
    some = train.subset(torch.linspace(0, len(train) - 1, count).long().tolist())
    means = torch.cat([images.flatten(1).float().mean(1) / 255 for images, _ in some.blocks()])
    return {"least": means.min().item(), "greatest": means.max().item(), "spread": means.std(correction=0).item()}


def title_of(config: dict) -> str:
    """Return what a run is called in pictures and on its page."""
    return f"{config.get('name', config['script'])}, seed {config['seed']}"


def device_line(config: dict, place: str) -> str:
    """Return what a run computes on, and the `place` where its images lie, so that nobody trains on a CPU unawares."""
    machine = config["machine"]
    name = machine["device_name"]
    if machine["device"] == "cpu":
        name += f", {machine['threads']} thread(s)"
        name += "; PyTorch finds no GPU" if config["options"]["device"] == "auto" else ""
    processes = f", {machine['processes']} processes" if machine["processes"] > 1 else ""
    return f"device: {machine['device']} ({name}){processes}, images {place}"


def differences(before: dict, now: dict) -> dict[str, list]:
    """Return {name: [before, now]} of what differs between two configs and can change the last bits of a run."""
    then, here = (
        {name: config.get(name) for name in ("git_commit", "code_sha256")}
        | config.get("versions", {})
        | config.get("machine", {})
        for config in (before, now)
    )
    return {name: [then[name], here[name]] for name in here if then.get(name) not in (None, here[name])}


def describe_network(model: nn.Module, input_shape: tuple[int, ...], machine: Machine, images: int = 2) -> dict:
    """Return what there is to say of a network that takes images of `input_shape` (C, H, W) and trains on `machine`.

    ValueError is raised if it cannot be trained on batches of so many `images`; see `cost`.
    """
    return {
        "model": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **cost(model, input_shape, images, machine.autocast_dtype),
        "input_shape": list(input_shape),
    }


def describe_origin(machine: Machine) -> dict:
    """Return where results come from: the command, the code, the versions, the machine."""
    return {
        "command": shell_line([Path(sys.executable).name, *sys.argv]),
        "git_commit": git_commit(),
        "code_sha256": code_sha256(project_code()),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)}
        | {name: version(name) for name in PACKAGES},
        "machine": machine.describe() | {"system": platform.platform()},
    }
