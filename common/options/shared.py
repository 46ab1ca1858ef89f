"""The command line that all experiments share: options, switches, configuration files, resuming.

Later ones win: the experiment's defaults, `--config FILE`, `--override key=value …`, what is typed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.data.load import DATASETS
from common.optim.optimizers import OPEN_ENDED, OPTIMIZERS, SCHEDULES
from common.options.types import (
    SWITCH,
    batch_schedule,
    folder,
    integer,
    integers,
    location,
    nearest,
    one_of,
    one_or_more_of,
    real,
)  # fmt: skip
from common.runs.folder import read_config
from common.runs.tracking import PROJECT, check_installed
from common.system.device import DEVICES, PRECISIONS
from common.system.errors import BadInput
from common.system.log import say
from common.transforms.tta import MOST_VIEWS

TRACKERS = ("tensorboard", "wandb", "wandb_project", "wandb_entity")
# Options that change where a run happens but not what comes out of it.
MAY_DIFFER_ON_RESUME = ("data", "workers", "save_every", "print_every", "compile", "test", *TRACKERS)
# Options that do nothing unless another one has one of these values.
WORKS_ONLY_WITH = {
    "warmup_epochs": ("schedule", ("cosine",)),
    "step_size": ("schedule", ("step",)),
    "milestones": ("schedule", ("multistep",)),
    "gamma": ("schedule", ("step", "multistep", "plateau")),
    "plateau_patience": ("schedule", ("plateau",)),
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "tensorboard": ("explore", (False,)),
    "wandb": ("explore", (False,)),
    "wandb_project": ("wandb", (True,)),
    "wandb_entity": ("wandb", (True,)),
}
HDF5_ENDINGS = (".hdf5", ".h5", ".hdf")
SUBMISSION_LABELS = ("names", "indices")
_UNSET = object()


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises `BadInput` with the nearest name, and reads configuration files."""

    def __init__(self, script: str, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False, add_help=False)
        self.script = script
        self.works_only_with = dict(WORKS_ONLY_WITH)

    def change(self, option: str, **settings) -> None:
        """Change what an option that all experiments have takes and says in this one."""
        vars(self._option_string_actions[option]).update(settings)

    def error(self, message: str):
        raise BadInput(f"{message.removeprefix('argument ')} (--help lists all options)")

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Return all options of the command line `argv` (default: the process's own).

        Raises:
            BadInput: an unknown option or key, or a value that it does not take.
        """
        typed = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        first.add_argument("--config", action="append", type=location, default=[])
        first.add_argument("--override", action="extend", nargs="+", default=[])
        try:
            files, typed = first.parse_known_args(typed)
        except argparse.ArgumentError as error:
            self.error(str(error))
        from_files = [word for name in files.config for word in self._from_file(name)]
        words = from_files + self._from_pairs(files.override) + typed
        given = {name: value for name, value in vars(self._parse_known(words)).items() if value is not _UNSET}
        options = self._resumed(given) if given.get("resume") else self._completed(given)
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
            options["data"] = location(options["data"])
        for name in given:
            owner, values = self.works_only_with.get(name, (None, ()))
            if owner and options[owner] not in values:
                use = f"without --{owner}" if values == (True,) else f"with --{owner} {options[owner]}"
                say(f"note: --{name} does nothing {use}")
        return options

    def _parse_known(self, words: list[str]) -> argparse.Namespace:
        """Parse `words`; options that are not among them are `_UNSET`."""
        unset = argparse.Namespace(**dict.fromkeys(self._defaults_of_all(), _UNSET))
        options, unknown = self.parse_known_args(words, unset)
        if unknown:
            word = unknown[0]
            if not word.startswith("-"):
                self.error(f"{word!r} belongs to no option")
            self.error(f"there is no option {word.split('=')[0]}{nearest(word.split('=')[0], self._option_strings())}")
        return options

    def _resumed(self, given: dict) -> dict:
        """Return the options stored in the run to be resumed.

        Raises:
            BadInput: there is no such run, it is another script's, or `given` contradicts what is stored.
        """
        folder = given["resume"] = Path(given["resume"])
        if not (folder / "config.json").is_file():
            raise BadInput(f"--resume {folder}: there is no run in that folder (no config.json)")
        config = read_config(folder)
        if config["script"] != self.script:
            raise BadInput(f"--resume {folder}: that run is of {config['script']}.py; resume it with that")
        stored = self._defaults_of_all() | config["options"] | {"dataset": [config["dataset"]]}
        for name, value in given.items():
            if name in MAY_DIFFER_ON_RESUME or name == "resume" or value == stored.get(name):
                continue
            if name == "epochs" and value > stored["epochs"]:
                if stored["schedule"] in OPEN_ENDED:
                    continue
                raise BadInput(
                    f"--epochs {value}: the run began with {stored['epochs']}, and its schedule "
                    f"{stored['schedule']!r} is planned for exactly so many; start a new run"
                )
            more = ", which can only become more" if name == "epochs" else ""
            raise BadInput(f"--{name}: the run has {_typed(stored.get(name))}{more}; leave it out, or start a new run")
        return stored | given

    def _from_file(self, name: str) -> list[str]:
        """Return the options in a YAML file as words of a command line, so that they are checked in the same way."""
        import yaml

        try:
            content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"--config {name} cannot be read ({error.strerror})") from error
        except (yaml.YAMLError, ValueError) as error:  # such as a date in the 13th month
            raise BadInput(f"--config {name} is not YAML: {' '.join(str(error).split())}") from error
        if content is None:
            return []
        if not isinstance(content, dict):
            raise BadInput(f"--config {name} must hold lines such as `epochs: 10`")
        return [self._word(str(key), value, f"--config {name}") for key, value in content.items() if value is not None]

    def _from_pairs(self, pairs: list[str]) -> list[str]:
        words = []
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise BadInput(f"--override {pair}: must be key=value")
            words.append(self._word(key, value, "--override"))
        return words

    def _word(self, key: str, value, source: str) -> str:
        option = _with_underscores(f"--{key}")
        long_names = [name for name in self._option_strings() if name.startswith("--")]
        if key in ("config", "override", "help", "resume"):
            raise BadInput(f"{source}: {key!r} can only be typed on the command line")
        if option not in long_names:
            raise BadInput(f"{source}: there is no option {key!r}{nearest(option, long_names).replace('--', '')}")
        return f"{option}={_typed(value)}"

    def _option_strings(self) -> list[str]:
        return sorted(self._option_string_actions)

    def _defaults_of_all(self) -> dict:
        return {action.dest: action.default for action in self._actions if action.default is not argparse.SUPPRESS}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows every default."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=110)

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, [], argparse.SUPPRESS):
            return action.help
        return f"{action.help} (default: {_typed(action.default)})".replace("%", "%%")


def _typed(value) -> str:
    """Return a value as it would be typed."""
    if not isinstance(value, list):
        return str(value)
    return ",".join(":".join(map(str, item)) if isinstance(item, list) else str(item) for item in value)


def experiment_parser(script: str, description: str, **defaults) -> Parser:
    """Return a parser with the options that every experiment has.

    Args:
        script: `__file__` of the experiment: runs of others cannot be resumed by it.
        description: what `--help` says first.
        defaults: the experiment's own defaults, by long name.
    """
    parser = Parser(Path(script).stem, description)
    _add_data_options(parser.add_argument_group("data"))
    _add_training_options(parser.add_argument_group("training"))
    _add_run_options(parser.add_argument_group("run"))
    _add_tracker_options(parser.add_argument_group("trackers"))
    unknown = set(defaults) - set(parser._defaults_of_all())
    assert not unknown, f"no such options: {unknown}"
    parser.set_defaults(**defaults)
    return parser


# fmt: off
def add_photograph_options(parser: Parser) -> None:
    """Add what the two experiments on photographs in class folders share: names from the report that they answer."""
    group = parser.add_argument_group("as in the report")
    group.add_argument("-p", "--parent_dir", dest="data", type=location, default=parser.get_default("data"),
                       metavar="PATH", help="another name of --data")
    group.add_argument("-q", "--question", metavar="TEXT", help="a label, for config.json and the run's name")
    parser.change("--wandb_project", default="assignment2", help="project of W&B")
    parser.change("--wandb_entity", default="sasuke", help="user or team of W&B that has the project: name your own")


def _add_data_options(group) -> None:
    group.add_argument("--dataset", type=one_or_more_of(DATASETS), default=["digits"], metavar="NAME",
                       help=f"{', '.join(DATASETS)}; several, separated by commas, are run one after the other")
    group.add_argument("--data", type=location, metavar="PATH",
                       help="where it is: for cifar10 and cifar100 the download folder, the extracted folder or the "
                            ".tar.gz (default: data/ beside the scripts, downloaded if absent); for folder the root of "
                            "train/ val/ test/ class folders, or of class folders alone; for hdf5 the file; folders "
                            "and files that end in .hdf5 or .h5 need no --dataset")
    group.add_argument("--explore", **SWITCH, default=False,
                       help="do not train, but look at the data: classes, sizes, pixels, copies")
    group.add_argument("--limit", type=integer(1), metavar="N",
                       help="train on at most N images, as many of each class, for a quick look")
    group.add_argument("--skip_unreadable", **SWITCH, default=False,
                       help="leave out image files that cannot be read, and list them")
    group.add_argument("--submission_labels", type=one_of(SUBMISSION_LABELS), default="names", metavar="WHAT",
                       help="where test images have no labels: submission.csv holds names or indices of classes")
    group.add_argument("--workers", type=integer(1), default=2, metavar="N", help="threads that decode image files")


def _add_training_options(group) -> None:
    group.add_argument("-e", "--epochs", type=integer(0), default=10, metavar="N",
                       help="passes over the training images; 0 only evaluates")
    group.add_argument("-b", "--batch_size", type=integer(1), default=128, metavar="N", help="images in a batch")
    group.add_argument("--optimizer", type=one_of(OPTIMIZERS), default="adam", metavar="NAME",
                       help=f"{', '.join(OPTIMIZERS)} (sgd is Nesterov's)")
    group.add_argument("-lr", "--lr", type=real(above=0), default=1e-3, metavar="X", help="learning rate")
    group.add_argument("-wd", "--weight_decay", type=real(0), default=0.0, metavar="X", help="weight decay")
    group.add_argument("--momentum", type=real(0, below=1), default=0.9, metavar="X", help="of sgd and rmsprop")
    group.add_argument("--schedule", type=one_of(SCHEDULES), default="none", metavar="NAME",
                       help=f"of the learning rate: {', '.join(SCHEDULES)}")
    group.add_argument("--warmup_epochs", type=real(0), default=0.0, metavar="X",
                       help="schedule cosine: epochs of linear rise at the start")
    group.add_argument("--step_size", type=integer(1), default=30, metavar="N",
                       help="schedule step: multiply by gamma every N epochs")
    group.add_argument("--milestones", type=integers, default=[], metavar="N,N,...",
                       help="schedule multistep: multiply by gamma after these epochs")
    group.add_argument("--gamma", type=real(above=0, below=1), default=0.1, metavar="X",
                       help="schedules step, multistep and plateau: the factor")
    group.add_argument("--plateau_patience", type=integer(0), default=10, metavar="N",
                       help="schedule plateau: epochs without a lower validation loss before the factor is applied")
    group.add_argument("--label_smoothing", type=real(0, below=1), default=0.0, metavar="X",
                       help="share of the target that is spread over all classes")
    group.add_argument("--mixup", type=real(0), default=0.0, metavar="ALPHA",
                       help="blend images of a batch in pairs, by shares from Beta(ALPHA, ALPHA)")
    group.add_argument("--cutmix", type=real(0), default=0.0, metavar="ALPHA",
                       help="paste rectangles of one image into another; with --mixup a coin decides at each step")
    group.add_argument("--ema", type=real(above=0, below=1), metavar="DECAY",
                       help="validate and keep a running average of the weights, of which each step keeps DECAY")
    group.add_argument("--batch_schedule", type=batch_schedule, default=[], metavar="E:N,...",
                       help="from epoch E on batches of N images, such as 60:256,120:512")
    group.add_argument("--clip_grad", type=real(above=0), metavar="X", help="largest L2 norm of the gradient")
    group.add_argument("--accumulate", type=integer(1), default=1, metavar="N",
                       help="average the gradients of N batches into one step")
    group.add_argument("--patience", type=integer(1), metavar="N",
                       help="stop after N epochs without a better validation accuracy")
    group.add_argument("--test", **SWITCH, default=True,
                       help="look at the test images at the end; False leaves that to --resume RUN_DIR --test True")
    group.add_argument("--tta", type=integer(1, MOST_VIEWS), default=1, metavar="N",
                       help="test the mean over N views of each image too: mirrored, enlarged, shifted")
    group.add_argument("--weights", type=location, metavar="FILE",
                       help="start from these weights; with -e 0 only evaluate them")


def _add_run_options(group) -> None:
    group.add_argument("-h", "--help", action="help", help="show this and exit")
    group.add_argument("-s", "--seed", type=integer(0, 2**31 - 1), default=0, metavar="N",
                       help="of the split, the first weights, the order and the augmentation")
    group.add_argument("--output_dir", type=folder, default="outputs", metavar="DIR", help="where the run folders go")
    group.add_argument("--resume", type=location, metavar="RUN_DIR",
                       help="continue that run, with the options stored in it")
    group.add_argument("--save_every", type=integer(1), metavar="N",
                       help="keep the state of every Nth epoch as epoch-<n>.pth")
    group.add_argument("--device", type=one_of(DEVICES), default="auto", metavar="NAME", help=", ".join(DEVICES))
    group.add_argument("--precision", type=one_of(PRECISIONS), default="auto", metavar="NAME",
                       help=f"{', '.join(PRECISIONS)}; auto is half precision on CUDA only")
    group.add_argument("--compile", **SWITCH, default=False,
                       help="compile the network, which takes a minute; if that fails, go on without")
    group.add_argument("--sync_bn", **SWITCH, default=False,
                       help="under torchrun, batch norm over the batch of all processes instead of each one's share")
    group.add_argument("--watch", type=integer(1), metavar="N",
                       help="look inside the network every N steps: gradients, updates, dead units, Grad-CAM")
    group.add_argument("--print_every", type=integer(1), metavar="N", help="print the loss every N steps")
    group.add_argument("--deterministic", **SWITCH, default=False,
                       help="use only algorithms that give the same bits every time, even slow ones")
    group.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS,
                       help="YAML file with options by long name")
    group.add_argument("--override", nargs="+", metavar="KEY=VALUE", default=argparse.SUPPRESS,
                       help="options by long name that win over --config")


def _add_tracker_options(group) -> None:
    group.add_argument("--tensorboard", **SWITCH, default=False,
                       help="show the run live: tensorboard --logdir outputs")
    group.add_argument("--wandb", **SWITCH, default=False,
                       help="send the run to Weights & Biases; without an API key it is recorded offline")
    group.add_argument("-wp", "--wandb_project", metavar="NAME",
                       help=f"project of W&B (default: what WANDB_PROJECT says, or {PROJECT})")
    group.add_argument("-we", "--wandb_entity", metavar="NAME",
                       help="user or team of W&B that has the project (default: what WANDB_ENTITY says, or you)")


# fmt: on


def _with_underscores(word: str) -> str:
    """Return `--batch-size=8` as `--batch_size=8`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _implied_dataset(data: str) -> str:
    if data.endswith(HDF5_ENDINGS) and not Path(data).is_dir():
        return "hdf5"
    if Path(data).is_file():
        raise BadInput(f"--data {data} is a file: say with --dataset what it holds (cifar10, cifar100 or hdf5)")
    return "folder"
