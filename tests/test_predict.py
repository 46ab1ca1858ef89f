import errno
import json
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import ROOT, command, read, safetensors, small_run, table, without_pictures, write_class
from PIL import Image
from sklearn.datasets import load_digits

import predict
from common import figures
from common.evaluation import looks
from common.evaluation.looks import LEDGER
from common.predicting.classifier import Classifier, find_checkpoint, load_classifier, load_run
from common.system.checkpoints import load_checkpoint, save_checkpoint
from common.system.device import prepare_machine
from common.system.errors import BadInput
from tools.prediction import find_images

HUES = {"ant": (200, 40, 40), "bee": (40, 200, 40), "cow": (40, 40, 200)}
HOSTILE = ['a\nb,"c"\r\t\x1b[31m.png', os.fsdecode(b"caf\xe9 $\\frac{$.png"), "🦊日本हिन्दी.png", "n" * 200 + ".png"]


def write_photograph(path, hue, seed):
    """Write a noisy picture of one hue; `seed` decides its pixels, and its width and height between 40 and 99."""
    chance = np.random.default_rng(seed)
    height, width = chance.integers(40, 100, 2)
    pixels = np.array(hue) + chance.normal(0, 60, (height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of class folders, PNG and JPEG."""
    root = tmp_path_factory.mktemp("photographs")
    for label, (name, hue) in enumerate(HUES.items()):
        for number in range(10):
            write_photograph(root / name / f"{number}.{'jpg' if number % 2 else 'png'}", hue, 10 * label + number)
    return root


@pytest.fixture(scope="module")
def run(photographs):
    """The folder of a run on `photographs`."""
    output_dir = str(photographs.parent / f"{photographs.name}-outputs")
    words = ["--data", str(photographs), "-e", "1", "-b", "8", "--precision", "fp32", "--output_dir", output_dir]
    return without_pictures(words)


def notes_of(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]


def test_images_that_the_run_knows_are_told_of_and_a_look_at_test_images_counts(run, photographs, photograph, capsys):
    before = len((run.parents[2] / LEDGER).read_text().splitlines())
    predict.main([str(run), str(photograph)])
    assert notes_of(capsys) == []
    for look in (before + 1, before + 2):
        predict.main([str(run), str(photographs), str(photograph)])
        trained, chose, tested = notes_of(capsys)
        images = read(run, "config.json")["images"]
        assert trained.startswith(f"note: {images['train']} of these 31 images have trained the network")
        assert chose.startswith(f"note: {images['val']} are validation images of this run")
        assert tested == f"note: {images['test']} are test images of this run; this was look {look} at them"
    lines = [json.loads(line) for line in (run.parents[2] / LEDGER).read_text().splitlines()]
    assert {(line["run"], line["recipe"]) for line in lines} == {(lines[0]["run"], lines[0]["recipe"])}


def test_a_look_that_cannot_be_written_down_is_told_and_a_run_that_knows_no_images_is_used(
    run, photographs, tmp_path, capsys, monkeypatch
):
    def refuse(path, line):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(looks, "_append", refuse)
    predict.main([str(run), str(photographs)])
    said = capsys.readouterr()
    assert "this look at test images is not counted" in said.err and "are test images of this run\n" in said.out
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "images.npz").write_bytes(b"PK\x03\x04 damaged")
    predict.main([str(copy), str(photographs)])
    said = capsys.readouterr()
    assert "note: " not in said.out and "images.npz is damaged" in said.err


@pytest.fixture
def photograph(tmp_path):
    return write_photograph(tmp_path / "photograph.png", HUES["bee"], 100)


def changed(run, path, **changes):
    """Write the best weights of `run`, with changes of their config, to `path`."""
    content = load_checkpoint(run / "best.pth")
    content["config"] |= changes
    save_checkpoint(path, content)
    return path


def main(*words):
    return predict.main([str(word) for word in words])


def refusal(*words):
    with pytest.raises(BadInput) as error:
        main(*words)
    return str(error.value)


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_photographs_have_the_probabilities_of_the_run(run, photographs):
    predictions = {one.image.path: one for one in main(run, photographs, "-b", 7)}
    assert len(predictions) == 30
    with np.load(run / "predictions.npz") as stored:
        for identifier, expected in zip(stored["ids"], stored["probabilities"], strict=True):
            assert np.abs(predictions[photographs / identifier].probabilities - expected).max() < 1e-6


def test_digits_have_the_probabilities_of_the_run(tmp_path):
    run = small_run(tmp_path / "outputs", "-bn", "False", "-e", "1", "--precision", "fp32")
    gray = (load_digits().images * 255 / 16).round().astype(np.uint8)
    with np.load(run / "predictions.npz") as stored:
        ids, expected = stored["ids"], stored["probabilities"]
    paths = [tmp_path / f"{identifier.replace('/', '-')}.png" for identifier in ids]
    for identifier, path in zip(ids, paths, strict=True):
        Image.fromarray(gray[int(identifier.split("/")[1])]).save(path)
    result = np.stack([one.probabilities for one in main(run, *paths)])
    assert np.abs(result - expected).max() < 1e-6


def test_pictures_unlike_all_training_images_are_told_of(tmp_path, capsys):
    run, paths = small_run(tmp_path / "outputs", "-e", "1"), [tmp_path / f"{number}.png" for number in range(5)]
    for path, pixels in zip(paths, (load_digits().images[:5] * 255 / 16).round().astype(np.uint8), strict=True):
        Image.fromarray(pixels if path == paths[0] else 255 - pixels).save(path)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(paths[4])

    def said(checkpoint):
        capsys.readouterr()
        main(checkpoint, *paths)
        return [line.partition(":")[2][1:43] for line in notes_of(capsys) if "than any training image" in line]

    assert said(run) == ["3 of 5 image(s) are much brighter than any", "1 of 5 image(s) are much darker than any t"]
    for unknown in ({}, {"least": None, "greatest": 1.0, "spread": 0.1}):
        assert said(changed(run, tmp_path / "best.pth", brightness=unknown)) == []


def test_probabilities_do_not_depend_on_the_batch(run, photographs):
    together, alone = main(run, photographs / "ant"), main(run, photographs / "ant", "--batch-size", 1)
    for one, other in zip(together, alone, strict=True):
        assert one.image == other.image and np.abs(one.probabilities - other.probabilities).max() < 1e-6


def test_large_images_are_shown_in_smaller_batches(run, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.prediction.BATCH_PIXELS", 2 * 32 * 32)
    sizes, honest = [], Classifier.probabilities
    monkeypatch.setattr(
        Classifier, "probabilities", lambda self, squares: sizes.append(len(squares)) or honest(self, squares)
    )
    together = main(run, photographs / "ant", "--montage", tmp_path / "m.png")
    assert sizes == [2] * 5 and len(together) == 10


def test_the_run_is_not_changed(run, photographs, tmp_path):
    def state():
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}

    before = state()
    main(run, photographs, "--csv", tmp_path / "p.csv")
    for option, name in (("--csv", "predictions.csv"), ("--csv", "new.csv"), ("--montage", "predictions.png")):
        assert "in which nothing is changed" in refusal(run, photographs, option, run / name)
    assert state() == before


def test_in_ones_own_code_a_run_is_loaded_from_anywhere(run, photographs, photograph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier = load_run(str(run), "cpu")
    square, _ = classifier.read(str(photograph))
    [probabilities] = classifier.probabilities([square])
    assert np.array_equal(probabilities, main(run, photograph)[0].probabilities)


def test_best_weights_alone_are_enough(run, photograph, tmp_path):
    alone = tmp_path / "elsewhere.pth"
    shutil.copy(run / "best.pth", alone)
    expected, [result] = main(run, photograph), main(alone, photograph, "--csv", tmp_path / "p.csv")
    assert np.array_equal(result.probabilities, expected[0].probabilities)
    assert "take the place" in refusal(alone, photograph, "--csv", alone)


def test_options_that_the_script_has_got_since_have_its_defaults(run, photograph, tmp_path):
    options = dict(read(run, "config.json")["options"])
    del options["batch_norm"], options["dropout"]
    [result] = main(changed(run, tmp_path / "best.pth", options=options), photograph)
    assert np.array_equal(result.probabilities, main(run, photograph)[0].probabilities)


def test_photographs_become_squares_as_in_training(run, tmp_path):
    halves = np.zeros((20, 60, 3), np.uint8)
    halves[:, 20:40] = 255
    Image.fromarray(halves).save(tmp_path / "halves.png")
    config = read(run, "config.json")
    said = [({"fit": fit}, color) for fit, color in (("crop", 255), ("squash", 0))]
    said.append(({"fit": None, "options": config["options"] | {"fit": "squash"}}, 0))  # as older runs say it
    for changes, expected in said:
        checkpoint = changed(run, tmp_path / "best.pth", **changes)
        classifier = load_classifier(checkpoint, prepare_machine("cpu", "fp32", False))
        pixels, _ = classifier.read(tmp_path / "halves.png")
        assert pixels[16, 1, 0] == expected


def test_rotated_and_grey_photographs_follow_the_rules_of_training(run, photograph, tmp_path):
    upright = Image.open(photograph)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be turned clockwise
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    upright.convert("L").save(tmp_path / "gray.png")
    upright.convert("L").convert("RGB").save(tmp_path / "expected.png")
    results = main(run, photograph, *(tmp_path / f"{name}.png" for name in ("turned", "gray", "expected")))
    upright, turned, gray, expected = (one.probabilities for one in results)
    assert np.array_equal(upright, turned) and np.array_equal(gray, expected)


def test_accuracy_is_told_where_folders_have_the_names_of_classes(run, photographs, tmp_path, capsys):
    folder = tmp_path / "folder"
    shutil.copytree(photographs, folder)
    write_photograph(folder / "dog" / "1.png", (0, 0, 0), 1)
    write_photograph(folder / "loose.png", (0, 0, 0), 2)
    write_photograph(folder / "ant" / "ant.images" / "deep.png", HUES["ant"], 3)
    predictions = main(run, folder, "--csv", tmp_path / "p.csv")
    classes = read(run, "config.json")["classes"]
    hits = sum(one.predicted(classes) == one.image.path.relative_to(folder).parts[0] for one in predictions)
    lines = capsys.readouterr().out.splitlines()
    lines = [line for line in lines if not line.startswith("note: ")]
    assert lines[-3].startswith(f"accuracy {hits / 31:.4f} ({hits} of 31 images are right; 95 % interval ")
    assert lines[-2].startswith("not counted: 2 image(s) in no folder that is named like a class of the run (such as ")
    assert sum(line.endswith("  right") for line in lines) == hits
    assert sum("  wrong, it is " in line for line in lines) == 31 - hits
    assert [row["true"] for row in table(tmp_path / "p.csv")] == ["", *["ant"] * 11, *["bee"] * 10, *["cow"] * 10, ""]


def test_no_accuracy_without_class_folders(run, photographs, photograph, capsys):
    assert {one.image.true for one in main(run, photographs / "ant", photograph)} == {None}
    printed = capsys.readouterr().out
    assert "\naccuracy" not in printed and "not counted" not in printed and "  right" not in printed


def test_images_are_found_in_order_without_litter(photographs, tmp_path):
    for name in ("b/2.png", "b/1.png", "a/z/1.png", "c.png", "b/.hidden.png", ".git/1.png", "Thumbs.db"):
        write_photograph(tmp_path / "folder" / "x.png", (0, 0, 0), 1)
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / "x.png").rename(tmp_path / "folder" / name)
    (tmp_path / "folder" / "ant").symlink_to(photographs / "ant")
    found = find_images([str(photographs / "bee" / "2.png"), str(tmp_path / "folder")], list(HUES))
    names = [os.path.relpath(one.path, tmp_path / "folder") for one in found[1:]]
    assert names == [
        "c.png",
        "a/z/1.png",
        *(f"ant/{n}.{'jpg' if n % 2 else 'png'}" for n in range(10)),
        "b/1.png",
        "b/2.png",
    ]
    assert found[0].path == photographs / "bee" / "2.png"
    assert [one.true for one in found] == [None] * 3 + ["ant"] * 10 + [None] * 2
    assert [one.is_stray for one in found] == [False] + [True] * 2 + [False] * 10 + [True] * 2


def test_the_table_has_the_most_probable_names(run, photographs, tmp_path):
    predictions = main(run, photographs / "cow", "--topk", 2, "--csv", tmp_path / "p.csv")
    rows = table(tmp_path / "p.csv")
    assert list(rows[0]) == "path predicted confidence top1 confidence1 top2 confidence2 true".split()
    for row, one in zip(rows, predictions, strict=True):
        first, second, _ = np.sort(one.probabilities)[::-1]
        order = [list(HUES)[label] for label in np.argsort(-one.probabilities)]
        assert (row["path"], row["true"]) == (str(one.image.path), "")
        assert [row["predicted"], row["top1"], row["top2"]] == [order[0], *order[:2]]
        assert row["confidence"] == row["confidence1"] and float(row["confidence1"]) == pytest.approx(first, abs=1e-6)
        assert float(row["confidence2"]) == pytest.approx(second, abs=1e-6)


def test_more_names_than_classes_are_all_of_them(run, photograph, capsys):
    main(run, photograph, "--topk", 1000)
    last = capsys.readouterr().out.splitlines()[-1]
    assert all(name in last for name in HUES)


@pytest.mark.slow
def test_hostile_names(photographs, tmp_path, capsys):
    data, images = tmp_path / "data", tmp_path / "images"
    for number, name in enumerate(HOSTILE):
        for seed in range(5):
            write_photograph(data / name / f"{seed}.png", (60 * number,) * 3, 10 * number + seed)
        write_photograph(images / name, (60 * number,) * 3, 100 + number)
    run = without_pictures(["--data", str(data), "-e", "1", "-b", "4", "--output_dir", str(tmp_path / "outputs")])
    capsys.readouterr()
    main(run, data, images, "--csv", tmp_path / "p.csv", "--montage", tmp_path / "m.png")
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 1 + 24 + 3 + 3 + 1 and "\x1b" not in "".join(lines) and "\r" not in "".join(lines)
    rows = table(tmp_path / "p.csv")
    assert len(rows) == 24
    shown = {name.encode("utf-8", "backslashreplace").decode() for name in HOSTILE}
    assert {row["true"] for row in rows} == shown | {""}
    assert {Path(row["path"]).name for row in rows[20:]} == shown
    assert {row["predicted"] for row in rows} <= shown
    assert is_png(tmp_path / "m.png")


def test_explained_images_stand_beside_themselves(run, photographs, tmp_path, monkeypatch):
    sheets = []
    monkeypatch.setattr("common.figures.save_sheets", lambda path, shown, in_pairs: sheets.extend(shown))
    predictions = main(run, photographs / "ant", "--montage", tmp_path / "m.png", "--explain")
    [(heading, pictures, titles)] = sheets
    assert "Grad-CAM" in heading and len(pictures) == len(titles) == 2 * len(predictions) + 1
    for place, one in enumerate(predictions):
        assert titles[2 * place + 1][0].endswith(f"evidence for\n{max(zip(one.probabilities, HUES, strict=True))[1]}")
        assert pictures[2 * place].shape == pictures[2 * place + 1].shape
    assert any(np.abs(pictures[2 * place] - pictures[2 * place + 1]).max() > 0.1 for place in range(len(predictions)))
    assert titles[-1][0].startswith("scale")
    assert "say with --montage" in refusal(run, photographs, "--explain")


def test_the_montage_shows_at_most_64_images(run, photographs, photograph, tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(figures, "save_sheets", lambda path, sheets, in_pairs: drawn.extend(sheets))
    main(run, photographs, photographs, photographs, photograph, "--montage", tmp_path / "m.png")
    assert "m.png: 64 of 91 images, evenly spread" in capsys.readouterr().out
    [(heading, images, titles)] = drawn
    assert heading == "64 of 91 images, evenly spread" and images.shape == (64, 32, 32, 3)
    assert 0 <= images.min() and images.max() <= 1
    for text, color in titles[:-1]:
        said, true = text.split("\n")
        is_right = said.split()[0] == true.removeprefix("true: ")
        assert color == (figures.RIGHT_COLOR if is_right else figures.WRONG_COLOR)
    assert titles[-1][0].endswith("\nphotograph.png") and titles[-1][1] == "black"


@pytest.mark.slow
def test_unreadable_images_are_named_and_the_others_predicted(run, photographs, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(photographs / "ant", folder)
    (folder / "3.jpg").write_bytes((folder / "3.jpg").read_bytes()[:500])
    (folder / "empty\n.png").write_bytes(b"")
    result = command(ROOT / "predict.py", run, folder, "--csv", "p.csv", "--montage", "m.png", cwd=tmp_path)
    assert result.returncode == 2
    first, second, last = result.stderr.splitlines()
    assert "3.jpg cannot be read" in first and "empty .png cannot be read: it is empty" in second
    assert last == "error: 2 of 11 images could not be read, see above; all others are predicted"
    assert len(table(tmp_path / "p.csv")) == 9 and is_png(tmp_path / "m.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "m.png", "p.csv"]


def test_nothing_readable(run, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "m.png").write_bytes(b"an older picture")
    assert "1 of 1 images" in refusal(run, tmp_path / "a.png", "--montage", tmp_path / "m.png")
    assert "m.png is not written" in capsys.readouterr().out
    assert (tmp_path / "m.png").read_bytes() == b"an older picture"


def test_runs_that_cannot_be_used(run, photograph, tmp_path):
    assert "there is no such run folder or checkpoint" in refusal(tmp_path / "nowhere", photograph)
    assert f"did you mean {run}?" in refusal(run.parent, photograph)
    assert "is no run folder" in refusal(tmp_path, photograph)
    shutil.copy(run / "config.json", tmp_path)
    assert "has not finished an epoch" in refusal(tmp_path, photograph)
    assert "another kind of checkpoint" in refusal(run / "last.pth", photograph)
    content = bytearray((run / "best.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "best.pth").write_bytes(content)
    assert "best.pth is damaged (its checksum is wrong)" in refusal(tmp_path, photograph)
    (tmp_path / "best.pth").write_bytes((run / "best.pth").read_bytes()[:-5000])
    assert "best.pth is damaged (its checksum is missing)" in refusal(tmp_path, photograph)


def test_a_file_of_somebody_else_is_not_called_damaged(photograph, tmp_path):
    weights = {"fc.weight": torch.zeros(2, 3)}
    torch.save({"state_dict": weights}, tmp_path / "a.pth")
    torch.save(weights, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "c.safetensors").write_bytes(safetensors(weights))
    for path in sorted(tmp_path.glob("?.*")):
        line = refusal(path, photograph)
        assert line.startswith(f"{path} is not the best.pth of a run here") and "trainB.py --weights FILE" in line
        assert "damaged" not in line


@pytest.mark.parametrize("script", ["ex_0", "os", "../ex_1", "common.runs.plots", "tests/conftest", ""])
def test_only_scripts_beside_predict_are_imported(run, photograph, tmp_path, script):
    assert "has no such script" in refusal(changed(run, tmp_path / "best.pth", script=script), photograph)


def test_checkpoints_of_other_scripts_and_networks(run, photograph, tmp_path):
    path = tmp_path / "best.pth"
    assert "predict.py, which is no experiment" in refusal(changed(run, path, script="predict"), photograph)
    assert "does not fit the network that ex_2.py builds now" in refusal(changed(run, path, script="ex_2"), photograph)
    content = load_checkpoint(run / "best.pth")
    del content["config"]["stored_size"]
    save_checkpoint(path, content)
    assert "of an earlier version: it does not tell stored_size" in refusal(path, photograph)


def test_images_that_are_not_there(run, photograph, tmp_path, capsys):
    assert "nowhere.png: there is no such image or folder" in refusal(run, photograph, tmp_path / "nowhere.png")
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    assert "empty is empty: there is no image in it" in refusal(run, tmp_path / "empty")
    assert "photograph.png" not in capsys.readouterr().out


def test_files_that_cannot_be_written(run, photographs, photograph, tmp_path, capsys):
    assert "--csv" in (line := refusal(run, photograph, "--csv", tmp_path / "no" / "p.csv")) and "No such" in line
    assert "cannot be written: there is something" in refusal(run, photograph, "--csv", tmp_path)
    assert "cannot be written: there is something" in refusal(run, photograph, "--csv", os.devnull)
    assert "choose a name that ends in .png" in refusal(run, photograph, "--montage", tmp_path / "m.jpg")
    assert "take the place" in refusal(run, photograph, "--montage", photograph)
    (tmp_path / "link.png").symlink_to(photographs / "ant" / "0.png")
    assert "take the place" in refusal(run, photographs, "--montage", tmp_path / "link.png")
    both = tmp_path / "both.png"
    assert "take the place" in refusal(run, photograph, "--csv", both, "--montage", both)
    assert "photograph.png " not in capsys.readouterr().out.replace(f"{photograph} would", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.png", "photograph.png"]


def test_command_lines(run, photograph):
    options = predict.parse_options(["run", "a.png", "--topk", "3", "b.png", "-b", "9", "c d.png"])
    assert (options.run, options.images) == ("run", ["a.png", "b.png", "c d.png"])
    assert (options.topk, options.batch_size, options.device) == (3, 9, "auto")
    assert "IMAGE" in refusal(run)
    assert "topk" in refusal(run, photograph, "--topk", 0)
    assert "--topkk" in refusal(run, photograph, "--topkk", 3)
    assert "cuda" in refusal(run, photograph, "--device", "cuda")


def test_the_newest_weights_of_a_folder(run):
    assert find_checkpoint(str(run)) == find_checkpoint(str(run / "best.pth")) == run / "best.pth"


def test_a_path_with_a_space_needs_quotes(run, photograph, tmp_path):
    (tmp_path / "my own pictures").mkdir()
    words = f"{tmp_path}/my own pictures".split()
    assert "a path with a space needs quotes" in refusal(run, *words)
    assert "a path with a space needs quotes" in refusal(run, photograph, *words, tmp_path / "absent")
    assert "quotes" not in refusal(run, *words[:2])


def test_the_newest_network_is_named_where_none_is_found(run, photograph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "the newest is" not in refusal("best.pth", photograph)
    for number, name in enumerate("ab"):
        folder = tmp_path / "outputs" / "ex_1" / "digits" / name
        folder.mkdir(parents=True)
        (folder / "best.pth").touch()
        os.utime(folder / "best.pth", (number, number))
    assert f"the newest is {Path('outputs', 'ex_1', 'digits', 'b', 'best.pth')}" in refusal("best.pth", photograph)


def test_a_file_that_is_no_picture_is_counted_once(tmp_path):
    write_class(tmp_path / "a", 1)
    (tmp_path / "a" / "0.txt").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    told = []
    with mock.patch("tools.prediction.tell_passed_over", told.extend):
        assert len(find_images([str(tmp_path)], ["a"])) == 1
    assert sorted(path.name for path in told) == ["0.txt", "notes.txt"]
