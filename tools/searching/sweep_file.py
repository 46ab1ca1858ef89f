"""Reading a Weights & Biases sweep file: what is searched, how, and towards what; every mistake with its place.

The schema is that of the `wandb/sweeps` repository. Unknown keys are errors at every level, as they are there. What it
has and this project lacks is refused in a line of its own, or passed over with a note where it concerns its server.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from common.options.types import nearest
from common.system.errors import BadInput
from common.system.files import read_yaml
from common.system.log import info
from tools.searching.spaces import Beta, Normal, OneOf, Parameter, Range, Value, Weighted, multiples_between

TOP_KEYS = (
    "method", "program", "parameters", "metric", "name", "description", "project", "entity", "command",
    "early_terminate", "run_cap",
)  # fmt: skip
OF_THE_SERVER = ("apiVersion", "kind", "controller", "scheduler", "job", "image_uri")  # who proposes, what runs where
METHODS = ("grid", "random", "bayes")
GOALS = ("minimize", "maximize")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
ENVIRONMENT, INTERPRETER, PROGRAM = "${env}", "${interpreter}", "${program}"
ARGUMENTS = ("${args}", "${args_no_equals}", "${args_no_boolean_flags}")
COMMAND = [ENVIRONMENT, INTERPRETER, PROGRAM, ARGUMENTS[0]]
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]+)\}")  # can be a part of an item, as no other macro can
OTHER_ARGUMENTS = {
    "${args_json}": "JSON", "${args_json_file}": "a JSON file", "${args_no_hyphens}": "lr=0.1",
    "${args_append_hydra}": "+lr=0.1", "${args_override_hydra}": "++lr=0.1",
}  # fmt: skip
MOST_STEPS = 100_000
LARGEST_EPOCH = 1_000_000
LARGEST = 1e30
ROUNDING = 1.001e-5  # by which the sum of probabilities may miss 1, as in W&B's code
LARGEST_WHOLE = 2**53  # from there on floats leave whole numbers out
ETA = 3.0  # one run in so many is kept at each band
LARGEST_SHAPE = 1e6  # of a beta distribution, which is all but one value then
BOUNDS, BELL, SHAPE, STEP = {"min": None, "max": None}, {"mu": 0.0, "sigma": 1.0}, {"a": 1.0, "b": 1.0}, {"q": 1}
# Which keys each distribution takes beside `distribution`; those with a value have it as their default.
DISTRIBUTIONS = {
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    **dict.fromkeys(("int_uniform", "uniform", "log_uniform", "log_uniform_values"), BOUNDS),
    **dict.fromkeys(("inv_log_uniform", "inv_log_uniform_values"), BOUNDS),
    **dict.fromkeys(("q_uniform", "q_log_uniform", "q_log_uniform_values"), BOUNDS | STEP),
    **dict.fromkeys(("normal", "log_normal"), BELL),
    **dict.fromkeys(("q_normal", "q_log_normal"), BELL | STEP),
    "beta": SHAPE,
    "q_beta": SHAPE | STEP,
}
# What a sweep can be about: the numbers of an epoch's record in train.json. Of a run, the best epoch counts.
METRICS = (
    "val_accuracy", "val_loss", "train_accuracy", "train_loss", "seconds", "images_per_second", "peak_memory_mb",
    "process_memory_mb",
)  # fmt: skip
ALIASES = {"best_val_accuracy": "val_accuracy"}
IMPUTED = ("impute", "impute_while_running")  # what W&B takes in place of the value of a failed or running trial
HIGHEST_IS_BEST = ("val_accuracy", "train_accuracy", "images_per_second", *ALIASES)


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


def read_sweep(path: str, metric: str | None = None) -> Sweep:
    """Return the sweep in the YAML file `path`; whatever is wrong with it raises BadInput, and the text says where.

    `metric` is what the search is about in place of what the file names.
    """
    content = read_yaml(path, path)
    try:
        return parse_sweep(content, Path(path).stem, metric)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def parse_sweep(content: object, name: str, metric: str | None = None) -> Sweep:
    """Return the sweep in `content`, as YAML reads it, or raise BadInput. `name` is for a file that gives none."""
    file = _Section(content, "", (*TOP_KEYS, *OF_THE_SERVER, "metrics"))
    file.require("metrics" not in content, "only one is supported: write `metric: {name: …, goal: …}`", "metrics")
    passed_over = [key for key in OF_THE_SERVER if key in content]
    if passed_over:
        info(
            f"note: {', '.join(passed_over)}: passed over, as only W&B's server and its agents know what to do with it"
        )
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
        **_metric(file.get("metric"), method, metric), **_early_terminate(file.get("early_terminate")),
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
        """Return a value as an option takes it: of a list the text `5,3,3`."""
        items = value if isinstance(value, list) and value else [value]
        for item in items:
            is_scalar = item is None or isinstance(item, (str, int, float))
            self.require(is_scalar, f"{value!r} is no number, text, or true or false, nor a list of such", key)
        items = [self.number(key, item) if isinstance(item, float) else item for item in items]
        return ",".join(map(str, items)) if isinstance(value, list) else items[0]


def _parameter(content: object, place: str, is_grid: bool) -> Parameter:
    if isinstance(content, dict) and "parameters" in content:
        said = (
            "are not supported, as the options of an experiment are flat; write each beside it, named like its option"
        )
        raise BadInput(f"{place}: nested parameters {said}")
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
        form = _choice(section, is_grid, **settings)
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


def _choice(section: _Section, is_grid: bool, values: object, probabilities: object = None) -> Parameter:
    section.require(isinstance(values, list) and values, "must be a list of at least one value", "values")
    values = [section.scalar("values", value) for value in values]
    shares = [1 / len(values)] * len(values)
    if probabilities is not None:
        has_all = isinstance(probabilities, list) and len(probabilities) == len(values)
        section.require(has_all, f"must be a list of {len(values)} numbers, one for each value", "probabilities")
        shares = [section.number("probabilities", share) for share in probabilities]
        is_whole = min(shares) >= 0 and abs(sum(shares) - 1) <= ROUNDING
        section.require(is_whole, f"must be at least 0 each and 1 together; they are {sum(shares):g}", "probabilities")
    merged = {}  # a value that is there twice is drawn twice as often; a grid has it once. True is 1, to Optuna too
    for value, share in zip(values, shares, strict=True):
        merged[value] = merged.get(value, 0) + share
    if probabilities is None and (is_grid or len(set(merged.values())) == 1):
        return OneOf(list(merged))
    return Weighted(list(merged), list(merged.values()))


def _numeric(kind: str, numbers: dict, section: _Section, is_grid: bool) -> Parameter:
    low, high, step = (numbers.get(key) for key in ("min", "max", "q"))
    section.require(numbers.get("q", 1) > 0, "must be above 0", "q")
    if step is not None:
        section.require(step > 1 / LARGEST, f"{step:g} is too small", "q")
        for key, number in numbers.items():
            section.require(abs(number) < LARGEST, f"must be below {LARGEST:g}, as all options are", key)
    if "max" not in numbers:
        return _bell(numbers, "log" in kind, step, section)
    if is_grid and kind == "q_uniform":
        return _steps(low, high, step, section)
    if kind == "inv_log_uniform":  # 1 / value has these exponents
        low, high = -high, -low
    if kind in (
        "log_uniform",
        "q_log_uniform",
        "inv_log_uniform",
    ):  # the bounds are natural logarithms of those that are meant
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
        lowest, highest = multiples_between(low, high, step)
        has_multiple = lowest <= highest
        section.require(has_multiple, f"no multiple of q = {step:g} lies between min and max")
    return Range(low, high, is_log="log" in kind, step=step)


def _bell(numbers: dict, is_log: bool, step: float | None, section: _Section) -> Parameter:
    """Return a distribution that has its values about a middle: normal or beta."""
    for key in SHAPE.keys() & numbers.keys():
        section.require(0 < numbers[key] < LARGEST_SHAPE, f"must be above 0 and below {LARGEST_SHAPE:,.0f}", key)
    if "a" in numbers:
        return Beta(numbers["a"], numbers["b"], step)
    section.require(numbers["sigma"] >= 0, "must be at least 0", "sigma")
    form = Normal(numbers["mu"], numbers["sigma"] or 1.0, is_log, step)
    return form if numbers["sigma"] else OneOf([form.value(0.5)])


def _steps(low: float, high: float, step: float, section: _Section) -> OneOf:
    """Return what W&B's grids make of q_uniform: min, min + q, … below max."""
    count = (high - low) / step
    section.require(0 < count <= MOST_STEPS, f"from min to max there must be 1 to {MOST_STEPS:,} steps of q")
    values = [float(f"{low + number * step:.12g}") for number in range(math.ceil(count))]
    return OneOf([int(value) if value.is_integer() and step.is_integer() else value for value in values])


