"""On a CPU the number format follows from the CPU and the network, and stays that of the run."""

import pytest
import torch
from helpers import command, environment, read, small_run, without_pictures
from torch import nn

import ex_2
from common.models import precision
from common.models.precision import choose_precision, has_bf16
from common.system.device import prepare_machine
from common.system.errors import BadInput

AUTO = {"precision": "auto", "deterministic": False}
LARGE, SMALL_NETWORK = (3, 512, 512), (3, 8, 8)  # what a convolution has much to do with, or little


def chosen(shape, before=None, layers=(), **options):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers)
    machine, why = choose_precision(prepare_machine("cpu", "auto", False), model, shape, AUTO | options, before)
    return machine.precision, why


@pytest.fixture(params=[False, True])
def with_bf16(request, monkeypatch):
    """Whether the CPU, as PyTorch tells of it, computes in bf16; it is one of AMD."""
    monkeypatch.setattr(precision, "cpu_name", lambda: "AMD EPYC")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": request.param, "avx2": True})
    assert has_bf16() is request.param
    return request.param


def test_bf16_where_the_cpu_has_it_and_the_network_is_large(with_bf16):
    precision, why = chosen(LARGE)
    assert (precision == "bf16") is with_bf16
    assert ("operations" in why) is with_bf16
    assert chosen(SMALL_NETWORK)[0] == "fp32"
    assert chosen(LARGE, deterministic=True) == ("fp32", "--deterministic")


def test_not_on_a_cpu_that_has_bf16_and_was_not_measured_to_gain(with_bf16, monkeypatch):
    monkeypatch.setattr(precision, "cpu_name", lambda: "Intel(R) Xeon(R) Processor")
    found, why = chosen(LARGE)
    assert found == "fp32" and ("not measured to be faster" in why) is with_bf16


@pytest.mark.parametrize("layer", [nn.LayerNorm(512), nn.Conv2d(8, 8, 3, groups=8)], ids=["layer norm", "grouped"])
def test_not_with_layers_that_were_not_measured(with_bf16, layer):
    found, why = chosen(LARGE, layers=[layer])
    assert found == "fp32" and ("layer norms" in why) is with_bf16


def test_a_run_keeps_the_format_that_it_began_with(with_bf16):
    assert chosen(LARGE, before="fp32")[0] == "fp32"
    precision, why = chosen(SMALL_NETWORK, before="bf16")
    assert precision == "bf16" and ("many times slower" in why) is not with_bf16
    assert chosen(SMALL_NETWORK, before="fp16")[0] == "fp32"  # of a GPU: a CPU cannot
    assert chosen(SMALL_NETWORK, before=["x"])[0] == "fp32"


def test_what_is_asked_for_is_what_there_is():
    machine = prepare_machine("cpu", "bf16", False)
    model = nn.Conv2d(3, 8, 3)
    assert choose_precision(machine, model, SMALL_NETWORK, AUTO | {"precision": "bf16"})[0].precision == "bf16"


def test_fp16_on_a_cpu_is_refused_with_the_reason():
    with pytest.raises(BadInput, match="many times slower"):
        prepare_machine("cpu", "fp16", False)


def test_the_record_says_which_and_why(tmp_path, capsys):
    folder = small_run(tmp_path, "-e", "1")
    config = read(folder, "config.json")
    found = config["machine"]["precision"]
    assert found in ("fp32", "bf16") and config["precision_because"]
    assert f"precision: {found} ({config['precision_because']})" in capsys.readouterr().out


def test_a_run_chooses_by_its_own_network_and_is_resumed_in_its_format(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(precision, "cpu_name", lambda: "AMD EPYC")
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    monkeypatch.setattr(precision, "LEAST_OPERATIONS", 1e5)
    words = ["--dataset", "digits", "--limit", "40", "--image_size", "8", "--width", "2", "-b", "20", "-e", "1"]
    folder = without_pictures([*words, "--output_dir", str(tmp_path)], ex_2)
    operations = read(folder, "config.json")["flops"]
    monkeypatch.setattr(precision, "LEAST_OPERATIONS", operations)
    other = without_pictures([*words, "--output_dir", str(tmp_path / "b")], ex_2)
    assert read(other, "config.json")["machine"]["precision"] == "bf16"
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    capsys.readouterr()
    without_pictures(["--resume", str(other), "-e", "2"], ex_2)
    assert "precision: bf16 (as the run began, but this CPU is many times slower at it)" in capsys.readouterr().out
    assert read(other, "config.json")["machine"]["precision"] == "bf16"


@pytest.mark.slow
def test_it_is_one_line_for_somebody_who_types_it(tmp_path):
    done = command("ex_1.py", "--dataset", "digits", "--device", "cpu", "--precision", "fp16",
                   "--output_dir", tmp_path, env=environment())  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "many times slower" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_reason_is_plain(monkeypatch):
    monkeypatch.setattr(precision, "gains_by_bf16", lambda: True)
    machine = prepare_machine("cpu", "fp32", False)
    options = {"precision": "auto", "deterministic": False}
    assert precision._choose(machine, 12_000_000, options, None) == (
        "bf16", "faster here: this CPU computes it, and the network has 12 million operations an image; "
        "--precision fp32 for the usual format",
    )  # fmt: skip
