"""How one of several processes ends: without waiting for the others, and also while it waits for them."""

import os
import signal
import socket
import sys
import threading
import time

from common.system.log import warn

PAUSE = 3  # seconds that torchrun has for ending a process because another one has met the same error
STUCK = 5  # seconds in which Python gets to a signal, unless it waits for another process


def end_alone(code: int, line: str) -> None:
    """Say the last line, and end this process without a goodbye, which on GPUs would wait for the others.

    torchrun sees the exit code and ends them. What all of them meet, such as a wrong option, is told by the first on
    each machine, and torchrun has ended this one before it would repeat that.
    """
    try:
        if code < 100 and os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(PAUSE)
        warn(line if os.environ["RANK"] == "0" else f"process {os.environ['RANK']}: {line}")
    finally:
        end_at_once(code)


def end_at_once(code: int) -> None:
    """End this process after what it has said, without taking Python down.

    Threads of PyTorch that have carried messages outlive `destroy_process_group`. One that gives back a tensor while
    Python is taken down aborts the process (seen in 2 of 29 runs of two processes on two cores).
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def end_if_stuck(is_noticed: threading.Event) -> None:
    """From now on end this process a while after a signal that its handler has not `noticed`.

    The main thread may be waiting, inside of PyTorch, for another process that has gone.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)  # stays open: signals go on writing to it

    def watch():
        receiver.recv(1)
        if not is_noticed.wait(STUCK):
            warn(f"process {os.environ['RANK']}: ended while it waited for another one")
            os._exit(143)

    threading.Thread(target=watch, daemon=True).start()
