"""Reading a Weights & Biases sweep file: what is searched, how, and towards what; every mistake with its place.

The schema is that of the `wandb/sweeps` repository. Unknown keys are errors at every level, as they are there.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from common.options.types import nearest
from common.searching.spaces import Normal, OneOf, Parameter, Range, Weighted
from common.system.errors import BadInput
from common.system.log import say

TOP_KEYS = (
    "method", "program", "parameters", "metric", "name", "description", "project", "entity", "command",
    "early_terminate", "run_cap",
)  # fmt: skip
METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
ENVIRONMENT, INTERPRETER, PROGRAM = "${env}", "${interpreter}", "${program}"
ARGUMENTS = ("${args}", "${args_no_equals}", "${args_no_boolean_flags}")
COMMAND = [ENVIRONMENT, INTERPRETER, PROGRAM, ARGUMENTS[0]]
MOST_STEPS = 100_000
LARGEST_EPOCH = 1_000_000
ETA = 3.0  # one run in so many is kept at each band
# Which keys each distribution takes beside `distribution`; those with a value have it as their default.
DISTRIBUTIONS = {
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    "int_uniform": {"min": None, "max": None},
    "uniform": {"min": None, "max": None},
    "log_uniform": {"min": None, "max": None},
    "log_uniform_values": {"min": None, "max": None},
    "q_uniform": {"min": None, "max": None, "q": 1},
    "q_log_uniform": {"min": None, "max": None, "q": 1},
    "q_log_uniform_values": {"min": None, "max": None, "q": 1},
    "normal": {"mu": 0.0, "sigma": 1.0},
    "log_normal": {"mu": 0.0, "sigma": 1.0},
    "q_normal": {"mu": 0.0, "sigma": 1.0, "q": 1},
    "q_log_normal": {"mu": 0.0, "sigma": 1.0, "q": 1},
}


# What a sweep can be about: the numbers of an epoch's record in train.json. Of a run, the best epoch counts.
METRICS = (
    "val_accuracy", "val_loss", "train_accuracy", "train_loss", "seconds", "images_per_second", "peak_memory_mb",
    "process_memory_mb",
)  # fmt: skip
ALIASES = {"best_val_accuracy": "val_accuracy"}


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
        target: value of the metric at which the search ends. bands: epochs at which runs are compared, and all but the
            best 1 / eta of them end; empty without early termination. is_strict: a run is judged by its value at the
            band, not by its best so far.
    """

    name: str
    program: str | None
    method: str
    parameters: dict[str, Parameter]
    metric: str
    maximize: bool
    target: float | None
    command: list[str]
    bands: list[int]
    eta: float
    is_strict: bool
    run_cap: int | None

    def grid_size(self) -> int:
        """Return the number of combinations of values."""
        return math.prod(parameter.count() for parameter in self.parameters.values())

    def grid_point(self, number: int) -> dict:
        """Return combination `number`, from 0 on, as {name: value}; the last of the sorted names varies fastest."""
        point = {}
        for name in sorted(self.parameters, reverse=True):
            number, place = divmod(number, self.parameters[name].count())
            point[name] = self.parameters[name].at(place)
        return point


