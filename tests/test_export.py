"""export.py: the file says of pictures of any size what predict.py says, or is not written."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import made_once, small_run, table, write_class
from PIL import Image

import ex_1
import export
import predict
from common.data.arrays import ArrayDataset, whole
from common.system.errors import BadInput

COLORS = {"ant": (255, 0, 0), "bee": (0, 255, 0), "cat": (0, 0, 255)}
SIZES = ((40, 60), (61, 33), (32, 32), (20, 90), (200, 150))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on photographs of several sizes that are easy to tell apart; nobody may change it."""

    def make(folder):
        for name, color in COLORS.items():
            for place, (height, width) in enumerate(SIZES):
                write_class(folder / "data" / name, 12, 100 * place, height, width, f"-{place}.png", color)
        small_run(folder / "outputs", "--dataset", "folder", "--data", str(folder / "data"), "-e", "4", script=ex_1)

    folder = made_once(tmp_path_factory, "exported", make)
    return next((folder / "outputs").glob("*/*/*/config.json")).parent


def photographs(run):
    return run.parents[3] / "data"


@pytest.mark.slow
def test_the_file_says_what_predict_says(run, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = export.main([str(run), str(tmp_path / "model.onnx"), "--images", str(photographs(run))])
    said = capsys.readouterr().out
    assert "15 validation images: largest difference" in said and "180 image files: largest difference" in said
    assert said.count(" 0 predictions changed") == 2

    predict.main([str(run), str(photographs(run)), "-k", "3", "--csv", str(tmp_path / "predictions.csv")])
    rows = {row["path"]: row for row in table(tmp_path / "predictions.csv")}
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert classes == list(COLORS) and session.get_modelmeta().custom_metadata_map["name"].startswith("ex_1/")
    for path in sorted(photographs(run).glob("*/00[01]*.png")):
        (found,) = session.run(None, {"image": np.asarray(Image.open(path))[None]})
        row = next(row for name, row in rows.items() if str(path).endswith(name))
        assert found.shape == (1, 3) and found.sum() == pytest.approx(1, abs=1e-5)
        assert classes[found.argmax()] == row["predicted"]
        assert found.max() == pytest.approx(float(row["confidence"]), abs=0.02)
    several = np.stack(
        [np.asarray(Image.open(path)) for path in sorted((photographs(run) / "ant").glob("*-3.png"))[:5]]
    )
    assert session.run(None, {"image": several})[0].shape == (5, 3)


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from tools import exporting

    monkeypatch.setattr(exporting, "EXACT", -1.0)
    with pytest.raises(BadInput, match="differ too much, nothing is written; 15 validation images"):
        export.main([str(run), str(tmp_path / "model.onnx")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_squashed_pictures(run, tmp_path, monkeypatch):
    """The graph squashes where the network was made for squashed pictures."""
    pytest.importorskip("onnxruntime")
    load = export.load_classifier

    def squashing(*arguments):
        classifier = load(*arguments)
        object.__setattr__(classifier, "fit", "squash")
        return classifier

    monkeypatch.setattr(export, "load_classifier", squashing)
    export.main([str(run), str(tmp_path / "model.onnx"), "--images", str(photographs(run) / "ant")])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["absent", "m.onnx"], "absent: there is no such run folder"),
        (["{run}", "{run}/m.onnx"], "is in the folder of the run"),
        (["{run}", "absent/m.onnx"], "absent/m.onnx cannot be written"),
        (["{run}", "m.onnx", "--images", "absent"], "absent: there is no such image"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, monkeypatch, words, expected):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=expected):
        export.main([word.replace("{run}", str(run)) for word in words])
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    with pytest.raises(BadInput, match="export.py needs onnx: pip install -r requirements-extras.txt"):
        export.main(["run", "m.onnx"])


@pytest.mark.parametrize("has_own", [True, False])
def test_images_to_compare_on_are_validation_images_also_where_names_repeat(run, tmp_path, monkeypatch, has_own):
    pytest.importorskip("onnx")
    from tools.exporting import validation_images

    def split(pixel):
        ids = [str(number) for number in range(30)]  # as in an HDF5 file that has no names
        return whole(ArrayDataset(np.full((30, 8, 8, 3), pixel, np.uint8), [0] * 30, ["a", "b"], ids))

    splits = {"train": split(1), "test": split(2)} | ({"val": split(3)} if has_own else {})
    monkeypatch.setattr("common.data.load.Source.read", lambda *_: [SimpleNamespace(splits=splits)])
    ids = np.array([str(number) for number in range(5)])
    np.savez(tmp_path / "val_predictions.npz", ids=ids)
    config = {"dataset": "hdf5", "stored_size": 8}
    found = validation_images(tmp_path, config, {"data": "x", "workers": 1}, None, 4)  # options of an older run
    assert len(found) == 4 and found.dataset.batch(found.indices)[0].unique().tolist() == [3 if has_own else 1]
