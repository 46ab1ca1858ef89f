"""What can go wrong, and how each of it ends the process: one line for the person, one exit code for the shell.

0 done, 1 an internal error (traceback), 2 bad input, 3 diverged, 4 disk or memory exhausted,
130 Ctrl-C, 143 terminated: by SIGTERM, SIGHUP or SIGUSR1.
"""

import errno

import torch.distributed as dist


class BadInput(Exception):
    """The person gave something that cannot work; the text, one line, names the culprit and the way out."""

    def __init__(self, text: str):
        super().__init__(" ".join(text.splitlines()))  # names of files and errors of others can have several lines


class Diverged(Exception):
    """Training cannot go on: the loss is no longer finite, or half precision overflows at every step."""


class Terminated(BaseException):
    """A signal asks the process to end. Like KeyboardInterrupt it is no `Exception`, so that nothing swallows it."""


# A quota and a limit on the size of one file look to the person like a full disk.
DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def is_single_value(error: BaseException) -> bool:
    """Tell whether `error` is how batch norm refuses a batch that has one value in a channel."""
    return isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error)


def explain(error: BaseException) -> tuple[int, str] | None:
    """Return (exit code, one line) of an error that a person can do something about, None for an internal error."""
    if isinstance(error, BadInput):
        return 2, str(error)
    if isinstance(error, Diverged):
        return 3, str(error)
    if is_single_value(error):
        return 2, "batch norm cannot take statistics of one value; raise --batch_size to 2 or more, or the image size"
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        name = error.filename or "a file"
        return 4, f"{name} could not be written: the disk is full; free some space, or write elsewhere"
    if isinstance(error, IsADirectoryError):
        return 2, f"{error.filename} is a folder, and a file is to be there: move it away"
    if is_out_of_memory(error):
        return 4, "out of memory; lower --batch_size (and raise --accumulate to keep the same step), or the image size"
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, Terminated):
        return 143, f"terminated ({error})"
    if is_peer_failure(error):
        return 143, "another process of this run has ended or hangs, so this one ends too; see what it said, and resume"
    return None


def is_peer_failure(error: BaseException) -> bool:
    """Tell whether `error` is how a process learns that another one has gone, or has hung for too long."""
    texts = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")
    is_told = isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    return is_told and dist.is_available() and dist.is_initialized()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether `error` is Python's, CUDA's or PyTorch's CPU allocator's way to say that memory ran out."""
    # PyTorch's CPU allocator raises a plain RuntimeError: only its text tells.
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    is_told = isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    return is_told or isinstance(error, MemoryError)
