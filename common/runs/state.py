"""Everything that training changes, and so everything that a checkpoint holds."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from common.data.checks import Checks
from common.inside.watch import Watch
from common.models.dropout import Dropout, hash_dropouts
from common.optim.ema import EMA
from common.optim.optimizers import Schedule
from common.optim.recipe import Recipe
from common.system.device import Machine
from common.system.distributed import Processes
from common.system.errors import is_out_of_memory
from common.system.log import info


@dataclass
class TrainState:
    """A network in training, with all that changes along with it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    forward: Callable[[torch.Tensor], torch.Tensor]  # runs the network: itself, or a compiled form of it
    dropouts: Sequence[Dropout] = ()  # its layers whose masks belong to their image
    ema: EMA | None = None  # unless the recipe asks for it
    watch: Watch | None = None  # likewise
    images: Sequence[Checks | None] = (None, None)  # of the training and of the validation images
    under_way: dict | None = None  # what a run that was interrupted within an epoch goes on from
    # Called within an epoch with the steps done, and with what returns what its meter has come to.
    after_step: Callable[[int, Callable[[], dict]], None] | None = None

    @classmethod
    def of(
        cls, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Schedule, recipe: Recipe, machine: Machine
    ) -> "TrainState":
        """Return the state before the first step."""
        return cls(
            model, optimizer, schedule, machine.scaler(),
            forward=compiled(model) if recipe.compile else model,
            dropouts=() if recipe.compile else hash_dropouts(model),  # compiled, a mask costs nothing
            ema=EMA(model, recipe.ema) if recipe.ema else None,
            watch=Watch(model, recipe.watch) if recipe.watch else None,
        )  # fmt: skip

    @property
    def eval_model(self) -> nn.Module:
        """The network that is validated, and kept if it is the best."""
        return self.ema.model if self.ema else self.model

    def state_dict(self) -> dict:
        """Return the states of all parts, by the names that checkpoints have for them."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned."""
        for name, part in self._parts().items():
            if name in state or not isinstance(part, Checks):  # which earlier versions did not save
                part.load_state_dict(state[name])
        self.under_way = state.get("under_way")

    def share_checks(self, processes: Processes) -> None:
        """Let all processes know the checks of what each has read, so that a checkpoint has them all."""
        for checks in filter(None, self.images):
            checks.share(processes.gather)

    def running_statistics(self) -> list[torch.Tensor]:
        """Return those of the network in training and of the one that is validated: each process has its own."""
        return [buffer for network in dict.fromkeys((self.model, self.eval_model)) for buffer in network.buffers()]

    def _parts(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        parts |= {"average": self.ema, "watch": self.watch}
        parts |= zip(("train_images", "val_images"), self.images, strict=True)
        return {name: part for name, part in parts.items() if part is not None}


def weights_sha256(weights: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a state dict: of the names, types, shapes and bits of its tensors."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def compiled(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that runs `model`, compiled when it meets a shape of batch; should that fail, now or at a later
    shape, it says so and runs it plain from then on.

    The weights stay those of `model`, and so do the names in its checkpoints.
    """
    run = torch.compile(model)

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        nonlocal run
        try:
            return run(inputs)
        except Exception as error:
            if run is model or is_out_of_memory(error):
                raise
            run = model
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            info(f"warning: --compile does not work here, going on without it ({reason[:200]})")
            return model(inputs)

    return forward
