"""The end of a run: the best weights meet the test images, once, and everything that is known of it is written down."""

import io
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.data.batches import Batches
from common.evaluation.looks import Looks, note_look
from common.evaluation.metrics import chance_interval, score, wilson_interval
from common.exploring.explore import copied_test_images
from common.models.batch_norm import AVERAGES_LEFT, share_left
from common.options.shared import told_options
from common.runs.run import Run
from common.system.files import write_bytes, write_table
from common.system.log import info
from common.training.loop import evaluate
from common.transforms.tta import views

EARLIER = "earlier_test"  # the folder within a run's for a test that is no longer of its weights
OF_A_TEST = (
    "test", "submission", "predictions", "confusion", "confusion_matrix", "roc", "class_predictions", "inside",
    "grad_cam", "feature_maps", "filters", "gradients", "updates", "activations",
)  # files; the last ones are drawn with a test  # fmt: skip


def evaluate_last(run: Run, model: nn.Module, val: Batches, test: Batches) -> None:
    """Evaluate the weights that the training has ended with, as `evaluate_best` does with the best."""
    weights = run.state.eval_model.state_dict()
    _evaluate(run, model, (val, test), lambda: weights, is_chosen=False)


def evaluate_best(run: Run, model: nn.Module, val: Batches, test: Batches, shown_classes: int = 0) -> None:
    """Evaluate the best weights of `run` on the validation and the test images: scores, predictions and pictures.

    Where the test images have no labels, the predictions go to `submission.csv` and there is no score. With the option
    `test` switched off they are left alone: a run that may not be the chosen one must not see them, and mistakes are
    looked at among the validation images. So many `shown_classes` are in `class_predictions.png`, ten images of each.
    """
    _evaluate(run, model, (val, test), run.best_weights, shown_classes=shown_classes)


def _evaluate(
    run: Run, model: nn.Module, batches: tuple[Batches, Batches], weights: Callable[[], dict], is_chosen: bool = True,
    shown_classes: int = 0,
) -> None:  # fmt: skip
    val, test = batches
    model.load_state_dict(weights())
    _evaluate_validation(run, model, val, is_chosen)
    if not run.config["options"]["test"]:
        info(f"the test images are left alone; to test: {run.resume_command()} --test True")
        if run.processes.is_main:
            _set_earlier_test_aside(run.folder)
        _finish(run)
        return
    has_labels, count = min(test.split.labels) >= 0, run.options["tta"]
    if count > 1 and not has_labels:
        info("note: --tta does nothing where test images have no labels: submission.csv is of one view")
        count = 1
    what = "images as they are" + (f", and {count} views of each" if count > 1 else "")
    looks = run.processes.broadcast(lambda: note_look(run, test.split, what))
    started = time.perf_counter()
    logits, labels = evaluate(model, test, run.machine, "testing")
    testing_time = time.perf_counter() - started
    if test.split.checks:
        test.split.checks.share(run.processes.gather)
    of_views = _score_views(run, model, test, count) if count > 1 else {}
    if not run.processes.is_main:
        return
    probabilities, classes = logits.softmax(1).numpy(), run.config["classes"]
    scores = _write(run, test, logits, labels)
    if has_labels:
        how = {"testing_time": testing_time, "selected_on": _selected_on(run, is_chosen)}
        correct = (logits.argmax(1) == labels).numpy()
        how["accuracy_without_copies"] = _score_without_copies(run, test, correct, scores["notes"])
        if run.config["options"].get("null_test"):
            how |= _null_test(scores["accuracy"], labels.numpy(), probabilities)
        run.write_json("test.json", scores | how | vars(looks) | of_views)
        if shown_classes:
            from common.runs import plots

            picture = run.folder / "class_predictions.png"
            plots.draw_class_predictions(picture, test, probabilities, classes, shown_classes)
        _say_result(scores, labels.numpy(), looks)
    else:
        _write_submission(run, probabilities, [test.dataset.ids[sample] for sample in test.split.indices])
    if run.state.watch is not None:
        from common.inside.plots import look_inside

        look_inside(run.folder, model, run.state.watch, test, probabilities, classes)
    _finish(run)


