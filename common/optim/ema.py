"""A running average of the weights, which often classifies better than the weights themselves."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class EMA(AveragedModel):
    """The exponential moving average of a network's weights and running statistics (Polyak and Juditsky, 1992).

    Each step keeps the share `decay` of the old average. The numbers and the names in checkpoints are those of PyTorch,
    whose own update copies its count of steps to the GPU and waits for that.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, use_buffers=True)
        self.decay = decay

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights."""
        return self.module

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights of `model` after a step; the first ones are taken as they are."""
        averages, values = ([*network.parameters(), *network.buffers()] for network in (self.module, model))
        if self.n_averaged == 0:  # a count on the CPU
            torch._foreach_copy_(averages, values)
        else:
            pairs = list(zip(averages, values, strict=True))
            of_floats = [pair for pair in pairs if pair[0].is_floating_point()]
            torch._foreach_lerp_(*map(list, zip(*of_floats, strict=True)), 1 - self.decay)
            for average, value in pairs:
                if not average.is_floating_point():  # the batches that a batch norm has counted
                    average.copy_(average * self.decay + value * (1 - self.decay))
        self.n_averaged += 1
