"""What an epoch of training comes to: the sums of losses and of correct predictions."""

import math

import torch

from common.system.device import Machine


class Meter:
    """Sums losses and correct predictions on the device. What `end_step` tells lags behind and waits for nothing; only
    `read` waits.

    `of_step` holds the sums of loss and correct predictions of the step under way, `images` the number of all images.
    """

    def __init__(self, machine: Machine):
        # Sum of losses, number of correct predictions, steps until the first loss that is not finite, loss scale.
        self._totals = torch.zeros(4, device=machine.device)
        self._seen = torch.zeros(4, pin_memory=machine.device.type == "cuda")
        self.of_step = torch.zeros(2, device=machine.device)
        self._last = (self.of_step[0], 1)
        self.images = 0
        self.loss = self.accuracy = math.nan

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Count one batch: mean loss (), logits (N, classes), and labels (N,) or shares (N, classes)."""
        labels = targets if targets.dim() == 1 else targets.argmax(1)
        self.of_step[0].add_(loss * len(labels))  # += would copy the sum onto itself
        self.of_step[1].add_((logits.argmax(1) == labels).sum())

    def end_step(self, images: int, loss_scale: torch.Tensor) -> tuple[int | None, float]:
        """Take in a step of so many images, and return, as far as the device has got, what `read` returns."""
        self._totals[:2].add_(self.of_step)
        self._totals[2].add_(self._totals[0].isfinite())
        self._totals[3] = loss_scale
        self._last = (self.of_step[0], images)
        self.of_step = torch.zeros_like(self.of_step)
        self.images += images
        self._seen.copy_(self._totals, non_blocking=True)
        return self._interpret(self._seen)

    def read(self) -> tuple[int | None, float]:
        """Wait for the device, and return (first step with a loss that was not finite or None, loss scale)."""
        return self._interpret(self._totals)

    def state_dict(self) -> dict:
        """Return what was counted so far."""
        return {"totals": self._totals.clone(), "images": self.images}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned."""
        self._totals.copy_(state["totals"])
        self.images = state["images"]

    def last_loss(self) -> float:
        """Wait for the device, and return the mean loss of the last step."""
        loss_sum, images = self._last
        return (loss_sum / images).item()

    def postfix(self) -> dict[str, str]:
        """Return what the progress bar shows."""
        return {"loss": f"{self.loss:.4f}", "accuracy": f"{self.accuracy:.4f}"}

    def _interpret(self, totals: torch.Tensor) -> tuple[int | None, float]:
        loss_sum, correct, finite_steps, scale = totals.tolist()
        self.loss, self.accuracy = loss_sum / self.images, correct / self.images
        return (None if math.isfinite(loss_sum) else int(finite_steps) + 1), scale
