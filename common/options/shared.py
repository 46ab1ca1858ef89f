"""The options that all experiments share: a closed list. A new one needs a reason that an existing one cannot serve."""

import argparse
from pathlib import Path

from common.data.load import DATASETS
from common.optim.optimizers import OPTIMIZERS, SCHEDULES
from common.options.parser import MAY_DIFFER_ON_RESUME, Parser
from common.options.types import (
    SWITCH,
    absolute_path,
    batch_schedule,
    folds,
    integer,
    integers,
    mixing,
    number,
    one_of,
    one_of_or_path,
    one_or_more_of,
    one_or_more_seeds,
    path,
)
from common.runs.tracking import PROJECT
from common.system.device import DEVICES, PRECISIONS
from common.system.distributed import usable_cores
from common.system.files import PICTURE_KINDS
from common.transforms.tta import MOST_VIEWS

SUBMISSION_LABELS = ("names", "indices")


def experiment_parser(script: str, description: str, **defaults) -> Parser:
    """Return a parser with the options that every experiment has; the experiment adds its own to `parser.own`.

    Args:
        script: `__file__` of the experiment: runs of others cannot be resumed by it.
        description, defaults: what `--help` says first, and the experiment's own defaults by long name.
    """
    parser = Parser(Path(script).stem, description)
    parser.usage = f"python {Path(script).name} [options]"
    parser.own = parser.add_argument_group("this experiment")  # what comes first is shown first
    _add_data_options(parser.add_argument_group("data").add_argument)
    _add_training_options(parser.add_argument_group("training").add_argument)
    _add_run_options(parser.add_argument_group("run").add_argument)
    _add_tracker_options(parser.add_argument_group("trackers").add_argument)
    unknown = set(defaults) - set(parser._defaults_of_all())
    assert not unknown, f"no such options: {unknown}"
    parser.set_defaults(**defaults)
    return parser


def told_options(script: str, options: dict) -> dict:
    """Return what the page of a run tells of its options: the experiment's own, and shared ones of unusual values.

    On another machine it must be the same: how many workers are usual depends on the cores. Where things lie is nobody
    else's business.
    """
    usual = experiment_parser(script, "")._defaults_of_all()
    usual |= {name: options.get(name) for name in (*MAY_DIFFER_ON_RESUME, "output_dir", "resume", "figures")}
    return {name: value for name, value in options.items() if name not in usual or value != usual[name]}


# fmt: off
def add_photograph_options(parser: Parser) -> None:
    """Add what the two experiments on photographs in class folders share: names from the report that they answer."""
    add = parser.add_argument_group("as in the report").add_argument
    add("-p", "--parent_dir", dest="data", type=absolute_path, default=parser.get_default("data"), metavar="PATH",
        help="another name of --data")
    add("-q", "--question", metavar="TEXT", help="a label, for config.json and the run's name")
    parser.change("--wandb_project", default="assignment2", help="project of W&B")
    parser.change("--wandb_entity", default="sasuke", help="user or team of W&B that has the project: name your own")


def _add_data_options(add) -> None:
    add("--dataset", type=one_or_more_of(DATASETS), default=["digits"], metavar="NAME",
        help=f"{', '.join(DATASETS)}; several, separated by commas, are run one after the other")
    add("--data", type=absolute_path, metavar="PATH",
        help="where it is: for folder the root of train/ val/ test/ class folders, or of class folders alone; for hdf5 "
             "the file; folders and files that end in .hdf5 or .h5 need no --dataset; for other sets the download "
             "folder, the extracted folder or the archive (default: data/ beside the scripts, downloaded if absent)")
    add("--explore", **SWITCH, default=False, help="do not train, but look at the data: classes, sizes, pixels, copies")
    add("--limit", type=integer(1), metavar="N",
        help="train on at most N images, as many of each class, drawn by the seed")
    add("--split_seed", type=integer(0, 2**31 - 1), default=0, metavar="N",
        help="which training images are set aside for validation; the same ones for every --seed")
    add("--folds", type=folds, metavar="K",
        help="cross-validation: K runs, in which K parts of the training images take turns in validating, without a "
             "look at the test images, and the mean with its interval; 2/5 is the second of five such runs alone")
    add("--null_test", **SWITCH, default=False,
        help="shuffle the labels, train and test, and say whether the score is one of chance: if not, something leaks")
    add("--skip_unreadable", **SWITCH, default=False, help="leave out image files that cannot be read, and list them")
    add("--submission_labels", type=one_of(SUBMISSION_LABELS), default="names", metavar="WHAT",
        help="where test images have no labels: submission.csv holds names or indices of classes")
    add("--workers", type=integer(1), default=usable_cores(), metavar="N",
        help="threads that decode image files; by default as many as there are cores for this process")


