"""EX-2: bigger input, more filters, augmentation: what does each of them buy?

    python ex_2.py                                  CIFAR-10, then CIFAR-100 (downloaded), all three
    python ex_2.py --dataset digits                 1,797 scanned digits, nothing to download
    python ex_2.py --image_size 32                  without the bigger input
    python ex_2.py --width 12                       with as few filters in the first layer as ex_1.py has
    python ex_2.py --augment False                  without augmentation

Where ex_1.py overfits, this experiment answers with images enlarged to 128x128, three blocks of 16, 32 and 64 filters,
two linear layers (16.8 million parameters, nearly all in the first of them), random crops and random flips. Each is
an option of its own, so that one can be changed at a time. On a CPU an epoch takes about ten times as long as ex_1's.
"""

import torch
from torch import nn

from common.data.batches import make_batches
from common.data.load import Source
from common.evaluation.testing import test_best
from common.exploring.explore import explore_only
from common.models.cost import summarize
from common.optim.recipe import Recipe
from common.options.shared import experiment_parser
from common.options.types import SWITCH, integer, real
from common.runs.run import is_finished, open_run
from common.system.checkpoints import load_weights
from common.system.device import prepare_machine
from common.system.errors import run_script
from common.training.loop import fit
from common.transforms.basic import Compose, Normalize, RandomCrop, RandomHorizontalFlip, Resize

DATASETS = ["cifar10", "cifar100"]  # as in ex_1.py, to be compared with it
IMAGE_SIZE = 128  # four times CIFAR's own
WIDTH = 16  # filters of the first block; each block doubles them
HIDDEN = 1024  # units between the two linear layers
MEAN = STD = (0.5, 0.5, 0.5)  # brings pixels to [-1, 1]
VAL_FRACTION = 0.1  # of the training images; the test images choose nothing
EPOCHS = 50
BATCH_SIZE = 128
LR = 1e-3  # Adam's own default


def parse_options(argv=None):
    """Return the options of this experiment."""
    parser = experiment_parser(__file__, __doc__, dataset=DATASETS, epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LR)
    own = parser.add_argument_group("this experiment")
    own.add_argument("--image_size", type=integer(8, 4096), default=IMAGE_SIZE, metavar="N", help="side in pixels")
    own.add_argument(
        "--width",
        type=integer(1),
        default=WIDTH,
        metavar="N",
        help="filters of the first block; the others have two and four times as many",
    )
    own.add_argument("--augment", **SWITCH, default=True, help="random crops and flips of the training images")
    own.add_argument(
        "-d", "--dropout", type=real(0, below=1), default=0.0, metavar="X", help="before each linear layer"
    )
    own.add_argument("-bn", "--batch_norm", **SWITCH, default=True, help="normalise after each convolution")
    return parser.parse(argv)


def build_transforms(options):
    """Return what happens to training images, and to all others."""
    size = options.image_size
    resize, normalize = Resize((size, size)), Normalize(MEAN, STD)
    random = [RandomCrop(size, padding=size // 8), RandomHorizontalFlip()] if options.augment else []
    return Compose([resize, *random, normalize]), Compose([resize, normalize])


def build_model(options, num_classes):
    """Return the network: (N, 3, S, S) -> logits (N, num_classes), for S = image_size."""
    width = options.width
    dropout = [nn.Dropout(options.dropout)] if options.dropout else []

    def block(channels_in, channels_out):
        norm = [nn.BatchNorm2d(channels_out)] if options.batch_norm else []
        return [nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *block(3, width),  # (N, 16, 64, 64) with the defaults
        *block(width, 2 * width),  # (N, 32, 32, 32)
        *block(2 * width, 4 * width),  # (N, 64, 16, 16)
        nn.Flatten(),
        *dropout,
        nn.Linear(4 * width * (options.image_size // 8) ** 2, HIDDEN),
        nn.ReLU(),
        *dropout,
        nn.Linear(HIDDEN, num_classes),
    )


def run_on(data, machine, options):
    """Train and test on one data set and return the run folder."""
    train, val, test = make_batches(
        data, *build_transforms(options), options.batch_size, machine, options.seed, options.batch_schedule
    )

    torch.manual_seed(options.seed)
    model = build_model(options, len(data.classes))
    if options.weights:
        load_weights(model, options.weights, data.classes)
    machine.place(model)
    recipe = Recipe.of(vars(options))
    optimizer, schedule = recipe.build(model.parameters(), train)

    with open_run(__file__, vars(options), data, model, train, machine) as run:
        run.write_text("summary.txt", summarize(model, train.input_shape))
        watch = fit(run, model, train, val, optimizer, schedule, machine, recipe)
        test_best(run, model, test, machine, options.submission_labels, options.tta, watch=watch)
    return run.folder


def main(argv=None):
    """Run the experiment on each chosen data set and return the last run folder."""
    options = parse_options(argv)
    if is_finished(options.resume, options.epochs, options.test):
        return options.resume
    machine = prepare_machine(options.device, options.precision, options.deterministic, options.sync_bn)
    loaded = Source.of(vars(options)).load(options.image_size, VAL_FRACTION)
    if options.explore:
        return explore_only(__file__, vars(options), loaded, machine)
    return [run_on(data, machine, options) for data in loaded][-1]


if __name__ == "__main__":
    run_script(main)
