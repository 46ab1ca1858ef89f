"""The promises of docs/statistics.md, by the simulation behind it with fewer repetitions.

Limits are those of the page and three standard errors of so many repetitions: chance alone hardly ever fails them.
"""

import math

import numpy as np
import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import simulate_comparing

    return simulate_comparing


def chance(rate, repetitions):
    return 3 * math.sqrt(rate * (1 - rate) / repetitions)


@pytest.mark.parametrize(("groups", "seeds", "shared"), [(2, 3, 0.8), (5, 5, 0.0), (10, 10, 0.4), (20, 10, 0.0)])
def test_equal_groups_are_seldom_called_different(simulation, groups, seeds, shared):
    found = simulation.false_alarms(np.random.default_rng(1), 250, groups, seeds, shared)
    assert found["rate"] <= 0.055 + chance(0.055, 250 * simulation.MORE)


def test_what_seeds_share_helps_to_see_a_difference(simulation):
    paired, unpaired = (simulation.power(np.random.default_rng(1), 1000, 5, shared)["rate"] for shared in (0.8, 0.0))
    assert paired >= 0.7 - chance(0.7, 1000) and unpaired < 0.4


@pytest.mark.parametrize("kind", ["independent", "alike", "same start"])
@pytest.mark.parametrize("seeds", [3, 10])
def test_more_epochs_to_choose_among_are_seldom_called_better(simulation, seeds, kind):
    found = simulation.false_alarms_of_epochs(np.random.default_rng(1), 300, (5, 50), seeds, kind)
    assert found["rate"] <= 0.055 + chance(0.055, 300)


def test_a_better_recipe_with_more_epochs_is_found(simulation):
    assert simulation.power_of_epochs(np.random.default_rng(1), 100, (5, 50), 10)["rate"] > 0.75


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("in_common", [1.0, 0.1])
def test_intervals_have_the_true_value(simulation, seeds, in_common):
    found = simulation.coverage(np.random.default_rng(1), 400, seeds, (500, 0.003, in_common))
    for name in ("difference", "mean"):
        assert 0.93 - chance(0.93, 400) <= found[name] <= 0.98 + chance(0.98, 400)
    if in_common == 1:
        assert found["mean_by_seeds_alone"] < 0.92  # what the images add is not left out
