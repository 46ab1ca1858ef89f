"""How a process begins and ends: what signals do to it, and what the shell learns.

Scripts import this before all else. Importing PyTorch takes seconds, in which Ctrl-C would show a traceback.
"""

import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

# Asked to end; the terminal was closed, on Windows too; a cluster's warning that the machine will be taken away.
NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK", "SIGUSR1")
ENDING = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def _begin() -> None:
    """Let Ctrl-C end the process at once, as there is nothing to save yet, and open what was started closed."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for descriptor in (0, 1, 2):  # else a file of ours gets its number, and what others print
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _check_python() -> None:
    """End with one line, not a traceback, where another Python was started than that of the set-up."""
    if find_spec("torch") is None:
        set_up = Path(".venv", "Scripts" if os.name == "nt" else "bin", Path(sys.executable).name)
        print(f"error: {sys.executable} has no PyTorch; {set_up} has it after the set-up in README.md", file=sys.stderr)
        sys.exit(2)


def run_script(main) -> None:
    """Run `main()` as a process of its own: signals are caught, errors become one line on stderr and an exit code."""
    from common.system.distributed import leave, started_by_torchrun
    from common.system.errors import explain
    from common.system.log import mute, warn

    is_one_of_several = started_by_torchrun()
    before = _catch_signals(is_one_of_several)
    if is_one_of_several and os.environ["RANK"] != "0":
        mute()
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        finally:
            # There is nothing left to save: a script ends at a signal again, a notebook does what it did.
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)  # None: it was not Python's
        leave()
        if is_one_of_several:
            from common.system.ending import end_at_once

            end_at_once(0)
    except BaseException as error:
        explained = explain(error)
        if isinstance(error, SystemExit) or (explained is None and not is_one_of_several):
            raise  # an internal error shows its traceback
        if explained is None:
            traceback.print_exception(error)
        code, line = explained or (1, "ends with an internal error, see above")
        line = f"error: {line}" if code < 100 and explained else line
        if is_one_of_several:
            from common.system.ending import end_alone

            end_alone(code, line)
        warn(line)
        sys.exit(code)


def _catch_signals(is_one_of_several: bool) -> dict:
    """Let signals raise exceptions, so that what is under way is saved; return {signal: what it did before}.

    What `nohup` and its like have ignored stays so, and nothing can be set in a thread, as some notebooks run scripts.
    """
    from common.system.errors import Terminated

    is_noticed = threading.Event()

    def interrupt(number, frame):
        is_noticed.set()
        signal.default_int_handler(number, frame)

    def terminate(number, frame):
        is_noticed.set()
        raise Terminated(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    caught = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in caught:
        signal.signal(number, interrupt if number == signal.SIGINT else terminate)
    if is_one_of_several:
        from common.system.ending import end_if_stuck

        end_if_stuck(is_noticed)
    return caught


@contextmanager
def undisturbed():
    """Ignore signals that ask for an end while that end is under way: torchrun sends one to a process that is ending.

    Ctrl-C still ends it at once, for somebody who cannot wait.
    """
    if threading.current_thread() is not threading.main_thread():  # signals can be set there alone
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was not Python's


# Only where a script of ours is the program: notebooks, IDLE and programs that import one have their own ways.
_program = getattr(sys.modules["__main__"], "__file__", None)
_is_ours = _program and Path(_program).resolve().parent == Path(__file__).resolve().parents[2]
if _is_ours and not {"IPython", "idlelib"} & sys.modules.keys():
    _begin()
    _check_python()
