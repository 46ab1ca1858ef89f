"""Images that are the same or nearly so, in one split of the data or in two."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, interpolate, pad

from common.data.arrays import Split
from common.exploring.pixels import PixelStatistics, reduced

LISTED = 20  # pairs of copies that explore.json names; all are counted

# Near copies. Of each image those few are candidates whose gray thumbnails, or their mirrored ones, correlate most with
# its own, if by so much: a picture that many others have been cut from has more than one.
THUMBNAIL, CANDIDATE, CANDIDATES = 8, 0.6, 4
# They are near copies if the differences of their neighboring pixels correlate by so much. Of all candidates among
# 29,100 photographs from ImageNet none reached 0.45; of 58 pairs above 0.55 in CIFAR-10 (JPEG) that were looked at, 4
# were two pictures (airplanes of one kind).
NEAR = 0.55
# Or if the corners in the middle of one do so with those somewhere in the other, at one of SCALES and moved by up to
# MOVED pixels. Of the candidates among 29,100 photographs one pair did: a fish on two grounds, by 0.82; next to it come
# two sticks on a plain ground, by 0.619. Lower limits find more copies in CIFAR-10 (JPEG), and more that are none.
NEAR_MOVED = 0.62
SCALES, MOVED = (0.9, 0.95, 1.0, 1.05, 1.1), 2
# Only pairs that do so a little at half the size are worth that. A lower limit finds no more copies in CIFAR-10 (JPEG).
LIKELY = 0.5
MARGIN = 8  # the middle begins at one pixel in so many
# Of strokes on a plain ground, or of very few pixels, two different images can be that similar: digits of 8x8 pixels
# written by two people reach 0.978. There nothing is moved.
NEAR_DRAWINGS = 0.98
DRAWING = 0.25  # share of the values that are the most frequent one: 0.49 in digits, at most 0.03 in photographs
TINY = 16  # pixels
DETAIL_SIDE = 32  # larger images are reduced to this first: at full size a shift by one pixel hides a copy
FRAME = 6  # the share of an image, one in so many pixels from each edge, that may be a frame
LARGEST_DIFFERENCE = 3  # times the mean one; without a limit the edge of a black frame outweighs the picture in it
LARGEST_CORNER = 2  # likewise
FLAT = 1.0  # of 255: a thumbnail with a smaller standard deviation shows nothing that could be compared
COMPARED = 1024  # thumbnails compared with as many others at once: the results stay in the processor's cache
GROUP = 32  # of the thumbnails compared at once the best of so many is kept, so that few have to be ranked
CONFIRMED = 512  # pairs of pictures compared at once


@dataclass(frozen=True)
class Copy:
    """Two images that are the same or nearly so."""

    splits: tuple[str, str]  # names of those they are in
    indices: tuple[int, int]  # into the data sets of these
    labels: tuple[int, int]
    correlation: float = 1.0  # in detail
    mirrored: bool = False  # one is the other's mirror image
    exact: bool = False

    @property
    def labels_differ(self) -> bool:
        """Whether both labels are known and not the same."""
        return min(self.labels) >= 0 and self.labels[0] != self.labels[1]


def pairs_of_splits(splits: dict[str, Split]) -> list[tuple[str, str]]:
    """Return each name with itself, and each with every later one: in the second of them copies are counted."""
    return list(combinations_with_replacement(splits, 2))


def all_exact_copies(splits: dict[str, Split]) -> list[Copy] | None:
    """Return the exact copies in and between all splits, or None where only reading every image could find them.

    There is one Copy for each image of a split that has a copy in an earlier one or, in its own, before it. Of several
    copies it is paired with one of another label, if there is one.
    """
    if not all(split.has_pixel_hashes for split in splits.values()):
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
    """Return the correlation in detail from which on two images are near copies in such a data set."""
    is_hard = statistics.shares().max() > DRAWING or statistics.side < TINY
    return NEAR_DRAWINGS if is_hard else NEAR


def small_pictures(images: torch.Tensor) -> torch.Tensor:
    """Return what is compared of (n, C, H, W) uint8 images: the same of at most DETAIL_SIDE pixels."""
    return reduced(images, DETAIL_SIDE).round_().byte()


def all_near_copies(
    splits: dict[str, Split], pictures: dict[str, torch.Tensor], limit: float, pairs: list[tuple[str, str]],
    advance: Callable[[int], object] = id,
) -> list[Copy]:  # fmt: skip
    """Return the near copies in and between splits: one Copy for each image, with the one most similar to it.

    Exact copies are left out: of those in one split the first stands for all.

    Args:
        pictures, limit: what `small_pictures` and `near_limit` return.
        pairs: those of `pairs_of_splits` that are compared.
        advance: is told of how many images more that is done.
    """
    first_of = {name: {key: place for place, key in reversed(list(enumerate(splits[name].hashes)))} for name in splits}
    originals = {name: sorted(places.values()) for name, places in first_of.items()}
    small = {name: torch.cat([thumbnails(some) for some in pictures[name].split(COMPARED)]) for name in splits}
    copies = []
    for first, second in pairs:
        queries, others = originals[second], originals[first]
        if first != second and splits[first].has_pixel_hashes:
            queries = [place for place in queries if splits[second].hashes[place] not in first_of[first]]
        if queries:
            queries, others = torch.tensor(queries), torch.tensor(others)
            found, similar, mirrored = most_similar(small[second][queries], small[first][others], first == second)
            places = others[similar], queries[found]
            copies += _confirmed(splits, pictures, (first, second), places, mirrored, limit)
        advance(len(originals[second]))
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
    queries: torch.Tensor, others: torch.Tensor, are_same: bool, limit: float = CANDIDATE, count: int = CANDIDATES
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the pairs of queries and others that correlate by more than `limit`, and whether mirrored.

    All three are (n,): places in `queries` (N, 2, 32), places in `others` (M, 2, 32), which `thumbnails` returns, and
    booleans. Each query has up to `count` pairs, the best first, from as many of the groups that the others fall into.
    If they `are_same`, each image is compared with those before it.
    """
    others = pad(others, (0, 0, 0, 0, 0, -len(others) % COMPARED))
    members_of = torch.arange(len(others)).view(-1, GROUP, COMPARED // GROUP).transpose(1, 2).reshape(-1, GROUP)
    pairs = []
    for start in range(0, len(queries), COMPARED):
        rows, groups = queries[start : start + COMPARED], []
        for first in range(0, start + COMPARED if are_same else len(others), COMPARED):
            sums, differences = others[first : first + COMPARED].unbind(1)
            scores = rows[:, 0] @ sums.T + (rows[:, 1] @ differences.T).abs_()
            if are_same and first == start:
                scores.tril_(-1)
            groups.append(scores.unflatten(1, (GROUP, -1)).amax(1))
        best, group = torch.cat(groups, 1).topk(count)
        row, rank = torch.nonzero(best > limit, as_tuple=True)
        members = members_of[group[row, rank]]
        sums, differences = torch.einsum("nkd,ngkd->kng", rows[row], others[members])
        scores = sums + differences.abs()
        if are_same:
            scores[members >= start + row[:, None]] = 0
        place = scores.argmax(1, keepdim=True)
        pairs.append((start + row, members.gather(1, place)[:, 0], differences.gather(1, place)[:, 0] < 0))
    found, places, mirrored = zip(*pairs, strict=True)
    return torch.cat(found), torch.cat(places), torch.cat(mirrored)


def moved_correlation(one: torch.Tensor, other: torch.Tensor, moved: int = MOVED) -> torch.Tensor:
    """Return (n,) how much the middle of n pictures correlates with what is most like it in n others, in corners.

    Both are (n, H, W) float32, gray; the others are tried at all SCALES, moved by up to `moved` pixels. (Looking for
    one picture in another by the normalized correlation: Lewis: "Fast Normalized Cross-Correlation", 1995.)
    """
    margin, best = one.shape[-1] // MARGIN, one.new_zeros(len(one))
    side = one.shape[-1] - 2 * margin - 2
    middle = corners(one)[:, margin : margin + side, margin : margin + side]
    middle = middle / middle.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-6)
    for scale in SCALES:
        size = [round(scale * other.shape[-1])] * 2
        scaled = corners(interpolate(other[:, None], size=size, mode="bilinear", antialias=True)[:, 0])
        start = (scaled.shape[-1] - side) // 2 - moved
        part = slice(max(start, 0), start + side + 2 * moved)
        where = scaled[:, part, part]
        products = conv2d(where[None], middle[:, None], groups=len(middle))[0]
        energy = avg_pool2d(where.square()[:, None], side, stride=1)[:, 0] * side**2
        best = torch.maximum(best, (products / energy.sqrt().clamp(min=1e-6)).amax((1, 2)))
    return best.clamp(max=1)


