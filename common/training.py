"""The training loop: one `train_one_epoch`, one `evaluate`, one `fit`."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

from common.batches import Batches
from common.console import progress, say
from common.draws import epoch_seed
from common.errors import Diverged
from common.machine import Machine
from common.optimizers import Schedule
from common.recipe import Recipe

# A loss scale starts at 2^16 and halves at each overflow. Below this, thirty steps in a row (on balance) have changed
# nothing; on the way to 0 it would end as NaN in every weight.
DEAD_LOSS_SCALE = 2.0**-14


def fit(
    run,
    model: nn.Module,
    train: Batches,
    val: Batches,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    machine: Machine,
    recipe: Recipe,
    before_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train, and after every epoch save what a resume needs, the best weights, `train.json` and the curves.

    A run that is resumed goes on from its last saved epoch, bit for bit.

    Args:
        run: the `Run` to write to.
        optimizer, schedule: as `recipe` builds them.
        recipe: how long, when to stop, what to keep. No epochs means that the weights are only validated.
        before_epoch: called with the number of each epoch before it, to freeze and unfreeze parts of the model. It
            must depend on that number alone, so that a resumed run does the same.

    Raises:
        Diverged: the loss is no longer finite.
    """
    scaler = machine.scaler()
    saved = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    history = run.restore(saved)
    epochs = recipe.epochs
    if epochs == 0:
        run.save_untrained(model, accuracy=_validate(model, val, machine, epoch=0, lr=0.0)[1])
    while len(history) < epochs and not _out_of_patience(history, recipe.patience):
        epoch = len(history) + 1
        if before_epoch is not None:
            before_epoch(epoch)
        torch.manual_seed(epoch_seed(train.seed, epoch))
        lr = max(group["lr"] for group in optimizer.param_groups)
        started = time.perf_counter()
        train_loss, train_accuracy = train_one_epoch(
            model, train, epoch, optimizer, schedule, scaler, machine,
            title=f"epoch {epoch}/{epochs}", label_smoothing=recipe.label_smoothing, clip_grad=recipe.clip_grad,
            accumulate=recipe.accumulate,
        )  # fmt: skip
        training_seconds = time.perf_counter() - started
        val_loss, val_accuracy = _validate(model, val, machine, epoch, lr)
        schedule.after_epoch(val_loss)
        record = {
            "epoch": epoch,
            "lr": lr,
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": time.perf_counter() - started,
            "images_per_second": train.images / training_seconds,
            "peak_memory_mb": machine.peak_memory_mb(),
        }
        history = [*history, record]
        run.save_epoch(history, saved, keep=bool(recipe.save_every) and epoch % recipe.save_every == 0)
        say(_epoch_line(record, epochs, is_best=best_record(history) is record))
        run.draw_epoch(history, train)


