"""One run folder as somebody hands it in: its records, and what is found out about each claim in them."""

import json
import os
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path, PureWindowsPath

from common.runs import code
from common.runs.folder import NO_RUNS, read_config
from common.system.errors import BadInput
from common.system.files import Unreadable, json_text, read_json
from common.system.records import check_config
from common.system.text import printable
from tools.comparing.finished_runs import candidates, expand

# What is found: a claim is refuted; somebody must look at this; the run is none that the task wants; nothing can be
# said about a claim; or it holds, and this should be known besides.
FALSE, LOOK, NOT_ASKED, UNKNOWN, NOTE = "false", "look at", "not asked for", "not checked", "note"
OTHER_CODE, OK, NOT_FINISHED = "ok, other code", "ok", "not finished"
UNFINISHED = ("running", "interrupted", "diverged")  # what train.json says of a run that has not come to its end
NOT_HERE = "this machine could not check"  # begins the finding of a check that memory or the disk did not suffice for
NAMED = 3  # folders or findings that are named in a line; of more the number is told
VERDICTS = (FALSE, OTHER_CODE, OK, NOT_FINISHED, NOT_ASKED)  # in the order in which one reads them


class Refuted(Exception):
    """A claim of the folder is false; the text says which, and what is true."""


class Unknown(Exception):
    """A claim cannot be checked; the text says why."""


@dataclass(eq=False)  # two are equal if they are the same one
class Folder:
    """A run folder, nothing of which is believed.

    Attributes:
        path: of the run. group: what was given on the command line, at or above it: one person's, say.
        base: the folder that has all that was given, from which short names count; "" if there is none.
        findings: pairs (kind, text), as the checks add them. checked: how many claims held or not.
        digests: by which copies among other folders are known, {what: digest}.
        computed: the scores that follow from its predictions, by the file that claims them.
        copies: those of its false claims that say only that the run lies in another folder too.
        asked: those findings that come of what was asked for besides the checks that are always made.
    """

    path: Path
    group: str
    base: str = ""
    findings: list[tuple[str, str]] = field(default_factory=list)
    checked: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    computed: dict[str, dict] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def claim(self, holds: bool, otherwise: str) -> None:
        """Count a claim; what is to be said if it does not hold is `otherwise`."""
        self.checked += 1
        if not holds:
            self.findings.append((FALSE, otherwise))

    def note(self, text: str, kind: str = NOTE) -> None:
        """Add what should be known besides, or another kind of finding that is no claim."""
        self.findings.append((kind, text))

    def of_kind(self, kind: str) -> list[str]:
        """Return the texts of the findings of a kind."""
        return [text for found, text in self.findings if found == kind]

    @property
    def is_as_claimed(self) -> bool:
        """Whether no claim is refuted."""
        return not self.of_kind(FALSE)

    @property
    def is_valid(self) -> bool:
        """Whether the run counts for a task: it is what was asked for, and nothing is false but that it was copied.

        Whose run a copy is nobody can tell from the folders, and the one who was copied from must not pay for it.
        """
        false, copies = self.of_kind(FALSE), self.copies
        is_checked = "validation.json" in self.computed  # or the run is not finished
        is_checked = is_checked and not any(text.startswith(NOT_HERE) for text in self.of_kind(UNKNOWN))
        is_wanted = self.is_run and is_checked and not self.of_kind(NOT_ASKED)
        return is_wanted and all(text in copies for text in false)

    @property
    def verdict(self) -> str:
        """Which of VERDICTS the folder deserves."""
        if not self.is_as_claimed:
            return FALSE
        if not self.is_finished:
            return NOT_FINISHED
        if self.of_kind(NOT_ASKED):
            return NOT_ASKED
        return OTHER_CODE if self.has_other_code else OK

    @property
    def is_run(self) -> bool:
        """Whether there is a run at all, whatever its files are, and not a file or an empty folder in its place."""
        return any(os.path.lexists(self.path / name) for name in ("config.json", "train.json"))

    @property
    def is_finished(self) -> bool:
        """Whether the run claims to have come to its end, or its files do not say."""
        return self.known("train.json", "status") not in UNFINISHED

    @property
    def is_tested(self) -> bool:
        """Whether there should be a test result, or is one."""
        is_to_be = self.known("config.json", "options") is not None and self.options.get("test")
        return bool(is_to_be) or (self.path / "test.json").exists()

    @property
    def has_other_code(self) -> bool:
        """Whether the run says that it was made with other code than this tree's."""
        return self.known("config.json", "options") is not None and self.config.get("code_sha256") != code_of_tree()

    @property
    def name(self) -> str:
        """Its path from the folder that has all that was given."""
        return os.path.relpath(self.path, self.base) if self.base else str(self.path)

    @property
    def person(self) -> str:
        """The short name of what was given on the command line."""
        return os.path.relpath(self.group, self.base) if self.base else self.group

    @cached_property
    def config(self) -> dict:
        """The content of config.json; BadInput is raised if it is not what a run has written."""
        check_config(config := read_config(self.path), "config.json")
        script = config["script"]
        if PureWindowsPath(script).name != script or not script.strip("."):  # "../x" would be executed by --predict
            raise BadInput(f"config.json: script cannot be {printable(repr(script), 60)}")
        return config

    @cached_property
    def history(self) -> list[dict]:
        """The records of the epochs; `Unreadable` is raised if train.json has none."""
        records = self.json("train.json").get("epochs")
        if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
            raise Unreadable("train.json has no records of epochs")
        return records

    @property
    def options(self) -> dict:
        """All options of the run by name."""
        return self.config["options"]

    @property
    def is_labeled(self) -> bool:
        """Whether the test images have labels, as far as the folder tells."""
        return not (self.path / "submission.csv").exists()

    def json(self, name: str) -> dict:
        """Return the object in a JSON file of the run; `Unreadable` is raised if it has none."""
        return read_json(self.path / name)

    def known(self, name: str, key: str) -> object:
        """Return an entry of a JSON file for a table, None where it cannot be read."""
        try:
            return (self.config if name == "config.json" else self.json(name)).get(key)
        except (BadInput, Unreadable):
            return None

    def score(self, name: str, key: str) -> object:
        """Return a score as it was computed from the predictions, None where that could not be."""
        return self.computed.get(name, {}).get(key)


