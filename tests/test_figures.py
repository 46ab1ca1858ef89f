"""`--figures`: pictures as SVG or PDF beside the PNG, in the page of the run, and verified."""

import shutil

import pytest
from helpers import SMALL, made_once

import compare
import ex_1
import ex_3
import verify
from common import figures
from common.runs.report import write_report
from common.system.files import picture_kind, pictures_also_as

PAGE = ("loss", "samples", "val_predictions", "confusion_matrix")


def draw(path, number=1):
    """Draw a line to a number."""
    axes = figures.blank_figure(3, 2).subplots()
    axes.plot([0, number])
    figures.save_figure(axes.figure, path)


@pytest.mark.parametrize(("kind", "begins"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_there_in_both_formats_and_the_same_is_the_same_file(tmp_path, kind, begins):
    for name, number in (("one.v2.png", 1), ("two.png", 1), ("three.png", 2)):
        with pictures_also_as(kind):
            draw(tmp_path / name, number)
    one, two, three = (tmp_path / f"{name}.{kind}" for name in ("one.v2", "two", "three"))
    assert one.read_bytes().startswith(begins)
    assert one.read_bytes() == two.read_bytes() != three.read_bytes()
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_the_format_ends_with_its_block(tmp_path):
    with pytest.raises(KeyError), pictures_also_as("svg"):
        raise KeyError
    assert picture_kind.get() == "png"
    draw(tmp_path / "after.PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["after.PNG"]


@pytest.fixture(scope="module")
def vector_run(tmp_path_factory):
    """A run of one epoch with SVGs; nobody may change it."""
    words = [*SMALL, "-e", "1", "--figures", "svg", "--output_dir"]
    folder = made_once(tmp_path_factory, "vector", lambda folder: ex_1.main([*words, str(folder)]))
    return next(folder.glob("*/*/*"))


@pytest.mark.slow
def test_every_picture_of_a_run_is_an_svg_too_and_its_page_shows_them(vector_run):
    pictures = {path.stem for path in vector_run.glob("*.png")}
    assert {path.stem for path in vector_run.glob("*.svg")} == pictures >= set(PAGE)
    page = (vector_run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") >= len(PAGE) and "data:image/png" not in page


@pytest.mark.slow
def test_a_picture_that_is_too_large_for_the_page_is_there_as_png(vector_run, tmp_path, monkeypatch):
    run = shutil.copytree(vector_run, tmp_path / "a run")
    monkeypatch.setattr("common.runs.report.LARGEST_PICTURE", (run / "loss.png").stat().st_size)
    (run / "loss.svg").write_bytes(bytes(10 + (run / "loss.png").stat().st_size))
    write_report(run, "Why?")
    assert 'alt="loss" src="data:image/png;base64,' in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_with_svgs_is_as_claimed_unless_one_was_changed(vector_run, tmp_path):
    run = tmp_path / "ex_1" / "digits" / "run"
    shutil.copytree(vector_run, run)
    [honest] = verify.main([str(run), "--pictures"])
    assert honest.is_as_claimed and honest.of_kind("not checked") == []
    (run / "loss.svg").write_bytes((run / "loss.svg").read_bytes() + b"\n")
    with pytest.raises(Exception, match="false claims"):
        verify.main([str(run), "--pictures"])


@pytest.mark.slow
def test_a_comparison_has_them_and_one_without_takes_them_away(vector_run, tmp_path):
    out = tmp_path / "comparison"
    compare.main([str(vector_run), "--out", str(out), "--figures", "svg"])
    assert {path.stem for path in out.glob("*.svg")} == {path.stem for path in out.glob("*.png")} != set()
    compare.main([str(vector_run), "--out", str(out)])
    assert not list(out.glob("*.svg"))


@pytest.mark.slow
def test_looks_at_data_and_speed_have_them(tmp_path):
    explored = ex_1.main(["--dataset", "digits", "--explore", "--figures", "pdf", "--output_dir", str(tmp_path)])
    words = ["--model", "lenet", "--throughput", "--max_batch", "2", "--figures", "pdf", "--output_dir", str(tmp_path)]
    for folder in (explored, ex_3.main(words)):
        assert {path.stem for path in folder.glob("*.pdf")} == {path.stem for path in folder.glob("*.png")} != set()
