"""How a network is trained: the values of the shared training options, which travel together."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from common.data.batches import Batches
from common.optim.optimizers import Schedule, build_optimizer


@dataclass(frozen=True)
class Recipe:
    """The training options by name; `--help` says what each does."""

    epochs: int
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    schedule: str
    warmup_epochs: float
    step_size: int
    milestones: list[int]
    gamma: float
    plateau_patience: int
    label_smoothing: float
    class_weights: str
    mixup: float
    cutmix: float
    ema: float | None
    clip_grad: float | None
    accumulate: int
    patience: int | None
    save_every: int | None
    save_minutes: float | None
    print_every: int | None
    watch: int | None
    compile: bool

    @classmethod
    def of(cls, options: dict) -> "Recipe":
        """Return the recipe in `options`, which may hold others too."""
        return cls(**{field.name: options[field.name] for field in fields(cls)})

    def loss(
        self, logits: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the cross-entropy, a mean over images: () of logits (N, classes).

        `targets` are labels (N,) or shares of the classes (N, classes); `class_weights` (classes,), if there are some,
        are what an image of each class counts.
        """
        if class_weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        smoothing, logits = self.label_smoothing, logits.float()
        total = F.cross_entropy(logits, targets, class_weights, label_smoothing=smoothing, reduction="sum")
        return total / len(logits)  # not by the sum of the weights, which differs from batch to batch

    def build(self, parameters: Iterable, train: Batches) -> tuple[torch.optim.Optimizer, Schedule]:
        """Return the optimizer of `parameters` (or of groups of them) and its schedule over the batches `train`."""
        optimizer = build_optimizer(parameters, self.optimizer, self.lr, self.weight_decay, self.momentum)
        steps = [-(-train.batches_in(epoch) // self.accumulate) for epoch in range(1, self.epochs + 1)]
        schedule = Schedule(
            optimizer, self.schedule, steps, self.warmup_epochs,
            self.step_size, self.milestones, self.gamma, self.plateau_patience,
        )  # fmt: skip
        return optimizer, schedule
