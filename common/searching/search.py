"""A search over options: Optuna proposes, processes try, the storage remembers.

Everything that must outlive this process is in the storage, so that the same command continues after any end.
"""

import contextlib
import itertools
import os
import platform
import signal
import time
import zlib
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from common.searching.storage import Storage, try_again
from common.searching.sweep_file import ALIASES, Sweep
from common.searching.trials import Launcher, TrialProcess, run_in
from common.system.errors import BadInput
from common.system.files import write_table
from common.system.log import complain, progress, say

STATES = {
    TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip
POLL = 0.3  # seconds between two looks at the trials
REFUSED, DIVERGED = 2, 3  # exit codes of trials that would end in the same way again
MOST_CRASHES = 3  # of a trial, in as many starts of the search; then it is left


class Bands(optuna.pruners.BasePruner):
    """Hyperband's successive halving as W&B does it (Li et al., 2018): of those at a band all but the best 1 / eta end.

    The threshold is taken from the values at the band of all trials that have got there, and is compared, after
    every epoch, with the best value of a trial so far, or if `is_strict` with its value at the band.

    Args:
        bands: increasing epochs. eta: one trial of so many goes on.
    """

    def __init__(self, bands: list[int], eta: float, is_strict: bool = False):
        self.bands, self.eta, self.is_strict = bands, eta, is_strict

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether `trial` is worse than the threshold of the last band that it has reached."""
        mine = trial.intermediate_values
        reached = [band for band in self.bands if band in mine]
        if not reached:
            return False
        sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        states = (TrialState.RUNNING, TrialState.PRUNED, TrialState.COMPLETE)
        others = [other.intermediate_values for other in study.get_trials(deepcopy=False, states=states)]
        values = sorted(sign * values[reached[-1]] for values in others if reached[-1] in values)
        value = sign * mine[reached[-1]] if self.is_strict else min(sign * value for value in mine.values())
        return value > values[int(len(values) / self.eta)]


def sampler_for(method: str, bayes: str, seed: int, storage: Storage) -> optuna.samplers.BaseSampler:
    """Return what proposes trials; it goes on from where an earlier start of the same search has ended.

    Args:
        bayes: "tpe" (Bergstra et al., 2011) or "gp", a Gaussian process.
    """
    key = f"{seed} {len(storage.study.get_trials(deepcopy=False))}"
    if storage.is_shared:
        key += f" {platform.node()} {os.getpid()}"  # machines that begin together must not propose the same
    number = zlib.crc32(key.encode())
    if method != "bayes":
        return optuna.samplers.RandomSampler(seed=number)
    return optuna.samplers.GPSampler(seed=number) if bayes == "gp" else optuna.samplers.TPESampler(seed=number)


class Search:
    """The loop that keeps trials running.

    Args:
        folder: of the sweep; trial N works in trials/<N>/ of it.
        cap: number of trials, all starts of this search and all machines together.
    """

    def __init__(self, sweep: Sweep, storage: Storage, launcher: Launcher, folder: Path, cap: int):
        self.sweep, self.storage, self.launcher, self.folder, self.cap = sweep, storage, launcher, folder, cap
        self._metric = ALIASES.get(sweep.metric, sweep.metric)
        self._running: dict[int, tuple[Trial, TrialProcess]] = {}  # by slot

    def run(self) -> None:
        """Try until the cap or the target is reached, here and on all machines that share the storage.

        Interrupted, it ends the running trials, which save their states, and queues them for the next start.

        Raises:
            BadInput: the database is lost.
        """
        from sqlalchemy.exc import SQLAlchemyError

        self._queue_broken_trials()
        if self.sweep.method == "grid":
            self._queue_grid()
        try:
            with progress(self.cap, self.sweep.name, unit=" trials") as bar:
                while self._step():
                    self._show(bar)
                    time.sleep(POLL)
            self.write_table()  # once more: other machines may have ended trials since ours
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            self._end_running(signal.SIGTERM)
            cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise BadInput(f"the database is lost ({cause}); the same command continues the search") from error
        except FileNotFoundError as error:
            self._end_running(signal.SIGTERM)
            raise BadInput(
                f"{error.filename or self.folder} has vanished; what was there of the search is lost"
            ) from error
        except BaseException as error:
            ended = self._end_running(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
            for trial, process in ended:
                self._record(trial, process, is_interrupted=True)
            say(f"{len(self.storage.trials(TrialState.COMPLETE))} trials are finished; the same command goes on")
            raise

    def _step(self) -> bool:
        """Look at the running trials, start others in free slots, and tell whether there is anything to wait for."""
        for slot, (trial, process) in list(self._running.items()):
            if process.exit_code is None:
                self._report(trial, process)
            else:
                del self._running[slot]
                self._record(trial, process)
        for slot in range(len(self.launcher.slots)):
            if slot not in self._running and self._may_start():
                self._start(slot)
        self.storage.beat([trial for trial, _ in self._running.values()])
        return bool(self._running) or bool(self.storage.trials(TrialState.RUNNING)) or self._may_start()

    def is_target_reached(self) -> bool:
        """Tell whether a finished trial is as good as the sweep file asks for."""
        best, target = self.storage.best(), self.sweep.target
        if best is None or target is None:
            return False
        return best.value >= target if self.sweep.maximize else best.value <= target

    def _may_start(self) -> bool:
        if self.is_target_reached():
            return False
        if self.storage.trials(TrialState.WAITING):
            return True
        return self.sweep.method != "grid" and len(self.storage.trials()) < self.cap

    def _start(self, slot: int) -> None:
        trial = self.storage.ask()
        earlier = [other for other in self.storage.trials() if other.number < trial.number]
        if self._is_surplus(trial, earlier):
            trial.set_user_attr("surplus", True)
            self.storage.study.tell(trial, state=TrialState.FAIL)
            return
        proposed = {name: parameter.suggest(trial, name) for name, parameter in self.sweep.parameters.items()}
        values = {name: parameter.value(proposed[name]) for name, parameter in self.sweep.parameters.items()}
        twin = next((t for t in earlier if t.state == TrialState.COMPLETE and self.values_of(t) == values), None)
        if twin is not None:
            for key in ("folder", "machine", "epochs", "best_epoch", "seconds"):
                trial.set_user_attr(key, twin.user_attrs.get(key))
            trial.set_user_attr("same_as", twin.number)
            self.storage.study.tell(trial, twin.value)
            say(f"trial {trial.number}: the same options as trial {twin.number}, which is finished")
            self.write_table()
            return
        folder = Path(trial.user_attrs.get("folder", ""))
        if "folder" not in trial.user_attrs or not folder.is_dir():  # a new trial, or one of another machine
            folder = self._new_folder(trial.number)
            trial.set_user_attr("folder", str(folder))
        trial.set_user_attr("machine", platform.node())
        self._running[slot] = trial, self.launcher.start(values, folder, slot)

    def _new_folder(self, number: int) -> Path:
        """Make a folder for a trial; one of that number may be left of a search that has been deleted."""
        for count in itertools.count(1):
            folder = self.folder / "trials" / (f"{number:04}" if count == 1 else f"{number:04}-{count}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                return folder.resolve()

    def _is_surplus(self, trial: Trial, earlier: list[FrozenTrial]) -> bool:
        """Tell whether another machine, at the same moment, has taken the last place or the same point of the grid."""
        if "again" in trial.user_attrs:
            return False
        if self.sweep.method == "grid":
            point = trial.user_attrs.get("point")
            return point is None or point in [other.user_attrs.get("point") for other in earlier]
        return len(earlier) >= self.cap

    def values_of(self, trial: FrozenTrial) -> dict:
        """Return the options that a trial has tried or will try, {} if it was cut off before it had any."""
        parameters = self.sweep.parameters
        proposed = trial.params or trial.system_attrs.get("fixed_params", {})
        if not all(name in proposed or parameter.count() == 1 for name, parameter in parameters.items()):
            return {}
        return {name: parameter.value(proposed.get(name)) for name, parameter in parameters.items()}

    def write_table(self) -> None:
        """Write `trials.csv`: a row for each trial, with its options, its best value and what became of it."""
        names = list(self.sweep.parameters)
        facts = ("best_epoch", "epochs", "seconds", "same_as", "folder", "machine", "reason")
        rows = [("trial", "state", self.sweep.metric, *names, *facts)]
        for trial in self.storage.trials():
            values = self.values_of(trial)
            value = trial.value if trial.state == TrialState.COMPLETE else None
            known = [trial.user_attrs.get(fact) for fact in facts]
            rows.append((trial.number, STATES[trial.state], value, *(values.get(name) for name in names), *known))
        write_table(self.folder / "trials.csv", [["" if cell is None else cell for cell in row] for row in rows])

    def _report(self, trial: Trial, process: TrialProcess) -> None:
        """Pass on what new epochs have brought, and end a trial that is not among the best at a band."""
        told = self._frozen(trial).intermediate_values
        for epoch, value in self._values(process):
            if epoch in told:
                continue
            trial.report(value, epoch)
            if self.sweep.bands and "stopped" not in trial.user_attrs and trial.should_prune():
                trial.set_user_attr("stopped", epoch)
                process.end()

    def _record(self, trial: Trial, process: TrialProcess, is_interrupted: bool = False) -> None:
        """Tell the storage, and the person, how a trial has ended."""
        self._report(trial, process)
        train_json = process.train_json()
        values = [value for _, value in self._values(process)]
        study, attributes = self.storage.study, trial.user_attrs
        facts = {"epochs": len(train_json["epochs"]), "best_epoch": train_json.get("best_epoch")}
        facts |= {"seconds": round(train_json.get("train_time", 0), 1), "exit_code": process.exit_code}
        for key, value in facts.items():
            trial.set_user_attr(key, value)
        if process.exit_code == 0 and values:
            best = (max if self.sweep.maximize else min)(values)
            study.tell(trial, best, skip_if_finished=True)
            outcome = f"{self.sweep.metric} {best:.4f}"
        elif "stopped" in attributes:
            study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
            outcome = f"stopped early after epoch {attributes['stopped']}, {self.sweep.metric} {values[-1]:.4f}"
        else:
            reason = "interrupted with the search" if is_interrupted else process.reason()
            trial.set_user_attr("reason", reason)
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            outcome = "interrupted, to be continued" if is_interrupted else f"failed: {reason}"
            if is_interrupted:
                try_again(study, self._frozen(trial))
        shown = self.values_of(self._frozen(trial))
        words = [
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in shown.items()
        ]
        say(f"trial {trial.number}: {outcome}   {' '.join(words)}")
        self._remove_states()
        self.write_table()

    def _remove_states(self) -> None:
        """Remove what ended trials would need to go on, gigabytes with a large network; the best keeps all it has."""
        best = self.storage.best()
        for trial in self.storage.trials(TrialState.COMPLETE, TrialState.PRUNED):
            run = run_in(Path(trial.user_attrs["folder"]))
            if run and (best is None or trial.user_attrs["folder"] != best.user_attrs["folder"]):
                for pattern in ("last.pth", "previous.pth", "epoch-*.pth"):
                    for path in run.glob(pattern):
                        path.unlink(missing_ok=True)

    def _values(self, process: TrialProcess) -> list[tuple[int, float]]:
        """Return (epoch, value of the metric) of all epochs so far."""
        records = process.train_json()["epochs"]
        return [(r["epoch"], r[self._metric]) for r in records if r.get(self._metric) is not None]

    def _end_running(self, number: signal.Signals) -> list[tuple[Trial, TrialProcess]]:
        """End all trials under way and return them."""
        ended = list(self._running.values())
        self._running.clear()
        for _, process in ended:
            process.end(number)
        for _, process in ended:
            process.wait()
        return ended

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return next(t for t in self.storage.study.get_trials(deepcopy=False) if t.number == trial.number)

    def _queue_broken_trials(self) -> None:
        """Queue trials that crashed in an earlier start once more; refused and diverged ones would end alike."""
        for trial in self.storage.trials(TrialState.FAIL):
            crashes = trial.user_attrs.get("crashes", 0) + 1
            if trial.user_attrs.get("exit_code") not in (REFUSED, DIVERGED) and crashes < MOST_CRASHES:
                try_again(self.storage.study, trial, crashes)

    def _queue_grid(self) -> None:
        queued = {trial.user_attrs.get("point") for trial in self.storage.trials()}
        names = [name for name, parameter in self.sweep.parameters.items() if parameter.count() > 1]
        for point in range(min(self.cap, self.sweep.grid_size())):
            if point not in queued:
                values = self.sweep.grid_point(point)
                chosen = {name: values[name] for name in names}
                self.storage.study.enqueue_trial(chosen, user_attrs={"point": point})

    def _show(self, bar) -> None:
        ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        bar.update(len(self.storage.trials(*ended)) - bar.n)
        best = self.storage.best()
        facts = {f"best {self.sweep.metric}": f"{best.value:.4f}"} if best else {}
        for trial, process in self._running.values():
            facts[f"trial {trial.number}"] = f"epoch {len(process.train_json()['epochs']) + 1}"
        bar.set_postfix(facts)


def test_best_trial(search: Search) -> None:
    """Look at the test images with the best weights of the best trial, unless that has been done."""
    best = search.storage.best()
    folder = Path(best.user_attrs["folder"])
    run = run_in(folder)
    if run is None:
        here = best.user_attrs["machine"] == platform.node()
        place = "is not there any more" if here else f"is on {best.user_attrs['machine']}: test it there"
        say(f"the best trial, {best.number}, is not tested: {folder} {place}")
        return
    results = (run / "test.json", run / "submission.csv")
    if not any(path.exists() for path in results):
        process = search.launcher.start_test(run, folder)
        try:
            while process.exit_code is None:
                time.sleep(POLL)
        except BaseException:
            process.end()
            process.wait()
            raise
        if process.exit_code != 0:
            complain(f"the best trial, {best.number}, could not be tested: {process.reason()}")
            return
    said = (run / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    about_test = [line for line in said if line.startswith(("test accuracy", "the test images have"))]
    say(f"trial {best.number}, the best on validation images, on the test images: {about_test[-1]}   {run}")


test_best_trial.__test__ = False  # its name is no invitation to pytest
