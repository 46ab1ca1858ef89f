"""The comparison of a device with the CPU finds what is planted; on a CPU alone there is nothing else to find."""

import inspect
import itertools
import json
import warnings

import pytest
import torch
from helpers import ROOT

from common.transforms import basic, color, erasing, mixup, trivial_augment


@pytest.fixture
def device(monkeypatch):
    """The module benchmarks/device.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import device

    return device


def compared(device, part, what):
    """Return what the table says of a part of four images."""
    return device.compared(device.parts(4)[part][what], torch.device("cpu"))


def plant_difference(monkeypatch, kind, change):
    """Let a transform give something else each second time, which is the turn of the device."""
    honest, turns = kind.__call__, itertools.count()
    monkeypatch.setattr(kind, "__call__", lambda *words: change(honest(*words)) if next(turns) % 2 else honest(*words))


def test_every_transform_is_compared(device):
    modules, compared = (basic, color, erasing, mixup, trivial_augment), list(device.parts(4)["transform"])
    classes = [one for module in modules for _, one in inspect.getmembers(module, inspect.isclass)]
    names = {one.__name__ for one in classes if one.__module__.startswith("common.")} - {"Compose", "Draws"}
    assert len(names) > 12
    assert {name for name in names if not any(what.startswith(name) for what in compared)} == set()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda images: images + 0.5, "different by 0.5: 100 % of the values, which go to "),
        (lambda images: images.double(), "different by type or shape"),
        (lambda images: images[:2], "different by type or shape"),
        (lambda images: images * float("nan"), "different by nan: "),
    ],
)
def test_a_difference_is_shown(device, monkeypatch, change, text):
    assert compared(device, "transform", "Normalize") == "equal"
    plant_difference(monkeypatch, basic.Normalize, change)
    assert compared(device, "transform", "Normalize").startswith(text)


def test_what_a_device_lacks_is_told_in_a_few_words(device, monkeypatch):
    def missing(*_):
        raise NotImplementedError("The operator 'aten::conv|2d' is not\nimplemented for this device" + "!" * 200)

    monkeypatch.setattr(color.GaussianBlur, "__call__", missing)
    said = compared(device, "transform", "GaussianBlur")
    assert said.startswith("not there (NotImplementedError: The operator 'aten::conv/2d' is not")
    assert len(said) < 140 and "\n" not in said


def test_lines_that_wait_for_a_gpu_are_counted(device, monkeypatch):
    """The warnings are those of `torch.cuda.set_sync_debug_mode`."""
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    line = inspect.getsourcelines(work)[1] + 2
    assert device.waits_of(work) == {f"tests/test_device_benchmark.py:{line}": 3}
    assert modes == ["warn", "default"]


@pytest.mark.slow
def test_the_whole_table_on_a_cpu(device, monkeypatch, tmp_path, capsys):
    plant_difference(monkeypatch, color.ColorJitter, lambda images: images ^ 1)
    results = device.main(["--quick", "--device", "cpu", "--output_dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert "there is no accelerator" in said
    assert f"| transform | ColorJitter | {results['transform']['ColorJitter']} |" in said
    speeds = results.pop("images a second")
    assert [float(speed.replace(",", "")) > 0 for speed in speeds.values()] == [True]
    differing = {what: text for rows in results.values() for what, text in rows.items() if text != "equal"}
    assert differing.keys() == {"ColorJitter", "ColorJitter with hue"}
    assert all(text.startswith("different by 1: 100 % of the values") for text in differing.values())
    written = json.loads((tmp_path / "benchmarks" / "device.json").read_text())
    assert written["results"] == results | {"images a second": speeds} and written["machine"]["device"] == "cpu"


def test_a_device_that_is_not_there_is_one_line(device):
    with pytest.raises(SystemExit) as ended:
        device.main(["--device", "abacus"])
    assert ended.value.code == 2
