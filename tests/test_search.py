"""The search: what is tried, stopped, kept and chosen; what survives an end of any kind."""

import importlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import optuna
import pytest
import yaml
from helpers import ROOT, command, environment, read, table
from optuna.trial import TrialState

import ex_1
import sweep
from common.system.errors import BadInput
from tools.searching.columns import _correlation
from tools.searching.spaces import Bands, OneOf
from tools.searching.storage import JOURNAL, _with_driver, open_storage, try_again
from tools.searching.sweep_file import COMMAND
from tools.searching.trials import Launcher, arguments, slots_for

TOY = str(Path(__file__).with_name("toy.py"))


def write_sweep(folder, parameters=None, name="s", **top):
    """Write a sweep file over the toy experiment and return its path."""
    content = {
        "method": "grid", "program": TOY, "name": name, "metric": {"name": "val_accuracy", "goal": "maximize"},
        "parameters": parameters or {"lr": {"values": [0.1, 0.3, 0.2]}},
    } | top  # fmt: skip
    path = Path(folder) / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def search(folder, *words, parameters=None, fixed=(), **top):
    """Run a sweep over the toy experiment in this process and return its folder."""
    path = write_sweep(folder, parameters, **top)
    return sweep.main([path, "--output_dir", str(folder / "out put"), *words, "--", *fixed])


def trials(folder):
    return table(folder / "trials.csv")


def test_a_grid_is_tried_in_order_and_the_best_alone_is_tested(tmp_path, capsys):
    folder = search(tmp_path)
    rows = trials(folder)
    assert [(row["trial"], row["state"], row["lr"]) for row in rows] == [
        ("0", "finished", "0.1"), ("1", "finished", "0.3"), ("2", "finished", "0.2"),
    ]  # fmt: skip
    assert [float(row["val_accuracy"]) for row in rows] == pytest.approx([0.13, 0.33, 0.23])
    tested = [row["trial"] for row in rows if list(Path(row["folder"]).glob("*/*/*/test.json"))]
    assert tested == ["1"]
    [test] = folder.glob("trials/*/*/*/*/test.json")  # looks at test images are counted for all searches together
    assert json.loads(test.read_text())["account"] == str(tmp_path / "out put")
    assert yaml.safe_load((folder / "best.yaml").read_text()) == {"lr": 0.3}
    said = capsys.readouterr().out
    assert "trial 1, the best on validation images, on the test images: test accuracy 0.5" in said
    assert f"toy.py --config '{folder / 'best.yaml'}'" in said
    states = [path.parents[3].name for path in folder.glob("trials/*/*/*/*/last.pth")]
    assert states == ["0001"]  # of the others only what they have found is kept
    assert {"history.png", "parallel.png", "log.txt"} <= {path.name for path in folder.iterdir()}
    assert [(row["option"], row["spearman"], row["n"]) for row in table(folder / "correlation.csv")] == [
        ("lr", "1.0", "3")
    ]


@pytest.mark.slow
def test_minimizing_takes_the_least(tmp_path, capsys):
    folder = search(tmp_path, metric={"name": "val_loss"})  # W&B's goal, if none is named
    assert yaml.safe_load((folder / "best.yaml").read_text()) == {"lr": 0.1}
    assert "note:" not in capsys.readouterr().out
    search(tmp_path, metric={"name": "val_accuracy"}, name="t")
    assert "did you mean goal: maximize?" in capsys.readouterr().out
    assert float(trials(folder)[0]["val_loss"]) == pytest.approx(1.1)  # of the first epoch, which was the best


@pytest.mark.slow
def test_a_huge_grid_needs_a_number_of_trials(tmp_path):
    parameters = {"seed": {"min": 0, "max": 10**9}, "epochs": {"min": 1, "max": 10**9}}
    with pytest.raises(BadInput, match="points: say with --trials how many"):
        search(tmp_path, parameters=parameters)
    assert len(trials(search(tmp_path, "--trials", "2", parameters=parameters))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("words", "cap", "count"), [([], None, 3), (["--trials", "2"], None, 2), ([], 1, 1)])
def test_the_number_of_trials(tmp_path, words, cap, count):
    top = {"run_cap": cap} if cap else {}
    assert len(trials(search(tmp_path, *words, **top))) == count


@pytest.mark.slow
def test_more_trials_later(tmp_path, capsys):
    search(tmp_path, "--trials", "1")
    capsys.readouterr()
    folder = search(tmp_path, "--trials", "3")
    assert [row["lr"] for row in trials(folder)] == ["0.1", "0.3", "0.2"]
    said = capsys.readouterr().out
    assert "trial 0:" not in said and "trial 1:" in said  # the finished one is not run again