def corners(gray: torch.Tensor) -> torch.Tensor:
    """Return (n, H-2, W-2): by how much (n, H, W) pictures differ along both axes at once.

    Long edges vanish in it: two towers before a bright sky have nothing else in common. In their differences along one
    axis they correlate by up to 0.69 at the best of all places. What is between two pixels would vanish, too, if the
    picture is moved by half a pixel: so four neighbors are averaged first.
    """
    smooth = avg_pool2d(gray[:, None], 2, stride=1)[:, 0]
    both = smooth.diff(dim=1).diff(dim=2)
    largest = LARGEST_CORNER * both.abs().mean((1, 2), keepdim=True)
    return both.clamp(-largest, largest)


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


def _confirmed(
    splits: dict[str, Split], pictures: dict[str, torch.Tensor], names: tuple[str, str],
    places: tuple[torch.Tensor, torch.Tensor], mirrored: torch.Tensor, limit: float,
) -> list[Copy]:  # fmt: skip
    """Return of each image, at `places` (n,) of the second split, the most similar pair, if that is a near copy.

    Where `mirrored` (n,) says so, with the mirror image.
    """
    correlations = []
    for start in range(0, len(mirrored), CONFIRMED):
        some = slice(start, start + CONFIRMED)
        one, other = (pictures[name][at[some]] for name, at in zip(names, places, strict=True))
        other = torch.where(mirrored[some, None, None, None], other.flip(-1), other)
        correlations += _copied(one, other, limit).tolist()
    best: dict[int, Copy] = {}
    ones, others = (numbers.tolist() for numbers in places)
    for one, other, correlation, flip in zip(ones, others, correlations, mirrored.tolist(), strict=True):
        if correlation > (best[other].correlation if other in best else 0):
            indices = tuple(int(splits[name].indices[at]) for name, at in zip(names, (one, other), strict=True))
            labels = tuple(int(splits[name].dataset.labels[index]) for name, index in zip(names, indices, strict=True))
            best[other] = Copy(names, indices, labels, correlation, flip)
    return list(best.values())


def _copied(one: torch.Tensor, other: torch.Tensor, limit: float) -> torch.Tensor:
    """Return (n,) how much n pairs of pictures correlate in detail; 0 if they are no near copies.

    The second look, at moved pictures, is for photographs.
    """
    if limit == NEAR_DRAWINGS:
        correlation = detail_correlation(one, other).clamp(max=1)
        return torch.where(correlation >= limit, correlation, 0)
    gray = [images.float().mean(1) for images in (one, other)]
    at_half_size = moved_correlation(*(adaptive_avg_pool2d(images, images.shape[-1] // 2) for images in gray), moved=1)
    likely = torch.nonzero(at_half_size > LIKELY)[:, 0]
    found = torch.zeros(len(one))
    if len(likely):
        same = detail_correlation(one[likely], other[likely]).clamp(max=1)
        moved = moved_correlation(*(images[likely] for images in gray))
        found[likely] = torch.where(same >= limit, same, torch.where(moved >= NEAR_MOVED, moved, 0))
    return found


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
