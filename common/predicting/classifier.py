"""A trained network ready for use: found, checked and rebuilt from a checkpoint by the script that made it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.data.arrays import pixel_hash
from common.data.images import read_frame, square
from common.models.placement import place
from common.models.weights import difference_of
from common.runs.folder import read_train_json
from common.runs.resuming import validated_weights
from common.system.checkpoints import Damaged, Foreign, load_checkpoint
from common.system.device import Machine, prepare_machine
from common.system.errors import BadInput
from common.system.log import info
from common.system.records import check_config
from common.system.text import printable

SCRIPTS = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Classifier:
    """A network in evaluation mode and everything between an image file and its probabilities."""

    model: nn.Module
    transform: Callable  # what evaluation did to the squares of images
    classes: list[str]
    stored_size: int  # the side of those squares, in pixels
    fit: str  # which square of an image the run took, see `frame`: a network knows no others
    machine: Machine
    brightness: dict  # of training images, as config.json has it; empty where the run does not tell

    def read(self, path: str | Path) -> tuple[np.ndarray, bytes]:
        """Return (stored_size, stored_size, 3) uint8, and the hash by which a run knows the image.

        A file that cannot be read raises BadInput.
        """
        pixels, _ = read_frame(Path(path), self.stored_size, self.fit)
        return square(pixels), pixel_hash(pixels)

    def inputs(self, squares: list[np.ndarray]) -> torch.Tensor:
        """Return what the network takes, (N, C, H, W) float32 on the device, for N squares."""
        images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
        return self.transform(images.to(self.machine.device))

    def blank(self) -> torch.Tensor:
        """Return what the network takes for a black image, (1, C, H, W)."""
        return self.inputs([np.zeros((self.stored_size, self.stored_size, 3), np.uint8)])

    @torch.inference_mode()
    def probabilities(self, squares: list[np.ndarray]) -> np.ndarray:
        """Return (N, classes) float32 for N squares; BadInput is raised if they are not finite."""
        with self.machine.autocast():
            logits = self.model(self.inputs(squares))
        probabilities = logits.float().softmax(1).cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise BadInput("the network predicts numbers that are not finite: its weights cannot be used")
        return probabilities


def find_checkpoint(run: str) -> Path:
    """Return the path of the best weights of a run, given its folder or that path, or raise BadInput."""
    path = Path(run)
    for file in (path, path / "best.pth"):
        if file.is_file():
            return file
    if not path.is_dir():
        newest = max(Path("outputs").glob("*/*/*/best.pth"), key=lambda file: file.stat().st_mtime, default=None)
        hint = f"; the newest is {newest}" if newest else ""
        raise BadInput(f"{run}: there is no such run folder or checkpoint{hint}")
    if (path / "config.json").is_file():
        raise BadInput(f"{run} has no best.pth: that run has not finished an epoch; resume it")
    inner = sorted(path.glob("*/best.pth"))
    hint = f"; did you mean {inner[-1].parent}?" if inner else ""
    raise BadInput(f"{run} is no run folder: it has no best.pth{hint}")


def load_classifier(checkpoint: Path, machine: Machine) -> Classifier:
    """Return the network whose best weights are in the file `checkpoint`, and say which it is.

    BadInput is raised if the file is missing or damaged, or its script is missing or builds another network now.
    """
    try:
        content = load_checkpoint(checkpoint, {"model", "config", "epoch", "val_accuracy"})
    except Foreign as error:
        raise BadInput(
            f"{checkpoint} is not the best.pth of a run here (it lacks our checksum), so nothing tells its network, "
            "classes and image size; start a run from it (ex_4.py or trainB.py --weights FILE), and predict with that"
        ) from error
    config, weights = content["config"], content["model"]
    check_config(config, str(checkpoint))
    what = f"weights of epoch {content['epoch']}, validation accuracy {content['val_accuracy']:.4f}"
    missing = {"script", "classes", "options", "stored_size"} - config.keys()
    if missing:
        raise BadInput(f"{checkpoint} is of an earlier version: it does not tell {', '.join(sorted(missing))}")
    script = _import_experiment(config["script"], checkpoint)
    if hasattr(script, "evaluate_last") and (last := _last_weights(checkpoint.parent, config.get("run_id"))):
        weights, what = last, "weights of the last epoch, which are those that were tested"
    classes = config["classes"]
    try:
        options = script.parse_options(config["options"])  # those that the script has got since have its defaults
        with torch.device("meta"):  # which makes shapes only
            wanted = script.build_model(options, len(classes)).state_dict()
    except (BadInput, RuntimeError) as error:  # such as shapes with more values than can be counted
        raise BadInput(f"{checkpoint}: {printable(error, 300)}") from error
    difference = difference_of(wanted, weights)
    if difference:
        commit = printable(config.get("git_commit") or "unknown", 60)
        raise BadInput(
            f"{checkpoint} does not fit the network that {config['script']}.py builds now ({difference}); "
            f"the run was made with commit {commit}"
        )
    model = script.build_model(options, len(classes))
    model.load_state_dict(weights)
    _, transform = script.build_transforms(options)
    info(f"{config.get('name', config['script'])}, {len(classes)} classes; {what}")
    fit = config.get("fit") or config["options"].get("fit", "crop")  # older runs have it elsewhere, or not at all
    size, light = config["stored_size"], config.get("brightness", {})
    classifier = Classifier(model, transform, classes, size, fit, machine, light)
    place(model, machine, classifier.blank()).eval()
    return classifier


def _last_weights(folder: Path, run_id: str | None) -> dict | None:
    """Return the weights that a finished run has ended with, None (and say so) where they are not in `folder`."""
    train = read_train_json(folder)
    try:
        state = load_checkpoint(folder / "last.pth", {"model", "history"})
        is_own = state.get("run_id") == run_id and len(state["history"]) == len(train["epochs"])
        if is_own and train["status"] == "finished" and not state.get("under_way"):
            return validated_weights(state)
    except Damaged:  # or not there
        pass
    info("note: this script tests the last weights of a run, and these are the best on validation images")
    return None


def load_run(run: str, device: str = "auto") -> Classifier:
    """Return the network of a run, given its folder or its best.pth, for your own code; raises as `load_classifier`."""
    return load_classifier(find_checkpoint(run), prepare_machine(device, "fp32", deterministic=False))


def _import_experiment(name: str, checkpoint: Path):
    """Return the module `name` if it is a file in the folder SCRIPTS: a checkpoint must import nothing else."""
    if not name.isidentifier() or not (SCRIPTS / f"{name}.py").is_file():
        raise BadInput(f"{checkpoint} is of the experiment {printable(name, 60)!r}; {SCRIPTS} has no such script")
    module = importlib.import_module(name)
    if not hasattr(module, "build_model"):
        raise Damaged(f"{checkpoint} is of {name}.py, which is no experiment")
    return module
