"""Erasing a random rectangle. common/transforms/basic.py says what all transforms have in common."""

import math
from collections.abc import Sequence

import torch

from common.transforms.basic import constants, knows_numbers
from common.transforms.random_streams import Draws


class RandomErasing:
    """Erases a rectangle of random place, area and shape in each image with probability `p`; comes after `Normalize`.

    Zhong et al.: "Random Erasing Data Augmentation", 2017. An image stays whole if none of ten rectangles fits in.

    Args:
        p: probability.
        scale: least and greatest share of the image's area.
        ratio: least and greatest height / width; its logarithm is drawn uniformly.
        value: what is put there: a number, one for each channel, or "random" for normal noise in each pixel.
        inplace: change the images that are passed, which saves a copy; not within RandomApply, which needs them.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | Sequence[float] | str = 0,
        inplace: bool = False,
    ):
        self.p, self.scale, self.ratio, self.inplace = p, tuple(scale), tuple(ratio), inplace
        self.value = (value,) if isinstance(value, int | float) else value

    def boxes(self, draws: Draws, height: int, width: int) -> tuple[torch.Tensor, ...]:
        """Return top, left, height and width, each (N,) int64, of what is erased; 0 high where nothing is."""
        erased = draws.uniform() < self.p
        heights, widths = _sides(draws, height * width, self.scale, self.ratio)
        fits = (heights < height) & (widths < width) & erased[:, None]
        heights, widths = _first(fits, heights, otherwise=0), _first(fits, widths, otherwise=0)
        return draws.integers(height - heights + 1), draws.integers(width - widths + 1), heights, widths

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        boxes = self.boxes(draws, *images.shape[-2:])
        noise = draws.branch()
        if not knows_numbers(images):
            return self._at_once(images, boxes, noise)
        images = images if self.inplace else images.clone()
        for i, (top, left, height, width) in enumerate(torch.stack(boxes, dim=1).tolist()):
            if height:
                part = images[i, :, top : top + height, left : left + width]
                part.copy_(self._values(part, noise[i : i + 1]))
        return images

    def _values(self, part: torch.Tensor, noise: Draws) -> torch.Tensor:
        """Return what replaces one erased `part` (C, h, w)."""
        if self.value != "random":
            return constants(self.value, part.device)
        channels, height, width = part.shape
        return noise.normal(part.numel()).view(height, width, channels).permute(2, 0, 1)

    def _at_once(self, images: torch.Tensor, boxes: tuple[torch.Tensor, ...], noise: Draws) -> torch.Tensor:
        tops, lefts, heights, widths = (numbers[:, None, None, None] for numbers in boxes)
        channels, height, width = images.shape[1:]
        y = torch.arange(height, device=images.device)[:, None, None] - tops
        x = torch.arange(width, device=images.device)[:, None] - lefts
        inside = (0 <= y) & (y < heights) & (0 <= x) & (x < widths)
        if self.value == "random":
            place = (y * widths + x) * channels + torch.arange(channels, device=images.device)  # in the rectangle
            numbers = noise.normal(images[0].numel())
            values = numbers.gather(1, place.clamp_(0, numbers.shape[1] - 1).flatten(1)).view(place.shape)
        else:
            values = constants(self.value, images.device)[:, 0, 0]
        erased = torch.where(inside, values, images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return images.copy_(erased) if self.inplace else erased


def _sides(draws: Draws, area: int, scale: Sequence[float], ratio: Sequence[float]) -> tuple[torch.Tensor, ...]:
    """Return two sides (N, 10) of ten rectangles each, int64: of random shares of `area`, and first / second side."""
    areas = area * (scale[0] + (scale[1] - scale[0]) * draws.uniform(10))
    ratios = torch.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * draws.uniform(10))
    return (areas * ratios).sqrt_().round_().long(), (areas / ratios).sqrt_().round_().long()


def _first(fits: torch.Tensor, numbers: torch.Tensor, otherwise: int) -> torch.Tensor:
    """Return (N,): of each row of `numbers` (N, tries) the first that `fits`."""
    first = numbers.gather(1, fits.int().argmax(1, keepdim=True))[:, 0]
    return torch.where(fits.any(1), first, otherwise)
