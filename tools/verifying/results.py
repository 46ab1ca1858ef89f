"""What verify.py has found: lines for the terminal, a table, a page; and what several folders have in common."""

import html
from collections import defaultdict
from pathlib import Path

from common.runs.page import page
from common.system.files import write_bytes, write_table
from common.system.log import info
from common.system.text import printable
from tools.comparing.finished_runs import is_number
from tools.verifying.folder import FALSE, NOTE, UNKNOWN, Folder

KINDS = {"problems": FALSE, "not_checked": UNKNOWN, "notes": NOTE}  # column -> kind of finding
COLUMNS = ("folder", "group", "verdict", "checked", "false", "script", "dataset", "seed", "epochs", "val_accuracy",
           "test_accuracy", "interval_95", "test_images", "looks_of_run", *KINDS)  # fmt: skip
CSS = {FALSE: "false", UNKNOWN: "unknown", NOTE: "note"}  # kind of finding -> its class in the page
SHOWN = 3  # folders of which all is told on the terminal, not only what is false
TEMPLATE = Path(__file__).with_name("page.html")


def find_copies(folders: list[Folder]) -> None:
    """Name folders that have the same run, weights or predictions, in the findings of each.

    A run has one folder. The same weights are honest where the same command ran twice on the same kind of machine.
    """
    known: dict[tuple[str, str], list[Folder]] = defaultdict(list)
    for folder in folders:
        for what, digest in folder.digests.items():
            if digest and what != "images":
                known[what, digest].append(folder)
    for (what, _), same in known.items():
        if what != "run_id" and len({folder.digests.get("run_id") for folder in same}) == 1:
            continue  # one run, or copies of it, which are named as such
        for folder in same if len(same) > 1 else ():
            others = ", ".join(str(other.path) for other in same if other is not folder)
            if what == "run_id":
                folder.claim(False, f"this is the same run as {others}: one is a copy")
            elif not _is_same_command(same):
                folder.claim(False, f"the same {what} as {others}, though the options are others")
            else:
                folder.note(f"the same {what} as {others}: the same command on such a machine gives that, or a copy")


def _is_same_command(folders: list[Folder]) -> bool:
    """Tell whether folders say that they were made with the same options, but for where, and of the same images."""
    told = []
    for folder in folders:
        options = folder.known("config.json", "options") or {}
        places = ("output_dir", "data", "workers", "test", "tensorboard", "wandb")
        told.append(
            {name: value for name, value in options.items() if name not in places} | {"": folder.digests.get("images")}
        )
    return all(one == told[0] for one in told)


def tell(folders: list[Folder]) -> None:
    """Print a line for each folder, and what is false of it; of few folders all."""
    for folder in folders:
        false, row = folder.of_kind(FALSE), row_of(folder)
        scores = "".join(
            f", {name} {row[f'{name}_accuracy']:.4f}" for name in ("val", "test") if is_number(row[f"{name}_accuracy"])
        )
        what = f"{row['script']} {row['dataset']}, seed {row['seed']}{scores}"
        verdict = "FALSE" if false else "ok   "
        info(f"{verdict} {folder.path}: {what}; {folder.checked} claims, {len(false)} false")
        info(*(f"      false: {text}" for text in false))
        if len(folders) <= SHOWN:
            info(*(f"      {kind}: {text}" for kind, text in folder.findings if kind != FALSE))
    info("", _summary(folders))


def row_of(folder: Folder) -> dict:
    """Return what the table says of a folder, by COLUMNS."""
    interval = folder.known("test.json", "accuracy_interval_95")
    epochs = folder.known("train.json", "epochs")
    values = {
        "folder": str(folder.path),
        "group": folder.group,
        "verdict": "as claimed" if folder.is_as_claimed else "false",
        "checked": folder.checked,
        "false": len(folder.of_kind(FALSE)),
        **{name: folder.known("config.json", name) for name in ("script", "dataset", "seed")},
        "epochs": len(epochs) if isinstance(epochs, list) else None,
        "val_accuracy": folder.known("validation.json", "accuracy"),
        "test_accuracy": folder.known("test.json", "accuracy"),
        "interval_95": " to ".join(f"{end:.4f}" for end in interval) if _are_numbers(interval) else None,
        "test_images": folder.known("test.json", "images"),
        "looks_of_run": folder.known("test.json", "test_evaluations"),
        **{name: "; ".join(folder.of_kind(kind)) for name, kind in KINDS.items()},
    }
    return {
        name: value if isinstance(value, int | float | None) else printable(value) for name, value in values.items()
    }


def write_csv(path: Path, folders: list[Folder]) -> None:
    """Write a row for each folder."""
    rows = [["" if value is None else value for value in row_of(folder).values()] for folder in folders]
    write_table(path, [COLUMNS, *rows])


def write_page(path: Path, folders: list[Folder]) -> None:
    """Write one page with a row for each folder, which loads nothing and runs nothing."""
    rows = "\n".join(map(_page_row, sorted(folders, key=lambda folder: folder.is_as_claimed)))
    content = page(TEMPLATE, TITLE=_summary(folders), ROWS=rows)
    write_bytes(path, content.encode("utf-8", errors="backslashreplace"))


def _page_row(folder: Folder) -> str:
    row, verdict = row_of(folder), "claimed" if folder.is_as_claimed else "false"
    ordered = sorted(folder.findings, key=lambda one: list(CSS).index(one[0]))
    found = "".join(f'<li class="{CSS[kind]}">{html.escape(printable(text, 400))}</li>' for kind, text in ordered)
    test = f"{_text(row['test_accuracy'])}<br>{_text(row['interval_95'])}, n = {_text(row['test_images'])}"
    cells = [
        html.escape(printable(folder.path, 300)),
        f"{_text(row['script'])} {_text(row['dataset'])}<br>seed {_text(row['seed'])}, {_text(row['epochs'])} epochs",
        _text(row["val_accuracy"]),
        "not tested" if row["test_accuracy"] is None else test,
        f'<b class="{verdict}">{row["verdict"]}</b>, {folder.checked} claims<ul>{found}</ul>',
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _summary(folders: list[Folder]) -> str:
    wrong = sum(not folder.is_as_claimed for folder in folders)
    return f"{len(folders)} run(s): {len(folders) - wrong} as claimed, {wrong} with false claims"


def _text(value: object) -> str:
    return html.escape(f"{value:.4f}" if isinstance(value, float) else printable(value, 80))


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(is_number, value))
