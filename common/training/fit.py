"""Training a network epoch after epoch, and what is written down after each."""

import functools
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from common.data.batches import Batches
from common.optim.optimizers import Schedule
from common.runs.history import best_record
from common.runs.run import Run
from common.runs.state import TrainState, weights_sha256
from common.system.device import Machine
from common.system.errors import Diverged
from common.system.log import info
from common.system.resources import ResourceMonitor
from common.training.loop import evaluate, train_one_epoch
from common.transforms.mixup import Mix
from common.transforms.random_streams import epoch_seed

PROBED = 64  # validation images that a watch shows to the network after each epoch


def fit(
    run: Run,
    model: nn.Module,
    train: Batches,
    val: Batches,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    before_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train, and after every epoch save what a resume needs, the best weights, `train.json` and the curves.

    A run that is resumed goes on from its last saved epoch, bit for bit.

    Args:
        run: the open run; its recipe says how long, when to stop, what to keep. No epochs: the weights are only
            validated.
        optimizer, schedule: as `run.optimizer` returns them.
        before_epoch: called with the number of each epoch before it, to freeze and unfreeze parts of the model. It
            must depend on that number alone, so that a resumed run does the same.

    Raises:
        Diverged: the loss is no longer finite.
    """
    machine, recipe = run.machine, run.recipe
    state = run.state = TrainState.of(model, optimizer, schedule, recipe, machine)
    state.images = train.split.checks, val.split.checks
    mix = Mix(recipe.mixup, recipe.cutmix, run.num_classes, train.seed)
    if mix and recipe.epochs:
        info("note: training accuracies are of mixed images: how often the larger share is recognized")
    history = run.restore()
    if recipe.epochs == 0:
        run.save_untrained(model, accuracy=_validate(model, val, machine, epoch=0, lr=0.0)[1])
    while len(history) < recipe.epochs and not _out_of_patience(history, recipe.patience):
        epoch = len(history) + 1
        if before_epoch is not None:
            before_epoch(epoch)
        torch.manual_seed(epoch_seed(train.seed, epoch) + machine.processes.rank)
        lr, done = schedule.rate, 0
        if state.under_way:  # the run was interrupted within this epoch
            lr, done = state.under_way["lr"], state.under_way["meter"]["images"]
        if recipe.save_minutes:
            state.after_step = functools.partial(run.save_step, history, lr)
        started = time.perf_counter()
        with ResourceMonitor(machine) as resources:
            train_loss, train_accuracy = train_one_epoch(state, train, epoch, machine, recipe, mix)
        training_seconds = time.perf_counter() - started
        val_loss, val_accuracy = _validate(state.eval_model, val, machine, epoch, lr)
        schedule.after_epoch(val_loss)
        record = {
            "epoch": epoch,
            "lr": lr,
            "batch_size": train.size_in(epoch),
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": time.perf_counter() - started,
            "images_per_second": (train.images_in(epoch) - done) / training_seconds,
            "peak_memory_mb": machine.peak_memory_mb(),
            **resources.record(),
            "weights_sha256": weights_sha256(state.eval_model.state_dict()),
        }
        history = [*history, record]
        if state.watch is not None:
            state.watch.end_epoch(epoch, val.first_images(PROBED))
        state.share_checks(machine.processes)
        run.save_epoch(history)
        info(_epoch_line(record, recipe.epochs, is_best=best_record(history) is record))
        run.draw_epoch(history, train)
    run.draw_now()
    run.wait_for_files()


def _validate(model: nn.Module, val: Batches, machine: Machine, epoch: int, lr: float) -> tuple[float, float]:
    """Return loss and accuracy on the validation images; weights that have no finite loss are never the best."""
    logits, labels = evaluate(model, val, machine, "validation")
    loss = F.cross_entropy(logits, labels).item()
    if not math.isfinite(loss):
        raise Diverged(
            f"the validation loss is not finite after the last step of epoch {epoch}, at learning rate {lr:g}; "
            "try a lower --lr, or --clip_grad 1"
        )
    return loss, (logits.argmax(1) == labels).double().mean().item()


def _out_of_patience(history: list[dict], patience: int | None) -> bool:
    if patience is None or not history or len(history) - best_record(history)["epoch"] < patience:
        return False
    info(f"stopping: no better validation accuracy for {patience} epochs")
    return True


def _epoch_line(record: dict, epochs: int, is_best: bool) -> str:
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"
        f"  train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.4f}"
        f"  val loss {record['val_loss']:.4f} accuracy {record['val_accuracy']:.4f}"
        f"  lr {record['lr']:.2g}  {record['images_per_second']:,.0f} images/s  {record['seconds']:.1f} s"
        f"{'  best' if is_best else ''}"
    )
