"""The pages and pictures of compare.py: hostile names, many runs, pictures in the page."""

import csv
import hashlib
import io
import math
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    COMPARED,
    CURVES,
    altered,
    page_data,
    run_compare,
    scored,
    table,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tools.comparing import report
from tools.comparing.finished_runs import FinishedRun, PassedOver
from tools.comparing.overview import Question
from tools.comparing.overview import compare as compare_runs
from tools.comparing.predictions import Told
from tools.comparing.report import write_report
from tools.comparing.tables import write_csvs, write_latex, write_markdown

pytestmark = pytest.mark.usefixtures("without_drawing")


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
    names = os.listdir(run_compare(tmp_path / "runs", "--out", tmp_path / "out", "--by", HOSTILE[2]))
    assert set(names) == COMPARED | CURVES | {"by___frac__.png"}
    for number in range(2):
        altered(real[0], tmp_path / "alike" / f"_{number}")
    assert CURVES < set(os.listdir(run_compare(tmp_path / "alike", "--out", tmp_path / "out2")))


def test_the_script_and_the_style_of_the_page_are_the_only_ones_allowed(real, tmp_path):
    page = (run_compare(real[0], "--out", tmp_path / "out") / "report.html").read_text()
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
    data = page_data(run_compare(real[0], tmp_path / "runs", "--out", tmp_path / "out") / "report.html")
    [bad] = [one for one in data["runs"] if one["label"].endswith("/a")]
    assert "auc_score" not in dict(bad["scores"]) and "train_time" not in dict(bad["scores"])
    assert bad["epochs"]["val_loss"] == [None, None]


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
    data = page_data(run_compare(tmp_path / "runs", "--out", tmp_path / "out") / "report.html")
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
    data = page_data(run_compare(tmp_path / "runs", "--out", tmp_path / "out") / "report.html")
    assert [len(run["pictures"]) for run in data["runs"]] == [1, 0, 0, 0]
    assert any(note.startswith("7 pictures of the runs that rank lower are left out") for note in data["notes"])


def test_pictures_that_unpack_to_too_much_are_left_out(real, tmp_path, monkeypatch):
    run = altered(real[0], tmp_path / "run")
    write_picture(run / "samples.png", 0)
    os.mkfifo(run / "loss.png")
    monkeypatch.setattr(report, "LARGEST_PICTURE", 100)
    assert page_data(run_compare(run, "--out", tmp_path / "out") / "report.html")["album"] == []


def test_long_curves_keep_their_best_and_last_epoch(real, tmp_path):
    records = [{"epoch": epoch, "val_accuracy": 0.5, "val_loss": 1.23456789, "seconds": 2} for epoch in range(1, 2001)]
    run = altered(real[0], tmp_path / "run", train={"epochs": records, "best_epoch": 778})
    [run] = page_data(run_compare(run, "--out", tmp_path / "out") / "report.html")["runs"]
    epochs = run["epochs"]["epoch"]
    assert len(epochs) < 305 and {1, 778, 2000} < set(epochs) and epochs == sorted(epochs)
    assert run["epochs"]["time"][-1] == 4000 and run["epochs"]["val_loss"][0] == 1.2346


@pytest.mark.slow
def test_two_hundred_runs(real, tmp_path, drawn, capsys):
    for number in range(200):
        lr, seed = 10 ** (number % 40 / 10 - 5), number // 40
        scored(real[0], tmp_path / "runs" / str(number), 0.5 + number % 40 / 100 + seed / 500, lr=lr, seed=seed)
    started = time.perf_counter()
    folder = run_compare(tmp_path / "runs", "--out", tmp_path / "out")
    assert time.perf_counter() - started < 30
    printed = capsys.readouterr().out
    assert "… and 160 more runs, all in compare.csv" in printed and "… and 29 more" in printed
    assert len(printed.splitlines()) < 150
    assert len(table(folder / "compare.csv")) == 200 and len(table(folder / "compare_groups.csv")) == 40
    assert (folder / "report.html").stat().st_size < 30 * 2**20
    with Image.open(folder / "accuracy.png") as image:
        assert image.width == 1080
    assert set(os.listdir(folder)) == COMPARED | CURVES | {"by_lr.png"}
