"""The end of a run: the best weights meet the test images, once, and everything that is known of it is written down."""

import io
import time
from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from torch import nn

from common.data.batches import Batches
from common.evaluation.metrics import score
from common.runs.run import Run
from common.system.files import write_bytes, write_table
from common.system.log import info
from common.training.loop import evaluate
from common.transforms.tta import views


def evaluate_last(run: Run, model: nn.Module, test: Batches) -> None:
    """Evaluate the weights that the training has ended with, as `evaluate_best` does with the best."""
    weights = run.state.eval_model.state_dict()
    _evaluate(run, model, test, lambda: weights, "nothing: the last epoch")


def evaluate_best(run: Run, model: nn.Module, test: Batches, shown_classes: int = 0) -> None:
    """Evaluate the best weights of `run` on the test images and write scores, predictions and pictures.

    Where the test images have no labels, the predictions go to `submission.csv` and there is no score. With the option
    `test` switched off nothing of this happens: a run that may not be the chosen one must not see them. So many
    `shown_classes` are in `class_predictions.png`, ten images of each.
    """
    _evaluate(run, model, test, run.best_weights, "validation", shown_classes)


def _evaluate(
    run: Run, model: nn.Module, test: Batches, weights: Callable[[], dict], selected_on: str, shown_classes: int = 0
) -> None:
    from common.runs import plots  # imports matplotlib, which no run needs before its first epoch

    if not run.config["options"]["test"]:
        info(f"the test images are left alone; to test: {run.resume_command()} --test True")
        run.finish()
        return
    model.load_state_dict(weights())
    started = time.perf_counter()
    logits, labels = evaluate(model, test, run.machine, "testing")
    testing_time = time.perf_counter() - started
    has_labels = bool((labels >= 0).all())
    of_views = _score_views(run, model, test) if run.options["tta"] > 1 and has_labels else {}
    if not run.processes.is_main:
        return
    probabilities = logits.softmax(1).numpy()
    ids = [test.dataset.ids[sample] for sample in test.split.indices]
    classes = run.config["classes"]

    _write_predictions(run, labels.numpy(), probabilities, ids)
    plots.draw_predictions(run.folder / "predictions.png", test, probabilities, classes)
    if has_labels:
        result = score(probabilities, labels.numpy(), classes)
        result |= {
            "loss": F.cross_entropy(logits, labels).item(),
            "testing_time": testing_time,
            "selected_on": selected_on,
            "test_evaluations": run.config["earlier_test_evaluations"] + 1,
            **of_views,
        }
        run.write_json("test.json", result)
        plots.draw_confusion_matrix(run.folder / "confusion_matrix.png", labels.numpy(), probabilities, classes)
        if shown_classes:
            picture = run.folder / "class_predictions.png"
            plots.draw_class_predictions(picture, test, probabilities, classes, shown_classes)
        _say_result(result, labels.numpy())
    else:
        _write_submission(run, probabilities, ids)
    if run.state.watch is not None:
        from common.inside.plots import look_inside

        look_inside(run.folder, model, run.state.watch, test, probabilities, classes)
    run.finish()


def _say_result(result: dict, labels: np.ndarray) -> None:
    low, high = result["accuracy_interval_95"]
    info(f"test accuracy {result['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}, {len(labels)} images)")
    chance = np.bincount(labels).max() / len(labels)  # always to say the same
    if low <= chance < 1:
        info(f"not significantly better than always answering the most frequent class, which is right in {chance:.4f}")


def _score_views(run: Run, model: nn.Module, test: Batches) -> dict:
    """Return the entry "tta" of test.json: what the mean over several views of each image would score."""
    count = run.options["tta"]
    logits, labels = evaluate(model, test, run.machine, f"testing {count} views", views(count))
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    info(f"test accuracy of {count} views together: {accuracy:.4f}")
    return {"tta": {"views": count, "accuracy": accuracy, "loss": F.nll_loss(logits, labels).item()}}


def _write_predictions(run: Run, labels: np.ndarray, probabilities: np.ndarray, ids: list[str]) -> None:
    buffer, classes = io.BytesIO(), run.config["classes"]
    np.savez(buffer, labels=labels, probabilities=probabilities, ids=np.array(ids))
    write_bytes(run.folder / "predictions.npz", buffer.getbuffer())
    rows = [
        (identifier, classes[label] if label >= 0 else "", classes[row.argmax()], round(float(row.max()), 6))
        for identifier, label, row in zip(ids, labels, probabilities, strict=True)
    ]
    write_table(run.folder / "predictions.csv", [("id", "true", "predicted", "confidence"), *rows])


def _write_submission(run: Run, probabilities: np.ndarray, ids: list[str]) -> None:
    labels = run.config["classes"] if run.options["submission_labels"] == "names" else range(run.num_classes)
    rows = [(identifier, labels[label]) for identifier, label in zip(ids, probabilities.argmax(1), strict=True)]
    write_table(run.folder / "submission.csv", [("id", "label"), *rows])
    info(f"the test images have no labels: {len(ids)} predictions are in submission.csv")
