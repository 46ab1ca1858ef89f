"""The comparison of runs in words and figures: as text, as CSV and as Markdown."""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.system.files import write_bytes, write_table
from common.system.log import info
from common.system.text import printable
from tools.comparing.contrasts import (
    Effect,
    advice,
    in_plain_words,
    network_verdict,
    p_in_words,
    told,
    verdict,
    within,
)
from tools.comparing.estimates import interval_of_mean
from tools.comparing.finished_runs import is_number
from tools.comparing.groups import shown
from tools.comparing.overview import Overview

LONGEST_CELL = 40  # characters in a table for people
MOST_ROWS, MOST_OPTIONS, MOST_CONTRASTS, MOST_NOTES = 40, 6, 10, 10  # of the terminal; the files have all
ABOUT_CONTRASTS = (
    "paired t: t-test of differences by seed; Welch's where groups share less than two seeds. Their intervals are "
    "for new seeds and new images; 'of seeds alone' where predictions are missing, or the score is no mean of parts",
    "corrected p: for all pairs of groups with several seeds (Bonferroni), because the best was chosen by its result; "
    "with --baseline, and of effects, for the number of tests (Holm)",
    "seeds it would take: to see this difference in 80 % of all cases, at this spread and two-sided 5 %, in a test of "
    "these two alone; adding seeds until a difference is significant finds one where there is none",
    "McNemar's exact test compares two trained networks on these images, not two recipes, and is not corrected "
    "for the number of tests",
)
ABOUT_MARGIN = (
    "equivalent: significantly closer to 0 than the margin; different: significantly different and not equivalent; "
    "undecided: neither"
)
# What is told of each run, where it is known, and with how many decimals.
SCORES = {"val_accuracy": 4, "test_accuracy": 4, "test_low": 4, "test_high": 4, "accuracy_without_copies": 4,
          "looks_at_images": None, "best_epoch": None, "trained_epochs": None, "train_time": 1,
          "parameters": None}  # fmt: skip
ABOUT_FOLDS = (
    "folds: runs of one cross-validation, of which each validates on other images; there is a number for each fold, "
    "and folds are paired with the same folds alone. They have training images in common, so the variance of their "
    "mean is s^2 (1/K + n_validation/n_training), as in the corrected resampled t-test (Nadeau and Bengio, 2003)"
)


@dataclass(frozen=True)
class Column:
    """A column of a table: `values` are text, numbers or None; `places` are the decimals that people see."""

    name: str
    values: list[Any]
    places: int | None = None

    @property
    def is_text(self) -> bool:
        """Whether there are texts in it."""
        return any(isinstance(value, str) for value in self.values)

    def text(self, row: int) -> str:
        """Return a value as people read it: one line, not too long, nothing where there is none."""
        value = self.values[row]
        if value is None:
            return ""
        if isinstance(value, str):
            return _shortened_path(value) if "/" in value else printable(value, LONGEST_CELL)
        if self.places is not None:
            return f"{value:,.{self.places}f}"
        return f"{value:,}" if isinstance(value, int) else shown(value)


def _shortened_path(path: str) -> str:
    """Return a path with its beginning, which may name a person, and its end: of a run the time when it began."""
    line = printable(path)
    return line if len(line) <= LONGEST_CELL else f"{line[:15]}…{line[15 + 1 - LONGEST_CELL :]}"


def run_columns(overview: Overview) -> list[Column]:
    """Return the columns of the table of runs: first what was chosen, then what came out of it."""
    runs, facts = overview.runs, _facts(overview)
    telling = [name for name in ("script", "dataset", "seed", "fold") if len(set(facts[name].values)) > 1]
    telling += ["group"] if len(overview.groups) < len(runs) else []
    columns = [Column("run", [run.label for run in runs])]
    columns += [facts[name] for name in ("group", "script", "dataset") if name in telling]
    columns += _names([overview.group_of(run).name for run in runs])
    for name, values in overview.options.items():
        columns.append(Column(name, [value if is_number(value) else shown(value) for value in values.values()]))
    columns += [facts[name] for name in ("seed", "fold") if name in telling]

    places = dict(SCORES)
    if len({run.config.get("parameters") for run in runs if isinstance(run.config.get("parameters"), int)}) < 2:
        del places["parameters"]
    if overview.metric not in places:
        places = {overview.metric: 4} | places
    scores = [run.scores | {"trained_epochs": len(run.epochs)} for run in runs]
    results = [Column(name, [one.get(name) for one in scores], decimals) for name, decimals in places.items()]
    columns += [column for column in results if any(value is not None for value in column.values)]
    if any(run.diverged for run in runs):
        columns.append(Column("status", ["diverged" if run.diverged else "finished" for run in runs]))
    return columns


