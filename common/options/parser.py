"""A command line: options typed, from configuration files, and stored in a run that is resumed.

Later ones win: the experiment's defaults, `--config FILE`, `--override key=value …`, what is typed.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.data.layouts import how_to_unpack
from common.optim.optimizers import OPEN_ENDED, WITH_WARMUP, check_schedule
from common.options.types import absolute_path, nearest
from common.runs.code import experiments
from common.runs.folder import read_config, unfinished_runs, why_no_run
from common.runs.tracking import check_installed
from common.system.distributed import is_restarted, started_by_torchrun
from common.system.errors import BadInput
from common.system.files import read_yaml
from common.system.log import info
from common.system.records import check_config
from common.system.text import printable

TRACKERS = ("tensorboard", "wandb", "wandb_project", "wandb_entity")
# Options that change where a run happens but not what comes out of it.
MAY_DIFFER_ON_RESUME = ("data", "workers", "save_every", "save_minutes", "print_every", "test", *TRACKERS)
# Options that do nothing unless another one has one of these values.
WORKS_ONLY_WITH = {
    "warmup_epochs": ("schedule", WITH_WARMUP),
    "step_size": ("schedule", ("step",)),
    "milestones": ("schedule", ("multistep",)),
    "gamma": ("schedule", ("step", "multistep", "plateau")),
    "plateau_patience": ("schedule", ("plateau",)),
    "momentum": ("optimizer", ("sgd", "rmsprop", "muon")),
    "tensorboard": ("explore", (False,)),
    "wandb": ("explore", (False,)),
    "wandb_project": ("wandb", (True,)),
    "wandb_entity": ("wandb", (True,)),
}
HDF5_ENDINGS = (".hdf5", ".h5", ".hdf")
LONGEST_ERROR = 600  # characters: values of a file can be of any length
_UNSET = object()


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises `BadInput` with the nearest name, and reads configuration files.

    `derived` has, for options whose default depends on others, the functions that tell it from all options.
    """

    def __init__(self, script: str, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False, add_help=False)
        self.script = script
        self.works_only_with = dict(WORKS_ONLY_WITH)
        self.plans_epochs = False  # whether more than the schedule depends on their number
        self._typed: list[str] = []
        self.derived: dict[str, Callable[[argparse.Namespace], object]] = {}

    def change(self, option: str, **settings) -> None:
        """Change what an option that all experiments have takes and says in this one."""
        vars(self._option_string_actions[option]).update(settings)

    def format_help(self) -> str:
        for name in self.derived:
            action = self._option_string_actions[f"--{name}"]
            if "default" not in action.help:
                action.help += " (default: depends on other options)"
        return super().format_help()

    def error(self, message: str):
        message = message.removeprefix("argument ")
        for word in self._typed:  # such as -ep, which argparse takes for -e p
            if message.startswith(f"{word[:2]}/") and word[2:].isalpha() and word not in self._option_string_actions:
                message += f"; {word} is read as {word[:2]} {word[2:]}"
        raise BadInput(f"{message} (--help lists all options)")

    def parse(self, argv: Sequence[str] | dict | None = None) -> argparse.Namespace:
        """Return all options of the command line `argv` (default: the process's own), or raise `BadInput`.

        Args:
            argv: words, or a dict: the options that a run has stored, by name.
        """
        if isinstance(argv, dict):
            return argparse.Namespace(**self._stored(argv, "its options"))
        typed = self._typed = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        first.add_argument("--config", action="append", type=absolute_path, default=[])
        first.add_argument("--override", action="extend", nargs="+", default=[])
        try:
            files, typed = first.parse_known_args(typed)
        except argparse.ArgumentError as error:
            self.error(str(error))
        given = {}
        for name in files.config:
            given |= self._read(_options_in(name), f"--config {name}")
        given |= self._read(dict(map(_pair, files.override)), "--override") | self._given(typed)
        if is_restarted():
            given.setdefault("resume", "auto")
        options = self._resumed(given) if given.get("resume", "auto") != "auto" else self._completed(given)
        if options["resume"] == "auto":
            options["resume"] = None
            if folder := self._newest_unfinished(options):
                options = self._resumed(given | {"resume": folder})
        check_schedule(*(options[name] for name in ("schedule", "epochs", "warmup_epochs", "milestones")))
        check_installed(options)
        return argparse.Namespace(**options)

    def _completed(self, given: dict) -> dict:
        """Return all options of a new run of which `given` are not left to their defaults."""
        if given.get("data") and "dataset" not in given:
            given["dataset"] = [_implied_dataset(given["data"])]
        options = self._defaults_of_all() | given
        if "data" not in given and options["dataset"] != self.get_default("dataset"):
            options["data"] = None  # a default place is that of the default data set
        if options["data"]:
            options["data"] = absolute_path(options["data"])
        if options["folds"]:
            _check_folds(options, given)
            options["test"] = False
        _check_together(options)
        for name in ("explore", "throughput"):
            if options.get(name) and started_by_torchrun():
                raise BadInput(f"--{name} is the work of one process: start it without torchrun")
        options = self._with_derived(options)
        self._tell_what_does_nothing(options, given)
        return options

    def _tell_what_does_nothing(self, options: dict, given: dict) -> None:
        for name, (owner, values) in self.works_only_with.items():
            if name in given and options[owner] not in values:
                use = f"without --{owner}" if values == (True,) else f"with --{owner} {options[owner]}"
                info(f"note: --{name} does nothing {use}")
        starts = {"step": options["step_size"], "multistep": min(options["milestones"] or [0])}
        first = starts.get(options["schedule"], 0)
        if 0 < options["epochs"] <= first and given.keys() & {"schedule", "step_size", "milestones"}:
            info(f"note: the schedule does nothing: it lowers the rate after epoch {first}, and there are no more")
        if given.get("weights_key") and options["weights"] in (None, "none", "imagenet"):
            info("note: --weights_key does nothing without --weights FILE")

    def _with_derived(self, options: dict) -> dict:
        for name, derive in self.derived.items():
            if options[name] is None:
                options = options | {name: derive(argparse.Namespace(**options))}
        return options

    def _given(self, words: list[str]) -> dict:
        """Return the values of the options that are among `words`."""
        unset = argparse.Namespace(**dict.fromkeys(self._defaults_of_all(), _UNSET))
        options, unknown = self.parse_known_args(words, unset)
        if unknown and not unknown[0].startswith("-"):
            self.error(f"{unknown[0]!r} belongs to no option")
        if unknown:
            name = unknown[0].split("=")[0]
            hint = _others_with(name) or nearest(name, sorted(self._option_string_actions))
            self.error(f"there is no option {name}{hint}")
        return {name: value for name, value in vars(options).items() if value is not _UNSET}

    def _read(self, options: dict, source: str) -> dict:
        """Return what the readers of the command line make of `options` by long name, those from `source` in errors."""
        try:
            return self._given([self._word(str(key), value) for key, value in options.items() if value is not None])
        except BadInput as error:
            raise BadInput(printable(f"{source}: {error}", LONGEST_ERROR)) from error

    def _stored(self, options: dict, source: str) -> dict:
        """Return all options of a run that has stored these: others have their defaults, unknown ones are left out."""
        defaults = self._defaults_of_all()
        known = {name: options[name] for name in defaults if name in options}
        for name, value in known.items():
            if value is None and defaults[name] is not None and name != "data":  # data sets of their own have no place
                raise BadInput(f"{source}: --{name}: there must be a value")
        return self._with_derived(defaults | known | self._read(known, source))

    def _run_in(self, folder: Path) -> tuple[dict, dict]:
        """Return the config.json of a run, and all its options; BadInput is raised if they cannot be."""
        config, source = read_config(folder), str(folder / "config.json")
        check_config(config, source)
        stored = self._stored(config["options"] | {"dataset": config["dataset"]}, source)
        if "split_seed" not in config["options"]:
            stored["split_seed"] = None  # such a run goes on as it began, see `Source`
        if len(stored["dataset"]) != 1:
            raise BadInput(f"{source}: dataset is one of a run, not {_typed(stored['dataset'])}")
        if len(single_runs(stored)) > 1:
            raise BadInput(f"{source}: --seed and --folds: one of a run, not {stored['seed']} and {stored['folds']}")
        return config, stored

    def _newest_unfinished(self, options: dict) -> Path | None:
        """Return the folder of the newest run with these options that has not come to its end and is not under way."""
        if len(options["dataset"]) > 1:
            raise BadInput("--resume auto continues the run of one data set: choose one with --dataset")
        if len(single_runs(options)) > 1:
            raise BadInput("--resume auto continues one run: give one --seed, and of --folds one, such as 1/5")
        of_here = {"workers": options["workers"]}  # whose default is another one on a machine with more cores
        for folder in unfinished_runs(Path(options["output_dir"], self.script), "*/*"):
            with contextlib.suppress(BadInput):  # a run that cannot go on
                if self._run_in(folder)[1] | of_here == options:
                    return folder
        info("--resume auto: there is no unfinished run of these options; starting one")
        return None

    def _resumed(self, given: dict) -> dict:
        """Return the options stored in the run to be resumed; what is `given` must not contradict them."""
        folder = given["resume"] = Path(given["resume"])
        if not (folder / "config.json").is_file():
            raise BadInput(f"--resume {folder}: {why_no_run(folder)}")
        config, stored = self._run_in(folder)
        if config["script"] != self.script:
            raise BadInput(f"--resume {folder}: that run is of {config['script']}.py; resume it with that")
        for name, value in given.items():
            is_more = name == "epochs" and value > stored["epochs"]
            is_open = stored["schedule"] in OPEN_ENDED and not self.plans_epochs
            may_differ = name in MAY_DIFFER_ON_RESUME or (is_more and is_open)
            if may_differ or name == "resume" or value == stored.get(name):
                continue
            if is_more:
                what = "all that it does" if self.plans_epochs else f"its schedule {stored['schedule']!r}"
                planned = f"and {what} is planned for exactly so many; start a new run"
                raise BadInput(f"--epochs {value}: the run began with {stored['epochs']}, {planned}")
            more = ", which can only become more" if name == "epochs" else ""
            raise BadInput(f"--{name}: the run has {_typed(stored.get(name))}{more}; leave it out, or start a new run")
        return stored | given

    def _word(self, key: str, value) -> str:
        option = _with_underscores(f"--{key}")
        long_names = [name for name in sorted(self._option_string_actions) if name.startswith("--")]
        if key in ("config", "override", "help", "resume"):
            raise BadInput(f"{key!r} can only be typed on the command line")
        if option not in long_names:
            hint = _others_with(option) or nearest(option, long_names).replace("--", "")
            raise BadInput(f"there is no option {key!r}{hint}")
        items = [part for item in _listed(value) for part in _listed(item)]
        if not all(isinstance(item, str | int | float) for item in items):
            raise BadInput(f"--{key} is not a number, a text, true or false, or a list of such")
        return f"{option}={_typed(value)}"

    def _defaults_of_all(self) -> dict:
        return {action.dest: action.default for action in self._actions if action.default is not argparse.SUPPRESS}


