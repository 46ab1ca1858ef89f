"""The options that all experiments share: a closed list. A new one needs a reason that an existing one cannot serve."""

import argparse
from pathlib import Path

from common.data.load import DATASETS
from common.optim.optimizers import OPTIMIZERS, SCHEDULES
from common.options.parser import Parser
from common.options.types import (
    SWITCH,
    absolute_path,
    batch_schedule,
    integer,
    integers,
    number,
    one_of,
    one_or_more_of,
    path,
)
from common.runs.tracking import PROJECT
from common.system.device import DEVICES, PRECISIONS
from common.transforms.tta import MOST_VIEWS

SUBMISSION_LABELS = ("names", "indices")


def experiment_parser(script: str, description: str, **defaults) -> Parser:
    """Return a parser with the options that every experiment has; the experiment adds its own to `parser.own`.

    Args:
        script: `__file__` of the experiment: runs of others cannot be resumed by it.
        description: what `--help` says first.
        defaults: the experiment's own defaults, by long name.
    """
    parser = Parser(Path(script).stem, description)
    parser.usage = f"python {Path(script).name} [options]"
    parser.own = parser.add_argument_group(
        "this experiment"
    )  # filled by the experiment; what comes first is shown first
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
    group.add_argument("-p", "--parent_dir", dest="data", type=absolute_path, default=parser.get_default("data"),
                       metavar="PATH", help="another name of --data")
    group.add_argument("-q", "--question", metavar="TEXT", help="a label, for config.json and the run's name")
    parser.change("--wandb_project", default="assignment2", help="project of W&B")
    parser.change("--wandb_entity", default="sasuke", help="user or team of W&B that has the project: name your own")


def _add_data_options(group) -> None:
    group.add_argument("--dataset", type=one_or_more_of(DATASETS), default=["digits"], metavar="NAME",
                       help=f"{', '.join(DATASETS)}; several, separated by commas, are run one after the other")
    group.add_argument("--data", type=absolute_path, metavar="PATH",
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
    group.add_argument("-lr", "--lr", type=number(above=0), default=1e-3, metavar="X", help="learning rate")
    group.add_argument("-wd", "--weight_decay", type=number(0), default=0.0, metavar="X", help="weight decay")
    group.add_argument("--momentum", type=number(0, below=1), default=0.9, metavar="X", help="of sgd and rmsprop")
    group.add_argument("--schedule", type=one_of(SCHEDULES), default="none", metavar="NAME",
                       help=f"of the learning rate: {', '.join(SCHEDULES)}")
    group.add_argument("--warmup_epochs", type=number(0), default=0.0, metavar="X",
                       help="schedule cosine: epochs of linear rise at the start")
    group.add_argument("--step_size", type=integer(1), default=30, metavar="N",
                       help="schedule step: multiply by gamma every N epochs")
    group.add_argument("--milestones", type=integers, default=[], metavar="N,N,...",
                       help="schedule multistep: multiply by gamma after these epochs")
    group.add_argument("--gamma", type=number(above=0, below=1), default=0.1, metavar="X",
                       help="schedules step, multistep and plateau: the factor")
    group.add_argument("--plateau_patience", type=integer(0), default=10, metavar="N",
                       help="schedule plateau: epochs without a lower validation loss before the factor is applied")
    group.add_argument("--label_smoothing", type=number(0, below=1), default=0.0, metavar="X",
                       help="share of the target that is spread over all classes")
    group.add_argument("--mixup", type=number(0), default=0.0, metavar="ALPHA",
                       help="blend images of a batch in pairs, by shares from Beta(ALPHA, ALPHA)")
    group.add_argument("--cutmix", type=number(0), default=0.0, metavar="ALPHA",
                       help="paste rectangles of one image into another; with --mixup a coin decides at each step")
    group.add_argument("--ema", type=number(above=0, below=1), metavar="DECAY",
                       help="validate and keep a running average of the weights, of which each step keeps DECAY")
    group.add_argument("--batch_schedule", type=batch_schedule, default=[], metavar="E:N,...",
                       help="from epoch E on batches of N images, such as 60:256,120:512")
    group.add_argument("--clip_grad", type=number(above=0), metavar="X", help="largest L2 norm of the gradient")
    group.add_argument("--accumulate", type=integer(1), default=1, metavar="N",
                       help="average the gradients of N batches into one step")
    group.add_argument("--patience", type=integer(1), metavar="N",
                       help="stop after N epochs without a better validation accuracy")
    group.add_argument("--test", **SWITCH, default=True,
                       help="look at the test images at the end; False leaves that to --resume RUN_DIR --test True")
    group.add_argument("--tta", type=integer(1, MOST_VIEWS), default=1, metavar="N",
                       help="test the mean over N views of each image too: mirrored, enlarged, shifted")
    group.add_argument("--weights", type=absolute_path, metavar="FILE",
                       help="start from these weights; with -e 0 only evaluate them")


def _add_run_options(group) -> None:
    group.add_argument("-h", "--help", action="help", help="show this and exit")
    group.add_argument("-s", "--seed", type=integer(0, 2**31 - 1), default=0, metavar="N",
                       help="of the split, the first weights, the order and the augmentation")
    group.add_argument("--output_dir", type=path, default="outputs", metavar="DIR", help="where the run folders go")
    group.add_argument("--resume", type=absolute_path, metavar="RUN_DIR",
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
