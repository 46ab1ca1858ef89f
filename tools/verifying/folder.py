"""One run folder as somebody hands it in: its records, and what is found out about each claim in them."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from common.runs.folder import NO_RUNS, read_config
from common.system.errors import BadInput
from common.system.files import Unreadable, json_text, read_json
from common.system.records import check_config
from tools.comparing.finished_runs import candidates

# What becomes of a claim: it is refuted; nothing can be said about it; or it holds, and this should be known besides.
FALSE, UNKNOWN, NOTE = "false", "not checked", "note"


class Refuted(Exception):
    """A claim of the folder is false; the text says which, and what is true."""


class Unknown(Exception):
    """A claim cannot be checked; the text says why."""


@dataclass
class Folder:
    """A run folder, nothing of which is believed.

    Attributes:
        path: of the run. group: what was given on the command line, at or above it: one person's, say.
        findings: pairs (FALSE, UNKNOWN or NOTE; text), as the checks add them. checked: how many claims held or not.
        digests: by which copies among other folders are known, {what: digest}.
    """

    path: Path
    group: str
    findings: list[tuple[str, str]] = field(default_factory=list)
    checked: int = 0
    digests: dict[str, str] = field(default_factory=dict)

    def claim(self, holds: bool, otherwise: str) -> None:
        """Count a claim; what is to be said if it does not hold is `otherwise`."""
        self.checked += 1
        if not holds:
            self.findings.append((FALSE, otherwise))

    def note(self, text: str) -> None:
        """Add what should be known besides."""
        self.findings.append((NOTE, text))

    def of_kind(self, kind: str) -> list[str]:
        """Return the texts of the findings of a kind."""
        return [text for found, text in self.findings if found == kind]

    @property
    def is_as_claimed(self) -> bool:
        """Whether no claim is refuted."""
        return not self.of_kind(FALSE)

    @cached_property
    def config(self) -> dict:
        """The content of config.json; BadInput is raised if it is not what a run has written."""
        check_config(config := read_config(self.path), "config.json")
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


def as_json(content: object) -> object:
    """Return plain values as a JSON file gives them back."""
    return json.loads(json_text({"": content}))[""]


def find_folders(locations: list[str]) -> list[Folder]:
    """Return the run folders at and below each location; BadInput is raised if there is none at one of them.

    What only looked at data or at speed is none.
    """
    found: dict[Path, Folder] = {}
    for location in locations:
        if not Path(location).is_dir():
            raise BadInput(f"{location}: there is no such folder")
        runs = [
            one
            for one in candidates(Path(location))
            if not any((one / name).exists() for name in NO_RUNS) or _has_trained(one)
        ]
        if not runs:
            raise BadInput(f"{location}: there is no run in that folder (no config.json)")
        for run in runs:
            found.setdefault(run.resolve(), Folder(run, location))
    return list(found.values())


def _has_trained(folder: Path) -> bool:
    return (folder / "train.json").exists()
