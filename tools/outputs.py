"""The files that a tool is asked to write."""

import tempfile
from pathlib import Path

from common.system.errors import BadInput
from common.system.files import PARTIAL


def check_writable(path: Path, what: str) -> None:
    """Raise BadInput, in a text that begins with `what`, if no file can be written to `path`; nothing is changed."""
    if path.exists() and not path.is_file():
        raise BadInput(f"{what} cannot be written: there is something else of that name")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL):
            pass
    except OSError as error:
        raise BadInput(f"{what} cannot be written ({error.strerror})") from error
