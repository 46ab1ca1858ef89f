"""Reading a Weights & Biases sweep file: what is searched, how, and towards what; every mistake with its place.

The schema is that of the `wandb/sweeps` repository. Unknown keys are errors at every level, as they are there.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from common.options.types import nearest
from common.system.errors import BadInput
from common.system.files import read_yaml
from common.system.log import info
from tools.searching.spaces import Normal, OneOf, Parameter, Range, Value, Weighted

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
LARGEST = 1e30
LARGEST_WHOLE = 2**53  # from there on floats leave whole numbers out
ETA = 3.0  # one run in so many is kept at each band
BOUNDS, BELL, STEP = {"min": None, "max": None}, {"mu": 0.0, "sigma": 1.0}, {"q": 1}
# Which keys each distribution takes beside `distribution`; those with a value have it as their default.
DISTRIBUTIONS = {
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    **dict.fromkeys(("int_uniform", "uniform", "log_uniform", "log_uniform_values"), BOUNDS),
    **dict.fromkeys(("q_uniform", "q_log_uniform", "q_log_uniform_values"), BOUNDS | STEP),
    **dict.fromkeys(("normal", "log_normal"), BELL),
    **dict.fromkeys(("q_normal", "q_log_normal"), BELL | STEP),
}
# What a sweep can be about: the numbers of an epoch's record in train.json. Of a run, the best epoch counts.
METRICS = (
    "val_accuracy", "val_loss", "train_accuracy", "train_loss", "seconds", "images_per_second", "peak_memory_mb",
    "process_memory_mb",
)  # fmt: skip
ALIASES = {"best_val_accuracy": "val_accuracy"}


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says."""

    name: str
    program: str | None
    method: str
    parameters: dict[str, Parameter]
    metric: str
    maximize: bool
    target: float | None  # value of the metric at which the search ends
    command: list[str]
    bands: list[int]  # epochs at which runs are compared, and all but the best 1 / eta of them end; can be empty
    eta: float
    is_strict: bool  # a run is judged by its value at the band, not by its best so far
    run_cap: int | None
    seeds: int = 1  # with which each configuration is tried
    points: tuple[dict, ...] | None = None  # of a grid that has not all combinations

    @property
    def searched(self) -> dict[str, Parameter]:
        """The parameters that Optuna proposes: all but constants."""
        return {name: form for name, form in self.parameters.items() if form.grid() is None or len(form.grid()) > 1}

    def values(self, proposed: dict) -> dict:
        """Return the options for what Optuna has proposed, {} if it has not proposed all yet."""
        if not self.searched.keys() <= proposed.keys():
            return {}
        return {name: form.value(proposed.get(name)) for name, form in self.parameters.items()}

    def grid_size(self) -> int:
        """Return the number of combinations of values."""
        if self.points is not None:
            return len(self.points)
        return math.prod(len(form.grid()) for form in self.parameters.values())

    def grid_point(self, number: int) -> dict:
        """Return combination `number`, from 0 on, as {name: value}; the last of the sorted names varies fastest."""
        if self.points is not None:
            return self.points[number]
        point = {}
        for name in sorted(self.parameters, reverse=True):
            grid = self.parameters[name].grid()
            number, place = divmod(number, len(grid))
            point[name] = grid[place]
        return point


def read_sweep(path: str) -> Sweep:
    """Return the sweep in the YAML file `path`; whatever is wrong with it raises BadInput, and the text says where."""
    content = read_yaml(path, path)
    try:
        return parse_sweep(content, Path(path).stem)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def parse_sweep(content: object, name: str) -> Sweep:
    """Return the sweep in `content`, as YAML reads it, or raise BadInput. `name` is for a file that gives none."""
    file = _Section(content, "", TOP_KEYS)
    method, listed = file.one_of("method", METHODS), file.get("parameters")
    has_any = isinstance(listed, dict) and listed
    file.require(has_any, "must hold at least one, such as `lr: {values: [0.1, 0.01]}`", "parameters")
    parameters = {}
    for key, value in listed.items():
        is_name = isinstance(key, str) and NAME.fullmatch(key)
        file.require(is_name, f"{key!r} is no name of an option", "parameters")
        parameters[key] = _parameter(value, f"parameters.{key}", method == "grid")
    return Sweep(
        name=file.text("name") or name, program=file.text("program"), method=method, parameters=parameters,
        command=_command(file), run_cap=file.integer("run_cap"),
        **_metric(file.get("metric"), method), **_early_terminate(file.get("early_terminate")),
    )  # fmt: skip


