"""The experiment that a search runs: asked what it makes of options, then tried in processes watched by their files."""

import contextlib
import ctypes
import functools
import importlib.util
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from common.options.parser import single_runs
from common.runs.folder import lock, read_train_json
from common.system.errors import BadInput
from common.system.text import printable
from tools.searching.spaces import Parameter
from tools.searching.sweep_file import ARGUMENTS, ENVIRONMENT, INTERPRETER, PROGRAM, VARIABLE

SCRIPTS = Path(__file__).resolve().parents[2]
# What the search says itself, and what is no training.
RESERVED = ("output_dir", "test", "resume", "explore", "throughput", "help", "override")
COMBINATIONS = 100  # in which a value is tried that is refused by itself
OUTPUT = "output.txt"  # what a trial's process says, in the folder of the trial
PATIENCE = 60  # seconds that an ended trial has for saving its state
# Linux ends a trial when the search that started it is killed: none is left running unseen. (1 is PR_SET_PDEATHSIG.)
END_WITH_SEARCH = functools.partial(ctypes.CDLL(None).prctl, 1, signal.SIGTERM) if sys.platform == "linux" else None
# Ctrl-C in the terminal reaches the search alone: its trials are in a session of their own, on Windows in a group.
APART = {"start_new_session": True, "preexec_fn": END_WITH_SEARCH}
if sys.platform == "win32":
    APART = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
ALONE = {"SLURM_STEP_NUM_TASKS": "1"}  # srun may have started several searches on one file, but no trial
REASONS = {-9: "killed, perhaps because memory ran out", 1: "a fault of the program", 2: "refused"}


class Experiment:
    """A script of this kit, used for nothing but its `parse_options`.

    `name` is that of its file, as it is or in the folder of the experiments; what is none raises BadInput.
    """

    def __init__(self, name: str):
        places = (Path(name), SCRIPTS / Path(name).name)
        self.path = next((path.resolve() for path in places if path.is_file()), None)
        if self.path is None:
            raise BadInput(f"there is no program {name}; name one with --program, such as --program trainA.py")
        sys.path.insert(0, str(self.path.parent))  # as it is when a script runs
        try:
            spec = importlib.util.spec_from_file_location(self.path.stem, self.path)
            self._module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(self._module)
        except Exception as error:  # whatever the file holds
            raise BadInput(f"{name} cannot be imported ({type(error).__name__}: {error})") from error
        finally:
            sys.path.pop(0)
        if not hasattr(self._module, "parse_options") or not hasattr(self._module, "build_model"):
            raise BadInput(f"{name} is no experiment of this kit: it has no parse_options and build_model")

    def options(self, words: list[str]) -> dict:
        """Return all options by name for the `words` of a command line, or raise BadInput if it refuses them."""
        with contextlib.redirect_stdout(io.StringIO()):  # its notes are for the trials' logs
            return vars(self._module.parse_options(words))

    def check(self, parameters: dict[str, Parameter], words: Callable[[dict], list[str]]) -> None:
        """Raise BadInput unless the script takes all values of the `parameters`, which `words` turns into options."""
        is_one_run = not {"dataset", "data"} & parameters.keys()
        self._trial_options(words({}), "the options after --", is_one_run)
        constants = {name: form.examples()[0] for name, form in parameters.items() if len(form.grid() or ()) == 1}
        for name in sorted(parameters, key=lambda name: name not in constants):
            place, parameter = f"parameters.{name}", parameters[name]
            if name in RESERVED:
                raise BadInput(f"{place}: this option is the search's own, or no training")
            results = []
            for value in parameter.examples():
                try:
                    results.append(self._trial_options(words(constants | {name: value}), place))
                except BadInput:
                    if not self._takes_with_others({name: value}, parameters, words):
                        raise
            if len(results) > 1 and all(result == results[0] for result in results):
                raise BadInput(f"{place}: all values come to the same; is it fixed in the command, or after -- ?")

    def _takes_with_others(self, value: dict, parameters: dict[str, Parameter], words: Callable) -> bool:
        """Tell whether the script takes a {name: value} that it refuses by itself beside values of the others."""
        draw = random.Random(0)
        for _ in range(COMBINATIONS):
            others = {name: draw.choice(form.examples()) for name, form in parameters.items()}
            with contextlib.suppress(BadInput):
                self._trial_options(words(others | value), "")
                return True
        return False

    def _trial_options(self, words: list[str], place: str, is_one_run: bool = True) -> dict:
        try:
            options = self.options(words)
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from error
        if is_one_run and len(options["dataset"]) > 1:
            names = " and ".join(options["dataset"])
            raise BadInput(f"{place}: a trial is one run, not one on {names} each; fix one: -- --dataset digits")
        if len(single_runs({"seed": 0, "folds": None} | options)) > 1:
            what = "a trial is one run, not one for each of several seeds or folds"
            raise BadInput(f"{place}: {what}; let them vary: seed: {{values: [0, 1, 2]}}")
        return options

    def changed_options(self, words: list[str], varied: Iterable[str] = ()) -> dict:
        """Return the options that `words` make differ from the script's defaults, as a file for --config holds them.

        The `varied` ones are there in any case, so that the file says what was chosen of them.
        """
        default, options = self.options([]), self.options(words)
        kept = {name.replace("-", "_") for name in varied}
        changed = [name for name, value in options.items() if name in kept or value not in (default[name], None)]
        return {name: options[name] for name in changed if name not in RESERVED}


