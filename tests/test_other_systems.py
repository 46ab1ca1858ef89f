"""Windows, macOS, notebooks and IDLE, as far as they can be played on another system."""

import importlib.util
import io
import itertools
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, SMALL, command

from common.runs.folder import make_folder
from common.runs.saving import RunFolder
from common.system import device, files, start, text
from common.system.device import cpu_name, prepare_machine
from common.system.distributed import Processes
from common.system.errors import BadInput
from tools.searching import trials

WINDOWS, MACOS = SimpleNamespace(platform="win32"), SimpleNamespace(platform="darwin")


def run_in(folder):
    run = RunFolder()
    run.script, run.folder, run.processes = Path("ex_1.py"), Path(folder), Processes()
    return run


def test_the_command_that_goes_on_is_quoted_as_the_shell_wants_it(monkeypatch):
    assert run_in("my runs").resume_command().endswith(" ex_1.py --resume 'my runs'")
    monkeypatch.setattr(text, "sys", WINDOWS)
    assert run_in(r"C:\my runs\1").resume_command().endswith(r' ex_1.py --resume "C:\my runs\1"')
    assert run_in(r"outputs\ex_1").resume_command().endswith(r" ex_1.py --resume outputs\ex_1")


def test_trials_on_windows_are_a_group_that_can_be_asked_to_end(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
    assert runpy.run_path(trials.__file__)["APART"] == {"creationflags": 512}
    process, sent = object.__new__(trials.TrialProcess), []
    process._process = SimpleNamespace(send_signal=sent.append)
    process.end(signal.SIGINT)
    assert sent == [signal.CTRL_BREAK_EVENT]


@pytest.fixture
def virus_scanner(monkeypatch):
    """Return a function: so many times the system refuses something, as Windows does while others have a file open."""

    def scan(owner, name, times):
        honest, refusals = getattr(owner, name), itertools.count()

        def refusing(*words, **settings):
            if next(refusals) < times:
                raise PermissionError(13, "Access is denied", str(words[0]))
            return honest(*words, **settings)

        monkeypatch.setattr(owner, name, refusing)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        return refusals

    return scan


def test_what_others_have_open_is_waited_for(tmp_path, monkeypatch, virus_scanner):
    monkeypatch.setattr(files, "sys", WINDOWS)
    virus_scanner(os, "replace", times=5)
    for number in (1, 2):
        files.write_json(tmp_path / "train.json", {"number": number})
    virus_scanner(Path, "read_text", times=5)
    assert files.read_json(tmp_path / "train.json") == {"number": 2}
    virus_scanner(os, "rename", times=5)
    assert make_folder(tmp_path / "runs", {}).is_dir()


@pytest.mark.parametrize(("system", "tries"), [(WINDOWS, files.PATIENCE + 1), (MACOS, 1)])
def test_a_file_that_stays_open_is_told(tmp_path, monkeypatch, virus_scanner, system, tries):
    monkeypatch.setattr(files, "sys", system)
    refusals = virus_scanner(os, "replace", times=1000)
    with pytest.raises(PermissionError):
        files.write_bytes(tmp_path / "train.json", b"new")
    assert next(refusals) == tries
    assert not list(tmp_path.iterdir())


def test_of_signals_those_are_asked_for_that_there_are(monkeypatch):
    for name in ("SIGHUP", "SIGUSR1", "SIGKILL"):
        monkeypatch.delattr(signal, name, raising=False)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGTERM, raising=False)  # any that this system has
    spec = importlib.util.spec_from_file_location("fresh_start", start.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.ENDING == [signal.SIGTERM, signal.SIGBREAK]
    assert fresh.run_script(lambda: None) is None


@pytest.fixture
def notebook(monkeypatch):
    """Return a function that makes this process one of IPython's, which has streams that know little of what files can.

    It returns what they have got: stdout and stderr.
    """

    def begin():
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.StringIO())
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(version_info=(9, 0), get_ipython=lambda: None))
        assert not hasattr(sys.stdout, "reconfigure")
        return sys.stdout.getvalue, sys.stderr.getvalue

    return begin


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, *start.ENDING)]


def test_a_script_leaves_a_notebook_as_it_was(notebook):
    before, (said, complained) = handlers(), notebook()

    def main():
        assert handlers() != before  # what is under way can be saved
        print("done")

    start.run_script(main)
    assert said() == "done\n"
    assert handlers() == before

    def refused():
        raise BadInput("no such thing")

    with pytest.raises(SystemExit) as ended:
        start.run_script(refused)
    assert ended.value.code == 2 and complained() == "error: no such thing\n"
    assert handlers() == before


def test_percent_run_takes_options_and_tells_mistakes(notebook, monkeypatch):
    """As IPython does it: the file is run as `__main__`, with `sys.argv` as typed."""
    before, (_, complained) = handlers(), notebook()
    monkeypatch.setattr(sys, "argv", ["ex_1.py", "--dataset", "digits", "--epoch_s", "2"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "ex_1.py"), run_name="__main__")
    assert ended.value.code == 2 and "--epoch_s" in complained()
    assert handlers() == before


@pytest.mark.slow
def test_percent_run_trains(notebook, monkeypatch, tmp_path):
    said, complained = notebook()
    monkeypatch.setattr(sys, "argv", ["ex_1.py", *SMALL, "--output_dir", str(tmp_path)])
    runpy.run_path(str(ROOT / "ex_1.py"), run_name="__main__")
    assert "finished: " in said() and complained() == ""


def test_a_script_runs_in_a_thread_too():
    """Some notebooks run cells in one, where Python allows no handlers of signals."""
    done = []
    thread = threading.Thread(target=start.run_script, args=(lambda: done.append(True),))
    thread.start()
    thread.join()
    assert done


@pytest.mark.parametrize("guest", ["IPython", "idlelib"])
def test_ctrl_c_stays_the_notebooks_own_while_a_script_is_imported(guest):
    code = (
        "import signal, sys, types\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.modules[{guest!r}] = types.ModuleType({guest!r})\n"
        "sys.modules['__main__'].__file__ = 'ex_1.py'\n"
        "import common.system.start\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    done = command("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_numpy_looks_at_its_smallest_numbers_before_they_vanish(monkeypatch):
    """Older versions warn once for each type if they have vanished when it looks."""
    order = []
    monkeypatch.setattr(np, "finfo", lambda dtype: order.append(np.dtype(dtype).name))
    monkeypatch.setattr(torch, "set_flush_denormal", lambda is_on: order.append("flush"))
    prepare_machine("cpu", "fp32", deterministic=False)
    assert order == ["float32", "float64", "flush"]


def test_the_name_of_the_cpu_on_every_system(monkeypatch):
    assert cpu_name()
    monkeypatch.setattr(device, "Path", lambda name: Path("no /proc here") / name.lstrip("/"))
    assert cpu_name()
    monkeypatch.setattr(device, "sys", MACOS)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="Apple M4\n"))
    assert cpu_name() == "Apple M4"