def _set_earlier_test_aside(folder: Path) -> None:
    """Move what a test has left in `folder` to one within: that was of the weights before more epochs."""
    if left := [path for path in folder.iterdir() if path.is_file() and path.stem in OF_A_TEST]:
        (folder / EARLIER).mkdir(exist_ok=True)
        for path in left:
            path.replace(folder / EARLIER / path.name)
        info(f"note: what the test before has left is in {folder / EARLIER} now")


def _finish(run: Run) -> None:
    run.finish(told_options(run.script, run.config["options"]))


def _selected_on(run: Run, is_chosen: bool) -> str:
    """Return which images have chosen the weights that are tested."""
    if run.epochs_trained():
        return "validation" if is_chosen else "nothing: the last epoch"
    return f"not known: {Path(run.weights).name} as it was given" if run.weights else "nothing: no epoch was trained"


def _evaluate_validation(run: Run, model: nn.Module, val: Batches, is_chosen: bool) -> None:
    """Write what there is to know of the validation images, by which the epoch may have been chosen."""
    logits, labels = evaluate(model, val, run.machine, "validating")
    if not run.processes.is_main:
        return
    scores, epochs = _write(run, val, logits, labels, "val_"), run.epochs_trained()
    is_new = epochs and run.config["options"].get("weights") in (None, "none")  # averages of others are no bad start
    if is_new and (left := share_left(model)) > AVERAGES_LEFT:
        what = f"{100 * left:.0f} % of the running averages of batch norm are still what they began with"
        info(f"note: {what}, so validation and test accuracies are too low, which is not overfitting: more steps help")
    is_chosen = is_chosen and epochs > 1
    if is_chosen:
        scores["notes"].append(f"the best of {epochs} epochs on these very images: new ones are not so well known")
    run.write_json("validation.json", scores | {"best_of_epochs": epochs if is_chosen else 1})


def _write(run: Run, batches: Batches, logits: torch.Tensor, labels: torch.Tensor, prefix: str = "") -> dict:
    """Write and draw predictions to files whose names begin with `prefix`; return the scores, {} without labels."""
    from common.runs import plots  # imports matplotlib, which no run needs before its first epoch

    probabilities, classes = logits.softmax(1).numpy(), run.config["classes"]
    _write_predictions(run, batches, labels.numpy(), probabilities, prefix)
    picture, kind = run.folder / f"{prefix}predictions.png", "validation" if prefix else "test"
    plots.draw_predictions(picture, batches, probabilities, classes, kind)
    if (labels < 0).any():
        return {}
    write_table(run.folder / f"{prefix}confusion.csv", confusion_rows(labels.numpy(), probabilities, classes))
    matrix = run.folder / f"{prefix}confusion_matrix.png"
    plots.draw_confusion_matrix(matrix, labels.numpy(), probabilities, classes, kind)
    scores = score(probabilities, labels.numpy(), classes)
    plots.draw_roc(run.folder / f"{prefix}roc.png", labels.numpy(), probabilities, scores, kind)
    return scores | {"loss": F.cross_entropy(logits, labels).item()}