def in_short(names: list[str]) -> str:
    """Return names in one line, of many the first."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


@cache
def code_of_tree() -> str:
    """Return what the code of this tree is known by."""
    return code.code_sha256(code.project_code())


def as_json(content: object) -> object:
    """Return plain values as a JSON file gives them back."""
    return json.loads(json_text({"": content}))[""]


def find_folders(locations: list[str]) -> list[Folder]:
    """Return the run folders at and below each location.

    Among several locations, one that is a file or has no run is a folder with a false claim, so that the others are
    verified; BadInput is raised if it is the only one. What only looked at data or at speed is no run.
    """
    roots = [root for location in locations for root in expand(location)]
    base = _common_folder(roots)
    runs = {root: [one for one in candidates(root) if _is_training(one)] for root in roots}
    if len(roots) == 1 and not runs[roots[0]]:
        raise BadInput(f"{roots[0]}: {_why_none(roots[0])}")
    is_link = {one: not one.resolve().is_relative_to(root.resolve()) for root in runs for one in runs[root]}
    found: dict[Path, Folder] = {}
    pairs = [(root, one) for root in runs for one in runs[root]]
    for root, run in sorted(pairs, key=lambda pair: is_link[pair[1]]):
        found.setdefault(run.resolve(), Folder(run, str(root), base))  # a link takes no run from whose it is
    for root in runs:
        if all(is_link[one] and found[one.resolve()].group != str(root) for one in runs[root]):
            found[root.resolve()] = folder = Folder(root, str(root), base)
            folder.claim(False, "nothing but links to runs of others" if runs[root] else _why_none(root))
    return list(found.values())


def _common_folder(roots: list[Path]) -> str:
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(root)) for root in roots])
    except ValueError:  # on two drives of Windows
        return ""


def _why_none(root: Path) -> str:
    return "there is no run in that folder (no config.json)" if root.is_dir() else "a file: unpack it first"


def _is_training(folder: Path) -> bool:
    return (folder / "train.json").exists() or not any((folder / name).exists() for name in NO_RUNS)
