"""Sweep files: every form of parameter means what W&B says, every mistake is told with its place."""

import math

import pytest
import yaml
from helpers import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from common.system.errors import BadInput
from tools.searching.spaces import multiples_between
from tools.searching.sweep_file import parse_sweep, read_sweep

REPORT = """
program: train.py
method: bayes
name: "complete-sweep"
metric:
  name: val_accuracy
  goal: maximize
parameters:
    lr:
      values: [0.001, 0.0001]
    activation:
      values: ["SiLU", "LeakyReLU", "ReLU", "GELU"]
    batch_norm:
      values: [True, False]
    dropout:
      values: [0.3, 0.5]
    filter_org:
      values: ["half", "double", "const"]
    filter_size:
      values: ["3", "5,5,3,3,3", "5"]
    num_filters:
      values: [16, 32, 64]
"""


def sweep_of(parameter=None, **top):
    content = {"method": "random", "parameters": {"x": parameter or {"values": [1, 2]}}} | top
    return parse_sweep({key: value for key, value in content.items() if value != "absent"}, "file")


def value_at(parameter, proposed):
    """Return what an option gets if Optuna proposes `proposed`, as a trial would."""
    sweep = sweep_of(parameter)
    trial = FixedTrial({"x": proposed})
    return sweep.values({name: form.suggest(trial, name) for name, form in sweep.searched.items()})["x"]


def test_the_file_of_the_report_is_read_as_it_is():
    sweep = parse_sweep(yaml.safe_load(REPORT), "file")
    assert (sweep.name, sweep.program, sweep.method, sweep.metric) == (
        "complete-sweep",
        "train.py",
        "bayes",
        "val_accuracy",
    )
    assert sweep.maximize and sweep.run_cap is None and sweep.bands == []
    assert sweep.parameters["filter_size"].grid() == ["3", "5,5,3,3,3", "5"]
    assert sweep.grid_size() == 2 * 4 * 2 * 2 * 3 * 3 * 3


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_all_sweep_files_of_the_project_are_read(path):
    sweep = read_sweep(str(path))
    assert (ROOT / sweep.program).is_file() and sweep.maximize


@pytest.mark.parametrize(
    ("parameter", "proposed", "value"),
    [
        ({"value": "a"}, None, "a"),
        ({"values": ["a", "b"]}, "b", "b"),
        ({"values": ["a", "b", "c"], "probabilities": [0.1, 0.6, 0.3]}, 0.05, "a"),
        ({"values": ["a", "b", "c"], "probabilities": [0.1, 0.6, 0.3]}, 0.69, "b"),
        ({"values": ["a", "b", "c"], "probabilities": [0.1, 0.9, 0.0]}, 1.0, "b"),
        ({"min": 1, "max": 9}, 4, 4),
        ({"min": 0.5, "max": 2}, 0.7, 0.7),
        ({"min": 0, "max": 1, "q": 0.1}, 0.34, 0.3),
        ({"min": 1, "max": 64, "q": 8}, 1.0, 8),
        ({"distribution": "q_uniform", "min": 0, "max": 9}, 4.4, 4),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1}, 0.01, 0.01),
        ({"distribution": "log_uniform", "min": 0, "max": 2}, math.e, math.e),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 256, "q": 16}, 100.0, 96),
        ({"mu": 3, "sigma": 2}, 0.5, 3),
        ({"distribution": "normal"}, 0.8413447460685429, 1),
        ({"distribution": "log_normal", "mu": 1}, 0.5, math.e),
        ({"distribution": "q_normal", "mu": 3.3, "q": 0.5}, 0.5, 3.5),
        ({"min": "1e-5", "max": 1}, 0.5, 0.5),  # which YAML takes for a text
        ({"value": [5, 3, 3.5]}, None, "5,3,3.5"),  # a list, as options take it
        ({"values": [[5, 3], "3"]}, "5,3", "5,3"),
        ({"values": [1, 2, 2, 2]}, 0.24, 1),  # twice in a list is twice as often
        ({"values": [1, 2, 2, 2]}, 0.26, 2),
        ({"values": ["a", "b"], "probabilities": [0.5, 0.49999]}, 1.0, "b"),
        ({"mu": 3, "sigma": 0}, None, 3),
        ({"distribution": "log_normal", "mu": 1, "sigma": 0}, None, math.e),
        ({"distribution": "beta"}, 0.3, 0.3),
        ({"distribution": "beta", "a": 2, "b": 1}, 0.25, 0.5),  # its share below x is x²
        ({"distribution": "q_beta", "a": 2, "b": 1, "q": 0.2}, 0.26, 0.6),
        ({"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 1}, 0.01, 0.01),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, 1 / math.e, 1 / math.e),
    ],
)
def test_forms_of_parameters(parameter, proposed, value):
    expected = pytest.approx(value) if isinstance(value, float) else value
    assert value_at(parameter, proposed) == expected


