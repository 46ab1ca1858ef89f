"""How a process begins and ends: what signals do to it, and what the shell learns.

Scripts import this before all else. Importing PyTorch takes seconds, in which Ctrl-C would show a traceback.
"""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

# Asked to end; the terminal was closed; a cluster's warning that the machine will be taken away.
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]

PAUSE = 3  # seconds that torchrun has for ending a process because another one has met the same error
STUCK = 5  # seconds in which Python gets to a signal, unless it waits for another process


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
    from common.system.log import mute

    is_one_of_several = started_by_torchrun()
    _catch_signals(is_one_of_several)
    if is_one_of_several and os.environ["RANK"] != "0":
        mute()
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a run
    try:
        try:
            main()
        finally:
            _end_at_a_signal()
        leave()
    except SystemExit:
        raise
    except BaseException as error:
        if is_one_of_several:
            _end_alone(error)
        code, line = _explained(error)
        if line is None:
            raise  # an internal error shows its traceback
        _warn(line)
        sys.exit(code)


def _explained(error: BaseException) -> tuple[int, str | None]:
    """Return the exit code, and the line for the person, which an internal error has none of."""
    from common.system.errors import explain

    code, line = explain(error) or (1, None)
    return code, f"error: {line}" if line and code < 100 else line


def _warn(line: str) -> None:
    from common.system.log import warn

    warn(line)


def _end_alone(error: BaseException) -> None:
    """End one of several processes, without a goodbye to the others: on GPUs it would wait for their next message.

    torchrun sees the exit code and ends them. What all of them meet, such as a wrong option, is told by the first on
    each machine, and torchrun has ended this one before it would repeat that.
    """
    (code, line), rank = _explained(error), os.environ["RANK"]
    try:
        if code < 100 and os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(PAUSE)
        if line is None:
            traceback.print_exception(error)
            line = "ends with an internal error, see above"
        _warn(line if rank == "0" else f"process {rank}: {line}")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def _catch_signals(is_one_of_several: bool) -> None:
    """Let signals raise exceptions, so that what is under way is saved; `nohup` and its like have some ignored."""
    from common.system.errors import Terminated

    is_noticed = threading.Event()

    def interrupt(number, frame):
        is_noticed.set()
        signal.default_int_handler(number, frame)

    def terminate(number, frame):
        is_noticed.set()
        raise Terminated(signal.Signals(number).name)

    for number in (signal.SIGINT, *ENDING):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt if number == signal.SIGINT else terminate)
    if is_one_of_several:
        _end_if_stuck(is_noticed)


def _end_if_stuck(is_noticed: threading.Event) -> None:
    """From now on end this process a while after a signal that Python does not get to.

    The main thread may be waiting, inside of PyTorch, for another process that has gone.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)  # stays open: signals go on writing to it

    def watch():
        receiver.recv(1)
        if not is_noticed.wait(STUCK):
            _warn(f"process {os.environ['RANK']}: ended while it waited for another one")
            os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


def _end_at_a_signal() -> None:
    """From now on let signals end the process, as there is nothing to save: exceptions would hit the interpreter."""
    for number in (signal.SIGINT, *ENDING):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


# Only where a script of ours is the program: a notebook, or a program that imports one, has its own ways.
_program = getattr(sys.modules["__main__"], "__file__", None)
if _program and Path(_program).resolve().parent == Path(__file__).resolve().parents[2] and "IPython" not in sys.modules:
    _begin()
