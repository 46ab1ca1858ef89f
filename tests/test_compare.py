import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, command, made_once, read, small_run, table
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from matplotlib.container import ErrorbarContainer
from PIL import Image
from scipy import stats

import compare
from common.evaluation.repeats import t_interval
from common.system.errors import BadInput
from tools.comparing import report
from tools.comparing.contrasts import in_plain_words, network_verdict, told, verdict
from tools.comparing.estimates import Arm, holm, interval_of_mean, mean
from tools.comparing.finished_runs import FinishedRun, PassedOver, _labels, read_runs
from tools.comparing.groups import differing_options
from tools.comparing.overlays import _curves_of, draw_pictures, side_by_side
from tools.comparing.overview import Question
from tools.comparing.overview import compare as compare_runs
from tools.comparing.predictions import Told, mistakes_of, read_all_predictions, read_predictions
from tools.comparing.report import write_report
from tools.comparing.tables import write_csvs, write_latex, write_markdown

FILES = {"report.html", "compare.md", "compare.tex", "compare.csv", "compare_groups.csv"}
CURVES = {"loss.png", "accuracy.png", "accuracy_by_time.png"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$\\frac{$",
    "a|b`c`*d*\n# e",
    "\udcff\x1b[31m",
    "=cmd|' /C calc'!A0",
    "</script><script>alert(1)</script>",
    "\u2028\u2029]]>",
    "日本 🦊",
    "n" * 3000,
]


@pytest.fixture
def drawn():
    """Asks for pictures, which take longer than all else."""


@pytest.fixture(autouse=True)
def without_drawing(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("common.figures.save_figure", lambda *arguments: None)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Four runs on digits: two learning rates with two seeds each."""

    def make(folder):
        for lr in ("0.001", "0.01"):
            for seed in ("0", "1"):
                small_run(folder / "outputs", "-lr", lr, "--seed", seed, "--precision", "fp32")

    return made_once(tmp_path_factory, "four_runs", make) / "outputs"


@pytest.fixture(scope="module")
def real(outputs):
    """The folders of the four runs, in the order in which they were made."""
    return sorted(outputs.glob("*/*/*"))


def altered(run, folder, config=(), train=(), test=(), **options):
    """Copy the JSON files and predictions of `run` to `folder`, with changes; an option that is ... is left out."""
    folder.mkdir(parents=True)
    old = read(run, "config.json")
    kept = {name: value for name, value in (old["options"] | options).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(old | {"options": kept} | dict(config)))
    (folder / "train.json").write_text(json.dumps(read(run, "train.json") | dict(train)))
    if test is not None:
        (folder / "test.json").write_text(json.dumps(read(run, "test.json") | dict(test)))
        (folder / "val_predictions.npz").write_bytes((run / "val_predictions.npz").read_bytes())
    return folder


def scored(run, folder, accuracy, **options):
    """Copy a run with another best validation accuracy."""
    record = read(run, "train.json")["epochs"][0] | {"val_accuracy": accuracy}
    return altered(run, folder, train={"epochs": [record], "best_epoch": 1, "best_val_accuracy": accuracy}, **options)


def main(*words):
    return compare.main([str(word) for word in words])


def refusal(*words):
    with pytest.raises(BadInput) as error:
        main(*words)
    return str(error.value)


def page_data(path):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(text)


def overview_of(*folders, metric="val_accuracy", **wishes):
    runs, _ = read_runs([str(folder) for folder in folders])
    return compare_runs(runs, Question(metric, **wishes), Told(), [])


def read_mistakes(path, classes):
    predictions = read_predictions(path, len(classes))
    return predictions and mistakes_of(predictions, classes, "validation")


@pytest.mark.slow
def test_the_command(outputs, real, tmp_path):
    before = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    result = command(ROOT / "compare.py", outputs, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    [folder] = tmp_path.glob("outputs/compare/*")
    assert {path.name for path in folder.iterdir()} == FILES | CURVES | {"by_lr.png", "differences.png"}
    assert f"written to {folder.relative_to(tmp_path)}" in result.stdout
    best = {run.name: read(run, "train.json")["best_val_accuracy"] for run in real}
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == sorted(best, key=lambda name: (-best[name], name))
    rows = table(folder / "compare.csv")
    assert [float(row["val_accuracy"]) for row in rows] == sorted(best.values(), reverse=True)
    assert {row["lr"] for row in rows} == {"0.001", "0.01"} and {row["seed"] for row in rows} == {"0", "1"}
    assert before == {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}


def test_groups_have_mean_std_and_interval_over_seeds(outputs, real, tmp_path):
    rows = table(main(outputs, "--out", tmp_path / "out") / "compare_groups.csv")
    assert [row["seeds"] for row in rows] == ["2", "2"]
    of_lr = {}
    for run in real:
        lr = str(read(run, "config.json")["options"]["lr"])
        of_lr.setdefault(lr, []).append(read(run, "train.json")["best_val_accuracy"])
    for row in rows:
        values = of_lr[row["lr"]]
        assert float(row["mean val_accuracy"]) == pytest.approx(np.mean(values))
        assert float(row["std"]) == pytest.approx(np.std(values, ddof=1))
        low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
        assert float(row["low"]) == pytest.approx(max(0, low), abs=0.05)  # the two seeds share a few images
        assert float(row["high"]) == pytest.approx(min(1, high), abs=0.05)
    assert float(rows[0]["mean val_accuracy"]) >= float(rows[1]["mean val_accuracy"])


def test_networks_are_compared_on_the_images_that_both_saw(outputs, real, tmp_path):
    overview = page_data(main(outputs, "--out", tmp_path / "out") / "report.html")
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
    data = page_data(main(real[0], other, "--out", tmp_path / "out") / "report.html")
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


def test_what_an_automatic_precision_became_is_compared(real, tmp_path):
    machine = read(real[0], "config.json")["machine"]
    for number, (asked, became) in enumerate([("auto", "fp32"), ("auto", "bf16"), ("bf16", "bf16")]):
        altered(real[number % 2], tmp_path / str(number), {"machine": machine | {"precision": became}}, precision=asked)
    groups = overview_of(tmp_path).groups
    assert {group.settings["precision"]: len(group.runs) for group in groups} == {"fp32": 1, "bf16": 2}


def folds(real, folder, **values):
    """Copy a run for each fold of cross-validations, by learning rate; 270 images train and 30 validate."""
    for lr, accuracies in values.items():
        for number, accuracy in enumerate(accuracies, 1):
            options = {"lr": lr, "folds": f"{number}/{len(accuracies)}", "split_seed": 0, "seed": 0}
            images = {"images": {"train": 270, "val": 30, "test": 0}}
            scored(real[0], folder / f"{lr}-{number}", accuracy, config=images, **options)


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


@pytest.mark.parametrize(("without", "is_told"), [(0.8, True), (0.89, False), (None, False)])
def test_accuracy_without_copies_is_told_where_copies_made_a_difference(real, tmp_path, without, is_told):
    test = {"accuracy": 0.9, "accuracy_interval_95": [0.88, 0.92], "accuracy_without_copies": {"accuracy": without}}
    altered(real[0], tmp_path / "one", test=test)
    altered(real[1], tmp_path / "old", test={"accuracy_without_copies": None})
    overview = overview_of(tmp_path)
    said = "test_accuracy of 1 run(s) is further from accuracy_without_copies than its interval is wide to either side"
    assert any(said in note and "0.9000 instead of 0.8000" in note for note in overview.notes) == is_told
    write_csvs(tmp_path, overview)
    found = [row.get("accuracy_without_copies") for row in table(tmp_path / "compare.csv")]
    assert sorted(filter(None, found)) == ([str(without)] if without else [])


def many(real, folder, *settings, seeds=3):
    """Copy a run for each seed and each of the `settings` (accuracy of the seed, options)."""
    for number, (accuracy, options) in enumerate(settings):
        for seed in range(seeds):
            scored(real[0], folder / f"{number}-{seed}", accuracy(seed), seed=seed, **options)


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
    assert "no group is so" in refusal(tmp_path, "--baseline", "lr=3")
    assert "2 groups of digits are so; say more of lr, dropout" in refusal(tmp_path, "--baseline", "lr=0.1")
    assert "droput does not differ between the runs; did you mean dropout?" in refusal(
        tmp_path, "--baseline", "droput=1"
    )
    assert "neither the folder of a run" in refusal(tmp_path, "--baseline", "nowhere")
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
    folder = main(tmp_path / "runs", "--out", tmp_path / "out", "--by", "lr,dropout")
    rows = table(folder / "compare_effects.csv")
    assert [row["effect"].split(",")[0] for row in rows] == ["lr 1 against 0.1", "dropout 1 against 0"]
    assert [float(row["difference"]) for row in rows] == pytest.approx([0.1, -0.02], abs=1e-4)
    assert all(float(row["difference_low"]) <= float(row["difference"]) for row in rows)
    assert "effect of lr 1 against 0.1, mean over 2 settings of the rest" in capsys.readouterr().out
    [first] = [one for one in overview_of(tmp_path / "runs", by=("lr",), baseline="lr=1,dropout=0").effects]
    assert first.title.startswith("lr 0.1 against 1") and first.estimate.value == pytest.approx(-0.1, abs=1e-4)
    main(tmp_path / "runs", "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "compare_effects.csv").exists()


def curve(real, folder, accuracies, **options):
    records = [{"epoch": epoch, "val_accuracy": one, "val_loss": 1.0} for epoch, one in enumerate(accuracies, 1)]
    best = max(accuracies)
    train = {"epochs": records, "best_epoch": accuracies.index(best) + 1, "best_val_accuracy": best}
    return altered(real[0], folder, train=train, epochs=len(accuracies), **options)


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
    rows = table(main(tmp_path, "--out", tmp_path / "out") / "compare_groups.csv")
    assert [(row["low"], row["high"]) for row in rows] == [("0.0", "1.0")] * 2
    assert all(-1 <= float(rows[1][name]) <= 1 for name in ("difference_low", "difference_high", "corrected_high"))


@pytest.mark.parametrize("name", ["test.json", "validation.json"])
def test_scores_that_do_not_follow_from_the_predictions_are_named(outputs, real, tmp_path, capsys, name):
    shutil.copytree(real[0], tmp_path / "run")
    assert "does not follow" not in main(outputs, "--out", tmp_path / "out").joinpath("compare.md").read_text()
    (tmp_path / "run" / name).write_text(json.dumps(read(real[0], name) | {"accuracy": 0.99}))
    text = main(tmp_path / "run", "--out", tmp_path / "out").joinpath("compare.md").read_text()
    assert f"run: {name} does not follow from the predictions: accuracy 0.99, but its".replace("_", "\\_") in text
    (tmp_path / "run" / name).write_text(json.dumps(read(real[0], name) | {"loss": 0.0, "f1_score": None}))
    assert (
        "predictions: loss 0, but"
        in main(tmp_path / "run", "--out", tmp_path / "out").joinpath("compare.md").read_text()
    )


def test_the_interval_of_a_difference_is_for_new_images_too(outputs, real, tmp_path):
    runs, _ = read_runs([str(outputs)])
    told = read_all_predictions(runs, "test_accuracy")
    with_images = compare_runs(runs, Question("test_accuracy"), told, []).contrasts[0].estimate
    without = compare_runs(runs, Question("test_accuracy"), Told(), []).contrasts[0].estimate
    assert with_images.value == without.value and with_images.of_images > 0 and without.of_images is None
    assert with_images.error > without.error and set(told.moves) == set(runs)
    [row] = [row for row in table(main(outputs, "--metric", "test_loss", "--out", tmp_path) / "compare_groups.csv")
             if row["difference"]]  # fmt: skip
    assert row["covers"] == "seeds and images" and row["test"] == "paired t" and row["welch_p"] == ""
    [row] = [row for row in table(main(outputs, "--metric", "auc_score", "--out", tmp_path) / "compare_groups.csv")
             if row["difference"]]  # fmt: skip
    assert row["covers"] == "seeds"


def test_curves_are_means_as_far_as_all_runs_go(real, tmp_path):
    for seed, some in enumerate([[0.1, 0.2, 0.3], [0.3, 0.5]]):
        curve(real, tmp_path / str(seed), some, seed=seed)
    runs, _ = read_runs([str(tmp_path)])
    places, values = _curves_of(runs, "val_accuracy", by_time=False)
    assert places.tolist() == [1, 2] and values.tolist() == [[0.1, 0.3], [0.2, 0.5]]
    assert len(_curves_of(runs, "train_accuracy", by_time=False)[0]) == 0


def test_options_that_change_nothing_do_not_split_groups(real, tmp_path):
    same = {
        "workers": 9,
        "output_dir": "elsewhere",
        "print_every": 3,
        "save_every": 1,
        "wandb_project": "x",
        "data": "y",
    }
    altered(real[0], tmp_path / "a")
    altered(real[0], tmp_path / "b", seed=1, **same)
    overview = overview_of(tmp_path)
    assert overview.options == {} and len(overview.groups) == 1


def test_an_older_run_has_switched_off_what_it_does_not_know(real, tmp_path):
    altered(real[0], tmp_path / "old", mixup=...)
    altered(real[0], tmp_path / "new", mixup=0.0, seed=1)
    assert len(overview_of(tmp_path).groups) == 1
    altered(real[0], tmp_path / "mixed", mixup=0.2, seed=1)
    overview = overview_of(tmp_path)
    assert sorted(len(group.runs) for group in overview.groups) == [1, 2]
    assert set(overview.options) == {"mixup"}


def test_what_another_script_does_not_know_is_no_difference(real, tmp_path):
    altered(real[0], tmp_path / "a")
    altered(real[0], tmp_path / "b", config={"script": "ex_0"}, wide=3)
    overview = overview_of(tmp_path)
    assert overview.options == {} and {group.settings["script"] for group in overview.groups} == {"ex_1", "ex_0"}
    altered(real[0], tmp_path / "c", config={"script": "ex_0"}, wide=4)
    [values] = overview_of(tmp_path).options.values()
    assert {3, 4} < set(values.values())


def test_equal_values_are_equal_however_they_are_written(real, tmp_path):
    for number, value in enumerate((1, 1.0, True, "1", [1])):
        altered(real[0], tmp_path / str(number), dropout=value)
    assert len(overview_of(tmp_path).groups) == 4


def test_the_data_set_of_folders_is_the_last_part_of_their_path(real, tmp_path):
    altered(real[0], tmp_path / "a", config={"dataset": "folder"}, data="/somewhere/birds/")
    altered(real[0], tmp_path / "b", config={"dataset": "folder"}, data="C:\\there\\birds")
    altered(real[0], tmp_path / "c", config={"dataset": "folder"}, data="/somewhere/bees")
    overview = overview_of(tmp_path)
    assert sorted((group.dataset, len(group.runs)) for group in overview.groups) == [("bees", 1), ("birds", 2)]
    assert any("2 data sets (bees, birds)" in note for note in overview.notes) and not overview.contrasts


def test_other_images_under_one_name_and_seed_are_noted(real, tmp_path):
    altered(real[0], tmp_path / "a")
    altered(real[0], tmp_path / "b", config={"split_sha256": "other"}, lr=0.5)
    assert any("have not had the same images" in note for note in overview_of(tmp_path).notes)
    assert not any("same images" in note for note in overview_of(tmp_path / "a").notes)
    altered(real[0], tmp_path / "fewer", config={"split_sha256": "other"}, limit=100)
    assert not any("same images" in note for note in overview_of(tmp_path / "a", tmp_path / "fewer").notes)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train.json", '{"status": "finished", "epo', "train.json is damaged: it is not JSON"),
        ("train.json", "[" * 100_000, "train.json is damaged: it is not JSON"),
        ("train.json", "[]", "train.json is damaged: it holds no object"),
        ("train.json", '{"status": "finished", "epochs": 3}', "damaged"),
        ("train.json", '{"status": "finished", "epochs": [3]}', "damaged"),
        ("train.json", '{"status": "done", "epochs": []}', "damaged: train.json does not say how the run ended"),
        ("train.json", '{"status": "running", "epochs": [{}, {}]}', "running, or killed, after 2 epoch(s)"),
        ("train.json", '{"status": "interrupted", "epochs": [{}]}', "interrupted, after 1 epoch(s)"),
        ("train.json", None, "there is no train.json"),
        ("config.json", None, "there is no config.json"),
        ("config.json", '"none"', "config.json is damaged: it holds no object"),
        ("config.json", '{"model_type": "bert"}', "foreign"),
        ("config.json", '{"script": 1, "dataset": "d", "classes": [], "options": {}}', "foreign"),
        ("test.json", "{", "test.json is damaged: it is not JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_named_and_passed_over(real, tmp_path, capsys, name, content, reason):
    bad = altered(real[1], tmp_path / "bad")
    if content is None:
        (bad / name).unlink()
    else:
        (bad / name).write_text(content)
    folder = main(real[0], tmp_path, "--out", tmp_path / "out")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("passed over")]
    assert "bad" in line and reason in line
    assert reason in (folder / "compare.md").read_text() and page_data(folder / "report.html")["passed"]
    assert len(table(folder / "compare.csv")) == 1
    assert "no finished run" in refusal(bad) and reason in refusal(bad)


def test_a_look_at_the_data_is_no_training(real, tmp_path, capsys):
    (tmp_path / "explore").mkdir()
    (tmp_path / "explore" / "config.json").write_bytes((real[0] / "config.json").read_bytes())
    (tmp_path / "explore" / "explore.json").write_text("{}")
    main(real[0], tmp_path / "explore", "--out", tmp_path / "out")
    assert "explore: no training, but a look at the data or the speed" in capsys.readouterr().out


def test_diverged_runs_are_rows_without_a_score(real, tmp_path, capsys):
    diverged = {"status": "diverged", "epochs": [], "best_epoch": None, "best_val_accuracy": None, "train_time": 0}
    altered(real[0], tmp_path / "runs" / "b", lr=1.0, train=diverged)
    altered(real[0], tmp_path / "runs" / "c", seed=5, train=diverged)
    assert "diverged" in refusal(tmp_path / "runs")
    folder = main(real[0], tmp_path / "runs", "--out", tmp_path / "out")
    rows = table(folder / "compare.csv")
    assert [row["status"] for row in rows] == ["finished", "diverged", "diverged"]
    assert rows[1]["val_accuracy"] == rows[2]["val_accuracy"] == ""
    groups = {row["lr"]: row for row in table(folder / "compare_groups.csv")}
    assert (groups["0.001"]["seeds"], groups["0.001"]["diverged"]) == ("1", "1")
    assert (groups["1"]["seeds"], groups["1"]["diverged"]) == ("0", "1")


def test_without_a_test_its_columns_are_blank(real, tmp_path):
    altered(real[0], tmp_path / "trial", test=None, lr=0.5)
    rows = table(main(real[0], tmp_path / "trial", "--out", tmp_path / "out") / "compare.csv")
    assert sorted(bool(row["test_accuracy"]) for row in rows) == [False, True]
    rows = table(main(tmp_path / "trial", "--out", tmp_path / "out") / "compare.csv")
    assert "test_accuracy" not in rows[0]


@pytest.mark.slow
def test_locations(outputs, real, tmp_path, capsys, monkeypatch):
    def found(*words):
        return len(table(main(*words, "--out", tmp_path / "out") / "compare.csv"))

    assert found(real[0]) == 1
    assert found(f"{outputs}/*/digits/*") == 4
    assert found(f"{outputs}/**/{real[1].name}") == 1
    assert found(real[0], real[0] / ".." / real[0].name, outputs) == 4
    loop = tmp_path / "links"
    loop.mkdir()
    (loop / "loop").symlink_to(loop)
    (loop / "up").symlink_to(tmp_path)
    (loop / "runs").symlink_to(outputs)
    assert found(loop) == 4
    (loop / ".hidden").mkdir()
    altered(real[0], loop / ".hidden" / "run")
    assert found(loop) == 4
    capsys.readouterr()
    assert found(real[0], ROOT / "README.md") == 1
    assert "README.md: a file, no folder" in capsys.readouterr().out
    assert "nowhere: there is no such folder" in refusal(tmp_path / "nowhere")
    assert "no*where: there is no such folder" in refusal(tmp_path / "no*where")
    (tmp_path / "empty").mkdir()
    assert "no finished run" in refusal(tmp_path / "empty")
    monkeypatch.chdir(outputs.parent)
    assert found() == 4
    monkeypatch.chdir(tmp_path / "empty")
    assert "outputs: there is no such folder" in refusal()
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["o/ex_1/digits/1", "o/ex_1/digits/2"], ["1", "2"]),
        (["h/Anna Müller/out/ex_1/digits/1", "h/Ben/out/ex_1/digits/2"], ["Anna Müller/1", "Ben/2"]),
        (["h/Anna/ex_1/digits/1", "h/Ben/my/out/ex_1/digits/1"], ["Anna/1", "Ben/1"]),
        (["o/ex_1/digits/1", "o/ex_2/mnist/1", "o/ex_2/mnist/2"], ["ex_1/1", "ex_2/1", "ex_2/2"]),
        (["s/trials/3/ex_1/digits/1", "s/trials/12/ex_1/digits/1"], ["3/1", "12/1"]),
        (["h/Anna/ex_1/digits/1", "h/Ben/ex_1/digits/1", "o/ex_1/digits/1"], ["h/Anna/1", "h/Ben/1", "o/1"]),
        (["a/b/1", "b/a/1"], ["a/b/1", "b/a/1"]),
        (["o"], ["o"]),
        ([], []),
    ],
)  # fmt: skip
def test_the_name_of_a_run_tells_it_from_the_others_and_whose_it_is(paths, names):
    assert _labels([Path("/", path) for path in paths]) == names


def test_hand_ins_of_several_people_are_named_everywhere(real, tmp_path, capsys, monkeypatch):
    """One of them has a name too long for a table, of which the beginning and the time are left."""
    times = "2026-11-30_03-21-14", "2026-11-30_03-21-15"
    people = "Anna Müller", "Benjamin Schmidt_123456_assignsubmission_file"
    for person, time_of_run, lr in zip(people, times, (0.1, 0.2), strict=True):
        scored(real[0], tmp_path / "in" / person / "hand_in" / "ex_1" / "digits" / time_of_run, 0.9 - lr, lr=lr)
    saved = {}
    monkeypatch.setattr("common.figures.save_figure", lambda figure, path, title="": saved.update({path.name: figure}))
    folder = main(tmp_path / "in", "--out", tmp_path / "out")
    names = [f"{person}/{time_of_run}" for person, time_of_run in zip(people, times, strict=True)]
    cells = [names[0], "Benjamin Schmid…file/2026-11-30_03-21-15"]
    data, printed = page_data(folder / "report.html"), capsys.readouterr().out.splitlines()
    assert [run["label"] for run in data["runs"]] == [row["run"] for row in table(folder / "compare.csv")] == names
    assert data["columns"][0]["texts"] == cells and [len(cell) <= 40 for cell in cells] == [True, True]
    assert all(line.startswith(cell) for line, cell in zip(printed[1:3], cells, strict=True))
    assert data["legend"] == [f"1: lr 0.1 ({names[0]})", f"2: lr 0.2 ({names[1]})"]
    legend = [text.get_text() for text in saved["loss.png"].legends[0].get_texts()][:2]
    assert legend[0] == data["legend"][0] and legend[1].startswith("2: lr 0.2 (Benjamin Schmidt_")
    scored(real[0], tmp_path / "in" / people[0] / "hand_in" / "ex_1" / "digits" / "later", 0.8, lr=0.1, seed=1)
    data = page_data(main(tmp_path / "in", "--out", tmp_path / "out") / "report.html")
    assert data["legend"][0] == "1: lr 0.1 (Anna Müller, 2 runs)"


@pytest.mark.slow
def test_metric_sorts_and_says_when_it_spoils_the_test(outputs, real, tmp_path, capsys):
    def order(metric):
        rows = table(main(outputs, "--metric", metric, "--out", tmp_path / "out") / "compare.csv")
        return [float(row[metric.replace("-", "_")]) for row in rows]

    losses = order("val_loss")
    assert losses == sorted(losses) and "no honest estimate" not in capsys.readouterr().out
    scores = order("f1-score")
    assert scores == sorted(scores, reverse=True) and "f1_score is of the test images" in capsys.readouterr().out
    accuracies = order("test_accuracy")
    assert accuracies == sorted((read(run, "test.json")["accuracy"] for run in real), reverse=True)
    assert "did you mean val_accuracy?" in refusal(outputs, "--metric", "val_acuracy")


@pytest.mark.slow
def test_by_draws_against_an_option(outputs, real, tmp_path, drawn):
    altered(real[0], tmp_path / "runs" / "a", dropout=0.5)
    out = tmp_path / "out"
    assert not list(main(outputs, tmp_path / "runs", "--out", out).glob("by_*"))
    assert [path.name for path in main(outputs, tmp_path / "runs", "--out", out, "--by", "lr").glob("by_*")] == [
        "by_lr.png"
    ]
    assert "did you mean dropout?; these differ: lr" in refusal(outputs, "--by", "dropuot")
    assert "it is 128 in all runs" in refusal(outputs, "--by", "--batch-size".replace("--", ""))
    assert "does not make runs different" in refusal(outputs, "--by", "workers")


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        [1e-5, 1e-1],
        [1, 2, None],
        ["a", "b" * 500],
        pytest.param([[1, 2], [3]], marks=pytest.mark.slow),
        pytest.param([True, False], marks=pytest.mark.slow),
        pytest.param([0, 5], marks=pytest.mark.slow),
    ],
)
def test_pictures_against_any_kind_of_option(real, tmp_path, drawn, values):
    for number, value in enumerate(values):
        altered(real[0], tmp_path / "runs" / str(number), choice=value, config={"split_sha256": "a"})
    with Image.open(main(tmp_path / "runs", "--out", tmp_path / "out") / "by_choice.png") as image:
        assert image.width > 500


@pytest.mark.slow
def test_an_option_from_a_file_names_no_file_elsewhere(real, tmp_path, drawn):
    for number in range(2):
        altered(real[0], tmp_path / "runs" / str(number), **{"../../x y": number})
    folder = main(tmp_path / "runs", "--out", tmp_path / "deep" / "out")
    assert "by_______x_y.png" in os.listdir(folder)


def test_out_replaces_an_older_comparison_and_nothing_else(real, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert main(real[0], "--out", out) == out
    (out / "mine.txt").write_text("mine")
    assert main(real[1], "--out", out) == out and (out / "mine.txt").exists()
    assert table(out / "compare.csv")[0]["run"] == real[1].name
    (tmp_path / "loss.png").write_bytes(b"mine")
    assert "has a loss.png that is no comparison's" in refusal(real[0], "--out", tmp_path)
    assert "config.json" in refusal(real[0], "--out", real[0])
    assert "is no folder" in refusal(real[0], "--out", tmp_path / "loss.png")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<p>mine</p>")
    assert "has a report.html" in refusal(real[0], "--out", tmp_path / "report")
    assert (tmp_path / "loss.png").read_bytes() == b"mine"


def test_two_comparisons_in_one_second_get_two_folders(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compare.time.strftime", lambda form: "now")
    assert [main(real[0]).name for _ in range(2)] == ["now", "now-2"]


# --- predictions.npz


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def good_arrays():
    return {
        "labels": np.array([0, 0, 1, 1, 1]),
        "probabilities": np.array([[0.9, 0.1], [0.2, 0.8], [0.99, 0.01], [0.6, 0.4], [0.3, 0.7]], np.float32),
        "ids": np.array(["a", "b", "c", "d", "e"]),
    }


def test_mistakes_are_counted_and_sorted(tmp_path):
    mistakes = read_mistakes(npz(tmp_path / "p.npz", **good_arrays()), ["no", "yes"])
    assert mistakes.correct.tolist() == [True, False, False, False, True]
    assert mistakes.confused == [("yes", "no", 2), ("no", "yes", 1)]
    assert [(one[0], one[1], one[2], round(one[3], 2)) for one in mistakes.worst] == [
        ("c", "yes", "no", 0.99), ("b", "no", "yes", 0.8), ("d", "yes", "no", 0.6),
    ]  # fmt: skip
    unlabelled = good_arrays() | {"labels": np.full(5, -1)}
    assert read_mistakes(npz(tmp_path / "p.npz", **unlabelled), ["no", "yes"]) is None
    assert read_mistakes(tmp_path / "nowhere.npz", ["no", "yes"]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 0, 1, 1, 2])},
        {"labels": np.array([0.0, 0, 1, 1, 1])},
        {"labels": np.zeros((5, 1), int)},
        {"labels": np.array([], int), "probabilities": np.zeros((0, 2)), "ids": np.array([], str)},
        {"probabilities": np.full((5, 2), np.nan)},
        {"probabilities": np.zeros((5, 3))},
        {"probabilities": np.zeros((4, 2))},
        {"ids": np.array(["a"])},
        {"ids": np.array([object()] * 5, dtype=object)},
        {"ids": np.array(3)},
    ],
)
def test_predictions_that_cannot_be(real, tmp_path, capsys, change):
    with pytest.raises(ValueError):
        read_mistakes(npz(tmp_path / "p.npz", **good_arrays() | change), ["no", "yes"])
    run = altered(real[0], tmp_path / "run")
    npz(run / "val_predictions.npz", **good_arrays() | change)
    folder = main(tmp_path / "run", "--out", tmp_path / "out")
    assert "left out of the comparison of networks" in capsys.readouterr().out
    [run] = page_data(folder / "report.html")["runs"]
    assert run["worst"] == [] and dict(run["scores"])["val_accuracy"] > 0


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_predictions_run_no_code(tmp_path):
    ids = np.array([Trap(tmp_path / "sprung")] * 5, dtype=object)
    with pytest.raises(ValueError):
        read_mistakes(npz(tmp_path / "p.npz", **good_arrays() | {"ids": ids}), ["no", "yes"])
    assert not (tmp_path / "sprung").exists()


def test_predictions_that_are_enormous(tmp_path, monkeypatch):
    path = tmp_path / "p.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**3)})
    with zipfile.ZipFile(path, "w") as file:
        for name in ("labels", "probabilities", "ids"):
            file.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(ValueError, match="is damaged"):  # it says that it has terabytes
        read_mistakes(path, ["no"])
    monkeypatch.setattr("tools.comparing.predictions.LARGEST_SIZE", 2**20)
    np.savez_compressed(path, **good_arrays() | {"probabilities": np.zeros((2**18, 2))})
    assert path.stat().st_size < 2**16
    with pytest.raises(ValueError, match="unpack to 4,"):
        read_mistakes(path, ["no", "yes"])


@pytest.mark.parametrize(
    "content", [b"", b"no zip", np.lib.format.magic(1, 0) + b"\xff\xff", b"PK\x03\x04" + bytes(100)]
)
def test_predictions_that_are_no_archive(tmp_path, content):
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_mistakes(tmp_path / "p.npz", ["no"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_of_predictions_is_an_error_or_harmless(tmp_path, place, byte, cut):
    buffer = io.BytesIO()
    np.savez(buffer, **good_arrays())
    content = bytearray(buffer.getvalue())
    place %= len(content)
    content[place] = byte
    (tmp_path / "p.npz").write_bytes(content[:place] if cut else content)
    try:
        mistakes = read_mistakes(tmp_path / "p.npz", ["no", "yes"])
    except ValueError:
        return
    assert mistakes is None or len(mistakes.correct) == 5


# --- hostile content


def in_memory(folder, name, option, value, seed=0, accuracy=0.5):
    records = [{"epoch": 1, "val_accuracy": accuracy, "val_loss": 1.0, "train_loss": 2.0, "seconds": 3.0}]
    return FinishedRun(
        folder=Path(folder) / f"{seed}", label=f"{name}{seed}", script=name, dataset=name, classes=[name], options={
            "seed": seed, option: value, "lr": accuracy}, config={"command": name, "git_commit": name}, diverged=False,
        epochs=records, scores={"val_accuracy": accuracy, name: 1.5}, of_test=frozenset(),
    )  # fmt: skip


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(HOSTILE) | st.text(st.characters(), min_size=1, max_size=60)


def check_outputs(tmp_path, overview):
    """Write all that is text and read it back as a spreadsheet, a Markdown renderer and a browser would."""
    write_csvs(tmp_path, overview)
    write_latex(tmp_path / "compare.tex", overview)
    write_markdown(tmp_path / "compare.md", overview, [])
    write_report(tmp_path / "report.html", overview)
    for name in ("compare.csv", "compare_groups.csv"):
        rows = list(csv.reader(io.StringIO((tmp_path / name).read_text(encoding="utf-8"), newline="")))
        assert len({len(row) for row in rows}) == 1
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(("=", "+", "@", "\t", "\r")) and (not cell.startswith("-") or float(cell) < 0)
    for line in (tmp_path / "compare.tex").read_text(encoding="utf-8").split("\n"):
        assert line.startswith("%") or not re.search(r"(?<!\\)[#$_%]", line), "a mark of LaTeX in a name"
        assert line.startswith(("%", "\\hline", "\\begin", "\\end")) or not line or line.endswith(r"\\")
    markdown = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert "<" not in markdown and "\x1b" not in markdown
    rows = [line for line in markdown.split("\n\n")[1].splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(overview.runs)
    assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}) == 1
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script") == 2
    assert page.split('id="data">')[1].split("</script>")[0].isascii()
    return page_data(tmp_path / "report.html")


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, option=NAMES, value=VALUES, reason=NAMES)
@example(name=HOSTILE[5], option=HOSTILE[5], value=HOSTILE[5], reason="damaged")
@example(name=HOSTILE[6], option=HOSTILE[3], value=HOSTILE[4], reason=HOSTILE[0])
def test_names_and_values_of_any_kind_stay_data(tmp_path, name, option, value, reason):
    runs = [in_memory(f"/x/{name}", name, option, value), in_memory("/y", "ex_1", option, None, 1, 0.25)]
    overview = compare_runs(runs, Question("val_accuracy"), Told(), [PassedOver(Path(f"/x/{name}"), reason)])
    data = check_outputs(tmp_path, overview)
    assert [run["curve"][:5] for run in data["runs"]] == ["group"] * 2 and len(data["passed"]) == 1


@pytest.mark.slow
def test_hostile_names_in_pictures(real, tmp_path, drawn):
    for number, name in enumerate(HOSTILE):
        altered(real[0], tmp_path / "runs" / f"_{number}", config={"script": name}, **{HOSTILE[2]: name})
    names = os.listdir(main(tmp_path / "runs", "--out", tmp_path / "out", "--by", HOSTILE[2]))
    assert set(names) == FILES | CURVES | {"by___frac__.png"}
    for number in range(2):
        altered(real[0], tmp_path / "alike" / f"_{number}")
    assert CURVES < set(os.listdir(main(tmp_path / "alike", "--out", tmp_path / "out2")))


def test_the_script_and_the_style_of_the_page_are_the_only_ones_allowed(real, tmp_path):
    page = (main(real[0], "--out", tmp_path / "out") / "report.html").read_text()
    [policy] = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for kind in ("script", "style"):
        [content] = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = report.base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "innerHTML" not in page and "document.write" not in page and "eval(" not in page


def test_numbers_that_are_none(real, tmp_path):
    altered(real[0], tmp_path / "runs" / "b", scale=math.nan, scales=[math.inf], best_epoch=math.nan)
    text = (real[0] / "train.json").read_text().replace('"val_loss": ', '"val_loss": NaN, "other": ')
    run = altered(real[0], tmp_path / "runs" / "a", lr=0.3)
    (run / "train.json").write_text(text.replace('"train_time": ', f'"train_time": 1{"0" * 400}, "x": '))
    text = (run / "test.json").read_text()
    (run / "test.json").write_text(text.replace('"auc_score": ', '"auc_score": Infinity, "y": '))
    data = page_data(main(real[0], tmp_path / "runs", "--out", tmp_path / "out") / "report.html")
    [bad] = [one for one in data["runs"] if one["label"].endswith("/a")]
    assert "auc_score" not in dict(bad["scores"]) and "train_time" not in dict(bad["scores"])
    assert bad["epochs"]["val_loss"] == [None, None]


# --- pictures and size


def write_picture(path, seed, side=300):
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.mark.slow
def test_pictures_are_in_the_page_once_and_smaller(real, tmp_path):
    for number in range(2):
        run = altered(real[0], tmp_path / "runs" / str(number), seed=number)
        write_picture(run / "val_predictions.png", seed=number, side=1200)
        write_picture(run / "samples.png", seed=7)
        (run / "val_confusion_matrix.png").write_bytes((run / "samples.png").read_bytes()[:500])
    data = page_data(main(tmp_path / "runs", "--out", tmp_path / "out") / "report.html")
    assert [[name for name, _ in run["pictures"]] for run in data["runs"]] == [
        ["val_predictions.png", "samples.png"]
    ] * 2
    places = [dict(run["pictures"]) for run in data["runs"]]
    assert len(data["album"]) == 3 and places[0]["samples.png"] == places[1]["samples.png"]
    kind, content = data["album"][places[0]["val_predictions.png"]].split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(report.base64.b64decode(content))) as image:
        assert image.size == (900, 900)


def test_beyond_the_budget_the_best_runs_keep_their_pictures(real, tmp_path, monkeypatch):
    for number in range(4):
        run = scored(real[0], tmp_path / "runs" / str(number), 0.9 - number / 10, seed=number)
        write_picture(run / "val_predictions.png", seed=number)
        write_picture(run / "samples.png", seed=10 + number)
    monkeypatch.setattr(report, "BUDGET", 1)
    data = page_data(main(tmp_path / "runs", "--out", tmp_path / "out") / "report.html")
    assert [len(run["pictures"]) for run in data["runs"]] == [1, 0, 0, 0]
    assert any(note.startswith("7 pictures of the runs that rank lower are left out") for note in data["notes"])


def test_pictures_that_unpack_to_too_much_are_left_out(real, tmp_path, monkeypatch):
    run = altered(real[0], tmp_path / "run")
    write_picture(run / "samples.png", 0)
    os.mkfifo(run / "loss.png")
    monkeypatch.setattr(report, "LARGEST_PICTURE", 100)
    assert page_data(main(run, "--out", tmp_path / "out") / "report.html")["album"] == []


def test_long_curves_keep_their_best_and_last_epoch(real, tmp_path):
    records = [{"epoch": epoch, "val_accuracy": 0.5, "val_loss": 1.23456789, "seconds": 2} for epoch in range(1, 2001)]
    run = altered(real[0], tmp_path / "run", train={"epochs": records, "best_epoch": 778})
    [run] = page_data(main(run, "--out", tmp_path / "out") / "report.html")["runs"]
    epochs = run["epochs"]["epoch"]
    assert len(epochs) < 305 and {1, 778, 2000} < set(epochs) and epochs == sorted(epochs)
    assert run["epochs"]["time"][-1] == 4000 and run["epochs"]["val_loss"][0] == 1.2346


@pytest.mark.slow
def test_two_hundred_runs(real, tmp_path, drawn, capsys):
    for number in range(200):
        lr, seed = 10 ** (number % 40 / 10 - 5), number // 40
        scored(real[0], tmp_path / "runs" / str(number), 0.5 + number % 40 / 100 + seed / 500, lr=lr, seed=seed)
    started = time.perf_counter()
    folder = main(tmp_path / "runs", "--out", tmp_path / "out")
    assert time.perf_counter() - started < 30
    printed = capsys.readouterr().out
    assert "… and 160 more runs, all in compare.csv" in printed and "… and 29 more" in printed
    assert len(printed.splitlines()) < 150
    assert len(table(folder / "compare.csv")) == 200 and len(table(folder / "compare_groups.csv")) == 40
    assert (folder / "report.html").stat().st_size < 30 * 2**20
    with Image.open(folder / "accuracy.png") as image:
        assert image.width == 1080
    assert set(os.listdir(folder)) == FILES | CURVES | {"by_lr.png"}


def test_differing_options_of_no_runs():
    assert differing_options([]) == {}


def test_names_that_a_person_gave_stand_everywhere(outputs, real, tmp_path, capsys):
    out = main(outputs, "--out", tmp_path / "out", "--name", "lr=0.01=high & wild", "--name", f"{real[0]}=|calm|")
    groups, runs = table(out / "compare_groups.csv"), table(out / "compare.csv")
    assert {row["name"]: float(row["lr"]) for row in groups} == {"high & wild": 0.01, "|calm|": 0.001}
    assert {(row["name"], float(row["lr"])) for row in runs} == {("high & wild", 0.01), ("|calm|", 0.001)}
    said, data = capsys.readouterr().out, page_data(out / "report.html")
    assert "(high & wild)" in said and "(|calm|)" in said
    assert sorted(name[3:] for name in data["legend"]) == ["high & wild (2 runs)", "|calm| (2 runs)"]
    assert all("high & wild" in run["curve"] or "|calm|" in run["curve"] for run in data["runs"])
    assert r"high \& wild" in (out / "compare.tex").read_text() and r"\|calm\|" in (out / "compare.md").read_text()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["lr"], "must be GROUP=NAME"),
        (["lr=0.01"], "neither the folder of a run that is compared nor option=value"),
        (["lr=0.01= "], "must be GROUP=NAME"),
        (["lr=5=x"], "no group is so"),
        (["epochs=2=x"], "epochs does not differ"),
        (["lr=0.01=x", "lr=0.01=y"], "that group is called x already"),
    ],
)
def test_a_name_that_fits_no_group_is_refused_before_anything_is_written(outputs, real, tmp_path, names, reason):
    words = [word for name in names for word in ("--name", name)]
    line = refusal(outputs, "--out", tmp_path / "out", *words)
    assert line.startswith(f"--name {names[-1]}: ") and reason in line
    assert not (tmp_path / "out").exists()


def test_the_question_of_runs_is_the_name_of_their_group(real, tmp_path):
    for seed in (0, 1):
        altered(real[0], tmp_path / f"a{seed}", seed=seed, lr=0.5, question="2 c")
        altered(real[0], tmp_path / f"b{seed}", seed=seed, lr=0.6, question="none in common" if seed else "other")
    assert sorted(group.name for group in overview_of(tmp_path).groups) == ["", "2 c"]
    altered(real[0], tmp_path / "c", lr=0.7, question="2 c")  # which tells two groups apart no more
    assert {group.name for group in overview_of(tmp_path).groups} == {""}


def test_groups_stand_beside_each_other_where_another_option_differs(real, tmp_path, monkeypatch):
    for width in (16, 32):
        for lr in (0.001, 0.01):
            for seed in (0, 1):
                accuracy = 0.5 + width / 1000 + seed / 100
                scored(real[0], tmp_path / f"{width}-{lr}-{seed}", accuracy, lr=lr, width=width, seed=seed)
    saved = {}
    monkeypatch.setattr("common.figures.save_figure", lambda figure, path, title="": saved.update({path.name: figure}))
    draw_pictures(tmp_path, overview_of(tmp_path, by=("lr",)), ["lr"])
    bars = [bar for bar in saved["by_lr.png"].axes[0].containers if isinstance(bar, ErrorbarContainer)]
    places = sorted(round(float(bar[0].get_xdata()[0]), 9) for bar in bars)
    assert len(places) == len(set(places)) == 4
    assert len({bar[0].get_color() for bar in bars}) == 2
    labels = [text.get_text() for text in saved["by_lr.png"].legends[0].get_texts()]
    assert labels == ["width 32", "width 16", "a run", "mean and std over seeds or folds"]


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
    main(tmp_path / "runs", "--baseline", "batch_norm=true", "--out", tmp_path / "out")
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


def test_equal_values_stand_side_by_side():
    assert side_by_side([0.9, 0.9, 0.8, 0.9]) == [-5, 0, 0, 5]
    many = side_by_side([1.0] * 100)
    assert max(many) - min(many) <= 40 and len(set(many)) == 100
