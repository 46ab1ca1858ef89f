"""What the stored predictions of runs say: mistakes, whether scores follow from them, what each image adds to one."""

import hashlib
import zipfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.system.files import Unreadable, read_json
from common.system.log import progress
from common.system.text import printable
from tools.comparing.finished_runs import FinishedRun, PassedOver, is_number

LARGEST_SIZE = 2**30  # bytes; 50,000 images and 1,000 classes are 200 MB
MOST_CONFUSED, MOST_WORST = 10, 16  # 16 is what predictions.png shows of the mistakes
# The score of a class is a ratio of counts. Above: correct images, so many times. Below: true ones, predicted, correct.
RATIOS = {"recall_score": (1, 1, 0, 0), "precision_score": (1, 0, 1, 0), "f1_score": (2, 1, 1, 0),
          "iou_score": (1, 1, 1, -1)}  # fmt: skip
CHECKED = {"accuracy": 1e-6, "f1_score": 1e-6, "loss": 1e-3}  # how far a score may be from its predictions, relatively


class Predictions(NamedTuple):
    """Of N labelled images: what they are, and the probabilities of each class."""

    labels: np.ndarray  # (N,)
    probabilities: np.ndarray  # (N, classes)
    ids: np.ndarray  # (N,)


@dataclass(frozen=True)
class Mistakes:
    """Of labelled images, validation or test: which are correct, and what is wrong with the others."""

    kind: str  # "validation" or "test"
    images: str  # equal for two runs exactly if the images have the same ids and labels, in the same order
    correct: np.ndarray  # (N,) bool
    confused: list[tuple[str, str, int]]  # (true, predicted, count), most frequent first
    worst: list[tuple[str, str, str, float]]  # (id, true, predicted, confidence), most confident first


@dataclass(frozen=True)
class Told:
    """What the predictions of all runs tell."""

    mistakes: dict[FinishedRun, Mistakes] = field(default_factory=dict)  # of those runs that tell them
    moves: dict[FinishedRun, np.ndarray] = field(default_factory=dict)  # as in an `Arm`, for one metric
    passed: list[PassedOver] = field(default_factory=list)  # files that are damaged
    doubts: list[str] = field(default_factory=list)  # runs whose scores do not follow from their predictions


def read_all_predictions(runs: list[FinishedRun], metric: str) -> Told:
    """Return what the predictions of the runs tell, `metric` being what the runs are compared by."""
    told, numbering, added = Told(), _Numbering(), {}
    with progress(len(runs), "predictions of", " runs") as bar:
        for run in runs:
            for prefix in () if run.diverged else ("", "val_"):
                path = run.folder / f"{prefix}predictions.npz"
                try:
                    predictions = read_predictions(path, len(run.classes))
                except ValueError as error:
                    told.passed.append(PassedOver(path, f"left out of the comparison of networks: {error}"))
                    continue
                if predictions is None:
                    continue
                if prefix == run.looked_at:
                    told.mistakes[run] = mistakes_of(predictions, run.classes, "validation" if prefix else "test")
                told.doubts.extend(doubts_of(run, prefix, predictions))
                parts = each_image(_base_name(metric, run, prefix), predictions)
                if parts is not None:
                    added[run] = numbering.places(run.dataset, predictions.ids), (parts - parts.mean()) / len(parts)
            bar.update()
    for run, (places, shares) in added.items():
        told.moves[run] = np.zeros(numbering.count(run.dataset))
        told.moves[run][places] = shares
    return told


