"""Look inside a network: how strongly its layers learn, what they give, and which pixels a decision came from.

All of it works on any `nn.Module`, and takes and gives plain values:

    watch = Watch(model, every=10)                  # before training; the train loop tells it of each step
    filters = first_filters(model)                  # (filters, channels, h, w)
    maps = feature_maps(model, images[0])           # {"0": (12, 30, 30), ...}
    heat = grad_cam(model, images)                  # (N, H, W)

Layers are called by their names in `model.named_modules()`. The second use of one layer in a forward pass has ":2" at
the end of its name, the third ":3": a residual block of torchvision uses its one ReLU several times.
"""

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import activation

NO_ACTIVATIONS = ("MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax")  # though torch puts them there
ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name not in NO_ACTIVATIONS)
# What these make of negative inputs vanishes or nearly so, and its gradient with it.
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
CONSTANT = 1e-3  # an output of another activation that varies by no more than this says nothing of the image


class NotThere(ValueError):
    """The network does not have what was asked for."""


class Watch:
    """Records, at every `every`-th step of training, how strongly each layer learns; and once an epoch what it gives.

    The train loop calls `before_step` and `after_step` around `optimizer.step()`, and `end_epoch` after the epoch:

        loss.backward()
        watch.before_step(step)
        optimizer.step()
        watch.after_step(step)

    Training is the same bit for bit as without it. A step that is not watched costs nothing; one that is watched
    needs the memory of a second copy of the trained weights. The device is waited for in `end_epoch` alone.

    Args:
        model: the network, before its training: its first filters are kept to be compared with the trained ones.
        every: steps 0, `every`, 2 * `every`, ... are watched.

    Attributes:
        records: what `end_epoch` returned for each epoch.
        initial_filters: (filters, channels, h, w) of the first convolution before training; None if there is none.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(self, model: nn.Module, every: int):
        if every < 1:
            raise ValueError(f"every is {every}: it must be at least 1")
        self.model, self.every = model, every
        self.records: list[dict] = []
        self.initial_filters = first_filters(model) if _convolutions(model) else None
        # Of each layer: sum of gradient norms, number of them, sum of update ratios, number of them.
        self._sums: dict[str, torch.Tensor] = {}
        self._before: dict[str, tuple] = {}

    def is_watched(self, step: int) -> bool:
        """Tell whether `step` is recorded, so that a loss scaler can be told to unscale the gradients before it."""
        return step % self.every == 0

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """Note the gradients, which must not be scaled any more, and the weights.

        Args:
            step: the number of the step, from 0 on, so that each epoch has a watched one if steps count anew in each.
        """
        if not self.is_watched(step):
            return
        self._before = {}
        for name, layer in _layers_with_parameters(self.model).items():
            trained = [p for p in layer.parameters(recurse=False) if p.requires_grad and p.grad is not None]
            if trained:
                self._before[name] = (_norm(p.grad for p in trained), trained, [p.clone() for p in trained])

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Note by how much the step changed the weights.

        A step with gradients that are not finite does not count: in float16 it is left out by the loss scaler.
        """
        if not self.is_watched(step) or not self._before:
            return
        finite = torch.stack([norm for norm, _, _ in self._before.values()]).isfinite().all()
        for name, (gradient_norm, trained, before) in self._before.items():
            change, size = _norm(p - old for p, old in zip(trained, before, strict=True)), _norm(before)
            has_ratio = finite & (size > 0)
            values = [
                gradient_norm.masked_fill(~finite, 0.0), finite.float(),
                (change / size).masked_fill(~has_ratio, 0.0), has_ratio.float(),
            ]  # fmt: skip
            self._sums[name] = self._sums.get(name, 0) + torch.stack(values)
        self._before = {}

    def end_epoch(self, epoch: int, probe_inputs: torch.Tensor) -> dict:
        """Return, and append to `records`, what the epoch showed.

        Args:
            epoch: its number.
            probe_inputs: inputs (N, ...) of the network, the same after each epoch, on its device.

        Returns:
            {"epoch": number, "layers": {name: {...}}}, the layers in the order in which they are used, with

            - "gradient_norm": L2 norm of the gradients of all trained parameters of the layer;
            - "update_ratio": L2 norm of what a step changed in them, divided by their own L2 norm before it;
            - "activation_mean", "activation_std": of all numbers that the layer gives for the probe inputs, with the
              network in evaluation mode;
            - "dead_share": of an activation's units, the share that is dead, see `dead_share`.

            The first two are means of the watched steps. None stands for what a layer does not have: gradients
            where it is frozen, dead units where it is no activation, an output where it is not used.
        """
        outputs = _read(_activation_statistics(self.model, probe_inputs))
        steps = _read(self._sums)
        self._sums = {}
        layers = {}
        for name in dict.fromkeys([*outputs, *_layers_with_parameters(self.model)]):
            norms, norm_count, ratios, ratio_count = steps.get(name, [0.0] * 4)
            mean, std, dead = outputs.get(name, [math.nan] * 3)
            layers[name] = {
                "gradient_norm": norms / norm_count if norm_count else None,
                "update_ratio": ratios / ratio_count if ratio_count else None,
                "activation_mean": _finite(mean),
                "activation_std": _finite(std),
                "dead_share": _finite(dead),
            }
        record = {"epoch": epoch, "layers": layers}
        self.records.append(record)
        return record

    def state_dict(self) -> dict:
        """Return what a resume after an epoch needs: plain values and a tensor."""
        return {"records": list(self.records), "initial_filters": self.initial_filters}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned after an epoch."""
        self.records = list(state["records"])
        self.initial_filters = state["initial_filters"]
        self._sums, self._before = {}, {}


def first_filters(model: nn.Module) -> torch.Tensor:
    """Return a copy (filters, channels, h, w), on the CPU, of the weights of the first convolution.

    Raises:
        NotThere: the network has no `nn.Conv2d`.
    """
    convolutions = _convolutions(model)
    if not convolutions:
        raise NotThere("the network has no convolution")
    return convolutions[0].weight.detach().cpu().clone()


def feature_maps(model: nn.Module, image: torch.Tensor, layers: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Return what layers make of one image: {name: (channels, h, w)} float32 on the CPU, in the order of their use.

    The network runs in evaluation mode and is afterwards as it was.

    Args:
        image: (C, H, W), as the network takes it.
        layers: names of layers of any kind; if not given, all convolutions and activations with such an output.

    Raises:
        NotThere: a layer has another name, is not used, or has no maps.
        ValueError: the image has another shape.
    """
    if image.dim() != 3:
        raise ValueError(f"the image has the shape {tuple(image.shape)} where (channels, height, width) is needed")
    wanted = None if layers is None else list(layers)
    maps = {}

    def keep(name: str, _: nn.Module, output: torch.Tensor) -> None:
        if output.dim() == 4 and (wanted is None or name in wanted):
            maps[name] = output[0].detach().float().cpu().clone()  # a ReLU that works in place changes the original

    chosen = _maps_by_default(model) if wanted is None else _named(model, wanted)
    with evaluating(model), torch.no_grad(), _hooked(chosen, keep):
        model(image[None].to(_device(model)))
    missing = [name for name in wanted or () if name not in maps]
    if missing or not maps:
        raise NotThere(f"{missing[0]} gives no maps" if missing else "no convolution or activation gives maps")
    return maps


