"""Where a search remembers its trials: a file of its own, or a database that several machines share."""

import contextlib
import json
import os
import random
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from common.runs.folder import lock
from common.searching.sweep_file import Sweep
from common.system.errors import DISK_FULL, BadInput
from common.system.files import check_writable
from common.system.log import log_to, stop_log

JOURNAL = "search.journal"
CONNECTING_TRIES = 5  # several machines that begin at once can be in each other's way while they make the tables
HEARTBEATS = 4  # in the time after which a silent machine is taken for lost


class Storage:
    """The trials of one search.

    Attributes:
        study: Optuna's view of them. is_shared: whether other machines may work on the same search.
    """

    def __init__(self, study: optuna.Study, database: RDBStorage | None = None):
        self.study, self.is_shared = study, database is not None
        self._database = database
        self._next_beat = 0.0

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials that count, in the order of their numbers: without those that are tried again."""
        trials = self.study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("again") for trial in trials}
        counted = [t for t in trials if t.number not in again and "surplus" not in t.user_attrs]
        return [trial for trial in counted if not states or trial.state in states]

    def best(self) -> FrozenTrial | None:
        """Return the finished trial with the best value, the earliest of equals."""
        finished = self.trials(TrialState.COMPLETE)
        sign = -1 if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        return min(finished, key=lambda trial: sign * trial.value, default=None)

    def check_same_search(self, sweep: Sweep, program: str, fixed: list[str]) -> None:
        """Make sure that the trials so far are of this very search, and remember which it is.

        Raises:
            BadInput: they are of another one.
        """
        mine = {
            "parameters": repr(sweep.parameters),
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

    def beat(self, trials: list[Trial]) -> None:
        """Tell other machines, now and then, that the running `trials` are alive, and see to theirs."""
        if self._database is None or time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + self._database.get_heartbeat_interval()
        for trial in trials:
            self._database.record_heartbeat(trial._trial_id)  # Optuna does so by itself only in `Study.optimize`
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)

    def ask(self) -> Trial:
        """Return the next waiting trial, or a new one."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that heartbeats are not for `ask`; see `beat`
            trial = self.study.ask()
        if self._database is not None:
            self._database.record_heartbeat(trial._trial_id)
        return trial


@contextlib.contextmanager
def open_search_folder(output_dir: str, name: str, is_alone: bool) -> Iterator[Path]:
    """Make the folder of a search, keep its log, and if it `is_alone` keep others out.

    Raises:
        BadInput: another process has it, or it cannot be made.
    """
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100]
    if not safe:
        raise BadInput(f"--name {name!r} can be no folder: it needs letters or digits")
    folder = Path(output_dir) / "sweeps" / safe
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output_dir: {folder} cannot be made ({error.strerror})") from error
    for name in ("trials.csv", "best.yaml"):
        check_writable(folder / name, f"--output_dir: {folder / name}")
    if (folder / "trials").exists() and not (folder / "trials").is_dir():
        raise BadInput(f"--output_dir: {folder / 'trials'} is in the way; it is no folder")
    with lock(folder) if is_alone else contextlib.nullcontext():
        log_to(folder / "log.txt")
        yield folder
        stop_log()  # with an error the log stays open for the line that says what happened


def try_again(study: optuna.Study, trial: FrozenTrial, crashes: int = 0) -> None:
    """Queue a trial that did not come to its end once more; it goes on in the same folder, if that is at hand.

    Args:
        crashes: how often it has crashed; to be cut off with the search is no crash.
    """
    kept = {key: trial.user_attrs[key] for key in ("folder", "point") if key in trial.user_attrs}
    # A search that was killed while it drew has drawn some values only, but a queued trial knows all from the queue.
    proposed = trial.system_attrs.get("fixed_params", {}) | trial.params
    study.enqueue_trial(proposed, user_attrs=kept | {"again": trial.number, "crashes": crashes})


def open_storage(url: str | None, folder: Path, name: str, maximize: bool, dead_after: int) -> Storage:
    """Return the storage of the search `name`, new or begun before.

    Args:
        url: of a database; by default a file in `folder`, which the caller must have locked.
        dead_after: seconds of silence after which another machine's trial is taken for lost.

    Raises:
        BadInput: the file is damaged, or the database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction = "maximize" if maximize else "minimize"
    if url is None:
        storage = JournalStorage(_Journal(folder / JOURNAL))
        study = _study(storage, name, direction)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # of a search that was killed
            study.tell(trial.number, state=TrialState.FAIL)
            try_again(study, trial)
        return Storage(study)
    database = _connect(_with_driver(url), name, direction, dead_after)
    return Storage(_study(database, name, direction), database)


def _study(storage, name: str, direction: str) -> optuna.Study:
    with contextlib.suppress(DuplicatedStudyError):
        return optuna.create_study(storage=storage, study_name=name, direction=direction)
    return optuna.load_study(storage=storage, study_name=name)


class _Journal(JournalFileBackend):
    """Optuna's journal, which a line that was cut off would make unreadable: such a line is taken away.

    Raises:
        BadInput: other lines are damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            # Whoever held Optuna's own lock is dead: the folder is locked by us.
            (path.with_name(f"{path.name}.lock")).unlink(missing_ok=True)
            if path.exists():
                _remove_torn_line(path)
            super().__init__(str(path))
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise BadInput(f"{path} cannot be used ({error.strerror})") from error

    def append_logs(self, logs: list[dict]) -> None:
        """Append whole lines or nothing."""
        size = self._path.stat().st_size
        try:
            super().append_logs(logs)
        except OSError:
            os.truncate(self._path, size)
            raise


def _remove_torn_line(path: Path) -> None:
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            if not line.endswith(b"\n") or not isinstance(json.loads(line), dict):
                raise ValueError
        except ValueError:
            if number < len(lines):
                raise BadInput(f"{path} is damaged in line {number}; start under another --name") from None
            os.truncate(path, len(content) - len(line))


def _with_driver(url: str) -> str:
    """Return `url` with the PostgreSQL driver that requirements-extras.txt names, unless it has one."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if separator and scheme in ("postgres", "postgresql") else url


def _connect(url: str, name: str, direction: str, dead_after: int) -> RDBStorage:
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    shown = _without_password(url)
    for left in reversed(range(CONNECTING_TRIES)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                database = RDBStorage(
                    url, heartbeat_interval=max(1, dead_after // HEARTBEATS), grace_period=dead_after,
                    heartbeat_stale_trial_callback=try_again,
                )  # fmt: skip
            _study(database, name, direction)
            return database
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise BadInput(f"--storage {shown} is no URL of a database, such as postgresql://user@host/name") from error
        except ImportError as error:
            raise BadInput(f"--storage {shown}: {error.name or 'its driver'} is not installed; "
                           "pip install -r requirements-extras.txt") from error  # fmt: skip
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            if not left:
                cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
                raise BadInput(f"--storage {shown} cannot be used ({_hide(cause, url)})") from error
            time.sleep(random.uniform(0.2, 1))


def _without_password(url: str) -> str:
    return _hide(url, url)


def _hide(text: str, url: str) -> str:
    """Return `text` without the password of `url`."""
    try:
        password = urlsplit(url).password
    except ValueError:
        return "given"
    return text.replace(password, "…") if password else text
