"""A search that changes one thing at a time: from words such as `width=16,12` to the points of a grid."""

import itertools
from collections.abc import Callable
from pathlib import Path

from common.system.errors import BadInput
from tools.searching.spaces import OneOf, Value
from tools.searching.sweep_file import COMMAND, NAME, Sweep

METRIC = "val_accuracy"


def vary(script: str, changes: list[str], options: Callable[[dict], dict], is_grid: bool) -> Sweep:
    """Return a sweep over the defaults of an experiment and what each of the `changes` makes of them.

    Args:
        changes: `name=value,value`, with `;` between values that have commas; `name` alone turns a switch.
        options: returns the options by name that the script makes of given ones; it raises BadInput if it refuses them.
        is_grid: whether all combinations are tried, not one change at a time.

    Raises:
        BadInput: an option or a value that the script does not know, or a change that changes nothing.
    """
    defaults, parameters = options({}), {}
    for change in changes:
        name, _, text = change.partition("=")
        name = name.lstrip("-").replace("-", "_")
        if not NAME.fullmatch(name) or name not in defaults:
            raise BadInput(f"--vary {change}: {Path(script).name} has no option {name!r}")
        if name in parameters or name == "seed":
            raise BadInput(f"--vary {change}: " + ("--seeds N does that" if name == "seed" else "it is there twice"))
        parameters[name] = OneOf(_values(change, name, text, options))
    if is_grid:
        combinations = itertools.product(*(form.values for form in parameters.values()))
        points = [dict(zip(parameters, values, strict=True)) for values in combinations]
    else:
        unchanged = {name: form.values[0] for name, form in parameters.items()}
        points = [unchanged, *(unchanged | {name: v} for name, form in parameters.items() for v in form.values[1:])]
    name = "-".join([Path(script).stem, "grid" if is_grid else "vary", *parameters])
    return Sweep(
        name=name, program=script, method="grid", parameters=parameters, metric=METRIC, maximize=True, target=None,
        command=COMMAND, bands=[], eta=3.0, is_strict=False, run_cap=None, points=tuple(points),
    )  # fmt: skip


def _values(change: str, name: str, text: str, options: Callable[[dict], dict]) -> list[Value]:
    """Return the values of one option, the default first; those that come to the same are there once."""
    default = options({})[name]
    if not text and not isinstance(default, bool):
        raise BadInput(f"--vary {change}: it is no switch; say which values, such as {name}=1,2")
    listed = [not default] if not text else text.split(";" if ";" in text else ",")
    is_left_out = default is None or default == []  # an option that is not there by default has no value to be typed
    values, results = [None if is_left_out else default if isinstance(default, bool) else _typed(default)], [default]
    try:
        typed = options({name: values[0]})[name]
    except BadInput:
        typed = None
    if typed != default:
        raise BadInput(f"--vary {change}: its default, {default!r}, cannot be typed; write a sweep file")
    for value in listed:
        try:
            result = options({name: value})[name]
        except BadInput as error:
            raise BadInput(f"--vary {change}: {error}") from error
        if result not in results:
            values.append(value)
            results.append(result)
    if len(values) == 1:
        raise BadInput(f"--vary {change}: {name} is {values[0]} already; say which others")
    return values


def _typed(value: object) -> str:
    """Return the value of an option as it is typed."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