class _Section:
    """A mapping in the file, whose values are taken by key; what is wrong raises BadInput, which tells the place."""

    def __init__(self, content: object, place: str, keys: tuple[str, ...]):
        self.place = place
        self.require(isinstance(content, dict), f"must hold lines such as `{keys[0]}: …`")
        for key in content:
            self.require(key in keys, f"there is no key {key!r} here{nearest(str(key), keys)}")
        self.get = content.get

    def require(self, is_fine: object, said: str, key: str = "") -> None:
        """Refuse the section, or what it holds under `key`, unless it `is_fine`."""
        if not is_fine:
            raise BadInput(f"{'.'.join(filter(None, (self.place, key))) or 'the file'}: {said}")

    def one_of(self, key: str, values: tuple[str, ...], default: str | None = None) -> str:
        value = self.get(key, default)
        said = "" if value is None else f", not {value!r}{nearest(str(value), values)}"
        self.require(value in values, f"must be {' or '.join(values)}{said}", key)
        return value

    def text(self, key: str) -> str | None:
        value = self.get(key)
        self.require(value is None or isinstance(value, (str, int, float)), "must be a text", key)
        return None if value is None else str(value)

    def integer(self, key: str) -> int | None:
        value = self.get(key)
        is_fine = value is None or (type(value) is int and 1 <= value <= LARGEST_EPOCH)
        self.require(is_fine, f"must be a whole number from 1 to {LARGEST_EPOCH:,}", key)
        return value

    def number(self, key: str, value: object) -> float:
        """Return a finite number; YAML takes 1e-5, without a point, for a text."""
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        self.require(math.isfinite(number), f"{value!r} is no number", key)
        return number

    def scalar(self, key: str, value: object) -> Value:
        is_scalar = value is None or isinstance(value, (str, int, float))
        self.require(is_scalar, f"{value!r} is no number, text, or true or false", key)
        return self.number(key, value) if isinstance(value, float) else value


def _parameter(content: object, place: str, is_grid: bool) -> Parameter:
    section = _Section(content, place, ("distribution", *sorted(set().union(*DISTRIBUTIONS.values()))))
    kind = section.one_of("distribution", tuple(DISTRIBUTIONS), _implied_distribution(content))
    given = {key: value for key, value in content.items() if key != "distribution"}
    for key in given:
        section.require(key in DISTRIBUTIONS[kind], f"{kind} takes no {key!r}, but {', '.join(DISTRIBUTIONS[kind])}")
    settings = DISTRIBUTIONS[kind] | given
    for key, value in settings.items():
        section.require(value is not None or (key in given and kind == "constant"), f"{kind} needs {key!r}")
    if "value" in settings:
        return OneOf([section.scalar("value", settings["value"])])
    if "values" in settings:
        form = _choice(section, **settings)
    else:
        numbers = {key: section.number(key, value) for key, value in settings.items()}
        form = _numeric(kind, numbers, section, is_grid)
    section.require(form.grid() or not is_grid, "a grid needs plain values, whole numbers, or steps of q")
    return form


def _implied_distribution(content: dict) -> str:
    """Return the distribution that is meant where none is named."""
    normal = "q_normal" if "q" in content else "normal"
    signs = {"value": "constant", "probabilities": "categorical_w_probabilities", "values": "categorical",
             "mu": normal, "sigma": normal, "q": "q_uniform"}  # fmt: skip
    is_whole = all(type(content.get(bound)) is int for bound in ("min", "max"))
    return next((kind for key, kind in signs.items() if key in content), "int_uniform" if is_whole else "uniform")


def _choice(section: _Section, values: object, probabilities: object = None) -> OneOf:
    section.require(isinstance(values, list) and values, "must be a list of at least one value", "values")
    values = [section.scalar("values", value) for value in values]
    for number, value in enumerate(values):
        section.require(value not in values[:number], f"{value!r} is there twice", "values")
    if probabilities is None:
        return OneOf(values)
    has_all = isinstance(probabilities, list) and len(probabilities) == len(values)
    section.require(has_all, f"must be a list of {len(values)} numbers, one for each value", "probabilities")
    shares = [section.number("probabilities", share) for share in probabilities]
    is_whole = min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-6)
    section.require(is_whole, f"must be at least 0 each and 1 together; they are {sum(shares):g}", "probabilities")
    return Weighted(values, shares)