class Launcher:
    """How trials are started: the command of the sweep file, the program, and what each of its processes may use.

    `fixed` are words of the command line that all trials have, `slots` the environments of the trials that run at a
    time (see `slots_for`).
    """

    def __init__(self, command: list[str], program: Path, fixed: list[str]):
        self.command, self.program, self.fixed = [_with_variables(word) for word in command], program, fixed
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
        command, more = self.command, [*self.fixed, f"--output_dir={folder}", "--test=False"]
        earlier = run_in(folder)
        if earlier:
            _wait_until_free(earlier)
            command = self._without_options()
            values, more = {"resume": str(earlier)}, ["--test=True"] if test else []
        return TrialProcess(self._expand(command, values, more), folder, self.slots[slot])

    def _without_options(self) -> list[str]:
        """Return the command without the options that it gives the program: a run has stored them, and those varied."""
        start = self.command.index(PROGRAM) + 1 if PROGRAM in self.command else len(self.command)
        return self.command[:start] + [word for word in self.command[start:] if word in ARGUMENTS]

    @contextlib.contextmanager
    def decoding_once(self, folder: Path) -> Iterator[None]:
        """Let the trials of this block decode image files once: the first keeps them in `folder` for the others."""
        from common.data.index import SHARED  # imports PyTorch, which checking options does not need

        decoded = folder.resolve() / ".decoded"
        decoded.mkdir(exist_ok=True)
        self.slots = [slot | {SHARED: str(decoded)} for slot in self.slots]
        try:
            yield
        finally:
            shutil.rmtree(decoded, ignore_errors=True)

    def _expand(self, command: list[str], values: dict, more: list[str]) -> list[str]:
        """Return the words that stand for the macros in `command`, with `more` options behind those of `values`."""
        single = {ENVIRONMENT: ["/usr/bin/env"], INTERPRETER: [sys.executable], PROGRAM: [str(self.program)]}
        if sys.platform == "win32":
            single[ENVIRONMENT] = []  # Windows has no such program and needs none
        words = []
        for word in command:
            words += [*arguments(values, word), *more] if word in ARGUMENTS else single.get(word, [word])
        return words


def _with_variables(word: str) -> str:
    """Return a word of the command with the values of the environment variables that it names."""
    for name in VARIABLE.findall(word):
        if name not in os.environ:
            raise BadInput(f"command: there is no environment variable {name}")
    return VARIABLE.sub(lambda found: os.environ[found[1]], word)


def arguments(values: dict, macro: str) -> list[str]:
    """Return options as words of a command line, in the form that a macro of the sweep file asks for.

    An option whose value is None is left to its default.
    """
    values = {name: value for name, value in values.items() if value is not None}
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
                    self._process = subprocess.Popen(
                        words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                        env=os.environ | ALONE | environment, **APART,
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
        with contextlib.suppress(OSError):  # it may have gone
            if sys.platform == "win32":
                self._process.send_signal(signal.CTRL_BREAK_EVENT)  # all that a group can be sent there
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
        with contextlib.suppress(BadInput), lock(run):
            return
        time.sleep(1)
