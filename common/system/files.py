"""Writing a file so that it is either whole or not there, whatever happens in between."""

import contextlib
import csv
import errno
import glob
import io
import json
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from common.system.errors import BadInput
from common.system.log import info
from common.system.text import printable

PARTIAL = ".partial"
PICTURE_KINDS = ("png", "svg", "pdf")
PATIENCE = 20  # twentieths of a second, for others to close a file
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes a text that begins so for a formula
LARGEST_JSON = 50 * 2**20  # bytes; 10,000 epochs are 5 MB
LARGEST_YAML = 100_000  # bytes; people write a few hundred, and more take seconds to read
DECIMAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")  # not 010, 2:32, 0x1F, .inf


picture_kind = ContextVar("picture_kind", default="png")  # what pictures are written as beside their PNG


class Unreadable(Exception):
    """A file does not hold what it should; the text, a few words after its name, says why."""


def write_bytes(path: Path, content: bytes | memoryview, keep_old_as: Path | None = None) -> None:
    """Write `content` under a temporary name in the same folder, flush it to the disk and rename it to `path`.

    The file that was at `path` before is replaced, or kept under the name `keep_old_as`.
    """
    with partial_file(path) as partial:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep_old_as and path.is_file():
            patiently(lambda: os.replace(path, keep_old_as))


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Give the name to write to; it becomes `path` when the block ends well, and is removed when it does not.

    The name is nobody else's, not even on another machine that has the same disk.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        patiently(lambda: os.replace(partial, path))
        sync_folder(path.parent)
    except OSError as error:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from error
        if error.errno:  # else it is no error of the file system
            error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def patiently(work: Callable):
    """Return `work()`, which renames or opens a file: on Windows it is refused while another process is at that file.

    That is a virus scanner, or a search that looks at its trials, and lasts for moments.
    """
    for _ in range(PATIENCE if sys.platform == "win32" else 0):
        with contextlib.suppress(PermissionError):
            return work()
        time.sleep(0.05)
    return work()