def single_runs(options: dict) -> list[dict]:
    """Return the options of each run that `options` mean for a data set: one a seed, or one a fold."""
    folds = options["folds"]
    if folds and "/" not in folds:
        return [options | {"folds": f"{number}/{folds}"} for number in range(1, int(folds) + 1)]
    return [options | {"seed": seed} for seed in _listed(options["seed"])]


def _check_together(options: dict) -> None:
    if len(single_runs(options)) > 1 and (options["explore"] or options.get("throughput")):
        raise BadInput("several --seed or --folds: nothing is trained here, so give one")
    if options["balanced_sampling"] and options["class_weights"] != "none":
        raise BadInput("--balanced_sampling and --class_weights do the same thing twice: leave out one")
    if options["null_test"] and not options["test"]:
        raise BadInput("--null_test tells by the test images: leave out --test False, --folds")


def _check_folds(options: dict, given: dict) -> None:
    if isinstance(options["seed"], list):
        raise BadInput("--folds takes one --seed: no interval is known of what seeds and folds vary together")
    if given.get("test"):
        raise BadInput("--folds chooses before the test: to test one of the runs later, --resume RUN_DIR --test True")
    info("note: --folds leaves the test images alone")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows every default."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=110)

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, [], argparse.SUPPRESS):
            return action.help
        return f"{action.help} (default: {_typed(action.default)})".replace("%", "%%")


