"""verify.py: what is honest passes, what was tampered with is named, whatever is in the folder."""

import codecs
import csv
import errno
import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ROOT, SMALL, command, made_once, read, small_run, without_pictures, write_class
from PIL import Image

import ex_1
import ex_6
import verify
from common.evaluation.looks import LEDGER
from common.evaluation.metrics import score
from common.options.shared import experiment_parser, told_options
from common.runs.folder import read_config, write_config
from common.runs.report import write_report
from common.runs.saving import question_of
from common.runs.state import weights_sha256
from common.system.checkpoints import load_checkpoint, save_checkpoint
from common.system.errors import BadInput
from common.system.files import write_bytes, write_json
from tools.verifying.again import _compare, _compare_others, _judge
from tools.verifying.claims import CURVES, OF_VIEWS, PICTURES, _tests_last_weights, check_scores
from tools.verifying.folder import Folder, Unknown
from tools.verifying.options import EQUAL_WEIGHTS
from tools.verifying.task import read_task

# The ways to tamper, as somebody would who knows the checksums


def edit_json(name, change):
    def tamper(run, _):
        write_json(run / name, read(run, name) | change)

    return tamper


def edit_config(**changes):
    def tamper(run, _):
        config = {name: value for name, value in read_config(run).items() if name != "config_sha256"}
        options = config["options"] | changes.get("options", {})
        write_config(run, config | changes | {"options": options})

    return tamper


def edit_checkpoint(name, change):
    def tamper(run, _):
        content = load_checkpoint(run / name)
        change(content)
        save_checkpoint(run / name, content)

    return tamper


def hidden_test(run, _):
    """A score that nothing follows from, as the test images seem to have no labels."""
    (run / "submission.csv").touch()
    (run / "report.html").unlink()
    write_json(run / "test.json", read(run, "test.json") | {"accuracy": 0.99})


def claimed_test(run, _):
    """A score of a run that was not to be tested."""
    edit_config(options={"test": False})(run, None)
    for name in ("predictions.npz", "predictions.csv", "confusion.csv", "report.html"):
        (run / name).unlink()
    write_json(run / "test.json", {"accuracy": 1.0, "images": 359})


def better_predictions(run, _):
    """Answers are made right, and the scores follow from them."""
    with np.load(run / "predictions.npz") as file:
        stored = dict(file)
    stored["probabilities"] = np.eye(10, dtype=np.float32)[stored["labels"]]
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    write_bytes(run / "predictions.npz", buffer.getvalue())
    scores = score(stored["probabilities"], stored["labels"], read(run, "config.json")["classes"])
    write_json(run / "test.json", read(run, "test.json") | scores | {"loss": 0.0})


def better_epoch(run, _):
    train = read(run, "train.json")
    train["epochs"][0]["val_accuracy"] = train["best_val_accuracy"] = 29 / 30
    write_json(run / "train.json", train | {"best_epoch": 1})


def other_code(run, _):
    with zipfile.ZipFile(run / "code" / "project.zip", "a") as file:
        file.writestr("ex_9.py", "print()")


def other_script(run, _):
    (run / "code" / "ex_1.py").write_text("# nothing\n")


def looked_often(run, _):
    with open(run.parents[2] / LEDGER, "a", encoding="utf-8") as file:
        line = {"run": read_config(run)["run_id"], "recipe": "a", "images": "b", "what": "images as they are"}
        file.write(json.dumps(line) + "\n")


def foreign_best(run, other):
    shutil.copyfile(other / "best.pth", run / "best.pth")


def missing(name):
    return lambda run, _: (run / name).unlink()


def better_page(run, _):
    page = (run / "report.html").read_text(encoding="utf-8")
    accuracy = f"{read(run, 'test.json')['accuracy']:.2%}"
    assert accuracy in page
    (run / "report.html").write_text(page.replace(accuracy, "99.99%"), encoding="utf-8")


def foreign_picture(run, _):
    page = (run / "report.html").read_text(encoding="utf-8")
    (run / "report.html").write_text(page.replace("</main>", '<img src="data:image/png;base64,iVBORw0="></main>'))


def shown_beside(before, added):
    """Add something to a page where what is of another place, or look, is not compared."""

    def tamper(run, _):
        page = (run / "report.html").read_text(encoding="utf-8")
        assert before in page
        (run / "report.html").write_text(page.replace(before, before + added, 1), encoding="utf-8")

    return tamper


def perturb(content):
    weights = content["model"].items()
    content["model"] = {name: value + 0.01 if value.is_floating_point() else value for name, value in weights}


def adopt_weights(run, other):
    """Another run's weights, sealed as this run's own."""
    own, foreign = (load_checkpoint(folder / "best.pth") for folder in (run, other))
    save_checkpoint(run / "best.pth", own | {"model": foreign["model"]})