def _facts(overview: Overview) -> dict[str, Column]:
    """Return the columns by name that people see only where they tell runs apart; compare.csv has them all."""
    runs = overview.runs
    facts = {"script": [run.script for run in runs], "dataset": [run.dataset for run in runs]}
    facts |= {"seed": [shown(run.seed) for run in runs], "fold": [run.fold for run in runs]}
    facts |= {"group": [overview.group_of(run).number for run in runs]}
    return {name: Column(name, values) for name, values in facts.items()}


def group_columns(overview: Overview) -> list[Column]:
    """Return the columns of the table of groups; in this one an interval is of the mean over seeds."""
    groups = overview.groups
    ends = [interval_of_mean(group.arm) if group.values else None for group in groups]
    intervals = [within(one, overview.metric, lowest=0.0) for one in ends]
    columns = [
        Column("group", [group.number for group in groups]),
        *_names([group.name for group in groups]),
        *(Column(name, [group.settings[name] for group in groups]) for name in groups[0].settings),
        Column("seeds", [_count(len(group.values), group.arm.overlap > 0) for group in groups]),
        Column(f"mean {overview.metric}", [group.mean for group in groups], 4),
        Column("std", [group.std for group in groups], 4),
        Column("low", [low for low, _ in intervals], 4),
        Column("high", [high for _, high in intervals], 4),
    ]
    if any(group.diverged for group in groups):
        columns.append(Column("diverged", [group.diverged for group in groups]))
    return columns


def _names(names: list[str]) -> list[Column]:
    """Return the column of the names that people gave to groups; none where they gave none."""
    return [Column("name", names)] if any(names) else []


def change_columns(overview: Overview) -> list[Column]:
    """Return the columns of the table of what each change of a named baseline is worth; none without a baseline."""
    changes = [one for one in overview.contrasts if not one.family.is_chosen]
    if not changes:
        return []
    intervals = [within(one.estimate.interval(), overview.metric) for one in changes]
    return [
        Column("change", [one.change for one in changes]),
        Column(f"difference in {overview.metric}", [one.estimate.value for one in changes], 4),
        Column("low", [low for low, _ in intervals], 4),
        Column("high", [high for _, high in intervals], 4),
        Column("corrected p", [p_in_words(one.corrected_p) for one in changes]),
        Column("seeds", [_count(min(one.estimate.seeds), any(one.estimate.are_folds)) for one in changes]),
        Column("verdict", [one.short_verdict for one in changes]),
    ]


def explanation(overview: Overview) -> list[str]:
    """Return what must be said below the tables of groups and contrasts."""
    means = [
        f"mean {overview.metric} over seeds; std with n - 1; low to high is the 95 % interval of the mean (Student), "
        "for new seeds and new images, and at least as wide as the one that a run with several seeds prints, which is "
        "for new seeds alone"
    ]
    means += [ABOUT_FOLDS] if any(group.arm.overlap for group in overview.groups) else []
    margin = [ABOUT_MARGIN] if any(one.margin is not None for one in overview.contrasts) else []
    return [*means, *ABOUT_CONTRASTS, *margin] if overview.contrasts else means


def _count(repeats: int, are_folds: bool) -> int | str:
    """Return how many seeds there are; folds are no seeds, and said to be folds."""
    return f"{repeats} folds" if are_folds else repeats