def sync_folder(folder: Path) -> None:
    """Let the disk know the names in `folder`, so that a rename outlives a power cut."""
    with contextlib.suppress(OSError):  # Windows opens no folders, and some file systems have nothing to flush
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def lock(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` during the block, or until the process ends, however it ends.

    Args:
        what: what others are kept out of, for the messages.
        wait: for the process that has it, instead of raising BadInput.

    Raises:
        BadInput: another process has it, or the file cannot be made.
    """
    held = FileLock(path)
    try:
        try:
            held.acquire(blocking=False)
        except Timeout as error:
            if not wait:
                raise BadInput(f"{what} is in use by another process; wait for it to end") from error
            info(f"waiting for another process that has {what}")
            held.acquire()
    except OSError as error:
        raise BadInput(f"{what} cannot be written to ({error.strerror})") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps files that are open; there `release` removes it
            path.unlink()  # while it is held, so that nobody locks a file that goes away
        held.release()


def remove_partial_files(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half written of the file `name` in `folder`; a lock must keep others out."""
    for path in folder.glob(f".{name if name == '*' else glob.escape(name)}.*{PARTIAL}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def pictures_also_as(kind: str) -> Iterator[None]:
    """Let each picture that is saved within this block be there as one of PICTURE_KINDS too, beside its PNG."""
    token = picture_kind.set(kind)
    try:
        yield
    finally:
        picture_kind.reset(token)


def write_json(path: Path, content: dict) -> None:
    """Write `content` as JSON that every parser reads: a number that is not finite becomes null."""
    write_bytes(path, (json_text(content, indent=2) + "\n").encode("utf-8", errors="backslashreplace"))


def json_text(content: dict, **settings) -> str:
    """Return `content` as JSON, with null for numbers that are not finite; `settings` are those of `json.dumps`."""
    return json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, **settings)


def _finite(value):
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: Path) -> dict:
    """Return the object in a JSON file.

    `Unreadable` is raised if it is missing, damaged, too large, nested too deeply to be written again, or no object.
    """
    try:
        if not path.is_file():
            raise Unreadable(f"there is no {path.name}")
        if path.stat().st_size > LARGEST_JSON:
            raise Unreadable(f"{path.name} is too large")
        content = json.loads(patiently(lambda: path.read_text(encoding="utf-8")))
        json_text(content)
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name} is damaged: it is not JSON") from error
    if not isinstance(content, dict):
        raise Unreadable(f"{path.name} is damaged: it holds no object")
    return content


def read_yaml(path: str, what: str, as_written: bool = False) -> object:
    """Return what a YAML file holds: dicts with texts as keys, lists, and what plain words mean in YAML 1.2.

    Those are null, true, false and decimal numbers; all else is text: 010 is not 8, 2:32 not 152, yes not true. With
    `as_written` numbers, true and false are text too. A file that cannot be read, is too large or too deep, has a key
    twice, aliases or tags raises BadInput, in a text that begins with `what`.
    """
    import yaml  # which hardly any script needs

    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_YAML + 1)
        if len(content) > LARGEST_YAML:
            raise BadInput(f"{what} is larger than {LARGEST_YAML:,} bytes")
        loader = yaml.BaseLoader(content.decode("utf-8"))
        loader.resolve = lambda *_: None  # no tags but those that are written down
        return _yaml_value(loader.get_single_node(), set(), as_written)
    except OSError as error:
        raise BadInput(f"{what} cannot be read ({error.strerror})") from error
    except Unreadable as error:
        raise BadInput(f"{what}, {error}") from error
    except RecursionError as error:
        raise BadInput(f"{what} is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{what} is not YAML: {' '.join(str(error).split())}") from error


def _yaml_value(node, seen: set[int], as_written: bool) -> object:
    """Return what a node of the `yaml` package stands for; `seen` has the ids of those that were met before."""
    if node is None:  # of an empty file
        return None
    if node.tag is not None or id(node) in seen:
        what = printable(node.tag or "aliases (&, *)")
        raise Unreadable(f"line {node.start_mark.line + 1}: {what}: this has no meaning here")
    seen.add(id(node))
    if node.id == "scalar":
        return node.value if node.style else _yaml_word(node.value, as_written)
    if node.id == "sequence":
        return [_yaml_value(item, seen, as_written) for item in node.value]
    content = {}
    for key, item in node.value:
        if key.id != "scalar" or key.value in content:
            what = f"the key {printable(key.value, 60)!r} is there twice" if key.id == "scalar" else "a key is no text"
            raise Unreadable(f"line {key.start_mark.line + 1}: {what}")
        content[key.value] = _yaml_value(item, seen, as_written)
    return content


def _yaml_word(word: str, as_written: bool) -> str | int | float | bool | None:
    if word.lower() in ("", "~", "null"):
        return None
    if word.lower() in ("true", "false") and not as_written:
        return word.lower() == "true"
    if as_written or not DECIMAL.fullmatch(word):
        return word
    return int(word) if word.lstrip("+-").isdigit() else float(word)


def first_free(parent: Path, name: str, claim: Callable[[Path], None]) -> Path:
    """Return the first of `name`, `name-2`, `name-3` … in `parent` that `claim(path)` could take for itself.

    `claim`, such as `Path.mkdir`, must raise FileExistsError where somebody else was faster. So does this function
    when there are thousands.
    """
    for count in range(1, 10_000):
        path = parent / (name if count == 1 else f"{name}-{count}")
        with contextlib.suppress(FileExistsError):
            claim(path)
            return path
    raise FileExistsError(errno.EEXIST, "there are thousands of this name", str(parent / name))


def write_table(path: Path, rows: Iterable[Sequence]) -> None:
    """Write a CSV file whose first row is the header; see `table_text`."""
    write_bytes(path, table_text(rows).encode("utf-8", errors="backslashreplace"))


def table_text(rows: Iterable[Sequence]) -> str:
    """Return rows as CSV.

    All texts are quoted: left to choose, Python 3.11 does not quote a carriage return, which a file name can have. One
    that a spreadsheet would take for a formula begins with an apostrophe, which it does not show.
    """
    text = io.StringIO(newline="")
    harmless = ([_no_formula(value) for value in row] for row in rows)
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(harmless)
    return text.getvalue()


def _no_formula(value):
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
