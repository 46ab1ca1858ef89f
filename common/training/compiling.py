"""`torch.compile` with a way back: a network that cannot be compiled here is run as it is."""

from collections.abc import Callable

import torch
from torch import nn

from common.system.errors import is_out_of_memory
from common.system.log import say


def compiled(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that runs `model`, compiled at its first call if that works.

    The weights stay those of `model`, and so do the names in its checkpoints.
    """
    fast, works = torch.compile(model), None

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        nonlocal works
        if works is False:
            return model(inputs)
        try:
            result, works = fast(inputs), True
            return result
        except Exception as error:
            if works or is_out_of_memory(error):
                raise
            works = False
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            say(f"warning: --compile does not work here, going on without it ({reason[:200]})")
            return model(inputs)

    return forward
