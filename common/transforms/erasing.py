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
        values = (value,) if isinstance(value, int | float) else value
        self.value = values if isinstance(values, str) else tuple(values)

    def boxes(self, draws: Draws, height: int, width: int) -> tuple[torch.Tensor, ...]:
        """Return top, left, height and width, each (N,) int64, of what is erased; 0 high where nothing is."""
        erased = draws.uniform() < self.p
        (least, greatest), (lowest, highest) = self.scale, self.ratio
        areas = height * width * (least + (greatest - least) * draws.uniform(10))  # of ten rectangles
        ratios = torch.exp(math.log(lowest) + math.log(highest / lowest) * draws.uniform(10))
        heights, widths = (sides.sqrt_().round_().long() for sides in (areas * ratios, areas / ratios))
        fits = (heights < height) & (widths < width) & erased[:, None]
        first = fits.int().argmax(1, keepdim=True)
        heights, widths = (sides.where(fits, 0).gather(1, first)[:, 0] for sides in (heights, widths))
        return draws.integers(height - heights + 1), draws.integers(width - widths + 1), heights, widths

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        boxes = self.boxes(draws, *images.shape[-2:])
        noise = draws.branch()
        if not knows_numbers(images):
            return self._at_once(images, boxes, noise)
        images = images if self.inplace else images.clone()
        for i, (top, left, height, width) in enumerate(torch.stack(boxes, dim=1).tolist()):
            part = images[i, :, top : top + height, left : left + width]
            if height and self.value == "random":
                part.copy_(noise[i : i + 1].normal(part.numel()).view(height, width, -1).permute(2, 0, 1))
            elif height:
                part.copy_(constants(self.value, part.device))
        return images

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
