"""The training loop: one `train_one_epoch`, one `evaluate`, one `fit`."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn

from common.data.batches import Batches
from common.inside.watch import Watch
from common.optim.ema import Average
from common.optim.optimizers import Schedule
from common.optim.recipe import Recipe
from common.runs.history import best_record
from common.system.device import Machine
from common.system.errors import Diverged
from common.system.log import progress, say
from common.system.resources import ResourceMonitor
from common.training.compiling import compiled
from common.transforms.mixup import Mix
from common.transforms.random_streams import epoch_seed

# A loss scale starts at 2^16 and halves at each overflow. Below this, thirty steps in a row (on balance) have changed
# nothing; on the way to 0 it would end as NaN in every weight.
DEAD_LOSS_SCALE = 2.0**-14
PROBED = 64  # validation images that a watch shows to the network after each epoch


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
) -> Watch | None:
    """Train, and after every epoch save what a resume needs, the best weights, `train.json` and the curves.

    A run that is resumed goes on from its last saved epoch, bit for bit.

    Args:
        run: the `Run` to write to.
        optimizer, schedule: as `recipe` builds them.
        recipe: how long, when to stop, what to keep. No epochs means that the weights are only validated.
        before_epoch: called with the number of each epoch before it, to freeze and unfreeze parts of the model. It
            must depend on that number alone, so that a resumed run does the same.

    Returns:
        What was seen inside the network, if the recipe asks for that.

    Raises:
        Diverged: the loss is no longer finite.
    """
    scaler = machine.scaler()
    average = Average(model, recipe.ema) if recipe.ema else None
    judged = average.model if average else model  # what is validated, and kept if it is the best
    mix = Mix(recipe.mixup, recipe.cutmix, len(run.config["classes"]), train.seed)
    if mix and recipe.epochs:
        say("note: training accuracies are of mixed images: how often the larger share is recognised")
    forward = compiled(model) if recipe.compile else model
    saved = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    saved |= {"average": average} if average else {}
    watch = Watch(model, recipe.watch) if recipe.watch else None
    saved |= {"watch": watch} if watch else {}
    history = run.restore(saved)
    epochs = recipe.epochs
    if epochs == 0:
        run.save_untrained(model, accuracy=_validate(model, val, machine, epoch=0, lr=0.0)[1])
    while len(history) < epochs and not _out_of_patience(history, recipe.patience):
        epoch = len(history) + 1
        if before_epoch is not None:
            before_epoch(epoch)
        torch.manual_seed(epoch_seed(train.seed, epoch) + machine.processes.rank)
        lr = max(group["lr"] for group in optimizer.param_groups)
        started = time.perf_counter()
        with ResourceMonitor(machine) as resources:
            train_loss, train_accuracy = train_one_epoch(
                model, train, epoch, optimizer, schedule, scaler, machine,
                title=f"epoch {epoch}/{epochs}", label_smoothing=recipe.label_smoothing, clip_grad=recipe.clip_grad,
                accumulate=recipe.accumulate, print_every=recipe.print_every, forward=forward, mix=mix, average=average,
                watch=watch,
            )  # fmt: skip
        training_seconds = time.perf_counter() - started
        val_loss, val_accuracy = _validate(judged, val, machine, epoch, lr)
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
            "images_per_second": train.images_in(epoch) / training_seconds,
            "peak_memory_mb": machine.peak_memory_mb(),
            **resources.record(),
        }
        history = [*history, record]
        if watch:
            watch.end_epoch(epoch, val.first_images(PROBED))
        run.save_epoch(history, saved, judged, keep=bool(recipe.save_every) and epoch % recipe.save_every == 0)
        say(_epoch_line(record, epochs, is_best=best_record(history) is record))
        run.draw_epoch(history, train)
    return watch


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
    print_every: int | None = None,
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
    mix: Mix | None = None,
    average: Average | None = None,
    watch: Watch | None = None,
) -> tuple[float, float]:
    """Train on every batch once and return (mean loss, accuracy) over the images, as they were met.

    There is one path for all devices, number formats and numbers of processes, and nothing in it waits for the device.

    Args:
        label_smoothing: share of the target that is spread over all classes (Szegedy et al., 2016).
        clip_grad: largest L2 norm of all gradients together.
        accumulate: batches whose gradients are averaged, image by image, into one optimizer step.
        print_every: say the loss every so many steps, which has to wait for the device.
        forward: runs the model; by default the model itself.
        mix: mixes the images and labels of each batch; the accuracy is then that of the larger share.
        average: takes in the weights after each step.
        watch: sees gradients and weights before and after some steps.

    Raises:
        Diverged: a loss is not finite, the network is not, or float16 overflows at every step.
    """
    _set_training_mode(model)
    forward = forward or model
    meter = Meter(machine)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    one = torch.ones((), device=machine.device)
    sizes = batches.sizes(epoch)
    steps = -(-len(sizes) // accumulate)
    with progress(sum(sizes), title) as bar:
        for step, group in enumerate(_grouped(zip(batches.epoch(epoch), sizes, strict=True), accumulate), 1):
            step_images = sum(size for _, size in group)  # of all processes
            for place, ((inputs, labels), _) in enumerate(group):
                targets = labels
                if mix:
                    inputs, targets = mix(inputs, labels, epoch, (step - 1) * accumulate + place)
                with machine.autocast():
                    logits = forward(inputs)
                    loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
                scaler.scale(loss * (len(labels) / step_images)).backward()
                meter.add(loss.detach(), logits.detach(), targets)
            _sum_over_processes(trained, meter, machine)
            lr = optimizer.param_groups[0]["lr"]
            _take_step(model, optimizer, scaler, clip_grad, watch, step)
            optimizer.zero_grad()
            schedule.after_step()
            if average is not None:
                average.after_step()
            _check(*meter.end_step(step_images, scaler.scale(one)), epoch, lr)
            if print_every and (step % print_every == 0 or step == steps):
                say(f"Epoch [{title.split()[-1]}], Step [{step}/{steps}], Loss: {meter.last_loss():.4f}")
            bar.set_postfix(meter.postfix(), refresh=False)
            bar.update(step_images)
    _check(*meter.read(), epoch, lr)
    _check_network(model, epoch, lr)
    for network in (model, average.model) if average else (model,):
        machine.processes.average_statistics(network)
    return meter.loss, meter.accuracy


def _take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    clip_grad: float | None,
    watch: Watch | None,
    step: int,
) -> None:
    """Change the weights; of a step that is watched, the gradients are those before they are clipped."""
    is_watched = watch is not None and watch.is_watched(step - 1)  # the first step of an epoch always is
    if clip_grad is not None or is_watched:
        scaler.unscale_(optimizer)
    if is_watched:
        watch.before_step(step - 1)
    if clip_grad is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
    scaler.step(optimizer)
    if is_watched:
        watch.after_step(step - 1)
    scaler.update()


def _sum_over_processes(trained: list[nn.Parameter], meter: "Meter", machine: Machine) -> None:
    """Give every process the gradients, the loss and the hits of the whole batch."""
    if machine.processes.count > 1:
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        machine.processes.sum_([*gradients, meter.of_step])


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Batches,
    machine: Machine,
    title: str,
    views: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (N, classes) float32 and the labels (N,) of all images, in order, on the CPU.

    Args:
        views: ways to look at an input; with any, the logits are logarithms of the mean probabilities over them.
    """
    model.eval()
    all_logits, all_labels = [], []
    with progress(len(batches.part), title) as bar:
        for inputs, labels in batches.epoch(0):
            with machine.autocast():
                logits = _mean_over_views(model, inputs, views) if views else model(inputs)
            all_logits.append(logits.float())
            all_labels.append(labels)
            bar.update(len(labels) * machine.processes.count)
    mine = (torch.cat(all_logits).cpu(), torch.cat(all_labels).cpu()) if all_logits else None
    logits, labels = zip(*filter(None, machine.processes.gather(mine)), strict=True)
    return torch.cat(logits), torch.cat(labels)