def _metric(content: object, method: str, chosen: str | None) -> dict:
    """Return metric, maximize and target, as `Sweep` has them; `chosen` stands in for the name that the file has."""
    if content is None and method == "bayes" and not chosen:
        raise BadInput("metric: method bayes needs one, such as `metric: {name: val_accuracy, goal: maximize}`")
    content = {"name": "val_accuracy", "goal": "maximize"} if content is None else content
    section = _Section(content, "metric", ("name", "goal", "target", *IMPUTED))
    known, name, target = (*METRICS, *ALIASES), section.text("name"), section.get("target")
    if not chosen:
        section.require(name, "needs a name, such as val_accuracy")
        said = (
            f"train.json has no {name!r} (--metric NAME stands in for it), but {', '.join(known)}{nearest(name, known)}"
        )
        section.require(name in known, said, "name")
    maximize = section.one_of("goal", GOALS, "minimize") == "maximize"
    target = None if target is None else section.number("target", target)
    if chosen and chosen != name:
        name, said = chosen, ""
        if maximize != (chosen in HIGHEST_IS_BEST):  # the file's goal and target are of something else
            maximize, target, said = not maximize, None, ", against goal and without target of the file"
        info(f"note: --metric: the {'highest' if maximize else 'lowest'} {name} is the best{said}")
    is_share = maximize and name.endswith("accuracy") and target is not None
    section.require(not is_share or target <= 1, f"{target} is never reached: accuracies are from 0 to 1", "target")
    for key in IMPUTED:
        if section.get(key) is not None:
            info(f"note: metric.{key}: passed over, as a failed trial tells the search nothing here")
    return {"metric": name, "maximize": maximize, "target": target}