@pytest.mark.slow
def test_a_target_ends_the_search(tmp_path):
    rows = trials(search(tmp_path, metric={"name": "val_accuracy", "goal": "maximize", "target": 0.3}))
    assert [(row["lr"], row["state"]) for row in rows] == [("0.1", "finished"), ("0.3", "finished"), ("0.2", "waiting")]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--bayes", "tpe"], pytest.param(["--bayes", "gp"], marks=pytest.mark.slow)])
def test_samplers_propose_within_the_space_and_differ(tmp_path, words):
    parameters = {"lr": {"min": 0.0, "max": 1.0}}
    proposed = []
    for name, seed in (("first", "0"), ("again", "0"), ("other", "1")):
        (tmp_path / name).mkdir()
        folder = search(tmp_path / name, *words, "-n", "4", "-s", seed, parameters=parameters, method="bayes")
        proposed.append([float(row["lr"]) for row in trials(folder)])
    assert proposed[0] == proposed[1] != proposed[2]
    assert all(0 <= lr <= 1 for lr in proposed[0]) and len(set(proposed[0])) == 4


@pytest.mark.slow
def test_the_same_options_are_not_run_twice(tmp_path, capsys):
    folder = search(tmp_path, "-n", "6", parameters={"lr": {"values": [0.1, 0.2]}}, method="random")
    rows = trials(folder)
    assert len(rows) == 6
    assert len(list((folder / "trials").iterdir())) == 2
    for row in rows:
        twin = rows[int(row["same_as"])] if row["same_as"] else row
        assert (row["lr"], row["val_accuracy"]) == (twin["lr"], twin["val_accuracy"])
    assert "the same options as trial 0" in capsys.readouterr().out


@pytest.mark.slow
def test_failed_trials_are_told_with_their_reason_and_the_search_goes_on(tmp_path, capsys):
    parameters = {"kind": {"values": ["refused", "diverges", "crashes once", "good"]}}
    folder = search(tmp_path, parameters=parameters)
    rows = trials(folder)
    assert [row["state"] for row in rows] == ["refused", "failed", "failed", "finished"]
    assert [row["reason"] for row in rows] == [
        "exit code 2 (refused): --kind: this is refused",
        "exit code 3: the loss is not finite any more",
        "exit code 1 (a fault of the program): KeyError: 'x'",
        "",
    ]
    capsys.readouterr()
    folder = search(tmp_path, parameters=parameters)  # the crash is retried, what would end alike is not
    rows = trials(folder)
    assert [(row["trial"], row["state"]) for row in rows] == [
        ("0", "refused"), ("1", "failed"), ("3", "finished"), ("4", "finished"),
    ]  # fmt: skip
    assert rows[3]["kind"] == "crashes once"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_lack_of_memory_is_a_reason_and_ends_no_search(tmp_path):
    rows = trials(search(tmp_path, parameters={"kind": {"values": ["killed", "out of memory", "good"]}}))
    assert [(row["state"], row["reason"]) for row in rows] == [
        ("failed", "exit code -9 (killed, perhaps because memory ran out): it said nothing"),
        ("failed", "exit code 4: out of memory; lower --batch_size"),
        ("finished", ""),
    ]


@pytest.mark.slow
def test_refused_combinations_are_no_trials(tmp_path, capsys):
    parameters = {"kind": {"values": ["refused", "good"]}, "lr": {"min": 0.0, "max": 1.0}}
    rows = trials(search(tmp_path, "-n", "3", parameters=parameters, method="random"))
    states = [row["state"] for row in rows]
    assert states.count("finished") == 3 and states.count("refused") == len(rows) - 3 > 0
    refused = next(row for row in rows if row["state"] == "refused")
    assert refused["reason"] == "exit code 2 (refused): --kind: this is refused"
    assert f"passed over: kind=refused lr={float(refused['lr']):.4g}: exit code 2" in capsys.readouterr().out
    again = trials(search(tmp_path, "-n", "3", parameters=parameters, method="random"))
    assert len(again) == len(rows)  # the same command knows them


