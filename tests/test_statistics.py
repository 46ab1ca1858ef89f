"""The numbers behind the verdicts of compare.py, beside those of other libraries and of plain simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, jaccard_score, log_loss, precision_score, recall_score

from common.evaluation.repeats import t_interval
from tools.comparing.estimates import (
    Arm,
    Estimate,
    difference,
    holm,
    interval_of_seeds_needed,
    luck_of_choosing,
    mcnemar,
    mean,
    seeds_needed,
)
from tools.comparing.predictions import Predictions, each_image

ONE, OTHER = [0.91, 0.92, 0.93, 0.9, 0.95], [0.9, 0.93, 0.89, 0.91, 0.92]


def arm(values, first_seed=0, moves=None):
    seeds = [str(seed) for seed in range(first_seed, first_seed + len(values))]
    return Arm(dict(zip(seeds, values, strict=True)), moves and dict(zip(seeds, moves, strict=True)))


def test_shared_seeds_are_paired():
    found, known = difference(arm(ONE), arm(OTHER)), stats.ttest_rel(ONE, OTHER)
    assert found.p() == pytest.approx(known.pvalue) and found.seeds == (5,)
    assert found.interval() == pytest.approx(tuple(known.confidence_interval(0.95)))
    part = difference(arm(ONE), arm(OTHER[3:], first_seed=3))  # those that both have, and no others
    assert part.value == pytest.approx(np.mean(ONE[3:]) - np.mean(OTHER[3:])) and part.seeds == (2,)


@pytest.mark.parametrize("first_seed", [4, 10])
def test_without_two_shared_seeds_it_is_welch(first_seed):
    found, known = difference(arm(ONE), arm(OTHER[:3], first_seed)), stats.ttest_ind(ONE, OTHER[:3], equal_var=False)
    assert found.p() == pytest.approx(known.pvalue) and found.seeds == (5, 3)
    assert found.interval() == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_without_a_spread_there_is_no_test():
    for one, other in (([1.0], [2.0, 3.0]), ([1, 1], [2, 2]), ([1], [2])):
        found = difference(arm(one), arm(other))
        assert found.p() is None and found.interval() is None and found.p_equivalent(0.1) is None
        assert seeds_needed(found) is None and interval_of_seeds_needed(found) == (None, None)
    assert t_interval([1]) is None
    assert t_interval(ONE) == pytest.approx(stats.t.interval(0.95, 4, np.mean(ONE), stats.sem(ONE)))


def crossed(seeds=6, images=200):
    """Return numbers (seeds, images) with a part of the seed, of the image, and of both together."""
    rng = np.random.default_rng(0)
    return 0.3 * rng.normal(size=(seeds, 1)) + 0.8 * rng.normal(size=images) + rng.normal(size=(seeds, images))


def arm_of(x):
    return arm(x.mean(axis=1).tolist(), moves=list((x - x.mean(axis=1, keepdims=True)) / x.shape[1]))


def test_the_same_images_for_all_seeds_add_what_an_analysis_of_variance_says():
    x = crossed()
    seeds, images = x.shape
    found, residual = mean(arm_of(x)), x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
    of_images = seeds * x.mean(axis=0).var(ddof=1)
    of_both = (residual**2).sum() / (seeds - 1) / (images - 1)
    assert found.of_images == pytest.approx((of_images - of_both) / seeds / images, rel=0.01)
    assert found.of_seeds == pytest.approx(x.mean(axis=1).var(ddof=1) / seeds)
    assert found.error**2 == pytest.approx(found.of_seeds + found.of_images)
    assert found.freedom < found.all_freedom


def test_other_images_for_each_seed_add_nothing_that_the_seeds_do_not_show():
    x = crossed()
    moves = np.zeros((*x.shape, len(x)))
    for seed, row in enumerate(x):
        moves[seed, :, seed] = (row - row.mean()) / len(row)
    found = mean(arm(x.mean(axis=1).tolist(), moves=list(moves.reshape(len(x), -1))))
    assert found.of_images == 0 and found.interval() == pytest.approx(t_interval(x.mean(axis=1).tolist()))


def test_images_that_are_as_hard_for_both_make_no_difference_uncertain():
    x = crossed()
    hard = 5 * np.random.default_rng(1).normal(size=x.shape[1])
    plain, harder = difference(arm_of(x[:3]), arm_of(x[3:])), difference(arm_of(x[:3] + hard), arm_of(x[3:] + hard))
    assert harder.of_images == pytest.approx(plain.of_images)
    others = {str(seed + 10): move for seed, move in arm_of(x[3:] + hard).moves.items() for seed in [int(seed)]}
    unpaired = difference(arm_of(x[:3] + hard), Arm(dict.fromkeys(others, 0.0) | {"10": 1.0}, others))
    assert unpaired.seeds == (3, 3) and 0 <= unpaired.of_images < 0.1 * mean(arm_of(x[:3] + hard)).of_images


def test_missing_predictions_are_told():
    some = arm_of(crossed())
    assert difference(some, Arm(some.values)).of_images is None and mean(Arm(some.values)).of_images is None


def test_equivalence_is_two_one_sided_tests():
    found, margin = difference(arm(ONE), arm(OTHER)), 0.05
    differences = np.subtract(ONE, OTHER)
    above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert found.p_equivalent(margin) == pytest.approx(max(above, below))


def test_what_luck_may_have_made_counts_for_nothing():
    lucky = difference(Arm(arm(ONE).values, None, 50, 0.01), Arm(arm(OTHER).values, None, 5, 0.5))
    plain = difference(arm(ONE), arm(OTHER))
    assert lucky.luck == 0.01 and lucky.value == plain.value
    assert (
        lucky.p() == pytest.approx(difference(arm([x - 0.01 for x in ONE]), arm(OTHER)).p()) and lucky.p() > plain.p()
    )
    assert lucky.interval() == pytest.approx((plain.interval()[0] - 0.01, plain.interval()[1]))
    turned = difference(Arm(arm(OTHER).values, None, 5, 0.5), Arm(arm(ONE).values, None, 50, 0.01))
    assert turned.p() == pytest.approx(lucky.p()) and turned.interval() == pytest.approx(
        tuple(-np.flip(lucky.interval()))
    )
    assert lucky.p_equivalent(0.05) == turned.p_equivalent(0.05) == plain.p_equivalent(0.05)
    behind = difference(Arm(arm(OTHER).values, None, 50, 0.01), Arm(arm(ONE).values, None, 5))
    assert behind.p() == pytest.approx(plain.p())  # the longer training is the worse one
    small = difference(Arm(arm(ONE).values, None, 50, 0.02), Arm(arm(OTHER).values, None, 5))
    assert small.p() == 1
    assert difference(Arm(arm(ONE).values, None, 50, 0.01), Arm(arm(OTHER).values, None, 50, 0.3)).luck == 0


@pytest.mark.parametrize(("seeds", "epochs"), [(3, 50), (5, 20), (10, 5)])
def test_the_luck_of_the_best_epoch(seeds, epochs):
    rng = np.random.default_rng(0)
    curves = rng.normal(size=(2000, seeds, epochs)) + 10 * rng.normal(size=(2000, seeds, 1))
    gained = np.mean([(one.mean(axis=0) - one.mean()).max() for one in curves])
    bound = np.mean([luck_of_choosing(one) for one in curves])
    assert 0.8 * gained < bound < 1.1 * gained  # of few seeds the deviation comes out too small
    assert luck_of_choosing(curves[0, :1]) == luck_of_choosing(curves[0, :, :1]) == 0


def test_published_numbers_of_seeds():
    # Cohen (1988), table 2.4.1: two-sided 5 %, power 80 %.
    for effect, count in ((0.5, 64), (0.8, 26), (1.0, 17)):
        assert seeds_needed(Estimate(effect, (5, 5), of_seeds=0.4, freedom=8, of_one_seed=2.0)) == count
    pair = Estimate(1.0, (5,), of_seeds=0.2, freedom=4, of_one_seed=1.0)
    assert seeds_needed(pair) == 10  # a paired t-test of an effect of 1
    assert seeds_needed(Estimate(1e-4, (5,), 0.2, 4, None, 1.0)) is None
    images = Estimate(1.0, (5,), 0.2, 4, 0.2, 1.0)
    assert seeds_needed(images) is None and seeds_needed(Estimate(1.0, (5,), 0.2, 4, 0.1, 1.0)) > 10


@pytest.mark.slow
def test_the_interval_of_the_seeds_needed():
    true, rng, hits = 12, np.random.default_rng(0), 0
    effect = next(e for e in np.arange(0.5, 2, 0.001) if seeds_needed(Estimate(e, (5,), 0.2, 4, None, 1.0)) == true)
    for _ in range(400):
        low, high = interval_of_seeds_needed(mean(arm((effect + rng.normal(size=6)).tolist())))
        hits += low <= true and (high is None or high >= true)
    assert 0.92 < hits / 400 <= 0.99


def test_small_statistics():
    assert mcnemar(1, 9) == pytest.approx(22 / 1024) and mcnemar(9, 1) == mcnemar(1, 9)
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def predictions(n=300, classes=6):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes - 1, n)  # the last class has no images
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    logits[:, 2] = -9  # never predicted
    odds = np.exp(logits)
    return Predictions(labels, (odds / odds.sum(1, keepdims=True)).astype(np.float32), np.arange(n))


@pytest.mark.parametrize(
    ("name", "known"),
    [("recall_score", recall_score), ("precision_score", precision_score), ("f1_score", f1_score),
     ("iou_score", jaccard_score)],
)  # fmt: skip
def test_each_image_has_its_part_in_a_score(name, known):
    one = predictions()
    parts, answers = each_image(name, one), one.probabilities.argmax(1)
    options = {"average": "macro", "labels": range(5), "zero_division": 0}
    score = known(one.labels, answers, **options)
    assert parts.mean() == pytest.approx(score)
    for image in range(0, 300, 30):  # what a little more weight of an image changes
        weights = np.ones(300)
        weights[image] += 1e-4
        slope = (known(one.labels, answers, sample_weight=weights, **options) - score) / 1e-4
        assert (parts[image] - score) / 300 == pytest.approx(slope, abs=2e-6)


def test_each_image_has_its_part_in_loss_and_accuracy():
    one = predictions()
    assert each_image("loss", one).mean() == pytest.approx(log_loss(one.labels, one.probabilities, labels=range(6)))
    assert each_image("accuracy", one).mean() == (one.probabilities.argmax(1) == one.labels).mean()
    assert each_image("auc_score", one) is None
