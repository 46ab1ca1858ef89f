"""Optimizers and learning rate schedules by name."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch.optim import lr_scheduler

from common.system.errors import BadInput

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "muon")
SCHEDULES = ("none", "step", "multistep", "cosine", "linear", "plateau", "onecycle")
TINY = 1e-30  # so that 0 / 0 is 0
WITH_WARMUP = ("cosine", "linear")
# Their meaning does not depend on how many epochs there are, so that a finished run can be continued with more.
OPEN_ENDED = ("none", "step", "multistep", "plateau")
# What is left of the rate when a share of the steps is done.
SHAPES = {"cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)), "linear": lambda done: 1 - done}


def _lean(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return an optimizer that does not import PyTorch's compiler, a third of the way to the first step, to avoid it.

    What calls the compiler are wrappers around these methods; the one of `step` also switches gradients off.
    """
    methods = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in methods}
    return type(kind.__name__, (kind,), bare | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


def build_optimizer(
    parameters: Iterable, name: str, lr: float, weight_decay: float = 0.0, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Return one of OPTIMIZERS for parameters, or for groups of them.

    `momentum` is that of rmsprop, and of sgd and muon, where it is Nesterov's (0 is plain descent).
    """
    parameters = list(parameters)
    if isinstance(parameters[0], dict):  # whose parameters may come from a generator, which can be read once
        parameters = [group | {"params": list(group["params"])} for group in parameters]
    common = {"lr": lr, "weight_decay": weight_decay}
    if name == "rmsprop":
        return RMSprop(parameters, momentum=momentum, **common)
    if name == "muon":
        return Muon(parameters, momentum=momentum, nesterov=momentum > 0, **common)
    # Fused kernels pass over the weights once, and on CUDA work with a loss scaler without waiting for the device.
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    common["fused"] = first.device.type in ("cpu", "cuda") or None
    if name == "sgd":
        return SGD(parameters, momentum=momentum, nesterov=momentum > 0, **common)
    return ADAMS[name](parameters, **common)


ADAMS = {"adam": _lean(torch.optim.Adam), "adamw": _lean(torch.optim.AdamW)}


class SGD(_lean(torch.optim.SGD)):
    """SGD that takes parameters which begin to be trained later than others, as in stages: fused, PyTorch's fails."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Take a step; a momentum that is not there yet begins at 0, which is what the first step makes of none."""
        for group in self.param_groups:
            trained = [each for each in group["params"] if each.grad is not None and group["momentum"]]
            missing = [each for each in trained if self.state[each].get("momentum_buffer") is None]
            if len(missing) < len(trained):
                for each in missing:
                    self.state[each]["momentum_buffer"] = torch.zeros_like(each)
        return super().step(closure)


class Muon(SGD):
    """SGD whose steps take all directions equally far in the filters of each convolution (Jordan, "Muon", 2024).

    Their momentum, as a matrix (filters, numbers of one), is replaced by an orthogonal one near it. A step has the norm
    of the filters times `lr` and keeps that norm, as in cifar10-airbench: weight decay does not act on them. It is for
    networks with batch norm, to which the norm means nothing. What is no filter takes the steps of SGD.
    """

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Take a step."""
        done = []
        for group in self.param_groups:
            for filters in (each for each in group["params"] if each.ndim == 4 and each.grad is not None):
                self._turn(filters, group["lr"], group["momentum"])
                done.append((filters, filters.grad))
                filters.grad = None  # SGD leaves it alone
        super().step(closure)
        for filters, grad in done:
            filters.grad = grad

    def _turn(self, filters: torch.Tensor, lr: float, momentum: float) -> None:
        if "momentum_buffer" not in self.state[filters]:
            self.state[filters]["momentum_buffer"] = torch.zeros_like(filters)
        average = self.state[filters]["momentum_buffer"]
        average.mul_(momentum).add_(filters.grad)
        direction = _orthogonal(torch.add(filters.grad, average, alpha=momentum).flatten(1)).view(filters.shape)
        norm = filters.norm()
        filters.sub_(direction * (lr * norm / direction.norm().clamp(min=TINY)))
        filters.mul_(norm / filters.norm().clamp(min=TINY))


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix of the same directions whose singular values are about 1, by Newton-Schulz iterations.

    The numbers are Jordan's: three rounds bring singular values from 0.02 of the norm on to between 0.68 and 1.21.
    """
    if len(matrix) > matrix.shape[1]:
        return _orthogonal(matrix.T).T
    matrix = matrix / matrix.norm().clamp(min=TINY)
    for _ in range(3):
        square = matrix @ matrix.T
        matrix = 3.4445 * matrix + (2.0315 * square @ square - 4.7750 * square) @ matrix
    return matrix


class RMSprop(_lean(torch.optim.RMSprop)):
    """RMSprop that works with a loss scaler as fused optimizers do, so that nobody waits for the device.

    The scaler tells it by a tensor whether a gradient is not finite; a step with such a one is taken back.
    """

    _step_supports_amp_scaling = True  # then the scaler sets `found_inf`, and `grad_scale` if it has not unscaled

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Take a step, or none if `found_inf` is there and not 0."""
        if not hasattr(self, "found_inf"):
            super().step(closure)
            return
        trained = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
        if self.grad_scale is not None:
            torch._foreach_div_([parameter.grad for parameter in trained], self.grad_scale)
        before = {key: tensor.clone() for key, tensor in self._changed_by_a_step(trained)}
        super().step(closure)
        for key, tensor in self._changed_by_a_step(trained):
            tensor.copy_(torch.where(self.found_inf > 0, before.get(key, 0), tensor))  # averages begin at 0

    def _changed_by_a_step(self, trained: list) -> Iterator[tuple[tuple, torch.Tensor]]:
        """Yield (a name, tensor) of the parameters and their averages."""
        for place, parameter in enumerate(trained):
            yield (place, "parameter"), parameter
            yield from (((place, name), value) for name, value in self.state[parameter].items() if name != "step")


class Schedule:
    """Changes the learning rate of an optimizer: call `after_step` and `after_epoch` at those moments.

    Args:
        name: one of SCHEDULES.
            none: constant. step: times `gamma` every `step_size` epochs. multistep: times `gamma` at each of
            `milestones` (epochs). cosine: from `warmup_epochs` of linear rise down to 0 along a half cosine, by step
            (Loshchilov and Hutter, "SGDR", 2017). linear: the same along a line. plateau: times `gamma` when the
            validation loss has not improved for `plateau_patience` epochs. onecycle: up to the rate and down again, by
            step (Smith and Topin, 2018).
        steps: optimizer steps of each epoch.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, name: str, steps: Sequence[int], warmup_epochs: float = 0,
        step_size: int = 30, milestones: Sequence[int] = (), gamma: float = 0.1, plateau_patience: int = 10,
    ):  # fmt: skip
        check_schedule(name, len(steps), warmup_epochs, milestones)
        total, whole = max(1, sum(steps)), int(warmup_epochs)
        warmup_steps = sum(steps[:whole]) + round((warmup_epochs - whole) * sum(steps[whole : whole + 1]))
        rates, lr = [group["lr"] for group in optimizer.param_groups], optimizer.defaults["lr"]
        self._group_of_lr = rates.index(lr) if lr in rates else 0
        makers = {
            "none": lambda: lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0),
            "step": lambda: lr_scheduler.StepLR(optimizer, step_size, gamma),
            "multistep": lambda: lr_scheduler.MultiStepLR(optimizer, milestones, gamma),
            "cosine": lambda: lr_scheduler.LambdaLR(optimizer, _falling(total, warmup_steps, SHAPES[name])),
            "linear": lambda: lr_scheduler.LambdaLR(optimizer, _falling(total, warmup_steps, SHAPES[name])),
            "plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, "min", gamma, plateau_patience),
            "onecycle": lambda: lr_scheduler.OneCycleLR(optimizer, rates, total + 1, cycle_momentum=False),
        }
        self.scheduler = makers[name]()
        self.by_step, self.by_loss = name in ("cosine", "linear", "onecycle"), name == "plateau"
        self.state_dict, self.load_state_dict = self.scheduler.state_dict, self.scheduler.load_state_dict

    @property
    def rate(self) -> float:
        """The rate that -lr has come to: that of the first group that began with it, whatever others have of their own.

        Where none began with it, it is that of the first.
        """
        return self.scheduler.optimizer.param_groups[self._group_of_lr]["lr"]

    def after_step(self) -> None:
        if self.by_step:
            self.scheduler.step()

    def after_epoch(self, val_loss: float) -> None:
        if self.by_loss:
            self.scheduler.step(val_loss)
        elif not self.by_step:
            self.scheduler.step()


def check_schedule(name: str, epochs: int, warmup_epochs: float, milestones: Sequence[int]) -> None:
    """Raise BadInput if the options of a schedule contradict each other, or one that it needs is missing."""
    if name in WITH_WARMUP and warmup_epochs >= max(epochs, 1):
        raise BadInput(f"--warmup_epochs {warmup_epochs:g} must be less than --epochs {epochs}")
    if name == "multistep" and not milestones:
        raise BadInput("--schedule multistep needs --milestones, for instance --milestones 30,40")


def _falling(steps: int, warmup_steps: int, shape: Callable[[float], float]) -> Callable[[int], float]:
    """Return the factor by which the rate is multiplied after `step` steps; the first step of a warm-up is not zero.

    After the warm-up it is `shape` of the share of the steps that is done, from 1 down to 0.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return shape(min((step - warmup_steps) / max(1, steps - warmup_steps), 1.0))

    return factor
