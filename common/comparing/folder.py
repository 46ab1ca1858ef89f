"""The folder that a comparison writes: it takes the place of an older comparison, and of nothing else."""

import re
import time
from pathlib import Path

from common.comparing.overlays import draw_by_option, draw_curves
from common.comparing.overview import Overview
from common.comparing.report import is_our_report, write_report
from common.comparing.tables import write_csvs, write_markdown
from common.system.errors import DISK_FULL, BadInput
from common.system.files import check_writable, first_free

DEFAULT = Path("outputs", "compare")
NAMES = ("report.html", "compare.md", "compare.csv", "compare_groups.csv", "loss.png", "accuracy.png")
NAMES += ("accuracy_by_time.png",)


def check_folder(folder: Path) -> None:
    """Make sure that a comparison can be written to `folder`, which need not exist yet.

    Raises:
        BadInput: it cannot, or it would take the place of files that are not an older comparison's.
    """
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise BadInput(f"--out {folder} is no folder")
        return
    report = folder / "report.html"
    foreign = ["config.json"] if (folder / "config.json").exists() else []
    if not (report.is_file() and is_our_report(report)):
        foreign += sorted(path.name for path in folder.glob("*") if path.name in NAMES or path.match("by_*.png"))
    if foreign:
        raise BadInput(f"--out {folder} has a {foreign[0]} that is no comparison's; choose another folder")
    check_writable(report, f"--out {folder}: report.html")


def write_comparison(out: str | None, overview: Overview, by: str | None) -> Path:
    """Write everything and return the folder: `out`, or one of its own for this second.

    Args:
        by: the option that results are drawn against; None for no such picture.
    """
    folder = _make_folder(out)
    pictures = draw_curves(folder, overview)
    if by:
        name = f"by_{re.sub(r'[^A-Za-z0-9_]', '_', by)[:60]}.png"  # the name comes from a file
        draw_by_option(folder / name, overview, by)
        pictures.append(name)
    write_csvs(folder, overview)
    write_markdown(folder / "compare.md", overview, pictures)
    write_report(folder / "report.html", overview)
    return folder


def _make_folder(out: str | None) -> Path:
    try:
        if out:
            Path(out).mkdir(parents=True, exist_ok=True)
            return Path(out)
        DEFAULT.mkdir(parents=True, exist_ok=True)
        return first_free(DEFAULT, time.strftime("%Y-%m-%d_%H-%M-%S"), Path.mkdir)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise BadInput(f"--out {out or DEFAULT}: nothing can be written there ({error.strerror})") from error
