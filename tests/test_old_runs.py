"""Runs that were made before the code had its present form can still be resumed, used and compared.

`old_runs/` holds two folders that the code as it was at the end of 2026-11 has made, without their pictures:
`trainA.py --dataset digits -nf 2 --image_size 32 --limit 40 -b 8 -e 4 -bn True --ema 0.5 --schedule onecycle -lr 0.03`,
once interrupted after two epochs, once to the end.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import compare
import predict
import trainA

OLD_RUNS = Path(__file__).with_name("old_runs")


@pytest.fixture
def old_run(tmp_path):
    """Return a function that copies one of the folders, so that the original stays as it is."""
    return lambda name: Path(shutil.copytree(OLD_RUNS / name, tmp_path / "trainA" / "digits" / name))


@pytest.mark.slow
def test_an_old_run_is_resumed_to_where_it_would_have_ended(old_run, monkeypatch):
    monkeypatch.setattr("common.runs.state.hash_dropouts", lambda model: [])  # masks were PyTorch's own then
    resumed, finished = old_run("interrupted"), OLD_RUNS / "finished"
    trainA.main(["--resume", str(resumed)])
    one, other = (torch.load(folder / "last.pth", weights_only=True) for folder in (resumed, finished))
    assert one.keys() - {"run_id"} == other.keys()
    assert [record["epoch"] for record in one["history"]] == [1, 2, 3, 4]
    for name in ("train_loss", "val_loss"):
        losses = [[record[name] for record in state["history"]] for state in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # another processor rounds in another way
    for key in ("model", "average"):
        for name, tensor in one[key].items():
            assert torch.allclose(tensor.float(), other[key][name].float(), atol=1e-3), name


def test_an_old_network_predicts_what_it_predicted(tmp_path):
    with np.load(OLD_RUNS / "finished" / "predictions.npz") as stored:
        index = int(stored["ids"][0].rpartition("/")[2])
        probabilities = stored["probabilities"][0]
    gray = (load_digits().images[index] * 255 / 16).round().astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "digit.png")
    [prediction] = predict.main([str(OLD_RUNS / "finished"), str(tmp_path / "digit.png")])
    assert np.allclose(prediction.probabilities, probabilities, atol=1e-4)


def test_an_old_run_is_compared(old_run, tmp_path, capsys):
    old_run("finished")
    compare.main([str(tmp_path / "trainA"), "--out", str(tmp_path / "comparison")])
    assert "0.1031" in capsys.readouterr().out  # its test accuracy
    assert (tmp_path / "comparison" / "report.html").exists()
