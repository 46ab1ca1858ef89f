"""One change at a time, several seeds: what is tried, which configuration wins, what goes on after a kill."""

import importlib
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy
import yaml
from helpers import ROOT, read
from test_search import TOY, start_sweep, trials, wait_for, write_sweep

import ex_1
import ex_6
import sweep
from common.system.errors import BadInput
from tools.searching.sweep_file import COMMAND
from tools.searching.trials import arguments
from tools.searching.varying import vary


@pytest.fixture(autouse=True)
def no_answer(request, monkeypatch):
    """The runs of the toy experiment can be searched over, and not compared."""
    if "answered" not in request.node.name:
        monkeypatch.setattr(sweep, "answer", lambda results: None)


SPACE = {"lr": {"values": [0.1, 0.3, 0.2]}}


def points(*changes, is_grid=False, script=ex_1, fixed=()):
    def options_of(values):
        return vars(script.parse_options(["--dataset", "digits", *fixed, *arguments(values, COMMAND[-1])]))

    return list(vary(f"{script.__name__}.py", list(changes), options_of, is_grid).points)


def test_one_thing_changes_at_a_time():
    unchanged = {"batch_norm": True, "dropout": "0.0"}
    assert points("batch_norm", "dropout=0.5,0.2") == [
        unchanged, unchanged | {"batch_norm": False}, unchanged | {"dropout": "0.5"}, unchanged | {"dropout": "0.2"},
    ]  # fmt: skip
    assert points("--batch-norm=False,true") == [{"batch_norm": True}, {"batch_norm": "False"}]
    assert points("dropout=0,0.0,0.5,0.50") == [{"dropout": "0.0"}, {"dropout": "0.5"}]


def test_values_may_have_commas():
    default, *others = points("widths=8,16,16;16,32,32", script=ex_6)
    assert default != others[0] and others == [{"widths": "8,16,16"}, {"widths": "16,32,32"}]


def test_an_option_that_is_not_there_by_default_can_be_added():
    assert points("ema=0.9", "batch_schedule=4:512") == [
        {"ema": None, "batch_schedule": None},
        {"ema": "0.9", "batch_schedule": None},
        {"ema": None, "batch_schedule": "4:512"},
    ]


@pytest.mark.slow
def test_what_stands_behind_the_dashes_is_what_a_change_is_compared_with(tmp_path):
    words = ["--vary", "lr=0.3", "--seeds", "1", "--output_dir", str(tmp_path), "--", "--lr=0.2"]
    sweep.main([str(TOY), *words])
    typed = [read(folder.parent, "config.json")["words"] for folder in tmp_path.rglob("config.json")]
    assert sorted(vars(toy.parse_options(words))["lr"] for words in typed) == [0.2, 0.3]


def test_a_grid_has_all_combinations():
    grid = points("batch_norm", "dropout=0.5,0.2", is_grid=True)
    assert len(grid) == 6 and {"batch_norm": False, "dropout": "0.2"} in grid
    assert grid[0] == {"batch_norm": True, "dropout": "0.0"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["dropuot=1"], "ex_1.py has no option 'dropuot'"),
        (["dropout"], "it is no switch; say which values, such as dropout=1,2"),
        (["dropout=2"], "-d/--dropout: 2 must be"),
        (["dropout=0.0"], "dropout is 0.0 already; say which others"),
        (["batch_norm", "batch_norm"], "it is there twice"),
        (["seed=1,2"], "--seeds N does that"),
        (["batch_schedule=2:64"], "its default, [[4, 512]], cannot be typed"),
    ],
)
def test_what_cannot_be_varied_is_told(changes, said):
    with pytest.raises(BadInput, match="--vary " + changes[-1]) as error:
        points(*changes, fixed=["--batch_schedule=4:512"])
    assert said in str(error.value)


def run(folder, *words, fixed=()):
    return sweep.main([*map(str, words), "--output_dir", str(folder), "--", *fixed])