def read_sweep(path: str) -> Sweep:
    """Return the sweep in the YAML file `path`.

    Raises:
        BadInput: it cannot be read, has unknown keys, or describes an impossible search; the text says where.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a date in the 13th month
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split()) or 'nested too deeply'}") from error
    try:
        return parse_sweep(content, Path(path).stem)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def parse_sweep(content: object, name: str) -> Sweep:
    """Return the sweep that `content`, what YAML reads from a file, describes.

    Args:
        name: of the sweep, unless the file gives one.

    Raises:
        BadInput: as `read_sweep`, without the file's name.
    """
    content = _mapping(content, "the file", TOP_KEYS)
    method = _one_of(content.get("method"), "method", METHODS)
    listed = content.get("parameters")
    if not isinstance(listed, dict) or not listed:
        raise BadInput("parameters: must hold at least one parameter, such as `lr: {values: [0.1, 0.01]}`")
    parameters = {}
    for key, value in listed.items():
        if not isinstance(key, str) or not NAME.fullmatch(key):
            raise BadInput(f"parameters: {key!r} is no name of an option")
        parameters[key] = _parameter(value, f"parameters.{key}", method == "grid")
        if method == "grid" and parameters[key].count() is None:
            raise BadInput(f"parameters.{key}: a grid needs plain values, whole numbers, or steps of q")
    metric, maximize, target = _metric(content.get("metric"), method)
    bands, eta, is_strict = _early_terminate(content.get("early_terminate"))
    return Sweep(
        _text(content.get("name"), "name") or name, _text(content.get("program"), "program"), method, parameters,
        metric, maximize, target, _command(content.get("command")), bands, eta, is_strict,
        _integer(content.get("run_cap"), "run_cap"),
    )  # fmt: skip


def _parameter(content: object, place: str, is_grid: bool) -> Parameter:
    keys = sorted({key for taken in DISTRIBUTIONS.values() for key in taken})
    content = _mapping(content, place, ("distribution", *keys))
    kind = content.get("distribution", _implied_distribution(content))
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        near = nearest(str(kind), DISTRIBUTIONS)
        raise BadInput(f"{place}.distribution: {kind!r} is none of {', '.join(DISTRIBUTIONS)}{near}")
    settings = _settings(kind, content, place)
    if "value" in settings:
        return OneOf([_scalar(settings["value"], f"{place}.value")])
    if "values" in settings:
        return _choice(settings, place)
    numbers = {key: _number(value, f"{place}.{key}") for key, value in settings.items()}
    for key in ("q", "sigma"):
        if numbers.get(key, 1) <= 0:
            raise BadInput(f"{place}.{key}: must be above 0")
    if "sigma" in numbers:
        return Normal(numbers["mu"], numbers["sigma"], "log" in kind, numbers.get("q"))
    if is_grid and kind == "q_uniform":
        return _steps(numbers, place)
    return _range(kind, numbers, numbers.get("q"), place)


def _steps(numbers: dict, place: str) -> OneOf:
    """Return what W&B's grids make of q_uniform: min, min + q, … below max."""
    low, high, q = numbers["min"], numbers["max"], numbers["q"]
    if not 1 <= math.ceil((high - low) / q) <= MOST_STEPS:
        raise BadInput(f"{place}: from min to max there must be 1 to {MOST_STEPS:,} steps of q")
    steps = [float(f"{low + number * q:.12g}") for number in range(math.ceil((high - low) / q))]
    return OneOf([int(step) if step.is_integer() and float(q).is_integer() else step for step in steps])


def _settings(kind: str, content: dict, place: str) -> dict:
    """Return what is said of a parameter of this distribution, with its defaults."""
    taken = DISTRIBUTIONS[kind]
    given = {key: value for key, value in content.items() if key != "distribution"}
    for key in given:
        if key not in taken:
            raise BadInput(f"{place}: {kind} takes no {key!r}, but {', '.join(taken)}")
    settings = taken | given
    for key, value in settings.items():
        if value is None and not (kind == "constant" and key in given):
            raise BadInput(f"{place}: {kind} needs {key!r}")
    return settings


def _implied_distribution(content: dict) -> str:
    """Return the distribution that is meant where none is named."""
    if "value" in content:
        return "constant"
    if "values" in content:
        return "categorical_w_probabilities" if "probabilities" in content else "categorical"
    if "mu" in content or "sigma" in content:
        return "q_normal" if "q" in content else "normal"
    if "q" in content:
        return "q_uniform"
    bounds = (content.get("min"), content.get("max"))
    return "int_uniform" if all(type(bound) is int for bound in bounds) else "uniform"


def _choice(settings: dict, place: str) -> Parameter:
    values = settings["values"]
    if not isinstance(values, list) or not values:
        raise BadInput(f"{place}.values: must be a list of at least one value")
    values = [_scalar(value, f"{place}.values") for value in values]
    for number, value in enumerate(values):
        if value in values[:number]:
            raise BadInput(f"{place}.values: {value!r} is there twice")
    if "probabilities" not in settings:
        return OneOf(values)
    shares = settings["probabilities"]
    if not isinstance(shares, list) or len(shares) != len(values):
        raise BadInput(f"{place}.probabilities: must be a list of {len(values)} numbers, one for each value")
    shares = [_number(share, f"{place}.probabilities") for share in shares]
    if min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise BadInput(f"{place}.probabilities: must be at least 0 each and 1 together; they are {sum(shares):g}")
    return Weighted(values, shares)


def _range(kind: str, numbers: dict, step: float | None, place: str) -> Parameter:
    low, high = numbers["min"], numbers["max"]
    if kind in ("log_uniform", "q_log_uniform"):  # the bounds are natural logarithms of those that are meant
        if high > 600 or low < -600:
            raise BadInput(f"{place}: min and max of {kind} are exponents of e; {low:g} and {high:g} are out of reach")
        low, high = math.exp(low), math.exp(high)
        say(f"note: {place}: {kind} takes exponents of e, so values go from {low:.4g} to {high:.4g}")
    if not low < high:
        raise BadInput(f"{place}: min must be below max")
    if "log" in kind and low <= 0:
        raise BadInput(f"{place}.min: must be above 0 for {kind}")
    if kind == "int_uniform" and not (low == int(low) and high == int(high)):
        raise BadInput(f"{place}: int_uniform needs whole numbers as min and max")
    if step is not None and not (math.isfinite(high / step) and math.isfinite(low / step)):
        raise BadInput(f"{place}.q: {step:g} is too small")
    if step is not None and math.floor(high / step) < math.ceil(low / step):
        raise BadInput(f"{place}: no multiple of q = {step:g} lies between min and max")
    if kind == "int_uniform":
        return Range(int(low), int(high), is_integer=True)
    return Range(low, high, is_log="log" in kind, step=step)


