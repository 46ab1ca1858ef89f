"""Images that are the same or nearly so, in one split of the data or in two."""

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch.nn.functional import adaptive_avg_pool2d

from common.data.arrays import HASH_BYTES, Split
from common.exploring.pixels import PixelStatistics, blocks, reduced
from common.system.log import progress

LISTED = 20  # pairs of copies that explore.json names; all are counted

# Near copies. Two images are candidates if their gray thumbnails, or one and the mirrored other, correlate by so much.
# Of the near copies that were seen in CIFAR-10, most correlate by 0.95 or more.
THUMBNAIL, CANDIDATE = 8, 0.9
# They are near copies if the differences of their neighboring pixels do so too. Of all candidates among 29,100
# photographs from ImageNet none reached 0.45. Of 14 pairs from CIFAR-10 each that were looked at, 3 with 0.50 to 0.55
# were different pictures, 3 with 0.55 to 0.60 (airplanes of one kind) and one with 0.60 to 0.65; of about 30 above that
# all were one picture, cut out, colored or compressed differently.
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


@dataclass(frozen=True)
class Copy:
    """Two images that are the same or nearly so.

    `splits` are the names of the splits they are in, `indices` their indices into the splits' data sets. `correlation`,
    of their differences, is 1 for exact copies; `mirrored` tells that one is the other's mirror image.
    """

    splits: tuple[str, str]
    indices: tuple[int, int]
    labels: tuple[int, int]
    correlation: float = 1.0
    mirrored: bool = False
    exact: bool = False

    @property
    def labels_differ(self) -> bool:
        """Whether both labels are known and not the same."""
        return min(self.labels) >= 0 and self.labels[0] != self.labels[1]


def pairs_of_splits(splits: dict[str, Split]) -> list[tuple[str, str]]:
    """Return each name with itself, and each with every later one: in the second of them copies are counted."""
    return list(combinations_with_replacement(splits, 2))


def has_pixel_hashes(split: Split) -> bool:
    """Tell whether `split.hashes` are digests of pixels; images of an HDF5 file have keys instead."""
    return len(split) > 0 and len(split.hashes[0]) == HASH_BYTES


def all_exact_copies(splits: dict[str, Split]) -> list[Copy] | None:
    """Return the exact copies in and between all splits, or None where only reading every image could find them.

    There is one Copy for each image of a split that has a copy in an earlier one or, in its own, before it. Of several
    copies it is paired with one of another label, if there is one.
    """
    if not all(map(has_pixel_hashes, splits.values())):
        return None
    copies = []
    for names in pairs_of_splits(splits):
        seen: dict[bytes, dict[int, int]] = defaultdict(dict)  # of each picture the first index with each label
        for name in dict.fromkeys(names):  # a split and itself are gone through once
            split = splits[name]
            for index, label, digest in zip(split.indices.tolist(), split.labels, split.hashes, strict=True):
                if name == names[1] and digest in seen:
                    others = seen[digest].items()
                    pairs = [Copy(names, (other, index), (known, label), exact=True) for known, other in others]
                    copies.append(max(pairs, key=lambda copy: copy.labels_differ))
                if name == names[0]:
                    seen[digest].setdefault(label, index)
    return copies


def near_limit(statistics: PixelStatistics) -> float:
    """Return the correlation of differences from which on two images are near copies in such a data set."""
    is_hard = statistics.shares().max() > DRAWING or statistics.side < TINY
    return NEAR_DRAWINGS if is_hard else NEAR


def all_near_copies(splits: dict[str, Split], thumbnails_of: dict[str, torch.Tensor], limit: float) -> list[Copy]:
    """Return the near copies in and between all splits: one Copy for each image, with the one most similar to it.

    Exact copies are left out: of those in one split the first stands for all. The arguments are what `thumbnails` and
    `near_limit` return.
    """
    first_of = {name: {key: place for place, key in reversed(list(enumerate(splits[name].hashes)))} for name in splits}
    originals = {name: sorted(places.values()) for name, places in first_of.items()}
    copies = []
    with progress(sum(len(originals[name]) for _, name in pairs_of_splits(splits)), "comparing images") as bar:
        for first, second in pairs_of_splits(splits):
            queries, others = originals[second], originals[first]
            if first != second and has_pixel_hashes(splits[first]):
                queries = [place for place in queries if splits[second].hashes[place] not in first_of[first]]
            small = thumbnails_of[second][queries], thumbnails_of[first][others]
            found, similar, mirrored = most_similar(*small, CANDIDATE, first == second)
            if len(found):
                one = splits[first].subset([others[place] for place in similar.tolist()])
                other = splits[second].subset([queries[place] for place in found.tolist()])
                copies += _confirmed((first, second), one, other, mirrored, limit)
            bar.update(len(originals[second]))
    return copies


