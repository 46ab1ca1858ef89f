"""The training loop: one `train_one_epoch`, one `evaluate`.

Without resuming, several processes, number formats and what else options ask for, the two would read

    model.train()
    for inputs, labels in train.epoch(epoch):
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(inputs) for inputs, _ in val.epoch(0)])

and `test_an_epoch_is_the_textbook_loop` in tests/test_training.py proves that they do the same.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import torch
from torch import nn

from common.data.batches import Batches
from common.models.dropout import set_draws
from common.optim.recipe import Recipe
from common.runs.state import TrainState
from common.system.device import Machine
from common.system.distributed import sending
from common.system.errors import Diverged
from common.system.log import info, progress
from common.training.meter import Meter
from common.transforms.mixup import Mix
from common.transforms.random_streams import Draws

# A loss scale starts at 2^16 and halves at each overflow. Below this, thirty steps in a row (on balance) have changed
# nothing; on the way to 0 it would end as NaN in every weight.
DEAD_LOSS_SCALE = 2.0**-14


def train_one_epoch(
    state: TrainState, batches: Batches, epoch: int, machine: Machine, recipe: Recipe, mix: Mix | None = None
) -> tuple[float, float]:
    """Train on every batch once and return (mean loss, accuracy) over the images, as they were met.

    There is one path for all devices, number formats and numbers of processes, and nothing in it waits for the device.

    Args:
        recipe: what of it concerns an epoch: label_smoothing (Szegedy et al., 2016), clip_grad, the largest L2 norm of
            all gradients together, accumulate, the batches whose gradients are averaged, image by image, into one
            step, and print_every, which has to wait for the device.
        mix: mixes the images and labels of each batch; the accuracy is then that of the larger share.

    Raises:
        Diverged: a loss is not finite, the network is not, or float16 overflows at every step.
    """
    _set_training_mode(state.model)
    meter = Meter(machine)
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    network = machine.processes.together(state.forward, trained)
    one, class_weights = torch.ones((), device=machine.device), batches.class_weights(recipe.class_weights)
    steps = -(-batches.batches_in(epoch) // recipe.accumulate)
    done = _go_on(state, meter, machine)
    with progress(batches.images_in(epoch), f"epoch {epoch}/{recipe.epochs}") as bar:
        bar.update(meter.images)
        for step, (micro_batches, images) in enumerate(_steps(batches, epoch, recipe.accumulate, done), done + 1):
            for number, (inputs, labels, places) in enumerate(micro_batches, (step - 1) * recipe.accumulate):
                targets = labels
                if state.dropouts:
                    set_draws(state.dropouts, Draws(batches.seed, epoch, places, "dropout"))
                if mix:
                    inputs, targets = mix(inputs, labels, epoch, number)
                with machine.autocast(), sending(network, is_last=labels is micro_batches[-1][1]):
                    logits = network(inputs)
                    loss = recipe.loss(logits, targets, class_weights)
                share = len(labels) / images * machine.processes.world_size  # over all, gradients become their means
                state.scaler.scale(loss if share == 1 else loss * share).backward()
                meter.add(loss.detach(), logits.detach(), targets)
            lr = state.schedule.rate
            _take_step(state, recipe.clip_grad, step)
            if news := meter.end_step(images, state.scaler.scale(one)):
                _check(*news, epoch, lr)
                bar.set_postfix(meter.postfix(), refresh=False)
            if recipe.print_every and (step % recipe.print_every == 0 or step == steps):
                info(f"Epoch [{epoch}/{recipe.epochs}], Step [{step}/{steps}], Loss: {meter.last_loss():.4f}")
            bar.update(images)
            if state.after_step is not None and step < steps:
                state.after_step(step, meter.state_dict)
    _check(*meter.read(), epoch, lr)
    _check_network(state.model, epoch, lr)
    for model in dict.fromkeys((state.model, state.eval_model)):
        machine.processes.average_statistics(model)
    return meter.loss, meter.accuracy


def _go_on(state: TrainState, meter: Meter, machine: Machine) -> int:
    """Put back what an epoch that was interrupted had come to; return how many of its steps are done."""
    if state.under_way is None:
        return 0
    meter.load_state_dict(state.under_way["meter"])
    own = state.under_way["processes"][machine.processes.rank % len(state.under_way["processes"])]
    machine.set_random_state(own["random"])
    for buffer, value in zip(state.running_statistics(), own["statistics"], strict=True):
        buffer.copy_(value)
    done, state.under_way = state.under_way["step"], None
    return done


def _steps(batches: Batches, epoch: int, accumulate: int, done: int) -> Iterator[tuple[list, int]]:
    """Yield the batches of each optimizer step, this process's share, and the number of images of all processes.

    The first steps, which are `done`, are left out.
    """
    skip = done * accumulate
    of_batches = (batches.epoch(epoch, skip), batches.places(epoch)[skip:], batches.sizes(epoch)[skip:])
    coming = zip(*of_batches, strict=True)
    while group := list(islice(coming, accumulate)):
        yield [(*batch, places) for batch, places, _ in group], sum(size for *_, size in group)


def _take_step(state: TrainState, clip_grad: float | None, step: int) -> None:
    """Change the weights; of a step that is watched, the gradients are those before they are clipped."""
    is_watched = state.watch is not None and state.watch.is_watched(step - 1)  # the first step of an epoch always is
    if clip_grad is not None or is_watched:
        state.scaler.unscale_(state.optimizer)
    if is_watched:
        state.watch.before_step(step - 1)
    if clip_grad is not None:
        nn.utils.clip_grad_norm_(state.model.parameters(), clip_grad)
    state.scaler.step(state.optimizer)
    if is_watched:
        state.watch.after_step(step - 1)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.schedule.after_step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)


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
    with progress(len(batches.split), title) as bar:
        for inputs, labels in batches.epoch(0):
            with machine.autocast():
                if views:
                    of_views = torch.stack([model(view(inputs)).float().log_softmax(1) for view in views])
                    logits = of_views.logsumexp(0) - math.log(len(views))
                else:
                    logits = model(inputs)
            all_logits.append(logits.float())
            all_labels.append(labels)
            bar.update(len(labels) * machine.processes.world_size)
    mine = (torch.cat(all_logits).cpu(), torch.cat(all_labels).cpu()) if all_logits else None
    logits, labels = zip(*filter(None, machine.processes.gather(mine)), strict=True)
    return torch.cat(logits), torch.cat(labels)


def _set_training_mode(model: nn.Module) -> None:
    """Like `model.train()`, but frozen parts stay in evaluation mode: their batch norms keep their statistics."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


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


@torch.no_grad()
def _check_network(model: nn.Module, epoch: int, lr: float) -> None:
    """Batch norm can hide weights that have run away: its output stays finite while its statistics overflow."""
    statistics = ((n, b) for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var")))
    names, tensors = zip(*model.named_parameters(), *statistics, strict=True)
    largest = torch.stack(torch._foreach_norm(tensors, math.inf)).tolist()  # the device is waited for once
    for name, size in zip(names, largest, strict=True):
        if not math.isfinite(size):
            raise Diverged(
                f"{name} of the network is not finite any more after the last step of epoch {epoch}, at learning rate "
                f"{lr:g}; try a lower --lr, or --clip_grad 1"
            )