def _metric(content: object, method: str) -> tuple[str, bool, float | None]:
    """Return (name, whether more is better, target)."""
    if content is None:
        if method == "bayes":
            raise BadInput("metric: method bayes needs one, such as `metric: {name: val_accuracy, goal: maximize}`")
        return "val_accuracy", True, None
    content = _mapping(content, "metric", ("name", "goal", "target"))
    name = _text(content.get("name"), "metric.name")
    if not name:
        raise BadInput("metric: needs a name, such as val_accuracy")
    known = (*METRICS, *ALIASES)
    if name not in known:
        raise BadInput(f"metric.name: train.json has no {name!r}, but {', '.join(known)}{nearest(name, known)}")
    goal = _one_of(content.get("goal", "minimize"), "metric.goal", GOALS)
    target = content.get("target")
    return name, goal == "maximize", None if target is None else _number(target, "metric.target")


def _early_terminate(content: object) -> tuple[list[int], float, bool]:
    """Return (bands, eta, is_strict), as `Sweep` has them."""
    if content is None:
        return [], ETA, False
    content = _mapping(content, "early_terminate", ("type", "min_iter", "max_iter", "s", "eta", "strict"))
    _one_of(content.get("type"), "early_terminate.type", ("hyperband",))
    eta = _number(content.get("eta", ETA), "early_terminate.eta")
    if eta <= 1:
        raise BadInput("early_terminate.eta: must be above 1")
    numbers = {key: _integer(content.get(key), f"early_terminate.{key}") for key in ("min_iter", "max_iter", "s")}
    if (numbers["min_iter"] is None) == (numbers["max_iter"] is None):
        raise BadInput("early_terminate: needs either min_iter, or max_iter and s")
    if numbers["min_iter"] is not None:
        if numbers["s"] is not None:
            raise BadInput("early_terminate: s belongs to max_iter, not to min_iter")
        bands = (numbers["min_iter"] * eta ** min(k, math.log(LARGEST_EPOCH, eta)) for k in range(100))
        return sorted({int(band) for band in bands}), eta, content.get("strict") is True
    if numbers["s"] is None:
        raise BadInput("early_terminate: max_iter needs s, the number of comparisons")
    bands = sorted({int(numbers["max_iter"] / eta**i) for i in range(1, min(numbers["s"], 64) + 1)} - {0})
    if not bands:
        raise BadInput("early_terminate: max_iter / eta is less than one epoch; raise max_iter")
    return bands, eta, content.get("strict") is True


def _command(content: object) -> list[str]:
    if content is None:
        return COMMAND
    if not isinstance(content, list) or not content:
        raise BadInput(f"command: must be a list such as {COMMAND}")
    words = [str(word) for word in content]
    macros = (ENVIRONMENT, INTERPRETER, PROGRAM, *ARGUMENTS)
    for word in words:
        if "${" in word and word not in macros:
            raise BadInput(f"command: {word!r} is none of {', '.join(macros)}, each of which is an item of its own")
    if not any(word in ARGUMENTS for word in words):
        raise BadInput(f"command: lacks {ARGUMENTS[0]}, so that no parameter would reach the program")
    return words


def _mapping(content: object, place: str, keys: tuple[str, ...]) -> dict:
    if not isinstance(content, dict):
        raise BadInput(f"{place}: must hold lines such as `{keys[0]}: …`")
    for key in content:
        if key not in keys:
            raise BadInput(f"{place}: there is no key {key!r} here{nearest(str(key), keys)}")
    return content


def _one_of(value: object, place: str, values: tuple[str, ...]) -> str:
    if value not in values:
        raise BadInput(f"{place}: must be {' or '.join(values)}" + ("" if value is None else f", not {value!r}"))
    return value


def _text(value: object, place: str) -> str | None:
    if value is not None and not isinstance(value, (str, int, float)):
        raise BadInput(f"{place}: must be a text")
    return None if value is None else str(value)


def _scalar(value: object, place: str) -> str | int | float | bool | None:
    if value is not None and not isinstance(value, (str, int, float, bool)):
        raise BadInput(f"{place}: {value!r} is no number, text, or true or false")
    return _number(value, place) if isinstance(value, float) else value


def _number(value: object, place: str) -> float:
    """Return a finite number; YAML takes 1e-5, without a point, for a text."""
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        raise BadInput(f"{place}: {value!r} is no number")
    return number


def _integer(value: object, place: str) -> int | None:
    if value is not None and (type(value) is not int or not 1 <= value <= LARGEST_EPOCH):
        raise BadInput(f"{place}: must be a whole number from 1 to {LARGEST_EPOCH:,}")
    return value