def print_overview(overview: Overview) -> None:
    """Print the tables, the verdicts and the notes; where there is too much of something, its best part."""
    hidden = list(overview.options)[MOST_OPTIONS:]
    _print_table(_without(hidden, run_columns(overview)), "runs, all in compare.csv")
    if hidden:
        info(f"also different, in compare.csv: {printable(', '.join(hidden), 200)}")
    if len(overview.groups) < len(overview.runs):
        info("", "runs that differ in the seed alone, or in the fold:")
        _print_table(_without(hidden, group_columns(overview)), "groups, all in compare_groups.csv")
        info("low to high: 95 % interval of the mean, for new seeds and new images")
    if changes := change_columns(overview):
        info("", "each change from the baseline:")
        _print_table(changes, "changes, all in compare_groups.csv")
        named = [one for one in overview.contrasts if not one.family.is_chosen]
        sentences = [in_plain_words(one, overview.metric) for one in named[:MOST_CONTRASTS]]
        info(*(printable(sentence, 400) for sentence in sentences if sentence))
    of_best = [one for one in overview.contrasts if one.family.is_chosen]
    for one in of_best[:MOST_CONTRASTS]:
        info("", printable(one.title, 200), *(f"  {printable(line, 400)}" for line in told(one, overview.metric)))
    if len(of_best) > MOST_CONTRASTS:
        info("", f"… and {len(of_best) - MOST_CONTRASTS} more, all in compare_groups.csv")
    if overview.effects:
        info("", *(line for one in overview.effects for line in _effect_lines(one, overview.metric)))
    if overview.contrasts:
        info("", "Many tests find something by luck. The p-values of t-tests allow for their number.")
        info("McNemar's do not, and are of two networks, not of two recipes. compare.md explains each test.")
    lines = [f"note: {printable(note, 300)}" for note in overview.notes]
    lines += [f"passed over: {printable(one.path, 150)}: {one.reason}" for one in overview.passed[:MOST_NOTES]]
    if lines:
        info("", *lines)
    if len(overview.passed) > MOST_NOTES:
        info(f"passed over: {len(overview.passed) - MOST_NOTES} more, all named in compare.md")


def _effect_lines(one: Effect, metric: str) -> list[str]:
    return [printable(f"effect of {one.title}", 400), *(f"  {printable(line, 400)}" for line in told(one, metric))]


def _print_table(columns: list[Column], what: str) -> None:
    """Print the first rows with their columns aligned, numbers to the right, and say how many more there are."""
    count, aligned = len(columns[0].values), []
    for column in columns:
        cells = [printable(column.name), *(column.text(row) for row in range(min(count, MOST_ROWS)))]
        width = max(map(len, cells))
        aligned.append([cell.ljust(width) if column.is_text else cell.rjust(width) for cell in cells])
    info(*("  ".join(row).rstrip() for row in zip(*aligned, strict=True)))
    if count > MOST_ROWS:
        info(f"… and {count - MOST_ROWS} more {what}")


def write_csvs(folder: Path, overview: Overview) -> None:
    """Write `compare.csv`, a row a run, `compare_groups.csv`, a row a group with its contrast, and any effects."""
    columns = [*run_columns(overview), Column("folder", [str(run.folder) for run in overview.runs])]
    columns += _without([column.name for column in columns], _facts(overview).values())
    _write_columns(folder / "compare.csv", columns)

    contrast_of = {one.other if one.against is one.one else one.one: one for one in overview.contrasts}
    found = [contrast_of.get(group) for group in overview.groups]
    to_best = [one if one and one.family.is_chosen else None for one in found]
    welch = [one if one and not one.estimate.is_paired else None for one in found]
    columns = [
        Column("best_group", [one and one.one.number for one in to_best]),
        Column("best_minus_this", [one and one.estimate.value for one in to_best]),
        Column("welch_p", [one and one.p for one in welch]),
        Column("welch_p_corrected", [one and one.corrected_p for one in welch]),
        Column("seeds_needed", [one and advice(one.estimate)[0] for one in found]),
        Column("verdict", [one and verdict(one, overview.metric) for one in found]),
        Column("networks", [one and network_verdict(one) for one in found]),
        Column("contrast", [one and one.title for one in found]),
        *difference_columns(found, overview.metric),
    ]
    _write_columns(folder / "compare_groups.csv", [*group_columns(overview), *columns])
    if overview.effects:
        effects = [Column("effect", [one.title for one in overview.effects])]
        effects += difference_columns(overview.effects, overview.metric)
        _write_columns(folder / "compare_effects.csv", effects)


def difference_columns(effects: list[Effect | None], metric: str) -> list[Column]:
    """Return what is known of differences, for a file."""
    rows = [one and _difference_row(one, metric) for one in effects]
    names = next((list(row) for row in rows if row), [])
    return [Column(name, [row and row[name] for row in rows]) for name in names]


