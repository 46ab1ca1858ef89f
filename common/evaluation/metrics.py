"""Scores of a classifier on labelled images, computed from its probabilities."""

from itertools import compress

import numpy as np

CALIBRATION_BINS = 15
NULL_DRAWS = 200
SHUFFLES = 2000


def score(probabilities: np.ndarray, labels: np.ndarray, classes: list[str]) -> dict:
    """Return the scores of `test.json`; one that is undefined is None, and a note says why.

    Macro scores are means over the classes that have images, each class counting the same.

    `probabilities` (N, classes) have rows that sum to 1; `labels` (N,) are int64 in 0 … classes - 1.
    """
    from sklearn.metrics import confusion_matrix

    n, count = len(labels), len(classes)
    predicted = probabilities.argmax(1)
    matrix = confusion_matrix(labels, predicted, labels=np.arange(count))
    images, correct = matrix.sum(axis=1), int(matrix.trace())
    scores = _scores_of_classes(labels, predicted, count)
    scores["auc_score"] = _auc_of_classes(probabilities, labels, images)
    return {
        "accuracy": correct / n,
        **{name: _mean_where_defined(values) for name, values in scores.items()},
        "top5_accuracy": _top5_accuracy(probabilities, labels) if count >= 5 else None,
        "accuracy_interval_95": wilson_interval(correct, n),
        "expected_calibration_error": calibration_error(probabilities.max(1), predicted == labels),
        "calibration_error_by_chance": calibration_error_by_chance(probabilities),
        "per_class": {
            name: {"images": int(images[label])}
            | {key: _mean_where_defined(values[[label]]) for key, values in scores.items()}
            for label, name in enumerate(classes)
        },
        "images": n,
        "notes": _notes(classes, images, matrix.sum(axis=0)),
    }


def wilson_interval(correct: int, n: int) -> list[float]:
    """Return the 95 % confidence interval [low, high] of a proportion (Wilson, 1927)."""
    from scipy.stats import binomtest

    return [float(end) for end in binomtest(correct, n).proportion_ci(0.95, method="wilson")]


def chance_interval(labels: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Return between what 95 % of accuracies of predictions (N,) lie when labels (N,) are shuffled (Fisher, 1935)."""
    chance, labels = np.random.default_rng(0), labels.copy()
    accuracies = []
    for _ in range(SHUFFLES):
        chance.shuffle(labels)
        accuracies.append((labels == predicted).mean())
    return [float(end) for end in np.quantile(accuracies, (0.025, 0.975))]


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Return the mean gap between confidence and accuracy in 15 bins of equal width (Guo et al., 2017).

    `confidence` (N,) is the probability of the most probable class, `correct` (N,) tells whether it is the true one.
    """
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence.astype(np.float64), minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(correct))


def calibration_error_by_chance(probabilities: np.ndarray) -> list[float]:
    """Return what 95 % of networks would show as calibration error that are as confident and perfectly calibrated.

    Each of NULL_DRAWS of them is right on an image with the probability that it gives (N, classes) to its answer.
    """
    confidence = probabilities.max(1)
    chance = np.random.default_rng(0)
    errors = [calibration_error(confidence, chance.random(len(confidence)) < confidence) for _ in range(NULL_DRAWS)]
    return [float(end) for end in np.quantile(errors, (0.025, 0.975))]


def _scores_of_classes(labels: np.ndarray, predicted: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return the scores of each class, (classes,) each, NaN where undefined."""
    from sklearn.metrics import jaccard_score, precision_recall_fscore_support

    options = {"labels": np.arange(count), "average": None}
    precision, recall, f1, images = precision_recall_fscore_support(labels, predicted, zero_division=0, **options)
    iou = jaccard_score(labels, predicted, zero_division=0, **options)
    scores = {"precision_score": precision, "recall_score": recall, "f1_score": f1, "iou_score": iou}
    return {name: np.where(images > 0, values, np.nan) for name, values in scores.items()}


def _auc_of_classes(probabilities: np.ndarray, labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of each class against the rest, NaN where a side has no image.

    From the sum of the ranks of a class's `images` (Mann, Whitney, 1947; Hanley, McNeil, 1982): that is many times as
    fast as a curve for each, where there are many classes.
    """
    ranks = np.zeros(len(images))
    for label in np.flatnonzero(images):
        column, own = np.sort(probabilities[:, label]), probabilities[labels == label, label]
        ends = (np.searchsorted(column, own, side).sum() for side in ("left", "right"))
        ranks[label] = (sum(ends) + len(own)) / 2  # equal values share the mean of their ranks
    above = ranks - images * (images + 1) / 2
    pairs = images * (len(labels) - images)  # of an image of the class and one of the rest
    return np.divide(above, pairs, out=np.full(len(images), np.nan), where=pairs > 0)


def _top5_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose true class is among the five most probable; equals share the last places."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    above, equal = (probabilities > own).sum(1), (probabilities == own).sum(1)
    return float(((5 - above) / equal).clip(0, 1).mean())


def _notes(classes: list[str], images: np.ndarray, predictions: np.ndarray) -> list[str]:
    remarks = {
        "without images, so left out of all means": images == 0,
        "never predicted, so with a precision of 0": (predictions == 0) & (images > 0),
    }
    return [f"{text}: {', '.join(compress(classes, mask))}" for text, mask in remarks.items() if mask.any()]


def _mean_where_defined(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
