"""The comparison of runs in words and figures: as text, as CSV and as Markdown."""

import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.comparing.contrasts import network_verdict, verdict
from common.comparing.finished_runs import number
from common.comparing.groups import shown
from common.comparing.overview import Overview
from common.system.files import write_bytes, write_table
from common.system.log import info
from common.system.text import printable

LONGEST_CELL = 40  # characters in a table for people
MOST_ROWS, MOST_OPTIONS, MOST_CONTRASTS, MOST_NOTES = 40, 6, 10, 10  # of the terminal; the files have all
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # which spreadsheets run


@dataclass(frozen=True)
class Column:
    """A column of a table: `values` are text, numbers or None; `places` are the decimals that people see."""

    name: str
    values: list[Any]
    places: int | None = None

    def text(self, row: int) -> str:
        """Return a value as people read it: one line, not too long, nothing where there is none."""
        value = self.values[row]
        if value is None:
            return ""
        if isinstance(value, str):
            return printable(value, LONGEST_CELL, keep_end="/" in value)
        if self.places is not None:
            return f"{value:,.{self.places}f}"
        return f"{value:,}" if isinstance(value, int) else shown(value)


def run_columns(overview: Overview) -> tuple[list[Column], list[Column]]:
    """Return the columns of the table of runs: (what was chosen, what came out of it)."""
    runs = overview.runs

    def scores(name: str, places: int | None = 4) -> Column:
        return Column(name, [run.scores.get(name) for run in runs], places)

    chosen = [Column("run", [run.label for run in runs])]
    if len(overview.groups) < len(runs):
        chosen.append(Column("group", [overview.group_of(run).number for run in runs]))
    for name in ("script", "dataset"):
        if len({getattr(run, name) for run in runs}) > 1:
            chosen.append(Column(name, [getattr(run, name) for run in runs]))
    for name, values in overview.options.items():
        chosen.append(Column(name, [shown(value) if number(value) is None else value for value in values.values()]))
    if len({shown(run.seed) for run in runs}) > 1:
        chosen.append(Column("seed", [shown(run.seed) for run in runs]))

    results = [scores(name) for name in ("val_accuracy", "test_accuracy", "test_low", "test_high")]
    trained = Column("trained_epochs", [len(run.epochs) for run in runs])
    results += [scores("best_epoch", None), trained, scores("train_time", 1)]
    if len({run.config.get("parameters") for run in runs if isinstance(run.config.get("parameters"), int)}) > 1:
        results.append(scores("parameters", None))
    if overview.metric not in [column.name for column in results]:
        results.insert(0, scores(overview.metric))
    if any(run.diverged for run in runs):
        results.append(Column("status", ["diverged" if run.diverged else "finished" for run in runs]))
    return chosen, [column for column in results if any(value is not None for value in column.values)]


def group_columns(overview: Overview) -> list[Column]:
    """Return the columns of the table of groups; in this one an interval is of the mean over seeds."""
    groups = overview.groups
    columns = [
        Column("group", [group.number for group in groups]),
        *(Column(name, [group.settings[name] for group in groups]) for name in groups[0].settings),
        Column("seeds", [len(group.values) for group in groups]),
        Column(f"mean {overview.metric}", [group.mean for group in groups], 4),
        Column("std", [group.std for group in groups], 4),
        Column("low", [group.interval and group.interval[0] for group in groups], 4),
        Column("high", [group.interval and group.interval[1] for group in groups], 4),
    ]
    if any(group.diverged for group in groups):
        columns.append(Column("diverged", [group.diverged for group in groups]))
    return columns


def explanation(overview: Overview) -> list[str]:
    """Return what must be said below the tables of groups and contrasts."""
    lines = [
        f"mean {overview.metric} over seeds; std with n - 1; low to high is the 95 % interval of the mean (Student's t)"
    ]
    if overview.contrasts:
        lines += [
            "the best group of a data set against each other one: Welch's t-test over seeds, corrected for the number "
            "of tests (Holm); being the best of many is itself partly luck",
            "seeds it would take: to see this difference in 80 % of all cases, at this spread and two-sided 5 %, in "
            "a test of these two alone",
            "McNemar's exact test compares two trained networks on these test images, not two recipes, and is not "
            "corrected for the number of tests",
        ]
    return lines


