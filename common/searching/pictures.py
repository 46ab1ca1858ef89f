"""What Optuna draws of a search."""

import io
import warnings

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from common.searching.results import Results
from common.searching.spaces import OneOf, Parameter, Value, Weighted
from common.system.files import write_bytes
from common.system.text import printable


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
        with warnings.catch_warnings(action="ignore"):  # experimental since years; layouts
            axes = draw(of, target_name=results.sweep.metric)
            figure = (axes if hasattr(axes, "figure") else axes[0]).figure
            if name == "parallel":
                _make_lines_visible(figure)
            figure.set_size_inches(max(8, 1.6 * len(results.sweep.parameters)), 5)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        write_bytes(results.folder / f"{name}.png", buffer.getbuffer())
        pyplot.close(figure)


def _make_lines_visible(figure) -> None:
    """Optuna has colors that end in white, a grid over lines, lines over labels, and cuts off those at the edges."""
    for axes in figure.axes:
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
    return FloatDistribution(low, high, log=getattr(form, "is_log", False) and low > 0)