def _options_in(file: str) -> dict:
    """Return the options in a YAML file by long name, as they are written there."""
    content = read_yaml(file, f"--config {file}", as_written=True) or {}
    if not isinstance(content, dict):
        raise BadInput(f"--config {file} must hold lines such as `epochs: 10`")
    return content


def _pair(text: str) -> list[str]:
    if "=" not in text:
        raise BadInput(f"--override {text}: must be key=value")
    return text.split("=", 1)


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]


def _others_with(option: str) -> str:
    """Return a hint at the experiments that have an option of their own, which stands in them as a text, or nothing."""
    names = [name for name, text in experiments().items() if f'"{option}", ' in text]
    return f"; it is one of {', '.join(names)}" if names else ""


def _typed(value) -> str:
    """Return a value as it would be typed."""
    if isinstance(value, list):
        return ",".join(":".join(map(str, item)) if isinstance(item, list) else str(item) for item in value)
    return str(value)


def _with_underscores(word: str) -> str:
    """Return `--batch-size=8` as `--batch_size=8`."""
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value if word.startswith("--") else word


def _implied_dataset(data: str) -> str:
    if data.endswith(HDF5_ENDINGS) and not Path(data).is_dir():
        return "hdf5"
    if Path(data).is_file():
        what = how_to_unpack(Path(data)) or "it is a file; give the folder of the class folders"
        raise BadInput(f"--data {data}: {what}; or say with --dataset what it holds (such as cifar10, or hdf5)")
    return "folder"
