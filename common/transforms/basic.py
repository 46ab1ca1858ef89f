"""Transforms of whole batches, under torchvision's names and meanings, with a draw of its own for each image.

A transform is called as `transform(images, draws)`: images (N, C, H, W), uint8 until `Normalize` makes them float32,
and `draws` a `Draws` over the N samples. A deterministic transform ignores `draws`. Nothing here waits for a device,
and nothing changes its input unasked. What becomes of an image does not depend on the batch it is in. Everything is
fastest, and stays, with the channels innermost in memory (channels last). Ranges that are none raise ValueError.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from common.transforms.random_streams import Draws


class Compose:
    """Applies `transforms` one after the other."""

    def __init__(self, transforms: Sequence):
        self.transforms = list(transforms)

    @property
    def normalize(self) -> "Normalize":
        """The normalization among them, which pictures of the inputs have to invert."""
        return next(transform for transform in self.transforms if isinstance(transform, Normalize))

    @property
    def mirrors(self) -> bool:
        """Whether one of them mirrors images at random."""
        return any(getattr(transform, "mirrors", False) for transform in self.transforms)

    def __call__(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        for transform in self.transforms:
            images = transform(images, draws)
        return images


class Resize:
    """Resizes, bilinear and antialiased, to `size`: (height, width), or an integer, the length of the shorter side."""

    def __init__(self, size: int | Sequence[int]):
        self.size = size

    def __call__(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        size = self._target(*images.shape[-2:])
        if size == tuple(images.shape[-2:]):
            return images
        # The CPU resizes uint8 directly; other devices have floats only, and round as torchvision does.
        source = images if images.is_cpu or images.is_floating_point() else images.float()
        resized = F.interpolate(source, size=size, mode="bilinear", antialias=True, align_corners=False)
        return resized if resized.dtype == images.dtype else resized.round_().clamp_(0, 255).to(images.dtype)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return tuple(self.size)
        shorter = min(height, width)
        return self.size * height // shorter, self.size * width // shorter


class CenterCrop:
    """Cuts out the middle; an image smaller than `size` is first padded with zeros."""

    def __init__(self, size: int | Sequence[int]):
        self.size = pair(size)

    def __call__(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        (height, width), pads = self.size, []
        for missing in (width - images.shape[-1], height - images.shape[-2]):  # below 0 it is cut off
            first = missing // 2 if missing > 0 else round(missing / 2)
            pads += [first, missing - first]
        return F.pad(images, pads)


class RandomCrop:
    """Cuts out a window at a place of its own for each image, after padding all sides.

    Args:
        size: of the window, an integer or (height, width).
        padding: pixels on every side, or (left, top, right, bottom).
        fill: value of the padding.
    """

    def __init__(self, size: int | Sequence[int], padding: int | Sequence[int] = 0, fill: int = 0):
        self.size = pair(size)
        self.padding = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        self.fill = fill

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        left, top, right, bottom = self.padding
        padded = F.pad(images, (left, right, top, bottom), value=self.fill) if any(self.padding) else images
        n, channels, height, width = padded.shape
        crop_h, crop_w = self.size
        if height < crop_h or width < crop_w:
            raise ValueError(f"RandomCrop: a window of {crop_h}x{crop_w} does not fit into {height}x{width} pixels")
        tops = draws.integers(height - crop_h + 1)
        lefts = draws.integers(width - crop_w + 1)
        # Every window as a view, (N, tops, lefts, crop_h, crop_w * C): with the channels innermost, a row of a window
        # is one run of memory, and picking a window for each image copies it at the speed of memory on every device.
        rows = padded.permute(0, 2, 3, 1).reshape(n, height, width * channels)
        windows = rows.unfold(1, crop_h, 1).unfold(2, crop_w * channels, channels)
        crops = windows[torch.arange(n, device=images.device), tops, lefts]
        return crops.reshape(n, crop_h, crop_w, channels).permute(0, 3, 1, 2)


class RandomHorizontalFlip:
    """Mirrors each image left to right with probability `p`."""

    axis, mirrors = -1, True

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        return change_where(draws.uniform() < self.p, images, lambda chosen, _: chosen.flip(self.axis))


class AlternatingFlip:
    """Mirrors each image left to right in every other epoch; where it begins is drawn for each image.

    So any two epochs in a row show an image both ways (Jordan, "94% on CIFAR-10 in 3.29 Seconds", 2024).
    """

    mirrors = True

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        is_turn = (draws.of_images().integers(2) + draws.epoch) % 2 == 1
        return change_where(is_turn, images, lambda chosen, _: chosen.flip(-1))


class Grow:
    """Resizes squares to `sizes`, one after the other in the course of `epochs`: small images are learned from faster.

    Training at growing resolutions is from Howard's "Training Imagenet in 3 hours for 25 minutes" (fast.ai, 2018).
    """

    def __init__(self, sizes: Sequence[int], epochs: int):
        self.sizes, self.epochs = list(sizes), epochs

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        size = self.sizes[min((draws.epoch - 1) * len(self.sizes) // max(1, self.epochs), len(self.sizes) - 1)]
        return Resize((size, size))(images)


class RandomVerticalFlip(RandomHorizontalFlip):
    """Turns each image upside down with probability `p`."""

    axis = -2


class RandomApply:
    """Applies all of `transforms` to an image with probability `p`; they must keep shape and type."""

    def __init__(self, transforms: Sequence, p: float = 0.5):
        self.transforms = Compose(transforms)
        self.mirrors, self.p = self.transforms.mirrors, p

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        applied = draws.uniform() < self.p
        inner = draws.branch()  # what follows draws the same numbers whether these were applied or not
        return change_where(applied, images, lambda chosen, places: self.transforms(chosen, inner[places]))


class RandomRotation:
    """Turns each image about its center, by the nearest pixel; what comes from outside the image is 0.

    `degrees`, counterclockwise, are drawn uniformly from (low, high), or from (-degrees, degrees).
    """

    def __init__(self, degrees: float | Sequence[float]):
        self.degrees = interval(degrees, 0, -math.inf, math.inf, "degrees")

    def angles(self, draws: Draws) -> torch.Tensor:
        """Return (N,) float32, in degrees."""
        low, high = self.degrees
        return low + (high - low) * draws.uniform()

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        height, width = images.shape[-2:]
        angles = self.angles(draws)[:, None, None, None] * (math.pi / 180)
        cos, sin = angles.cos(), angles.sin()
        x = torch.arange(width, device=images.device)[:, None] - (width - 1) / 2
        y = torch.arange(height, device=images.device)[:, None, None] - (height - 1) / 2
        from_x = torch.cat((cos * (2 / width), sin * (2 / height)), dim=3) * x
        from_y = torch.cat((-sin * (2 / width), cos * (2 / height)), dim=3) * y
        return warp(images, from_x + from_y)


def warp(images: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, H, W) whose pixels come from `places` (N, H, W, 2), by the nearest one, 0 from outside.

    A place is x and y in grid_sample's units: -1 and 1 are the outer edges of the image.
    """
    n, channels, height, width = images.shape
    # A black pixel goes before each image; number 0 stands for it and all that lies outside, 1 … H*W for the rest.
    pixels = F.pad(images.permute(0, 2, 3, 1).reshape(n, -1), (channels, 0)).view(-1, channels)
    numbers = torch.arange(1, height * width + 1, device=images.device).float().view(1, 1, height, width)
    chosen = F.grid_sample(numbers.expand(n, -1, -1, -1), places, mode="nearest", align_corners=False).int()
    first = torch.arange(0, len(pixels), height * width + 1, dtype=torch.int32, device=images.device)
    # Selecting whole pixels moves their channels as one, several times as fast as sampling each channel.
    warped = pixels.index_select(0, chosen.view(n, -1).add_(first[:, None]).flatten())
    return warped.view(n, height, width, channels).permute(0, 3, 1, 2)


