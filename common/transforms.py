"""Transforms of whole batches, under torchvision's names and meanings, with a draw of its own for each image.

A transform is called as `transform(images, draws)`: images (N, C, H, W), uint8 until `Normalize` makes them float32,
and `draws` a `Draws` over the N samples. A deterministic transform ignores `draws`. Nothing here waits for a device.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from common.draws import Draws


class Compose:
    """Applies `transforms` one after the other."""

    def __init__(self, transforms: Sequence):
        self.transforms = list(transforms)

    @property
    def normalize(self) -> "Normalize":
        """The normalisation among them, which pictures of the inputs have to invert."""
        return next(transform for transform in self.transforms if isinstance(transform, Normalize))

    def __call__(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        for transform in self.transforms:
            images = transform(images, draws)
        return images


class Resize:
    """Resizes, bilinear and antialiased.

    `size` is (height, width), or one integer: the new length of the shorter side.
    """

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
        if height <= width:
            return self.size, int(self.size * width / height)
        return int(self.size * height / width), self.size


class CenterCrop:
    """Cuts out the middle; an image smaller than `size` is first padded with zeros."""

    def __init__(self, size: int | Sequence[int]):
        self.size = _pair(size)

    def __call__(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        height, width = self.size
        missing_h, missing_w = max(height - images.shape[-2], 0), max(width - images.shape[-1], 0)
        left_pad, top_pad = missing_w // 2, missing_h // 2
        images = F.pad(images, (left_pad, missing_w - left_pad, top_pad, missing_h - top_pad))
        top = round((images.shape[-2] - height) / 2)
        left = round((images.shape[-1] - width) / 2)
        return images[..., top : top + height, left : left + width]


class RandomCrop:
    """Cuts out a window at a place of its own for each image, after padding all sides.

    Args:
        size: of the window, an integer or (height, width).
        padding: pixels on every side, or (left, top, right, bottom).
        fill: value of the padding.
    """

    def __init__(self, size: int | Sequence[int], padding: int | Sequence[int] = 0, fill: int = 0):
        self.size = _pair(size)
        self.padding = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        self.fill = fill

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        left, top, right, bottom = self.padding
        padded = F.pad(images, (left, right, top, bottom), value=self.fill)
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

    def __init__(self, p: float = 0.5):
        self.p = p

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        flipped = draws.uniform() < self.p
        return torch.where(flipped[:, None, None, None], images.flip(-1), images)


class Normalize:
    """Turns pixels into (value - mean) / std, float32, with `mean` and `std` of each channel for values from 0 to 1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        unit = 1.0 if images.is_floating_point() else 255.0
        mean, std = self._constants(images.device)
        return torch.addcmul(-mean / std, images.float(), 1 / (std * unit))  # one pass over the images

    def invert(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 values from 0 to 1, for pictures of what the network sees."""
        mean, std = self._constants(images.device)
        return (images.float() * std + mean).clamp_(0, 1)

    def _constants(self, device) -> tuple[torch.Tensor, torch.Tensor]:
        # Made on the device itself: a copy from the host would wait for it.
        return tuple(
            torch.stack([torch.full((), value, device=device) for value in values])[:, None, None]
            for values in (self.mean, self.std)
        )


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
