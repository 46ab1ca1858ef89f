"""What several folders have in common: copies of runs and of weights, and runs that an account names besides."""

from collections import Counter, defaultdict
from pathlib import PureWindowsPath

from common.system.text import printable
from tools.verifying.claims import ledger_of, lines_of
from tools.verifying.folder import LOOK, NAMED, Folder, in_short
from tools.verifying.options import what_makes_weights

BITS = ("weights", "predictions.npz", "val_predictions.npz")  # each alone tells that two runs come from one training


def find_copies(folders: list[Folder]) -> None:
    """Name folders that have the same run, weights or predictions, in the findings of each.

    A run has one folder. The same weights are honest where the same command ran twice on the same kind of machine.
    Whose claims are false already, because its predictions were made again, say, tells nothing of what others did.
    """
    believed = {folder for folder in folders if folder.is_as_claimed}
    for same in _alike(folders, "run_id"):
        for folder in same:
            folder.copies.append(f"this is the same run as {_others(folder, same)}: one of them is a copy; "
                                 f"a person must say which{_where_written(folder)}")  # fmt: skip
            folder.claim(False, folder.copies[-1])
    judged: list[set[Folder]] = []  # who has the same weights has the same predictions: that is said once
    for what in BITS:
        for same in _alike(folders, what):
            runs = {folder.digests.get("run_id") for folder in same}
            if len(runs) > 1 and not any(set(same) <= one for one in judged):
                judged.append(set(same))
                odd = _differing_from_most(same, believed.intersection(same) or set(same))
                _tell_equal(same, "weights" if what == "weights" else "predictions", odd)


def _alike(folders: list[Folder], what: str) -> list[list[Folder]]:
    """Return the groups of folders that have the same digest of something."""
    known: dict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        if digest := folder.digests.get(what):
            known[digest].append(folder)
    return [same for same in known.values() if len(same) > 1]


def _tell_equal(folders: list[Folder], what: str, odd: dict[Folder, list[str]]) -> None:
    """Refute those whose options are odd for what all of these have, and note of the others that they are equal."""
    for folder in folders:
        others = _others(folder, folders)
        if folder in odd:
            folder.claim(False, f"the same {what} as {others}, though {', '.join(odd[folder][:NAMED])}")
        else:
            folder.note(f"the same bits as {others}: the same command on such a machine gives that, or a copy")


def _differing_from_most(folders: list[Folder], believed: set[Folder]) -> dict[Folder, list[str]]:
    """Return those that claim something else than most of those `believed`, and what; where no most is, all."""
    made = {folder: what_makes_weights(folder) for folder in folders}
    found: dict[Folder, list[str]] = defaultdict(list)
    for name in sorted({name for one in made.values() for name in one}):
        values = {folder: str(one[name]) for folder, one in made.items() if name in one}  # what is unknown is no other
        counts = Counter(values[folder] for folder in values if folder in believed).most_common()
        usual = {value for value, count in counts if count == counts[0][1]}
        for folder, value in values.items():
            there = sorted(usual - {value})  # nothing for those who say what most say
            if there:
                found[folder].append(f"{name} is {printable(value, 40)} here and {printable(there[0], 40)} there")
    return found


def _others(folder: Folder, same: list[Folder]) -> str:
    """Return the other folders in words, by their short names."""
    names = [other.name for other in same if other is not folder]
    return names[0] if len(names) == 1 else f"{len(names)} other folders ({in_short(names)})"


def _where_written(folder: Folder) -> str:
    """Return what config.json says of the place where the run was written, if it is another than where it lies."""
    place = str(folder.options.get("output_dir"))
    said = tuple(part for part in PureWindowsPath(place).parts if part != "\\")  # which takes both slashes
    here = folder.path.resolve().parts[:-3]  # above experiment, data set and run
    if not said or here[-len(said) :] == said:
        return ""
    return f" (config.json: written to {printable(place, 200)}, by `{printable(folder.config.get('command'), 200)}`)"


def find_not_handed_in(folders: list[Folder]) -> None:
    """Tell of runs that the account of looks names, of the same script and test images, and that are not there."""
    given = {folder.digests.get("run_id") for folder in folders}
    told = set()
    for folder in folders:
        ledger, script = ledger_of(folder), folder.known("config.json", "script")
        if ledger is None or (ledger, script) in told:
            continue
        told.add((ledger, script))
        lines = [line for line in lines_of(ledger) if _script_of(line) == script]
        images = {line.get("images") for line in lines if line.get("run") in given}
        absent = {line.get("run") for line in lines if line.get("images") in images} - given
        if absent:
            runs = f"{len(absent)} other run{'s' if len(absent) > 1 else ''} of {script}"
            folder.note(f"{ledger.name} has {runs} on these test images, not handed in", LOOK)


def _script_of(line: dict) -> str:
    """Return which experiment a line of an account is of, by the folder in it: …/experiment/data set/run."""
    return PureWindowsPath(str(line.get("folder"))).parent.parent.name