def test_a_weighted_choice_comes_as_often_as_it_should():
    form = sweep_of({"values": [16, 32, 64], "probabilities": [0.2, 0.5, 0.3]}).parameters["x"]
    values = [form.value((number + 0.5) / 1000) for number in range(1000)]
    assert [values.count(value) for value in (16, 32, 64)] == [200, 500, 300]


def test_a_grid_has_every_combination_in_the_order_of_the_names():
    content = {
        "method": "grid",
        "parameters": {
            "d": {"min": 0.05, "max": 0.3, "q": 0.1}, "b": {"value": "x"}, "c": {"min": 1, "max": 3},
            "a": {"values": [1, 2]},
        },
    }  # fmt: skip
    sweep = parse_sweep(content, "file")
    assert sweep.grid_size() == 2 * 1 * 3 * 3
    points = [sweep.grid_point(number) for number in range(sweep.grid_size())]
    assert points[0] == {"a": 1, "b": "x", "c": 1, "d": 0.05}
    assert points[1] == {"a": 1, "b": "x", "c": 1, "d": 0.15}
    assert points[-1] == {"a": 2, "b": "x", "c": 3, "d": 0.25}
    assert len({tuple(sorted(point.items())) for point in points}) == 18
    content["parameters"]["d"] = {"min": 1, "max": 10, "q": 2}  # as W&B: from min on, and max is not reached
    assert parse_sweep(content, "file").parameters["d"].values == [1, 3, 5, 7, 9]


def test_a_huge_grid_is_not_made():
    sweep = sweep_of(method="grid", parameters={name: {"min": 0, "max": 10**9} for name in "abc"})
    assert sweep.grid_point(10**9 + 1) == {"a": 0, "b": 1, "c": 0}


def test_exponents_are_told_of(capsys):
    sweep_of({"distribution": "log_uniform", "min": 1e-5, "max": 0.1})  # the classic trap
    assert "parameters.x: log_uniform takes exponents of e, so values go from 1 to 1.105" in capsys.readouterr().out


