"""Know the data before a network does: counts, sizes, pixels, copies, and in words what is unusual about them.

`explore` does all of it. Its parts work on their own too:
    looked_at = balanced_sample(data.train, 1000)
    statistics = PixelStatistics(looked_at.dataset.classes)
    for images, labels in blocks(looked_at):
        statistics.add(images, labels)
    print(statistics.mean(), statistics.std())
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from common.data.arrays import HASH_BYTES, Part
from common.data.folders import Reading
from common.data.load import Data
from common.runs.config import describe_origin
from common.runs.folder import make_folder
from common.system.device import Machine
from common.system.files import write_json
from common.system.log import log_to, progress, say
from common.transforms.random_streams import shuffled

# Of each part at most so many pixels are looked at: all of CIFAR, five thousand photographs of 224x224.
MOST_PIXELS = 2**28
MOST_IMAGES = 2**16  # of each part: the time to compare all images with each other grows with the square of it
SEED = 0  # of the choice, if there are more
BLOCK = 2**19  # pixels read at once
FARTHEST = 8  # pixels between neighbours whose correlation is taken
SAME = 1e-6  # variance of values that are all the same but for rounding; one level of 255 squared is 1.5e-5
NEAR_ZERO = 8  # of 255: what a JPEG file makes of black
MEAN_SIDE, MEAN_CLASSES = 64, 200  # sides of the mean images, and of how many classes they are kept
LISTED = 20  # pairs of copies that explore.json names; all are counted

# Near copies. Two images are candidates if their grey thumbnails, or one and the mirrored other, correlate by so much.
# Of the near copies that were seen in CIFAR-10, most correlate by 0.95 or more.
THUMBNAIL, CANDIDATE = 8, 0.9
# They are near copies if the differences of their neighbouring pixels do so too. Of all candidates among 29,100
# photographs from ImageNet none reached 0.45. Of 14 pairs from CIFAR-10 each that were looked at, 3 with 0.50 to 0.55
# were different pictures, 3 with 0.55 to 0.60 (airplanes of one kind) and one with 0.60 to 0.65; of about 30 above that
# all were one picture, cut out, coloured or compressed differently.
NEAR = 0.55
# Of strokes on a plain ground, or of very few pixels, two different images can be that similar: digits of 8x8 pixels
# written by two people reach 0.978.
NEAR_DRAWINGS = 0.98
DRAWING = 0.25  # share of the values that are the most frequent one: 0.49 in digits, at most 0.03 in photographs
TINY = 16  # pixels
DETAIL_SIDE = 32  # larger images are reduced to this first: at full size a shift by one pixel hides a copy
FRAME = 6  # the share of an image, one in so many pixels from each edge, that may be a frame
LARGEST_DIFFERENCE = 3  # times the mean one; without a limit the edge of a black frame outweighs the picture in it
FLAT = 1.0  # of 255: a thumbnail with a smaller standard deviation shows nothing that could be compared
COMPARED = 1024  # thumbnails compared with as many others at once: the results stay in the processor's cache

# From where on a note says so
UNBALANCED = 2.0  # images of the largest class for one of the smallest
FEW = 100  # training images of a class
SOME_GREY, ALL_GREY = 0.01, 0.99
SPARSE = 0.25  # share of the values that are 0
LONG = 2.0  # longer side over shorter side


def explore(data: Data, folder: Path) -> dict:
    """Look at a data set: write `explore.json` and pictures into `folder`, say what is unusual, return explore.json.

    Pixels and near copies of larger sets are taken from a sample, the same in every run, with as many images of each
    class as there are; explore.json says of how many. Exact copies are looked for among all images.

    Raises:
        BadInput: an image cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": data.train, "val": data.val, "test": data.test}
    looked_at = {name: balanced_sample(part, _most_images(part)) for name, part in parts.items()}
    statistics, small = _look(looked_at)

    report = {
        "dataset": data.name,
        "parts": {name: describe_part(part, len(looked_at[name])) for name, part in parts.items()},
        "looked_at": {"most_pixels_a_part": MOST_PIXELS, "most_images_a_part": MOST_IMAGES, "seed": SEED},
        "balance": balance(class_counts(data.train)),
        "sizes": describe_sizes(data.reading, statistics.side, sum(map(len, parts.values()))),
        "pixels": statistics.describe(),
        "correlation": statistics.correlations(),
    }
    limit = near_limit(statistics)
    exact, near = all_exact_copies(parts), all_near_copies(looked_at, small, limit)
    report["copies"] = {
        "exact": None if exact is None else describe_copies(exact, parts),
        "near": describe_copies(near, parts),
        "near_limit": limit,
    }
    report["notes"] = notes(report)

    _draw(folder, data, report, statistics, (exact or []) + near)
    write_json(folder / "explore.json", report)  # last: whoever finds it finds the pictures too
    for note in report["notes"]:
        say(f"note: {note}")
    return report