def _add_training_options(add) -> None:
    add("-e", "--epochs", type=integer(0), default=10, metavar="N",
        help="passes over the training images; 0 only evaluates")
    add("-b", "--batch_size", type=integer(1), default=128, metavar="N", help="images in a batch")
    add("--optimizer", type=one_of(OPTIMIZERS), default="adam", metavar="NAME",
        help=f"{', '.join(OPTIMIZERS)} (sgd is Nesterov's; muon is for networks with batch norm)")
    add("-lr", "--lr", type=number(above=0), default=1e-3, metavar="X", help="learning rate")
    add("-wd", "--weight_decay", type=number(0), default=0.0, metavar="X", help="weight decay")
    add("--momentum", type=number(0, below=1), default=0.9, metavar="X", help="of sgd, rmsprop and muon")
    add("--schedule", type=one_of(SCHEDULES), default="none", metavar="NAME",
        help=f"of the learning rate: {', '.join(SCHEDULES)}")
    add("--warmup_epochs", type=number(0), default=0.0, metavar="X",
        help="schedules cosine and linear: epochs of linear rise at the start")
    add("--step_size", type=integer(1), default=30, metavar="N", help="schedule step: multiply by gamma every N epochs")
    add("--milestones", type=integers, default=[], metavar="N,N,...",
        help="schedule multistep: multiply by gamma after these epochs")
    add("--gamma", type=number(above=0, below=1), default=0.1, metavar="X",
        help="schedules step, multistep and plateau: the factor")
    add("--plateau_patience", type=integer(0), default=10, metavar="N",
        help="schedule plateau: epochs without a lower validation loss before the factor is applied")
    add("--label_smoothing", type=number(0, below=1), default=0.0, metavar="X",
        help="share of the target that is spread over all classes")
    add("--class_weights", type=one_of(("none", "auto")), default="none", metavar="WHAT",
        help="auto: in the loss each class counts the same, however few images it has")
    add("--balanced_sampling", **SWITCH, default=False,
        help="an epoch has as many images of each class: some of small ones several times, not all of large ones")
    add("--mixup", type=mixing, default=0.0, metavar="ALPHA",
        help="blend images of a batch in pairs, by shares from Beta(ALPHA, ALPHA); 0, or at least 0.01")
    add("--cutmix", type=mixing, default=0.0, metavar="ALPHA",
        help="paste rectangles of one image into another; with --mixup a coin decides at each step")
    add("--ema", type=number(above=0, below=1), metavar="DECAY",
        help="validate and keep a running average of the weights, of which each step keeps DECAY")
    add("--batch_schedule", type=batch_schedule, default=[], metavar="E:N,...",
        help="from epoch E on batches of N images, such as 60:256,120:512")
    add("--clip_grad", type=number(above=0), metavar="X", help="largest L2 norm of the gradient")
    add("--accumulate", type=integer(1), default=1, metavar="N",
        help="average the gradients of N batches into one step")
    add("--patience", type=integer(1), metavar="N", help="stop after N epochs without a better validation accuracy")
    add("--test", **SWITCH, default=True,
        help="look at the test images at the end; False leaves that to --resume RUN_DIR --test True")
    add("--tta", type=integer(1, MOST_VIEWS), default=1, metavar="N",
        help="test the mean over N views of each image too: mirrored, enlarged, shifted")
    add("--weights", type=absolute_path, metavar="FILE", help="start from these weights; with -e 0 only evaluate them")
    add("--weights_key", metavar="KEY",
        help="which weights of that file, if it holds several sets, such as model_ema or state_dict_ema")


def _add_run_options(add) -> None:
    add("-h", "--help", action="help", help="show this and exit")
    add("-s", "--seed", type=one_or_more_seeds, default=0, metavar="N",
        help="of the first weights, the order, the augmentation, and which images --limit takes; several, such as "
             "0,1,2, make a run each, and the mean with its interval at the end")
    add("--output_dir", type=path, default="outputs", metavar="DIR", help="of the run folders, below the current one")
    add("--resume", type=one_of_or_path(["auto"]), metavar="RUN_DIR",
        help="continue that run, with the options stored in it; auto: the newest unfinished run of the same options, "
             "or a new one")
    add("--save_every", type=integer(1), metavar="N", help="keep the state of every Nth epoch as epoch-<n>.pth")
    add("--save_minutes", type=number(above=0), metavar="X",
        help="save every X minutes within an epoch too, so that a killed run goes on from there")
    add("--device", type=one_of(DEVICES), default="auto", metavar="NAME", help=", ".join(DEVICES))
    add("--precision", type=one_of(PRECISIONS), default="auto", metavar="NAME",
        help=f"{', '.join(PRECISIONS)}; auto is what the device is fast at: half precision on CUDA, and on a CPU that "
             "has bf16 where the network is large enough for it to be faster")
    add("--compile", **SWITCH, default=False,
        help="compile the network, which takes a minute; if that fails, go on without")
    add("--sync_bn", **SWITCH, default=False,
        help="under torchrun, batch norm over the batch of all processes instead of each one's share")
    add("--watch", type=integer(1), metavar="N",
        help="look inside the network every N steps: gradients, updates, dead units, Grad-CAM")
    add("--print_every", type=integer(1), metavar="N", help="print the loss every N steps")
    add("--figures", type=one_of(PICTURE_KINDS), default="png", metavar="KIND",
        help=f"{', '.join(PICTURE_KINDS)}: the others are for print, beside each PNG; report.html shows the svg")
    add("--deterministic", **SWITCH, default=False,
        help="use only algorithms that give the same bits every time, even slow ones")
    add("--config", metavar="FILE", default=argparse.SUPPRESS, help="YAML file with options by long name")
    add("--override", nargs="+", metavar="KEY=VALUE", default=argparse.SUPPRESS,
        help="options by long name that win over --config")


def _add_tracker_options(add) -> None:
    add("--tensorboard", **SWITCH, default=False, help="show the run live: tensorboard --logdir outputs")
    add("--wandb", **SWITCH, default=False,
        help="send the run to Weights & Biases; without an API key it is recorded offline")
    add("-wp", "--wandb_project", metavar="NAME",
        help=f"project of W&B (default: what WANDB_PROJECT says, or {PROJECT})")
    add("-we", "--wandb_entity", metavar="NAME",
        help="user or team of W&B that has the project (default: what WANDB_ENTITY says, or you)")


# fmt: on