def test_no_trial_finished(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.searching.search.MOST_REFUSED", 3)
    with pytest.raises(BadInput, match="no trial has finished"):
        search(tmp_path, parameters={"kind": {"value": "refused"}}, method="random")
    [log] = tmp_path.glob("*/sweeps/s/log.txt")
    assert "3 combinations in a row were refused, and no more are drawn" in log.read_text()


def test_a_value_that_the_script_takes_beside_certain_others_is_no_mistake():
    experiment, sizes = sweep.Experiment("ex_3.py"), OneOf([16, 64])
    words = Launcher(COMMAND, experiment.path, ["--dataset", "digits"]).option_words
    experiment.check({"image_size": sizes, "model": OneOf(["alexnet", "lenet"])}, words)
    with pytest.raises(BadInput, match="parameters.image_size: --image_size 16: alexnet needs at least 63"):
        experiment.check({"image_size": sizes, "model": OneOf(["alexnet"])}, words)


@pytest.mark.slow
def test_poor_trials_are_stopped_early(tmp_path):
    parameters = {"lr": {"values": [0.5, 0.1, 0.6, 0.2]}}
    early = {"type": "hyperband", "min_iter": 2}
    fixed = ["--epochs", "12", "--seconds", "0.15"]
    rows = trials(search(tmp_path, parameters=parameters, early_terminate=early, fixed=fixed))
    assert [row["state"] for row in rows] == ["finished", "stopped early", "finished", "stopped early"]
    assert int(rows[3]["epochs"]) < 12 and rows[3]["val_accuracy"] == ""


def run_under(study, *values):
    """Report values epoch by epoch; return the epoch after which the trial is stopped, None if it is not."""
    trial = study.ask()
    for epoch, value in enumerate(values, 1):
        trial.report(value, epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, max(values))
    return None


@pytest.mark.parametrize(("is_strict", "falling"), [(False, [None, None]), (True, [2, 4])])
def test_bands_compare_as_wandb_does(is_strict, falling):
    """The threshold of n values at a band is number n / eta of the sorted ones, from 0 on."""
    study = optuna.create_study(direction="maximize", pruner=Bands([2, 4], 3, is_strict))

    def run(*values):
        return run_under(study, *values)

    assert run(0.1, 0.2, 0.3) is None  # the first has no rival
    assert run(0.1, 0.1, 0.9) == 2  # of two values at the band the better one is the threshold
    assert run(0.5, 0.05, 0.1) == falling[0]  # the best so far counts, or the value at the band
    assert run(0.3, 0.4, 0.4, 0.4) is None
    study.tell(study.ask(), state=TrialState.FAIL)
    assert run(0.0, 0.15) == 2
    assert run(0.0, 0.5, 0.5, 0.3) == falling[1]


def test_a_trial_is_compared_again_after_the_band():
    study = optuna.create_study(direction="maximize", pruner=Bands([1], 2))
    early = study.ask()
    early.report(0.1, 1)
    assert not early.should_prune()
    for _ in range(2):
        later = study.ask()
        later.report(0.5, 1)
        assert not later.should_prune()
    early.report(0.1, 2)
    assert early.should_prune()  # as others have overtaken it at band 1


@pytest.mark.parametrize(
    ("macro", "words"),
    [
        ("${args}", ["--lr=0.1", "--switch=False", "--test=True"]),
        ("${args_no_equals}", ["--lr", "0.1", "--switch", "False", "--test", "True"]),
        ("${args_no_boolean_flags}", ["--lr=0.1", "--test"]),
    ],
)
def test_macros(macro, words):
    assert arguments({"lr": 0.1, "switch": False, "test": True}, macro) == words


def test_variables_of_the_environment_stand_in_the_command(monkeypatch):
    monkeypatch.setenv("FOLDER", "a b")
    command = ["${program}", "--data=${envvar:FOLDER}/c", "${args}"]
    assert Launcher(command, Path(TOY), []).option_words({"lr": 1}) == ["--data=a b/c", "--lr=1"]
    monkeypatch.delenv("FOLDER")
    with pytest.raises(BadInput, match="command: there is no environment variable FOLDER"):
        Launcher(command, Path(TOY), [])


@pytest.mark.slow
def test_the_command_of_the_file_is_run(tmp_path):
    wrapper = tmp_path / "wrap per.sh"
    wrapper.write_text(f'echo "$@" >> {shutil.os.path.abspath(tmp_path)!r}/said\nexec "$@"\n')
    shell = ["${env}", "bash", str(wrapper), "${interpreter}", "-u", "${program}", "${args_no_equals}"]
    search(tmp_path, parameters={"lr": {"value": 0.5}}, command=shell)
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0].startswith(f"{sys.executable} -u {TOY} --lr 0.5 --output_dir")
    assert "--resume" in said[1] and said[1].endswith("--test=True")


