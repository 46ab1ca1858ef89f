"""The benchmark runs; what it measures depends on the machine and is no matter of a test."""

import sys

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("contestant", ["ours", "floor", "usual"])
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
