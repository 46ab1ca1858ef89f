"""A running average of the weights, which often classifies better than the weights themselves."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMA(AveragedModel):
    """The exponential moving average of a network's weights and running statistics (Polyak and Juditsky, 1992).

    Each step keeps the share `decay` of the old average.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights."""
        return self.module
