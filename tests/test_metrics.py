import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics as reference

from common.evaluation.metrics import calibration_error, calibration_error_by_chance, score, wilson_interval
from common.runs import plots

MACRO = ("precision_score", "recall_score", "f1_score", "iou_score", "auc_score")


def names(count):
    return [f"class {label}" for label in range(count)]


def classifier(n, count, skill=1.5, seed=0):
    """Probabilities and labels of a classifier that is often right; every class has images and predictions."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(count), rng.integers(0, count, n - count)])
    logits = rng.normal(size=(n, count)) + skill * np.eye(count)[labels]
    return softmax(logits, axis=1).astype(np.float32), labels


def certain(predicted, count):
    return np.eye(count, dtype=np.float32)[np.asarray(predicted)]


@pytest.mark.parametrize(("n", "count"), [(60, 2), (200, 3), (400, 10), (3_000, 100)])
def test_scores_equal_scikit_learns(n, count):
    probabilities, labels = classifier(n, count)
    predicted = probabilities.argmax(1)
    assert set(predicted) == set(range(count))
    result = score(probabilities, labels, names(count))
    macro = {"average": "macro"}
    multiclass = {"multi_class": "ovr", "average": "macro"}
    # In double precision and with rows that sum to 1 exactly, as scikit-learn demands.
    exact = probabilities.astype(np.float64) / probabilities.astype(np.float64).sum(1, keepdims=True)
    auc = reference.roc_auc_score(labels, exact[:, 1]) if count == 2 else \
        reference.roc_auc_score(labels, exact, **multiclass)  # fmt: skip
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "precision_score": reference.precision_score(labels, predicted, **macro),
        "recall_score": reference.recall_score(labels, predicted, **macro),
        "f1_score": reference.f1_score(labels, predicted, **macro),
        "iou_score": reference.jaccard_score(labels, predicted, **macro),
        "auc_score": auc,
    }
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert result["images"] == n
    assert result["notes"] == []


@pytest.mark.parametrize("count", [6, 10, 100])
def test_top5_equals_scikit_learns(count):
    probabilities, labels = classifier(2_000, count)
    result = score(probabilities, labels, names(count))
    expected = reference.top_k_accuracy_score(labels, probabilities, k=5, labels=range(count))
    assert result["top5_accuracy"] == pytest.approx(expected)
    assert result["accuracy"] < result["top5_accuracy"] <= 1


def test_top5_of_five_classes_is_1_and_no_reason_to_warn():
    assert score(*classifier(50, 5), names(5))["top5_accuracy"] == 1


def test_top5_is_undefined_with_fewer_than_five_classes():
    assert score(*classifier(50, 4), names(4))["top5_accuracy"] is None


def test_scores_of_each_class_equal_scikit_learns():
    probabilities, labels = classifier(500, 6)
    predicted = probabilities.argmax(1)
    per_class = score(probabilities, labels, names(6))["per_class"]
    assert list(per_class) == names(6)
    for label, name in enumerate(names(6)):
        true, claimed = labels == label, predicted == label
        assert per_class[name] == pytest.approx({
            "images": true.sum(),
            "precision_score": reference.precision_score(true, claimed),
            "recall_score": reference.recall_score(true, claimed),
            "f1_score": reference.f1_score(true, claimed),
            "iou_score": reference.jaccard_score(true, claimed),
            "auc_score": reference.roc_auc_score(true, probabilities[:, label]),
        })  # fmt: skip


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_ends_of_the_interval_are_where_wilson_puts_them(hits_and_n):
    hits, n = hits_and_n
    low, high = wilson_interval(hits, n)
    for end in (low, high):  # the shares p for which hits / n lies 1.96 standard errors of p away, or 0 and 1
        distance = abs(hits / n - end)
        assert distance == pytest.approx(1.959963984540054 * (end * (1 - end) / n) ** 0.5, abs=1e-9)
    assert 0 <= low <= hits / n + 1e-12 and hits / n - 1e-12 <= high <= 1


def test_interval_of_the_accuracy_is_reported():
    probabilities, labels = classifier(300, 4)
    result = score(probabilities, labels, names(4))
    assert result["accuracy_interval_95"] == wilson_interval(round(result["accuracy"] * 300), 300)


def naive_calibration_error(probabilities, labels):
    error = 0.0
    for bin_number in range(15):
        low, high = bin_number / 15, (bin_number + 1) / 15
        inside = [
            (float(row.max()), int(row.argmax()) == label)
            for row, label in zip(probabilities, labels, strict=True)
            if low <= row.max() < high or (bin_number == 14 and row.max() == 1)
        ]
        if inside:
            confidence = sum(confidence for confidence, _ in inside) / len(inside)
            accuracy = sum(correct for _, correct in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return error


@pytest.mark.parametrize(("n", "count", "skill"), [(50, 2, 0.5), (1000, 10, 3), (1000, 10, 0), (300, 100, 8)])
def test_calibration_error_equals_a_loop_over_the_bins(n, count, skill):
    probabilities, labels = classifier(n, count, skill)
    expected = naive_calibration_error(probabilities, labels)
    correct = probabilities.argmax(1) == labels
    assert calibration_error(probabilities.max(1), correct) == pytest.approx(expected, abs=1e-6)
    assert score(probabilities, labels, names(count))["expected_calibration_error"] == pytest.approx(expected, abs=1e-6)


def test_calibration_error_of_known_cases():
    always_sure = certain([0] * 10, 2)
    assert calibration_error(always_sure.max(1), np.ones(10, bool)) == 0
    assert calibration_error(always_sure.max(1), np.zeros(10, bool)) == 1
    # 1 is in the last bin with all that is nearly 1: a miss at 1 and a hit at 0.95 cancel out in part.
    assert calibration_error(np.array([1, 0.95]), np.array([False, True])) == pytest.approx(0.475)
    assert calibration_error(np.full(10, 0.5), np.arange(10) % 2 == 0) == pytest.approx(0)
    assert calibration_error(np.full(10, 0.9), np.arange(10) < 6) == pytest.approx(0.3)


def test_rounding_above_one_is_no_bin_of_its_own():
    slightly_above = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0]], np.float32)
    assert calibration_error(slightly_above.max(1), np.array([True])) == pytest.approx(0, abs=1e-6)


def test_a_class_without_test_images_is_left_out_and_noted():
    probabilities, labels = classifier(400, 6)
    kept = labels != 2
    result = score(probabilities[kept], labels[kept], names(6))
    json.dumps(result, allow_nan=False)
    assert result["per_class"]["class 2"] == {"images": 0} | dict.fromkeys(MACRO)
    for name in MACRO:
        others = [scores[name] for key, scores in result["per_class"].items() if key != "class 2"]
        assert result[name] == pytest.approx(np.mean(others))
    (note,) = result["notes"]
    assert "without images" in note and note.endswith(": class 2")


def test_a_class_that_is_never_predicted_has_no_precision_and_no_hits():
    probabilities, labels = classifier(400, 6)
    probabilities[:, 4] = 0
    result = score(probabilities, labels, names(6))
    json.dumps(result, allow_nan=False)
    never = result["per_class"]["class 4"]
    assert never["precision_score"] == never["recall_score"] == never["f1_score"] == never["iou_score"] == 0
    for name, macro in (("precision_score", reference.precision_score), ("f1_score", reference.f1_score)):
        expected = macro(labels, probabilities.argmax(1), average="macro", zero_division=0)
        assert result[name] == pytest.approx(expected)
    (note,) = result["notes"]
    assert "never predicted" in note and note.endswith(": class 4")


@pytest.mark.parametrize("count", [2, 4, 100])
def test_a_perfect_classifier(count):
    labels = np.arange(3 * count) % count
    result = score(certain(labels, count), labels, names(count))
    assert all(result[name] == 1 for name in ("accuracy", *MACRO))
    assert result["expected_calibration_error"] == 0
    low, high = result["accuracy_interval_95"]
    assert 0 < low < high == pytest.approx(1)


def test_a_classifier_that_always_says_the_same():
    labels = np.arange(40) % 4
    result = score(certain([1] * 40, 4), labels, names(4))
    json.dumps(result, allow_nan=False)
    assert result["accuracy"] == 0.25
    assert result["precision_score"] == 0.25 / 4  # three classes are never predicted
    assert result["recall_score"] == 0.25
    assert result["auc_score"] == 0.5
    assert result["f1_score"] == pytest.approx(0.4 / 4)
    assert result["iou_score"] == pytest.approx(0.25 / 4)
    assert result["expected_calibration_error"] == 0.75
    assert len(result["notes"]) == 1


def test_a_calibrated_network_lies_within_the_error_by_chance():
    chance, inside = np.random.default_rng(1), 0
    for _ in range(200):
        logits = chance.normal(0, 2, (300, 4))
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        labels = (probabilities.cumsum(1) > chance.random((300, 1))).argmax(1)  # drawn as the network says
        low, high = calibration_error_by_chance(probabilities)
        inside += low <= calibration_error(probabilities.max(1), probabilities.argmax(1) == labels) <= high
    assert 182 <= inside <= 199  # of 190 expected, all but 1 in 1,000 times


@pytest.mark.parametrize("predicted", [[1] * 5, [0] * 5, [0, 1, 0, 1, 1]])
def test_test_images_of_one_class_only(predicted):
    result = score(certain(predicted, 3), np.ones(5, int), names(3))
    json.dumps(result, allow_nan=False)
    assert result["auc_score"] is None
    assert result["recall_score"] == result["accuracy"] == np.mean(np.array(predicted) == 1)


def test_one_test_image():
    result = score(certain([0], 3), np.array([2]), names(3))
    json.dumps(result, allow_nan=False)
    assert result["accuracy"] == 0 and result["images"] == 1
    assert result["precision_score"] == 0 and result["auc_score"] is None


@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([2, 4, 7]))
@settings(deadline=None, max_examples=30)
def test_nothing_is_ever_nan(seed, n, count):
    rng = np.random.default_rng(seed)
    probabilities = softmax(rng.normal(size=(n, count)) * rng.choice([0, 1, 100]), axis=1).astype(np.float32)
    result = score(probabilities, rng.integers(0, count, n), names(count))
    json.dumps(result, allow_nan=False)
    for name in ("accuracy", *MACRO):
        assert result[name] is None or 0 <= result[name] <= 1


def test_auc_comes_from_probabilities_not_from_decisions():
    probabilities, labels = classifier(2_000, 10, skill=2.0)
    hard = certain(probabilities.argmax(1), 10)
    auc = score(probabilities, labels, names(10))["auc_score"]
    auc_of_decisions = score(hard, labels, names(10))["auc_score"]
    recall = score(hard, labels, names(10))["recall_score"]
    assert auc > auc_of_decisions + 0.05
    assert auc_of_decisions < (1 + recall) / 2  # what decisions give: (1 + recall - false positive rate) / 2


def test_order_of_the_images_changes_nothing():
    probabilities, labels = classifier(300, 6)
    order = np.random.default_rng(1).permutation(300)
    one, other = (score(p, y, names(6)) for p, y in ((probabilities, labels), (probabilities[order], labels[order])))
    for name in ("accuracy", "top5_accuracy", "expected_calibration_error", *MACRO):
        assert one[name] == pytest.approx(other[name], abs=1e-12)


@pytest.mark.slow
def test_many_images_of_many_classes_are_scored_and_drawn_soon(tmp_path):
    """50,000 of 1,000: 1.3 and 2.9 s of one core of an AMD EPYC; the limits leave room for a slower one."""
    probabilities, labels = classifier(50_000, 1000)
    score(*classifier(50, 5), names(5))  # which imports what it needs
    plots.draw_confusion_matrix(tmp_path / "a.png", labels[:50] % 5, probabilities[:50, :5], names(5), "test")
    seconds = []
    for work in (
        lambda: score(probabilities, labels, names(1000)),
        lambda: plots.draw_confusion_matrix(tmp_path / "a.png", labels, probabilities, names(1000), "test"),
    ):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    print(f"scored in {seconds[0]:.1f} s, drawn in {seconds[1]:.1f} s")
    assert seconds[0] < 4 and seconds[1] < 6


def test_classes_that_are_equally_probable_share_the_last_places_among_five():
    probabilities = np.zeros((2, 8))
    probabilities[:, 0] = 1.0  # a network that is sure, and wrong: seven classes share four places
    assert score(probabilities, np.array([1, 2]), names(8))["top5_accuracy"] == pytest.approx(4 / 7)