@pytest.mark.slow
def test_threads_are_divided_among_jobs(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    folder = search(tmp_path, "--jobs", "3", fixed=["--seconds", "0.2"])
    configs = [json.loads(path.read_text()) for path in folder.glob("trials/*/*/*/*/config.json")]
    assert [config["threads"] for config in configs] == ["2", "2", "2"]
    assert {row["state"] for row in trials(folder)} == {"finished"}


def test_each_gpu_takes_one_trial(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert slots_for(None, on_cpu=False) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert slots_for(1, on_cpu=False) == [{"CUDA_VISIBLE_DEVICES": "0"}]
    assert slots_for(1, on_cpu=True) == [{}]
    with pytest.raises(BadInput, match="--jobs 3: there are 2 GPU"):
        slots_for(3, on_cpu=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert slots_for(2, on_cpu=False) == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "6"}]


def test_a_program_that_cannot_be_started(tmp_path):
    with pytest.raises(BadInput, match="command: nosuchprogram cannot be started"):
        search(tmp_path, command=["nosuchprogram", "${program}", "${args}"])


@pytest.mark.slow
def test_words_of_the_command_are_options_too(tmp_path):
    command = ["${env}", "${interpreter}", "${program}", "--epochs=2", "${args}", "--seed=4"]
    folder = search(tmp_path, command=command)
    assert yaml.safe_load((folder / "best.yaml").read_text()) == {"lr": 0.3, "epochs": 2, "seed": 4}
    with pytest.raises(BadInput, match="parameters.seed: all values come to the same"):
        search(tmp_path, command=command, parameters={"seed": {"values": [1, 2]}}, name="t")


def test_a_switch_that_the_macro_does_not_send_is_refused(tmp_path):
    path = write_sweep(
        tmp_path, {"batch_norm": {"values": [True, False]}}, command=["${program}", "${args_no_boolean_flags}"]
    )
    with pytest.raises(BadInput, match="parameters.batch_norm: all values come to the same"):
        sweep.main([path, "--program", "ex_1.py", "--", "--dataset", "digits"])  # it is on by default


@pytest.mark.slow
def test_folders_of_a_deleted_search_are_not_taken_for_its_own(tmp_path):
    folder = search(tmp_path)
    (folder / JOURNAL).unlink()
    again = search(tmp_path, parameters={"lr": {"values": [0.7, 0.9]}})
    assert [float(row["val_accuracy"]) for row in trials(again)] == pytest.approx([0.73, 0.93])
    assert sorted(path.name for path in (again / "trials").iterdir()) == ["0000", "0000-2", "0001", "0001-2", "0002"]


@pytest.mark.slow
def test_values_near_zero_can_be_drawn(tmp_path):
    """Of a logarithmic distribution whose steps begin at 0, which has no logarithm."""
    parameters = {"lr": {"distribution": "q_log_normal", "mu": -1, "sigma": 2, "q": 1}, "seed": {"min": 0, "max": 9}}
    folder = search(tmp_path, "-n", "6", parameters=parameters, method="random")
    rates = {float(row["lr"]) for row in trials(folder)}
    assert 0 in rates and len(rates) > 1  # else there would be nothing to draw
    pictures = ("history", "importance", "correlation", "parallel")
    assert all((folder / f"{name}.png").stat().st_size > 10_000 for name in pictures)


@pytest.mark.slow
def test_a_search_killed_while_it_drew_loses_no_point_of_the_grid(tmp_path):
    parameters = {"lr": {"values": [0.1, 0.2]}, "seed": {"values": [0, 1, 2]}}
    (tmp_path / "whole").mkdir()
    whole = search(tmp_path / "whole", parameters=parameters, name="a")
    lines = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    begun = [number for number, line in enumerate(lines) if b'"op_code":6' in line and b'"state":0' in line]
    for cut in range(begun[1], begun[1] + 4):  # the second trial runs, and has none, one or both of its values
        (tmp_path / f"{cut}").mkdir()
        folder = tmp_path / f"{cut}" / "out put" / "sweeps" / "a"
        folder.mkdir(parents=True)
        (folder / JOURNAL).write_bytes(b"".join(lines[: cut + 1]))
        rows = trials(search(tmp_path / f"{cut}", parameters=parameters, name="a"))
        assert sorted((row["lr"], row["seed"]) for row in rows) == [
            (lr, seed) for lr in ("0.1", "0.2") for seed in ("0", "1", "2")
        ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_trial_that_another_machine_has_taken_over_is_left_to_it(tmp_path, monkeypatch):
    taken = []

    def beat(storage, running):
        for trial in [] if taken else running:  # as another machine does while this one sleeps
            taken.append(storage.study.tell(trial.number, state=TrialState.FAIL))
            try_again(storage.study, storage.latest(trial))

    monkeypatch.setattr("tools.searching.storage.Storage.beat", beat)
    rows = trials(search(tmp_path, fixed=["--seconds", "0.2"]))
    assert sorted((row["lr"], row["state"]) for row in rows) == [(lr, "finished") for lr in ("0.1", "0.2", "0.3")]
    assert len(taken) == 1 and rows[-1]["trial"] == "3"


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_signals_while_a_trial_is_started_are_not_lost(tmp_path):
    launcher = Launcher(["${interpreter}", "-c", "import time; time.sleep(60)", "${args}"], Path(TOY), [])
    previous = signal.signal(signal.SIGTERM, lambda number, frame: (_ for _ in ()).throw(KeyError("told")))
    try:
        with pytest.raises(KeyError, match="told"), mock.patch("subprocess.Popen", side_effect=_signalled):
            launcher.start({}, tmp_path, 0)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _signalled(*arguments, **settings):
    """Stand for Popen, whose fork swallows what a signal handler raises."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyError:
        return mock.Mock()
    return mock.Mock()


@pytest.mark.slow
def test_seeds_are_a_parameter_like_any_other(tmp_path):
    rows = trials(search(tmp_path, parameters={"seed": {"values": [0, 1, 2]}, "lr": {"value": 0.2}}))
    assert [row["seed"] for row in rows] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("parameters", "fixed", "said"),
    [
        ({"learning": {"values": [1, 2]}}, [], "parameters.learning: there is no option --learning"),
        ({"lr": {"values": [0.1, "fast"]}}, [], "parameters.lr: -lr/--lr: 'fast' is not a number"),
        ({"lr": {"min": -1, "max": 1}}, [], "parameters.lr: -lr/--lr: -1 must be above 0"),
        ({"output_dir": {"value": "x"}}, [], "parameters.output_dir: this option is the search's own"),
        ({"lr": {"values": [0.1, 0.2]}}, ["-lr", "1"], "parameters.lr: all values come to the same"),
        ({"lr": {"values": [0.1, 0.2]}}, ["-e", "x"], "-e"),
        ({"dataset": {"values": ["digits", "digits,cifar10"]}}, [], "parameters.dataset: a trial is one run"),
    ],
)
def test_impossible_spaces_are_refused_before_the_first_trial(tmp_path, parameters, fixed, said):
    fixed = fixed if "dataset" in parameters else ["--dataset", "digits", *fixed]
    path = write_sweep(tmp_path, parameters)
    with pytest.raises(BadInput) as error:
        sweep.main([path, "--program", str(ROOT / "ex_1.py"), "--output_dir", str(tmp_path / "out"), "--", *fixed])
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_trial_is_one_run(tmp_path):
    with pytest.raises(BadInput, match="not one on cifar10 and cifar100 each"):
        sweep.main([write_sweep(tmp_path), "--program", "ex_1.py"])
    with pytest.raises(BadInput, match="the options after --: a trial is one run, not one for each of several"):
        sweep.main([write_sweep(tmp_path), "--program", "ex_1.py", "--", "--dataset", "digits", "-s", "0,1"])


def test_programs(tmp_path):
    with pytest.raises(BadInput, match="there is no program train.py; name one with --program"):
        search(tmp_path, program="train.py")
    (tmp_path / "no.py").write_text("x = 1")
    with pytest.raises(BadInput, match="is no experiment"):
        search(tmp_path, "--program", str(tmp_path / "no.py"))
    (tmp_path / "no.py").write_text("x = ")
    with pytest.raises(BadInput, match="cannot be imported"):
        search(tmp_path, "--program", str(tmp_path / "no.py"))


@pytest.mark.slow
def test_another_search_of_the_same_name_is_refused(tmp_path):
    search(tmp_path)
    with pytest.raises(BadInput, match="began with another parameters; give this one a --name"):
        search(tmp_path, parameters={"lr": {"values": [5]}})
    with pytest.raises(BadInput, match="began with another options after --"):
        search(tmp_path, fixed=["--epochs", "9"])
    assert search(tmp_path, "--name", "../x y/", fixed=["--epochs", "9"]).name == "x-y"


def test_the_best_options_are_a_recipe(tmp_path):
    experiment = sweep.Experiment("ex_1.py")
    words = ["--dataset", "digits", "--lr=0.5", "--batch_norm=False", "--milestones=3,5", "--schedule", "multistep"]
    changed = experiment.changed_options([*words, "--output_dir", "x", "--test", "False"])
    assert changed == {
        "dataset": ["digits"], "lr": 0.5, "batch_norm": False, "milestones": [3, 5], "schedule": "multistep",
    }  # fmt: skip
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(changed))
    assert vars(ex_1.parse_options(["--config", str(tmp_path / "best.yaml")])) == experiment.options(words)


def test_a_torn_journal_loses_no_whole_line(tmp_path):
    storage = open_storage(None, tmp_path, "s", maximize=True, dead_after=60)
    for value in (0.1, 0.2):
        storage.study.tell(storage.ask(), value)
    whole = (tmp_path / JOURNAL).read_bytes()
    for torn in (b"{", b'{"op_code": 4, "worker', b"\x00" * 30, b"17\n", b'{"a":1}'):
        (tmp_path / JOURNAL).write_bytes(whole + torn)
        (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)  # whoever wrote has died
        again = open_storage(None, tmp_path, "s", maximize=True, dead_after=60)
        assert [trial.value for trial in again.trials()] == [0.1, 0.2]
    again.study.tell(again.ask(), 0.3)
    final = open_storage(None, tmp_path, "s", maximize=True, dead_after=60)
    assert [trial.value for trial in final.trials()] == [0.1, 0.2, 0.3]
    (tmp_path / JOURNAL).write_bytes(b"#" + whole)
    with pytest.raises(BadInput, match="is damaged in line"):
        open_storage(None, tmp_path, "s", maximize=True, dead_after=60)


def flips(whole, count):
    """Yield the number of a line, and a journal in which one bit of that line differs."""
    chance, name = random.Random(0), whole.find(b"crc32", 0, whole.find(b"\n"))
    for place in chance.sample(range(len(whole) - 2), count):  # the last record may be lost, as if it were cut off
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        if name <= place < name + 5:
            continue  # without the name of its checksum the first line is one of an earlier version, and is whole
        if damaged.lower() == whole.lower() and b"\\u" in whole[place - 5 : place]:
            continue  # a digit of an escaped letter in the other case: nothing has changed
        yield whole[:place].count(b"\n") + 1, bytes(damaged)


def journal_of_a_search(folder):
    """Return the journal of trials with all that a search tells of them."""
    storage = open_storage(None, folder, "s", maximize=True, dead_after=60)
    for value in (0.1, 0.2, 0.3):
        trial = storage.ask()
        trial.suggest_float("x", 0, 1)
        trial.suggest_categorical("y", [True, "a", None])
        trial.report(value, 1)
        trial.set_user_attr("folder", f"größe/{value}")
        storage.study.tell(trial, value)
    return (folder / JOURNAL).read_bytes()


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_flipped_bit_of_a_journal_is_noticed_and_its_line_named(tmp_path, count):
    whole = journal_of_a_search(tmp_path)
    for number, damaged in flips(whole, min(count, len(whole) - 2)):
        (tmp_path / JOURNAL).write_bytes(damaged)
        with pytest.raises(BadInput, match=rf"damaged in line {number};"):
            open_storage(None, tmp_path, "s", maximize=True, dead_after=60)


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_journal_without_checksums_is_read_or_one_line_says_why_not(tmp_path, count):
    logs = [json.loads(line) for line in journal_of_a_search(tmp_path).splitlines()]
    old = [json.dumps({key: log[key] for key in log if key != "crc32"}, separators=(",", ":")) for log in logs]
    whole = ("\n".join(old) + "\n").encode()
    (tmp_path / JOURNAL).write_bytes(whole)
    storage = open_storage(None, tmp_path, "s", maximize=True, dead_after=60)
    storage.study.tell(storage.ask(), 0.4)
    again = open_storage(None, tmp_path, "s", maximize=True, dead_after=60)
    assert [trial.value for trial in again.trials()] == [0.1, 0.2, 0.3, 0.4]
    refused = 0
    for _, damaged in flips(whole, min(count, len(whole) - 2)):
        (tmp_path / JOURNAL).write_bytes(damaged)
        try:
            open_storage(None, tmp_path, "s", maximize=True, dead_after=60)
        except BadInput as error:
            refused += "is damaged" in str(error)
    assert refused > count / 4


def test_a_journal_on_a_full_disk_stays_whole(tmp_path, monkeypatch):
    storage = open_storage(None, tmp_path, "s", maximize=True, dead_after=60)
    trial = storage.ask()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    before = (tmp_path / JOURNAL).read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        storage.study.tell(trial, 0.5)
    assert (tmp_path / JOURNAL).read_bytes() == before


@pytest.mark.slow
def test_databases(tmp_path):
    assert _with_driver("postgresql://a@b/c") == "postgresql+psycopg://a@b/c"
    assert _with_driver("postgresql+psycopg2://a@b/c") == "postgresql+psycopg2://a@b/c"
    folder = search(tmp_path, "--storage", f"sqlite:///{tmp_path}/a.db")
    assert [row["state"] for row in trials(folder)] == ["finished"] * 3
    assert not (folder / JOURNAL).exists()
    for url in ("nonsense", "nonsense://x", "sqlite:////no/such/folder/a.db"):
        with pytest.raises(BadInput, match="--storage"):
            search(tmp_path, "--storage", url)
    with pytest.raises(BadInput) as error:
        search(tmp_path, "--storage", "postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(error.value) and "cannot be used" in str(error.value)


def start_sweep(*words):
    return subprocess.Popen(
        [sys.executable, ROOT / "sweep.py", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("name", "code"),
    [*(pytest.param(*one, marks=pytest.mark.long) for one in (("SIGINT", 130), ("SIGTERM", 143))), ("SIGKILL", -9)],
)
def test_the_same_command_continues_after_any_end(tmp_path, name, code):
    path = write_sweep(tmp_path)
    words = [path, "--output_dir", tmp_path / "out", "--jobs", "2", "--", "--seconds", "0.5", "--epochs", "4"]
    process = start_sweep(*words)
    trial = tmp_path / "out" / "sweeps" / "s" / "trials" / "0002" / "toy" / "digits" / "now" / "train.json"
    wait_for(trial.exists)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in error
    wait_for(lambda: not running_toys(tmp_path))  # no trial is left running
    done = command(ROOT / "sweep.py", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "trial 0:" not in done.stdout and "trial 1:" not in done.stdout
    rows = trials(tmp_path / "out" / "sweeps" / "s")
    assert [(row["lr"], row["state"], row["epochs"]) for row in rows] == [
        ("0.1", "finished", "4"), ("0.3", "finished", "4"), ("0.2", "finished", "4"),
    ]  # fmt: skip
    assert read(trial.parent, "config.json")["resumed"]  # in the same folder, from where it was


def running_toys(folder):
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if TOY in line and str(folder) in line and "sweep.py" not in line]


@pytest.mark.slow
def test_two_searches_at_once_on_one_file(tmp_path):
    path = write_sweep(tmp_path)
    words = [path, "--output_dir", tmp_path / "out", "--", "--seconds", "1"]
    process = start_sweep(*words)
    wait_for((tmp_path / "out" / "sweeps" / "s" / "trials" / "0000").exists)
    second = command(ROOT / "sweep.py", *words)
    assert second.returncode == 2 and "in use by another process" in second.stderr
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.long
def test_a_real_search_from_beginning_to_end(tmp_path):
    path = tmp_path / "real.yaml"
    path.write_text(
        "method: random\nmetric: {name: val_accuracy, goal: maximize}\n"
        "parameters: {lr: {values: [0.001, 1000000.0]}, dropout: {min: 0.0, max: 0.5}}\n"
        "early_terminate: {type: hyperband, min_iter: 1, eta: 2}\n"
    )
    fixed = ["--dataset", "digits", "--limit", "300", "-e", "2"]
    words = [ROOT / "sweep.py", path, "--program", "ex_1.py", "-n", "4", "--jobs", "2", "--", *fixed]
    done = command(*words, cwd=tmp_path, env=environment(OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "sweeps" / "real"
    rows = trials(folder)
    assert len(rows) == 4 and {"finished"} <= {row["state"] for row in rows}
    assert all(row["lr"] == "0.001" for row in rows if row["state"] == "finished" and float(row["val_accuracy"]) > 0.3)
    best = max(rows, key=lambda row: float(row["val_accuracy"] or 0))
    [run] = Path(best["folder"]).glob("*/*/*")
    assert read(run, "test.json")["test_evaluations"] == 1
    assert len(list(folder.glob("trials/*/*/*/*/test.json"))) == 1
    again = command(ROOT / "ex_1.py", "--config", folder / "best.yaml", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    [rerun] = (tmp_path / "outputs" / "ex_1").glob("*/*")
    assert read(rerun, "test.json")["accuracy"] == read(run, "test.json")["accuracy"]


@pytest.mark.slow
def test_the_own_work_of_a_search_is_counted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    growth = importlib.import_module("search_growth")
    assert growth.by_tenths([0.001 * number**2 for number in range(21)]) == [float(4 * n + 1) for n in range(10)]
    result = growth.main(["--trials", "20"])
    assert len(result["milliseconds_of_a_trial"]) == 10 and min(result["milliseconds_of_a_trial"]) > 0


def test_options_that_were_varied_are_in_the_recipe_even_at_their_defaults():
    experiment = sweep.Experiment("ex_1.py")
    changed = experiment.changed_options(["--dataset", "digits", "-lr", "0.001"], ["lr", "batch-norm", "output_dir"])
    assert changed == {"dataset": ["digits"], "lr": 0.001, "batch_norm": True}


@pytest.mark.slow
def test_importance_is_drawn_of_five_configurations_on(tmp_path):
    folder = search(tmp_path, parameters={"lr": {"values": [0.1, 0.3, 0.2, 0.4]}})
    assert not (folder / "importance.png").exists() and not (folder / "correlation.png").exists()
    assert (folder / "parallel.png").exists() and (folder / "correlation.csv").exists()
    folder = search(tmp_path, parameters={"lr": {"values": [0.1, 0.3, 0.2, 0.4, 0.5]}}, name="five")
    assert (folder / "importance.png").exists() and (folder / "correlation.png").exists()


def test_a_perfect_correlation_has_no_interval():
    rising, nearly = np.arange(6.0), np.array([0, 1, 2, 3, 5, 4.0])
    assert _correlation("lr", "", rising, rising).low is None
    one = _correlation("lr", "", nearly, rising)
    assert -1 < one.low < one.spearman < one.high < 1


@pytest.mark.slow
def test_a_crashed_trial_that_two_machines_found_is_tried_again_once(tmp_path, monkeypatch):
    parameters = {"kind": {"values": ["crashes once", "good"]}}
    assert [row["state"] for row in trials(search(tmp_path, parameters=parameters))] == ["failed", "finished"]
    twice = lambda *arguments: [try_again(*arguments) for _ in range(2)]  # noqa: E731
    monkeypatch.setattr("tools.searching.search.try_again", twice)
    rows = trials(search(tmp_path, parameters=parameters))
    assert [(row["kind"], row["state"]) for row in rows] == [("good", "finished"), ("crashes once", "finished")]


def test_what_a_run_has_stored_is_not_said_again_when_it_goes_on(tmp_path, monkeypatch):
    command = ["${interpreter}", "${program}", "--strategy", "all", "${args}"]
    launcher, words = Launcher(command, Path("trainB.py"), []), []
    monkeypatch.setattr("tools.searching.trials.TrialProcess", lambda said, *_: words.append(said[1:]))
    launcher.start({"strategy": "head"}, tmp_path, 0)
    earlier = tmp_path / "trainB" / "nature" / "now"
    earlier.mkdir(parents=True)
    (earlier / "config.json").write_text("{}")
    launcher.start({"strategy": "head"}, tmp_path, 0, test=True)
    first, second = words
    assert first[1:4] == ["--strategy", "all", "--strategy=head"]
    assert second == ["trainB.py", f"--resume={earlier}", "--test=True"]


@pytest.mark.slow
def test_the_best_epoch_is_that_of_the_best_value(tmp_path):
    metric = {"name": "val_loss", "goal": "minimize"}
    rows = trials(search(tmp_path, metric=metric))
    assert {row["best_epoch"] for row in rows} == {"1"}  # the toy's loss rises


def test_seeds_that_only_good_configurations_get_do_not_move_the_bands():
    study = optuna.create_study(direction="maximize", pruner=Bands([1], 3))
    for number, value in enumerate((0.9, 0.88, 0.89, 0.5)):
        trial = study.ask()
        trial.set_user_attr("seed", number if number < 3 else 0)
        trial.report(value, 1)
        study.tell(trial, value)
    trial = study.ask()
    trial.report(0.7, 1)  # the second of three configurations, of which the better half goes on
    assert not trial.should_prune()