def test_bands_are_those_of_hyperband():
    assert sweep_of(early_terminate={"type": "hyperband", "min_iter": 3}).bands[:3] == [3, 9, 27]
    assert sweep_of(early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2}).bands[:4] == [2, 4, 8, 16]
    assert sweep_of(early_terminate={"type": "hyperband", "max_iter": 27, "s": 2}).bands == [3, 9]
    assert sweep_of(early_terminate={"type": "hyperband", "min_iter": 1, "eta": 1.0000001}).bands == [1]
    assert sweep_of(early_terminate={"type": "hyperband", "max_iter": 10, "s": 5, "eta": 2}).bands == [1, 2, 5]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"method": "absent"}, "method: must be grid or random or bayes"),
        ({"method": "best"}, "method: must be grid or random or bayes, not 'best'"),
        ({"methods": "grid"}, "the file: there is no key 'methods' here; did you mean method?"),
        ({"parameters": {}}, "parameters: must hold"),
        ({"parameters": {"a b": {"value": 1}}}, "'a b' is no name"),
        ({"parameters": {"x": [1, 2]}}, "parameters.x: must hold"),
        ({"parameters": {"x": {"parameters": {}}}}, "parameters.x: nested parameters are not supported"),
        ({"parameters": {"x": {"values": [{"a": 1}]}}}, "parameters.x.values: {'a': 1} is no number, text"),
        ({"parameters": {"x": {"distribution": "beta", "a": 0}}}, "parameters.x.a: must be above 0"),
        ({"metrics": [{"name": "a"}, {"name": "b"}]}, "metrics: only one is supported"),
        ({"method": "custom"}, "method: must be grid or random or bayes, not 'custom'"),
        ({"parameters": {"x": {"values": []}}}, "parameters.x.values: must be a list of at least one"),
        ({"parameters": {"x": {"values": [[[1]]]}}}, "parameters.x.values: [[1]] is no number, text"),
        ({"parameters": {"x": {"values": [1, 2], "probabilities": [0.5, 0.6]}}}, "parameters.x.probabilities: must be"),
        ({"parameters": {"x": {"values": [1, 2], "probabilities": [1]}}}, "a list of 2 numbers"),
        ({"parameters": {"x": {"min": 2, "max": 1}}}, "parameters.x: min must be below max"),
        ({"parameters": {"x": {"min": 1}}}, "parameters.x: uniform needs 'max'"),
        ({"parameters": {"x": {"min": 0, "max": True}}}, "parameters.x.max: True is no number"),
        ({"parameters": {"x": {"min": 0, "max": math.inf}}}, "parameters.x.max: inf is no number"),
        ({"parameters": {"x": {"min": 0, "max": 1, "q": 0}}}, "parameters.x.q: must be above 0"),
        ({"parameters": {"x": {"min": 0.1, "max": 0.2, "q": 5}}}, "no multiple of q = 5"),
        ({"parameters": {"x": {"mu": 0, "sigma": -1}}}, "parameters.x.sigma: must be at least 0"),
        ({"parameters": {"x": {"distribution": "uniforn", "min": 0, "max": 1}}}, "did you mean uniform?"),
        ({"parameters": {"x": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "min: must be above 0"),
        ({"parameters": {"x": {"distribution": "log_uniform", "min": 0, "max": 1e6}}}, "are exponents of e"),
        ({"parameters": {"x": {"distribution": "constant", "values": [1]}}}, "constant takes no 'values', but value"),
        ({"method": "grid", "parameters": {"x": {"min": 0.0, "max": 1.5}}}, "parameters.x: a grid needs"),
        ({"method": "bayes"}, "metric: method bayes needs one"),
        ({"metric": {"name": "val_acc"}}, "train.json has no 'val_acc' (--metric NAME stands in for it), but val_acc"),
        ({"metric": {"goal": "maximize"}}, "metric: needs a name"),
        ({"metric": {"name": "val_loss", "goal": "min"}}, "metric.goal: must be minimize or maximize, not 'min'"),
        ({"metric": {"name": "val_accuracy", "goal": "maximize", "target": 80}}, "target: 80.0 is never reached"),
        ({"metric": {"name": "val_loss", "target": "low"}}, "metric.target: 'low' is no number"),
        ({"early_terminate": {"type": "median"}}, "early_terminate.type: must be hyperband, not 'median'"),
        ({"early_terminate": {"type": "hyperband"}}, "needs either min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "max_iter needs s"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9, "s": 64, "eta": 1e10}}, "less than one epoch"),
        ({"parameters": {"x": {"min": 0, "max": 10**300}}}, "int_uniform needs whole numbers"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "min_iter: must be a whole number from 1"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "eta: must be above 1"),
        ({"run_cap": 0}, "run_cap: must be a whole number from 1 to 1,000,000"),
        ({"parameters": {"x": {"values": [1.0, math.nan]}}}, "parameters.x.values: nan is no number"),
        ({"parameters": {"x": {"min": 0, "max": 1.5, "q": 1e-310}}}, "parameters.x.q: 1e-310 is too small"),
        ({"parameters": {"x": {"mu": 0, "sigma": 1, "q": 1e-320}}}, "parameters.x.q: 9.99989e-321 is too small"),
        ({"parameters": {"x": {"mu": 1e30, "sigma": 1, "q": 0.1}}}, "parameters.x.mu: must be below 1e+30"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": "yes"}}, "strict: must be true or false"),
        ({"method": "grid", "parameters": {"x": {"min": 0, "max": 1.5, "q": 1e-9}}}, "1 to 100,000 steps of q"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 10**400, "s": 1}}, "max_iter: must be a whole number"),
        ({"command": []}, "command: must be a list"),
        ({"command": ["python", "${program}"]}, "command: lacks ${args}"),
        ({"command": ["${program}", "${args_json}"]}, "command: ${args_json} is not supported"),
        ({"command": ["${program}", "${args_json_file}"]}, "command: ${args_json_file} is not supported"),
        ({"command": ["${program}", "${args_no_hyphens}"]}, "command: ${args_no_hyphens} is not supported"),
        ({"command": ["${args}", "--x=${program}"]}, "command: '--x=${program}' is none of"),
        ({"name": ["a"]}, "name: must be a text"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(content, said):
    with pytest.raises(BadInput) as error:
        sweep_of(**content)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"controller": {"type": "cloud"}, "kind": "sweep", "apiVersion": "1"},
            "note: apiVersion, kind, controller: passed",
        ),
        ({"job": "me/project/job", "scheduler": {"engine": "wandb"}}, "note: scheduler, job: passed over"),
        ({"metric": {"name": "val_loss", "impute": "best"}}, "note: metric.impute: passed over"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "s": 2}}, "note: early_terminate.s: passed over"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1}}, "strict is not given: true, as W&B's code"),
        ({"project": "a", "entity": "b", "description": "c"}, ""),
    ],
)
def test_what_concerns_the_server_is_passed_over_and_told(capsys, content, said):
    sweep_of(**content)
    out = capsys.readouterr().out
    assert said in out if said else not out


