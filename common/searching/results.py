"""What a search has found: the best options as a file for --config, a table for the terminal, pictures."""

import io
import warnings

import optuna
from optuna.trial import FrozenTrial, TrialState

from common.figures import plain
from common.searching.search import STATES, Search
from common.searching.spaces import OneOf, Parameter, Value, Weighted
from common.system.files import write_bytes
from common.system.log import say

SHOWN = 10  # trials in the table on the terminal


def write_best(search: Search, options: dict) -> None:
    """Write the options of the best trial to `best.yaml`, a recipe for --config."""
    import yaml

    best = search.storage.best()
    heading = (
        f"# The best of the search {plain(search.sweep.name)}: trial {best.number}, "
        f"{search.sweep.metric} {best.value:.4f} in epoch {best.user_attrs.get('best_epoch')}.\n"
    )
    text = heading + yaml.safe_dump(options, allow_unicode=True, sort_keys=False)
    write_bytes(search.folder / "best.yaml", text.encode("utf-8", errors="backslashreplace"))


def say_best(search: Search) -> None:
    """Print the best trials as a table, and how many there are of each kind."""
    trials = search.storage.trials()
    counts = {name: sum(trial.state == state for trial in trials) for state, name in STATES.items()}
    say(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    if search.is_target_reached():
        say(f"the target, {search.sweep.metric} {search.sweep.target:g}, is reached")
    sign = -1 if search.sweep.maximize else 1
    finished = sorted(search.storage.trials(TrialState.COMPLETE), key=lambda trial: sign * trial.value)
    distinct = [trial for trial in finished if "same_as" not in trial.user_attrs]
    changing = [name for name, parameter in search.sweep.parameters.items() if parameter.count() != 1]
    rows = [("trial", search.sweep.metric, "epoch", *changing)]
    rows += [_row(search, trial, changing) for trial in distinct[:SHOWN]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if len(distinct) > SHOWN:
        say(f"… and {len(distinct) - SHOWN} more in trials.csv")


def _row(search: Search, trial: FrozenTrial, names: list[str]) -> tuple[str, ...]:
    values = search.values_of(trial)
    shown = [f"{values[name]:.4g}" if isinstance(values[name], float) else str(values[name]) for name in names]
    return str(trial.number), f"{trial.value:.4f}", str(trial.user_attrs.get("best_epoch")), *shown


def draw_search(search: Search) -> None:
    """Draw what Optuna makes of the trials: `history.png`, `importance.png`, `parallel.png`."""
    import matplotlib

    matplotlib.use("Agg")  # Optuna draws with pyplot, which would look for a window
    from matplotlib import pyplot
    from optuna.visualization.matplotlib import (
        plot_optimization_history,
        plot_parallel_coordinate,
        plot_param_importances,
    )

    study, metric = _of_finished(search), search.sweep.metric
    if not study.trials:
        return
    drawings = {"history": lambda: plot_optimization_history(search.storage.study, target_name=metric)}
    if len({trial.value for trial in study.trials}) > 1:  # else nothing can be told apart
        drawings["importance"] = lambda: plot_param_importances(study, target_name=metric)
        drawings["parallel"] = lambda: plot_parallel_coordinate(study, target_name=metric)
    for name, draw in drawings.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental since years; layouts
            axes = draw()
            figure = (axes if hasattr(axes, "figure") else axes[0]).figure
            if name == "parallel":
                _make_lines_visible(figure)
            figure.set_size_inches(max(8, 1.6 * len(search.sweep.parameters)), 5)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
            write_bytes(search.folder / f"{name}.png", buffer.getbuffer())
        pyplot.close(figure)


def _make_lines_visible(figure) -> None:
    """Optuna has colours that end in white, a grid over lines, lines over labels, and cuts off those at the edges."""
    for axes in figure.axes:
        axes.grid(False)
        for lines in axes.collections:
            lines.set(cmap="viridis", clip_on=False)
        for label in axes.get_yticklabels():
            label.set_bbox({"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1})


def _of_finished(search: Search) -> optuna.Study:
    """Return a study of the finished trials by what the options were, not by what Optuna proposed for them."""
    finished = search.storage.trials(TrialState.COMPLETE)
    changing = {name: parameter for name, parameter in search.sweep.parameters.items() if parameter.count() != 1}
    tried = [{name: search.values_of(trial)[name] for name in changing} for trial in finished]
    tried = [{name: _label(value) for name, value in values.items()} for values in tried]
    distributions = {
        name: _distribution(parameter, [values[name] for values in tried]) for name, parameter in changing.items()
    }
    study = optuna.create_study(direction=search.storage.study.direction)
    for trial, values in zip(finished, tried, strict=True):
        study.add_trial(optuna.trial.create_trial(params=values, distributions=distributions, value=trial.value))
    return study


def _label(value: Value) -> Value:
    """Return a value that is short enough for a picture."""
    return plain(value, longest=14) if isinstance(value, str) else value


def _distribution(parameter: Parameter, tried: list[Value]) -> optuna.distributions.BaseDistribution:
    if isinstance(parameter, (OneOf, Weighted)):
        return optuna.distributions.CategoricalDistribution([_label(value) for value in parameter.values])
    low, high = min(tried), max(tried)
    return optuna.distributions.FloatDistribution(low, high, log=getattr(parameter, "is_log", False) and low > 0)
