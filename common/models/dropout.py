"""Dropout whose masks are drawn in parallel and belong to their image.

PyTorch draws the masks of a CPU on one thread, whatever the number of threads: a third of a training step of trainA.
Here they come from the hashes of `Draws`, by (seed, epoch, place in the epoch's order, layer), so that any number of
threads and of processes, and a run that is resumed, draw the same.
"""

from collections.abc import Sequence

import torch
from torch import nn

from common.transforms.random_streams import Draws

CHUNK = 2**18  # numbers drawn at a time: so few stay in the caches of the processor


class Dropout(nn.Dropout):
    """`nn.Dropout` with masks from `draws`, one stream for each image; without any it is that."""

    draws: Draws | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Set numbers of `inputs` (N, ...) to 0 with probability p, and divide the others by 1 - p."""
        if not self.training or self.draws is None or len(self.draws) != len(inputs) or not 0 < self.p < 1:
            return super().forward(inputs)
        return inputs * self._factors(inputs)

    @torch.no_grad()
    def _factors(self, like: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the shape and layout of `like` whose numbers are 0 or 1 / (1 - p)."""
        factors = torch.empty_like(like)
        in_memory = factors.permute(0, 2, 3, 1) if like.dim() == 4 else factors  # channels are innermost there
        draws, numbers = self.draws.branch(), like[0].numel()
        least = round(self.p * 2**16) - 2**15  # 16 random bits a number, as a signed integer
        images = max(1, CHUNK // numbers)
        for first in range(0, len(like), images):
            part = in_memory[first : first + images]
            bits = draws[slice(first, first + images)].bits(-(-numbers // 4)).view(torch.int16)[:, :numbers]
            torch.ge(bits.reshape(part.shape), least, out=part)
        return factors.mul_(1 / (1 - self.p))


def hash_dropouts(model: nn.Module) -> list[Dropout]:
    """Let the dropouts of a `model` on the CPU draw in parallel, and return them."""
    on_cpu = all(parameter.is_cpu for parameter in model.parameters())
    found = [module for module in model.modules() if type(module) in (nn.Dropout, Dropout)] if on_cpu else []
    for module in found:
        module.__class__, module.inplace = Dropout, False
    return found


def set_draws(dropouts: Sequence[Dropout], draws: Draws) -> None:
    """Give each of the `dropouts` streams of its own for the next batch; `draws` has one for each of its images."""
    for dropout in dropouts:
        dropout.draws = draws.branch()
