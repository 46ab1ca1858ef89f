"""The benchmark runs; what it measures depends on the machine and is no matter of a test."""

import sys

import pytest
from helpers import ROOT

from common.data.hdf5 import load_hdf5

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("contestant", ["ours", "floor", "usual", "kuangliu", "imagenet"])
@pytest.mark.parametrize(
    "experiment", ["ex_1", *(pytest.param(one, marks=pytest.mark.long) for one in ("ex_3", "trainA"))]
)
def test_contestants_measure_something(monkeypatch, tmp_path, contestant, experiment):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from contestants import CONTESTANTS, write_photographs

    write_photographs(tmp_path, 20)
    figures = CONTESTANTS[contestant](experiment, 8, tmp_path)
    assert figures["images_per_second"] > 0
    if contestant == "ours":
        assert len(figures["floor_time_ratios"]) == 4
        assert min(figures["floor_time_ratios"]) > 0.3


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_the_first_bar_shows_on_a_terminal(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from speed import time_first_bar

    assert 0 < time_first_bar([str(ROOT / "ex_1.py"), "--dataset", "digits", "-e", "1"]) < 120


def test_ratios_are_told_with_their_range(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import speed

    floor = {"images_per_second": 100, "peak_memory_mb": 7}
    runs = {"floor": [floor] * 3, "ours": [floor | {"floor_time_ratios": [1.0, 1.1, 1.3]}] * 3,
            "usual": [floor | {"images_per_second": each} for each in (50, 40, 80)]}  # fmt: skip
    monkeypatch.setattr(speed, "contestants_here", lambda: list(runs))
    measured = iter([runs[name][turn] for turn in range(3) for name in runs])
    monkeypatch.setattr(speed, "measure_in_a_process", lambda *_: next(measured))
    rows = speed.compare("ex_1", 3, ROOT)
    machine = {"processor": "a CPU", "cores": 2}
    speed.draw({"training": {"ex_1": rows}, "machine": machine, "rounds": 3}, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 5000
    row = rows["usual"]
    assert row["ours_is_faster_by"] == [2, 1.25, 2.5] and row["floor_time_ratio"] == [2, 1.25, 2.5]
    assert speed.told(row["ours_is_faster_by"]) == "2.00 (1.25 to 2.50)"


def test_variants_of_a_step_are_compared(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import steps

    monkeypatch.setattr(steps, "SECONDS", 0.0)
    monkeypatch.setitem(steps.NETWORKS, "ex_5", (*steps.NETWORKS["ex_5"][:3], 8))
    results = steps.main(["ex_5", "--blocks", "2", "--output_dir", str(tmp_path)])
    assert list(results) == ["ex_5"] and {"fp32, PyTorch's dropout", "fp32"} <= set(results["ex_5"])
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in results["ex_5"].values())
    with pytest.raises(SystemExit):
        steps.main(["ex_7"])


def test_many_images_are_written_and_a_start_is_measured(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scale

    monkeypatch.setattr(scale, "VAL", 20)
    scale.write_hdf5(tmp_path / "many.hdf5", 30)
    splits = load_hdf5(str(tmp_path / "many.hdf5"))
    assert [len(splits[name]) for name in ("train", "val")] == [30, 20] and splits["val"].dataset.ids[19] == "19.png"
    scale.write_files(tmp_path / "many", 20)
    assert len(list((tmp_path / "many").glob("*/*.png"))) == 20
    monkeypatch.setattr(scale, "INTERVAL", 0.01)
    seconds, cpu, memory = scale.run([sys.executable, "-c", "import time; block = b'x' * 10**8; time.sleep(0.5)"])
    assert seconds > 0.5 and memory > 100 and 0 < cpu
    with pytest.raises(SystemExit, match="ended with code 3: reason"):
        scale.run([sys.executable, "-c", "import sys; print('reason', file=sys.stderr); sys.exit(3)"])