TAMPERED = {
    "a score": (edit_json("test.json", {"accuracy": 0.999}), "test.json does not follow from predictions.npz: acc"),
    "an interval": (edit_json("test.json", {"accuracy_interval_95": [0.9, 1.0]}), "accuracy_interval_95"),
    "a validation score": (edit_json("validation.json", {"f1_score": 0.99}), "validation.json does not follow"),
    "predictions and scores": (better_predictions, "predictions.csv does not follow"),
    "an epoch": (better_epoch, "train.json was changed: val_accuracy of epoch 1"),
    "weights": (edit_checkpoint("best.pth", perturb), "best.pth does not hold the weights that epoch"),
    "weights of another": (adopt_weights, "best.pth does not hold the weights that epoch"),
    "the last state": (edit_checkpoint("last.pth", perturb), "last.pth does not hold the weights"),
    "an option": (edit_config(options={"lr": 0.5}), "config.json: --lr is 0.5, in best.pth 0.001"),
    "the seed": (edit_config(seed=7), "config.json: seed is 7, in best.pth 0"),
    "the data": (edit_config(split_sha256="0" * 64), "config.json: split_sha256 is"),
    "the number of images": (edit_config(images={"train": 60_000, "val": 30, "test": 60}), "config.json: images is"),
    "a code of another time": (edit_config(code_sha256="0" * 64), "code/project.zip is not the code"),
    "the code": (other_code, "code/project.zip is not the code that config.json names"),
    "the script": (other_script, "code/ex_1.py is not the script in code/project.zip"),
    "looks at the test": (looked_often, "test.json: 1 look(s) at the test images; the account has 2"),
    "a foreign best": (foreign_best, "best.pth belongs to another run"),
    "no predictions": (missing("predictions.npz"), "predictions.npz is missing"),
    "no test": (missing("test.json"), "there is no test.json"),
    "a test without labels": (hidden_test, "test.json beside submission.csv: no run writes both"),
    "a test that was not made": (claimed_test, "predictions.npz is missing"),
    "no best": (missing("best.pth"), "best.pth is missing"),
    "no pictures": (missing("loss.png"), "loss.png is missing"),
    "no history": (missing("train.json"), "there is no train.json"),
    "an open edit": (edit_json("config.json", {"seed": 3}), "was changed since"),
    "nonsense": (edit_json("train.json", {"epochs": [{"epoch": "x"}]}), "what no run writes"),
    "a list": (lambda run, _: (run / "test.json").write_text("[]"), "test.json is damaged"),
    "deep nesting": (lambda run, _: (run / "test.json").write_text("[" * 100_000), "test.json is damaged"),
    "the page": (better_page, "report.html does not show what the files beside it say"),
    "a picture in the page": (foreign_picture, "report.html does not show what the files beside it say"),
    "a result in the head": (shown_beside("<head>", "<h1>99 %</h1>"), "report.html does not show what the files"),
    "a result in a command": (shown_beside("verify.py ", "x</pre><h1>99 %</h1><pre>"), "report.html does not show"),
    "a large log": (lambda run, _: os.truncate(run / "log.txt", 2**40), "is larger than any run writes"),
    "a bomb": (lambda run, _: (run / "predictions.npz").write_bytes(b"PK" + bytes(100)), "predictions.npz is damaged"),
}  # fmt: skip


def no_files(run, _):
    for name in ("config.json", "train.json"):
        (run / name).unlink()
        (run / name).symlink_to("nowhere")


def strange_account(run, _):
    with open(run.parents[2] / LEDGER, "a", encoding="utf-8") as file:
        file.write(json.dumps({"run": [1], "recipe": {}, "images": [], "folder": "outputs/ex_1/digits/run"}) + "\n")


