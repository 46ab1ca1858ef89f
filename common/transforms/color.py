"""Transforms of colors and sharpness. common/transforms/basic.py says what all transforms have in common."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from common.transforms.basic import change_where, interval, pair
from common.transforms.random_streams import Draws

GRAY = (0.2989, 0.587, 0.114)  # how much red, green and blue add to lightness (ITU-R BT.601), as in torchvision
FACTOR, TURN = (1, 0, math.inf), (0, -0.5, 0.5)  # what changes nothing, the least and the greatest
CHANGES = {"brightness": FACTOR, "contrast": FACTOR, "saturation": FACTOR, "hue": TURN}


class ColorJitter:
    """Changes brightness, contrast, saturation and hue of RGB bytes, each image by its own factors in its own order.

    Args:
        brightness, contrast, saturation: a factor from (low, high), or from 1 - number (at least 0) to 1 + number; 0
            blackens, makes even or makes gray, 1 changes nothing.
        hue: from (low, high), or from -number to number, at most 0.5: shares of the color circle; 0 changes nothing.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0,
        contrast: float | Sequence[float] = 0,
        saturation: float | Sequence[float] = 0,
        hue: float | Sequence[float] = 0,
    ):
        values = zip(CHANGES.items(), (brightness, contrast, saturation, hue), strict=True)
        ranges = {name: interval(value, *limits, name) for (name, limits), value in values}
        self.ranges = {name: ends for name, ends in ranges.items() if set(ends) != {CHANGES[name][0]}}

    def factors(self, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both (N, K) for the K changes in `ranges`: which comes first, second, …, and its factor, float32."""
        factors = torch.stack([low + (high - low) * draws.uniform() for low, high in self.ranges.values()], dim=1)
        order = draws.uniform(len(self.ranges)).argsort(1)
        return order, factors.gather(1, order)

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        if not self.ranges:
            return images
        # Whole numbers held as floats, one color after the other in memory, where the arithmetic is fastest.
        pixels = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        for changes, factors in zip(*(numbers.unbind(1) for numbers in self.factors(draws)), strict=True):
            pixels = self._change(pixels, changes[:, None, None, None], factors[:, None, None, None])
        return pixels.to(torch.uint8, memory_format=torch.channels_last)

    def _change(self, pixels: torch.Tensor, changes: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Make one change in each image: `changes` are places in `ranges`, and like `factors` (N, 1, 1, 1)."""
        places = {name: place for place, name in enumerate(self.ranges)}
        is_contrast, is_saturation, is_hue = (changes == places.get(name, -1) for name in list(CHANGES)[1:])
        # The first three blend the image with black, with its mean gray and with its grays.
        gray = gray_of(pixels)
        mean = gray.sum(-1, keepdim=True).long().sum(-2, keepdim=True) / (gray.shape[-2] * gray.shape[-1])
        other = gray.mul_((1 - factors) * is_saturation).add_(mean * (1 - factors) * is_contrast)
        blended = pixels.mul_(torch.where(is_hue, 1, factors)).add_(other).clamp_(0, 255).floor_()
        if "hue" not in self.ranges:
            return blended
        return change_where(is_hue[:, 0, 0, 0], blended, lambda chosen, places: _turn_hue(chosen, factors[places]))


class GaussianBlur:
    """Blurs each image by a Gaussian of its own width; the image goes on mirrored beyond its borders.

    Args:
        kernel_size: odd, in pixels, an integer or (width, height).
        sigma: of the Gaussian, in pixels, above 0: drawn uniformly from (low, high), or a number.
    """

    def __init__(self, kernel_size: int | Sequence[int], sigma: float | Sequence[float] = (0.1, 2.0)):
        self.kernel_size = pair(kernel_size)
        self.sigma = (sigma, sigma) if isinstance(sigma, int | float) else tuple(sigma)
        if not all(size > 0 and size % 2 for size in self.kernel_size):
            raise ValueError(f"kernel_size must be odd and above 0, not {kernel_size}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma must be above 0, a number or (low, high), not {sigma}")

    def sigmas(self, draws: Draws) -> torch.Tensor:
        """Return (N,) float32, in pixels."""
        low, high = self.sigma
        return low + (high - low) * draws.uniform()

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        n, channels, height, width = images.shape
        size_x, size_y = self.kernel_size
        sigmas = self.sigmas(draws).repeat_interleave(channels)
        # Each channel of each image is a channel of one large image, and has a kernel of its own.
        pixels = images.float().reshape(1, n * channels, height, width)
        pixels = F.pad(pixels, (size_x // 2, size_x // 2, size_y // 2, size_y // 2), mode="reflect")
        pixels = F.conv2d(pixels, _gaussians(sigmas, size_x)[:, None, None, :], groups=n * channels)
        pixels = F.conv2d(pixels, _gaussians(sigmas, size_y)[:, None, :, None], groups=n * channels)
        pixels = pixels if images.is_floating_point() else pixels.round_()
        return pixels.view(images.shape).to(images.dtype).contiguous(memory_format=torch.channels_last)


def gray_of(pixels: torch.Tensor) -> torch.Tensor:
    """Return (N, 1, H, W) of whole numbers: how light RGB pixels (N, 3, H, W), whole numbers held as floats, are."""
    red, green, blue = pixels.split(1, dim=1)
    return red.mul(GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2]).floor_()


def _turn_hue(pixels: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Return RGB `pixels` (N, 3, H, W), whole numbers to 255, their hues turned by `turns` (N, 1, 1, 1) of the circle.

    Through HSV and back: Smith: "Color Gamut Transform Pairs", 1978.
    """
    red, green, blue = pixels.split(1, dim=1)
    least, value = torch.aminmax(pixels, dim=1, keepdim=True)
    chroma = value - least
    # Hue in sixths of the circle: 0 is red, 2 green, 4 blue. Grays have none: their chroma is 0.
    from_green, from_blue = blue - red, red - green
    hue = torch.where(value == green, 2 * chroma + from_green, 4 * chroma + from_blue)
    hue = torch.where(value == red, green - blue, hue).div_(chroma.clamp(min=1)).add_(6 * turns).remainder_(6)
    shares = ((hue - 3).abs_() - 1, 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_())
    turned = torch.cat([least + chroma * share.clamp_(0, 1) for share in shares], dim=1)
    return turned.mul_(255.999 / 255).floor_()  # torchvision's way from the unit interval to bytes


def _gaussians(sigmas: torch.Tensor, size: int) -> torch.Tensor:
    """Return (N, size) float32: the weights of `size` pixels in a row for each of N sigmas; they sum to 1."""
    distances = torch.arange(size, device=sigmas.device) - (size - 1) / 2
    return torch.softmax(-0.5 * (distances / sigmas[:, None]) ** 2, dim=1)
