"""trainA: how well do five convolution blocks, trained from scratch, tell photographs apart?

    python trainA.py -p nature_12K                       train/ and val/ with a folder of images for each class
    python trainA.py -lr 1e-4 -bn True
    python trainA.py -nf 64 -fs 5,5,3,3,3 -a LeakyReLU   the report's best: 43.4 % on iNaturalist's 10 classes

Each block is convolution, activation, max-pool, dropout, batch norm; one linear layer follows. Each choice of the
report's search is an option. The shorter side of a photograph becomes 256 pixels, and the network sees squares of 224
of it: in training random ones, then the middle. `val/` is the test set; a fifth of `train/` chooses the best epoch.

Measured: 800 photographs of Imagenette, 20 epochs: 28.44 % test (22.93 to 33.96, n = 3), where chance is 10 %; more
          in docs/answers.md
Reported: 43.4 % on nature_12K, 10 classes of iNaturalist
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

import torch
from torch import nn

from common.evaluation.testing import evaluate_best
from common.experiment import run_experiment
from common.options.shared import add_photograph_options, experiment_parser
from common.options.types import SWITCH, activation, integer, number, one_of, one_or_several
from common.system.errors import BadInput
from common.training.fit import fit
from common.transforms import basic as T
from common.transforms.color import ColorJitter
from common.transforms.erasing import RandomErasing

DATA = "./nature_12K"  # train/ and val/ with a folder of images for each class; docs/data.md says where to get it
BLOCKS = 5
IMAGE_SIZE = 224  # what the network sees
STORED = 256 / 224  # photographs are kept so much larger, to leave room for random crops
MEAN = STD = (0.5, 0.5, 0.5)  # brings pixels to [-1, 1]
JITTER = 0.2  # brightness, contrast and saturation by up to a fifth: torchvision's defaults of 0 change nothing
VAL_FRACTION = 0.2  # of the training images; the test images choose nothing
EPOCHS = 10
BATCH_SIZE = 64
LR = 1e-3
FILTERS = 32
FILTER_PLANS = {  # filters of block 1, 2, ...
    "const": lambda first, block: first,
    "half": lambda first, block: max(1, first // 2**block),
    "double": lambda first, block: first * 2**block,
}


def parse_options(argv=None):
    """Return the options of this experiment."""
    defaults = {"dataset": ["folder"], "data": DATA, "epochs": EPOCHS, "batch_size": BATCH_SIZE, "lr": LR}
    parser = experiment_parser(__file__, __doc__, **defaults)
    add_photograph_options(parser)
    add = parser.own.add_argument
    add("-nf", "--num_filters", type=integer(1, 2**16), default=FILTERS, metavar="N", help="filters of the first block")
    add("-fo", "--filter_org", type=one_of(tuple(FILTER_PLANS)), default="const", metavar="PLAN",
        help="filters of the later blocks: const, half (of the block before, at least 1) or double")  # fmt: skip
    add("-fs", "--filter_size", type=one_or_several(BLOCKS), default=[3], metavar="N[,N,...]",
        help=f"side of the filters: one number, or one for each of the {BLOCKS} blocks")  # fmt: skip
    add("-a", "--activation", type=activation, default="ReLU", metavar="NAME", help="of torch.nn, such as GELU or SiLU")
    add("-d", "--dropout", type=number(0, below=1), default=0.3, metavar="X", help="in each block")
    add("-bn", "--batch_norm", "--bacth_norm", **SWITCH, default=False, help="normalize at the end of each block")
    add("--image_size", type=integer(8, 4096), default=IMAGE_SIZE, metavar="N", help="side in pixels")
    add("--augment", **SWITCH, default=True, help="flips, rotation, colors, crops and erasing of training images")
    add("--shown_classes", type=integer(0), default=3, metavar="N",
        help="classes of which class_predictions.png shows 10 test images")  # fmt: skip
    options = parser.parse(argv)
    with torch.device("meta"):  # which makes shapes only
        build_model(options, num_classes=2)  # refuses filters that do not fit before any image is read
    return options


def build_transforms(options):
    """Return what happens to training images, and to all others."""
    resize, normalize = T.Resize(stored_size(options)), T.Normalize(MEAN, STD)
    evaluate = T.Compose([resize, T.CenterCrop(options.image_size), normalize])
    if not options.augment:
        return evaluate, evaluate
    train = [
        T.RandomHorizontalFlip(),
        T.RandomVerticalFlip(),
        T.RandomRotation(180),
        T.RandomApply([ColorJitter(JITTER, JITTER, JITTER)], p=0.5),
        resize,
        T.RandomCrop(options.image_size),
        normalize,
        RandomErasing(p=0.4, value="random"),
    ]
    return T.Compose(train), evaluate


def stored_size(options):
    """Return the side in pixels of the squares that are kept in memory."""
    return round(STORED * options.image_size)


def build_model(options, num_classes):
    """Return the network: (N, 3, S, S) -> logits (N, num_classes), for S = image_size."""
    sizes = options.filter_size * (BLOCKS // len(options.filter_size))
    layers, channels, side = [], 3, options.image_size
    for block, size in enumerate(sizes):
        filters = FILTER_PLANS[options.filter_org](options.num_filters, block)
        before, side = side, (side + 2 - size + 1) // 2
        if side < 1:
            raise BadInput(
                f"block {block + 1} shrinks its {before}x{before} input to nothing with filters of {size}x{size}; "
                "lower --filter_size or raise --image_size"
            )
        layers += [
            nn.Conv2d(channels, filters, size, padding=1),
            getattr(nn, options.activation)(),
            nn.MaxPool2d(2),
            *([nn.Dropout(options.dropout)] if options.dropout else []),
            *([nn.BatchNorm2d(filters)] if options.batch_norm else []),
        ]
        channels = filters
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, num_classes))


def train_and_test(run, options):
    """Train on one data set, and test the best epoch."""
    train, val, test = run.batches(*build_transforms(options))
    model = run.prepare(build_model(options, run.num_classes))
    optimizer, schedule = run.optimizer(model.parameters(), train)
    with run.open(model, train):
        fit(run, model, train, val, optimizer, schedule)
        evaluate_best(run, model, val, test, options.shown_classes)


def main(argv=None):
    """Run the experiment on each data set, and return the last run folder."""
    options = parse_options(argv)
    photograph_fit = "slide" if options.augment else "crop"  # random squares along a photograph, or its middle
    return run_experiment(__file__, options, train_and_test, stored_size(options), VAL_FRACTION, photograph_fit)


if __name__ == "__main__":
    run_script(main)
