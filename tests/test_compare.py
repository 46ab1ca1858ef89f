"""compare.py: its command, groups and tables, what it passes over, and the names that people give."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    COMPARED,
    CURVES,
    ROOT,
    altered,
    command,
    curve,
    overview_of,
    page_data,
    read,
    refusal_of_compare,
    run_compare,
    scored,
    table,
)
from matplotlib.container import ErrorbarContainer
from PIL import Image
from scipy import stats

from tools.comparing.finished_runs import _labels, read_runs
from tools.comparing.groups import differing_options
from tools.comparing.overlays import _curves_of, draw_pictures, side_by_side
from tools.comparing.tables import write_csvs

pytestmark = pytest.mark.usefixtures("without_drawing")


@pytest.mark.slow
def test_the_command(outputs, real, tmp_path):
    before = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    result = command(ROOT / "compare.py", outputs, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    [folder] = tmp_path.glob("outputs/compare/*")
    assert {path.name for path in folder.iterdir()} == COMPARED | CURVES | {"by_lr.png", "differences.png"}
    assert f"written to {folder.relative_to(tmp_path)}" in result.stdout
    best = {run.name: read(run, "train.json")["best_val_accuracy"] for run in real}
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == sorted(best, key=lambda name: (-best[name], name))
    rows = table(folder / "compare.csv")
    assert [float(row["val_accuracy"]) for row in rows] == sorted(best.values(), reverse=True)
    assert {row["lr"] for row in rows} == {"0.001", "0.01"} and {row["seed"] for row in rows} == {"0", "1"}
    assert before == {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}


def test_groups_have_mean_std_and_interval_over_seeds(outputs, real, tmp_path):
    rows = table(run_compare(outputs, "--out", tmp_path / "out") / "compare_groups.csv")
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


def test_what_an_automatic_precision_became_is_compared(real, tmp_path):
    machine = read(real[0], "config.json")["machine"]
    for number, (asked, became) in enumerate([("auto", "fp32"), ("auto", "bf16"), ("bf16", "bf16")]):
        altered(real[number % 2], tmp_path / str(number), {"machine": machine | {"precision": became}}, precision=asked)
    groups = overview_of(tmp_path).groups
    assert {group.settings["precision"]: len(group.runs) for group in groups} == {"fp32": 1, "bf16": 2}


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
    folder = run_compare(real[0], tmp_path, "--out", tmp_path / "out")
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("passed over")]
    assert "bad" in line and reason in line
    assert reason in (folder / "compare.md").read_text() and page_data(folder / "report.html")["passed"]
    assert len(table(folder / "compare.csv")) == 1
    assert "no finished run" in refusal_of_compare(bad) and reason in refusal_of_compare(bad)


def test_a_look_at_the_data_is_no_training(real, tmp_path, capsys):
    (tmp_path / "explore").mkdir()
    (tmp_path / "explore" / "config.json").write_bytes((real[0] / "config.json").read_bytes())
    (tmp_path / "explore" / "explore.json").write_text("{}")
    run_compare(real[0], tmp_path / "explore", "--out", tmp_path / "out")
    assert "explore: no training, but a look at the data or the speed" in capsys.readouterr().out


def test_diverged_runs_are_rows_without_a_score(real, tmp_path, capsys):
    diverged = {"status": "diverged", "epochs": [], "best_epoch": None, "best_val_accuracy": None, "train_time": 0}
    altered(real[0], tmp_path / "runs" / "b", lr=1.0, train=diverged)
    altered(real[0], tmp_path / "runs" / "c", seed=5, train=diverged)
    assert "diverged" in refusal_of_compare(tmp_path / "runs")
    folder = run_compare(real[0], tmp_path / "runs", "--out", tmp_path / "out")
    rows = table(folder / "compare.csv")
    assert [row["status"] for row in rows] == ["finished", "diverged", "diverged"]
    assert rows[1]["val_accuracy"] == rows[2]["val_accuracy"] == ""
    groups = {row["lr"]: row for row in table(folder / "compare_groups.csv")}
    assert (groups["0.001"]["seeds"], groups["0.001"]["diverged"]) == ("1", "1")
    assert (groups["1"]["seeds"], groups["1"]["diverged"]) == ("0", "1")


def test_without_a_test_its_columns_are_blank(real, tmp_path):
    altered(real[0], tmp_path / "trial", test=None, lr=0.5)
    rows = table(run_compare(real[0], tmp_path / "trial", "--out", tmp_path / "out") / "compare.csv")
    assert sorted(bool(row["test_accuracy"]) for row in rows) == [False, True]
    rows = table(run_compare(tmp_path / "trial", "--out", tmp_path / "out") / "compare.csv")
    assert "test_accuracy" not in rows[0]


@pytest.mark.slow
def test_locations(outputs, real, tmp_path, capsys, monkeypatch):
    def found(*words):
        return len(table(run_compare(*words, "--out", tmp_path / "out") / "compare.csv"))

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
    assert "nowhere: there is no such folder" in refusal_of_compare(tmp_path / "nowhere")
    assert "no*where: there is no such folder" in refusal_of_compare(tmp_path / "no*where")
    (tmp_path / "empty").mkdir()
    assert "no finished run" in refusal_of_compare(tmp_path / "empty")
    monkeypatch.chdir(outputs.parent)
    assert found() == 4
    monkeypatch.chdir(tmp_path / "empty")
    assert "outputs: there is no such folder" in refusal_of_compare()
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
    folder = run_compare(tmp_path / "in", "--out", tmp_path / "out")
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
    data = page_data(run_compare(tmp_path / "in", "--out", tmp_path / "out") / "report.html")
    assert data["legend"][0] == "1: lr 0.1 (Anna Müller, 2 runs)"


@pytest.mark.slow
def test_metric_sorts_and_says_when_it_spoils_the_test(outputs, real, tmp_path, capsys):
    def order(metric):
        rows = table(run_compare(outputs, "--metric", metric, "--out", tmp_path / "out") / "compare.csv")
        return [float(row[metric.replace("-", "_")]) for row in rows]

    losses = order("val_loss")
    assert losses == sorted(losses) and "no honest estimate" not in capsys.readouterr().out
    scores = order("f1-score")
    assert scores == sorted(scores, reverse=True) and "f1_score is of the test images" in capsys.readouterr().out
    accuracies = order("test_accuracy")
    assert accuracies == sorted((read(run, "test.json")["accuracy"] for run in real), reverse=True)
    assert "did you mean val_accuracy?" in refusal_of_compare(outputs, "--metric", "val_acuracy")


@pytest.mark.slow
def test_by_draws_against_an_option(outputs, real, tmp_path, drawn):
    altered(real[0], tmp_path / "runs" / "a", dropout=0.5)
    out = tmp_path / "out"
    assert not list(run_compare(outputs, tmp_path / "runs", "--out", out).glob("by_*"))
    assert [path.name for path in run_compare(outputs, tmp_path / "runs", "--out", out, "--by", "lr").glob("by_*")] == [
        "by_lr.png"
    ]
    assert "did you mean dropout?; these differ: lr" in refusal_of_compare(outputs, "--by", "dropuot")
    assert "it is 128 in all runs" in refusal_of_compare(outputs, "--by", "--batch-size".replace("--", ""))
    assert "does not make runs different" in refusal_of_compare(outputs, "--by", "workers")


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
    with Image.open(run_compare(tmp_path / "runs", "--out", tmp_path / "out") / "by_choice.png") as image:
        assert image.width > 500


@pytest.mark.slow
def test_an_option_from_a_file_names_no_file_elsewhere(real, tmp_path, drawn):
    for number in range(2):
        altered(real[0], tmp_path / "runs" / str(number), **{"../../x y": number})
    folder = run_compare(tmp_path / "runs", "--out", tmp_path / "deep" / "out")
    assert "by_______x_y.png" in os.listdir(folder)


def test_out_replaces_an_older_comparison_and_nothing_else(real, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert run_compare(real[0], "--out", out) == out
    (out / "mine.txt").write_text("mine")
    assert run_compare(real[1], "--out", out) == out and (out / "mine.txt").exists()
    assert table(out / "compare.csv")[0]["run"] == real[1].name
    (tmp_path / "loss.png").write_bytes(b"mine")
    assert "has a loss.png that is no comparison's" in refusal_of_compare(real[0], "--out", tmp_path)
    assert "config.json" in refusal_of_compare(real[0], "--out", real[0])
    assert "is no folder" in refusal_of_compare(real[0], "--out", tmp_path / "loss.png")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<p>mine</p>")
    assert "has a report.html" in refusal_of_compare(real[0], "--out", tmp_path / "report")
    assert (tmp_path / "loss.png").read_bytes() == b"mine"


def test_two_comparisons_in_one_second_get_two_folders(real, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("compare.time.strftime", lambda form: "now")
    assert [run_compare(real[0]).name for _ in range(2)] == ["now", "now-2"]


def test_differing_options_of_no_runs():
    assert differing_options([]) == {}


def test_names_that_a_person_gave_stand_everywhere(outputs, real, tmp_path, capsys):
    out = run_compare(
        outputs, "--out", tmp_path / "out", "--name", "lr=0.01=high & wild", "--name", f"{real[0]}=|calm|"
    )
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
    line = refusal_of_compare(outputs, "--out", tmp_path / "out", *words)
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


def test_equal_values_stand_side_by_side():
    assert side_by_side([0.9, 0.9, 0.8, 0.9]) == [-5, 0, 0, 5]
    many = side_by_side([1.0] * 100)
    assert max(many) - min(many) <= 40 and len(set(many)) == 100


def test_how_often_a_run_saves_does_not_split_a_group(real, tmp_path):
    altered(real[0], tmp_path / "a", save_minutes=None)
    altered(real[0], tmp_path / "b", seed=1, save_minutes=10.0)
    [group] = overview_of(tmp_path).groups
    assert len(group.runs) == 2


def test_a_list_is_named_as_it_is_typed(real, tmp_path):
    altered(real[0], tmp_path / "a", filter_size=[5, 5, 3])
    altered(real[0], tmp_path / "b", filter_size=[3])
    for text in ("filter_size=5,5,3", "filter_size=[5, 5, 3]"):
        [contrast] = overview_of(tmp_path, baseline=text).contrasts
        assert contrast.other.settings["filter_size"] == "[5, 5, 3]"


def test_a_baseline_without_a_number_is_refused(real, tmp_path):
    altered(real[0], tmp_path / "a")
    altered(real[0], tmp_path / "b", lr=0.5)
    bad = altered(real[0], tmp_path / "c", train={"status": "diverged", "epochs": []}, test=None, lr=0.7)
    assert refusal_of_compare(tmp_path, "--baseline", bad).endswith("no run of it has val_accuracy")
