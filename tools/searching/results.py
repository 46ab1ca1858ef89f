"""What a search has found: a table of all trials, the best on the terminal and as a file for --config."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import yaml
from optuna.trial import FrozenTrial, TrialState

from common.system.files import write_bytes, write_table
from common.system.log import info
from common.system.text import printable
from tools.searching.storage import Storage, proposed_for
from tools.searching.sweep_file import Sweep

STATES = {
    TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip
REFUSED = "refused"  # by the program before it trained: such a combination is no trial
SHOWN = 10  # trials in the table on the terminal


@dataclass(frozen=True)
class Results:
    """What is known of a search, and its files in its `folder`."""

    sweep: Sweep
    storage: Storage
    folder: Path
    # So that a search of many trials does not cost their square: what is asked of all trials whenever one ends.
    _configurations: dict[int, dict] = field(default_factory=dict)  # of ended trials, by number
    _groups: dict[int, list[list[FrozenTrial]]] = field(default_factory=dict)  # the last, by its finished trials

    def configuration_of(self, trial: FrozenTrial) -> dict:
        """Return the options that a trial tries, all but the seed, {} if it was cut off before it had any."""
        if not trial.state.is_finished():
            return self.sweep.values(proposed_for(trial))
        if trial.number not in self._configurations:
            self._configurations[trial.number] = self.sweep.values(proposed_for(trial))
        return self._configurations[trial.number]

    def values_of(self, trial: FrozenTrial) -> dict:
        """Return the options that a trial has tried or will try, {} if it was cut off before it had any."""
        values = self.configuration_of(trial)
        return values | {"seed": seed_of(trial)} if values and self.sweep.seeds > 1 else values

    def known_seeds(self) -> dict[tuple[str, int], int]:
        """Return {(configuration, seed): number of the first trial of it}, in whatever state the trials are."""
        trials = reversed(self.storage.trials())
        return {(repr(self.configuration_of(trial)), seed_of(trial)): trial.number for trial in trials}

    def groups(self) -> list[list[FrozenTrial]]:
        """Return the finished trials of each configuration that has all its seeds, the best mean first."""
        finished = self.storage.trials(TrialState.COMPLETE)
        if len(finished) not in self._groups:
            self._groups.clear()
            self._groups[len(finished)] = self._grouped(finished)
        return self._groups[len(finished)]

    def _grouped(self, finished: list[FrozenTrial]) -> list[list[FrozenTrial]]:
        members = defaultdict(dict)
        for trial in finished:
            key = repr(self.configuration_of(trial))
            members[key].setdefault(seed_of(trial), trial)
        groups = [[of_seed[s] for s in sorted(of_seed) if s < self.sweep.seeds] for of_seed in members.values()]
        whole = [group for group in groups if len(group) == self.sweep.seeds]
        return sorted(whole, key=lambda group: self.storage.sign * mean_of(group))

    def best(self) -> list[FrozenTrial]:
        """Return the trials of the best configuration, one for each seed: never the luckiest seed. [] if none is."""
        return next(iter(self.groups()), [])

    def is_target_reached(self) -> bool:
        """Tell whether a configuration is as good as the sweep file asks for."""
        best, target, sign = self.best(), self.sweep.target, self.storage.sign
        return bool(best) and target is not None and sign * mean_of(best) <= sign * target

    def write_table(self) -> None:
        """Write `trials.csv`: a row for each trial, with its options, its best value and what became of it."""
        names = [*self.sweep.parameters, *(["seed"] if self.sweep.seeds > 1 else [])]
        facts = ("best_epoch", "epochs", "seconds", "same_as", "folder", "machine", "reason")
        rows = [("trial", "state", self.sweep.metric, *names, *facts)]
        for trial in self.storage.trials():
            values = self.values_of(trial)
            value = trial.value if trial.state == TrialState.COMPLETE else None
            cells = [*map(values.get, names), *map(trial.user_attrs.get, facts)]
            rows.append((trial.number, state_of(trial), value, *cells))
        write_table(self.folder / "trials.csv", rows)

    def settled(self, trial: FrozenTrial) -> list[FrozenTrial]:
        """Return the trials of which an ended `trial` makes sure that no seed of theirs is to come any more."""
        whole = [group for group in self.groups() if trial.number in {one.number for one in group}]
        return whole[0] if whole else [trial] if trial.state == TrialState.PRUNED else []

    def remove_states(self, trials: list[FrozenTrial]) -> None:
        """Remove what ended `trials` would need to go on, gigabytes with a large network, but of the best.

        Without it a finished run can be tested only by training it again.
        """
        ended = {t.user_attrs["folder"] for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)}
        for folder in ended - {trial.user_attrs["folder"] for trial in self.best()}:
            for pattern in ("last.pth", "previous.pth", "epoch-*.pth"):
                for path in Path(folder).glob(f"*/*/*/{pattern}"):
                    path.unlink(missing_ok=True)

    def write_best(self, options: dict) -> None:
        """Write the `options` of the best configuration to `best.yaml`, a recipe for --config."""
        best = self.best()
        text = f"# The best of the search {printable(self.sweep.name)}: {trials_in_words(best)}, {self.sweep.metric} "
        text += f"{mean_of(best):.4f}, {epochs_in_words(best)}.\n"
        text += yaml.safe_dump(options, allow_unicode=True, sort_keys=False)
        write_bytes(self.folder / "best.yaml", text.encode("utf-8", errors="backslashreplace"))

    def say_best(self) -> None:
        """Print the best configurations as a table, and how many trials there are of each kind."""
        metric, states = self.sweep.metric, [state_of(trial) for trial in self.storage.trials()]
        info(", ".join(f"{states.count(name)} {name}" for name in (*STATES.values(), REFUSED) if name in states))
        self._say_refused()
        if self.is_target_reached():
            info(f"the target, {metric} {self.sweep.target:g}, is reached")
        groups, several = self.groups(), self.sweep.seeds > 1
        rows = [("trials" if several else "trial", metric, "std" if several else "epoch", *self.sweep.searched)]
        for group in groups[:SHOWN]:
            values, epoch = self.configuration_of(group[0]), group[0].user_attrs.get("best_epoch")
            shown = [short(values[name]) for name in self.sweep.searched]
            spread = f"{stdev(t.value for t in group):.4f}" if several else str(epoch)
            rows.append((" ".join(str(t.number) for t in group), f"{mean_of(group):.4f}", spread, *shown))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            info("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
        if len(groups) > SHOWN:
            info(f"… and {len(groups) - SHOWN} more in trials.csv")

    def _say_refused(self) -> None:
        """Print the combinations that the program has refused, each once, with the reason."""
        refused = [t for t in self.storage.trials() if is_refused(t) and "same_as" not in t.user_attrs]
        for trial in refused[:SHOWN]:
            words = " ".join(f"{name}={short(value)}" for name, value in self.configuration_of(trial).items())
            info(f"passed over: {words}: {trial.user_attrs['reason']}")
        if len(refused) > SHOWN:
            info(f"… and {len(refused) - SHOWN} more in trials.csv")


def is_refused(trial: FrozenTrial) -> bool:
    """Tell whether the program has refused the options of a trial before it trained."""
    return "refused" in trial.user_attrs


def state_of(trial: FrozenTrial) -> str:
    """Return in words what has become of a trial."""
    return REFUSED if is_refused(trial) else STATES[trial.state]


def seed_of(trial: FrozenTrial) -> int:
    """Return which of the seeds of its configuration a trial has, from 0 on."""
    return trial.user_attrs.get("seed", 0)


def mean_of(group: list[FrozenTrial]) -> float:
    """Return the mean of the metric over the seeds of a configuration."""
    return fmean([trial.value for trial in group])


def trials_in_words(group: list[FrozenTrial]) -> str:
    """Return the numbers of the trials of a configuration."""
    numbers = ", ".join(str(trial.number) for trial in group)
    return f"trials {numbers} (mean of {len(group)} seeds)" if len(group) > 1 else f"trial {numbers}"


def epochs_in_words(group: list[FrozenTrial]) -> str:
    """Return in which epochs the trials of a configuration were at their best."""
    epochs = ", ".join(str(trial.user_attrs.get("best_epoch")) for trial in group)
    return f"in epochs {epochs}" if len(group) > 1 else f"in epoch {epochs}"


def short(value: object) -> str:
    """Return the value of an option for the terminal."""
    return f"{value:.4g}" if isinstance(value, float) else printable(value)
