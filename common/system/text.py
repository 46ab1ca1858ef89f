"""Names, messages and commands, made fit for one line of a terminal, a table or a picture."""

import shlex
import subprocess
import sys
from collections.abc import Sequence


def shell_line(words: Sequence[str]) -> str:
    """Return a command as the shell of this system takes it: Windows knows no single quotes."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def printable(text: object, longest: int | None = None, keep_end: bool = False) -> str:
    """Return `text` as one line: escapes stand for what would break it, steer a terminal, or is no character at all.

    Args:
        longest: characters at most; "…" stands for what is cut off.
        keep_end: cut off the beginning instead of the end, of which a path tells most.
    """
    line = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))
    if longest is None or len(line) <= longest:
        return line
    return f"…{line[1 - longest :]}" if keep_end else f"{line[: longest - 1]}…"
