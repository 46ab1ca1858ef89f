"""ex_5: the network of the report, the data before it and the inside after it."""

import pytest
from helpers import read, without_pictures

import ex_1
import ex_5

DIGITS = ["--dataset", "digits", "--limit", "200", "-e", "1", "--watch", "2"]


def test_the_network_is_that_of_the_report():
    options = ex_5.parse_options([])
    model = ex_5.build_model(options, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_962
    assert (options.batch_size, options.epochs, options.lr, options.dropout, options.watch) == (25, 20, 1e-3, 0.2, 100)


@pytest.mark.slow
def test_a_run_shows_its_data_and_its_inside(tmp_path, capsys):
    run = ex_5.main([*DIGITS, "--print_every", "8", "--output_dir", str(tmp_path)])
    names = {path.name for path in run.iterdir()}
    assert {"explore.json", "class_counts.png", "mean_images.png", "pixel_histogram.png", "correlation.png"} <= names
    assert {"inside.json", "filters.png", "gradients.png", "updates.png", "activations.png", "grad_cam.png"} <= names
    assert "Epoch [1/1], Step [8/8], Loss: " in capsys.readouterr().out
    assert read(run, "explore.json")["parts"]["train"]["images"] == 200


@pytest.mark.parametrize("script", [ex_1, ex_5])
def test_the_data_can_be_explored_alone(tmp_path, script):
    folder = without_pictures(["--dataset", "digits", "--explore", "--output_dir", str(tmp_path)], script)
    assert folder.parent == tmp_path / script.__name__ / "explore"
    assert {"config.json", "explore.json", "log.txt"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "train.json").exists()


@pytest.mark.slow
def test_a_resumed_run_does_not_explore_again(tmp_path):
    run = without_pictures([*DIGITS, "--output_dir", str(tmp_path)], ex_5)
    before = (run / "explore.json").stat().st_mtime_ns
    without_pictures(["--resume", str(run), "-e", "2"], ex_5)
    assert (run / "explore.json").stat().st_mtime_ns == before
    assert len(read(run, "inside.json")["epochs"]) == 2
