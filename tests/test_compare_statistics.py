"""What compare.py says of differences: intervals, corrections, verdicts, folds, margins and effects."""

import itertools
import json

import numpy as np
import pytest
from helpers import altered, curve, folds, many, overview_of, page_data, refusal_of_compare, run_compare, scored, table
from scipy import stats

from common.evaluation.repeats import t_interval
from tools.comparing.contrasts import in_plain_words, network_verdict, told, verdict
from tools.comparing.estimates import Arm, holm, interval_of_mean, mean
from tools.comparing.finished_runs import read_runs
from tools.comparing.overview import Question
from tools.comparing.overview import compare as compare_runs
from tools.comparing.predictions import Told, read_all_predictions
from tools.comparing.tables import write_markdown

pytestmark = pytest.mark.usefixtures("without_drawing")


def test_networks_are_compared_on_the_images_that_both_saw(outputs, real, tmp_path):
    overview = page_data(run_compare(outputs, "--out", tmp_path / "out") / "report.html")
    assert "pairs of one seed" in overview["contrasts"][0][2]
    one, two = (np.load(real[place] / "val_predictions.npz") for place in (0, 2))
    right = [file["probabilities"].argmax(1) == file["labels"] for file in (one, two)]
    runs, _ = read_runs([str(real[0]), str(real[2])])
    told = read_all_predictions(runs, "val_accuracy")
    [contrast] = compare_runs(runs, Question("val_accuracy"), told, []).contrasts
    [pair] = contrast.pairs
    alone = {int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())}
    assert {pair.only_one, pair.only_other} == alone and pair.images == len(right[0])
    assert pair.p == stats.binomtest(pair.only_one, sum(alone) if len(alone) > 1 else 2 * pair.only_one).pvalue
    assert (
        f"of {pair.images:,} validation images {pair.only_one} are correct in the one network alone"
        in network_verdict(contrast)
    )


def test_networks_are_not_compared_on_other_images(real, tmp_path):
    other = altered(real[2], tmp_path / "other")
    with np.load(real[2] / "val_predictions.npz") as file:
        np.savez(other / "val_predictions.npz", **dict(file) | {"ids": np.array([f"x{one}" for one in file["ids"]])})
    data = page_data(run_compare(real[0], other, "--out", tmp_path / "out") / "report.html")
    assert data["contrasts"][0][2] == "there are no images that both have been looked at on"


def test_a_clear_difference_is_significant_and_a_faint_one_is_not(real, tmp_path):
    for seed, (clear, faint, best) in enumerate([(0.5, 0.90, 0.91), (0.51, 0.93, 0.92), (0.525, 0.89, 0.93)]):
        for lr, accuracy in ((1.0, clear), (0.1, faint), (0.01, best)):
            scored(real[0], tmp_path / "runs" / f"{lr}-{seed}", accuracy, lr=lr, seed=seed)
    overview = overview_of(tmp_path / "runs")
    assert [group.settings for group in overview.groups] == [{"lr": "0.01"}, {"lr": "0.1"}, {"lr": "1"}]
    faint, clear = overview.contrasts
    assert clear.title == "group 1 (lr 0.01) against group 3 (lr 1)"
    p = stats.ttest_rel([0.91, 0.92, 0.93], [0.9, 0.93, 0.89]).pvalue
    assert (faint.p, faint.corrected_p) == (pytest.approx(p), 1) and not faint.is_significant
    assert "not significant at n = 3: this interval is too wide" in verdict(faint, "val_accuracy")
    assert clear.corrected_p == pytest.approx(3 * clear.p) and clear.is_significant
    assert verdict(clear, "val_accuracy").endswith(": significant")


