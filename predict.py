"""Say what is in photographs, with the network of a finished or interrupted run.

    python predict.py outputs/ex_1/digits/2026-11-21_14-05-33 photo.jpg
    python predict.py best.pth photographs/ --csv predictions.csv --montage montage.png --explain

best.pth alone is enough: it knows its script, its options and its classes. Folders are searched with all that is below
them. If a folder holds folders with the names of classes, the accuracy is told too. Nothing in the run is changed. How
many of the images it was trained or tested on is told, and a look at its test images is counted.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

from common.options.parser import Parser
from common.options.types import integer, one_of, path
from common.predicting.classifier import find_checkpoint, load_classifier
from common.system.device import DEVICES, prepare_machine
from common.system.errors import BadInput
from tools.prediction import (
    Encounters,
    check_outputs,
    find_images,
    predict,
    report,
    tell_of_brightness,
    write_csv,
    write_montage,
)

TOPK = 5
BATCH_SIZE = 64  # of 224x224 pixels, a ResNet-50 takes 1 GB for so many


def parse_options(argv=None):
    """Return the options."""
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("run", type=path, metavar="RUN", help="the folder of a run, or its best.pth")
    add("images", type=path, nargs="+", metavar="IMAGE", help="image files, and folders of them")
    add("-h", "--help", action="help", help="show this and exit")
    add("-k", "--topk", type=integer(1), default=TOPK, metavar="N", help="names told for each image")
    add("--csv", type=path, metavar="FILE", help="write the predictions as a table")
    add("--montage", type=path, metavar="FILE.png", help="draw the images as the network sees them")
    add("--explain", action="store_true", help="in the montage, beside each image what spoke for the answer (Grad-CAM)")
    add(
        "-b", "--batch_size", "--batch-size", type=integer(1), default=BATCH_SIZE, metavar="N", help="images in a batch"
    )
    add("--device", type=one_of(DEVICES), default="auto", metavar="NAME", help=", ".join(DEVICES))
    return parser.parse_intermixed_args(argv)


def main(argv=None):
    """Predict, print and write, and return the predictions. Images that cannot be read raise BadInput at the end."""
    options = parse_options(argv)
    if options.explain and not options.montage:
        raise BadInput("--explain draws into the montage: say with --montage FILE.png where")
    checkpoint = find_checkpoint(options.run)
    classifier = load_classifier(checkpoint, prepare_machine(options.device, "fp32", deterministic=False))
    images = find_images(options.images, classifier.classes)
    check_outputs({"--csv": options.csv, "--montage": options.montage}, checkpoint, images)

    topk = min(options.topk, len(classifier.classes))
    encounters = Encounters(checkpoint.resolve().parent)
    coming = predict(classifier, images, options.batch_size, encounters)
    predictions = report(coming, images, classifier.classes, topk)
    encounters.tell(len(predictions))
    tell_of_brightness(predictions, classifier.brightness)
    if options.csv:
        write_csv(options.csv, predictions, classifier.classes, topk)
    if options.montage:
        write_montage(options.montage, predictions, classifier, options.explain)
    unreadable = len(images) - len(predictions)
    if unreadable:
        raise BadInput(f"{unreadable} of {len(images)} images could not be read, see above; all others are predicted")
    return predictions


if __name__ == "__main__":
    run_script(main)