class Normalize:
    """Turns pixels into (value - mean) / std, float32, with `mean` and `std` of each channel for values from 0 to 1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        unit = 1.0 if images.is_floating_point() else 255.0
        shift, scale = _shift_and_scale(self.mean, self.std, unit, images.shape[-1], images.device)
        return torch.addcmul(shift, images.float(), scale)  # one pass over the images

    def invert(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 values from 0 to 1, for pictures of what the network sees."""
        mean, std = constants(self.mean, images.device), constants(self.std, images.device)
        return (images.float() * std + mean).clamp_(0, 1)


@functools.lru_cache(64)
def _shift_and_scale(
    mean: tuple[float, ...], std: tuple[float, ...], unit: float, width: int, device: torch.device
) -> list[torch.Tensor]:
    """Return what is added to images divided by `std`, and what they are multiplied by, both (1, C, 1, width).

    A constant for each place of a row, laid out as the images are: the arithmetic then runs along whole rows instead of
    three channels at a time, three times as fast.
    """
    mean, std = constants(mean, device), constants(std, device)
    rows = (row.expand(1, -1, 1, width) for row in (-mean / std, 1 / (std * unit)))
    return [row.contiguous(memory_format=torch.channels_last) for row in rows]


@functools.lru_cache(64)
def constants(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return (C, 1, 1) float32, which nobody may change; made on the device, as a copy from the host would wait."""
    return torch.stack([torch.full((), float(value), device=device) for value in values])[:, None, None]


def interval(value: float | Sequence[float], center: float, least: float, greatest: float, name: str) -> Sequence:
    """Return (low, high): `value` itself, or `value` to each side of `center`, but not below `least`.

    ValueError is raised if the ends are in the wrong order or beyond `least` and `greatest`.
    """
    low, high = (max(center - value, least), center + value) if isinstance(value, int | float) else value
    if not least <= low <= high <= greatest:
        raise ValueError(f"{name} must be a number from 0, or (low, high) within {least} … {greatest}, not {value}")
    return low, high


def knows_numbers(images: torch.Tensor) -> bool:
    """Return whether what was drawn can be read without waiting, so that only the images concerned are worked on."""
    return images.is_cpu


def change_where(
    chosen: torch.Tensor, images: torch.Tensor, change: Callable[[torch.Tensor, torch.Tensor | slice], torch.Tensor]
) -> torch.Tensor:
    """Return `images` (N, C, H, W) with those `chosen` (N,) changed by `change(part of them, their places)`."""
    if not knows_numbers(images):
        return torch.where(chosen[:, None, None, None], change(images, slice(None)), images)
    result, places = images.clone(), chosen.nonzero().flatten()
    numbers = places.tolist()
    if numbers:
        part = torch.cat([images[i : i + 1] for i in numbers])  # indexing would take ten times as long
        for i, changed in zip(numbers, change(part, places), strict=True):
            result[i] = changed
    return result


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return `size` twice if it is one number."""
    return (size, size) if isinstance(size, int) else tuple(size)