def explore_only(script: str, options: dict, loaded: list[Data], machine: Machine) -> Path:
    """Explore data sets instead of training on them, each in a folder of its own; return the last one.

    Args:
        script: `__file__` of the experiment.
        options: every option by name.
    """
    name = Path(script).stem
    for data in loaded:
        config = {"script": name, "dataset": data.name, "classes": data.classes, "options": options}
        folder = make_folder(Path(options["output_dir"]) / name / "explore", config | describe_origin(machine))
        log_to(folder / "log.txt")
        say(f"looking at {data.name}: {folder}")
        explore(data, folder)
        say(f"finished: {folder}")
    return folder


# Which images are looked at


def balanced_sample(part: Part, limit: int, seed: int = SEED) -> Part:
    """Return at most `limit` images of `part` in their order, of every class as equal a number as there are."""
    count = len(part)
    if count <= limit:
        return part
    order = shuffled(torch.arange(count), seed, epoch=0)
    labels = part.dataset.labels[part.samples][order]
    by_class = torch.argsort(labels, stable=True)
    _, sizes = torch.unique(labels, return_counts=True)
    firsts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    place_in_class = torch.arange(count) - firsts
    chosen = order[by_class[torch.argsort(place_in_class, stable=True)[:limit]]]
    return part.subset(chosen.sort().values.tolist())