def test_commands_that_contradict_themselves(tmp_path):
    path = write_sweep(tmp_path, {"seed": {"values": [0, 1]}})
    for words, said in (
        ([path, "--seeds", "2"], "has the parameter seed"),
        ([path, "--grid"], "--grid belongs to --vary"),
        ([TOY, "--vary", "lr=2", "--program", TOY], "--program belongs to a sweep file"),
    ):
        with pytest.raises(BadInput, match=said):
            run(tmp_path, *words)
    with pytest.raises(BadInput, match="the seed is fixed in the command or after --"):
        run(tmp_path, TOY, "--vary", "lr=2", fixed=["--seed", "3"])
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grid", "random", pytest.param("bayes", marks=pytest.mark.long)])
def test_the_best_mean_wins_and_not_the_luckiest_seed(tmp_path, capsys, method):
    path = write_sweep(tmp_path, SPACE, method=method)
    words = [path, "--seeds", "3", "-n", "8"]
    folder = run(tmp_path, *words, fixed=["--kind", "lucky"])
    rows = trials(folder)
    best = max(rows, key=lambda row: float(row["val_accuracy"]))
    assert (best["lr"], best["seed"]) == ("0.1", "1")  # the luckiest
    tried = [(row["lr"], row["seed"]) for row in rows if not row["same_as"]]
    assert sorted(tried) == [(lr, seed) for lr in ("0.1", "0.2", "0.3") for seed in "012"]
    assert yaml.safe_load((folder / "best.yaml").read_text()) == {"lr": 0.3, "kind": "lucky"}
    assert "(mean of 3 seeds), val_accuracy 0.3300" in (folder / "best.yaml").read_text()
    states = {path.parents[3].name for path in folder.glob("trials/*/*/*/*/last.pth")}
    assert states == {Path(row["folder"]).name for row in rows if row["lr"] == "0.3"}
    tested = [row for row in rows if list(Path(row["folder"]).glob("*/*/*/test.json")) and not row["same_as"]]
    assert sorted((row["lr"], row["seed"]) for row in tested) == [("0.3", "0"), ("0.3", "1"), ("0.3", "2")]
    capsys.readouterr()
    assert trials(run(tmp_path, *words, fixed=["--kind", "lucky"])) == rows
    assert "trial 0:" not in capsys.readouterr().out


@pytest.mark.slow
def test_seeds_can_be_added_and_all_be_tested(tmp_path):
    path = write_sweep(tmp_path, SPACE)
    assert len(trials(run(tmp_path, path))) == 3
    rows = trials(run(tmp_path, path, "--seeds", "2", "--test"))
    assert [(row["lr"], row["seed"]) for row in rows] == [
        ("0.1", "0"), ("0.3", "0"), ("0.2", "0"), ("0.1", "1"), ("0.3", "1"), ("0.2", "1"),
    ]  # fmt: skip
    assert all(list(Path(row["folder"]).glob("*/*/*/test.json")) for row in rows)


