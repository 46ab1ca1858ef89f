"""Weights from a file, of ours or of others, into a network: all of them, or what fits."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.system.checkpoints import Damaged, is_plain, read_sealed
from common.system.errors import BadInput
from common.system.files import Unreadable
from common.system.foreign import unpack_foreign
from common.system.log import info
from common.system.records import are_classes
from common.system.text import printable

# Keys under which training scripts store the weights; one may lie in another.
CONTAINERS = ("model", "state_dict", "net", "model_state_dict", "model_state", "weights")
DEEPEST = 3  # keys above the weights
MOST_DICTS = 1000  # that are looked at: a small file can hold one dict a million times
WRAPPERS = ("module", "_orig_mod")  # what `DataParallel`, averages and `torch.compile` put into names, anywhere
OTHER_NAMES = {"shortcut": "downsample", "linear": "fc"}  # of the ResNets of github.com/kuangliu/pytorch-cifar
OF_DENSENETS = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")  # in torchvision's files alone
COUNTER = "num_batches_tracked"  # of a batch norm: nothing needs it, and files from before 2018 do not have it
LEAST_OF_NETWORK, MOST_UNUSED = 1 / 2, 1 / 4  # shares of tensors without which a file is of another network
LISTED = 4  # names of tensors in a message; all are counted


@dataclass(frozen=True)
class Weights:
    """Tensors by the names that a file gives them; its classes if it tells them; what messages call it."""

    tensors: dict[str, object]
    classes: list[str] | None
    source: str


def load_weights(model: nn.Module, file: str, classes: list[str], key: str | None = None) -> None:
    """Load the weights in `file` into `model`, and warn if they were trained for other classes than `classes`.

    BadInput, which says what differs, is raised if the file cannot be read or belongs to another network.
    """
    weights, wanted = read_weights(file, key), model.state_dict()
    names, extra = _names_in(weights.tensors, wanted)
    found = {name: weights.tensors[names[name]] for name in names}
    difference = difference_of(wanted, found | {name: weights.tensors[name] for name in extra})
    if difference:
        raise BadInput(f"--weights {weights.source} does not fit this network: {difference}")
    _load(model, found, weights.source)
    info(f"{len(found)} of {len(wanted)} tensors are from {weights.source}")
    if weights.classes not in (None, classes):
        others = ", ".join(weights.classes[:10])
        info(f"warning: --weights {weights.source} was trained for other classes: {others}")


def read_weights(file: str, key: str | None = None) -> Weights:
    """Return the weights by name in a checkpoint: those under `key`, or under one of CONTAINERS, or all that it holds.

    Only checkpoints of ours tell their classes. BadInput is raised if the file cannot be read safely, is damaged, or
    does not say which of its contents are the weights.
    """
    try:
        content, is_ours = read_sealed(Path(file))
        loaded = unpack_foreign(content)
    except Damaged as error:
        raise BadInput(f"--weights: {error}") from error
    except Unreadable as error:
        way_out = "; where it was made, write the weights alone: torch.save(model.state_dict(), FILE)"
        raise BadInput(f"--weights {file} is no checkpoint that can be read safely ({error}){way_out}") from error
    sets = dict(_sets_in(loaded, [])) or _without_tensors(loaded)
    chosen = _choose(sets, key, file)
    others = [printable(name, 60) for name in sets if name not in ("", chosen)]
    also = f"; it has {', '.join(others[:LISTED])} too (--weights_key)" if others else ""
    source = f"{file} ({printable(chosen or 'the rest of it', 60)}{also})" if chosen or also else file
    config = loaded.get("config") if is_ours else None
    trained_for = config.get("classes") if isinstance(config, dict) else None
    return Weights(sets[chosen], trained_for if are_classes(trained_for) else None, source)


def _sets_in(value: object, seen: list, path: tuple[str, ...] = ()) -> Iterator[tuple[str, dict]]:
    """Yield all dicts of tensors by name in what a file holds, with the keys above them, joined by dots."""
    if not isinstance(value, dict) or len(path) > DEEPEST or len(seen) >= MOST_DICTS:
        return
    seen.append(path)
    has_tensors = any(isinstance(tensor, torch.Tensor) and tensor.dim() for tensor in value.values())
    if has_tensors and (path or not value.keys() & set(CONTAINERS)):
        yield ".".join(path), value
    for key, inner in value.items():
        if isinstance(key, str):  # the states of optimizers have numbers
            yield from _sets_in(inner, seen, (*path, key))


def _without_tensors(value: object) -> dict[str, object]:
    """Return what would be the weights in a file that holds none: what is said of it is what they lack."""
    content = next((value[key] for key in CONTAINERS if key in value), value) if isinstance(value, dict) else None
    return {"": content} if isinstance(content, dict) else {}


def _choose(sets: dict[str, dict], key: str | None, file: str) -> str:
    """Return which of the sets of weights in a file is meant."""
    if key:
        chosen = [name for name in sets if name == key or name.startswith(f"{key}.")]
        problem = f"--weights_key {key}: there are no weights of that name in {file}"
    else:
        usual = [name for name in sets if name and set(name.split(".")) <= set(CONTAINERS)]
        usual.sort(key=lambda name: CONTAINERS.index(name.split(".")[0]))
        chosen = usual or [name for name in sets if name == ""] or (list(sets) if len(sets) == 1 else [])
        problem = f"--weights {file} does not fit this network: it holds no weights by name"
    if chosen:
        return chosen[0]
    if names := [printable(name, 60) for name in sets if name]:
        raise BadInput(f"{problem}; choose with --weights_key: {', '.join(names[:10])}")
    raise BadInput(problem)


def _names_in(tensors: dict, wanted: dict) -> tuple[dict[str, str], list[str]]:
    """Return the name in a file of each tensor of `wanted` that is there, and the file's names that are of none.

    All names may have a prefix in the file: the one that makes most of them names of the network. What has another
    prefix is no part of it, so that its names are not returned. `backbone.` before names of the network may be missing.
    """
    known = {part for name in wanted for part in name.split(".")}
    own = {name.removeprefix("backbone."): name for name in wanted} | {name: name for name in wanted}
    plain, matches = {}, {"": 0}
    for name in tensors:
        parts = OF_DENSENETS.sub(r"\1\2.", str(name)).split(".")
        parts = [OTHER_NAMES.get(part, part) if part not in known else part for part in parts]
        parts = [part for part in parts if part in known or part not in WRAPPERS]
        plain[name] = ".".join(parts)
        ends = (count for count in range(len(parts)) if ".".join(parts[count:]) in own)
        if (count := next(ends, None)) is not None:
            prefix = "".join(f"{part}." for part in parts[:count])
            matches[prefix] = matches.get(prefix, 0) + 1
    prefix = max(matches, key=matches.get)
    of_network = {name: own.get(plain[name].removeprefix(prefix)) for name in plain if plain[name].startswith(prefix)}
    names = {of_network[name]: name for name in reversed(of_network) if of_network[name]}
    return names, [name for name in of_network if names.get(of_network[name]) != name]


def difference_of(wanted: dict, found: dict) -> str | None:
    """Return what keeps the tensors in `found` from being those of a network with the state dict `wanted`, if any."""
    for name, tensor in wanted.items():
        if name not in found and not name.endswith(COUNTER):
            return f"{name} is missing"
        if name in found and not _fits(found[name], tensor):
            return _other_shape(name, found[name], tensor)
    extra = set(found) - set(wanted)
    return f"it has {printable(min(map(str, extra)), 100)} too" if extra else None


def _fits(found: object, wanted: torch.Tensor) -> bool:
    return is_plain(found) and found.shape == wanted.shape


def _other_shape(name: str, found: object, wanted: torch.Tensor) -> str:
    shape = list(found.shape) if is_plain(found) else []  # sparse or complex numbers have none
    return f"{name} has the shape {shape} where {list(wanted.shape)} is needed"


def _load(model: nn.Module, weights: dict, source: str) -> None:
    """Copy `weights`, which are those of `model` or some of them, unless they are of no use."""
    for name, wanted in model.state_dict().items():
        if name in weights and wanted.is_floating_point() and not weights[name].to(wanted.dtype).isfinite().all():
            raise BadInput(f"--weights {source} cannot be used: {name} holds a number that is not finite")
    model.load_state_dict(weights, strict=False)


def load_matching(
    model: nn.Module,
    file: str,
    classes: list[str],
    head: str | None = "head",
    key: str | None = None,
    is_trained: bool = True,
) -> None:
    """Load the weights in `file` that fit into `model`, and say in one line which do not.

    The parts `head` and `rescaler` are loaded whole or not at all: half a head is of no use. Nor is one that is known
    to tell other classes than `classes` apart. Nothing but a rescaler may be missing unless the network `is_trained`
    afterwards. Without a `head`, all must fit, see `load_weights`. BadInput is raised if the file cannot be read, or is
    of another network, see `_check_network`.
    """
    if head is None:
        return load_weights(model, file, classes, key)
    weights, wanted = read_weights(file, key), model.state_dict()
    names, extra = _names_in(weights.tensors, wanted)
    fitting = {name for name in names if _fits(weights.tensors[names[name]], wanted[name])}
    others = weights.classes if weights.classes not in (None, classes) else None
    for part, is_of_no_use in ((f"{head}.", bool(others)), ("rescaler.", False)):
        of_part = {name for name in wanted if name.startswith(part)}
        if is_of_no_use or not of_part <= fitting:
            fitting -= of_part
    own = (f"{head}.", "rescaler.")  # what is new in every fine-tuning
    needed = {name: wanted[name] for name in wanted if not name.startswith(own) and not name.endswith(COUNTER)}
    _check_network(weights, needed, names, extra)
    remark = f" (trained for other classes: {_listed(others)})" if others else ""
    new = [name for name in wanted if name not in fitting and not name.endswith(COUNTER)]
    random = [name for name in new if not name.startswith("rescaler.")]
    if random and not is_trained:
        raise BadInput(
            f"-e 0 only evaluates, and --weights {weights.source}{remark} has nothing that fits for {_listed(random)}, "
            "which would be random: train them, or give the weights of a network for these classes"
        )
    _load(model, {name: weights.tensors[names[name]] for name in fitting}, weights.source)

    counters = sum(name.endswith(COUNTER) for name in wanted if name not in fitting)
    remark += f" (without {counters} counters of batches, which nothing needs)" if counters else ""
    used = {names[name] for name in fitting}
    unused = [str(name) for name in weights.tensors if name not in used]
    warning = "" if all(name.startswith(own) for name in new) else "warning: "
    info(
        f"{warning}{len(fitting)} of {len(wanted)} tensors are from {weights.source}{remark}; "
        f"not in it, or of another shape: {_listed(new)}; not used of it: {_listed(unused)}"
    )


def _check_network(weights: Weights, needed: dict, names: dict[str, str], extra: list) -> None:
    """Raise BadInput, which says what differs, if `weights` are hardly those of a network with the tensors `needed`.

    So it is if less than LEAST_OF_NETWORK of these are there, or more than MOST_UNUSED of those have no place here.
    `names` and `extra` are what `_names_in` returns.
    """
    found, known = weights.tensors, [name for name in needed if name in names]
    fitting = [name for name in known if _fits(found[names[name]], needed[name])]
    extra = [name for name in extra if not str(name).endswith(COUNTER)]
    if len(fitting) >= max(LEAST_OF_NETWORK * len(needed), (1 - MOST_UNUSED) * len(known + extra)):
        return
    missing = [name for name in needed if name not in names]
    shapes = [_other_shape(name, found[names[name]], needed[name]) for name in known if name not in fitting]
    if not known:
        has = printable(next(iter(found), "nothing"), 100)
        reason = f"none of its {len(found)} tensors does: it has {has} where {missing[0]} is needed"
    elif len(extra) >= max(len(missing), len(shapes)):
        reason = f"{len(extra)} of its {len(found)} tensors have no place in it, such as {printable(extra[0], 100)}"
    elif len(shapes) >= len(missing):
        reason = f"{len(shapes)} of {len(needed)} tensors have another shape: {shapes[0]}"
    else:
        reason = f"{len(missing)} of {len(needed)} tensors are missing, such as {missing[0]}"
    raise BadInput(f"--weights {weights.source} does not fit this network: {reason} (is it of another --model?)")


def _listed(names: list[str]) -> str:
    more = ", …" if len(names) > LISTED else ""
    return f"{len(names)} ({printable(', '.join(names[:LISTED]), 300)}{more})" if names else "none"