def _most_images(part: Part) -> int:
    return max(1, min(MOST_IMAGES, MOST_PIXELS // part.dataset.size**2))


def blocks(part: Part) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield all images of `part`, (n, C, H, W) uint8, and their labels (n,), some at a time."""
    step = max(1, BLOCK // part.dataset.size**2)
    for samples in part.samples.split(step):
        yield part.dataset.batch(samples)


def _look(looked_at: dict[str, Part]) -> tuple["PixelStatistics", dict[str, torch.Tensor]]:
    """Return the statistics of the training images and the thumbnails of all, reading each image once."""
    statistics = PixelStatistics(looked_at["train"].dataset.classes)
    found = {}
    with progress(sum(map(len, looked_at.values())), "looking at images") as bar:
        for name, part in looked_at.items():
            small = []
            for images, labels in blocks(part):
                small.append(thumbnails(images))
                if name == "train":
                    statistics.add(images, labels)
                bar.update(len(images))
            found[name] = torch.cat(small)
    return statistics, found


# Counts and sizes


def class_counts(part: Part) -> list[int]:
    """Return the number of images of each class; those without a label are in none."""
    labels = part.dataset.labels[part.samples]
    return torch.bincount(labels[labels >= 0], minlength=len(part.dataset.classes)).tolist()


def describe_part(part: Part, looked_at: int) -> dict:
    """Return the number of images of a part, of those that were looked at, and of each class."""
    counts = class_counts(part)
    return {
        "images": len(part),
        "looked_at": looked_at,
        "unlabelled": len(part) - sum(counts),
        "per_class": dict(zip(part.dataset.classes, counts, strict=True)),
    }


def balance(counts: list[int]) -> dict:
    """Return how equal the classes are in number.

    `entropy` is that of the classes' shares over its largest value: 1 if all are equal, 0 if there is one only
    (Shannon: "A Mathematical Theory of Communication", 1948).
    """
    shares = np.array(counts) / sum(counts)
    shares = shares[shares > 0]
    return {
        "largest_class": max(counts),
        "smallest_class": min(counts),
        "ratio": max(counts) / min(counts) if min(counts) else None,
        "entropy": abs(float((shares * np.log(shares)).sum())) / math.log(len(counts)),
    }


def describe_sizes(reading: Reading, side: int, images: int) -> dict:
    """Return the sizes in pixels that the pictures have by themselves, and that of the squares they have become.

    Args:
        side: of those squares.
        images: how many there are; without files to tell their sizes, all of them have the one of the squares.
    """
    sizes = reading.sizes or Counter({(side, side): images})
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    ratios = np.array([width / height for width, height in sizes])
    numbers = np.array(list(sizes.values()))
    order = np.argsort(ratios)
    median = ratios[order][np.searchsorted(numbers[order].cumsum(), numbers.sum() / 2)]
    return {
        "stored": [side, side],
        "different": len(sizes),
        "most_frequent": [{"size": list(size), "images": number} for size, number in sizes.most_common(LISTED)],
        "smallest": list(by_area[0]),
        "largest": list(by_area[-1]),
        "width_over_height": {"lowest": ratios.min().item(), "median": median.item(), "highest": ratios.max().item()},
        "long": int(numbers[np.maximum(ratios, 1 / ratios) > LONG].sum()),
        "enlarged": sum(number for size, number in sizes.items() if min(size) < side),
        "converted": dict(reading.converted),
    }


# Pixels


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
        self._class_sums.index_add_(0, labels[kept], _reduced(images[kept], MEAN_SIDE))
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


def _reduced(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return images as float32, averaged down to `side` pixels where they are larger."""
    pixels = images.float()
    return adaptive_avg_pool2d(pixels, side) if images.shape[-1] > side else pixels


# Copies


@dataclass(frozen=True)
class Copy:
    """Two images that are the same or nearly so.

    `parts` are the names of the parts they are in, `samples` their indices into the parts' data sets. `correlation`,
    of their differences, is 1 for exact copies; `mirrored` tells that one is the other's mirror image.
    """

    parts: tuple[str, str]
    samples: tuple[int, int]
    labels: tuple[int, int]
    correlation: float = 1.0
    mirrored: bool = False
    exact: bool = False

    @property
    def labels_differ(self) -> bool:
        """Whether both labels are known and not the same."""
        return min(self.labels) >= 0 and self.labels[0] != self.labels[1]


def pairs_of_parts(names: list[str]) -> list[tuple[str, str]]:
    """Return each part with itself, and each with every later one: in the second of them copies are counted."""
    return [(one, other) for place, one in enumerate(names) for other in names[place:]]


def has_pixel_hashes(part: Part) -> bool:
    """Tell whether `part.hashes` are digests of pixels; images of an HDF5 file have keys instead."""
    return len(part) > 0 and len(part.hashes[0]) == HASH_BYTES


def all_exact_copies(parts: dict[str, Part]) -> list[Copy] | None:
    """Return the exact copies in and between all parts, or None where only reading every image could find them."""
    if not all(map(has_pixel_hashes, parts.values())):
        return None
    return [copy for names in pairs_of_parts(list(parts)) for copy in exact_copies(parts, names)]


def exact_copies(parts: dict[str, Part], names: tuple[str, str]) -> list[Copy]:
    """Return one Copy for each image of the second part that has a copy in the first; in one part, before it.

    Of several copies it is paired with one of another label, if there is one.
    """
    first, second = (parts[name] for name in names)
    seen: dict[bytes, dict[int, int]] = defaultdict(dict)  # of each picture the first sample with each label
    if first is not second:
        for sample, label, digest in _rows(first):
            seen[digest].setdefault(label, sample)
    copies = []
    for sample, label, digest in _rows(second):
        if digest in seen:
            pairs = [Copy(names, (other, sample), (known, label), exact=True) for known, other in seen[digest].items()]
            copies.append(max(pairs, key=lambda copy: copy.labels_differ))
        if first is second:
            seen[digest].setdefault(label, sample)
    return copies


def _rows(part: Part) -> Iterator[tuple[int, int, bytes]]:
    return zip(part.samples.tolist(), part.labels, part.hashes, strict=True)


def near_limit(statistics: PixelStatistics) -> float:
    """Return the correlation of differences from which on two images are near copies in such a data set."""
    is_hard = statistics.shares().max() > DRAWING or statistics.side < TINY
    return NEAR_DRAWINGS if is_hard else NEAR


def all_near_copies(parts: dict[str, Part], thumbnails_of: dict[str, torch.Tensor], limit: float) -> list[Copy]:
    """Return the near copies in and between all parts: one Copy for each image, with the one most similar to it.

    Exact copies are left out: of those in one part the first stands for all.

    Args:
        thumbnails_of: (N, …) each, as `thumbnails` returns them.
        limit: as `near_limit` returns it.
    """
    originals = {name: _originals(part) for name, part in parts.items()}
    pairs = pairs_of_parts(list(parts))
    copies = []
    with progress(sum(len(originals[other]) for _, other in pairs), "comparing images") as bar:
        for names in pairs:
            one, other = (originals[name] for name in names)
            if names[0] != names[1] and has_pixel_hashes(parts[names[0]]):
                known = set(parts[names[0]].hashes)
                other = other[[parts[names[1]].hashes[place] not in known for place in other.tolist()]]
            found = most_similar(
                thumbnails_of[names[1]][other], thumbnails_of[names[0]][one], CANDIDATE, names[0] == names[1]
            )
            candidates = [(one[found[1]], parts[names[0]]), (other[found[0]], parts[names[1]])]
            copies += _confirmed(names, candidates, found[2], limit)
            bar.update(len(originals[names[1]]))
    return copies


def _originals(part: Part) -> torch.Tensor:
    """Return the places in `part` of the first of each exact copies."""
    if not has_pixel_hashes(part):
        return torch.arange(len(part))
    first = {}
    for place, digest in enumerate(part.hashes):
        first.setdefault(digest, place)
    return torch.tensor(list(first.values()))


def thumbnails(images: torch.Tensor) -> torch.Tensor:
    """Return (n, 2, 32) float32 of (n, C, H, W) uint8: the halves of tiny grey pictures, summed and subtracted.

    A picture of mean 0 and norm 1 is cut in the middle and its right half mirrored. With s the sum and d the
    difference of the halves, over √2, two pictures a and b correlate by s_a·s_b + d_a·d_b, and a and the mirrored b by
    s_a·s_b - d_a·d_b: both come from the same two products. Pictures that are nearly of one grey are zero.
    Source of comparing tiny pictures, mirrored too: Torralba, Fergus, Freeman: "80 Million Tiny Images", 2008.
    """
    grey = adaptive_avg_pool2d(images.float().mean(1, keepdim=True), THUMBNAIL)[:, 0]
    grey = grey - grey.mean((1, 2), keepdim=True)
    norms = grey.square().sum((1, 2), keepdim=True).sqrt()
    grey = torch.where(norms > FLAT * THUMBNAIL, grey / norms, 0)
    left, right = grey[..., : THUMBNAIL // 2], grey.flip(-1)[..., : THUMBNAIL // 2]
    return torch.stack((left + right, left - right), dim=1).flatten(2) / math.sqrt(2)


def most_similar(
    queries: torch.Tensor, others: torch.Tensor, limit: float, are_same: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the queries that correlate with one of the others by more than `limit`, which it is, and if mirrored.

    Args:
        queries, others: (N, 2, 32) and (M, 2, 32), as `thumbnails` returns them.
        are_same: both are the same images: then each is compared with those before it.

    Returns:
        Places in `queries`, places in `others`, and booleans, (n,) each.
    """
    best, place = torch.full((len(queries),), limit), torch.full((len(queries),), -1)
    for start in range(0, len(queries), COMPARED):
        rows = slice(start, start + COMPARED)
        for first in range(0, start + COMPARED if are_same else len(others), COMPARED):
            sums, differences = others[first : first + COMPARED].unbind(1)
            scores = queries[rows, 0] @ sums.T + (queries[rows, 1] @ differences.T).abs_()
            if are_same and first == start:
                scores.tril_(-1)
            higher = torch.nonzero(scores.amax(1) > best[rows])[:, 0]
            best[start + higher], where = scores[higher].max(1)
            place[start + higher] = first + where
    found = torch.nonzero(place >= 0)[:, 0]
    mirrored = (queries[found, 1] * others[place[found], 1]).sum(1) < 0
    return found, place[found], mirrored


def detail_correlation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return (n,) how much n pairs of images, (n, C, H, W) uint8 each, correlate in detail.

    It is the smaller one of the correlations of all and of the middle, because a frame around two different pictures
    can outweigh them.
    """
    margin = max(one.shape[-1] // FRAME, 1)
    inside = slice(margin, -margin)
    whole, middle = ((detail(a) * detail(b)).sum(1) for a, b in
                     ((one, other), (one[..., inside, inside], other[..., inside, inside])))  # fmt: skip
    return torch.minimum(whole, middle)


def detail(images: torch.Tensor) -> torch.Tensor:
    """Return (n, …) float32: how the pixels of (n, C, H, W) uint8 images differ from their neighbours, norm 1.

    A dark lower half makes any two pictures correlate, their detail does not. (Difference hashes rest on that too:
    Krawetz: "Kind of Like That", 2013; these are their signs.)
    """
    pixels = _reduced(images, DETAIL_SIDE)
    across, down = pixels.diff(dim=3).flatten(1), pixels.diff(dim=2).flatten(1)
    differences = torch.cat((across, down), dim=1)
    largest = LARGEST_DIFFERENCE * differences.abs().mean(1, keepdim=True)
    differences = differences.clamp(-largest, largest)
    return differences / differences.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _confirmed(
    names: tuple[str, str], candidates: list[tuple[torch.Tensor, Part]], mirrored: torch.Tensor, limit: float
) -> list[Copy]:
    """Return those pairs whose pixels correlate in detail.

    Args:
        candidates: of both sides the places, (n,), in the part.
        mirrored: (n,): compare with the mirror image.
    """
    if not len(mirrored):
        return []
    samples = [part.samples[places] for places, part in candidates]
    labels = [part.dataset.labels[numbers].tolist() for numbers, (_, part) in zip(samples, candidates, strict=True)]
    correlations = []
    chosen = [Part(part.dataset, numbers) for numbers, (_, part) in zip(samples, candidates, strict=True)]
    flips = mirrored.split(max(1, BLOCK // chosen[0].dataset.size ** 2))
    for (one, _), (other, _), flip in zip(blocks(chosen[0]), blocks(chosen[1]), flips, strict=True):
        turned = torch.where(flip[:, None, None, None], other.flip(-1), other)
        correlations += detail_correlation(one, turned).tolist()
    rows = zip(*(numbers.tolist() for numbers in samples), *labels, correlations, mirrored.tolist(), strict=True)
    return [Copy(names, row[:2], row[2:4], min(row[4], 1.0), row[5]) for row in rows if row[4] >= limit]


def describe_copies(copies: list[Copy], parts: dict[str, Part]) -> dict:
    """Return by "part" and "part/part" how many images of the latter have a copy, and the first pairs by their ids."""
    found = {}
    for one, other in pairs_of_parts(list(parts)):
        of_parts = [copy for copy in copies if copy.parts == (one, other)]
        found[one if one == other else f"{one}/{other}"] = {
            "images": len(of_parts),
            "labels_differ": sum(copy.labels_differ for copy in of_parts),
            "mirrored": sum(copy.mirrored for copy in of_parts),
            "pairs": [_pair(copy, parts) for copy in noteworthy(of_parts)[:LISTED]],
        }
    return found


def noteworthy(copies: list[Copy]) -> list[Copy]:
    """Return copies as a person wants to see them: contradictory labels, then two parts; the most similar first."""
    return sorted(copies, key=lambda copy: (not copy.labels_differ, copy.parts[0] == copy.parts[1], -copy.correlation))


def _pair(copy: Copy, parts: dict[str, Part]) -> dict:
    sets = [parts[name].dataset for name in copy.parts]
    return {
        "ids": [dataset.ids[sample] for dataset, sample in zip(sets, copy.samples, strict=True)],
        "classes": [sets[0].classes[label] if label >= 0 else None for label in copy.labels],
        "correlation": round(copy.correlation, 4),
        "mirrored": copy.mirrored,
    }


# What it means


def notes(report: dict) -> list[str]:
    """Return in words what a person should notice of what explore.json says, or that there is nothing."""
    found = [
        *_notes_on_counts(report["parts"], report["balance"]),
        *_notes_on_sizes(report["sizes"]),
        *_notes_on_pixels(report["pixels"], report["parts"]["train"]["looked_at"]),
        *_notes_on_copies(report["copies"], report["parts"]),
    ]
    return found or ["nothing unusual"]


def _notes_on_counts(parts: dict, balance: dict) -> Iterator[str]:
    counts = parts["train"]["per_class"]
    smallest, largest = min(counts, key=counts.get), max(counts, key=counts.get)
    if balance["ratio"] is None or balance["ratio"] >= UNBALANCED:
        yield (
            f"the classes are unbalanced: {counts[largest]:,} training images of {_quoted(largest)}, "
            f"{counts[smallest]:,} of {_quoted(smallest)}; accuracy hides what happens to small classes"
        )
    if counts[smallest] < FEW:
        few = sum(count < FEW for count in counts.values())
        yield (
            f"few images: {few:,} of {len(counts):,} classes have fewer than {FEW} training images, the smallest "
            f"{counts[smallest]:,}; pretrained weights and augmentation help"
        )
    for name, part in parts.items():
        if part["unlabelled"]:
            yield f"{part['unlabelled']:,} of {part['images']:,} {name} images have no label: there is no score on them"
        missing = sum(count == 0 for count in part["per_class"].values())
        if missing and part["unlabelled"] < part["images"]:
            yield f"{missing:,} of {len(counts):,} classes have no {name} image"


def _notes_on_sizes(sizes: dict) -> Iterator[str]:
    side = sizes["stored"][0]
    if side < TINY:
        yield f"the images are tiny, {side}x{side} pixels: a network made for photographs pools them away"
    if sizes["different"] > 1:
        smallest, largest = (f"{width}x{height}" for width, height in (sizes["smallest"], sizes["largest"]))
        yield f"the images come in {sizes['different']:,} sizes, {smallest} to {largest}; all become {side}x{side}"
    if sizes["enlarged"]:
        yield f"{sizes['enlarged']:,} images are smaller than {side} pixels and are enlarged"
    if sizes["long"]:
        yield f"{sizes['long']:,} images are more than {LONG:g} times as long as wide: a square shows part of them"


def _notes_on_pixels(pixels: dict, looked_at: int) -> Iterator[str]:
    if pixels["greyscale"] >= ALL_GREY:
        yield "the images are greyscale: three equal channels tell no more than one"
    elif pixels["greyscale"] >= SOME_GREY:
        yield f"{pixels['greyscale']:.1%} of the training images are greyscale among coloured ones"
    if pixels["constant_images"]:
        yield f"{pixels['constant_images']:,} of {looked_at:,} training images show one colour and nothing else"
    if pixels["zero"] >= SPARSE:
        yield f"{pixels['zero']:.0%} of all pixel values are exactly 0: strokes or objects on a black ground"


def _notes_on_copies(copies: dict, parts: dict) -> Iterator[str]:
    if copies["exact"] is None:
        yield "exact copies were not looked for: the images stay in their file, and all of it would have to be read"
    if any(part["looked_at"] < part["images"] for part in parts.values()):
        seen, total = (sum(part[key] for part in parts.values()) for key in ("looked_at", "images"))
        yield f"{seen:,} of {total:,} images were looked at; near copies of the others are not counted"
    for kind, found in (("exact", copies["exact"] or {}), ("near", copies["near"])):
        for name, count in found.items():
            yield from _notes_on(kind, name.split("/"), count)


def _notes_on(kind: str, names: list[str], count: dict) -> Iterator[str]:
    if not count["images"]:
        return
    are = "are the same as" if kind == "exact" else "are nearly the same as"
    if len(names) == 1:
        yield f"{count['images']:,} {names[0]} image(s) {are} another {names[0]} image"
    else:
        effect = f"{names[1]} accuracy is too good" if names[0] == "train" else "the two are not independent"
        yield f"{count['images']:,} {names[1]} image(s) {are} a {names[0]} image: {effect}"
    if count["labels_differ"]:
        advice = "at most one of the two can be right" if kind == "exact" else "look at them in duplicates.png"
        yield f"{count['labels_differ']:,} of those pairs have two different labels: {advice}"


def _quoted(name: str, longest: int = 40) -> str:
    return repr(name if len(name) <= longest else name[: longest - 1] + "…")


# Pictures


def _draw(folder: Path, data: Data, report: dict, statistics: PixelStatistics, copies: list[Copy]) -> None:
    from common.exploring import plots as exploration_plots  # imports matplotlib

    exploration_plots.draw_class_counts(folder / "class_counts.png", report["parts"])
    exploration_plots.draw_images(
        folder / "explore_samples.png", balanced_sample(data.train, exploration_plots.SAMPLES)
    )
    exploration_plots.draw_histogram(folder / "pixel_histogram.png", report["pixels"])
    exploration_plots.draw_mean_images(folder / "mean_images.png", statistics.mean_images(), data.classes)
    exploration_plots.draw_correlation(folder / "correlation.png", report["correlation"])
    path = folder / "duplicates.png"
    path.unlink(missing_ok=True)  # of an earlier look, when there were copies
    if copies:
        parts = {"train": data.train, "val": data.val, "test": data.test}
        exploration_plots.draw_copies(path, noteworthy(copies), parts)