STRANGE = {
    "a number that is a text": (edit_json("test.json", {"images": "many"}), True),
    "a name that is a list": (edit_config(run_id=[1]), True),
    "links to nothing": (no_files, True),
    "an account that no run writes": (strange_account, False),
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A folder of two runs, with seeds 0 and 1; nobody may change it."""

    def make(folder):
        for seed in ("0", "1"):
            small_run(folder, "-s", seed)
        add_pictures(folder)

    return made_once(tmp_path_factory, "honest", make)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run with all its pictures; nobody may change it."""
    make = lambda folder: ex_1.main([*SMALL, "--output_dir", str(folder)])  # noqa: E731
    return runs_in(made_once(tmp_path_factory, "drawn", make))[0]


def add_pictures(folder):
    """Give all runs in a folder the pictures that they must have, for those tests that look at their names only."""
    for run in runs_in(folder):
        for name in PICTURES:
            Image.new("RGB", (1, 1)).save(run / name)


def runs_in(folder):
    """Return the run folders by their seeds."""
    runs = (path.parent for path in folder.rglob("config.json"))
    return sorted(runs, key=lambda run: (read(run, "config.json")["seed"], run))


@pytest.fixture
def copied(honest, tmp_path):
    """A copy of the two runs, and the account of looks; the runs."""
    shutil.copytree(honest, tmp_path / "copied")
    return runs_in(tmp_path / "copied")


def refuted(*argv):
    """Return what verify.py finds false, as one text; everything that it writes is written."""
    return "\n".join(text for folder in failing(*argv) for text in folder.of_kind("false"))


def failing(*argv):
    """Return the folders that verify.py has verified, where its exit code must be 2."""
    found = []
    tell = verify.tell
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(verify, "tell", lambda folders, people: found.extend(folders) or tell(folders, people))
        verify.main([str(word) for word in argv])
    assert ended.value.code == 2
    return found


def content_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_honest_runs_are_as_claimed_and_only_read(honest):
    before = content_of(honest)
    folders = verify.main([str(honest)])
    assert [folder.is_as_claimed for folder in folders] == [True, True]
    assert all(folder.checked > 60 and not folder.of_kind("not checked") for folder in folders)
    assert content_of(honest) == before


def test_a_run_on_an_hdf5_file_is_as_claimed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for part, rows in (("train", slice(40)), ("val", slice(40, 50)), ("test", slice(50, 60))):
            file[f"images-{part}"], file[f"labels-{part}"] = pixels[rows], np.arange(60)[rows] % 2
    run = without_pictures(["--data", str(tmp_path / "a.hdf5"), "-e", "1", "--output_dir", str(tmp_path)])
    add_pictures(run)
    [folder] = verify.main([str(run)])
    assert folder.of_kind("not checked") == ["the images of an HDF5 file are not told one by one"]


@pytest.mark.parametrize("way", TAMPERED)
def test_what_was_tampered_with_is_named(copied, way):
    tamper, expected = TAMPERED[way]
    tamper(copied[0], copied[1])
    assert expected in refuted(copied[0])


def test_a_page_is_not_false_whatever_its_run_is_called_and_what_trackers_said_later(copied):
    run = copied[0].rename(copied[0].with_name("a&b; <c>"))
    write_report(run, question_of(ROOT / "ex_1.py"), told_options("ex_1.py", read(run, "config.json")["options"]))
    with open(run / "log.txt", "a") as file:
        file.write("warning: --wandb has failed and is left out: TimeoutError\n")
    if hasattr(os, "mkfifo"):  # not on Windows
        os.mkfifo(run / "pipe.png")
    other = run.rename(run.with_name("other"))
    assert verify.main([str(other)])[0].is_as_claimed


def test_the_page_of_a_run_is_not_false_where_other_workers_are_usual(honest, monkeypatch):
    monkeypatch.setattr("common.options.shared.usable_cores", lambda: 1000)
    assert all(folder.is_as_claimed for folder in verify.main([str(honest)]))


@pytest.mark.parametrize("way", STRANGE)
def test_whatever_lies_in_one_folder_all_others_are_verified(copied, tmp_path, way):
    change, is_false = STRANGE[way]
    change(copied[0], None)
    words = [*copied, "--csv", tmp_path / "a.csv", "--html", tmp_path / "a.html"]
    found = failing(*words) if is_false else verify.main(list(map(str, words)))
    assert [folder.is_as_claimed for folder in found] == [not is_false, True]


@pytest.mark.slow
def test_predictions_whose_every_table_was_forged_do_not_show_what_the_pictures_show(drawn, tmp_path):
    assert verify.main([str(drawn), "--pictures"])[0].of_kind("not checked") == []
    run = Path(shutil.copytree(drawn, tmp_path / "ex_1" / "digits" / "run"))
    better_predictions(run, None)
    (run / "predictions.csv").unlink()
    (run / "confusion.csv").unlink()
    assert "confusion_matrix.png does not show what the records say" in refuted(run, "--pictures")


def test_a_copy_of_a_run_is_named_in_both_folders(copied, tmp_path):
    shutil.copytree(copied[0], tmp_path / "neighbor")
    text = refuted(copied[0], copied[1], tmp_path / "neighbor")
    assert text.count("this is the same run as") == 2 and text.count("a person must say which") == 2
    assert "as neighbor:" in text and copied[0].name in text


@pytest.mark.slow
def test_the_same_weights_are_honest_only_for_the_same_command(tmp_path):
    for name in ("one", "two"):
        small_run(tmp_path / name, "-e", "1")
    add_pictures(tmp_path)
    one, two = runs_in(tmp_path)
    for folder in verify.main([str(one), str(two)]):
        assert [text for text in folder.of_kind("note") if text.startswith("the same bits as")]
    edit_config(options={"lr": 0.5})(two, None)  # those of another homework, over the same weights
    assert "though --lr is 0.5 here and 0.001 there" in refuted(one, two)


def rows_of(path):
    """Return the rows of a table that begins with the mark by which Excel knows its letters."""
    assert path.read_bytes().startswith(codecs.BOM_UTF8)
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def test_a_table_and_a_page_tell_of_all_folders(copied, tmp_path, capsys):
    edit_json("test.json", {"accuracy": 0.999})(copied[0], None)
    edit_json("test.json", {"selected_on": "<script>alert(1)</script>"})(copied[1], None)
    (copied[1] / "report.html").unlink()
    renamed = copied[1].rename(copied[1].with_name("<b>=1+1"))
    refuted(*copied[:1], renamed, "--csv", tmp_path / "a.csv", "--html", tmp_path / "a.html")
    rows = rows_of(tmp_path / "a.csv")
    assert [row["verdict"] for row in rows] == ["false", "ok"]
    assert 0 < float(rows[0]["test_accuracy"]) < 0.999  # what follows from the predictions, not what is claimed
    page = (tmp_path / "a.html").read_text()
    assert "accuracy 0.999," in page and "&lt;b&gt;=1+1" in page and "<b>=1+1" not in page and "<script" not in page
    assert capsys.readouterr().out.endswith("2 folders: 1 ok, 1 false\n")


TASK = """
script: ex_1.py
dataset: digits
options: {epochs: 2, batch_norm: true, lr: 1e-3}
seeds: [0, 1]
min_runs: 2
min_test_images: 50
"""


def test_a_task_that_was_done_is_done(honest, tmp_path):
    (tmp_path / "task.yaml").write_text(TASK)
    assert all(folder.is_as_claimed for folder in verify.main([str(honest), "--task", str(tmp_path / "task.yaml")]))


def test_a_run_that_has_not_come_to_its_end_is_not_called_false_and_does_not_count(copied, tmp_path, capsys):
    edit_json("train.json", {"status": "interrupted"})(copied[0], None)
    (copied[0] / "test.json").unlink()
    folders = verify.main([str(run) for run in copied])
    assert [folder.verdict for folder in folders] == ["not finished", "ok"] and not folders[0].is_valid
    assert "the run has not come to its end" in capsys.readouterr().out
    (tmp_path / "task.yaml").write_text("seeds: [0, 1]")
    assert refuted(copied[0].parent, "--task", tmp_path / "task.yaml") == ""
    assert "seed 0 is missing; seed 1 is there" in capsys.readouterr().out


def test_a_machine_that_is_full_accuses_nobody(copied, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    full.__name__ = "check_report"
    monkeypatch.setattr("tools.verifying.claims.check_report", full)
    [folder] = verify.main([str(copied[0])])
    assert any("this machine could not check report: OSError" in text for text in folder.of_kind("not checked"))


def test_a_run_that_has_trained_no_epoch_has_no_curves(copied, tmp_path):
    run = small_run(tmp_path / "none", "--weights", str(copied[0] / "best.pth"), "-e", "0")
    add_pictures(tmp_path / "none")
    for name in CURVES:
        (run / name).unlink()
    assert [folder.of_kind("false") for folder in verify.main([str(run)])] == [[]]


def test_copies_in_the_validation_images_of_a_data_set_are_to_be_looked_at(tmp_path):
    for part in ("train", "val", "test"):
        for number, name in enumerate(("a", "b")):
            write_class(tmp_path / "data" / part / name, 8, first_seed=100 * number + 10 * len(part))
    copy = tmp_path / "data" / "val" / "a" / "copy.png"
    shutil.copyfile(tmp_path / "data" / "train" / "a" / "000.png", copy)
    words = ["--data", str(tmp_path / "data"), "-e", "1", "-b", "8", "--output_dir", str(tmp_path / "out")]
    run = without_pictures(words)
    add_pictures(tmp_path / "out")
    [folder] = verify.main([str(run)])
    assert any("1 validation images have a copy among the training" in text for text in folder.of_kind("look at"))


@pytest.mark.slow
def test_a_run_that_tests_its_last_weights_is_known_without_its_clock(tmp_path):
    run = small_run(tmp_path, "--widths", "8,8,8", script=ex_6)
    add_pictures(tmp_path)
    (run / "clock.json").unlink()  # as in a run that was resumed
    assert [folder.of_kind("false") for folder in verify.main([str(run)])] == [[]]


@pytest.mark.slow
def test_the_score_of_several_views_is_made_again(tmp_path):
    run = small_run(tmp_path, "--tta", "2")
    add_pictures(tmp_path)
    [folder] = verify.main([str(run), "--predict"])
    assert not folder.of_kind("not checked")
    tta = read(run, "test.json")["tta"]
    edit_json("test.json", {"tta": tta | {"accuracy": 0.999}})(run, None)
    (run / "report.html").unlink()
    [folder] = verify.main([str(run)])
    assert folder.of_kind("not checked") == [OF_VIEWS]
    assert "test.json: tta 0.999, made again" in refuted(run, "--predict")


@pytest.mark.parametrize(
    ("by", "reasons", "is_false"), [(0.01, [], True), (0.01, ["cpu"], False), (0.6, ["cpu"], True)]
)
def test_predictions_of_coarse_numbers_may_differ_on_another_machine(copied, tmp_path, by, reasons, is_false):
    with np.load(copied[0] / "predictions.npz") as file:
        stored = dict(file)
    right = np.eye(10)[stored["labels"]]
    sure = 0.9 * right + 0.01
    np.savez(copied[0] / "predictions.npz", **stored | {"probabilities": sure})
    np.savez(tmp_path / "again.npz", **stored | {"probabilities": sure - by * right + by * np.roll(right, 1, axis=1)})
    folder = Folder(copied[0], "")
    _compare(folder, "predictions.npz", tmp_path / "again.npz", reasons)
    assert any("made again" in text for text in folder.of_kind("false")) == is_false
    told = any("cpu was another, and the network is not in float32" in text for text in folder.of_kind("look at"))
    assert told == (not is_false)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("script: ex_2", "script ex_2, not ex_1"),
        ("dataset: cifar10", "dataset cifar10, not digits"),
        ("split_sha256: '00'", "split_sha256 00, not"),
        ("options: {epochs: 10}", "--epochs 10, not 2"),
        ("options: {batch_norm: false}", "--batch_norm False, not True"),
        ("options: {limit: null}", "not asked for: the task wants no --limit"),
        ("seeds: [0, 1, 2]", "seed 2 is missing; seeds 0 and 1 are there"),
        ("seeds: [3, 4]", "seeds 3 and 4 are missing; seeds 0 and 1 are there"),
        ("min_runs: 3", "the task wants 3 of different seeds; there are 2 valid runs"),
        ("min_test_images: 1000", "1000 test images, not"),
    ],
)
def test_a_task_that_was_not_done_is_named_and_nothing_is_called_false(honest, tmp_path, capsys, line, expected):
    (tmp_path / "task.yaml").write_text(line)
    assert refuted(honest, "--task", tmp_path / "task.yaml") == ""
    said = capsys.readouterr().out
    assert expected in said and "NOT FULFILLED once-honest" in said and "FALSE" not in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["absent"], "absent: there is no such folder"),
        (["empty"], "empty: there is no run in that folder"),
        (["empty", "--rerun"], "--rerun executes code"),
        (["empty", "--trust"], "belong to --rerun"),
        (["empty", "--rerun", "0", "--trust"], "--rerun"),
        (["empty", "--task", "absent.yaml"], "--task absent.yaml cannot be read"),
        (["empty", "--csv", "absent/a.csv"], "--csv absent/a.csv cannot be written"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, words, expected):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as error:
        verify.main(words)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("script: 3", "script cannot be"),
        ("scripts: ex_1", "did you mean script"),
        ("- a", "must hold lines"),
        ("seeds: 3", "seeds cannot be"),
        ("seeds: [a]", "seeds cannot be"),
        ("min_runs: many", "min_runs cannot be"),
        ("script: ex1", "did you mean ex_1"),
        ("script: verify", "none of ex_1"),
        ("dataset: digit", "did you mean digits"),
        ("code: mine", "none of this tree"),
        ("options: {batchnorm: false}", "did you mean batch_norm"),
        ("script: ex_1\noptions: {bn: false}", "long names, such as batch_norm for -bn"),
    ],
)
def test_a_task_file_that_nobody_could_fulfill_is_refused(honest, tmp_path, text, expected):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(BadInput, match="--task") as error:
        verify.main([str(honest), "--task", str(tmp_path / "task.yaml")])
    assert expected in str(error.value)


