"""Runs that were made before the code had its present form can still be resumed, used and compared.

`old_runs/` holds two folders that the code as it was at the end of 2026-11 has made, without their pictures:
`trainA.py --dataset digits -nf 2 --image_size 32 --limit 40 -b 8 -e 4 -bn True --ema 0.5 --schedule onecycle -lr 0.03`,
once interrupted after two epochs, once to the end.
"""

import json
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
from common.data.load import Source

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


OLD_DIGESTS = {  # as the code had them before there was --split_seed: digits, a fifth for validation
    (0, 40): "8cdf53b016eb935d10c9c25745131ad5c2a63604fcfd919ae7849d4983183348",
    (0, None): "b7b00dcb55d3d2af920f9c42005b0be5ef656463b8174a5e20e030ac4029e370",
    (3, None): "06c94e55c8a0a3161b0255314f7467428dbb27327fc4e06238ba6a3c6c06d9ff",
    (3, 40): "168726daa75a3992011a43dbf1109c91af2c084b4a9bfab0254db2499c33d068",
}


@pytest.mark.parametrize(("seed", "limit"), OLD_DIGESTS)
def test_an_old_run_goes_on_with_its_own_images_in_their_order(old_run, seed, limit):
    """Its seed has chosen the validation images, too."""
    folder = old_run("interrupted")
    config = json.loads((folder / "config.json").read_text())
    config["options"] |= {"seed": seed, "limit": limit}
    (folder / "config.json").write_text(json.dumps(config))
    options = vars(trainA.parse_options(["--resume", str(folder)]))
    [data] = Source.of(options).load(trainA.IMAGE_SIZE, trainA.VAL_FRACTION)
    assert data.digest == OLD_DIGESTS[seed, limit]
    indices = data.train.indices.tolist()
    assert indices == sorted(indices) == data.train.keys[data.train.indices].tolist()


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
