"""How a process begins and ends: what signals do to it, and what the shell learns.

Scripts import this before all else. Importing PyTorch takes seconds, in which Ctrl-C would show a traceback.
"""

import os
import signal
import sys
from pathlib import Path

# Asked to end; the terminal was closed; a cluster's warning that the machine will be taken away.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def _begin() -> None:
    """Let Ctrl-C end the process at once, as there is nothing to save yet, and open what was started closed."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for descriptor in (0, 1, 2):  # else a file of ours gets its number, and what others print
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def run_script(main) -> None:
    """Run `main()` as a process of its own: signals are caught, errors become one line on stderr and an exit code."""
    from common.system.distributed import leave, started_by_torchrun
    from common.system.errors import BadInput, Diverged, explain
    from common.system.log import mute, warn

    _catch_signals()
    rank = int(os.environ.get("RANK", "0")) if started_by_torchrun() else 0
    if rank > 0:
        mute()
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a run
    try:
        try:
            main()
        finally:
            _end_at_a_signal()
    except BaseException as error:
        explained = explain(error)
        if explained is None:
            raise  # SystemExit keeps its code; anything else is an internal error and shows its traceback
        code, line = explained
        line = f"error: {line}" if code < 100 else line
        if rank == 0:
            warn(line)
        elif not isinstance(error, BadInput | Diverged):  # which the first process meets and tells too
            warn(f"process {rank}: {line}")
        sys.exit(code)
    finally:
        leave()


def _catch_signals() -> None:
    """Let signals raise exceptions, so that what is under way is saved; `nohup` and its like have some ignored."""
    from common.system.errors import Terminated

    def terminate(number, frame):
        raise Terminated(signal.Signals(number).name)

    for number in (signal.SIGINT, *ENDING):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else terminate)


def _end_at_a_signal() -> None:
    """From now on let signals end the process, as there is nothing to save: exceptions would hit the interpreter."""
    for number in (signal.SIGINT, *ENDING):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


# Only where a script of ours is the program: a notebook, or a program that imports one, has its own ways.
_program = getattr(sys.modules["__main__"], "__file__", None)
if _program and Path(_program).resolve().parent == Path(__file__).resolve().parents[2] and "IPython" not in sys.modules:
    _begin()