@pytest.mark.slow
def test_a_configuration_that_fails_gets_no_more_seeds_and_cannot_win(tmp_path):
    path = write_sweep(tmp_path, {"kind": {"values": ["diverges", "good"]}})
    rows = trials(run(tmp_path, path, "--seeds", "2"))
    assert [(row["kind"], row["seed"], row["state"]) for row in rows] == [
        ("diverges", "0", "failed"), ("good", "0", "finished"), ("good", "1", "finished"),
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_it_goes_on_with_the_seeds_that_are_missing(tmp_path):
    words = [TOY, "--vary", "lr=0.3", "--seeds", "3"]
    for number in (2, 4):
        process = start_sweep(*words, "--output_dir", tmp_path, "--", "--seconds", "0.2")
        wait_for((tmp_path / "sweeps" / "toy-vary-lr" / "trials" / f"{number:04}").exists)
        process.kill()
        process.communicate()
    rows = trials(run(tmp_path, *words, fixed=["--seconds", "0.2"]))
    finished = [(row["lr"], row["seed"]) for row in rows if row["state"] == "finished"]
    assert sorted(finished) == [(lr, seed) for lr in ("0.3", "1.0") for seed in "012"]


@pytest.mark.long
def test_a_question_is_answered_in_one_command_and_the_page_of_answers_is_made_of_it(tmp_path, capsys, monkeypatch):
    words = [ROOT / "ex_1.py", "--vary", "batch_norm", "--seeds", "2"]
    fixed = ["--dataset", "digits", "--limit", "100", "-e", "1"]

    def answer():
        lines = capsys.readouterr().out.splitlines()
        start = lines.index("each change from the baseline:")
        return lines[start + 1 : start + 3]

    folder = run(tmp_path, *words, "--test", fixed=fixed)
    logs = [path.read_text() for path in folder.glob("trials/*/*/*/*/log.txt")]
    assert len(logs) == 4
    assert all("test accuracy" in log and log.count("epoch 1/1") == 1 for log in logs)  # each was trained once
    assert len(list(folder.glob("trials/*/*/*/*/last.pth"))) == 2  # of the best, for each seed
    names, change = first = answer()
    assert names.split() == "change difference in val_accuracy low high corrected p seeds verdict".split()
    assert change.startswith("batch_norm false  ")
    written = {path.name for path in (folder / "comparison").iterdir()}
    assert {"report.html", "compare.md", "compare_groups.csv", "differences.png"} <= written
    assert "| change | difference in val" in (folder / "comparison" / "compare.md").read_text()
    run(tmp_path, *words, fixed=fixed)  # again: nothing is trained, and the answer is the same
    assert answer() == first

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    answers = importlib.import_module("answers")
    monkeypatch.setattr(answers, "DOCS", tmp_path)
    monkeypatch.setattr(answers, "SEARCHES", {"ex_1_parts": folder.name, "head_rates": "not there"})
    monkeypatch.setattr(sys, "argv", ["answers.py", str(tmp_path)])
    answers.main()
    page = (tmp_path / "answers.md").read_text()
    assert "images: 100 train, 143 val, 359 test" in page and "Not measured yet: `benchmarks/results/head_rates" in page
    found = [value for value in change.split() if "." in value]
    assert all(value in page for value in found) and (tmp_path / "answers_ex_1_parts.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_search_with_one_run_each_is_answered_without_differences(tmp_path, monkeypatch, finished_run):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    answers = importlib.import_module("answers")
    monkeypatch.setattr(answers, "DOCS", tmp_path)
    shutil.copytree(finished_run, tmp_path / "trials" / "0001" / "ex_1" / "digits" / "now")
    (tmp_path / "parallel.png").write_bytes(b"a picture")
    head = "trial,state,val_accuracy,lr,best_epoch,epochs"
    rows = ["0,finished,0.25,0.1,1,2", "1,finished,0.75,0.01,2,2", "2,stopped early,,1,,1"]
    (tmp_path / "trials.csv").write_text("\n".join([head, *rows]))
    text = answers.best_section("trainA_search", tmp_path)
    lines = text.splitlines()
    first = lines.index("| trial | val_accuracy | lr |")
    assert lines[first + 2 : first + 4] == ["| 1 | 0.7500 | 0.01 |", "| 0 | 0.2500 | 0.1 |"]
    assert "2 finished, 1 stopped early" in text and "sweep.py sweeps/trainA.yaml" in text
    assert f"{read(finished_run, 'test.json')['accuracy']:.4f}" in text
    assert (tmp_path / "search.png").read_bytes() == b"a picture"


def test_a_search_whose_runs_are_on_other_machines_is_answered_there(tmp_path, capsys):
    groups = [[SimpleNamespace(user_attrs={"folder": str(tmp_path / name)})] for name in "ab"]
    results = SimpleNamespace(groups=lambda: groups, sweep=SimpleNamespace(points=None), folder=tmp_path)
    sweep.answer(results)
    assert "2 of 2 runs are on other machines, and are not compared here" in capsys.readouterr().out