@pytest.mark.parametrize(
    ("best", "other", "words"),
    [
        ([0.9], [0.8], "one seed allows no test; begin with 3 seeds each"),
        ([0.9, 0.92], [0.8], "one seed allows no test; begin with 3 seeds each"),
        ([0.9, 0.9], [0.8, 0.8], "every seed gave the same"),
        ([0.9, 0.9], [0.9, 0.9], "the means are equal"),
        ([0.9, 0.1], [0.8, 0.1999], "paired t p = 1: not significant at n = 2"),
        (
            [0.9, 0.1, 0.2, 0.3, 0.4],
            [0.8, 0.199, 0.2, 0.3, 0.4],
            "it would take thousands of seeds each (95 % interval ",
        ),
        ([0.9, 0.8, 0.7, 0.8, 0.9], [0.8, 0.9, 0.6, 0.8, 0.8], " seeds each (95 % interval 7 or more)"),
    ],
)
def test_verdicts_at_the_edges(real, tmp_path, best, other, words):
    for lr, values in ((0.1, best), (0.2, other)):
        for seed, accuracy in enumerate(values):
            scored(real[0], tmp_path / f"{lr}-{seed}", accuracy, lr=lr, seed=seed)
    [contrast] = overview_of(tmp_path).contrasts
    assert words in verdict(contrast, "val_accuracy")


def test_one_seed_counts_once(real, tmp_path):
    for number, (seed, accuracy) in enumerate([(0, 0.9), (0, 0.8), (1, 0.6)]):
        scored(real[0], tmp_path / str(number), accuracy, seed=seed)
    overview = overview_of(tmp_path)
    [group] = overview.groups
    assert group.values == pytest.approx([0.85, 0.6]) and group.mean == pytest.approx(0.725)
    assert any("1 run(s) repeat a seed" in note for note in overview.notes)


def test_folds_are_a_group_with_the_corrected_interval_and_paired_by_fold(real, tmp_path):
    ours, theirs = [0.91, 0.90, 0.93, 0.92, 0.95], [0.88, 0.89, 0.87, 0.9, 0.93]
    folds(real, tmp_path, a=ours, b=theirs)
    overview = overview_of(tmp_path)
    group, [contrast] = overview.groups[0], overview.contrasts
    assert sorted(group.values) == pytest.approx(sorted(ours)) and mean(group.arm).interval() == pytest.approx(
        t_interval(ours, 1 / 9)
    )
    differences = np.subtract(ours, theirs)
    assert contrast.estimate.interval() == pytest.approx(t_interval(differences, 1 / 9))
    t = differences.mean() / np.sqrt((1 / 5 + 1 / 9) * differences.var(ddof=1))  # Nadeau and Bengio, 2003
    assert contrast.p == pytest.approx(2 * stats.t.sf(t, 4))
    assert stats.ttest_rel(ours, theirs).pvalue < 0.05 < contrast.p
    said = verdict(contrast, "val_accuracy")
    assert "over 5 shared folds, paired t corrected for training images in common p = " in said and "seeds" not in said
    assert not [note for note in overview.notes if "repeat a seed" in note]
    write_markdown(tmp_path / "compare.md", overview, [])
    text = (tmp_path / "compare.md").read_text()
    assert "| 5 folds | 0.9220 |" in text and "Nadeau and Bengio" in text and "| 5/5 |" in text


def test_folds_are_not_paired_with_seeds_or_other_folds_and_get_no_advice_on_seeds(real, tmp_path):
    folds(real, tmp_path / "five", a=[0.91, 0.90, 0.93, 0.92, 0.95])
    folds(real, tmp_path / "six", a=[0.90, 0.92, 0.91, 0.94, 0.93, 0.92])
    many(real, tmp_path / "seeds", (lambda seed: 0.91 + NOISE[seed], {"lr": "a", "folds": None}), seeds=5)
    five, six = (
        next(one for one in overview_of(tmp_path / "five", tmp_path / other).contrasts) for other in ("six", "seeds")
    )
    assert not five.estimate.is_paired and "folds, Welch corrected" in verdict(five, "val_accuracy")
    assert "with 5 folds and 5 seeds, Welch corrected" in (said := verdict(six, "val_accuracy"))
    assert "it would take" not in said