def thumbnails(images: torch.Tensor) -> torch.Tensor:
    """Return (n, 2, 32) float32 of (n, C, H, W) uint8: the halves of tiny gray pictures, summed and subtracted.

    A picture of mean 0 and norm 1 is cut in the middle and its right half mirrored. With s the sum and d the
    difference of the halves, over √2, two pictures a and b correlate by s_a·s_b + d_a·d_b, and a and the mirrored b by
    s_a·s_b - d_a·d_b: both come from the same two products. Pictures that are nearly of one gray are zero.
    Source of comparing tiny pictures, mirrored too: Torralba, Fergus, Freeman: "80 Million Tiny Images", 2008.
    """
    gray = adaptive_avg_pool2d(images.float().mean(1, keepdim=True), THUMBNAIL)[:, 0]
    gray = gray - gray.mean((1, 2), keepdim=True)
    norms = gray.square().sum((1, 2), keepdim=True).sqrt()
    gray = torch.where(norms > FLAT * THUMBNAIL, gray / norms, 0)
    left, right = gray[..., : THUMBNAIL // 2], gray.flip(-1)[..., : THUMBNAIL // 2]
    return torch.stack((left + right, left - right), dim=1).flatten(2) / math.sqrt(2)


def most_similar(
    queries: torch.Tensor, others: torch.Tensor, limit: float, are_same: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the queries that correlate with one of the others by more than `limit`, which it is, and if mirrored.

    All three are (n,): places in `queries` (N, 2, 32), places in `others` (M, 2, 32), which `thumbnails` returns, and
    booleans. If they `are_same`, each image is compared with those before it.
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
    middle = (..., slice(margin, -margin), slice(margin, -margin))
    return torch.minimum((detail(one) * detail(other)).sum(1), (detail(one[middle]) * detail(other[middle])).sum(1))


def detail(images: torch.Tensor) -> torch.Tensor:
    """Return (n, …) float32: how the pixels of (n, C, H, W) uint8 images differ from their neighbors, norm 1.

    A dark lower half makes any two pictures correlate, their detail does not. (Difference hashes rest on that too:
    Krawetz: "Kind of Like That", 2013; these are their signs.)
    """
    pixels = reduced(images, DETAIL_SIDE)
    differences = torch.cat((pixels.diff(dim=3).flatten(1), pixels.diff(dim=2).flatten(1)), dim=1)
    largest = LARGEST_DIFFERENCE * differences.abs().mean(1, keepdim=True)
    differences = differences.clamp(-largest, largest)
    return differences / differences.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _confirmed(names: tuple[str, str], one: Split, other: Split, mirrored: torch.Tensor, limit: float) -> list[Copy]:
    """Return those pairs, of the images at the same place in both splits, whose pixels correlate in detail.

    Where `mirrored` (n,) says so, with the mirror image.
    """
    correlations: list[float] = []
    for (images, _), (others, _) in zip(blocks(one), blocks(other), strict=True):
        flip = mirrored[len(correlations) :][: len(images), None, None, None]
        correlations += detail_correlation(images, torch.where(flip, others.flip(-1), others)).clamp(max=1).tolist()
    indices = zip(one.indices.tolist(), other.indices.tolist(), strict=True)
    labels = zip(one.labels, other.labels, strict=True)
    rows = zip(indices, labels, correlations, mirrored.tolist(), strict=True)
    return [Copy(names, *row) for row in rows if row[2] >= limit]


def describe_copies(copies: list[Copy], splits: dict[str, Split]) -> dict:
    """Return by "part" and "part/part" how many images of the latter have a copy, and the first pairs by their ids."""
    found, classes = {}, next(iter(splits.values())).dataset.classes
    for names in pairs_of_splits(splits):
        of_parts = [copy for copy in copies if copy.splits == names]
        found["/".join(dict.fromkeys(names))] = {
            "images": len(of_parts),
            "labels_differ": sum(copy.labels_differ for copy in of_parts),
            "mirrored": sum(copy.mirrored for copy in of_parts),
            "pairs": [
                {
                    "ids": [splits[name].dataset.ids[index] for name, index in zip(names, copy.indices, strict=True)],
                    "classes": [classes[label] if label >= 0 else None for label in copy.labels],
                    "correlation": round(copy.correlation, 4),
                    "mirrored": copy.mirrored,
                }
                for copy in noteworthy(of_parts)[:LISTED]
            ],
        }
    return found


def noteworthy(copies: list[Copy]) -> list[Copy]:
    """Return copies as a person wants to see them: contradictory labels, then two splits; the most similar first."""
    return sorted(copies, key=lambda one: (not one.labels_differ, one.splits[0] == one.splits[1], -one.correlation))