def _null_test(accuracy: float, labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Say, and return for test.json, whether an accuracy on shuffled labels is one of chance."""
    low, high = chance_interval(labels, probabilities.argmax(1))
    is_chance = low <= accuracy <= high
    what = "no leak is seen" if is_chance else "something tells the labels, or this is one of 20 that chance puts there"
    info(f"null test, with shuffled labels: {accuracy:.4f}, where chance gives {low:.4f} to {high:.4f} (95 %): {what}")
    return {"null_test": {"chance_interval_95": [low, high], "is_chance": is_chance}}


def _say_result(result: dict, labels: np.ndarray, looks: Looks) -> None:
    low, high = result["accuracy_interval_95"]
    info(f"test accuracy {result['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}, {len(labels)} images)")
    if looks.looks_at_images > 1:
        by = f"{looks.recipes_looking} recipes" if looks.recipes_looking > 1 else "this recipe alone"
        look = f"{looks.looks_at_images} looks at these test images so far, by {by}"
        info(f"{look}; to choose, compare validation accuracies (docs/statistics.md says why looks count)")
    chance = np.bincount(labels).max() / len(labels)  # always to say the same
    if low <= chance < 1:
        what = "not significantly better than always answering the most frequent class"
        info(f"note: the test accuracy is {what}, which is right in {chance:.4f}")


def _score_views(run: Run, model: nn.Module, test: Batches, count: int) -> dict:
    """Return the entry "tta" of test.json: what the mean over `count` views of each image would score."""
    logits, labels = evaluate(model, test, run.machine, f"testing {count} views", views(count))
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    info(f"test accuracy of {count} views together: {accuracy:.4f}")
    return {"tta": {"views": count, "accuracy": accuracy, "loss": F.nll_loss(logits, labels).item()}}


def _score_without_copies(run: Run, test: Batches, correct: np.ndarray, notes: list[str]) -> dict | None:
    """Return the entry of test.json: what test images score that have no copy among training and validation images.

    `correct` (N,) tells which are; what cannot be known is added to `notes`.
    """
    splits = run.data.splits | {"test": test.split}
    found = copied_test_images(splits)
    if found is None:
        notes.append("accuracy_without_copies: images of an HDF5 file were not compared")
        return None
    copied, kinds = found
    new = correct[~copied]
    entry = {"accuracy": None, "interval_95": None, "images": len(new), "copies": int(copied.sum()), "kinds": kinds}
    if len(new):
        entry |= {"accuracy": float(new.mean()), "interval_95": wilson_interval(int(new.sum()), len(new))}
    if len(new) and entry["copies"]:
        info(f"test accuracy without {entry['copies']:,} images that have a copy elsewhere: {entry['accuracy']:.4f}")
    return entry


def _write_predictions(run: Run, batches: Batches, labels: np.ndarray, probabilities: np.ndarray, prefix: str) -> None:
    buffer, classes = io.BytesIO(), run.config["classes"]
    order = batches.split.indices.argsort().numpy()  # that of the files
    labels, probabilities = labels[order], probabilities[order]
    ids = [batches.dataset.ids[sample] for sample in batches.split.indices[order]]
    np.savez(buffer, labels=labels, probabilities=probabilities, ids=np.array(ids))
    write_bytes(run.folder / f"{prefix}predictions.npz", buffer.getbuffer())
    write_table(run.folder / f"{prefix}predictions.csv", prediction_rows(labels, probabilities, ids, classes))


def prediction_rows(labels: np.ndarray, probabilities: np.ndarray, ids: Iterable[str], classes: list[str]) -> list:
    """Return the rows of `predictions.csv`: of each image the id, what it is (-1: unknown) and what was predicted."""
    rows = zip(ids, labels.tolist(), probabilities.argmax(1).tolist(), probabilities.max(1).tolist(), strict=True)
    names = dict(enumerate(classes)) | {-1: ""}
    table = [(one, names[label], names[answer], round(confidence, 6)) for one, label, answer, confidence in rows]
    return [("id", "true", "predicted", "confidence"), *table]


def confusion_rows(labels: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> list:
    """Return the rows of `confusion.csv`: what was taken for what, the most frequent mistake first, the right last."""
    pairs = Counter(sorted(zip(labels.tolist(), probabilities.argmax(1).tolist(), strict=True)))
    images = np.bincount(labels, minlength=len(classes))
    order = sorted(pairs.items(), key=lambda item: (item[0][0] == item[0][1], -item[1]))
    rows = [(classes[true], classes[taken], n, round(n / images[true], 4)) for (true, taken), n in order]
    return [("true", "predicted", "images", "share_of_true"), *rows]


def _write_submission(run: Run, probabilities: np.ndarray, ids: list[str]) -> None:
    labels = run.config["classes"] if run.options["submission_labels"] == "names" else range(run.num_classes)
    rows = [(identifier, labels[label]) for identifier, label in zip(ids, probabilities.argmax(1), strict=True)]
    write_table(run.folder / "submission.csv", [("id", "label"), *rows])
    info(f"the test images have no labels: {len(ids)} predictions are in submission.csv")
