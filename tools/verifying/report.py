"""report.html, which is what people open first, made again from what lies beside it, and compared."""

import base64
import re
import shutil
import tempfile
from pathlib import Path

from common.options.shared import told_options
from common.runs import code
from common.runs.report import LARGEST_PICTURE, NAME, write_report
from common.runs.saving import question_of
from tools.verifying.folder import Folder, Refuted

RECORDS = ("config.json", "train.json", "validation.json", "test.json", "summary.txt", "log.txt")
PLACE = re.compile(r"<p>Run of [^<]*; the files|python verify.py [^<]* --rerun --trust")  # the folder, as it was then
LOOK = re.compile('<style>.*?</style>|content="default-src [^"]*"', re.DOTALL)  # no code: it may be another version's
LARGEST = 2**27  # bytes of a page, or of what it is made of


def check_report(folder: Folder) -> None:
    """The page says what the records say, and shows no pictures but those beside it."""
    if folder.has_other_code or not (folder.path / NAME).is_file():  # other code may make another page of the same
        return
    sizes = (path.stat().st_size for name in (NAME, *RECORDS) if (path := folder.path / name).is_file())
    if max(sizes) > LARGEST:
        raise Refuted(f"{NAME}, or what it is made of, is larger than any run writes")
    claimed = (folder.path / NAME).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="verify-") as place:
        for path in folder.path.iterdir():
            if path.is_file() and (path.name in RECORDS or _is_shown(path, claimed)):
                shutil.copyfile(path, Path(place, path.name))
        script = code.ROOT / f"{folder.config['script']}.py"
        write_report(Path(place), question_of(script), told_options(str(script), folder.options))
        made = Path(place, NAME).read_text(encoding="utf-8")
    folder.claim(_shown(claimed) == _shown(made), f"{NAME} does not show what the files beside it say")


def _is_shown(path: Path, page: str) -> bool:
    is_picture = path.suffix in (".png", ".svg") and path.stat().st_size <= LARGEST_PICTURE
    return is_picture and base64.b64encode(path.read_bytes()).decode() in page


def _shown(page: str) -> str:
    """Return what a page shows but for the place of the run, and without its look."""
    return PLACE.sub("", LOOK.sub("", page))