def train_one_epoch(
    model: nn.Module,
    batches: Batches,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    scaler: torch.amp.GradScaler,
    machine: Machine,
    *,
    title: str = "training",
    label_smoothing: float = 0.0,
    clip_grad: float | None = None,
    accumulate: int = 1,
) -> tuple[float, float]:
    """Train on every batch once and return (mean loss, accuracy) over the images, as they were met.

    There is one path for all devices and number formats, and nothing in it waits for the device.

    Args:
        label_smoothing: share of the target that is spread over all classes (Szegedy et al., 2016).
        clip_grad: largest L2 norm of all gradients together.
        accumulate: batches whose gradients are averaged, image by image, into one optimizer step.

    Raises:
        Diverged: a loss is not finite, the network is not, or float16 overflows at every step.
    """
    _set_training_mode(model)
    meter = Meter(machine.device)
    one = torch.ones((), device=machine.device)
    with progress(batches.images, title) as bar:
        for group in _grouped(batches.epoch(epoch), accumulate):
            step_images = sum(len(labels) for _, labels in group)
            for inputs, labels in group:
                with machine.autocast():
                    logits = model(inputs)
                    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
                scaler.scale(loss * (len(labels) / step_images)).backward()
                meter.add(loss.detach(), logits.detach(), labels)
            if clip_grad is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
            lr = optimizer.param_groups[0]["lr"]
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            schedule.after_step()
            _check(*meter.glance(scaler.scale(one)), epoch, lr)
            bar.set_postfix(meter.postfix(), refresh=False)
            bar.update(step_images)
    _check(*meter.read(scaler.scale(one)), epoch, lr)
    _check_network(model, epoch, lr)
    return meter.loss, meter.accuracy


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, machine: Machine, title: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (N, classes) float32 and the labels (N,) of all images, in order, on the CPU."""
    model.eval()
    all_logits, all_labels = [], []
    with progress(batches.images, title) as bar:
        for inputs, labels in batches.epoch(0):
            with machine.autocast():
                logits = model(inputs)
            all_logits.append(logits.float())
            all_labels.append(labels)
            bar.update(len(labels))
    return torch.cat(all_logits).cpu(), torch.cat(all_labels).cpu()


def best_record(history: list[dict]) -> dict | None:
    """Return the record of the epoch with the best validation accuracy, the earliest of equals; None without epochs."""
    return max(history, key=lambda record: record["val_accuracy"], default=None)


def _set_training_mode(model: nn.Module) -> None:
    """Like `model.train()`, but frozen parts stay in evaluation mode: their batch norms keep their statistics."""
    model.train()
    for part in model.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


class Meter:
    """Sums loss and hits on the device. A glance at them lags behind and waits for nothing; only `read` waits."""

    def __init__(self, device: torch.device):
        # Sum of losses, number of hits, batches until the first loss that is not finite, loss scale.
        self._totals = torch.zeros(4, device=device)
        self._seen = torch.zeros(4, pin_memory=device.type == "cuda")
        self._images = self._batches = 0
        self.loss = self.accuracy = math.nan

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count one batch: mean loss (), logits (N, classes), labels (N,)."""
        hits = (logits.argmax(1) == labels).sum()
        self._totals[0] += loss * len(labels)
        self._totals[1] += hits
        self._totals[2] += self._totals[0].isfinite()
        self._images += len(labels)
        self._batches += 1

    def glance(self, loss_scale: torch.Tensor) -> tuple[int | None, float]:
        """Return (first batch with a loss that was not finite or None, loss scale), as far as the device has got."""
        self._totals[3] = loss_scale
        self._seen.copy_(self._totals, non_blocking=True)
        return self._interpret(self._seen)

    def read(self, loss_scale: torch.Tensor) -> tuple[int | None, float]:
        """Wait for the device, then return what `glance` returns, exact."""
        self._totals[3] = loss_scale
        return self._interpret(self._totals)

    def postfix(self) -> dict[str, str]:
        """Return what the progress bar shows."""
        return {"loss": f"{self.loss:.4f}", "accuracy": f"{self.accuracy:.4f}"}

    def _interpret(self, totals: torch.Tensor) -> tuple[int | None, float]:
        loss_sum, hits, finite_batches, scale = totals.tolist()
        self.loss, self.accuracy = loss_sum / self._images, hits / self._images
        return (None if math.isfinite(loss_sum) else int(finite_batches) + 1), scale


def _check(bad_batch: int | None, loss_scale: float, epoch: int, lr: float) -> None:
    if bad_batch is not None:
        raise Diverged(
            f"the loss is not finite any more in epoch {epoch}, step {bad_batch}, at learning rate {lr:g}; "
            "try a lower --lr, or --clip_grad 1"
        )
    if 0 < loss_scale < DEAD_LOSS_SCALE:
        raise Diverged(
            f"half precision overflows at every step in epoch {epoch}, at learning rate {lr:g} (the loss scale has "
            f"fallen to {loss_scale:.1g}); try --precision bf16 or fp32, or a lower --lr"
        )


def _check_network(model: nn.Module, epoch: int, lr: float) -> None:
    """Batch norm can hide weights that have run away: its output stays finite while its statistics overflow."""
    statistics = ((n, b) for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var")))
    for name, tensor in (*model.named_parameters(), *statistics):
        if not tensor.isfinite().all():
            raise Diverged(
                f"{name} of the network is not finite any more after the last step of epoch {epoch}, at learning rate "
                f"{lr:g}; try a lower --lr, or --clip_grad 1"
            )


def _grouped(batches: Iterable, size: int) -> Iterator[list]:
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


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
    say(f"stopping: no better validation accuracy for {patience} epochs")
    return True


def _epoch_line(record: dict, epochs: int, is_best: bool) -> str:
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"
        f"  train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.4f}"
        f"  val loss {record['val_loss']:.4f} accuracy {record['val_accuracy']:.4f}"
        f"  lr {record['lr']:.2g}  {record['images_per_second']:,.0f} images/s  {record['seconds']:.1f} s"
        f"{'  best' if is_best else ''}"
    )
