"""A running average of the weights, which often classifies better than the weights themselves."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """The exponential moving average of a network's weights and running statistics (Polyak and Juditsky, 1992).

    Args:
        decay: share of the old average that each step keeps.
    """

    def __init__(self, model: nn.Module, decay: float):
        self._source = model
        self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.state_dict, self.load_state_dict = self._averaged.state_dict, self._averaged.load_state_dict

    @property
    def model(self) -> nn.Module:
        """The network with the averaged weights."""
        return self._averaged.module

    def after_step(self) -> None:
        """Take in the weights as they are now; the first time they become the average."""
        self._averaged.update_parameters(self._source)
