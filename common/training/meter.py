"""What an epoch of training comes to: the sums of losses and of correct predictions."""

import ctypes
import itertools
import math
import time
from collections import deque

import torch

from common.system.device import Machine

TOGETHER = 10  # steps that are counted at once, as that takes as long as one
SOON = 0.1  # seconds after which a process that is alone counts those that there are


class Meter:
    """Sums losses and correct predictions, of several steps at once. What `end_step` tells lags behind and waits for
    nothing; all else that tells of the sums waits.

    The device counts and the host adds up, step after step in float32, so that no sum depends on which steps are
    counted at once. `images` is the number of images of all steps so far.
    """

    def __init__(self, machine: Machine):
        self._machine = machine
        self._batches, self._steps = [], []  # not counted yet; of each step its numbers of batches and of images
        self._coming = deque()  # counted, and on the way to main memory: (steps, numbers, are they there?)
        self._sum = self._correct = self._last_loss = 0.0
        self._finite_steps, self._scale, self._counted = 0, 1.0, 0
        self._step, self._loss_scale, self._counted_at = 0, None, time.monotonic()
        self.images = 0
        self.loss = self.accuracy = math.nan

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Note one batch: mean loss (), logits (N, classes), and labels (N,) or shares (N, classes)."""
        self._batches.append((loss, logits, targets, len(targets)))

    def end_step(self, images: int, loss_scale: torch.Tensor) -> tuple[int | None, float] | None:
        """Take in a step of so many images, and return what `read` would return, as far as the device has got, if that
        has changed.

        Several processes count after the same steps, because they have to tell each other.
        """
        self.images, self._step, self._loss_scale = self.images + images, self._step + 1, loss_scale
        self._steps.append((len(self._batches) - sum(batches for batches, _ in self._steps), images))
        is_alone = self._machine.processes.world_size == 1
        if self._step % TOGETHER and not (is_alone and time.monotonic() > self._counted_at + SOON):
            return None
        self._count()
        return self._take_in()

    def read(self) -> tuple[int | None, float]:
        """Wait for the device, and return (first step with a loss that was not finite or None, loss scale)."""
        self._count()
        self._machine.synchronize()
        return self._take_in()

    def state_dict(self) -> dict:
        """Return what was counted so far."""
        self.read()
        totals = [self._sum, self._correct, self._finite_steps, self._scale]
        return {"totals": torch.tensor(totals, dtype=torch.float32), "images": self.images}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned."""
        self._sum, self._correct, steps, self._scale = state["totals"].tolist()
        self._finite_steps = self._step = int(steps)
        self.images = self._counted = state["images"]

    def last_loss(self) -> float:
        """Return the mean loss of the last step."""
        self.read()
        return self._last_loss

    def postfix(self) -> dict[str, str]:
        """Return what the progress bar shows."""
        return {"loss": f"{self.loss:.4f}", "accuracy": f"{self.accuracy:.4f}"}

    def _count(self) -> None:
        """Let the device count what there is, and bring that to main memory."""
        self._counted_at = time.monotonic()
        if not self._steps:
            return
        losses, logits, targets, sizes = zip(*self._batches, strict=True)
        labels = torch.cat(targets)
        labels = labels if labels.dim() == 1 else labels.argmax(1)
        correct = (torch.cat(logits).argmax(1) == labels).sum()
        numbers = torch.stack([*torch._foreach_mul(losses, sizes), correct.float()])
        self._machine.processes.all_reduce([numbers])
        numbers = torch.cat([numbers, self._loss_scale[None]])  # which is the same in all processes
        self._coming.append((self._steps, *self._machine.fetch(numbers)))
        self._batches, self._steps = [], []

    def _take_in(self) -> tuple[int | None, float]:
        """Add up what has come to main memory."""
        while self._coming and self._coming[0][-1]():
            steps, numbers, _ = self._coming.popleft()
            *losses, correct, self._scale = numbers.tolist()
            losses = iter(losses)
            for batches, images in steps:
                of_step = 0.0
                for loss in itertools.islice(losses, batches):
                    of_step = _float32(of_step + loss)
                self._sum, self._last_loss = _float32(self._sum + of_step), of_step / images
                self._finite_steps += math.isfinite(self._sum)
                self._counted += images
            self._correct += correct
            self.loss, self.accuracy = self._sum / self._counted, self._correct / self._counted
        return (None if math.isfinite(self._sum) else self._finite_steps + 1), self._scale


def _float32(number: float) -> float:
    return ctypes.c_float(number).value