@pytest.mark.parametrize(("given", "expected"), [(None, True), (True, True), (False, False)])
def test_early_terminate_is_strict_unless_it_says_no(given, expected):
    early = {"type": "hyperband", "min_iter": 1} | ({} if given is None else {"strict": given})
    assert sweep_of(early_terminate=early).is_strict is expected


def test_a_value_that_is_there_twice_is_once_in_a_grid():
    sweep = sweep_of({"values": [1, 2, 1, True]}, method="grid")
    assert sweep.parameters["x"].grid() == [1, 2]


@pytest.mark.parametrize(
    ("metric", "chosen", "found"),
    [
        ({"name": "val_acc", "goal": "maximize", "target": 0.9}, "val_accuracy", ("val_accuracy", True, 0.9)),
        ({"name": "loss", "target": 0.1}, "val_loss", ("val_loss", False, 0.1)),
        ({"name": "loss", "target": 0.1}, "val_accuracy", ("val_accuracy", True, None)),  # not the lowest accuracy
        (None, "val_loss", ("val_loss", False, None)),
    ],
)
def test_a_metric_can_stand_in_for_that_of_the_file(capsys, metric, chosen, found):
    content = {"method": "bayes", "parameters": {"x": {"values": [1, 2]}}} | ({"metric": metric} if metric else {})
    sweep = parse_sweep(content, "file", chosen)
    assert (sweep.metric, sweep.maximize, sweep.target) == found
    assert f"note: --metric: the {'highest' if found[1] else 'lowest'} {chosen} is the best" in capsys.readouterr().out


