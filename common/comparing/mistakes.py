"""What a run's predictions.npz tells of its mistakes."""

import hashlib
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.comparing.finished_runs import FinishedRun, PassedOver
from common.system.log import progress
from common.system.text import printable

LARGEST_SIZE = 2**30  # bytes; 50,000 images and 1,000 classes are 200 MB
MOST_CONFUSED, MOST_WORST = 10, 16  # 16 is what predictions.png shows of the mistakes


@dataclass(frozen=True)
class Mistakes:
    """Of labelled test images: which are correct, and what is wrong with the others."""

    images: str  # equal for two runs exactly if their test images have the same ids and labels, in the same order
    correct: np.ndarray  # (N,) bool
    confused: list[tuple[str, str, int]]  # (true, predicted, count), most frequent first
    worst: list[tuple[str, str, str, float]]  # (id, true, predicted, confidence), most confident first


def read_all_mistakes(runs: list[FinishedRun]) -> tuple[dict[FinishedRun, Mistakes], list[PassedOver]]:
    """Return the mistakes of the runs that tell them, and the files that are damaged."""
    mistakes, damaged = {}, []
    with progress(len(runs), "mistakes of", " runs") as bar:
        for run in runs:
            path = run.folder / "predictions.npz"
            try:
                mistakes[run] = None if run.diverged else read_mistakes(path, run.classes)
            except ValueError as error:
                damaged.append(PassedOver(path, f"left out of the comparison of networks: {error}"))
            bar.update()
    return {run: found for run, found in mistakes.items() if found}, damaged


def read_mistakes(path: Path, classes: list[str]) -> Mistakes | None:
    """Return the mistakes in a predictions.npz, None without a file or labels; raise ValueError if it is damaged."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:
            size = sum(entry.file_size for entry in file.infolist())
        if size > LARGEST_SIZE:
            raise ValueError(f"it would unpack to {size:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            labels, probabilities, ids = (np.asarray(file[name]) for name in ("labels", "probabilities", "ids"))
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything for damaged files
        raise ValueError(f"{path.name} is damaged ({type(error).__name__}: {printable(error, 200)})") from error
    _check(labels, probabilities, ids, len(classes))
    if (labels < 0).any():
        return None
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    pairs = Counter(sorted(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True)))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")[:MOST_WORST]]  # as in predictions.png
    images = labels.astype(np.int64).tobytes() + "\0".join(ids.astype(str).tolist()).encode("utf-8", "surrogatepass")
    return Mistakes(
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