def last_spatial_layer(model: nn.Module, inputs: torch.Tensor) -> str:
    """Return the name of the last layer, in the order of use, whose output still has places: more than 1x1 of them.

    Layers are those with parameters and activations.

    Args:
        inputs: (N, C, H, W); the first is tried.

    Raises:
        NotThere: there is none.
    """
    names = []

    def note(name: str, _: nn.Module, output: torch.Tensor) -> None:
        if output.dim() == 4 and output.shape[2:].numel() > 1:
            names.append(name)

    with evaluating(model), torch.no_grad(), _hooked(_visible_layers(model), note):
        model(inputs[:1])
    if not names:
        raise NotThere("no layer of the network has an output with places, (N, channels, h, w)")
    return names[-1]


def grad_cam(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor | None = None, layer: str | None = None
) -> torch.Tensor:
    """Return where in each image the evidence for a class was found: (N, H, W) float32 from 0 to 1, on the CPU.

    The maps of a layer are summed, each weighted by the mean gradient of the class's logit in it, and what speaks
    against the class is cut off at 0 (Selvaraju et al.: "Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization", 2017, equations 1 and 2). The sum is enlarged bilinearly to the size of the images
    and divided by its maximum; it is 0 everywhere where nothing speaks for the class.

    The network runs in evaluation mode and is afterwards as it was, gradients included.

    Args:
        inputs: (N, C, H, W), as the network takes them, on its device.
        labels: (N,) int64, the class asked about for each image; if not given, the one that the network predicts.
        layer: the name of a layer; if not given, `last_spatial_layer`.

    Raises:
        NotThere: the layer is not there, is not used, or its output has no places.
    """
    layer = layer or last_spatial_layer(model, inputs)
    kept = []

    def cut(name: str, _: nn.Module, output: torch.Tensor) -> torch.Tensor | None:
        if name != layer:
            return None
        kept.append(output.detach().requires_grad_())  # gradients are wanted down to here, frozen or not
        return kept[0].clone()  # which a ReLU that works in place may change

    with torch.inference_mode(False), torch.enable_grad(), evaluating(model), _hooked(_named(model, [layer]), cut):
        logits = model(inputs.clone())  # a tensor made in inference mode cannot be differentiated through, its copy can
        if not kept or kept[0].dim() != 4:
            raise NotThere(f"{layer} gives no maps (N, channels, h, w)")
        labels = logits.argmax(1) if labels is None else labels.to(logits.device)
        (gradients,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), kept[0])
    maps, gradients = kept[0].detach().float(), gradients.float()
    heat = F.relu((gradients.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True))
    heat = F.interpolate(heat, size=inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)).clamp(0, 1).cpu()