def print_overview(overview: Overview) -> None:
    """Print the tables, the verdicts and the notes; where there is too much of something, its best part."""
    chosen, results = run_columns(overview)
    hidden = list(overview.options)[MOST_OPTIONS:]
    _say_all(text_table(_without(hidden, [*chosen, *results]), MOST_ROWS))
    if len(overview.runs) > MOST_ROWS:
        info(f"… and {len(overview.runs) - MOST_ROWS} more runs, all in compare.csv")
    if hidden:
        info(f"also different, in compare.csv: {printable(', '.join(hidden), 200)}")
    if len(overview.groups) < len(overview.runs):
        info("\nruns that differ in the seed alone:")
        _say_all(text_table(_without(hidden, group_columns(overview)), MOST_ROWS))
        if len(overview.groups) > MOST_ROWS:
            info(f"… and {len(overview.groups) - MOST_ROWS} more groups, all in compare_groups.csv")
    for one in overview.contrasts[:MOST_CONTRASTS]:
        info(f"\n{printable(one.title, 200)}")
        info(f"  {verdict(one, overview.metric)}")
        info(f"  {network_verdict(one)}")
    if len(overview.contrasts) > MOST_CONTRASTS:
        info(f"\n… and {len(overview.contrasts) - MOST_CONTRASTS} more, all in compare_groups.csv")
    if overview.contrasts:
        info("Welch's tests are corrected for their number (Holm), McNemar's are not; compare.md says what each means")
    lines = [f"note: {printable(note, 300)}" for note in overview.notes]
    lines += [f"passed over: {printable(one.path, 150)}: {one.reason}" for one in overview.passed[:MOST_NOTES]]
    _say_all(["", *lines] if lines else [])
    if len(overview.passed) > MOST_NOTES:
        info(f"passed over: {len(overview.passed) - MOST_NOTES} more, all named in compare.md")


def text_table(columns: list[Column], most_rows: int) -> list[str]:
    """Return the lines of a table whose columns are aligned, numbers to the right."""
    count = min(most_rows, len(columns[0].values))
    cells = [[printable(column.name), *(column.text(row) for row in range(count))] for column in columns]
    widths = [max(map(len, column)) for column in cells]
    is_text = [any(isinstance(value, str) for value in column.values) for column in columns]
    aligned = [
        [cell.ljust(width) if left else cell.rjust(width) for cell in column]
        for column, width, left in zip(cells, widths, is_text, strict=True)
    ]
    return ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]


def write_csvs(folder: Path, overview: Overview) -> None:
    """Write `compare.csv`, a row a run, and `compare_groups.csv`, a row a group with its contrast to the best."""
    runs = overview.runs
    chosen, results = run_columns(overview)
    always = [
        Column("script", [run.script for run in runs]),
        Column("dataset", [run.dataset for run in runs]),
        Column("seed", [shown(run.seed) for run in runs]),
        Column("group", [overview.group_of(run).number for run in runs]),
    ]
    columns = [*chosen, *results, Column("folder", [str(run.folder) for run in runs])]
    columns += _without([column.name for column in chosen], always)
    _write_columns(folder / "compare.csv", columns)

    contrast_of = {one.other: one for one in overview.contrasts}
    found = [contrast_of.get(group) for group in overview.groups]
    columns = [
        Column("best_group", [one and one.best.number for one in found]),
        Column("best_minus_this", [one and one.difference for one in found]),
        Column("welch_p", [one and one.p for one in found]),
        Column("welch_p_corrected", [one and one.corrected_p for one in found]),
        Column("seeds_needed", [one and one.seeds for one in found]),
        Column("verdict", [one and verdict(one, overview.metric) for one in found]),
        Column("networks", [one and network_verdict(one) for one in found]),
    ]
    _write_columns(folder / "compare_groups.csv", [*group_columns(overview), *columns])


def write_markdown(path: Path, overview: Overview, pictures: list[str]) -> None:
    """Write the tables, the verdicts, the notes and links to the `pictures` beside it."""
    chosen, results = run_columns(overview)
    lines = ["# Comparison of runs", "", *_markdown_table([*chosen, *results]), ""]
    lines += ["## Groups", "", "Runs that differ in the seed alone.", "", *_markdown_table(group_columns(overview)), ""]
    for one in overview.contrasts:
        title, *verdicts = map(_escaped, (one.title, verdict(one, overview.metric), network_verdict(one)))
        lines.append(f"- **{title}**: {'; '.join(verdicts)}")
    lines += ["", *(f"- {_escaped(line)}" for line in explanation(overview)), ""]
    lines += ["## Curves", "", *(f"![{_escaped(Path(name).stem)}]({name})" for name in pictures), ""]
    notes = [f"- {_escaped(note)}" for note in overview.notes]
    notes += [f"- passed over: {_escaped(one.path)}: {_escaped(one.reason)}" for one in overview.passed]
    lines += ["## Notes", "", *notes, ""] if notes else []
    write_bytes(path, "\n".join(lines).encode("utf-8", errors="backslashreplace"))


def _without(names: list[str], columns: list[Column]) -> list[Column]:
    return [column for column in columns if column.name not in names]


def _say_all(lines: list[str]) -> None:
    for line in lines:
        info(line)


def _write_columns(path: Path, columns: list[Column]) -> None:
    rows = zip(*(map(_harmless, column.values) for column in columns), strict=True)
    write_table(path, [[_harmless(column.name) for column in columns], *rows])


def _harmless(value):
    """Return a cell that no spreadsheet takes for a formula: names come from files."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _markdown_table(columns: list[Column]) -> list[str]:
    header = [_escaped(column.name) for column in columns]
    rows = [[_escaped(column.text(row)) for column in columns] for row in range(len(columns[0].values))]
    align = [":--" if any(isinstance(value, str) for value in column.values) else "--:" for column in columns]
    return [f"| {' | '.join(row)} |" for row in (header, align, *rows)]


def _escaped(text: object) -> str:
    """Return text that Markdown shows as it is: no marks, no HTML, one line."""
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", html.escape(printable(text, 1000), quote=False))
