"""EX-4: how far does CIFAR-100 go, from scratch and from ImageNet's weights, on one processor or many?

    python ex_4.py --config configs/cifar100_resnet18.yaml                 from scratch at 32x32 pixels
    python ex_4.py --config configs/cifar100_resnet50_cutmix.yaml          reference: 81 %
    python ex_4.py --config configs/cifar100_pretrained.yaml               fine-tuned at 224x224; reference: 85 %
    torchrun --nproc_per_node=2 ex_4.py --config configs/cifar100_resnet18.yaml

A ResNet-18 or -50, or another network by name. From scratch a ResNet begins with a 3x3 convolution and no pooling, as
32 pixels want it; with --pretrained it is ImageNet's network on enlarged images, at three rates: the deeper, the lower.

Measured: 2,500 images of 100 classes of Tiny ImageNet, ResNet-18, 2 epochs: 2.05 % test (1.41 to 2.69, n = 3), chance
          1 %; more in docs/answers.md. The recipes' 200 epochs of CIFAR-100 want a GPU and have not been run
Reported: CIFAR-100 74.7 % from scratch, 81 % with CutMix, 85 % fine-tuned
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

from torch import nn

from common.evaluation.testing import evaluate_best
from common.experiment import run_experiment
from common.models.finetuning import stages_of
from common.models.pretrained import RESNETS, head_of, named_network
from common.options.shared import experiment_parser
from common.options.types import SWITCH, network_name, number, one_of_or_path
from common.training.fit import fit
from common.transforms.basic import CenterCrop, Compose, Normalize, RandomCrop, RandomHorizontalFlip, Resize
from common.transforms.color import ColorJitter
from common.transforms.erasing import RandomErasing
from common.transforms.trivial_augment import TrivialAugmentWide

SHARED = {"dataset": ["cifar100"], "epochs": 200, "batch_size": 128, "optimizer": "sgd", "lr": 0.1,
          "weight_decay": 5e-4, "schedule": "step", "step_size": 50}  # fmt: skip
SMALL, PADDING = 32, 4  # CIFAR's own side, and by how much crops of it move
LARGE, UNCROPPED = 224, 256  # what ImageNet's networks were trained on
CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of CIFAR-100's training pixels
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER = 0.2  # brightness, contrast and saturation by up to a fifth, with --pretrained
HEAVY_ERASING = 0.25  # probability, with --heavy_augment
EARLY, MIDDLE = 1 / 4, 1 / 2  # of the rate, for what ImageNet has taught the first layers
VAL_FRACTION = 0.1  # of the training images; the test images choose nothing


def parse_options(argv=None):
    """Return the options of this experiment."""
    parser = experiment_parser(__file__, __doc__, **SHARED)
    parser.change("--weights", type=one_of_or_path(["imagenet", "none"]), metavar="WHICH",
                  help="imagenet, none, or a file; what does not fit is named; with -e 0 only evaluate "
                       "(default: imagenet with --pretrained, else none)")  # fmt: skip
    add = parser.own.add_argument
    add("--model", type=network_name, default="resnet18", metavar="NAME",
        help="a classification network of torchvision, such as resnet50; or timm:NAME")  # fmt: skip
    add("--pretrained", **SWITCH, default=False, help="ImageNet's network at 224x224 pixels, trained at three rates")
    add("--heavy_augment", **SWITCH, default=False, help=f"erase rectangles, with probability {HEAVY_ERASING}")
    add("--erasing", type=number(0, below=1.001), metavar="P", help="erase rectangles with this probability instead")
    add("--trivial_augment", **SWITCH, default=False, help="one random change of 14 kinds for each image (2021)")
    parser.derived |= {"weights": lambda options: "imagenet" if options.pretrained else "none",
                       "erasing": lambda options: HEAVY_ERASING if options.heavy_augment else 0.0}  # fmt: skip
    return parser.parse(argv)


def build_transforms(options):
    """Return what happens to training images, and to all others."""
    trivial = [TrivialAugmentWide()] if options.trivial_augment else []
    erasing = [RandomErasing(options.erasing)] if options.erasing else []
    if options.pretrained:
        resize, normalize = Resize((UNCROPPED, UNCROPPED)), Normalize(IMAGENET_MEAN, IMAGENET_STD)
        jitter = ColorJitter(JITTER, JITTER, JITTER)
        train = [RandomHorizontalFlip(), *trivial, jitter, resize, RandomCrop(LARGE), normalize, *erasing]
        return Compose(train), Compose([resize, CenterCrop(LARGE), normalize])
    resize, normalize = Resize((SMALL, SMALL)), Normalize(CIFAR_MEAN, CIFAR_STD)
    train = [resize, RandomCrop(SMALL, padding=PADDING), RandomHorizontalFlip(), *trivial, normalize, *erasing]
    return Compose(train), Compose([resize, normalize])


def build_model(options, num_classes):
    """Return the network: (N, 3, 32, 32), or (N, 3, 224, 224) if pretrained -> logits (N, num_classes)."""
    network = named_network(options.model, LARGE if options.pretrained else SMALL, num_classes)
    if options.model in RESNETS and not options.pretrained:
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)  # instead of 7x7 at every other pixel
        network.maxpool = nn.Identity()
    return network


def parameter_groups(model, options):
    """Return the parameters, and at which rates they are trained."""
    if not options.pretrained:
        return model.parameters()
    late, middle, *_ = stages_of(model, least=2)
    shares = dict.fromkeys(middle.parameters(), MIDDLE)
    shares |= dict.fromkeys([*late.parameters(), *model.get_submodule(head_of(model)).parameters()], 1.0)
    groups = {share: [each for each in model.parameters() if shares.get(each, EARLY) == share]
              for share in (EARLY, MIDDLE, 1.0)}  # fmt: skip
    return [{"params": group, "lr": share * options.lr} for share, group in groups.items() if group]


def train_and_test(run, options):
    """Train on one data set, and test the best epoch."""
    train, val, test = run.batches(*build_transforms(options))
    model = build_model(options, run.num_classes)
    model = run.prepare(model, head_of(model))
    optimizer, schedule = run.optimizer(parameter_groups(model, options), train)
    with run.open(model, train):
        fit(run, model, train, val, optimizer, schedule)
        evaluate_best(run, model, val, test)


def main(argv=None):
    """Run the experiment on each data set, and return the last run folder."""
    options = parse_options(argv)
    return run_experiment(__file__, options, train_and_test, UNCROPPED if options.pretrained else SMALL, VAL_FRACTION)


if __name__ == "__main__":
    run_script(main)