def _mean_over_views(model: nn.Module, inputs: torch.Tensor, views: Sequence[Callable]) -> torch.Tensor:
    return torch.stack([model(view(inputs)).float().softmax(1) for view in views]).mean(0).log()


def _set_training_mode(model: nn.Module) -> None:
    """Like `model.train()`, but frozen parts stay in evaluation mode: their batch norms keep their statistics."""
    model.train()
    for part in model.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


class Meter:
    """Sums loss and hits on the device. What `end_step` tells lags behind and waits for nothing; only `read` waits.

    `of_step` holds the sums of loss and hits of the step under way.
    """

    def __init__(self, machine: Machine):
        # Sum of losses, number of hits, steps until the first loss that is not finite, loss scale.
        self._totals = torch.zeros(4, device=machine.device)
        self._seen = torch.zeros(4, pin_memory=machine.device.type == "cuda")
        self.of_step = torch.zeros(2, device=machine.device)
        self._last = torch.zeros((), device=machine.device)
        self._images = 0
        self.loss = self.accuracy = math.nan

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Count one batch: mean loss (), logits (N, classes), and labels (N,) or shares (N, classes)."""
        labels = targets if targets.dim() == 1 else targets.argmax(1)
        self.of_step[0] += loss * len(labels)
        self.of_step[1] += (logits.argmax(1) == labels).sum()

    def end_step(self, images: int, loss_scale: torch.Tensor) -> tuple[int | None, float]:
        """Take in a step of so many images, and return, as far as the device has got, what `read` returns."""
        self._totals[:2] += self.of_step
        self._totals[2] += self._totals[0].isfinite()
        self._totals[3] = loss_scale
        self._last = self.of_step[0] / images
        self.of_step = torch.zeros_like(self.of_step)
        self._images += images
        self._seen.copy_(self._totals, non_blocking=True)
        return self._interpret(self._seen)

    def read(self) -> tuple[int | None, float]:
        """Wait for the device, and return (first step with a loss that was not finite or None, loss scale)."""
        return self._interpret(self._totals)

    def last_loss(self) -> float:
        """Wait for the device, and return the mean loss of the last step."""
        return self._last.item()

    def postfix(self) -> dict[str, str]:
        """Return what the progress bar shows."""
        return {"loss": f"{self.loss:.4f}", "accuracy": f"{self.accuracy:.4f}"}

    def _interpret(self, totals: torch.Tensor) -> tuple[int | None, float]:
        loss_sum, hits, finite_steps, scale = totals.tolist()
        self.loss, self.accuracy = loss_sum / self._images, hits / self._images
        return (None if math.isfinite(loss_sum) else int(finite_steps) + 1), scale


def _check(bad_step: int | None, loss_scale: float, epoch: int, lr: float) -> None:
    if bad_step is not None:
        raise Diverged(
            f"the loss is not finite any more in epoch {epoch}, step {bad_step}, at learning rate {lr:g}; "
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
