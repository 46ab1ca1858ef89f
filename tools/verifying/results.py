"""What verify.py has found: lines for the terminal, tables, a page."""

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.runs.page import page
from common.system.files import table_text, write_bytes
from common.system.log import info
from common.system.text import printable
from tools.comparing.finished_runs import is_number
from tools.verifying.folder import (
    FALSE,
    LOOK,
    NOT_ASKED,
    NOT_FINISHED,
    NOTE,
    OTHER_CODE,
    UNKNOWN,
    VERDICTS,
    Folder,
)
from tools.verifying.people import COLUMNS_OF_PEOPLE, Person, hint_of_several, line_of, row_of_person

KINDS = {"problems": FALSE, "look_at": LOOK, "not_asked_for": NOT_ASKED, "not_checked": UNKNOWN, "notes": NOTE}
COLUMNS = ("folder", "group", "verdict", "checked", "false", "script", "dataset", "seed", "epochs", "val_accuracy",
           "test_accuracy", "interval_95", "test_images", "looks_of_run", *KINDS)  # fmt: skip
CSS = {FALSE: "false", LOOK: "look", NOT_ASKED: "unknown", UNKNOWN: "unknown", NOTE: "note"}  # kind -> its class
SHOWN = 3  # folders of which all is told on the terminal, not only what somebody must know
TEMPLATE = Path(__file__).with_name("page.html")


def tell(folders: list[Folder], people: list[Person]) -> None:
    """Print a line for each folder, and what somebody must know of it; of few folders all; then a line a person."""
    width = max(len(folder.verdict) for folder in folders)
    for folder in folders:
        info(_line_of(folder, width))
        for kind, text in _ordered(folder):
            if kind in (FALSE, LOOK, NOT_ASKED) or (kind, text) in folder.asked or len(folders) <= SHOWN:
                info(f"      {kind}: {text}")
    info("", *map(line_of, people))
    if hint := hint_of_several(people):
        info(f"note: {hint}")
    info(summary_of(folders, people))


def _ordered(folder: Folder) -> list[tuple[str, str]]:
    """Return the findings, the worst first."""
    return sorted(folder.findings, key=lambda one: list(CSS).index(one[0]))


def _line_of(folder: Folder, width: int) -> str:
    """Return the line of a folder, whose verdict takes so many letters at least."""
    row, verdict = row_of(folder), folder.verdict.replace(FALSE, FALSE.upper()).ljust(width)
    if not folder.is_run:
        return f"{verdict}  {folder.path}"
    scores = "".join(
        f", {name} {row[f'{name}_accuracy']:.4f}" for name in ("val", "test") if is_number(row[f"{name}_accuracy"])
    )
    what = f"{row['script']} {row['dataset']}, seed {row['seed']}{scores}"
    return f"{verdict}  {folder.path}: {what}; {folder.checked} claims, {row['false']} false"


def row_of(folder: Folder) -> dict:
    """Return what the table says of a folder, by COLUMNS."""
    interval = folder.score("test.json", "accuracy_interval_95")
    epochs = folder.known("train.json", "epochs")
    values = {
        "folder": str(folder.path),
        "group": folder.group,
        "verdict": folder.verdict,
        "checked": folder.checked,
        "false": len(folder.of_kind(FALSE)),
        **{name: folder.known("config.json", name) for name in ("script", "dataset", "seed")},
        "epochs": len(epochs) if isinstance(epochs, list) else None,
        "val_accuracy": folder.score("validation.json", "accuracy"),
        "test_accuracy": folder.score("test.json", "accuracy"),
        "interval_95": " to ".join(f"{end:.4f}" for end in interval) if _are_numbers(interval) else None,
        "test_images": folder.score("test.json", "images"),
        "looks_of_run": folder.known("test.json", "test_evaluations"),
        **{name: "; ".join(folder.of_kind(kind)) for name, kind in KINDS.items()},
    }
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    if isinstance(value, int | None):
        return value
    return round(value, 4) if isinstance(value, float) else printable(value)


def write_csv(path: Path, folders: list[Folder]) -> None:
    """Write a row for each folder."""
    _write_table(path, COLUMNS, map(row_of, folders))


def write_people(path: Path, people: list[Person]) -> None:
    """Write a row for each person beside the table `path` of folders: grades_people.csv beside grades.csv."""
    beside = path.with_name(f"{path.stem}_people{path.suffix}")
    _write_table(beside, COLUMNS_OF_PEOPLE, map(row_of_person, people))


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    cells = [["" if row[name] is None else row[name] for name in columns] for row in rows]
    text = table_text([columns, *cells])
    write_bytes(path, text.encode("utf-8-sig", errors="backslashreplace"))  # by the mark Excel knows letters beyond a-z


def write_page(path: Path, folders: list[Folder], people: list[Person]) -> None:
    """Write one page with a row for each person and each folder, which loads nothing and runs nothing."""
    rows = "\n".join(map(_page_row, sorted(folders, key=lambda folder: VERDICTS.index(folder.verdict))))
    content = page(TEMPLATE, TITLE=html.escape(summary_of(folders, people)), PEOPLE=_page_people(people), ROWS=rows)
    write_bytes(path, content.encode("utf-8", errors="backslashreplace"))


def _page_people(people: list[Person]) -> str:
    """Return the table of people, those who have not fulfilled the task first; nothing without a task."""
    if not people:
        return ""
    lines = [_cells("th", [name.replace("_", " ") for name in COLUMNS_OF_PEOPLE])]
    for person in sorted(people, key=lambda person: (person.has_fulfilled, not person.false)):
        lines.append(_cells("td", row_of_person(person).values()))
    hint = html.escape(printable(hint_of_several(people)))
    return f"<p>{hint}</p>\n<table>\n{''.join(lines)}</table>"


def _cells(kind: str, values: Iterable) -> str:
    cells = (html.escape(printable("" if value is None else value, 400)) for value in values)
    return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>\n"


def _page_row(folder: Folder) -> str:
    row, verdict = row_of(folder), {FALSE: "false", OTHER_CODE: "look", NOT_FINISHED: "look"}.get(folder.verdict, "ok")
    items = (f'<li class="{CSS[kind]}">{html.escape(printable(text, 400))}</li>' for kind, text in _ordered(folder))
    test = f"{_text(row['test_accuracy'])}<br>{_text(row['interval_95'])}, n = {_text(row['test_images'])}"
    cells = [
        html.escape(printable(folder.path, 300)),
        f"{_text(row['script'])} {_text(row['dataset'])}<br>seed {_text(row['seed'])}, {_text(row['epochs'])} epochs",
        _text(row["val_accuracy"]),
        "not tested" if row["test_accuracy"] is None else test,
        f'<b class="{verdict}">{folder.verdict}</b>, {folder.checked} claims<ul>{"".join(items)}</ul>',
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def summary_of(folders: list[Folder], people: list[Person]) -> str:
    """Return how many people and folders there are of each verdict."""
    counts = Counter(folder.verdict for folder in folders)
    parts = [f"{counts[one]} {one.replace(',', ' with')}" for one in reversed(VERDICTS) if counts[one]]
    said = f"{_count(len(folders), 'folder', 'folders')}: {', '.join(parts)}"
    done = sum(person.has_fulfilled for person in people)
    of_task = f"{_count(len(people), 'person', 'people')}: {done} fulfilled the task, {len(people) - done} not; "
    return (of_task if people else "") + said


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _text(value: object) -> str:
    return html.escape(f"{value:.4f}" if isinstance(value, float) else printable(value, 80))


def _are_numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(is_number, value))
