"""Pictures: `--figures` has them as SVG or PDF too, and none wastes room or hides what it shows."""

import importlib
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, SMALL, made_once
from PIL import Image

import compare
import ex_1
import ex_3
import verify
from common import figures
from common.evaluation.metrics import score
from common.runs import plots
from common.runs.report import write_report
from common.system.files import picture_kind, pictures_also_as

PAGE = ("loss", "samples", "val_predictions", "confusion_matrix")


def draw(path, number=1):
    """Draw a line to a number."""
    axes = figures.blank_figure(3, 2).subplots()
    axes.plot([0, number])
    figures.save_figure(axes.figure, path)


@pytest.mark.slow
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
    write_report(run, "Why?", {})
    page = (run / "report.html").read_text(encoding="utf-8")
    assert re.search('alt="loss; the star is at the best epoch[^"]*" src="data:image/png;base64,', page)


@pytest.mark.slow
def test_a_run_with_svgs_is_as_claimed_unless_one_was_changed(vector_run, tmp_path):
    run = tmp_path / "ex_1" / "digits" / "run"
    shutil.copytree(vector_run, run)
    [honest] = verify.main([str(run), "--pictures"])
    assert honest.is_as_claimed and not [line for line in honest.of_kind("not checked") if "looks at" not in line]
    (run / "loss.svg").write_bytes((run / "loss.svg").read_bytes() + b"\n")
    with pytest.raises(SystemExit):
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


def sheet(path, count, title="a title", **settings):
    """Draw a sheet of gray images and return its pixels."""
    figures.save_sheets(
        path, [("a heading", [np.full((8, 8, 3), 0.5)] * count, [(title, "black")] * count)], **settings
    )
    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.parametrize(("count", "title"), [(1, "a"), (3, "a\nb"), (16, "a"), (24, "a\nb\nc")])
def test_a_sheet_has_no_blank_bands(tmp_path, count, title):
    pixels = sheet(tmp_path / "sheet.png", count, title)
    image = 1.36 * 120  # pixels of a side
    for axis in (0, 1):
        written = np.flatnonzero((pixels < 250).any(axis=1 - axis))
        bands = np.diff([-1, *written, pixels.shape[axis]]) - 1
        assert bands.max() < 0.25 * image, f"a band of {bands.max()} pixels"


def test_images_of_a_pair_are_nearer_to_each_other_than_to_others(tmp_path):
    row = sheet(tmp_path / "sheet.png", 4, in_pairs=True)[-40]
    white = np.flatnonzero(np.diff(np.flatnonzero(row < 250)) > 1)
    gaps = np.diff(np.flatnonzero(row < 250))[white]
    assert len(gaps) == 3 and gaps[1] > 3 * max(gaps[0], gaps[2])


def test_a_number_and_a_confidence_are_told_apart():
    assert figures.verdict(0, np.array([0.0, 1.0]), ["1", "2"])[0] == "2 (100%)\ntrue: 1"


@pytest.mark.parametrize("count", [2, 300])
def test_mistakes_are_seen_in_a_matrix_of_few_and_of_many_classes(tmp_path, monkeypatch, count):
    saved = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path, title="": saved.append(figure))
    labels = np.repeat(np.arange(count), 10)
    probabilities = np.eye(count)[labels]
    probabilities[0] = np.eye(count)[-1]  # one of ten images of the first class
    plots.draw_confusion_matrix(tmp_path / "m.png", labels, probabilities, [f"c{i}" for i in range(count)], "test")
    [image] = saved[0].axes[0].images
    shown = image.get_array()[0, -1]
    color = np.array(image.cmap(image.norm(shown)))
    assert shown == 0.1 and len(image.get_array()) <= plots.MOST_NAMES
    assert color[:3].min() < (0.9 if count == 2 else 0.75)  # a pixel needs more than a cell


@pytest.mark.slow
def test_the_gallery_has_every_kind_of_picture_that_its_sheet_shows(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    pictures = importlib.import_module("pictures")
    shown = [name for name in pictures.SHEET if name.startswith(("2/", "10/", "30 runs/"))]
    monkeypatch.setattr(pictures, "CLASSES", (2, 10))
    monkeypatch.setattr(pictures, "SHEET", shown)
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(tmp_path), "--sheet", str(tmp_path / "sheet.jpg")])
    pictures.main()
    assert len(shown) >= 8 and all((tmp_path / name).stat().st_size > 5_000 for name in shown)
    sheet = np.asarray(Image.open(tmp_path / "sheet.jpg"))
    rows = -(-len(shown) // pictures.SHEET_COLUMNS)
    cells = [half for band in np.array_split(sheet, rows) for half in np.array_split(band, pictures.SHEET_COLUMNS, 1)]
    assert all(cell.std() > 10 for cell in cells[: len(shown)])  # none is blank


def test_a_matrix_has_one_unit(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path, title="": saved.append(figure))
    labels = np.repeat(np.arange(3), 10)
    plots.draw_confusion_matrix(tmp_path / "m.png", labels, np.eye(3)[labels], ["a", "b", "c"], "test")
    bar = saved[0].axes[1].yaxis
    assert bar.get_major_formatter().format_ticks([0.5]) == ["50%"]


@pytest.mark.parametrize(("wrong", "is_zoomed"), [(0, True), (3, True), (40, False)])
def test_roc_curves_in_one_corner_are_enlarged(tmp_path, monkeypatch, wrong, is_zoomed):
    saved = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path, title="": saved.append(figure))
    labels = np.repeat(np.arange(2), 100)
    taken = labels.copy()
    taken[:wrong], taken[100 : 100 + wrong] = 1, 0
    probabilities = np.eye(2)[taken] * 0.8 + 0.1
    plots.draw_roc(tmp_path / "r.png", labels, probabilities, score(probabilities, labels, ["a", "b"]), "test")
    axes = saved[0].axes[0]
    assert (axes.get_xlim()[1] < 0.5) == (axes.get_ylim()[0] > 0.5) == is_zoomed
    assert ("corner" in axes.get_title()) == is_zoomed
    corner = np.maximum(*np.abs(axes.lines[0].get_xydata() - [0, 1]).T).min()
    assert corner < axes.get_xlim()[1]  # what matters of the curve is seen


def test_classes_without_test_images_are_passed_over_in_their_picture(monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "predicted", lambda _, places, *rest: (None, places, places))
    monkeypatch.setattr(figures, "save_sheets", lambda path, sheets, **_: drawn.extend(sheets))
    test = SimpleNamespace(split=SimpleNamespace(labels=[3] * 20))
    plots.draw_class_predictions("a.png", test, np.full((20, 5), 0.2), [f"class {number}" for number in range(5)], 2)
    assert [heading for heading, *_ in drawn] == ["class 3: 0 of 10 right"]
