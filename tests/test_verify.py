"""verify.py: what is honest passes, what was tampered with is named, whatever is in the folder."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ROOT, SMALL, command, made_once, read, small_run, without_pictures
from PIL import Image

import ex_1
import verify
from common.evaluation.looks import LEDGER
from common.evaluation.metrics import score
from common.runs.folder import read_config, write_config
from common.runs.state import weights_sha256
from common.system.checkpoints import load_checkpoint, save_checkpoint
from common.system.errors import BadInput
from common.system.files import write_bytes, write_json
from tools.verifying.claims import PICTURES, check_scores
from tools.verifying.task import read_task

# The ways to tamper, as somebody would who knows the checksums


def edit_json(name, change):
    def tamper(run, _):
        write_json(run / name, read(run, name) | change)

    return tamper


def edit_config(**changes):
    def tamper(run, _):
        config = {name: value for name, value in read_config(run).items() if name != "config_sha256"}
        options = config["options"] | changes.pop("options", {})
        write_config(run, config | changes | {"options": options})

    return tamper


def edit_checkpoint(name, change):
    def tamper(run, _):
        content = load_checkpoint(run / name)
        change(content)
        save_checkpoint(run / name, content)

    return tamper


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
    "no predictions": (missing("predictions.npz"), "missing: predictions.npz"),
    "no test": (missing("test.json"), "there is no test.json"),
    "no best": (missing("best.pth"), "best.pth"),
    "no pictures": (missing("loss.png"), "missing: loss.png"),
    "no history": (missing("train.json"), "there is no train.json"),
    "an open edit": (edit_json("config.json", {"seed": 3}), "was changed since"),
    "nonsense": (edit_json("train.json", {"epochs": [{"epoch": "x"}]}), "what no run writes"),
    "a list": (lambda run, _: (run / "test.json").write_text("[]"), "test.json is damaged"),
    "deep nesting": (lambda run, _: (run / "test.json").write_text("[" * 100_000), "test.json is damaged"),
    "a bomb": (lambda run, _: (run / "predictions.npz").write_bytes(b"PK" + bytes(100)), "predictions.npz is damaged"),
}  # fmt: skip


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
    found = []
    tell = verify.tell
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BadInput, match="false claims"):
        patch.setattr(verify, "tell", lambda folders: found.extend(folders) or tell(folders))
        verify.main([str(word) for word in argv])
    return "\n".join(text for folder in found for text in folder.of_kind("false"))


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
    assert text.count("this is the same run as") == 2 and str(tmp_path / "neighbor") in text and str(copied[0]) in text


@pytest.mark.slow
def test_the_same_weights_are_honest_only_for_the_same_command(tmp_path):
    for name in ("one", "two"):
        small_run(tmp_path / name, "-e", "1")
    add_pictures(tmp_path)
    one, two = runs_in(tmp_path)
    for folder in verify.main([str(one), str(two)]):
        assert any(text.startswith("the same weights as") for text in folder.of_kind("note"))
    edit_config(options={"lr": 0.5})(two, None)  # those of another homework, over the same weights
    assert "the same weights as" in refuted(one, two)


def test_a_table_and_a_page_tell_of_all_folders(copied, tmp_path, capsys):
    edit_json("test.json", {"accuracy": 0.999})(copied[0], None)
    edit_json("test.json", {"selected_on": "<script>alert(1)</script>"})(copied[1], None)
    renamed = copied[1].rename(copied[1].with_name("<b>=1+1"))
    refuted(*copied[:1], renamed, "--csv", tmp_path / "a.csv", "--html", tmp_path / "a.html")
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert len(rows) == 3 and '"false"' in rows[1] and '"as claimed"' in rows[2]
    page = (tmp_path / "a.html").read_text()
    assert "0.9990" in page and "&lt;b&gt;=1+1" in page and "<b>=1+1" not in page and "<script" not in page
    assert "2 run(s): 1 as claimed, 1 with false claims" in capsys.readouterr().out


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("script: ex_2", "script ex_2, not ex_1"),
        ("dataset: cifar10", "dataset cifar10, not digits"),
        ("split_sha256: '00'", "split_sha256 00, not"),
        ("options: {epochs: 10}", "--epochs 10, not 2"),
        ("options: {batch_norm: false}", "--batch_norm False, not True"),
        ("options: {width: 3}", "--width 3, not None"),
        ("seeds: [0, 1, 2]", "wants seeds 2 too"),
        ("min_runs: 3", "wants 3 runs that hold; there are 2"),
        ("min_test_images: 1000", "1000 test images, not"),
    ],
)
def test_a_task_that_was_not_done_is_named(honest, tmp_path, line, expected):
    (tmp_path / "task.yaml").write_text(line)
    assert expected in refuted(honest, "--task", tmp_path / "task.yaml")


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


@pytest.mark.parametrize("text", ["script: 3", "scripts: ex_1", "- a", "seeds: 3", "min_runs: many"])
def test_a_task_file_that_cannot_be_is_refused(honest, tmp_path, text):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(BadInput, match="--task"):
        verify.main([str(honest), "--task", str(tmp_path / "task.yaml")])


@pytest.mark.slow
def test_predictions_are_made_again(copied, tmp_path):
    before = content_of(copied[0].parents[2])
    done = command("verify.py", copied[0], "--predict", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("made again, the largest difference of a probability is 0, 0 answers differ") == 2
    assert content_of(copied[0].parents[2]) == before  # and no look at test images is counted
    better_predictions(copied[1], None)
    assert "predictions.npz: made again, the largest difference" in refuted(copied[1], "--predict")


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
    found = {}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BadInput, match="11 of 60"):
        patch.setattr(verify, "tell", lambda folders: found.update({one.group: one for one in folders}))
        verify.main([str(path) for path in sorted(tmp_path.iterdir())])
    named = sorted(Path(group).name for group, folder in found.items() if not folder.is_as_claimed)
    assert named == ["person-07", *(f"tampered-{number}" for number in range(10))]  # copied: both are named


@pytest.mark.slow
def test_the_task_of_the_course_is_fulfilled_by_its_first_exercise_and_by_nothing_less(tmp_path, monkeypatch):
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
    said = refuted(tmp_path / "bob", "--task", "x")
    assert "wants --limit None, not 300" in said and "wants split_sha256" in said and "wants seeds 0, 1 too" in said


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