def read_predictions(path: Path, classes: int) -> Predictions | None:
    """Return predictions, None without a file or labels; raise ValueError if they are damaged."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(entry.file_size for entry in file.infolist())
        if size > LARGEST_SIZE:
            raise ValueError(f"it would unpack to {size:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            found = Predictions(*(np.asarray(file[name]) for name in Predictions._fields))
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything for damaged files
        raise ValueError(f"{path.name} is damaged ({type(error).__name__}: {printable(error, 200)})") from error
    _check(*found, classes)
    return None if (found.labels < 0).any() else found


def mistakes_of(predictions: Predictions, classes: list[str], kind: str) -> Mistakes:
    """Return the mistakes in predictions of `kind` "validation" or "test"."""
    labels, probabilities, ids = predictions
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    pairs = Counter(sorted(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True)))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")[:MOST_WORST]]  # as in predictions.png
    images = labels.astype(np.int64).tobytes() + "\0".join(ids.astype(str).tolist()).encode("utf-8", "surrogatepass")
    return Mistakes(
        kind=kind,
        images=hashlib.sha256(images).hexdigest(),
        correct=predicted == labels,
        confused=[(classes[true], classes[other], count) for (true, other), count in pairs.most_common(MOST_CONFUSED)],
        worst=[(str(ids[i]), classes[labels[i]], classes[predicted[i]], float(confidence[i])) for i in worst],
    )


def _check(labels: np.ndarray, probabilities: np.ndarray, ids: np.ndarray, classes: int) -> None:
    have_kinds = labels.dtype.kind in "iu" and probabilities.dtype.kind == "f" and ids.dtype.kind in "Uiu"
    have_shapes = labels.ndim == 1 and probabilities.shape == (*labels.shape, classes) and ids.shape == labels.shape
    if not (have_kinds and have_shapes and labels.size):
        raise ValueError("the arrays in predictions.npz do not have the shapes of a run with these classes")
    if labels.max() >= classes or not np.isfinite(probabilities).all():
        raise ValueError("predictions.npz has labels or probabilities that cannot be")


def doubts_of(run: FinishedRun, prefix: str, predictions: Predictions) -> list[str]:
    """Return in words which scores of `validation.json` or `test.json` do not follow from the predictions."""
    name = "validation.json" if prefix else "test.json"
    try:
        said = read_json(run.folder / name) if (run.folder / name).exists() else {}
    except Unreadable as error:
        return [f"{run.label}: {error}"]
    doubts = []
    for score, tolerance in CHECKED.items():
        if score == "loss" and not tell_loss(predictions):
            continue
        found = each_image(score, predictions).mean()
        if is_number(said.get(score)) and not abs(said[score] - found) <= tolerance * (1 + abs(found)):
            doubts.append(f"{score} {said[score]:.6g}, but its {prefix}predictions.npz {found:.6g}")
    return [f"{run.label}: {name} does not follow from the predictions: {'; '.join(doubts)}"] if doubts else []


def tell_loss(predictions: Predictions) -> bool:
    """Tell whether the loss follows from the predictions: not where float32 has no number for how little one was."""
    return bool(predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels].min() > 0)


def each_image(score: str, predictions: Predictions) -> np.ndarray | None:
    """Return a number of each image (N,) such that their mean is the score, and their spread tells how exact it is.

    For scores that are means over classes, each one's influence on them (Hampel, 1974). None for scores that are
    nothing of the kind.
    """
    labels, probabilities, _ = predictions
    if score == "accuracy":
        return (probabilities.argmax(1) == labels).astype(float)
    if score == "loss":
        own = probabilities[np.arange(len(labels)), labels]
        return -np.log(np.maximum(own.astype(float), np.finfo(np.float32).smallest_subnormal))
    return _influences(*RATIOS[score], predictions) if score in RATIOS else None


def _influences(above: int, true: int, predicted: int, both: int, predictions: Predictions) -> np.ndarray:
    labels, count = predictions.labels, predictions.probabilities.shape[1]
    answers = predictions.probabilities.argmax(1)
    correct = answers == labels
    images, answered, hits = (np.bincount(one, minlength=count) for one in (labels, answers, labels[correct]))
    below = true * images + predicted * answered + both * hits
    weight = np.divide(1.0, below, out=np.zeros(count), where=(below > 0) & (images > 0))  # a mean over what has images
    scores = above * hits * weight
    own = correct * (above - both * scores[labels]) - true * scores[labels]
    moved = own * weight[labels] - predicted * scores[answers] * weight[answers]
    classes = (images > 0).sum()
    return scores.sum() / classes + moved * len(labels) / classes


class _Numbering:
    """Numbers for images: the same for the same id of a data set."""

    def __init__(self):
        self._numbers, self._places = defaultdict(dict), {}

    def places(self, dataset: str, ids: np.ndarray) -> np.ndarray:
        key = dataset, hashlib.sha256(ids.tobytes()).digest()
        if key not in self._places:  # many runs have the same images
            numbers = self._numbers[dataset]
            self._places[key] = np.array([numbers.setdefault(str(one), len(numbers)) for one in ids.tolist()])
        return self._places[key]

    def count(self, dataset: str) -> int:
        return len(self._numbers[dataset])


def _base_name(metric: str, run: FinishedRun, prefix: str) -> str:
    """Return what `metric` is called in the file that goes with these predictions, "" if it is not of them."""
    if (metric in run.of_test) != (prefix == ""):
        return ""
    return metric.removeprefix(prefix or "test_") if metric.startswith(("val_", "test_")) or not prefix else ""