def _early_terminate(content: object) -> dict:
    """Return bands, eta and is_strict, as `Sweep` has them."""
    if content is None:
        return {"bands": [], "eta": ETA, "is_strict": False}
    section = _Section(content, "early_terminate", ("type", "min_iter", "max_iter", "s", "eta", "strict"))
    section.one_of("type", ("hyperband",))
    strict = section.get("strict")
    section.require(strict in (None, True, False), "must be true or false", "strict")
    if strict is None:
        info("note: early_terminate.strict is not given: true, as W&B's code fills in (its web page says false)")
    eta = section.number("eta", section.get("eta", ETA))
    section.require(eta > 1, "must be above 1", "eta")
    first, last, count = (section.integer(key) for key in ("min_iter", "max_iter", "s"))
    section.require((first is None) != (last is None), "needs either min_iter, or max_iter and s")
    if first is not None:
        if count is not None:
            info("note: early_terminate.s: passed over, as by W&B; it belongs to max_iter, not to min_iter")
        bands = {int(first * eta ** min(k, math.log(LARGEST_EPOCH, eta))) for k in range(100)}
    else:
        section.require(count is not None, "max_iter needs s, the number of comparisons")
        count = min(count, 64, math.ceil(math.log(last, eta)))  # the bands that follow are less than one epoch
        bands = {int(last / eta**i) for i in range(1, count + 1)} - {0}
        section.require(bands, "max_iter / eta is less than one epoch; raise max_iter")
    return {"bands": sorted(bands), "eta": eta, "is_strict": strict is None or bool(strict)}


def _command(file: _Section) -> list[str]:
    command, macros = file.get("command"), (ENVIRONMENT, INTERPRETER, PROGRAM, *ARGUMENTS)
    if command is None:
        return COMMAND
    file.require(isinstance(command, list) and command, f"must be a list such as {COMMAND}", "command")
    words = [str(word) for word in command]
    for word in words:
        form = OTHER_ARGUMENTS.get(word)
        file.require(
            not form, f"{word} is not supported: experiments take options, not {form}; write ${{args}}", "command"
        )
        said = (
            f"{word!r} is none of {', '.join(macros)}, each of which is an item of its own, nor has it ${{envvar:NAME}}"
        )
        file.require("${" not in VARIABLE.sub("", word) or word in macros, said, "command")
    said = f"lacks {ARGUMENTS[0]}, so that no parameter would reach the program"
    file.require(set(words) & set(ARGUMENTS), said, "command")
    return words
