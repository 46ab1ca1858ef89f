"""EX-3, the vision zoo: what do LeNet, AlexNet and ResNet-18 make of the same images?

    python ex_3.py --config configs/lenet.yaml               CIFAR-10, downloaded; also alexnet.yaml, resnet18.yaml
    python ex_3.py --model resnet18 --data medium.hdf5       Medium ImageNet, or what pack.py made of class folders
    python ex_3.py --model alexnet --throughput              images a second by batch size, until memory is full
    for lr in 1e-5 1e-4 3e-4 1e-3 3e-3; do python ex_3.py --config configs/alexnet.yaml -lr $lr; done

One network, one set of images, one training recipe (AdamW at 3e-4, cosine, batches of 256, 50 epochs): what differs is
what was asked for. Where a set's test images have no labels, `submission.csv` holds the predictions.

Measured: 2,000 images of CIFAR-10 (JPEG), 4 epochs, n = 3 each, validation: LeNet stays at chance, 10 %; AlexNet has
          9.4 points more (8.6 to 10.3), ResNet-18 28.2 (27.2 to 29.1); more in docs/answers.md
Reported: CIFAR-10, best validation accuracy: LeNet 38.6 %, AlexNet 77.4 %, ResNet-18 88.6 %
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

from torch import nn

from common.evaluation.testing import evaluate_best
from common.experiment import measure_speed, run_experiment
from common.models.pooling import AdaptiveAvgPool2d
from common.options.shared import experiment_parser
from common.options.types import SWITCH, activation, integer, number, one_of
from common.system.errors import BadInput
from common.training.fit import fit
from common.transforms.basic import Compose, Normalize, RandomCrop, RandomHorizontalFlip, Resize
from common.transforms.color import ColorJitter, GaussianBlur

SHARED = {"dataset": ["cifar10"], "epochs": 50, "batch_size": 256, "lr": 3e-4, "optimizer": "adamw",
          "weight_decay": 0.01, "schedule": "cosine", "submission_labels": "indices"}  # fmt: skip
OF_MODEL = {  # as published, but for the sizes: AlexNet's three poolings need 63 pixels
    "lenet": {"image_size": 32, "activation": "Sigmoid", "dropout": 0.0},
    "alexnet": {"image_size": 70, "activation": "ReLU", "dropout": 0.5},
    "resnet18": {"image_size": 32, "activation": "ReLU", "dropout": 0.0},
}
SMALLEST = {"lenet": 12, "alexnet": 63, "resnet18": 8}  # images of which something is left before the linear layers
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of photographs, as measured on ImageNet
JITTER = 0.4  # brightness, contrast and saturation by up to so much
BLUR = {"kernel_size": 5, "sigma": (0.1, 1.5)}  # of the 32 pixels of CIFAR, not of what AlexNet makes of them
VAL_FRACTION = 0.1  # of the training images, unless the set has its own; the test images choose nothing
THROUGHPUT_CLASSES = 10


def parse_options(argv=None):
    """Return the options of this experiment."""
    parser = experiment_parser(__file__, __doc__, **SHARED)
    add = parser.own.add_argument
    add("--model", type=one_of(tuple(OF_MODEL)), default="lenet", metavar="NAME", help=", ".join(OF_MODEL))
    add("--image_size", type=integer(8, 4096), metavar="N",
        help=f"side in pixels (default: {_of_models('image_size')})")  # fmt: skip
    add("-a", "--activation", type=activation, metavar="NAME",
        help=f"of torch.nn, such as GELU or SiLU (default: {_of_models('activation')})")  # fmt: skip
    add("-d", "--dropout", type=number(0, below=1), metavar="X",
        help=f"before linear layers (default: {_of_models('dropout')})")  # fmt: skip
    add("--augment", type=one_of(("none", "base", "crop", "blur")), default="base", metavar="NAME",
        help="of training images: none; base: mirrored or not, colors; crop, blur: base and that")  # fmt: skip
    add("--throughput", **SWITCH, default=False, help="measure images a second by batch size instead of training")
    add("--max_batch", type=integer(1), default=2**20, metavar="N",
        help="with --throughput: the largest batch, of 1, 2, 4, …")  # fmt: skip
    add("--memory_budget", type=number(above=0), metavar="GB",
        help="with --throughput: for the process on a CPU (default: half of the free memory)")  # fmt: skip
    parser.works_only_with |= {"max_batch": ("throughput", (True,)), "memory_budget": ("throughput", (True,))}
    parser.derived |= {name: lambda options, name=name: OF_MODEL[options.model][name] for name in OF_MODEL["lenet"]}
    options = parser.parse(argv)
    if options.image_size < SMALLEST[options.model]:
        raise BadInput(f"--image_size {options.image_size}: {options.model} needs at least {SMALLEST[options.model]}")
    return options


def _of_models(name):
    return ", ".join(f"{model} {values[name]}" for model, values in OF_MODEL.items())


def build_transforms(options):
    """Return what happens to training images, and to all others."""
    size = (options.image_size, options.image_size)
    resize, normalize = Resize(size), Normalize(MEAN, STD)
    train = [] if options.augment == "none" else [RandomHorizontalFlip(), ColorJitter(JITTER, JITTER, JITTER)]
    if options.augment == "blur":
        train.append(GaussianBlur(**BLUR))
    train.append(resize)
    if options.augment == "crop":
        train.append(RandomCrop(size, padding=options.image_size // 8))
    return Compose([*train, normalize]), Compose([resize, normalize])


def lenet(options, num_classes):
    """LeCun et al.: "Gradient-Based Learning Applied to Document Recognition", 1998; 83,126 parameters, 10 classes."""
    act, side = getattr(nn, options.activation), (options.image_size // 2 - 4) // 2
    dropout = [nn.Dropout(options.dropout)] if options.dropout else []
    return nn.Sequential(
        nn.Conv2d(3, 6, kernel_size=5, padding=2), act(), nn.AvgPool2d(2),  # (N, 6, 16, 16)
        nn.Conv2d(6, 16, kernel_size=5), act(), nn.AvgPool2d(2),  # (N, 16, 6, 6)
        nn.Flatten(),
        *dropout, nn.Linear(16 * side * side, 120), act(),
        *dropout, nn.Linear(120, 84), act(),
        nn.Linear(84, num_classes),
    )  # fmt: skip


def alexnet(options, num_classes):
    """Krizhevsky: "One weird trick for parallelizing convolutional neural networks", 2014; 57,044,810 parameters."""
    act = getattr(nn, options.activation)
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), act(), nn.MaxPool2d(3, stride=2),  # (N, 64, 7, 7)
        nn.Conv2d(64, 192, kernel_size=5, padding=2), act(), nn.MaxPool2d(3, stride=2),  # (N, 192, 3, 3)
        nn.Conv2d(192, 384, kernel_size=3, padding=1), act(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1), act(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1), act(), nn.MaxPool2d(3, stride=2),  # (N, 256, 1, 1)
        AdaptiveAvgPool2d((6, 6)),
        nn.Flatten(),
        nn.Dropout(options.dropout), nn.Linear(256 * 6 * 6, 4096), act(),
        nn.Dropout(options.dropout), nn.Linear(4096, 4096), act(),
        nn.Linear(4096, num_classes),
    )  # fmt: skip


def resnet18(options, num_classes):
    """He et al.: "Deep Residual Learning", 2016, with a first layer for small images; 11,173,962 parameters."""
    from torchvision import models  # takes a second to import

    network = models.resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)  # instead of 7x7 at every other pixel
    network.maxpool = nn.Identity()
    if options.activation != "ReLU":
        for part in network.modules():
            if hasattr(part, "relu"):
                part.relu = getattr(nn, options.activation)()
    if options.dropout:
        network.fc = nn.Sequential(nn.Dropout(options.dropout), network.fc)
    return network


def build_model(options, num_classes):
    """Return the chosen network: (N, 3, S, S) -> logits (N, num_classes), for S = image_size."""
    return {"lenet": lenet, "alexnet": alexnet, "resnet18": resnet18}[options.model](options, num_classes)


def train_and_test(run, options):
    """Train on one data set, and test the best epoch."""
    train, val, test = run.batches(*build_transforms(options))
    model = run.prepare(build_model(options, run.num_classes))
    optimizer, schedule = run.optimizer(model.parameters(), train)
    with run.open(model, train):
        fit(run, model, train, val, optimizer, schedule)
        evaluate_best(run, model, val, test)


def main(argv=None):
    """Run the experiment on each data set, and return the last run folder."""
    options = parse_options(argv)
    if options.throughput:
        return measure_speed(__file__, options, build_model, THROUGHPUT_CLASSES)
    return run_experiment(__file__, options, train_and_test, options.image_size, VAL_FRACTION)


if __name__ == "__main__":
    run_script(main)