@pytest.mark.slow
def test_files_that_are_no_sweep(tmp_path):
    for content in (b"\xff\xfe\x00", b"a: [", b"- a", b"", b"a: 2026-13-45", b"[" * 5000):
        (tmp_path / "a.yaml").write_bytes(content)
        with pytest.raises(BadInput, match=r"a\.yaml"):
            read_sweep(str(tmp_path / "a.yaml"))
    with pytest.raises(BadInput, match="cannot be read"):
        read_sweep(str(tmp_path / "absent.yaml"))


def test_words_mean_what_they_look_like(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "method: random\nparameters:\n  x: {values: [1e-4, 1.5, 3, true, 010, 2:32, yes, '3', 2024-01-02, null, 0x1F]}"
    )
    [form] = read_sweep(str(tmp_path / "a.yaml")).parameters.values()
    assert list(map(repr, form.values)) == [
        "0.0001", "1.5", "3", "True", "'010'", "'2:32'", "'yes'", "'3'", "'2024-01-02'", "None", "'0x1F'"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: random\nmethod: grid", "line 2: the key 'method' is there twice"),
        ("a: &a [x, x]\nb: &b [*a, *a]", "line 1: aliases"),
        ("method: !!python/name:os.system", "line 1: tag:yaml.org,2002:python"),
        ("x: " + "[" * 1000, "nested too deeply"),
        ("x: " + "y" * 100_000, "larger than 100,000 bytes"),
    ],
)
def test_yaml_has_limits(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BadInput, match="a.yaml") as error:
        read_sweep(str(tmp_path / "a.yaml"))
    assert said in str(error.value)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(
    ["method", "parameters", "metric", "early_terminate", "name", "command", "run_cap", "x", "min", "max", "q", "mu",
     "sigma", "a", "b", "values", "value", "probabilities", "distribution", "type", "eta", "s", "min_iter", "max_iter",
     "goal"]
)  # fmt: skip
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@pytest.mark.slow
@settings(deadline=None)  # other processes can take the time of a CPU
@given(top=st.dictionaries(KEYS, ANYTHING, max_size=4), parameter=st.dictionaries(KEYS, ANYTHING, max_size=4))
def test_whatever_a_file_holds_is_a_sweep_or_bad_input(top, parameter):
    for content in (top, {"method": "random", "parameters": {"x": parameter}} | top):
        try:
            sweep = parse_sweep(content, "file")
        except BadInput:
            continue
        for form in sweep.parameters.values():
            assert form.examples()


@settings(deadline=None)
@example(low=5e-324, width=1.0, q=2.0, place=0.0)
@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), q=st.floats(1e-3, 1e3), place=st.floats(0, 1))
def test_steps_stay_between_the_bounds(low, width, q, place):
    try:
        form = sweep_of({"min": low, "max": low + width, "q": q}).parameters["x"]
    except BadInput:
        return
    value = form.value(low + place * width)
    rounding = 1e-6 * max(abs(low), abs(low + width), q)
    assert low - rounding <= value <= low + width + rounding
    assert value / q == pytest.approx(round(value / q), abs=1e-3)


@pytest.mark.parametrize(("low", "high", "multiples"), [(0.1, 0.3, (1, 3)), (0.1, 0.7, (1, 7)), (0.25, 0.3, (3, 3))])
def test_multiples_at_the_bounds_are_drawn(low, high, multiples):
    assert multiples_between(low, high, 0.1) == multiples
    form = sweep_of(parameters={"dropout": {"min": low, "max": high, "q": 0.1}}).parameters["dropout"]
    assert form.value(high) == pytest.approx(0.1 * multiples[1])


@pytest.mark.parametrize(("strict", "is_strict"), [(0, False), (False, False), (1, True), (None, True)])
def test_a_zero_means_not_strict(strict, is_strict):
    words = {"type": "hyperband", "min_iter": 3} | ({} if strict is None else {"strict": strict})
    assert sweep_of(early_terminate=words).is_strict == is_strict
