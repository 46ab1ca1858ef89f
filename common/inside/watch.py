"""How strongly the layers of a network learn, and what they give, epoch by epoch."""

import contextlib
import math

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from common.inside.maps import (
    ACTIVATIONS,
    NotThere,
    find_layers,
    first_filters,
    has_parameters,
    hooked_maps,
    is_visible,
)
from common.models.placement import eval_mode

# What these make of negative inputs vanishes or nearly so, and its gradient with it.
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
RECORDED = ("gradient_norm", "update_ratio", "activation_mean", "activation_std", "dead_share")
CONSTANT = 1e-3  # an output of another activation that varies by no more than this says nothing of the image


class Watch:
    """Records, at every `every`-th step of training, how strongly each layer learns; and once an epoch what it gives.

    The train loop calls `before_step` and `after_step` around `optimizer.step()`, and `end_epoch` after the epoch.
    Training is the same bit for bit as without it. A step that is not watched costs nothing; one that is watched
    needs the memory of a second copy of the trained weights. The device is waited for in `end_epoch` alone.

    Steps 0, `every`, 2 * `every`, ... are watched; ValueError is raised if it is below 1. `records` are what
    `end_epoch` returned for each epoch, `initial_filters` (filters, channels, h, w) those of the first convolution of
    `model` before its training, None if there is none.
    """

    def __init__(self, model: nn.Module, every: int):
        if every < 1:
            raise ValueError(f"every is {every}: it must be at least 1")
        self.model, self.every = model, every
        self.records: list[dict] = []
        self.initial_filters = None
        with contextlib.suppress(NotThere):
            self.initial_filters = first_filters(model)
        # Of each layer: the sums of gradient norms and update ratios, and below them the numbers of both.
        self._sums: dict[str, torch.Tensor] = {}
        self._before: dict[str, tuple] = {}

    def is_watched(self, step: int) -> bool:
        """Tell whether `step` is recorded, so that a loss scaler can be told to unscale the gradients before it."""
        return step % self.every == 0

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Note the weights and the gradients, which must not be scaled any more; `step` is 0 first in each epoch."""
        if not self.is_watched(step):
            return
        self._before = {}
        for name, layer in find_layers(self.model, has_parameters).items():
            trained = [p for p in layer.parameters(recurse=False) if p.requires_grad and p.grad is not None]
            if trained:
                self._before[name] = (get_total_norm([p.grad for p in trained]), trained, [p.clone() for p in trained])

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Note by how much the step changed the weights.

        A step with gradients that are not finite does not count: in float16 it is left out by the loss scaler.
        """
        if not self.is_watched(step) or not self._before:
            return
        finite = torch.stack([norm for norm, _, _ in self._before.values()]).isfinite().all()
        for name, (gradient_norm, trained, before) in self._before.items():
            change = get_total_norm([p - old for p, old in zip(trained, before, strict=True)])
            size = get_total_norm(before)
            values, counted = torch.stack([gradient_norm, change / size]), torch.stack([finite, finite & (size > 0)])
            self._sums[name] = self._sums.get(name, 0) + torch.stack([values.where(counted, 0), counted])
        self._before = {}

    def end_epoch(self, epoch: int, probe_inputs: torch.Tensor) -> dict:
        """Return {"epoch": number, "layers": {name: {...}}}, and append it to `records`; in the order of use, with

        - "gradient_norm": L2 norm of the gradients of all trained parameters of the layer;
        - "update_ratio": L2 norm of what a step changed in them, divided by their own L2 norm before it;
        - "activation_mean", "activation_std": of all numbers that the layer gives for the probe inputs, (N, ...) on the
          device and the same after each epoch, with the network in evaluation mode;
        - "dead_share": of an activation's units, the share that is dead, see `dead_share`.

        The first two are means of the watched steps. None stands for what a layer does not have: gradients where it is
        frozen, dead units where it is no activation, an output where it is not used.
        """
        outputs = _read(_activation_statistics(self.model, probe_inputs))
        steps = _read({name: sums / counts for name, (sums, counts) in self._sums.items()})  # NaN where none counted
        self._sums = {}
        layers = {}
        for name in dict.fromkeys([*outputs, *find_layers(self.model, has_parameters)]):
            values = steps.get(name, [math.nan] * 2) + outputs.get(name, [math.nan] * 3)
            layers[name] = {key: v if math.isfinite(v) else None for key, v in zip(RECORDED, values, strict=True)}
        record = {"epoch": epoch, "layers": layers}
        self.records.append(record)
        return record

    def state_dict(self) -> dict:
        """Return what a resume needs: plain values and tensors."""
        return {"records": list(self.records), "initial_filters": self.initial_filters, "sums": self._sums}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned between two steps."""
        self.records = list(state["records"])
        self.initial_filters = state["initial_filters"]
        device = next(self.model.parameters()).device
        self._sums = {name: sums.to(device) for name, sums in state.get("sums", {}).items()}
        self._before = {}


def dead_share(layer: nn.Module, output: torch.Tensor, is_last: bool = False) -> torch.Tensor:
    """Return which share () of an activation's units is dead, that is, gives the same for all images and places.

    A unit of a rectifier (ReLU, GELU, SiLU, ...) is dead if its output is nowhere above 0, so that no gradient, or
    nearly none, passes it (Lu et al.: "Dying ReLU and Initialization", 2019). A unit of any other activation, such as
    Sigmoid or Tanh, is dead if its output varies by no more than CONSTANT (Glorot and Bengio: "Understanding the
    difficulty of training deep feedforward neural networks", 2010, show how such layers saturate). Fewer images make
    more units look dead.

    Units are the channels of an output (N, C, H, W), the features of (N, F) or (N, tokens, F), and what `is_last`.
    """
    units = output.movedim(-1 if output.dim() == 3 or is_last else 1, 0).flatten(1)
    highest, lowest = units.amax(1), units.amin(1)
    dead = highest <= 0 if isinstance(layer, RECTIFIERS) else highest - lowest <= CONSTANT
    return dead.float().mean()


def _activation_statistics(model: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return {name of the use: (mean, standard deviation, dead share or NaN)} on the device."""
    statistics = {}

    def note(name: str, layer: nn.Module, output: torch.Tensor, is_last: bool) -> None:
        if not is_visible(layer):
            return
        values = output.float()
        is_activation = isinstance(layer, ACTIVATIONS)
        dead = dead_share(layer, values, is_last) if is_activation else torch.full((), math.nan, device=values.device)
        statistics[name] = torch.stack([values.mean(), values.std(correction=0), dead])

    with eval_mode(model), torch.no_grad(), hooked_maps(model, note):
        model(inputs)
    return statistics


def _read(tensors: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Return the numbers of tensors of one length; the device is waited for once."""
    if not tensors:
        return {}
    return dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))
