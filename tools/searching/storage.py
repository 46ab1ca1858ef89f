"""Where a search remembers its trials: a file of its own, or a database that several machines share."""

import contextlib
import functools
import json
import os
import random
import re
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from common.runs.folder import lock
from common.system.errors import DISK_FULL, BadInput
from common.system.log import log_to, stop_log
from tools.outputs import check_writable
from tools.searching.spaces import sign_of
from tools.searching.sweep_file import Sweep

JOURNAL = "search.journal"
CONNECTING_TRIES = 5  # several machines that begin at once can be in each other's way while they make the tables
HEARTBEATS = 4  # in the time after which a silent machine is taken for lost
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)


class Storage:
    """The trials of one search: Optuna's `study` of them, and whether other machines may work on it too."""

    def __init__(self, study: optuna.Study, database: RDBStorage | None = None):
        self.study, self.is_shared, self.sign = study, database is not None, sign_of(study)
        self._database, self._next_beat = database, 0.0
        self._seen: list[FrozenTrial] = []  # at the last look, and those of them that count
        self._counted: list[FrozenTrial] = []

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials that count, in the order of their numbers: without those that are tried again."""
        trials = self.study.get_trials(deepcopy=False)
        if trials != self._seen:  # Optuna makes another object of a trial that changes, so this costs next to nothing
            again = {trial.user_attrs.get("again") for trial in trials}
            counted = [t for t in trials if t.number not in again and "surplus" not in t.user_attrs]
            self._seen, self._counted = trials, counted
        return [trial for trial in self._counted if not states or trial.state in states]

    def latest(self, trial: Trial) -> FrozenTrial:
        """Return what is known of a trial by now."""
        return self.study.get_trials(deepcopy=False)[trial.number]

    def check_same_search(self, sweep: Sweep, program: str, fixed: list[str]) -> None:
        """Raise BadInput if the trials so far are of another search; remember which this is."""
        mine = {
            "parameters": repr(sweep.parameters) + repr(sweep.points or ""),
            "metric": [sweep.metric, sweep.maximize],
            "program": program,
            "options after --": fixed,
            "command": sweep.command,
            "method": "grid" if sweep.method == "grid" else "random or bayes",
        }
        begun = self.study.user_attrs.get("search", mine)
        for key, value in mine.items():
            if begun.get(key) != value:
                raise BadInput(f"the search {self.study.study_name} began with another {key}; give this one a --name")
        self.study.set_user_attr("search", mine)

    def ask(self) -> Trial:
        """Return the next waiting trial, or a new one."""
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # heartbeats are not for `ask`; see `beat`
            trial = self.study.ask()
        self._record_heartbeat(trial)
        return trial

    def beat(self, trials: list[Trial]) -> None:
        """Tell other machines, now and then, that the running `trials` are alive, and see to theirs."""
        if self._database is None or time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + self._database.get_heartbeat_interval()
        for trial in trials:
            self._record_heartbeat(trial)
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            optuna.storages.fail_stale_trials(self.study)

    def _record_heartbeat(self, trial: Trial) -> None:
        """Do what Optuna does by itself only in `Study.optimize`."""
        if self._database is not None:
            study_id = self._database.get_study_id_from_name(self.study.study_name)
            trial_id = self._database.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            self._database.record_heartbeat(trial_id)


@contextlib.contextmanager
def open_search_folder(output_dir: str, name: str, is_alone: bool) -> Iterator[Path]:
    """Make the folder of a search, keep its log, and if it `is_alone` keep others out, or raise BadInput."""
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100]
    if not safe:
        raise BadInput(f"--name {name!r} can be no folder: it needs letters or digits")
    folder = Path(output_dir) / "sweeps" / safe
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output_dir: {error.filename} cannot be made ({error.strerror})") from error
    for name in ("trials.csv", "best.yaml"):
        check_writable(folder / name, f"--output_dir: {folder / name}")
    with lock(folder) if is_alone else contextlib.nullcontext():
        log_to(folder / "log.txt")
        yield folder
        stop_log()  # with an error the log stays open for the line that says what happened


def try_again(study: optuna.Study, trial: FrozenTrial, crashes: int = 0) -> None:
    """Queue a trial that did not come to its end once more; it goes on in the same folder, if that is at hand.

    It has crashed so often; to be cut off with the search is no crash.
    """
    kept = {key: trial.user_attrs[key] for key in ("folder", "point", "seed") if key in trial.user_attrs}
    study.enqueue_trial(proposed_for(trial), user_attrs=kept | {"again": trial.number, "crashes": crashes})


def proposed_for(trial: FrozenTrial) -> dict:
    """Return the parameters of a trial, as far as they are known: some if the search was killed while it drew them."""
    return trial.system_attrs.get("fixed_params", {}) | trial.params


def open_storage(url: str | None, folder: Path, name: str, maximize: bool, dead_after: int) -> Storage:
    """Return the storage of the search `name`, new or begun before; raise BadInput if it cannot be read or reached.

    Without the `url` of a database it is a file in `folder`, which the caller must have locked. After `dead_after`
    seconds of silence another machine's trial is taken for lost.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction = "maximize" if maximize else "minimize"
    study_in = functools.partial(optuna.create_study, study_name=name, direction=direction, load_if_exists=True)
    if url is not None:
        return _connect(_with_driver(url), dead_after, study_in)
    try:
        study = study_in(storage=JournalStorage(_Journal(folder / JOURNAL)))
    except (BadInput, OSError, MemoryError):
        raise
    except Exception as error:  # Optuna believes what a journal says, and those of earlier versions have no checksums
        raise _damage(folder / JOURNAL, f"({type(error).__name__} in it)") from error
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # of a search that was killed
        study.tell(trial.number, state=TrialState.FAIL)
        try_again(study, trial)
    return Storage(study)


