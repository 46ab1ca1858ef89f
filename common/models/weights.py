"""Weights from a file, of ours or of others, into a network: all of them, or what fits."""

import re
from pathlib import Path

from torch import nn

from common.system.checkpoints import Damaged, is_plain, read_sealed, unpack
from common.system.errors import BadInput
from common.system.files import Unreadable
from common.system.log import info
from common.system.records import are_classes
from common.system.text import printable

CONTAINERS = ("model", "state_dict", "net")  # under one of these keys training scripts store the weights, or bare
LISTED = 4  # names of tensors in a message; all are counted


def load_weights(model: nn.Module, file: str, classes: list[str]) -> None:
    """Load the weights in `file` into `model`, and warn if they were trained for other classes than `classes`.

    BadInput, which says what differs, is raised if the file cannot be read or belongs to another network.
    """
    weights, others = read_weights(file, classes)
    difference = difference_of(model.state_dict(), weights)
    if difference:
        raise BadInput(f"--weights {file} does not fit this network: {difference}")
    _load(model, weights, file)
    if others:
        info(f"warning: --weights {file} was trained for other classes: {', '.join(others[:10])}")


def read_weights(file: str, classes: list[str]) -> tuple[dict, list[str] | None]:
    """Return the weights by name in a checkpoint, and the classes that it was trained for if those are not `classes`.

    The weights are all that the file holds, or what it holds as one of CONTAINERS. The names lose the prefixes that
    `DataParallel` and `torch.compile` give them. Only checkpoints of ours tell their classes. BadInput is raised if the
    file cannot be read safely, is damaged, or holds no weights by name.
    """
    try:
        content, is_ours = read_sealed(Path(file))
        loaded = unpack(content)
    except Damaged as error:
        raise BadInput(f"--weights: {error}") from error
    except Unreadable as error:
        raise BadInput(f"--weights {file} is no checkpoint that can be read safely ({error})") from error
    weights = isinstance(loaded, dict) and next((loaded[key] for key in CONTAINERS if key in loaded), loaded)
    if not isinstance(weights, dict):
        raise BadInput(f"--weights {file} does not fit this network: it holds no weights by name")
    config = loaded.get("config") if is_ours else None
    trained_for = config.get("classes") if isinstance(config, dict) else None
    weights = {re.sub(r"^((module|_orig_mod)\.)+", "", str(name)): value for name, value in weights.items()}
    return weights, trained_for if are_classes(trained_for) and trained_for != classes else None


def difference_of(wanted: dict, found: dict) -> str | None:
    """Return what keeps the tensors in `found` from being those of a network with the state dict `wanted`, if any."""
    for name, tensor in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if not (is_plain(found[name]) and found[name].shape == tensor.shape):
            shape = list(found[name].shape) if is_plain(found[name]) else []  # sparse or complex numbers have none
            return f"{name} has the shape {shape} where {list(tensor.shape)} is needed"
    extra = set(found) - set(wanted)
    return f"it has {printable(min(map(str, extra)), 100)} too" if extra else None


def _load(model: nn.Module, weights: dict, file: str) -> None:
    """Copy `weights`, which are those of `model` or some of them, unless they are of no use."""
    for name, wanted in model.state_dict().items():
        if name in weights and wanted.is_floating_point() and not weights[name].isfinite().all():
            raise BadInput(f"--weights {file} cannot be used: {name} holds a number that is not finite")
    model.load_state_dict(weights, strict=False)


def load_matching(model: nn.Module, file: str, classes: list[str], head: str = "head") -> None:
    """Load the weights in `file` that fit into `model`, and say in one line which do not.

    The tensors of `model.backbone`, if it has one, are loaded one by one, under their names with or without
    `backbone.` before them. Its other parts are loaded whole or not at all: half a head is of no use. Nor is a head
    that is known to tell other classes than `classes` apart. BadInput is raised if the file cannot be read, or nothing
    in it fits.
    """
    tensors, others = read_weights(file, classes)
    wanted = model.state_dict()
    found = {name if name in wanted else f"backbone.{name}": tensor for name, tensor in tensors.items()}
    fitting = {name for name in wanted if is_plain(found.get(name)) and found[name].shape == wanted[name].shape}
    for part in {name.partition(".")[0] for name in wanted} - {"backbone"}:
        of_part = {name for name in wanted if name.startswith(f"{part}.")}
        if (part == head and others) or not of_part <= fitting:
            fitting -= of_part
    if not any(wanted[name].dim() for name in fitting):  # counters of batches fit everywhere
        none = "none of its tensors does (is it of another --model?)"
        raise BadInput(f"--weights {file} does not fit this network: {none}")
    _load(model, {name: found[name] for name in fitting}, file)

    # Old files have no counters of batches, which nothing needs.
    new = [name for name in wanted if name not in fitting and not name.endswith("num_batches_tracked")]
    unused = [name for name in tensors if not fitting & {name, f"backbone.{name}"}]
    warning = "" if all(name.startswith((f"{head}.", "rescaler.")) for name in new) else "warning: "
    remark = f" (trained for other classes: {_listed(others)})" if others else ""
    info(
        f"{warning}{len(fitting)} of {len(wanted)} tensors are from {file}{remark}; "
        f"not in it, or of another shape: {_listed(new)}; not used of it: {_listed(unused)}"
    )


def _listed(names: list[str]) -> str:
    more = ", …" if len(names) > LISTED else ""
    return f"{len(names)} ({printable(', '.join(names[:LISTED]), 300)}{more})" if names else "none"