def _difference_row(one: Effect, metric: str) -> dict[str, Any]:
    estimate = one.estimate
    row = {"difference": estimate.value}
    row["difference_low"], row["difference_high"] = within(estimate.interval(), metric)
    row["corrected_low"], row["corrected_high"] = within(one.wide_interval, metric)
    repeats = "folds" if all(estimate.are_folds) else "seeds"
    row |= {
        "covers": repeats if estimate.of_images is None else f"{repeats} and images",
        "luck_of_epochs": estimate.luck,
    }
    row |= {"test": one.test, "p": one.p, "p_corrected": one.corrected_p, "tests": one.family.count}
    row |= {"equivalence": one.equivalence, "p_equivalent": one.p_equivalent}
    _, row["seeds_needed_low"], row["seeds_needed_high"] = advice(estimate)
    return row


def write_markdown(path: Path, overview: Overview, pictures: list[str]) -> None:
    """Write the tables, the verdicts, the notes and links to the `pictures` beside it."""
    lines = ["# Comparison of runs", "", *_markdown_table(run_columns(overview)), ""]
    lines += [
        "## Groups",
        "",
        "Runs that differ in the seed alone, or in the fold.",
        "",
        *_markdown_table(group_columns(overview)),
        "",
    ]
    if changes := change_columns(overview):
        lines += ["Each change from the baseline:", "", *_markdown_table(changes), ""]
    for one in overview.contrasts:
        lines.append(f"- **{_escaped(one.title)}**: {'; '.join(map(_escaped, told(one, overview.metric)))}")
    for one in overview.effects:
        lines.append(f"- **effect of {_escaped(one.title)}**: {'; '.join(map(_escaped, told(one, overview.metric)))}")
    lines += ["", *(f"- {_escaped(line)}" for line in explanation(overview)), ""]
    lines += ["## Curves", "", *(f"![{_escaped(Path(name).stem)}]({name})" for name in pictures), ""]
    notes = [f"- {_escaped(note)}" for note in overview.notes]
    notes += [f"- passed over: {_escaped(one.path)}: {_escaped(one.reason)}" for one in overview.passed]
    lines += ["## Notes", "", *notes, ""] if notes else []
    write_bytes(path, "\n".join(lines).encode("utf-8", errors="backslashreplace"))


def write_latex(path: Path, overview: Overview) -> None:
    """Write the tables of groups, and of changes from the baseline, for a paper: mean, interval and n of each."""
    tables = [table for table in (group_columns(overview), change_columns(overview)) if table]
    lines = [f"% {overview.metric}; low and high are the ends of 95 % intervals"]
    for columns in tables:
        align = "".join("l" if column.is_text else "r" for column in columns)
        rows = [[_for_latex(column.text(row)) for column in columns] for row in range(len(columns[0].values))]
        header = " & ".join(_for_latex(column.name) for column in columns)
        lines += [rf"\begin{{tabular}}{{{align}}}", r"\hline", rf"{header} \\", r"\hline"]
        lines += [*(rf"{' & '.join(row)} \\" for row in rows), r"\hline", r"\end{tabular}", ""]
    write_bytes(path, "\n".join(lines).encode("utf-8", errors="backslashreplace"))


def _for_latex(text: object) -> str:
    """Return text that LaTeX shows as it is."""
    marks = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    marks |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
    line = "".join(marks.get(letter, letter) for letter in printable(text, 1000))
    return f"{{}}{line}" if line.startswith(("[", "*")) else line  # which the end of the row before would take


def _without(names: list[str], columns: Iterable[Column]) -> list[Column]:
    return [column for column in columns if column.name not in names]


def _write_columns(path: Path, columns: list[Column]) -> None:
    rows = zip(*(column.values for column in columns), strict=True)
    write_table(path, [[column.name for column in columns], *rows])


def _markdown_table(columns: list[Column]) -> list[str]:
    header = [_escaped(column.name) for column in columns]
    rows = [[_escaped(column.text(row)) for column in columns] for row in range(len(columns[0].values))]
    align = [":--" if column.is_text else "--:" for column in columns]
    return [f"| {' | '.join(row)} |" for row in (header, align, *rows)]


def _escaped(text: object) -> str:
    """Return text that Markdown shows as it is: no marks, no HTML, one line."""
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", html.escape(printable(text, 1000), quote=False))
