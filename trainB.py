"""trainB: what does a ResNet that has seen millions of photographs before make of a few thousand new ones?

    python trainB.py -p nature_12K                         ResNet-50 as it is, a new head on its features
    python trainB.py --strategy last --last 2              the last two stages too, slower the deeper they lie
    python trainB.py --strategy staged                     the head alone for some epochs, then everything
    python trainB.py --strategy rescale                    512x512 images, reduced by a small network that learns how
    python trainB.py --weights outputs/.../best.pth        from other weights; `--weights none` from scratch

A frozen backbone is run once: later epochs take seconds. ImageNet's weights are downloaded (100 MB).

Measured: 800 photographs of Imagenette, a ResNet-18 at 64 pixels that has seen CIFAR-10 (JPEG), 6 epochs: strategy all
          53.3 % validation (46.6 to 60.1, n = 3), from random weights 14.2 points less (9.1 to 19.3); docs/answers.md
Reported: 79 to 80 % on nature_12K with ImageNet's weights and a new head
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

import math

from torch import nn

from common.evaluation.testing import evaluate_best
from common.experiment import run_experiment
from common.models.finetuning import FineTuned, Rescaler, discriminative_lrs, stages_of, train_only
from common.models.pretrained import backbone_of
from common.options.shared import add_photograph_options, experiment_parser
from common.options.types import SWITCH, integer, network_name, number, one_of, one_of_or_path
from common.training.features import FeatureBatches
from common.training.fit import fit
from common.transforms.basic import CenterCrop, Compose, Normalize, RandomCrop, RandomHorizontalFlip, Resize

DATA = "./nature_12K"  # train/ and val/ with a folder of images for each class; docs/data.md says where to get it
IMAGE_SIZE = 224  # what the networks were pretrained on
CROPPED_FROM = 256 / 224  # --input crop: photographs are kept so much larger, as in the pretraining
RESCALED_FROM = 512 / 224  # --strategy rescale: nearly all of a photograph's detail
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels: what the pretrained networks expect
HIDDEN = 2048  # units of the new head: 4,216,842 parameters with ResNet-50 and 10 classes
STRATEGIES = ("head", "last", "staged", "all", "rescale")
INPUTS = ("resize", "crop")  # a photograph becomes a square whole but out of proportion, or in part
VAL_FRACTION = 0.2  # of the training images; the test images choose nothing
EPOCHS = 10
BATCH_SIZE = 64  # as in the report
LR = 1e-4  # Adam; the report found 1e-5 best on all of nature_12K, but fewer images are fewer steps for a new head
STAGE_EPOCHS = 3  # until the new part no longer sends gradients of a beginner into the pretrained ones
STAGE_LR_FACTOR = 0.3
VIEWS = 2  # each costs one pass of the backbone; a flip has only two outcomes
WORKS_ONLY_WITH = {  # options of single strategies
    "last": ("strategy", ("last",)),
    "stage_lr_factor": ("strategy", ("last",)),
    "stage_epochs": ("strategy", ("staged", "rescale")),
    "views": ("strategy", ("head", "staged")),
    "cutmix": ("strategy", ("last", "staged", "all", "rescale")),  # it pastes parts of images, not of features
}


def parse_options(argv=None):
    """Return the options of this experiment."""
    parser = experiment_parser(__file__, __doc__, dataset=["folder"], data=DATA, epochs=EPOCHS, batch_size=BATCH_SIZE,
                               lr=LR)  # fmt: skip
    parser.change("--weights", type=one_of_or_path(["imagenet", "none"]), default="imagenet", metavar="WHICH",
                  help="imagenet, none, or a file; what does not fit is named; with -e 0 only evaluate")  # fmt: skip
    add_photograph_options(parser)
    add = parser.own.add_argument
    add("--model", type=network_name, default="resnet50", metavar="NAME",
        help="a classification network of torchvision, such as convnext_tiny; or timm:NAME")  # fmt: skip
    add("--strategy", type=one_of(STRATEGIES), default="head", metavar="NAME",
        help="what is trained: head; last: the last stages too; staged: head, then everything; all: everything; "
             "rescale: the rescaling of larger images, then everything")  # fmt: skip
    add("--last", type=integer(1, 4), default=1, metavar="N", help="strategy last: how many of the stages")
    add("--stage_lr_factor", type=number(above=0, below=2), default=STAGE_LR_FACTOR, metavar="X",
        help="strategy last: the rate of each stage is X times that of the part above it")  # fmt: skip
    add("--stage_epochs", type=integer(0), default=STAGE_EPOCHS, metavar="N",
        help="strategies staged and rescale: epochs of the new part alone")  # fmt: skip
    add("--views", type=integer(1), default=VIEWS, metavar="N",
        help="strategies head and staged: augmented views of each image that a frozen backbone is shown")  # fmt: skip
    add("-d", "--dropout", type=number(0, below=1), default=0.3, metavar="X", help="in the head")
    add("--image_size", type=integer(32, 4096), default=IMAGE_SIZE, metavar="N", help="side in pixels")
    add("--input", type=one_of(INPUTS), default="resize", metavar="HOW",
        help="resize: the whole photograph, squashed; crop: random squares of it, or its middle")  # fmt: skip
    add("--augment", **SWITCH, default=True, help="random flips and crops of training images")
    parser.works_only_with |= WORKS_ONLY_WITH
    return parser.parse(argv)


def input_size(options):
    """Return the side in pixels of the images that go into the network."""
    return round(options.image_size * (RESCALED_FROM if options.strategy == "rescale" else 1))


def stored_size(options):
    """Return the side in pixels of the squares that are kept in memory."""
    return round(input_size(options) * (CROPPED_FROM if options.input == "crop" else 1))


def photograph_fit(options):
    """Return how a photograph becomes a square."""
    return "squash" if options.input == "resize" else "slide" if options.augment else "crop"


def build_transforms(options):
    """Return what happens to training images, and to all others."""
    resize, normalize = Resize(stored_size(options)), Normalize(MEAN, STD)
    evaluate = Compose([resize, CenterCrop(input_size(options)), normalize])
    if not options.augment:
        return evaluate, evaluate
    return Compose([resize, RandomCrop(input_size(options)), RandomHorizontalFlip(), normalize]), evaluate


def build_model(options, num_classes):
    """Return the network with random weights: (N, 3, S, S) -> logits (N, num_classes), for S = input_size(options)."""
    backbone, features = backbone_of(options.model, options.image_size)
    hidden = [nn.Linear(features, HIDDEN), nn.ReLU(), nn.Dropout(options.dropout)]
    head = nn.Sequential(*hidden, nn.Linear(HIDDEN, num_classes))
    return FineTuned(backbone, head, Rescaler(options.image_size) if options.strategy == "rescale" else None)


def trained_parts(model, options, epoch):
    """Return the parts of the network that are trained in an epoch, the last ones first. All others are frozen."""
    stages = stages_of(model.backbone, least=options.last) if options.strategy == "last" else []
    is_first_stage = epoch <= options.stage_epochs
    return {
        "head": [model.head],
        "last": [model.head, *stages[: options.last]],
        "staged": [model.head if is_first_stage else model],
        "all": [model],
        "rescale": [model.rescaler if is_first_stage else model],
    }[options.strategy]


def train_and_test(run, options):
    """Train on one data set, and test the best epoch."""
    train, val, test = run.batches(*build_transforms(options))
    model = run.prepare(build_model(options, run.num_classes), head="head")

    def before_epoch(epoch):
        train_only(model, trained_parts(model, options, epoch))

    before_epoch(1)
    train = FeatureBatches(train, model.extractor, run, views=options.views if options.augment else 1)
    val = FeatureBatches(val, model.extractor, run)
    ever_trained = trained_parts(model, options, epoch=math.inf)
    rates = discriminative_lrs(ever_trained, options.lr, options.stage_lr_factor)
    optimizer, schedule = run.optimizer(rates, train)
    with run.open(model, train):
        fit(run, model, train, val, optimizer, schedule, before_epoch)
        evaluate_best(run, model, val, test)


def main(argv=None):
    """Run the experiment on each data set, and return the last run folder."""
    options = parse_options(argv)
    sizes = stored_size(options), VAL_FRACTION, photograph_fit(options)
    return run_experiment(__file__, options, train_and_test, *sizes)


if __name__ == "__main__":
    run_script(main)