class _Journal(JournalFileBackend):
    """Optuna's journal, which a line that was cut off would make unreadable: such a line is taken away."""

    def __init__(self, path: Path):
        self._path = path
        try:
            # Whoever held Optuna's own lock is dead: the folder is locked by us.
            path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
            path.touch()
            _remove_torn_line(path)
            super().__init__(str(path))
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise BadInput(f"{path} cannot be used ({error.strerror})") from error

    def append_logs(self, logs: list[dict]) -> None:
        """Append whole lines or nothing, each with a checksum, which Optuna does not look at."""
        size = self._path.stat().st_size
        try:
            super().append_logs([log | {"crc32": _checksum(log)} for log in logs])
        except OSError:
            os.truncate(self._path, size)
            raise


def _remove_torn_line(path: Path) -> None:
    """Take away a last line that is cut off; damage of any other raises BadInput."""
    content = path.read_bytes()
    lines, has_checksum = content.splitlines(keepends=True), False
    for number, line in enumerate(lines, 1):
        log = None
        with contextlib.suppress(ValueError, RecursionError):
            log = json.loads(line)
        is_whole = isinstance(log, dict) and line.endswith(b"\n")
        if not is_whole and number == len(lines) and not line.endswith(b"}\n"):
            os.truncate(path, len(content) - len(line))
        # Once there is one, all later lines have one too: else damage of its name would hide other damage.
        elif not is_whole or log.get("crc32", None if has_checksum else _checksum(log)) != _checksum(log):
            raise _damage(path, f"in line {number}")
        else:
            has_checksum = "crc32" in log


def _checksum(log: dict) -> int:
    return zlib.crc32(json.dumps({name: value for name, value in log.items() if name != "crc32"}).encode())


def _damage(path: Path, where: str) -> BadInput:
    return BadInput(f"{path} is damaged {where}; start under another --name")


def _with_driver(url: str) -> str:
    """Return `url` with the PostgreSQL driver that requirements-extras.txt names, unless it has one."""
    return re.sub("^postgres(ql)?://", "postgresql+psycopg://", url)


def _connect(url: str, dead_after: int, study_in: Callable[..., optuna.Study]) -> Storage:
    shown, password = "--storage", None
    for left in reversed(range(CONNECTING_TRIES)):
        try:
            parts = make_url(url)
            shown, password = f"--storage {parts.render_as_string(hide_password=True)}", parts.password
            with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
                database = RDBStorage(
                    url, heartbeat_interval=max(1, dead_after // HEARTBEATS), grace_period=dead_after,
                    heartbeat_stale_trial_callback=try_again,
                )  # fmt: skip
            return Storage(study_in(storage=database), database)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise BadInput(f"{shown} is no URL of a database, such as postgresql://user@host/name") from error
        except ImportError as error:
            missing = error.name or "its driver"
            raise BadInput(f"{shown}: {missing} is not installed; pip install -r requirements-extras.txt") from error
        except (*DATABASE_ERRORS, RuntimeError) as error:
            if not left:
                raise BadInput(f"{shown} cannot be used ({cause_of(error, password)})") from error
            time.sleep(random.uniform(0.2, 1))


def cause_of(error: Exception, password: str | None = None) -> str:
    """Return, in one line and without the password, what a database or its driver has complained of."""
    origin = error.__cause__ or error  # Optuna's own text says less
    cause = str(getattr(origin, "orig", None) or origin).strip().splitlines()[0]
    return cause.replace(password, "…") if password else cause
