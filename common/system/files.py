"""Writing a file so that it is either whole or not there, whatever happens in between."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.system.errors import BadInput

PARTIAL = ".partial"


def write_bytes(path: Path, content: bytes | memoryview, keep_old_as: Path | None = None) -> None:
    """Write `content` under a temporary name in the same folder, flush it to the disk and rename it to `path`.

    The file that was at `path` before is replaced, or kept under the name `keep_old_as`.
    """
    with partial_file(path) as partial:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep_old_as and path.exists():
            os.replace(path, keep_old_as)


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Give the name to write to; it becomes `path` when the block ends well, and is removed when it does not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno:  # else it is no error of the file system
            error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: Path, what: str) -> None:
    """Make sure that a file can be written to `path`, without changing anything.

    Raises:
        BadInput: it cannot; the text begins with `what`.
    """
    if path.exists() and not path.is_file():
        raise BadInput(f"{what} cannot be written: there is something else of that name")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL):
            pass
    except OSError as error:
        raise BadInput(f"{what} cannot be written ({error.strerror})") from error


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left half written in `folder`."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write `content` as JSON that every parser reads: a number that is not finite becomes null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode("utf-8", errors="backslashreplace"))


def _finite(value):
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_table(path: Path, rows: Iterable[Sequence]) -> None:
    """Write a CSV file whose first row is the header.

    All texts are quoted: left to choose, Python 3.11 does not quote a carriage return, which a file name can have.
    """
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8", errors="backslashreplace"))
