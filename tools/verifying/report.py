"""report.html, which is what people open first, made again from what lies beside it, and compared."""

import base64
import re
import shutil
import tempfile
from pathlib import Path

from common.options.shared import told_options
from common.runs import code
from common.runs.report import NAME, write_report
from common.runs.saving import question_of
from tools.verifying.folder import Folder

RECORDS = ("config.json", "train.json", "validation.json", "test.json", "summary.txt", "log.txt")
PLACE = re.compile(r"<p>Run of [^<;]*;|python verify.py .* --rerun --trust")  # the folder, as it was called then


def check_report(folder: Folder) -> None:
    """The page says what the records say, and shows no pictures but those beside it."""
    if folder.has_other_code or not (folder.path / NAME).is_file():  # other code may make another page of the same
        return
    claimed = (folder.path / NAME).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="verify-") as place:
        for path in folder.path.iterdir():
            if path.name in RECORDS or (path.suffix in (".png", ".svg") and _is_shown(path, claimed)):
                shutil.copyfile(path, Path(place, path.name))
        script = code.ROOT / f"{folder.config['script']}.py"
        write_report(Path(place), question_of(script), told_options(str(script), folder.options))
        made = Path(place, NAME).read_text(encoding="utf-8")
    folder.claim(_shown(claimed) == _shown(made), f"{NAME} does not show what the files beside it say")


def _is_shown(picture: Path, page: str) -> bool:
    return base64.b64encode(picture.read_bytes()).decode() in page


def _shown(page: str) -> str:
    """Return what a page shows but for the place of the run; its look is no code, and may be another version's."""
    return PLACE.sub("", page.partition("</head>")[2])
