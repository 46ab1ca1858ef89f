"""What a search has found: a table of all trials, the best on the terminal and as a file for --config, pictures."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from common.system.files import partial_file, write_bytes, write_table
from common.system.log import info
from common.system.text import printable
from tools.searching.spaces import OneOf, Parameter, Value, Weighted
from tools.searching.storage import Storage, proposed_for
from tools.searching.sweep_file import Sweep

STATES = {
    TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip
SHOWN = 10  # trials in the table on the terminal


@dataclass(frozen=True)
class Results:
    """What is known of a search, and its files in its `folder`."""

    sweep: Sweep
    storage: Storage
    folder: Path

    def values_of(self, trial: FrozenTrial) -> dict:
        """Return the options that a trial has tried or will try, {} if it was cut off before it had any."""
        return self.sweep.values(proposed_for(trial))

    def is_target_reached(self) -> bool:
        """Tell whether a finished trial is as good as the sweep file asks for."""
        best, target, sign = self.storage.best(), self.sweep.target, self.storage.sign
        return best is not None and target is not None and sign * best.value <= sign * target

    def write_table(self) -> None:
        """Write `trials.csv`: a row for each trial, with its options, its best value and what became of it."""
        names = list(self.sweep.parameters)
        facts = ("best_epoch", "epochs", "seconds", "same_as", "folder", "machine", "reason")
        rows = [("trial", "state", self.sweep.metric, *names, *facts)]
        for trial in self.storage.trials():
            values = self.values_of(trial)
            value = trial.value if trial.state == TrialState.COMPLETE else None
            cells = [*map(values.get, names), *map(trial.user_attrs.get, facts)]
            rows.append((trial.number, STATES[trial.state], value, *cells))
        write_table(self.folder / "trials.csv", rows)

    def remove_states(self, trials: list[FrozenTrial]) -> None:
        """Remove what ended `trials` would need to go on, gigabytes with a large network; the best keeps all it has."""
        best = self.storage.best()
        ended = {t.user_attrs["folder"] for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)}
        for folder in ended - {best.user_attrs["folder"] if best else None}:
            for pattern in ("last.pth", "previous.pth", "epoch-*.pth"):
                for path in Path(folder).glob(f"*/*/*/{pattern}"):
                    path.unlink(missing_ok=True)

    def write_best(self, options: dict) -> None:
        """Write the options of the best trial to `best.yaml`, a recipe for --config."""
        best = self.storage.best()
        text = f"# The best of the search {printable(self.sweep.name)}: trial {best.number}, {self.sweep.metric} "
        text += f"{best.value:.4f} in epoch {best.user_attrs.get('best_epoch')}.\n"
        text += yaml.safe_dump(options, allow_unicode=True, sort_keys=False)
        write_bytes(self.folder / "best.yaml", text.encode("utf-8", errors="backslashreplace"))

    def say_best(self) -> None:
        """Print the best trials as a table, and how many there are of each kind."""
        metric, states = self.sweep.metric, [trial.state for trial in self.storage.trials()]
        info(", ".join(f"{states.count(state)} {name}" for state, name in STATES.items() if state in states))
        if self.is_target_reached():
            info(f"the target, {metric} {self.sweep.target:g}, is reached")
        distinct = [trial for trial in self.storage.finished() if "same_as" not in trial.user_attrs]
        rows = [("trial", metric, "epoch", *self.sweep.searched)]
        for trial in distinct[:SHOWN]:
            values, epoch = self.values_of(trial), trial.user_attrs.get("best_epoch")
            shown = [short(values[name]) for name in self.sweep.searched]
            rows.append((str(trial.number), f"{trial.value:.4f}", str(epoch), *shown))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            info("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
        if len(distinct) > SHOWN:
            info(f"… and {len(distinct) - SHOWN} more in trials.csv")


def short(value: object) -> str:
    """Return the value of an option for the terminal."""
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


def draw_search(results: Results) -> None:
    """Draw what Optuna makes of the trials: `history.png`, `importance.png`, `parallel.png`."""
    import matplotlib

    matplotlib.use("Agg")  # Optuna draws with pyplot, which would look for a window
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    study = _of_finished(results)
    drawings = [("history", plots.plot_optimization_history, results.storage.study)]
    if len({trial.value for trial in study.trials}) > 1:  # else nothing can be told apart
        drawings.append(("importance", plots.plot_param_importances, study))
        drawings.append(("parallel", plots.plot_parallel_coordinate, study))
    for name, draw, of in drawings:
        # Optuna warns that its pictures are experimental, and Matplotlib about layouts.
        with warnings.catch_warnings(action="ignore"), partial_file(results.folder / f"{name}.png") as partial:
            figure = draw(of, target_name=results.sweep.metric).figure
            for axes in figure.axes if name == "parallel" else ():
                _make_lines_visible(axes)
            figure.set_size_inches(max(8, 1.6 * len(results.sweep.parameters)), 5)
            figure.savefig(partial, format="png", dpi=120, bbox_inches="tight")
        pyplot.close(figure)


def _make_lines_visible(axes) -> None:
    """Optuna has colors that end in white, a grid over lines, lines over labels, and cuts off those at the edges."""
    axes.grid(False)
    for lines in axes.collections:
        lines.set(cmap="viridis", clip_on=False)
    for label in axes.get_yticklabels():
        label.set_bbox({"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1})


def _of_finished(results: Results) -> optuna.Study:
    """Return a study of the finished trials by what the options were, not by what Optuna proposed for them."""
    searched, finished = results.sweep.searched, results.storage.trials(TrialState.COMPLETE)
    tried = [{name: _label(results.values_of(trial)[name]) for name in searched} for trial in finished]
    distributions = {name: _distribution(form, [values[name] for values in tried]) for name, form in searched.items()}
    study = optuna.create_study(direction=results.storage.study.direction)
    for trial, values in zip(finished, tried, strict=True):
        study.add_trial(create_trial(params=values, distributions=distributions, value=trial.value))
    return study


def _label(value: Value) -> Value:
    """Return a value that is short enough for a picture, in which $ would mean mathematics."""
    return printable(value, longest=14).replace("$", r"\$") if isinstance(value, str) else value


def _distribution(form: Parameter, tried: list[Value]) -> BaseDistribution:
    if isinstance(form, (OneOf, Weighted)):
        return CategoricalDistribution([_label(value) for value in form.values])
    low, high = min(tried), max(tried)
    return FloatDistribution(low, high, log=form.is_log and low > 0)
