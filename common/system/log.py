"""What the terminal shows, and the copy of it that a run keeps as `log.txt`."""

import contextlib
import logging
import logging.handlers
import shutil
import sys
from pathlib import Path

from tqdm import tqdm

from common.system.text import printable


class _Terminal(logging.Handler):
    """Writes lines above a progress bar: errors to stderr, the rest to stdout."""

    is_muted = False

    def emit(self, record):
        if self.is_muted and record.levelno < logging.ERROR:
            return
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        # Whoever read the output may have gone; the run goes on, and its log has every line.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            tqdm.write(record.getMessage(), file=stream)
            stream.flush()


logging.raiseExceptions = False  # a log on a full disk loses lines, not the run
_log = logging.getLogger("experiment")
_log.setLevel(logging.INFO)
_log.propagate = False
_terminal = _Terminal()
_log.addHandler(_terminal)
# Lines said before the run folder exists wait here, and are its log's first lines.
_waiting = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
_log.addHandler(_waiting)
_file: logging.FileHandler | None = None  # the log of the run under way


def mute() -> None:
    """Show nothing but errors from now on: of several processes that do the same, one speaks."""
    _terminal.is_muted = True


def info(*lines: str) -> None:
    """Print lines for the person, above any progress bar, and log them.

    Names in it are those of others: what would steer a terminal is shown as an escape.
    """
    for line in lines:
        _log.info(printable(line))


def warn(line: str) -> None:
    """Print one line on stderr, and log it; see `info`."""
    _log.error(printable(line))


def log_to(path: Path) -> None:
    """Append what has been said since the last log ended, and what will be said, to the file `path`."""
    global _file
    stop_log()
    _file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    _waiting.setTarget(_file)
    _waiting.flush()
    _waiting.setTarget(None)
    _log.removeHandler(_waiting)
    _log.addHandler(_file)


def stop_log() -> None:
    """Close the log, if one is open; what is said from now on waits for the next one."""
    global _file
    if _file is not None:
        _log.removeHandler(_file)
        _file.close()
        _file = None
        _log.addHandler(_waiting)


def progress(total: int, title: str, unit: str = " images") -> tqdm:
    """Return a tqdm bar on stderr, which vanishes when it ends and is absent without a terminal."""
    is_seen = sys.stderr is not None and sys.stderr.isatty() and not _terminal.is_muted  # pythonw has no stderr
    columns = shutil.get_terminal_size().columns
    return tqdm(total=total, desc=title, unit=unit, unit_scale=True, leave=False, disable=not is_seen, ncols=columns)
