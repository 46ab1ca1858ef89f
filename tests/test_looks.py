"""Every look at test images is counted, whatever becomes of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import read, small_run, without_pictures

import ex_1
from common.evaluation import looks, testing
from common.system.errors import BadInput

COUNTS = ("test_evaluations", "looks_of_recipe", "looks_at_images", "recipes_looking")


def counts(folder):
    return tuple(read(folder, "test.json")[name] for name in COUNTS)


def lines(output_dir):
    return [json.loads(line) for line in (output_dir / looks.LEDGER).read_text().splitlines()]


def test_looks_are_counted_by_run_recipe_and_images(tmp_path):
    assert counts(small_run(tmp_path, "-e", "1")) == (1, 1, 1, 1)
    assert counts(small_run(tmp_path, "-e", "1", "-lr", "0.01")) == (1, 1, 2, 2)
    assert (
        len({line["images"] for line in lines(tmp_path)}) == 1 and len({line["run"] for line in lines(tmp_path)}) == 2
    )


@pytest.mark.slow
def test_another_seed_is_another_look_by_the_same_recipe(tmp_path):
    assert counts(small_run(tmp_path, "-e", "1")) == (1, 1, 1, 1)
    assert counts(small_run(tmp_path, "-e", "1", "-s", "1")) == (1, 2, 2, 1)


@pytest.mark.slow
def test_a_recipe_is_the_same_whether_its_run_was_resumed_or_its_network_used(tmp_path):
    weights = str(small_run(tmp_path / "first", "-e", "1", "--test", "False") / "best.pth")
    words = "-e", "1", "--weights", weights
    assert counts(small_run(tmp_path, *words)) == (1, 1, 1, 1)
    later = small_run(tmp_path, *words, "-s", "1", "--test", "False")
    without_pictures(["--resume", str(later), "--test", "True"])
    assert counts(later) == (1, 2, 2, 1)
    line = looks.note_look_at(later, read(later, "config.json"), lines(tmp_path)[0]["images"], "predictions")
    assert (line.looks_at_images, line.recipes_looking) == (3, 1)


def test_how_often_a_run_saves_makes_no_other_recipe(tmp_path):
    config = {"script": "ex_1", "options": {"lr": 0.1, "save_minutes": None}}
    often = config | {"options": config["options"] | {"save_minutes": 5.0}}
    assert looks._recipe(config) == looks._recipe(often)


@pytest.mark.slow
def test_runs_of_a_search_are_counted_where_the_search_says(tmp_path, monkeypatch):
    monkeypatch.setenv(looks.FOLDER, str(tmp_path / "all"))
    small_run(tmp_path / "trial")
    assert len(lines(tmp_path / "all")) == 1 and not (tmp_path / "trial" / looks.LEDGER).exists()


@pytest.mark.slow
def test_views_are_a_part_of_the_look(tmp_path):
    assert counts(small_run(tmp_path, "--tta", "2")) == (1, 1, 1, 1)
    assert [line["what"] for line in lines(tmp_path)] == ["images as they are, and 2 views of each"]


@pytest.mark.slow
def test_without_a_test_there_is_no_look(tmp_path):
    small_run(tmp_path, "--test", "False")
    assert not (tmp_path / looks.LEDGER).exists()


@pytest.mark.slow
def test_a_look_that_was_cut_off_counts(tmp_path, monkeypatch, capsys):
    def cut_off(model, batches, machine, title, *rest):
        if title == "testing":
            raise KeyboardInterrupt
        return honest(model, batches, machine, title, *rest)

    honest = testing.evaluate
    monkeypatch.setattr(testing, "evaluate", cut_off)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path)
    monkeypatch.undo()
    [folder] = tmp_path.glob("*/*/*")
    without_pictures(["--resume", str(folder)])
    assert counts(folder) == (2, 2, 2, 1)
    assert "2 looks at these test images so far, by this recipe alone" in capsys.readouterr().out


@pytest.mark.slow
def test_a_test_json_that_was_deleted_is_not_forgotten(tmp_path):
    folder = small_run(tmp_path)
    (folder / "test.json").unlink()
    without_pictures(["--resume", str(folder), "--test", "True"])
    assert counts(folder) == (2, 2, 2, 1)


@pytest.mark.slow
def test_foreign_weights_say_that_nobody_knows_what_chose_them(tmp_path):
    folder = small_run(tmp_path)
    for again in (2, 3):
        tested = small_run(tmp_path, "-e", "0", "--weights", str(folder / "best.pth"))
        assert read(tested, "test.json")["selected_on"] == "not known: best.pth as it was given"
        assert counts(tested) == (1, again - 1, again, 2)
    assert read(small_run(tmp_path, "-e", "0"), "test.json")["selected_on"] == "nothing: no epoch was trained"


@pytest.mark.slow
def test_damaged_lines_count_and_cut_off_ones_spoil_no_other(tmp_path, capsys):
    (tmp_path / looks.LEDGER).write_bytes(b'{"run": 1}\n\xff\n[[[\n{"run": "a", "rec')
    assert counts(small_run(tmp_path)) == (1, 1, 5, 1)
    assert "4 line(s) cannot be read; each counts" in capsys.readouterr().out
    assert counts(small_run(tmp_path)) == (1, 2, 6, 1)


@pytest.mark.slow
def test_an_account_that_cannot_be_written_is_one_line_and_no_look(tmp_path, monkeypatch):
    def refuse(path, line):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(looks, "_append", refuse)
    with pytest.raises(BadInput, match="looks at test images are written down there"):
        small_run(tmp_path)
    assert not list(tmp_path.glob("*/*/*/test.json"))


@pytest.mark.slow
def test_a_run_that_was_moved_is_counted_where_it_lies(tmp_path):
    folder = small_run(tmp_path / "outputs", "--test", "False")
    moved = folder.rename(tmp_path / "mine")
    without_pictures(["--resume", str(moved), "--test", "True"])
    assert counts(moved) == (1, 1, 1, 1) and len(lines(tmp_path)) == 1


def test_many_at_a_time_write_whole_lines(tmp_path):
    path = tmp_path / looks.LEDGER
    line = {"run": "r" * 300, "recipe": "a", "images": "b"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: looks._append(path, line), range(200)))
    read_lines, unknown = looks._read(path)
    assert (len(read_lines), unknown) == (200, 0)


@pytest.mark.slow
def test_recipes_are_the_same_on_another_machine(tmp_path):
    small_run(tmp_path, "--workers", "1", "--device", "cpu", "--save_every", "1")
    assert counts(small_run(tmp_path, "--print_every", "1")) == (1, 2, 2, 1)


def test_options_that_make_no_recipe_are_options():
    assert looks.NOT_OF_A_RECIPE <= vars(ex_1.parse_options([])).keys()


def test_a_run_of_a_search_is_counted_with_all_others(tmp_path):
    outputs, run = tmp_path / "outputs", Path("ex_2", "digits", "now")
    for place in (outputs, outputs / "sweeps" / "a" / "trials" / "0003"):
        assert looks._output_folder(place / run, {"script": "ex_2"}) == outputs