def test_names_in_a_task_file_are_taken_in_any_case(tmp_path):
    (tmp_path / "task.yaml").write_text("dataset: Digits\nscript: EX_1.py")
    assert read_task(str(tmp_path / "task.yaml")) == {"dataset": "digits", "script": "ex_1"}


@pytest.mark.slow
def test_predictions_are_made_again(copied, tmp_path):
    before = content_of(copied[0].parents[2])
    done = command("verify.py", copied[0], "--predict", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("made again, the largest difference of a probability is 0, 0 answers differ") == 2
    assert content_of(copied[0].parents[2]) == before  # and no look at test images is counted
    better_predictions(copied[1], None)
    assert "predictions.npz: made again, the largest difference" in refuted(copied[1], "--predict")


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_script_elsewhere_is_not_executed(copied, tmp_path, is_absolute):
    """The name in config.json is the folder's own word: no path in it may lead to code that was handed in."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    path = tmp_path / "evil"
    edit_config(script=str(path if is_absolute else os.path.relpath(path, ROOT)))(copied[0], None)
    assert "config.json: script cannot be" in refuted(copied[0], "--predict")
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
def test_training_again_gives_the_same_bits(copied, tmp_path):
    before = content_of(copied[0].parents[2])
    done = command("verify.py", copied[0], "--rerun", "--trust", cwd=tmp_path)
    assert done.returncode == 2 and "can't open file" in done.stderr
    done = command(ROOT / "verify.py", copied[0], "--rerun", "--trust", cwd=tmp_path)
    assert done.returncode == 0 and "trained again: bits agree, epochs 1 to 2" in done.stdout, done.stdout + done.stderr
    done = command(ROOT / "verify.py", copied[1], "--rerun", "1", "--this_code", cwd=tmp_path)
    assert done.returncode == 0 and "trained again: bits agree, epochs 1 to 1" in done.stdout, done.stdout + done.stderr
    assert content_of(copied[0].parents[2]) == before


@pytest.mark.slow
def test_training_again_from_a_kept_state(tmp_path):
    run = ex_1.main([*SMALL, "-e", "4", "--save_every", "1", "--output_dir", str(tmp_path)])
    done = command("verify.py", run, "--rerun", "2", "--this_code", cwd=ROOT)
    assert done.returncode == 0 and "bits agree, epochs 3 to 4" in done.stdout, done.stdout + done.stderr


def forge_weights(run):
    """Give a run other weights, and make every record and checksum fit them; only training again tells."""
    best, last, train = load_checkpoint(run / "best.pth"), load_checkpoint(run / "last.pth"), read(run, "train.json")
    perturb(best)
    for record in (last["history"][best["epoch"] - 1], train["epochs"][best["epoch"] - 1]):
        record["weights_sha256"] = weights_sha256(best["model"])
    if best["epoch"] == len(last["history"]):
        last["model"] = best["model"]
    save_checkpoint(run / "best.pth", best)
    save_checkpoint(run / "last.pth", last)
    write_json(run / "train.json", train)
    verify.main([str(run)])


@pytest.mark.slow
def test_weights_that_no_training_gave_are_refuted(copied):
    forge_weights(copied[0])
    text = refuted(copied[0], "--rerun", "--this_code")
    assert "on they differ; code, versions, machine and threads are the same" in text


@pytest.mark.slow
def test_where_threads_are_others_they_are_told_as_the_reason_and_nothing_is_refuted(copied, monkeypatch):
    forge_weights(copied[0])
    before = read(copied[0], "config.json")["machine"]["threads"]
    monkeypatch.setenv("OMP_NUM_THREADS", str(before + 1))
    [folder] = verify.main([str(copied[0]), "--rerun", "--this_code"])
    [text] = folder.of_kind("not checked")
    assert f"on they differ, as may be: threads was {before}, is {before + 1}" in text


@pytest.mark.slow
def test_of_sixty_folders_the_ten_are_named_and_nobody_else(tmp_path):
    for seed in range(50):
        small_run(tmp_path / f"person-{seed:02}", "-e", "1", "-s", str(seed))
    ways = ["a score", "predictions and scores", "weights", "an option", "the code", "the data", "looks at the test",
            "a foreign best", "no predictions"]  # fmt: skip
    for number in range(len(ways)):
        small_run(tmp_path / f"tampered-{number}", "-e", "1", "-s", str(100 + number))
    add_pictures(tmp_path)
    for number, way in enumerate(ways):
        TAMPERED[way][0](runs_in(tmp_path / f"tampered-{number}")[0], runs_in(tmp_path / "person-00")[0])
    shutil.copytree(tmp_path / "person-07", tmp_path / "tampered-9")
    found = {folder.group: folder for folder in failing(*sorted(tmp_path.iterdir()))}
    assert len(found) == 60
    named = sorted(Path(group).name for group, folder in found.items() if not folder.is_as_claimed)
    assert named == ["person-07", *(f"tampered-{number}" for number in range(10))]  # copied: both are named


@pytest.mark.slow
def test_the_task_of_the_course_is_fulfilled_by_its_first_exercise_and_by_nothing_less(tmp_path, monkeypatch, capsys):
    """With fewer epochs and seeds; its other lines, the images among them, are as they stand in docs/."""
    task = read_task(str(ROOT / "docs" / "course_task.yaml"))
    assert task["options"].keys() <= vars(ex_1.parse_options(["--dataset", "digits"])).keys()
    task |= {"seeds": [0, 1], "min_runs": 2, "options": task["options"] | {"epochs": 1}}
    monkeypatch.setattr(verify, "read_task", lambda path: task)
    without_pictures(["--dataset", "digits", "-e", "1", "-s", "0,1", "--output_dir", str(tmp_path / "ann")])
    without_pictures([*SMALL, "-e", "1", "-s", "0", "--output_dir", str(tmp_path / "bob")])
    for name in ("ann", "bob"):
        add_pictures(tmp_path / name)
    assert all(folder.is_as_claimed for folder in verify.main([str(tmp_path / "ann"), "--task", "x"]))
    assert refuted(tmp_path / "bob", "--task", "x") == ""
    said = capsys.readouterr().out
    assert "no --limit" in said and "split_sha256" in said and "seeds 0 and 1 are missing; none is there" in said


def test_a_loss_that_probabilities_are_too_small_to_tell_is_not_called_false(copied):
    """As of a run with too high a rate: float32 has no number below 1e-45, and a loss of 200 is an honest one."""
    name = "val_predictions.npz"
    with np.load(copied[0] / name) as file:
        stored = dict(file)
    [first, *_] = np.flatnonzero(stored["probabilities"].argmax(1) != stored["labels"])
    stored["probabilities"][first, stored["labels"][first]] = 0
    with io.BytesIO() as buffer:
        np.savez(buffer, **stored)
        write_bytes(copied[0] / name, buffer.getvalue())
    found = verify.find_folders([str(copied[0])])[0]
    check_scores(found, "val_")
    assert not [text for text in found.of_kind("false") if "loss" in text]
    assert any("so the loss in validation.json cannot be checked" in text for text in found.of_kind("note"))


# Several people


@pytest.fixture
def people(honest, tmp_path):
    """The folders of Ann and Bob, each with its own copy of the two runs, as two machines would have made them."""
    for name in ("ann", "bob"):
        shutil.copytree(honest, tmp_path / "hand-ins" / name / "hand_in")
        for run in runs_in(tmp_path / "hand-ins" / name) if name == "bob" else ():
            make_another_run(run, f"bob-{read(run, 'config.json')['seed']}")
    return tmp_path / "hand-ins"


def make_another_run(run, run_id, **options):
    """Let a run be one of its own that has the same weights, as another machine of the same kind makes it."""
    own = read_config(run)["run_id"]
    config = {name: value for name, value in read_config(run).items() if name != "config_sha256"}
    write_config(run, config | {"run_id": run_id, "options": config["options"] | options})
    for name in ("best.pth", "last.pth"):
        content = load_checkpoint(run / name)
        if "config" in content:
            content["config"] |= {"run_id": run_id, "options": content["config"]["options"] | options}
        save_checkpoint(run / name, content | ({"run_id": run_id} if "run_id" in content else {}))
    ledger = run.parents[2] / LEDGER
    ledger.write_text(ledger.read_text().replace(own, run_id))
    (run / "report.html").unlink(missing_ok=True)


def test_other_options_that_leave_the_weights_as_they_are_are_no_reason_for_suspicion(people):
    ann, bob = (runs_in(people / name)[0] for name in ("ann", "bob"))
    (bob / "images.npz").unlink()
    make_another_run(bob, "bob", figures="svg", epochs=2, momentum=0.5, output_dir="elsewhere", watch=3, tta=2)
    folders = verify.main([str(people / "ann"), str(people / "bob")])
    found = {folder.path: folder for folder in folders}
    assert "the same bits as bob/" in "".join(found[ann].of_kind("note")) and not found[bob].of_kind("false")
    assert "\n".join(found[ann].of_kind("note")).count("the same bits as") == 1  # once for weights and predictions


def test_who_differs_from_most_with_the_same_weights_is_named_alone(people):
    ann, bob = (runs_in(people / name)[0] for name in ("ann", "bob"))
    eve = people / "eve" / "hand_in" / "ex_1" / "digits" / "run"
    shutil.copytree(bob, eve)
    shutil.copyfile(bob.parents[2] / LEDGER, eve.parents[2] / LEDGER)
    make_another_run(eve, "eve", lr=0.5)
    texts = [folder.of_kind("false") for folder in failing(ann, bob, eve)]
    assert texts[:2] == [[], []]
    [text] = texts[2]
    assert text.startswith("the same weights as 2 other folders") and "--lr is 0.5 here and 0.001 there" in text


def test_who_is_false_already_does_not_drag_down_the_one_copied_from(people):
    ann, bob = (runs_in(people / name)[0] for name in ("ann", "bob"))
    make_another_run(bob, "bob", lr=0.5)
    assert [len(folder.of_kind("false")) for folder in failing(ann, bob)] == [1, 1]  # who has copied, nothing tells
    edit_json("test.json", {"accuracy": 0.999})(bob, None)
    assert [len(folder.of_kind("false")) for folder in failing(ann, bob)] == [0, 2]


def test_every_shared_option_is_known_to_change_weights_or_not_to():
    changing = """
        accumulate balanced_sampling batch_schedule batch_size class_weights clip_grad cutmix dataset ema folds gamma
        label_smoothing lr milestones mixup momentum null_test optimizer plateau_patience schedule seed step_size
        warmup_epochs weight_decay
    """
    shared = experiment_parser("ex_1.py", "")._defaults_of_all().keys()
    assert shared - {*EQUAL_WEIGHTS} == set(changing.split())


def test_a_table_that_excel_has_saved_is_not_false(copied):
    for name in ("predictions.csv", "val_confusion.csv"):
        rows = list(csv.reader(io.StringIO((copied[0] / name).read_text(encoding="utf-8"))))
        lines = [";".join(cell.replace(".", ",") if cell.startswith("0.") else cell for cell in row) for row in rows]
        (copied[0] / name).write_bytes(codecs.BOM_UTF8 + "\r\n".join([*lines, ""]).encode())
    assert verify.main([str(copied[0])])[0].is_as_claimed


def task_file(folder, text="seeds: [0, 1]"):
    (folder / "task.yaml").write_text(text)
    return folder / "task.yaml"


def test_each_person_has_a_line_a_row_and_a_verdict(people, tmp_path, capsys):
    for run in runs_in(people / "bob")[1:]:
        edit_json("test.json", {"accuracy": 0.999})(run, None)
    words = ["--task", task_file(tmp_path), "--csv", tmp_path / "grades.csv", "--html", tmp_path / "a.html"]
    failing(people / "ann", people / "bob", *words)
    ann, bob = rows_of(tmp_path / "grades_people.csv")
    assert (ann["person"], ann["task"], ann["seeds"], ann["n"], ann["false"]) == ("ann", "fulfilled", "0, 1", "2", "")
    assert 0 < float(ann["test_accuracy"]) < 1 and " to " in ann["interval_95"]
    assert (bob["task"], bob["missing"]) == ("not fulfilled", "seed 1 is missing; seed 0 is there")
    assert bob["false"] == f"1 of 2 ({runs_in(people / 'bob')[1].name})"
    said = capsys.readouterr().out.splitlines()
    assert said[-3].startswith("fulfilled     ann: valid seeds 0, 1; test accuracy 0.")
    assert said[-2].startswith("NOT FULFILLED bob: seed 1 is missing; seed 0 is there; test accuracy 0.")
    assert said[-1] == "2 people: 1 fulfilled the task, 1 not; 4 folders: 3 ok, 1 false"
    page = (tmp_path / "a.html").read_text()
    assert page.index("<td>bob</td>") < page.index("<td>ann</td>") < page.index("<th>experiment</th>")


def test_runs_that_were_not_asked_for_do_not_count_and_harm_nobody(people, tmp_path, capsys):
    one, other = runs_in(people / "ann")
    make_another_run(one, "other", epochs=2, lr=0.5)
    task = task_file(tmp_path, "options: {lr: 0.001}\nseeds: [1]")
    found = verify.main([str(people / "ann"), "--task", str(task)])
    assert sorted(folder.verdict for folder in found) == ["not asked for", "ok"]
    assert "1 person: 1 fulfilled the task, 0 not; 2 folders: 1 not asked for, 1 ok" in capsys.readouterr().out


def test_one_seed_twice_is_one_run(people, tmp_path, capsys):
    failing(people, "--task", task_file(tmp_path, "min_runs: 3"))
    assert "the task wants 3 of different seeds; there are 2 valid runs" in capsys.readouterr().out


def test_a_copied_run_is_false_for_both_and_counts_for_both(people, tmp_path, capsys):
    shutil.rmtree(people / "bob")
    shutil.copytree(people / "ann", people / "bob")
    for run in runs_in(people / "ann"):
        make_another_run(run, read(run, "config.json")["run_id"], output_dir="of_bob")
    found = failing(people / "ann", people / "bob", "--task", task_file(tmp_path))
    assert all(folder.verdict == "false" and len(folder.copies) == 1 and folder.is_valid for folder in found)
    assert "a person must say which (config.json: written to of_bob, by `" in found[0].copies[0]
    assert capsys.readouterr().out.count("in another folder too: 2 of 2") == 2


def test_other_code_has_a_verdict_of_its_own_and_a_task_can_forbid_it(people, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tools.verifying.folder.code_of_tree", lambda: "another")
    assert {folder.verdict for folder in verify.main([str(people / "ann")])} == {"ok, other code"}
    said = capsys.readouterr().out
    assert said.count("ok, other code  ") == 2 and said.endswith("2 folders: 2 ok with other code\n")
    text = refuted(people / "ann", "--task", task_file(tmp_path, "code: this tree"))
    assert text.count("the task wants the code of this tree") == 2


def test_a_result_that_this_tree_s_code_does_not_give_is_told_in_plain_words():
    folder, record = Folder(ROOT, str(ROOT)), {"epoch": 1, "weights_sha256": "a", "val_accuracy": 0.99}
    again = record | {"weights_sha256": "b", "val_accuracy": 0.8}
    with pytest.raises(Unknown, match="as may be: threads was 1, is 2; validation accuracies differ by up to 0.1900"):
        _judge(folder, [again], [record], {"threads": [1, 2]})
    assert folder.findings == []
    _judge(folder, [again], [record], {"code_sha256": ["a", "b"]})
    [text] = folder.of_kind("look at")
    assert "the result does NOT come out: validation accuracies differ by up to 0.1900" in text


def test_what_is_no_run_among_hand_ins_is_a_row_and_all_others_are_verified(people, tmp_path, capsys):
    (people / "empty").mkdir()
    (people / "eve.zip").write_bytes(b"PK")
    words = ["--task", task_file(tmp_path), "--csv", tmp_path / "a.csv", "--html", tmp_path / "a.html"]
    found = {folder.person: folder for folder in failing(*sorted(people.iterdir()), *words)}
    assert found["eve.zip"].of_kind("false") == ["a file: unpack it first"]
    assert "there is no run in that folder" in found["empty"].of_kind("false")[0]
    assert found["ann"].is_as_claimed
    assert "NOT FULFILLED empty: there is no run in that folder" in capsys.readouterr().out


def test_a_link_takes_no_run_from_whose_it_is(people, tmp_path, capsys):
    (people / "aaron").mkdir()
    (people / "aaron" / "ex_1").symlink_to(people / "ann" / "hand_in" / "ex_1")
    found = failing(*sorted(people.iterdir()), "--task", task_file(tmp_path))
    assert sorted((folder.person, folder.is_as_claimed) for folder in found) == [
        ("aaron", False), ("ann", True), ("ann", True), ("bob", True), ("bob", True),
    ]  # fmt: skip
    assert "NOT FULFILLED aaron: nothing but links to runs of others" in capsys.readouterr().out
    assert len(verify.main([str(people / "aaron")])) == 2  # alone they are what is given


def test_a_folder_of_several_people_s_folders_is_noticed(people, tmp_path, capsys):
    verify.main([str(people), "--task", str(task_file(tmp_path))])
    assert f"counts as one person's; if its folders are people's, give {people / '*'}" in capsys.readouterr().out
    verify.main([str(people / "ann"), "--task", str(task_file(tmp_path))])
    assert "counts as one person's" not in capsys.readouterr().out


def test_runs_of_the_account_that_were_not_handed_in_are_counted(people):
    ledger = people / "ann" / "hand_in" / LEDGER
    line = json.loads(ledger.read_text().splitlines()[0])
    for run, script in (("x", "ex_1"), ("y", "ex_1"), ("z", "ex_2")):
        with open(ledger, "a") as file:
            file.write(json.dumps(line | {"run": run, "folder": f"outputs\\{script}\\digits\\{run}"}) + "\n")
    found = verify.main([str(people / "ann")])
    assert [text for folder in found for text in folder.of_kind("look at")] == [
        f"{LEDGER} has 2 other runs of ex_1 on these test images, not handed in"
    ]


def test_a_seed_whose_test_is_hidden_does_not_count(people, tmp_path, capsys):
    """Else the mean of the others would be the person's."""
    alice = people / "ann"
    runs = runs_in(alice)
    for name in ("test.json", "predictions.npz", "predictions.csv", "confusion.csv", "report.html"):
        (runs[0] / name).unlink(missing_ok=True)
    (runs[0] / "submission.csv").touch()
    (tmp_path / "task.yaml").write_text("seeds: [0, 1]")
    refuted(alice, "--task", tmp_path / "task.yaml")
    assert "seed 0 is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "found", "is_false"),
    [({"tta": {"accuracy": 0.99}}, {}, True), ({"tta": {"accuracy": "0.99"}}, {"tta": {"accuracy": 0.5}}, True),
     ({"tta": {"accuracy": 0.51}}, {"tta": {"accuracy": 0.5}}, False), ({}, {}, False)],
)  # fmt: skip
def test_scores_that_follow_from_no_file_are_compared(copied, said, found, is_false):
    folder = Folder(copied[0], "")
    folder.note(OF_VIEWS, "not checked")
    _compare_others(folder, said, found | {"images": 100})
    assert bool(folder.of_kind("false")) == is_false


def test_a_comment_is_no_call(copied, monkeypatch):
    folder = Folder(copied[0], "")
    assert not _tests_last_weights(folder)
    script = folder.path / "code" / "ex_1.py"
    script.write_text(script.read_text() + "# evaluate_last(run)\n")
    assert not _tests_last_weights(folder)
    monkeypatch.setitem(folder.config, "script", "ex_6")
    assert _tests_last_weights(folder)
