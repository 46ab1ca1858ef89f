"""The pictures of a run drawn again, from the records beside them, and compared pixel by pixel."""

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from common.evaluation.metrics import score
from common.runs import code, plots
from common.runs.config import title_of
from common.system.files import PICTURE_KINDS, pictures_also_as
from tools.comparing.predictions import read_predictions
from tools.verifying.claims import stored_code
from tools.verifying.folder import Folder, Unknown

DRAWING = ("common/figures.py", "common/runs/plots.py")  # what the pictures depend on, beside the records


def check_drawn(folder: Folder) -> None:
    """Curves, confusion matrices and ROC curves show what the records say, all their numbers included."""
    drawn_with = folder.config["versions"].get("matplotlib")
    if drawn_with != matplotlib.__version__:
        raise Unknown(f"pictures: drawn by matplotlib {drawn_with}, and here is {matplotlib.__version__}")
    if folder.config["code_sha256"] != code.code_sha256(here := code.project_code()):
        then = stored_code(folder) if (folder.path / code.FOLDER / code.PROJECT).exists() else {}
        if any(then.get(name) != here[name] for name in DRAWING):
            raise Unknown("pictures: drawn by other code than this tree's")
    kind = folder.options.get("figures")
    with tempfile.TemporaryDirectory(prefix="verify-") as place, _drawn_as(kind):
        again = Path(place)
        if folder.history:
            plots.draw_history(again, folder.history, title_of(folder.config), len(folder.config["classes"]))
            plots.draw_resources(again / "resources.png", folder.history)
        for prefix, kind in (("val_", "validation"), ("", "test")):
            _draw_predictions(folder, again, prefix, kind)
        for picture in sorted(again.iterdir()):
            folder.claim(
                _same(folder.path / picture.name, picture), f"{picture.name} does not show what the records say"
            )


def _draw_predictions(folder: Folder, again: Path, prefix: str, kind: str) -> None:
    classes = folder.config["classes"]
    stored = read_predictions(folder.path / f"{prefix}predictions.npz", len(classes))
    if stored is not None:
        labels = stored.labels.astype(np.int64)
        matrix, scores = again / f"{prefix}confusion_matrix.png", score(stored.probabilities, labels, classes)
        plots.draw_confusion_matrix(matrix, labels, stored.probabilities, classes, kind)
        plots.draw_roc(again / f"{prefix}roc.png", labels, stored.probabilities, scores, kind)


def _drawn_as(kind: object) -> AbstractContextManager:
    return pictures_also_as(kind if kind in PICTURE_KINDS else "png")  # older runs do not say it


def _same(claimed: Path, picture: Path) -> bool:
    """Tell whether two pictures are the same, pixel by pixel; those that have no pixels byte by byte."""
    if not claimed.is_file():
        return False
    if picture.suffix == ".png":
        return np.array_equal(_pixels(claimed), _pixels(picture))
    return claimed.read_bytes() == picture.read_bytes()


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