@pytest.mark.parametrize("images", [None, {}, {"train": 0, "val": 3}, {"train": "a", "val": None}])
def test_folds_whose_images_are_unknown_share_all_that_they_can(real, tmp_path, images):
    folds(real, tmp_path, a=[0.91, 0.93])
    for path in tmp_path.glob("*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"images": images}))
    [group] = overview_of(tmp_path).groups
    assert mean(group.arm).interval() == pytest.approx(t_interval([0.91, 0.93], 1.0))


NOISE = [0.0, 0.01, -0.012, 0.004, 0.007]


def test_one_lucky_run_does_not_hide_what_there_is_to_say_of_the_others(real, tmp_path):
    many(real, tmp_path, (lambda s: 0.92 + NOISE[s], {"lr": 0.1}), (lambda s: 0.8 + NOISE[-s], {"lr": 0.2}))
    scored(real[0], tmp_path / "lucky", 0.97, lr=0.3, seed=0)
    overview = overview_of(tmp_path)
    assert overview.groups[0].settings == {"lr": "0.3"}
    lucky, clear = overview.contrasts
    assert lucky.title == "group 2 (lr 0.1) against group 1 (lr 0.3)" and "one seed allows no test" in verdict(
        lucky, ""
    )
    assert clear.title == "group 2 (lr 0.1) against group 3 (lr 0.2)" and clear.is_significant
    assert any("group 1 has one seed, which may be a lucky one" in note for note in overview.notes)


def test_the_best_is_corrected_for_all_pairs_and_the_baseline_for_its_tests(real, tmp_path):
    settings = [(lambda s, k=k: 0.9 - 0.01 * k + NOISE[(s + k) % 5], {"lr": 0.1 * k}) for k in range(1, 5)]
    many(real, tmp_path, *settings, seeds=5)
    best = overview_of(tmp_path).contrasts
    assert [one.other.number for one in best] == [2, 3, 4] and {one.family.count for one in best} == {6}
    assert [one.corrected_p for one in best] == pytest.approx([min(1, 6 * one.p) for one in best])
    named = overview_of(tmp_path, baseline="--lr=0.20").contrasts
    assert [(one.one.number, one.other.number) for one in named] == [(1, 2), (3, 2), (4, 2)]
    assert [one.corrected_p for one in named] == pytest.approx(holm([one.p for one in named]))
    assert named[0].estimate.value > 0 > named[1].estimate.value
    assert "for 3 tests" in verdict(named[0], "val_accuracy") and "for 6 pairs" in verdict(best[0], "val_accuracy")
    for same in (str(tmp_path / "1-0"), "lr=0.2"):
        assert [one.estimate for one in overview_of(tmp_path, baseline=same).contrasts] == [
            one.estimate for one in named
        ]


def test_a_baseline_that_is_none(real, tmp_path):
    for lr, dropout in ((0.1, 0.5), (0.1, 0.2), (0.2, 0.2)):
        scored(real[0], tmp_path / f"{lr}-{dropout}", 0.5, lr=lr, dropout=dropout)
    assert "no group is so" in refusal_of_compare(tmp_path, "--baseline", "lr=3")
    assert "2 groups of digits are so; say more of lr, dropout" in refusal_of_compare(tmp_path, "--baseline", "lr=0.1")
    assert "droput does not differ between the runs; did you mean dropout?" in refusal_of_compare(
        tmp_path, "--baseline", "droput=1"
    )
    assert "neither the folder of a run" in refusal_of_compare(tmp_path, "--baseline", "nowhere")
    assert not (tmp_path / "outputs").exists()


def test_a_margin_tells_equivalent_different_and_undecided(real, tmp_path):
    many(
        real, tmp_path,
        (lambda s: 0.9 + NOISE[s], {"lr": 0.1}),
        (lambda s: 0.8999 + NOISE[s] + 1e-4 * s, {"lr": 0.2}),
        (lambda s: 0.89 + NOISE[-s], {"lr": 0.3}),
        (lambda s: 0.5 + NOISE[s] - 1e-3 * s, {"lr": 0.4}),
    )  # fmt: skip
    overview = overview_of(tmp_path, margin=0.005)
    assert [one.equivalence for one in overview.contrasts] == ["equivalent", "undecided", "different"]
    assert "; equivalent (margin 0.005, p < 0.001)" in verdict(overview.contrasts[0], "val_accuracy")
    assert [one.equivalence for one in overview_of(tmp_path).contrasts] == [""] * 3


def test_options_have_an_effect_each(real, tmp_path, capsys):
    def accuracy(lr, dropout):
        return lambda seed: 0.7 + 0.1 * (lr > 0.1) - 0.02 * dropout + NOISE[seed] * (1 + 1e-3 * lr + 1e-3 * dropout)

    cells = [(accuracy(lr, dropout), {"lr": lr, "dropout": dropout}) for lr in (0.1, 1.0) for dropout in (0, 1)]
    many(real, tmp_path / "runs", *cells)
    folder = run_compare(tmp_path / "runs", "--out", tmp_path / "out", "--by", "lr,dropout")
    rows = table(folder / "compare_effects.csv")
    assert [row["effect"].split(",")[0] for row in rows] == ["lr 1 against 0.1", "dropout 1 against 0"]
    assert [float(row["difference"]) for row in rows] == pytest.approx([0.1, -0.02], abs=1e-4)
    assert all(float(row["difference_low"]) <= float(row["difference"]) for row in rows)
    assert "effect of lr 1 against 0.1, mean over 2 settings of the rest" in capsys.readouterr().out
    [first] = [one for one in overview_of(tmp_path / "runs", by=("lr",), baseline="lr=1,dropout=0").effects]
    assert first.title.startswith("lr 0.1 against 1") and first.estimate.value == pytest.approx(-0.1, abs=1e-4)
    run_compare(tmp_path / "runs", "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "compare_effects.csv").exists()


def test_more_epochs_to_choose_among_are_no_merit(real, tmp_path):
    chance = np.random.default_rng(0).normal(0.1, 0.025, (5, 60)).round(3).tolist()
    for seed, some in enumerate(chance):
        curve(real, tmp_path / "chance" / f"short{seed}", some[:5], seed=seed)
        curve(real, tmp_path / "chance" / f"long{seed}", some[10:], seed=seed)
    overview = overview_of(tmp_path / "chance")
    [one] = overview.contrasts
    best = [max(some[10:]) - max(some[:5]) for some in chance]
    assert stats.ttest_1samp(best, 0).pvalue < 0.05 and not one.is_significant and one.estimate.luck > 0
    assert any("different numbers of epochs to choose among" in note for note in overview.notes)
    assert sorted(group.arm.epochs for group in overview.groups) == [5, 50]
    mean = np.mean(chance, axis=0)
    assert [group.mean for group in overview.groups] == pytest.approx(sorted([max(mean[10:]), max(mean[:5])])[::-1])
    for seed, some in enumerate(chance):  # the same where there is something to learn
        curve(real, tmp_path / "better" / f"short{seed}", some[:5], seed=seed)
        curve(real, tmp_path / "better" / f"long{seed}", [one + 0.1 for one in some[10:]], seed=seed)
    assert overview_of(tmp_path / "better").contrasts[0].is_significant
    [loss] = overview_of(tmp_path / "chance", metric="val_loss").contrasts
    assert loss.estimate.luck == 0 and loss.p is None


def test_shares_stay_between_0_and_1(real, tmp_path):
    many(real, tmp_path, (lambda s: 0.99 - 0.3 * s, {"lr": 0.1}), (lambda s: 0.3 - 0.28 * s, {"lr": 0.2}), seeds=2)
    rows = table(run_compare(tmp_path, "--out", tmp_path / "out") / "compare_groups.csv")
    assert [(row["low"], row["high"]) for row in rows] == [("0.0", "1.0")] * 2
    assert all(-1 <= float(rows[1][name]) <= 1 for name in ("difference_low", "difference_high", "corrected_high"))


def test_the_interval_of_a_difference_is_for_new_images_too(outputs, real, tmp_path):
    runs, _ = read_runs([str(outputs)])
    told = read_all_predictions(runs, "test_accuracy")
    with_images = compare_runs(runs, Question("test_accuracy"), told, []).contrasts[0].estimate
    without = compare_runs(runs, Question("test_accuracy"), Told(), []).contrasts[0].estimate
    assert with_images.value == without.value and with_images.of_images > 0 and without.of_images is None
    assert with_images.error > without.error and set(told.moves) == set(runs)
    rows = table(run_compare(outputs, "--metric", "test_loss", "--out", tmp_path) / "compare_groups.csv")
    [row] = [row for row in rows if row["difference"]]
    assert row["covers"] == "seeds and images" and row["test"] == "paired t" and row["welch_p"] == ""
    rows = table(run_compare(outputs, "--metric", "auc_score", "--out", tmp_path) / "compare_groups.csv")
    [row] = [row for row in rows if row["difference"]]
    assert row["covers"] == "seeds"


def test_the_interval_that_covers_more_is_never_narrower():
    """Of 3 seeds the images would make it shorter, as they add degrees of freedom."""
    values = {"0": 0.70, "1": 0.72, "2": 0.74}
    moves = np.random.default_rng(0).normal(0, 0.0005, (3, 100)) + np.linspace(-0.001, 0.001, 100)
    arm = Arm(values, dict(zip(values, moves, strict=True)))
    (low, high), alone = mean(arm).interval(), t_interval(list(values.values()))
    assert high - low < alone[1] - alone[0]
    assert interval_of_mean(arm) == pytest.approx(alone)
    wide = Arm(values, dict(zip(values, 30 * moves, strict=True)))
    assert interval_of_mean(wide) == pytest.approx(mean(wide).interval())
    assert interval_of_mean(Arm({"0": 0.7})) is None


def test_a_comparison_ends_with_a_plain_sentence(real, tmp_path, capsys):
    pairs = [(0.93, 0.90), (0.94, 0.92), (0.95, 0.915)]
    for seed, (good, bad) in enumerate(pairs):
        for batch_norm, accuracy in ((True, good), (False, bad)):
            scored(real[0], tmp_path / "runs" / f"{batch_norm}-{seed}", accuracy, batch_norm=batch_norm, seed=seed)
    [contrast] = overview_of(tmp_path / "runs", baseline="batch_norm=true").contrasts
    low, high = contrast.estimate.interval()
    sentence = (
        f"with batch_norm false validation accuracy is lower by {-100 * high:.1f} to {-100 * low:.1f} points than with "
        "batch_norm true"
    )
    assert in_plain_words(contrast, "val_accuracy") == sentence
    assert told(contrast, "val_accuracy")[-1] == sentence
    run_compare(tmp_path / "runs", "--baseline", "batch_norm=true", "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert sentence in said and "low to high: 95 % interval of the mean, for new seeds and new images" in said
    assert sentence.replace("_", r"\_") in (tmp_path / "out" / "compare.md").read_text()
    assert sentence in page_data(tmp_path / "out" / "report.html")["contrasts"][0][1]


@pytest.mark.parametrize(
    ("other", "margin", "is_too_wide"),
    [([0.9, 0.95, 0.91], None, True), ([0.9301, 0.9302, 0.9296], None, False), ([0.9, 0.95, 0.91], 0.3, False),
     ([0.9301, 0.9302, 0.9296], 0.0001, True)],
)  # fmt: skip
def test_few_seeds_are_told_when_their_interval_decides_nothing(real, tmp_path, other, margin, is_too_wide):
    for lr, values in ((0.1, [0.93, 0.93, 0.93]), (0.2, other)):
        for seed, accuracy in enumerate(values):
            scored(real[0], tmp_path / f"{lr}-{seed}", accuracy, lr=lr, seed=seed)
    [contrast] = overview_of(tmp_path, margin=margin).contrasts
    said = verdict(contrast, "val_accuracy")
    assert "not significant at n = 3" in said
    assert ("not significant at n = 3: this interval is too wide to decide" in said) == is_too_wide
    assert "may be lower by up to " in in_plain_words(contrast, "val_accuracy")


def test_of_several_data_sets_each_line_says_which(real, tmp_path, capsys):
    for name in ("digits", "letters"):
        for lr, dropout in itertools.product((0.1, 0.2), (0.0, 0.5)):
            for seed in range(2):
                folder, config = tmp_path / f"{name}-{lr}-{dropout}-{seed}", {"dataset": name}
                scored(real[0], folder, 0.5 + lr, config=config, lr=lr, dropout=dropout, seed=seed)
    overview = overview_of(tmp_path, by=("lr",))
    titles = [one.title for one in (*overview.contrasts, *overview.effects)]
    assert overview.effects and len(set(titles)) == len(titles)
    assert all("digits" in one or "letters" in one for one in titles)
    run_compare(tmp_path, "--baseline", tmp_path / "digits-0.1-0.0-0", "--out", tmp_path / "out")
    said = capsys.readouterr().out.partition("each change from the baseline:")[2]
    assert "lr 0.2, digits" in said
    verdicts = [line for line in said.splitlines() if line.startswith("group ") and line.endswith(", letters")]
    assert len(verdicts) == 3  # of the best there, as nobody has named one
