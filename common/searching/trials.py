"""One trial of a search: an experiment in a process of its own, started, watched by its files, and ended."""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common.runs.folder import lock, read_train_json
from common.searching.sweep_file import ARGUMENTS, ENVIRONMENT, INTERPRETER, PROGRAM
from common.system.errors import BadInput
from common.system.text import printable

OUTPUT = "output.txt"  # what a trial's process says, in the folder of the trial
PATIENCE = 60  # seconds that an ended trial has for saving its state
# Linux ends a trial when the search that started it is killed: none is left running unseen.
PR_SET_PDEATHSIG = 1  # of sys/prctl.h
END_WITH_THE_SEARCH = (
    functools.partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGTERM) if sys.platform == "linux" else None
)
REASONS = {-9: "killed, perhaps because memory ran out", 1: "a fault of the program", 2: "refused"}


class Launcher:
    """How trials are started: the command of the sweep file, the program, and what each of its processes may use.

    `fixed` are words of the command line that all trials have, `slots` the environments of the trials that run at a
    time (see `slots_for`).
    """

    def __init__(self, command: list[str], program: Path, fixed: list[str]):
        self.command, self.program, self.fixed = command, program, fixed
        self.slots: list[dict[str, str]] = [{}]

    def option_words(self, values: dict) -> list[str]:
        """Return the options that the program gets for `values`: those of the command, `values` and the fixed ones."""
        start = next(place for place, word in enumerate(self.command) if word in (PROGRAM, *ARGUMENTS))
        start += self.command[start] == PROGRAM
        return self._expand(self.command[start:], values, self.fixed)

    def start(self, values: dict, folder: Path, slot: int, test: bool = False) -> "TrialProcess":
        """Start the program on the options `values`; its run folder will be somewhere in `folder`.

        A run that is there already is continued: one of the same trial that was cut off, or a finished one that is to
        `test` its best weights.
        """
        more = [*self.fixed, f"--output_dir={folder}", "--test=False"]
        earlier = run_in(folder)
        if earlier:
            _wait_until_free(earlier)
            values, more = {"resume": str(earlier)}, ["--test=True"] if test else []
        return TrialProcess(self._expand(self.command, values, more), folder, self.slots[slot])

    def _expand(self, command: list[str], values: dict, more: list[str]) -> list[str]:
        """Return the words that stand for the macros in `command`, with `more` options behind those of `values`."""
        single = {ENVIRONMENT: ["/usr/bin/env"], INTERPRETER: [sys.executable], PROGRAM: [str(self.program)]}
        if sys.platform == "win32":
            single[ENVIRONMENT] = []  # Windows has no such program and needs none
        words = []
        for word in command:
            words += [*arguments(values, word), *more] if word in ARGUMENTS else single.get(word, [word])
        return words


def arguments(values: dict, macro: str) -> list[str]:
    """Return options as words of a command line, in the form that a macro of the sweep file asks for."""
    if macro == "${args_no_equals}":
        return [word for name, value in values.items() for word in (f"--{name}", str(value))]
    if macro == "${args_no_boolean_flags}":
        values = {name: value for name, value in values.items() if value is not False}
        return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]
    return [f"--{name}={value}" for name, value in values.items()]


def slots_for(jobs: int | None, on_cpu: bool) -> list[dict[str, str]]:
    """Return what to set in the environment of each of `jobs` trials at a time: a GPU of its own, or its threads.

    Without a number there is a trial on each GPU, or one on the CPU. BadInput is raised if there are fewer GPUs.
    """
    import torch

    gpus = 0 if on_cpu else torch.cuda.device_count()
    if not gpus:
        threads = max(1, torch.get_num_threads() // (jobs or 1))
        return [{"OMP_NUM_THREADS": str(threads)}] * jobs if jobs and jobs > 1 else [{}]
    jobs = jobs or gpus
    if jobs > gpus:
        raise BadInput(f"--jobs {jobs}: there are {gpus} GPU(s), and each takes one trial at a time")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = visible if len(visible) >= gpus and visible[0] else map(str, range(gpus))
    return [{"CUDA_VISIBLE_DEVICES": name} for name in list(names)[:jobs]]


class TrialProcess:
    """A running process, of which only its run folder is read. A command that cannot be started raises BadInput."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str]):
        self.folder = folder
        with open(folder / OUTPUT, "ab") as output:
            self._start_of_output = output.tell()
            try:
                with _signals_deferred():
                    # In a session of its own, so that Ctrl-C in the terminal reaches the search alone.
                    self._process = subprocess.Popen(
                        words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                        env=os.environ | environment, start_new_session=True, preexec_fn=END_WITH_THE_SEARCH,
                    )  # fmt: skip
            except OSError as error:
                raise BadInput(f"command: {words[0]} cannot be started ({error.strerror})") from error

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def train_json(self) -> dict:
        """Return what is in train.json, an empty one before it is there."""
        run = run_in(self.folder)
        return read_train_json(run) if run else {"epochs": []}

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask the process to save its state and end; it is killed if it does not."""
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                self._process.terminate()
            else:
                os.killpg(self._process.pid, number)  # with what the command of the sweep file has put around it

    def wait(self) -> None:
        """Wait for the end of a process that has been asked to; whoever does not come is killed."""
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def reason(self) -> str:
        """Return, in one line, why the process has failed."""
        with open(self.folder / OUTPUT, "rb") as file:
            file.seek(self._start_of_output)
            said = file.read().decode("utf-8", errors="replace")
        lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        kind = f" ({REASONS[self.exit_code]})" if self.exit_code in REASONS else ""
        return f"exit code {self.exit_code}{kind}: {printable((errors or lines)[-1].strip(), 300)}"


def run_in(folder: Path) -> Path | None:
    """Return the newest run folder in the folder of a trial that has something to continue from."""
    runs = sorted(folder.glob("*/*/*/config.json"))
    return runs[-1].parent if runs else None


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let signals wait until the block has ended: what they raise while a process is made is lost in Python."""
    arrived = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])


def _wait_until_free(run: Path) -> None:
    """Wait for a process of a killed search that still saves its state."""
    for _ in range(PATIENCE):
        with contextlib.suppress(BadInput):
            lock(run).close()
            return
        time.sleep(1)
