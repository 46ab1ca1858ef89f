"""Which images are looked at, and what their pixels have in common."""

import math

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from common.data.arrays import Split, take_in_rounds
from common.transforms.random_streams import shuffled

# Of each split at most so many pixels are looked at: all of CIFAR, five thousand photographs of 224x224.
MOST_PIXELS = 2**28
MOST_IMAGES = 2**16  # of each split: the time to compare all images with each other grows with the square of it
SEED = 0  # of the choice, if there are more
FARTHEST = 8  # pixels between neighbors whose correlation is taken
SAME = 1e-6  # variance of values that are all the same but for rounding; one level of 255 squared is 1.5e-5
NEAR_ZERO = 8  # of 255: what a JPEG file makes of black
MEAN_SIDE, MEAN_CLASSES = 64, 200  # sides of the mean images, and of how many classes they are kept


def balanced_sample(split: Split, limit: int | None = None, seed: int = SEED) -> Split:
    """Return at most `limit` images of `split` in their order, of every class as equal a number as there are.

    If it is not given, it is what MOST_PIXELS and MOST_IMAGES allow.
    """
    limit = limit or max(1, min(MOST_IMAGES, MOST_PIXELS // split.dataset.size**2))
    if len(split) <= limit:
        return split
    order = shuffled(torch.arange(len(split)), seed, epoch=0).tolist()
    return split.subset(take_in_rounds(order, split.labels, limit))


class PixelStatistics:
    """Sums over RGB images, and what follows from them. Pixels count from 0 to 1, of whatever class the image is.

    Mean images are kept of the first MEAN_CLASSES of all `classes` (their number); `side` is that of the images.
    """

    def __init__(self, side: int, classes: int):
        self.side = side
        self.images = self.grayscale = self.constant = 0
        self.histogram = torch.zeros(3, 256, dtype=torch.int64)
        self._color_products = torch.zeros(3, 3, dtype=torch.float64)
        self._gray_sums = torch.zeros(2, side, side, dtype=torch.float64)  # of the values, and of their squares
        self._distances = range(1, min(FARTHEST, side - 1) + 1)
        self._products = torch.zeros(2, len(self._distances), dtype=torch.float64)  # of neighbors across, and down
        self._of_class = torch.zeros(min(classes, MEAN_CLASSES))
        mean_side = min(side, MEAN_SIDE)
        self._class_sums = torch.zeros(len(self._of_class), 3, mean_side, mean_side)

    def add(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Count (n, 3, side, side) uint8 images with their labels (n,), which can be -1."""
        self.images += len(images)
        self.grayscale += int((images[:, 1:] == images[:, :1]).flatten(1).all(1).sum())
        self.constant += int((images == images[:, :, :1, :1]).flatten(1).all(1).sum())
        for histogram, values in zip(self.histogram, images.unbind(1), strict=True):
            histogram += torch.bincount(values.flatten(), minlength=256)
        pixels = images.permute(0, 2, 3, 1).float() / 255 - 0.5  # sums of small numbers lose less
        colors = pixels.flatten(0, 2)
        self._color_products += (colors.T @ colors).double()
        gray = pixels.mean(3)
        self._gray_sums += torch.stack([gray.sum(0), gray.square().sum(0)])
        for place, distance in enumerate(self._distances):
            self._products[0, place] += (gray[:, :, distance:] * gray[:, :, :-distance]).sum()
            self._products[1, place] += (gray[:, distance:] * gray[:, :-distance]).sum()
        kept = (labels >= 0) & (labels < len(self._of_class))
        self._class_sums.index_add_(0, labels[kept], reduced(images[kept], MEAN_SIDE))
        self._of_class += torch.bincount(labels[kept], minlength=len(self._of_class))

    def _moment(self, power: int) -> torch.Tensor:
        """Return the mean of this power of the values of each channel, over all pixels of all images."""
        levels = torch.arange(256, dtype=torch.float64) / 255
        return (self.histogram * levels**power).sum(1) / self.histogram.sum(1)

    def mean_images(self) -> torch.Tensor:
        """Return (classes, C, h, w) from 0 to 1, of at most MEAN_SIDE pixels; NaN where a class has no image."""
        return self._class_sums / self._of_class[:, None, None, None] / 255

    def shares(self) -> np.ndarray:
        """Return (256,): the share of all values, of whatever channel, that are 0, 1 … 255."""
        return (self.histogram.sum(0) / self.histogram.sum()).numpy()

    def describe(self) -> dict:
        """Return what explore.json says of the pixels of the training images."""
        shares, mean = self.shares(), self._moment(1)
        return {
            "mean": mean.tolist(),
            "std": (self._moment(2) - mean.square()).clamp(min=0).sqrt().tolist(),
            "zero": float(shares[0]),
            "near_zero": float(shares[: NEAR_ZERO + 1].sum()),
            "near_zero_limit": NEAR_ZERO,
            "greyscale": self.grayscale / self.images,
            "constant_images": self.constant,
            "histogram": self.histogram.tolist(),
        }

    def correlations(self) -> dict:
        """Return Pearson's correlation of gray values at each distance, and of the channels; NaN where undefined.

        All pairs of pixels of all images count, so that bright and dark images correlate neighbors too.
        """
        means = self._moment(1) - 0.5
        covariances = self._color_products / (self.images * self.side**2) - torch.outer(means, means)
        variances = covariances.diag()
        return {
            "distance": list(self._distances),
            "horizontal": self._of_neighbors(self._products[0], self._gray_sums.sum(1)),
            "vertical": self._of_neighbors(self._products[1], self._gray_sums.sum(2)),
            "channels": _correlation(covariances, variances[:, None], variances).tolist(),
        }

    def _of_neighbors(self, products: torch.Tensor, sums: torch.Tensor) -> list[float]:
        """Return the correlations of pixels at each distance in one direction.

        `products` (distances,) are sums over all pairs, `sums` (2, side) those of the values, and of their squares, of
        each column or row: all but those at one edge begin a pair, all but those at the other end one.
        """
        correlations = []
        for product, distance in zip(products, self._distances, strict=True):
            pairs = self.images * self.side * (self.side - distance)
            mean, square = sums[:, :-distance].sum(1) / pairs
            other_mean, other_square = sums[:, distance:].sum(1) / pairs
            covariance = product / pairs - mean * other_mean
            correlations.append(_correlation(covariance, square - mean**2, other_square - other_mean**2).item())
        return correlations


def _correlation(covariance: torch.Tensor, variance: torch.Tensor, other_variance: torch.Tensor) -> torch.Tensor:
    correlation = (covariance / (variance * other_variance).sqrt()).clamp(-1, 1)
    return torch.where(torch.minimum(variance, other_variance) < SAME, math.nan, correlation)


def reduced(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return images as float32, averaged down to `side` pixels where they are larger."""
    pixels = images.float()
    return adaptive_avg_pool2d(pixels, side) if images.shape[-1] > side else pixels
