"""The loop of a search over options: Optuna proposes, processes try, the storage remembers.

Everything that must outlive this process is in the storage, so that the same command continues after any end.
Optuna's own loop, `Study.optimize`, would not do: with several trials at a time it seeds its sampler anew, lets Ctrl-C
wait for the end of all trials, and answers a lost database with tracebacks of its threads.
"""

import platform
import signal
import time
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from common.system.clock import TimeShare
from common.system.errors import BadInput
from common.system.files import first_free
from common.system.log import info, progress, warn
from tools.searching.results import Results, is_refused, mean_of, seed_of, short
from tools.searching.storage import DATABASE_ERRORS, cause_of, proposed_for, try_again
from tools.searching.sweep_file import ALIASES
from tools.searching.trials import Launcher, TrialProcess, run_in

POLL = 0.3  # seconds between two looks at the trials
TABLE_SHARE = 0.02  # of the time of the search, for writing the table of its trials
REFUSED, DIVERGED = 2, 3  # exit codes of trials that would end in the same way again
MOST_REFUSED = 20  # combinations in a row; then there may be none that the program takes
MOST_CRASHES = 3  # of a trial, in as many starts of the search; then it is left


class Search:
    """The loop that keeps trials running, up to `cap`: of all starts of this search and all machines together.

    If it `tests_all` at the end, all trials keep their states until then, else the best alone.
    """

    def __init__(self, results: Results, launcher: Launcher, cap: int, tests_all: bool = False):
        self.results, self.launcher, self.cap, self.tests_all = results, launcher, cap, tests_all
        self._sweep, self._storage = results.sweep, results.storage
        self._metric = ALIASES.get(self._sweep.metric, self._sweep.metric)
        self._running: dict[int, tuple[Trial, TrialProcess]] = {}  # by slot
        self._writing = TimeShare(TABLE_SHARE)
        self._refused_in_a_row = 0

    def run(self) -> None:
        """Try until the cap or the target is reached, here and on all machines that share the storage.

        Interrupted, it ends the running trials, which save their states, and queues them for the next start. A lost
        database or folder raises BadInput.
        """
        self._queue_trials()
        try:
            with progress(self.cap * self._sweep.seeds, self._sweep.name, unit=" trials") as bar:
                while self._step():
                    self._show(bar)
                    time.sleep(POLL)
            if not self.tests_all:
                self.results.remove_states(self._storage.trials())
            self.results.write_table()  # once more: other machines may have ended trials since ours
        except BaseException as error:
            ended, self._running = list(self._running.values()), {}
            for _, process in ended:
                process.end(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
            for _, process in ended:
                process.wait()
            if isinstance(error, DATABASE_ERRORS):
                lost = f"the database is lost ({cause_of(error)}); the same command continues the search"
                raise BadInput(lost) from error
            if isinstance(error, FileNotFoundError):
                lost = f"{error.filename or self.results.folder} has vanished; what was there of the search is lost"
                raise BadInput(lost) from error
            for trial, process in ended:
                self._record(trial, process, is_interrupted=True)
            self.results.write_table()
            info(f"{len(self._storage.trials(TrialState.COMPLETE))} trials are finished; the same command goes on")
            raise

    def test(self, trial: FrozenTrial, which: str = "") -> None:
        """Look at the test images with the best weights of a finished trial, unless that has been done.

        `which` says, for the person, why it is this one.
        """
        folder, name = Path(trial.user_attrs["folder"]), f"trial {trial.number}{which}"
        run = run_in(folder)
        if run is None:
            info(f"{name} is not tested: its run is not here, but in {folder} on {trial.user_attrs['machine']}")
            return
        if not any((run / name).exists() for name in ("test.json", "submission.csv")):
            process = self.launcher.start({}, folder, slot=0, test=True)
            try:
                while process.exit_code is None:
                    time.sleep(POLL)
            except BaseException:
                process.end()
                process.wait()
                raise
            if process.exit_code != 0:
                warn(f"{name} could not be tested: {process.reason()}")
                return
        said = (run / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        about_test = [line for line in said if line.startswith(("test accuracy", "the test images have"))]
        info(f"{name}, on the test images: {about_test[-1]}   {run}")

    def _step(self) -> bool:
        """Look at the running trials, start others in free slots, and tell whether there is anything to wait for."""
        for slot, (trial, process) in list(self._running.items()):
            try:
                if process.exit_code is None:
                    self._report(trial, process)
                else:
                    del self._running[slot]
                    self._record(trial, process)
            except UpdateFinishedTrialError:  # this machine was silent for so long that another one has taken over
                self._running.pop(slot, None)
                process.end()
                process.wait()
        for slot in range(len(self.launcher.slots)):
            if slot not in self._running and self._may_start():
                self._start(slot)
        self._storage.beat([trial for trial, _ in self._running.values()])
        return bool(self._running or self._storage.trials(TrialState.RUNNING) or self._may_start())

    def _may_start(self) -> bool:
        if self.results.is_target_reached():
            return False
        if self._storage.trials(TrialState.WAITING):
            return True
        if self._sweep.method == "grid" or self._refused_in_a_row >= MOST_REFUSED:
            return False
        return len(_proposals(self._storage.trials())) < self.cap

    def _start(self, slot: int) -> None:
        """Start the next trial, unless another machine or a twin of it has made that superfluous."""
        trial = self._storage.ask()
        earlier = [other for other in self._storage.trials() if other.number < trial.number]
        if self._is_surplus(trial, earlier):
            trial.set_user_attr("surplus", True)
            self._storage.study.tell(trial, state=TrialState.FAIL)
            return
        for name, form in self._sweep.searched.items():
            form.suggest(trial, name)
        values = self.results.values_of(self._storage.latest(trial))
        same = [t for t in earlier if self.results.values_of(t) == values]
        for twin in same:
            if twin.state == TrialState.COMPLETE:
                return self._copy(twin, trial)
            if is_refused(twin):
                return self._refuse(trial, {"same_as": twin.number, "reason": twin.user_attrs["reason"]})
        folder = Path(trial.user_attrs.get("folder", ""))
        if "folder" not in trial.user_attrs or not folder.is_dir():  # a new trial, or one of another machine
            # A folder of that number may be left of a search that has been deleted.
            folder = first_free(self.results.folder / "trials", f"{trial.number:04}", Path.mkdir).resolve()
            trial.set_user_attr("folder", str(folder))
        trial.set_user_attr("machine", platform.node())
        self._running[slot] = trial, self.launcher.start(values, folder, slot)

    def _copy(self, twin: FrozenTrial, trial: Trial) -> None:
        """Record for a trial what a finished one with the same options has found."""
        for key in ("folder", "machine", "epochs", "best_epoch", "seconds"):
            trial.set_user_attr(key, twin.user_attrs.get(key))
        trial.set_user_attr("same_as", twin.number)
        self._storage.study.tell(trial, twin.value)
        self._queue_seeds([self._storage.latest(trial)])
        info(f"trial {trial.number}: the same options as trial {twin.number}, which is finished")
        self._write_table()

    def _refuse(self, trial: Trial, facts: dict) -> None:
        """Record that the program does not take these options: no trial, so that another combination is drawn."""
        for key, value in (facts | {"refused": True, "exit_code": REFUSED}).items():
            trial.set_user_attr(key, value)
        self._storage.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        self._refused_in_a_row += 1
        if self._refused_in_a_row == MOST_REFUSED and self._sweep.method != "grid":
            warn(
                f"{MOST_REFUSED} combinations in a row were refused, and no more are drawn; trials.csv has the reasons"
            )

    def _is_surplus(self, trial: Trial, earlier: list[FrozenTrial]) -> bool:
        """Tell whether another machine, at the same moment, has taken the last place or the same point of the grid."""
        if "again" in trial.user_attrs:  # two machines that start together find the same crashed ones
            known = self._storage.study.get_trials(deepcopy=False)[: trial.number]
            return any(other.user_attrs.get("again") == trial.user_attrs["again"] for other in known)
        if seed_of(trial):
            key = (repr(self.results.configuration_of(self._storage.latest(trial))), seed_of(trial))
            return self.results.known_seeds()[key] < trial.number
        if self._sweep.method == "grid":
            point = trial.user_attrs.get("point")
            return point is None or point in [other.user_attrs.get("point") for other in earlier]
        return len(_proposals(earlier)) >= self.cap

    def _report(self, trial: Trial, process: TrialProcess) -> None:
        """Pass on what new epochs have brought, and end a trial that is not among the best at a band."""
        told = self._storage.latest(trial).intermediate_values
        for epoch, value in [pair for pair in self._values(process) if pair[0] not in told]:
            self._refused_in_a_row = self._refused_in_a_row if told else 0
            trial.report(value, epoch)
            may_stop = self._sweep.bands and seed_of(trial) == 0 and "stopped" not in trial.user_attrs
            if may_stop and trial.should_prune():
                trial.set_user_attr("stopped", epoch)
                process.end()

    def _record(self, trial: Trial, process: TrialProcess, is_interrupted: bool = False) -> None:
        """Tell the storage, and the person, how a trial has ended."""
        self._report(trial, process)
        train_json = process.train_json()
        values = [value for _, value in self._values(process)]
        best_epoch, best_value = self._best_of(process)
        facts = {"epochs": len(train_json["epochs"]), "best_epoch": best_epoch}
        facts |= {"seconds": round(train_json.get("train_time", 0), 1), "exit_code": process.exit_code}
        best = None
        if process.exit_code == REFUSED and not (is_interrupted or facts["epochs"] or seed_of(trial)):
            reason = process.reason()
            self._refuse(trial, {"reason": reason})
            info(f"trial {trial.number}: passed over, {reason}   {self._in_words(trial)}")
            return self._write_table()
        if process.exit_code == 0 and values:
            state, best = TrialState.COMPLETE, best_value
            outcome = f"{self._sweep.metric} {best:.4f}"
        elif "stopped" in trial.user_attrs:
            state = TrialState.PRUNED
            outcome = f"stopped early after epoch {trial.user_attrs['stopped']}, {self._sweep.metric} {values[-1]:.4f}"
        else:
            state = TrialState.FAIL
            facts["reason"] = "interrupted with the search" if is_interrupted else process.reason()
            outcome = "interrupted, to be continued" if is_interrupted else f"failed: {facts['reason']}"
        for key, value in facts.items():
            trial.set_user_attr(key, value)
        best_before = self.results.best()
        self._storage.study.tell(trial, best, state, skip_if_finished=True)
        latest = self._storage.latest(trial)
        if is_interrupted and state == TrialState.FAIL:
            try_again(self._storage.study, latest)
        self._queue_seeds([latest])
        info(f"trial {trial.number}: {outcome}   {self._in_words(trial)}")
        if not self.tests_all:
            self.results.remove_states([*self.results.settled(latest), *best_before])
        self._write_table()

    def _in_words(self, trial: Trial) -> str:
        values = self.results.values_of(self._storage.latest(trial))
        return " ".join(f"{name}={short(value)}" for name, value in values.items())

    def _write_table(self) -> None:
        """Write the table of all trials, but spend no more than a share of the time on it: it grows with every one."""
        if self._writing.is_left():
            with self._writing.spending():
                self.results.write_table()

    def _values(self, process: TrialProcess) -> list[tuple[int, float]]:
        """Return (epoch, value of the metric) of all epochs so far."""
        records = process.train_json()["epochs"]
        return [(r["epoch"], r[self._metric]) for r in records if r.get(self._metric) is not None]

    def _best_of(self, process: TrialProcess) -> tuple[int | None, float | None]:
        """Return the epoch with the best value of the metric, the earliest of equals, and that value."""
        sign = -1 if self._sweep.maximize else 1
        return min(self._values(process), key=lambda pair: sign * pair[1], default=(None, None))

    def _queue_trials(self) -> None:
        """Queue the grid, and once more those that crashed before; refused and diverged ones would end alike."""
        for trial in self._storage.trials(TrialState.FAIL):
            crashes = trial.user_attrs.get("crashes", 0) + 1
            if trial.user_attrs.get("exit_code") not in (REFUSED, DIVERGED) and crashes < MOST_CRASHES:
                try_again(self._storage.study, trial, crashes)
        self._queue_seeds(self._storage.trials(TrialState.COMPLETE))
        queued = {trial.user_attrs.get("point") for trial in self._storage.trials()}
        for point in range(min(self.cap, self._sweep.grid_size())) if self._sweep.method == "grid" else ():
            if point not in queued:
                self._storage.study.enqueue_trial(self._sweep.grid_point(point), user_attrs={"point": point})

    def _queue_seeds(self, trials: list[FrozenTrial]) -> None:
        """Queue the other seeds of those configurations of `trials` whose first one has come to its end."""
        if self._sweep.seeds == 1:
            return
        known = self.results.known_seeds()
        for trial in trials:
            for seed in range(self._sweep.seeds) if trial.state == TrialState.COMPLETE else ():
                key = (repr(self.results.configuration_of(trial)), seed)
                if key not in known:
                    known[key] = None
                    self._storage.study.enqueue_trial(proposed_for(trial), user_attrs={"seed": seed})

    def _show(self, bar) -> None:
        ended = [trial for trial in self._storage.trials() if trial.state.is_finished()]
        bar.update(sum(self._sweep.method == "grid" or not is_refused(trial) for trial in ended) - bar.n)
        best = self.results.best()
        facts = {f"best {self._sweep.metric}": f"{mean_of(best):.4f}"} if best else {}
        for trial, process in self._running.values():
            facts[f"trial {trial.number}"] = f"epoch {len(process.train_json()['epochs']) + 1}"
        bar.set_postfix(facts)


def _proposals(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that are the first of their configuration, which the program has not refused."""
    return [trial for trial in trials if seed_of(trial) == 0 and not is_refused(trial)]
