"""What each person has handed in altogether, and whether that is what the task asked for."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.evaluation.repeats import mean_in_words
from tools.comparing.finished_runs import is_number
from tools.verifying.folder import FALSE, LOOK, NAMED, NOT_ASKED, UNKNOWN, Folder, in_short

COLUMNS_OF_PEOPLE = ("person", "task", "missing", "seeds", "n", "test_accuracy", "interval_95", "false", "look_at")


@dataclass
class Person:
    """What was given as one folder on the command line: one person's runs.

    Attributes:
        name: of the folder that was given. folders: all that is in it.
        missing: what the task wants and is not there, in words.
        counted: the run that counts for each seed: the first of those that are valid and asked for.
        asked_seeds: the seeds that the task names; accuracies are of these, so that nobody chooses among others.
    """

    name: str
    folders: list[Folder]
    missing: list[str]
    counted: dict[int, Folder]
    asked_seeds: list[int]

    @property
    def has_fulfilled(self) -> bool:
        """Whether nothing that the task wants is missing."""
        return not self.missing

    @property
    def accuracies(self) -> list[float]:
        """The test accuracies of the seeds that were asked for."""
        runs = [run for seed, run in self.counted.items() if not self.asked_seeds or seed in self.asked_seeds]
        return [score for run in runs if is_number(score := run.score("test.json", "accuracy"))]

    @property
    def to_look_at(self) -> list[str]:
        """What somebody must look at, in words."""
        texts = list(dict.fromkeys(text for folder in self.folders for text in folder.of_kind(LOOK)))
        counts = {
            "in another folder too": sum(bool(folder.copies) for folder in self.folders),
            "other code": sum(folder.has_other_code for folder in self.folders),
            "not checked in all": sum(bool(folder.of_kind(UNKNOWN)) for folder in self.folders),
            "not finished": sum(not folder.is_finished for folder in self.folders),
            "not asked for": sum(bool(folder.of_kind(NOT_ASKED)) for folder in self.folders),
        }
        texts = texts[:NAMED] + [f"and {len(texts) - NAMED} more"] * (len(texts) > NAMED)
        return texts + [f"{what}: {count} of {len(self.folders)}" for what, count in counts.items() if count]

    @property
    def false(self) -> str:
        """Which folders have false claims, in words."""
        names = [folder.path.name for folder in self.folders if not folder.is_as_claimed]
        return f"{len(names)} of {len(self.folders)} ({in_short(names)})" if names else ""


def people_of(task: dict, folders: list[Folder]) -> list[Person]:
    """Return what the task makes of each person's folders."""
    groups: dict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        groups[folder.person].append(folder)
    return [_person(task, name, group) for name, group in groups.items()]


def _person(task: dict, name: str, folders: list[Folder]) -> Person:
    counted: dict[int, Folder] = {}
    are_tested = any(folder.score("test.json", "accuracy") is not None for folder in folders)
    for folder in folders:  # a seed whose test is left out would raise the mean of the others
        is_hidden = are_tested and folder.score("test.json", "accuracy") is None
        if folder.is_valid and not is_hidden and type(seed := folder.known("config.json", "seed")) is int:
            counted.setdefault(seed, folder)
    wanted, missing = task.get("seeds", []), []
    absent = [seed for seed in wanted if seed not in counted]
    if absent:
        there = f"{_seeds(counted)} there" if counted else "none is there"
        missing.append(f"{_seeds(absent)} missing; {there}")
    least = task.get("min_runs", 1)
    if len(counted) < least and (not absent or least > len(wanted)):  # else that is said already
        runs = "is 1 valid run" if len(counted) == 1 else f"are {len(counted)} valid runs"
        missing.append(f"the task wants {least} of different seeds; there {runs}")
    if not any(folder.is_run for folder in folders):
        missing = folders[0].of_kind(FALSE)
    return Person(name, folders, missing, counted, wanted)


def _seeds(seeds: Iterable[int]) -> str:
    """Return seeds in words, with the verb."""
    *first, last = map(str, sorted(seeds))
    return f"seeds {', '.join(first)} and {last} are" if first else f"seed {last} is"


def hint_of_several(people: list[Person]) -> str:
    """Return what to do where one location seems to hold the folders of several people, "" if it does not."""
    if len(people) != 1:
        return ""
    inside = set()
    for folder in people[0].folders:
        made_by_runs = {folder.known("config.json", name) for name in ("script", "dataset")} | {folder.path.name}
        inside |= {*folder.path.relative_to(folder.group).parts[:1]} - made_by_runs
    given = Path(people[0].folders[0].group)
    what = f"all in {given} counts as one person's; if its folders are people's, give {given / '*'}"
    return what if len(inside) > 1 else ""


def row_of_person(person: Person) -> dict:
    """Return what the table says of a person, by COLUMNS_OF_PEOPLE."""
    accuracies = person.accuracies
    mean, interval = mean_in_words(accuracies) if accuracies else (None, None)
    return {
        "person": person.name,
        "task": "fulfilled" if person.has_fulfilled else "not fulfilled",
        "missing": "; ".join(person.missing),
        "seeds": ", ".join(map(str, sorted(person.counted))),
        "n": len(accuracies),
        "test_accuracy": mean and float(mean),
        "interval_95": interval,
        "false": person.false,
        "look_at": "; ".join(person.to_look_at),
    }


def line_of(person: Person) -> str:
    """Return what the terminal says of a person."""
    row = row_of_person(person)
    parts = [row["missing"] or f"valid seeds {row['seeds']}"]
    if row["n"]:
        parts.append(f"test accuracy {row['test_accuracy']:.4f} (95 % interval {row['interval_95']}, n = {row['n']})")
    parts += [f"FALSE: {row['false']}" if row["false"] else "", f"look at: {row['look_at']}" if row["look_at"] else ""]
    verdict = "fulfilled    " if person.has_fulfilled else "NOT FULFILLED"
    return f"{verdict} {person.name}: {'; '.join(filter(None, parts))}"