def dead_share(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Return which share () of an activation's units is dead, that is, gives the same for all images and places.

    A unit of a rectifier (ReLU, GELU, SiLU, ...) is dead if its output is nowhere above 0, so that no gradient, or
    nearly none, passes it (Lu et al.: "Dying ReLU and Initialization", 2019). A unit of any other activation, such as
    Sigmoid or Tanh, is dead if its output varies by no more than CONSTANT (Glorot and Bengio: "Understanding the
    difficulty of training deep feedforward neural networks", 2010, show how such layers saturate). Fewer images make
    more units look dead.

    Args:
        layer: the activation.
        output: (N, C, H, W) with channels as units, (N, F) with features, or (N, tokens, F) with features.
    """
    units = output.movedim(-1 if output.dim() == 3 else 1, 0).flatten(1)
    highest, lowest = units.amax(1), units.amin(1)
    dead = highest <= 0 if isinstance(layer, RECTIFIERS) else highest - lowest <= CONSTANT
    return dead.float().mean()


def layer_kinds(model: nn.Module) -> dict[str, str]:
    """Return {name: kind, such as "Conv2d"} of all layers that have parameters or are activations."""
    layers = _visible_layers(model) | _layers_with_parameters(model)
    return {name: type(layer).__name__ for name, layer in layers.items()}


def name_of_layer(name_of_use: str) -> str:
    """Return the name of the layer whose second or later use has the name `name_of_use`: "relu" for "relu:2"."""
    layer, separator, number = name_of_use.rpartition(":")
    return layer if separator and number.isdigit() else name_of_use


def _convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [part for part in model.modules() if isinstance(part, nn.Conv2d)]


def _layers(model: nn.Module, belongs: Callable[[nn.Module], bool]) -> dict[str, nn.Module]:
    return {name or type(model).__name__: part for name, part in model.named_modules() if belongs(part)}


def _layers_with_parameters(model: nn.Module) -> dict[str, nn.Module]:
    return _layers(model, _has_parameters)


def _visible_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers without parts of their own that have parameters or are activations."""
    return _layers(
        model, lambda part: not list(part.children()) and (_has_parameters(part) or isinstance(part, ACTIVATIONS))
    )


def _maps_by_default(model: nn.Module) -> dict[str, nn.Module]:
    return _layers(model, lambda part: isinstance(part, (nn.Conv2d, *ACTIVATIONS)))


def _named(model: nn.Module, names: list[str]) -> dict[str, nn.Module]:
    """Return the layers of which `names` are uses."""
    layers = _layers(model, lambda part: True)
    wanted = [name_of_layer(name) for name in names]
    for name in wanted:
        if name not in layers:
            nearest = difflib.get_close_matches(name, layers, n=1, cutoff=0)
            raise NotThere(f"the network has no layer {name!r}; the nearest name is {nearest[0]!r}")
    return {name: layers[name] for name in wanted}


def _has_parameters(part: nn.Module) -> bool:
    return next(part.parameters(recurse=False), None) is not None


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def _hooked(layers: dict[str, nn.Module], see: Callable[[str, nn.Module, torch.Tensor], torch.Tensor | None]):
    """Let `see` have (name of the use, layer, output) of each use of `layers`; what it returns replaces the output.

    Outputs that are no tensors, or have no units, are not shown.
    """
    uses = Counter()

    def hook_of(name: str):
        def hook(layer, _, output):
            uses[name] += 1
            if torch.is_tensor(output) and output.is_floating_point() and output.dim() > 1:
                return see(name if uses[name] == 1 else f"{name}:{uses[name]}", layer, output)
            return None

        return hook

    handles = []
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_hook(hook_of(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and its modes and the random state back to what they were."""
    modes = {part: part.training for part in model.modules()}
    device = _device(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            model.eval()
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def _activation_statistics(model: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return {name of the use: (mean, standard deviation, dead share or NaN)} on the device."""
    statistics = {}

    def note(name: str, layer: nn.Module, output: torch.Tensor) -> None:
        values = output.float()
        is_activation = isinstance(layer, ACTIVATIONS)
        dead = dead_share(layer, values) if is_activation else torch.full((), math.nan, device=values.device)
        statistics[name] = torch.stack([values.mean(), values.std(correction=0), dead])

    with evaluating(model), torch.no_grad(), _hooked(_visible_layers(model), note):
        model(inputs)
    return statistics


def _norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the L2 norm () float32 of all numbers in `tensors` together."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor.float()) for tensor in tensors]))


def _read(tensors: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """Return the numbers of tensors of one length; the device is waited for once."""
    if not tensors:
        return {}
    return dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
