"""Write the network of a run as an ONNX file, for programs that know nothing of this kit.

    python export.py outputs/ex_1/digits/2026-11-21_14-05-33 model.onnx
    python export.py outputs/trainA/nature/2026-11-21_14-05-33 model.onnx --images photographs/

A uint8 image of any size goes in, (N, height, width, 3), and probabilities come out: sizes, crop and normalization are
in the graph, the names of the classes in its metadata. It is compared with PyTorch on validation images of the run, and
on photographs where there are some, and is written only if both agree.
"""

from common.system.start import run_script  # first, for Ctrl-C while PyTorch is imported

import importlib.util
import json
from pathlib import Path

from common.options.parser import Parser
from common.options.types import absolute_path, integer, path
from common.predicting.classifier import find_checkpoint, load_classifier
from common.runs.folder import read_config
from common.system.device import prepare_machine
from common.system.errors import BadInput
from common.system.log import info
from tools.outputs import check_writable
from tools.prediction import find_images

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
MOST = 1000  # validation images that are compared


def parse_options(argv=None):
    """Return the options."""
    parser = Parser(__file__, __doc__)
    add = parser.add_argument
    add("run", type=path, metavar="RUN", help="the folder of a run")
    add("file", type=path, metavar="FILE.onnx", help="the file to write")
    add("-h", "--help", action="help", help="show this and exit")
    add("--data", type=absolute_path, metavar="PATH", help="where its images are, if not where the run found them")
    add("--images", type=path, nargs="+", default=[], metavar="IMAGE",
        help="photographs to compare on, and folders of them")  # fmt: skip
    add("--check", type=integer(1), default=MOST, metavar="N", help="validation images to compare on, at most")
    return parser.parse_intermixed_args(argv)


def main(argv=None):
    """Build, compare and write the file, and return its path; BadInput is raised if they differ."""
    options = parse_options(argv)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise BadInput(f"export.py needs {', '.join(missing)}: pip install -r requirements-extras.txt")
    from tools import exporting  # imports them

    checkpoint, target = find_checkpoint(options.run), Path(options.file)
    if checkpoint.parent.resolve() == target.parent.resolve():
        raise BadInput(f"{target} is in the folder of the run, in which nothing is changed; write elsewhere")
    check_writable(target, str(target))
    config = read_config(checkpoint.parent)
    classifier = load_classifier(checkpoint, prepare_machine("cpu", "fp32", deterministic=False))
    files = [image.path for image in find_images(options.images, classifier.classes)] if options.images else []
    validation = exporting.validation_images(checkpoint.parent, config, config["options"], options.data, options.check)
    about = {name: config.get(name) for name in ("name", "run_id", "git_commit", "code_sha256")}
    about["classes"] = json.dumps(classifier.classes)  # in ASCII: a name may be no text
    network = exporting.Exportable(classifier.model, classifier.transform)
    model = exporting.build_onnx(network, classifier.stored_size, classifier.fit, about)
    comparisons = [exporting.squares(validation, classifier.probabilities)]
    if files:
        comparisons.append(exporting.photographs(files, classifier.read, classifier.probabilities))
    exporting.save_checked(model, target, comparisons)
    info(f"written to {target}: image (N, height, width, 3) uint8 -> probabilities (N, {len(classifier.classes)})")
    return target


if __name__ == "__main__":
    run_script(main)
