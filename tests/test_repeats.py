"""Several seeds, each a run of its own, and what they come to together."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, command, interrupt, read, same_result, small_run, without_pictures

import compare
import ex_1
import sweep
from common.evaluation.repeats import repeat, summary, t_interval
from common.system.errors import BadInput, Diverged
from common.system.files import write_json

SEEDS = {0: 0.7, 1: 0.72, 2: 0.71}


def run_folder(folder, accuracy, test=True, **options):
    """The folder of a finished run, as far as the sentence at the end reads it."""
    folder.mkdir()
    options = {"limit": None, "folds": None, "seed": 0, "split_seed": 0} | options
    images = {"train": 80, "val": 20, "test": 30}
    write_json(folder / "config.json", {"name": "ex_1/my_data|2", "options": options, "images": images})
    write_json(folder / "validation.json", {"accuracy": accuracy, "best_of_epochs": 5})
    if test:
        write_json(folder / "test.json", {"accuracy": accuracy - 0.1})
    return folder


def test_the_interval_of_seeds_is_student_s():
    low, high = t_interval([0.7, 0.72, 0.71])
    assert (low + high) / 2 == pytest.approx(0.71)
    assert (high - low) / 2 == pytest.approx(4.302653 * 0.01 / np.sqrt(3))  # t of 2 degrees of freedom, from a table
    assert t_interval([0.7]) is None


def test_the_interval_of_folds_knows_that_they_share_training_images():
    """Nadeau and Bengio, 2003: with the 1/9 of ten folds it is 1.45 times as wide."""
    values = np.random.default_rng(0).normal(0.8, 0.02, 10)
    (low, high), (low_of_folds, high_of_folds) = t_interval(values), t_interval(values, overlap=1 / 9)
    assert (high_of_folds - low_of_folds) / (high - low) == pytest.approx(np.sqrt((1 / 10 + 1 / 9) / (1 / 10)))
    assert low + high == pytest.approx(low_of_folds + high_of_folds)


def test_an_interval_that_knows_of_shared_training_images_holds_what_it_says():
    """On scores whose correlation is that of ten folds: the plain one misses the mean far more often than in 5 %."""
    random, share = np.random.default_rng(0), 1 / 10
    common = random.normal(size=(500, 1)) * np.sqrt(share)
    scores = common + random.normal(size=(500, 10)) * np.sqrt(1 - share)

    def missed(overlap):
        intervals = [t_interval(row, overlap) for row in scores]
        return np.mean([not low <= 0 <= high for low, high in intervals])

    assert 0.03 < missed(1 / 9) < 0.075 and missed(0) > 0.12


def test_the_sentence_of_folds(tmp_path):
    folders = []
    for number in range(1, 6):
        folders.append(run_folder(tmp_path / str(number), 0.7 + number / 100, test=False, folds=f"{number}/5"))
    said, varied, markdown, _ = summary(folders)
    margin = 2.776445 * np.std([0.71, 0.72, 0.73, 0.74, 0.75], ddof=1) * np.sqrt(1 / 5 + 20 / 80)
    assert f"5 folds: validation accuracy 0.7300 (95 % interval {0.73 - margin:.4f} to {0.73 + margin:.4f});" in said
    assert "corrected for training images in common" in said and "each once" in varied
    assert "| 5 folds | 0.7300" in markdown


def test_the_sentence_has_mean_interval_and_n(tmp_path):
    folders = [run_folder(tmp_path / str(seed), accuracy, seed=seed) for seed, accuracy in SEEDS.items()]
    said, varied, markdown, latex = summary(folders)
    assert said == (
        "3 seeds: test accuracy 0.6100 (95 % interval 0.5852 to 0.6348), validation accuracy 0.7100 (95 % interval "
        "0.6852 to 0.7348); mean of 3 seeds, Student's t; each the best of 5 epochs on these validation images"
    )
    assert "first weights, order and augmentation, but not the validation images" in varied
    assert markdown.endswith(r"| ex_1/my_data\|2 | 3 seeds | 0.6100 (0.5852 to 0.6348) | 0.7100 (0.6852 to 0.7348) |")
    assert latex.endswith(r"ex\_1/my\_data|2 & 3 seeds & 0.6100 (0.5852 to 0.6348) & 0.7100 (0.6852 to 0.7348) \\")


def test_runs_that_were_not_tested_have_a_sentence_of_the_validation(tmp_path):
    folders = [run_folder(tmp_path / str(seed), 0.7, test=False, seed=seed, limit=9) for seed in SEEDS]
    said, varied, *_ = summary(folders)
    assert (
        said.startswith("3 seeds: validation accuracy 0.7000 (95 % interval unknown: all are equal)")
        and "test" not in said
    )
    assert "which images --limit takes" in varied


def test_intervals_of_shares_end_at_0_and_1(tmp_path):
    folders = [run_folder(tmp_path / str(number), accuracy) for number, accuracy in enumerate([0.99, 0.2])]
    assert "(95 % interval 0.0000 to 1.0000); mean" in summary(folders)[0]


@pytest.mark.parametrize("error", [Diverged("not finite"), KeyboardInterrupt(), BadInput("x")])
def test_an_error_in_one_run_is_that_of_all_and_what_is_finished_is_told(tmp_path, capsys, error):
    def train(options, _):
        if options["seed"] == 1:
            raise error
        return tmp_path / str(options["seed"])

    with pytest.raises(type(error)):
        repeat([{"seed": seed, "folds": None} for seed in (0, 1, 2, 7)], "abcd", train, is_main=True)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"finished: --seed 0 in {tmp_path / '0'}; not finished: --seed 1; not begun: --seed 2, --seed 7"


@pytest.mark.slow
def test_each_seed_is_the_run_that_it_is_alone(tmp_path, capsys):
    last = small_run(tmp_path / "both", "-s", "1,0")
    said = capsys.readouterr().out
    runs = {read(folder, "config.json")["seed"]: folder for folder in (tmp_path / "both").glob("*/*/*")}
    assert sorted(runs) == [0, 1] and runs[0] == last
    for seed, folder in runs.items():
        assert read(folder, "config.json")["options"]["seed"] == seed
        assert same_result(folder, small_run(tmp_path / str(seed), "-s", str(seed)))
    accuracies = [read(folder, "test.json")["accuracy"] for folder in runs.values()]
    assert f"2 seeds: test accuracy {np.mean(accuracies):.4f} (95 % interval " in said
    splits = [torch.load(folder / "best.pth", weights_only=True)["config"]["split_sha256"] for folder in runs.values()]
    assert splits[0] != splits[1]  # what --limit takes


@pytest.mark.slow
def test_folds_are_runs_of_their_own(tmp_path, capsys):
    small_run(tmp_path, "--folds", "2", "-e", "1")
    said = capsys.readouterr().out
    folders = sorted((tmp_path / "ex_1" / "digits").glob("*-*"))
    configs = [read(folder, "config.json") for folder in folders]
    assert sorted(config["options"]["folds"] for config in configs) == ["1/2", "2/2"]
    assert not list(tmp_path.rglob("test.json")) and not (tmp_path / "test_looks.jsonl").exists()
    assert "2 folds: validation accuracy " in said
    assert without_pictures(["--resume", str(folders[1]), "--test", "True"]) == folders[1]
    assert read(folders[1], "test.json")["images"] == 359
    compare.main([str(tmp_path), "--out", str(tmp_path / "comparison")])
    said = capsys.readouterr().out
    assert "2 folds" in said and "repeat a seed of their group" not in said and "not had the same images" not in said


@pytest.mark.slow
def test_one_of_several_that_is_interrupted_can_be_resumed(tmp_path, capsys):
    words = ["--dataset", "digits", "-e", "1", "--limit", "100", "-s", "0,1", "--output_dir", str(tmp_path)]
    folder = interrupt(lambda: without_pictures(words), tmp_path, before_epoch=1)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("finished: none; not finished: --seed 0 (to go on: ")
    assert said.endswith(f" --resume {folder}); not begun: --seed 1")
    line = "--seed: the run has 0; leave it out"
    with pytest.raises(BadInput, match=line):
        ex_1.parse_options(["--resume", str(folder), "-s", "0,1"])
    assert without_pictures(["--resume", str(folder)]) == folder
    assert len(list(tmp_path.glob("*/*/*"))) == 1


@pytest.mark.slow
def test_a_command_of_several_seeds_that_diverges_ends_as_that_run_does(tmp_path):
    words = [ROOT / "ex_1.py", "--dataset", "digits", "-e", "1", "--limit", "100", "-s", "0,1", "-lr", "1e25"]
    done = command(*words, "--output_dir", tmp_path)
    assert done.returncode == 3 and re.fullmatch("error: .*not finite.*\n", done.stderr)
    assert done.stdout.splitlines()[-1] == "finished: none; not finished: --seed 0; not begun: --seed 1"


def test_a_search_tells_the_mean_of_its_best_seeds_on_the_test_images(tmp_path, capsys):
    trials = []
    for number, accuracy in enumerate((0.8, 0.81, 0.82)):
        folder = tmp_path / str(number) / "ex_1" / "digits"
        folder.mkdir(parents=True)
        run_folder(folder / "now", accuracy)
        trials.append(SimpleNamespace(user_attrs={"folder": str(tmp_path / str(number))}))
    sweep.tell_mean(trials[:1])
    assert capsys.readouterr().out == ""
    sweep.tell_mean(trials)
    said = capsys.readouterr().out
    assert "mean of these 3 seeds on the test images: 0.7100 (95 % interval 0.6852 to 0.7348, of new seeds)" in said