def _numeric(kind: str, numbers: dict, section: _Section, is_grid: bool) -> Parameter:
    low, high, step = (numbers.get(key) for key in ("min", "max", "q"))
    for key in ("q", "sigma"):
        section.require(numbers.get(key, 1) > 0, "must be above 0", key)
    if step is not None:
        section.require(step > 1 / LARGEST, f"{step:g} is too small", "q")
        for key, number in numbers.items():
            section.require(abs(number) < LARGEST, f"must be below {LARGEST:g}, as all options are", key)
    if "sigma" in numbers:
        return Normal(numbers["mu"], numbers["sigma"], "log" in kind, step)
    if is_grid and kind == "q_uniform":
        return _steps(low, high, step, section)
    if kind in ("log_uniform", "q_log_uniform"):  # the bounds are natural logarithms of those that are meant
        section.require(low >= -600 and high <= 600, f"min and max of {kind} are exponents of e, at most 600")
        low, high = math.exp(low), math.exp(high)
        info(f"note: {section.place}: {kind} takes exponents of e, so values go from {low:.4g} to {high:.4g}")
    section.require(low < high, "min must be below max")
    section.require("log" not in kind or low > 0, f"must be above 0 for {kind}", "min")
    if kind == "int_uniform":
        is_whole = low.is_integer() and high.is_integer() and high - low < LARGEST_WHOLE
        section.require(is_whole, "int_uniform needs whole numbers as min and max")
        return Range(int(low), int(high), is_integer=True)
    if step is not None:
        has_multiple = math.floor(high / step) >= math.ceil(low / step)
        section.require(has_multiple, f"no multiple of q = {step:g} lies between min and max")
    return Range(low, high, is_log="log" in kind, step=step)


def _steps(low: float, high: float, step: float, section: _Section) -> OneOf:
    """Return what W&B's grids make of q_uniform: min, min + q, … below max."""
    count = (high - low) / step
    section.require(0 < count <= MOST_STEPS, f"from min to max there must be 1 to {MOST_STEPS:,} steps of q")
    values = [float(f"{low + number * step:.12g}") for number in range(math.ceil(count))]
    return OneOf([int(value) if value.is_integer() and step.is_integer() else value for value in values])


def _metric(content: object, method: str) -> dict:
    """Return metric, maximize and target, as `Sweep` has them."""
    if content is None and method == "bayes":
        raise BadInput("metric: method bayes needs one, such as `metric: {name: val_accuracy, goal: maximize}`")
    content = {"name": "val_accuracy", "goal": "maximize"} if content is None else content
    section, known = _Section(content, "metric", ("name", "goal", "target")), (*METRICS, *ALIASES)
    name, target = section.text("name"), section.get("target")
    section.require(name, "needs a name, such as val_accuracy")
    said = f"train.json has no {name!r}, but {', '.join(known)}{nearest(name, known)}"
    section.require(name in known, said, "name")
    goal = section.one_of("goal", GOALS, "minimize")
    target = None if target is None else section.number("target", target)
    return {"metric": name, "maximize": goal == "maximize", "target": target}


def _early_terminate(content: object) -> dict:
    """Return bands, eta and is_strict, as `Sweep` has them."""
    if content is None:
        return {"bands": [], "eta": ETA, "is_strict": False}
    section = _Section(content, "early_terminate", ("type", "min_iter", "max_iter", "s", "eta", "strict"))
    section.one_of("type", ("hyperband",))
    section.require(section.get("strict") in (None, True, False), "must be true or false", "strict")
    eta = section.number("eta", section.get("eta", ETA))
    section.require(eta > 1, "must be above 1", "eta")
    first, last, count = (section.integer(key) for key in ("min_iter", "max_iter", "s"))
    section.require((first is None) != (last is None), "needs either min_iter, or max_iter and s")
    if first is not None:
        section.require(count is None, "s belongs to max_iter, not to min_iter")
        bands = {int(first * eta ** min(k, math.log(LARGEST_EPOCH, eta))) for k in range(100)}
    else:
        section.require(count is not None, "max_iter needs s, the number of comparisons")
        count = min(count, 64, math.ceil(math.log(last, eta)))  # the bands that follow are less than one epoch
        bands = {int(last / eta**i) for i in range(1, count + 1)} - {0}
        section.require(bands, "max_iter / eta is less than one epoch; raise max_iter")
    return {"bands": sorted(bands), "eta": eta, "is_strict": section.get("strict") is True}


def _command(file: _Section) -> list[str]:
    command, macros = file.get("command"), (ENVIRONMENT, INTERPRETER, PROGRAM, *ARGUMENTS)
    if command is None:
        return COMMAND
    file.require(isinstance(command, list) and command, f"must be a list such as {COMMAND}", "command")
    words = [str(word) for word in command]
    for word in words:
        said = f"{word!r} is none of {', '.join(macros)}, each of which is an item of its own"
        file.require("${" not in word or word in macros, said, "command")
    said = f"lacks {ARGUMENTS[0]}, so that no parameter would reach the program"
    file.require(set(words) & set(ARGUMENTS), said, "command")
    return words
