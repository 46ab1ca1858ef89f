"""Which images are looked at, and what their pixels have in common."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from common.data.arrays import Split
from common.transforms.random_streams import shuffled

# Of each split at most so many pixels are looked at: all of CIFAR, five thousand photographs of 224x224.
MOST_PIXELS = 2**28
MOST_IMAGES = 2**16  # of each split: the time to compare all images with each other grows with the square of it
SEED = 0  # of the choice, if there are more
BLOCK = 2**19  # pixels read at once
FARTHEST = 8  # pixels between neighbors whose correlation is taken
SAME = 1e-6  # variance of values that are all the same but for rounding; one level of 255 squared is 1.5e-5
NEAR_ZERO = 8  # of 255: what a JPEG file makes of black
MEAN_SIDE, MEAN_CLASSES = 64, 200  # sides of the mean images, and of how many classes they are kept


def balanced_sample(split: Split, limit: int, seed: int = SEED) -> Split:
    """Return at most `limit` images of `split` in their order, of every class as equal a number as there are."""
    count = len(split)
    if count <= limit:
        return split
    order = shuffled(torch.arange(count), seed, epoch=0)
    labels = split.dataset.labels[split.indices][order]
    by_class = torch.argsort(labels, stable=True)
    _, sizes = torch.unique(labels, return_counts=True)
    firsts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    place_in_class = torch.arange(count) - firsts
    chosen = order[by_class[torch.argsort(place_in_class, stable=True)[:limit]]]
    return split.subset(chosen.sort().values.tolist())


def most_images(split: Split) -> int:
    """Return how many images of `split` are looked at."""
    return max(1, min(MOST_IMAGES, MOST_PIXELS // split.dataset.size**2))


def blocks(split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield all images of `split`, (n, C, H, W) uint8, and their labels (n,), some at a time."""
    for indices in split.indices.split(max(1, BLOCK // split.dataset.size**2)):
        yield split.dataset.batch(indices)


class PixelStatistics:
    """Sums over images, and what follows from them. Pixels count from 0 to 1, of whatever class the image is.

    Args:
        classes: names; mean images are kept of the first MEAN_CLASSES.
    """

    def __init__(self, classes: list[str]):
        self.images = self.grayscale = self.constant = 0
        self._class_count = min(len(classes), MEAN_CLASSES)
        self._of_class = torch.zeros(self._class_count)

    def add(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Count (n, C, H, W) uint8 images with their labels (n,), which can be -1; all images have one size."""
        if not self.images:
            self._prepare(*images.shape[1:3])
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
        kept = (labels >= 0) & (labels < self._class_count)
        self._class_sums.index_add_(0, labels[kept], reduced(images[kept], MEAN_SIDE))
        self._of_class += torch.bincount(labels[kept], minlength=self._class_count)

    def _prepare(self, channels: int, side: int) -> None:
        self.side = side
        self.histogram = torch.zeros(channels, 256, dtype=torch.int64)
        self._color_products = torch.zeros(channels, channels, dtype=torch.float64)
        self._gray_sums = torch.zeros(2, side, side, dtype=torch.float64)  # of the values, and of their squares
        self._distances = range(1, min(FARTHEST, side - 1) + 1)
        self._products = torch.zeros(2, len(self._distances), dtype=torch.float64)  # of neighbors across, and down
        mean_side = min(side, MEAN_SIDE)
        self._class_sums = torch.zeros(self._class_count, channels, mean_side, mean_side)

    def mean(self) -> list[float]:
        """Return the mean of each channel."""
        return self._moment(1).tolist()

    def std(self) -> list[float]:
        """Return the standard deviation of each channel over all pixels of all images."""
        return (self._moment(2) - self._moment(1).square()).clamp(min=0).sqrt().tolist()

    def _moment(self, power: int) -> torch.Tensor:
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
        shares = self.shares()
        return {
            "mean": self.mean(),
            "std": self.std(),
            "zero": float(shares[0]),
            "near_zero": float(shares[: NEAR_ZERO + 1].sum()),
            "near_zero_limit": NEAR_ZERO,
            "greyscale": self.grayscale / self.images,
            "constant_images": self.constant,
            "histogram": self.histogram.tolist(),
        }

    def correlations(self) -> dict:
        """Return Pearson's correlation of gray values at each distance, and of the channels; None where undefined.

        All pairs of pixels of all images count, so that bright and dark images correlate neighbors too.
        """
        across, down = self._products.tolist()
        return {
            "distance": list(self._distances),
            "horizontal": [self._of_neighbors(*pair, dim=2) for pair in zip(across, self._distances, strict=True)],
            "vertical": [self._of_neighbors(*pair, dim=1) for pair in zip(down, self._distances, strict=True)],
            "channels": self._of_channels(),
        }

    def _of_neighbors(self, product: float, distance: int, dim: int) -> float | None:
        """Return the correlation of pixels with those `distance` further along `dim`; `product` is the sum of theirs.

        Every pixel but those at one edge is the first of a pair, and every one but those at the other edge the second.
        """
        kept = self.side - distance
        pairs = self.images * self.side * kept
        (mean, square), (other_mean, other_square) = (
            (self._gray_sums.narrow(dim, start, kept).sum((1, 2)) / pairs).tolist() for start in (0, distance)
        )
        return _correlation(product / pairs - mean * other_mean, square - mean**2, other_square - other_mean**2)

    def _of_channels(self) -> list[list[float | None]]:
        means = torch.tensor(self.mean(), dtype=torch.float64) - 0.5
        covariances = self._color_products / (self.images * self.side**2) - torch.outer(means, means)
        variances = covariances.diag().tolist()
        return [
            [_correlation(value, variances[row], variance) for value, variance in zip(values, variances, strict=True)]
            for row, values in enumerate(covariances.tolist())
        ]


def _correlation(covariance: float, one_variance: float, other_variance: float) -> float | None:
    if min(one_variance, other_variance) < SAME:
        return None
    return max(-1.0, min(1.0, covariance / math.sqrt(one_variance * other_variance)))


def reduced(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return images as float32, averaged down to `side` pixels where they are larger."""
    pixels = images.float()
    return adaptive_avg_pool2d(pixels, side) if images.shape[-1] > side else pixels
