"""What the pixels of many images have in common."""

import math

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

FARTHEST = 8  # pixels between neighbours whose correlation is taken
SAME = 1e-6  # variance of values that are all the same but for rounding; one level of 255 squared is 1.5e-5
NEAR_ZERO = 8  # of 255: what a JPEG file makes of black
MEAN_SIDE, MEAN_CLASSES = 64, 200  # sides of the mean images, and of how many classes they are kept


class PixelStatistics:
    """Sums over images, and what follows from them. Pixels count from 0 to 1, of whatever class the image is.

    Args:
        classes: names; mean images are kept of the first MEAN_CLASSES.
    """

    def __init__(self, classes: list[str]):
        self.images = self.greyscale = self.constant = 0
        self._class_count = min(len(classes), MEAN_CLASSES)
        self._of_class = torch.zeros(self._class_count)

    def add(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Count (n, C, H, W) uint8 images with their labels (n,), which can be -1; all images have one size."""
        if not self.images:
            self._prepare(*images.shape[1:3])
        count, channels = images.shape[:2]
        self.images += count
        self.greyscale += int((images[:, 1:] == images[:, :1]).flatten(1).all(1).sum())
        self.constant += int((images == images[:, :, :1, :1]).flatten(1).all(1).sum())
        for channel in range(channels):
            self.histogram[channel] += torch.bincount(images[:, channel].flatten(), minlength=256)
        pixels = images.permute(0, 2, 3, 1).float() / 255 - 0.5  # sums of small numbers lose less
        colours = pixels.flatten(0, 2)
        self._colour_products += (colours.T @ colours).double()
        self._add_neighbours(pixels.mean(3))
        self._add_to_classes(images, labels)

    def _prepare(self, channels: int, side: int) -> None:
        self.side = side
        self.histogram = torch.zeros(channels, 256, dtype=torch.int64)
        self._colour_products = torch.zeros(channels, channels, dtype=torch.float64)
        self._grey_sum, self._grey_squares = torch.zeros(2, side, side, dtype=torch.float64)
        self._distances = range(1, min(FARTHEST, side - 1) + 1)
        self._products = torch.zeros(2, len(self._distances), dtype=torch.float64)
        mean_side = min(side, MEAN_SIDE)
        self._class_sums = torch.zeros(self._class_count, channels, mean_side, mean_side)

    def _add_neighbours(self, grey: torch.Tensor) -> None:
        self._grey_sum += grey.sum(0)
        self._grey_squares += grey.square().sum(0)
        for place, distance in enumerate(self._distances):
            self._products[0, place] += (grey[:, :, distance:] * grey[:, :, :-distance]).sum()
            self._products[1, place] += (grey[:, distance:] * grey[:, :-distance]).sum()

    def _add_to_classes(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        kept = (labels >= 0) & (labels < self._class_count)
        self._class_sums.index_add_(0, labels[kept], reduced(images[kept], MEAN_SIDE))
        self._of_class += torch.bincount(labels[kept], minlength=self._class_count)

    def mean(self) -> list[float]:
        """Return the mean of each channel."""
        return self._moment(torch.arange(256) / 255).tolist()

    def std(self) -> list[float]:
        """Return the standard deviation of each channel over all pixels of all images."""
        levels = torch.arange(256, dtype=torch.float64) / 255
        return (self._moment(levels.square()) - self._moment(levels).square()).clamp(min=0).sqrt().tolist()

    def _moment(self, of_level: torch.Tensor) -> torch.Tensor:
        return (self.histogram * of_level.double()).sum(1) / self.histogram.sum(1)

    def mean_images(self) -> torch.Tensor:
        """Return (classes, C, h, w) from 0 to 1, of at most MEAN_SIDE pixels; NaN where a class has no image."""
        return self._class_sums / self._of_class[:, None, None, None] / 255

    def shares(self) -> np.ndarray:
        """Return (256,): the share of all values, of whatever channel, that are 0, 1 … 255."""
        return (self.histogram.sum(0) / self.histogram.sum()).numpy()

    def describe(self) -> dict:
        """Return what explore.json says of the pixels of the training images."""
        shares = self.shares()
        return {
            "mean": self.mean(),
            "std": self.std(),
            "zero": float(shares[0]),
            "near_zero": float(shares[: NEAR_ZERO + 1].sum()),
            "near_zero_limit": NEAR_ZERO,
            "greyscale": self.greyscale / self.images,
            "constant_images": self.constant,
            "histogram": self.histogram.tolist(),
        }

    def correlations(self) -> dict:
        """Return Pearson's correlation of grey values at each distance, and of the channels; None where undefined.

        All pairs of pixels of all images count, so that bright and dark images correlate neighbours too.
        """
        across, down = self._products.tolist()
        return {
            "distance": list(self._distances),
            "horizontal": [
                self._neighbours(product, at, -1) for product, at in zip(across, self._distances, strict=True)
            ],
            "vertical": [self._neighbours(product, at, -2) for product, at in zip(down, self._distances, strict=True)],
            "channels": self._channels(),
        }

    def _neighbours(self, product: float, distance: int, dim: int) -> float | None:
        """Return the correlation of pixels with those `distance` further along `dim`; `product` is the sum of theirs.

        Every pixel but those at one edge is the first of a pair, and every one but those at the other edge the second.
        """
        pairs = self.images * self.side * (self.side - distance)
        firsts, seconds = slice(0, self.side - distance), slice(distance, self.side)

        def sums(of: slice) -> tuple[float, float]:
            index = (..., of) if dim == -1 else (..., of, slice(None))
            return self._grey_sum[index].sum().item(), self._grey_squares[index].sum().item()

        (one, one_squared), (other, other_squared) = sums(firsts), sums(seconds)
        variances = [one_squared / pairs - (one / pairs) ** 2, other_squared / pairs - (other / pairs) ** 2]
        return _ratio(product / pairs - one * other / pairs**2, *variances)

    def _channels(self) -> list[list[float | None]]:
        pixels = self.images * self.side**2
        means = torch.tensor(self.mean(), dtype=torch.float64) - 0.5
        covariances = (self._colour_products / pixels - means[:, None] * means).tolist()
        numbers = range(len(covariances))
        return [[_ratio(covariances[i][j], covariances[i][i], covariances[j][j]) for j in numbers] for i in numbers]


def _ratio(covariance: float, one_variance: float, other_variance: float) -> float | None:
    if min(one_variance, other_variance) < SAME:
        return None
    return max(-1.0, min(1.0, covariance / math.sqrt(one_variance * other_variance)))


def reduced(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return images as float32, averaged down to `side` pixels where they are larger."""
    pixels = images.float()
    return adaptive_avg_pool2d(pixels, side) if images.shape[-1] > side else pixels
