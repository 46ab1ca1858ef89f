"""compare.py reads stored predictions, which may be damaged or hostile."""

import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from helpers import altered, npz, page_data, read, run_compare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.comparing.predictions import mistakes_of, read_predictions

pytestmark = pytest.mark.usefixtures("without_drawing")


def read_mistakes(path, classes):
    predictions = read_predictions(path, len(classes))
    return predictions and mistakes_of(predictions, classes, "validation")


@pytest.mark.parametrize("name", ["test.json", "validation.json"])
def test_scores_that_do_not_follow_from_the_predictions_are_named(outputs, real, tmp_path, capsys, name):
    shutil.copytree(real[0], tmp_path / "run")
    assert "does not follow" not in run_compare(outputs, "--out", tmp_path / "out").joinpath("compare.md").read_text()
    (tmp_path / "run" / name).write_text(json.dumps(read(real[0], name) | {"accuracy": 0.99}))
    text = run_compare(tmp_path / "run", "--out", tmp_path / "out").joinpath("compare.md").read_text()
    assert f"run: {name} does not follow from the predictions: accuracy 0.99, but its".replace("_", "\\_") in text
    (tmp_path / "run" / name).write_text(json.dumps(read(real[0], name) | {"loss": 0.0, "f1_score": None}))
    assert (
        "predictions: loss 0, but"
        in run_compare(tmp_path / "run", "--out", tmp_path / "out").joinpath("compare.md").read_text()
    )


def good_arrays():
    return {
        "labels": np.array([0, 0, 1, 1, 1]),
        "probabilities": np.array([[0.9, 0.1], [0.2, 0.8], [0.99, 0.01], [0.6, 0.4], [0.3, 0.7]], np.float32),
        "ids": np.array(["a", "b", "c", "d", "e"]),
    }


def test_mistakes_are_counted_and_sorted(tmp_path):
    mistakes = read_mistakes(npz(tmp_path / "p.npz", **good_arrays()), ["no", "yes"])
    assert mistakes.correct.tolist() == [True, False, False, False, True]
    assert mistakes.confused == [("yes", "no", 2), ("no", "yes", 1)]
    assert [(one[0], one[1], one[2], round(one[3], 2)) for one in mistakes.worst] == [
        ("c", "yes", "no", 0.99), ("b", "no", "yes", 0.8), ("d", "yes", "no", 0.6),
    ]  # fmt: skip
    unlabelled = good_arrays() | {"labels": np.full(5, -1)}
    assert read_mistakes(npz(tmp_path / "p.npz", **unlabelled), ["no", "yes"]) is None
    assert read_mistakes(tmp_path / "nowhere.npz", ["no", "yes"]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 0, 1, 1, 2])},
        {"labels": np.array([0.0, 0, 1, 1, 1])},
        {"labels": np.zeros((5, 1), int)},
        {"labels": np.array([], int), "probabilities": np.zeros((0, 2)), "ids": np.array([], str)},
        {"probabilities": np.full((5, 2), np.nan)},
        {"probabilities": np.zeros((5, 3))},
        {"probabilities": np.zeros((4, 2))},
        {"ids": np.array(["a"])},
        {"ids": np.array([object()] * 5, dtype=object)},
        {"ids": np.array(3)},
    ],
)
def test_predictions_that_cannot_be(real, tmp_path, capsys, change):
    with pytest.raises(ValueError):
        read_mistakes(npz(tmp_path / "p.npz", **good_arrays() | change), ["no", "yes"])
    run = altered(real[0], tmp_path / "run")
    npz(run / "val_predictions.npz", **good_arrays() | change)
    folder = run_compare(tmp_path / "run", "--out", tmp_path / "out")
    assert "left out of the comparison of networks" in capsys.readouterr().out
    [run] = page_data(folder / "report.html")["runs"]
    assert run["worst"] == [] and dict(run["scores"])["val_accuracy"] > 0


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_predictions_run_no_code(tmp_path):
    ids = np.array([Trap(tmp_path / "sprung")] * 5, dtype=object)
    with pytest.raises(ValueError):
        read_mistakes(npz(tmp_path / "p.npz", **good_arrays() | {"ids": ids}), ["no", "yes"])
    assert not (tmp_path / "sprung").exists()


def test_predictions_that_are_enormous(tmp_path, monkeypatch):
    path = tmp_path / "p.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**3)})
    with zipfile.ZipFile(path, "w") as file:
        for name in ("labels", "probabilities", "ids"):
            file.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(ValueError, match="is damaged"):  # it says that it has terabytes
        read_mistakes(path, ["no"])
    monkeypatch.setattr("tools.comparing.predictions.LARGEST_SIZE", 2**20)
    np.savez_compressed(path, **good_arrays() | {"probabilities": np.zeros((2**18, 2))})
    assert path.stat().st_size < 2**16
    with pytest.raises(ValueError, match="unpack to 4,"):
        read_mistakes(path, ["no", "yes"])


@pytest.mark.parametrize(
    "content", [b"", b"no zip", np.lib.format.magic(1, 0) + b"\xff\xff", b"PK\x03\x04" + bytes(100)]
)
def test_predictions_that_are_no_archive(tmp_path, content):
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_mistakes(tmp_path / "p.npz", ["no"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.booleans())
def test_any_damage_of_predictions_is_an_error_or_harmless(tmp_path, place, byte, cut):
    buffer = io.BytesIO()
    np.savez(buffer, **good_arrays())
    content = bytearray(buffer.getvalue())
    place %= len(content)
    content[place] = byte
    (tmp_path / "p.npz").write_bytes(content[:place] if cut else content)
    try:
        mistakes = read_mistakes(tmp_path / "p.npz", ["no", "yes"])
    except ValueError:
        return
    assert mistakes is None or len(mistakes.correct) == 5
