"""Random numbers that are a pure function of (seed, epoch, key of the sample).

A generator that is advanced draw by draw gives a sample other numbers when the order, the batch size or the number of
workers changes, or when a run is resumed. Here every sample has a stream of its own, computed by hashing. All
arithmetic is on 64-bit integers, so that every device gives the same numbers without waiting for another.
Hash: the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
"""

import copy
import functools
import math

import torch

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, as a signed integer like all in here
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
AHEAD = 32  # numbers of each stream that are computed at once: as many as most pipelines draw
BATCH = 2**12  # streams, up to which that takes little; there is one for each image of a data set, too
PURPOSES = ("augmentation", "order", "training", "windows", "mixing", "dropout", "image", "sampling")


class Draws:
    """One random stream for each sample of a batch.

    Each call takes the next numbers of every stream, so a pipeline that draws in the same order draws the same numbers.
    `draws[places]` goes on with the streams of some of the indices.

    Args:
        seed, epoch: integers; every pair has streams of its own.
        indices: (N,) int64 by which samples are told apart, on the device where the numbers are wanted.
        purpose: one of PURPOSES; streams of different purposes are independent.
    """

    def __init__(self, seed: int, epoch: int, indices: torch.Tensor, purpose: str = "augmentation"):
        self._streams = _mix(indices * GOLDEN + _key(purpose, seed, epoch))
        self._count, self._ahead = 0, None
        self.seed, self.epoch, self.indices = seed, epoch, indices

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, places: torch.Tensor | slice) -> "Draws":
        part = copy.copy(self)
        part._streams, part.indices = self._streams[places], self.indices[places]
        part._ahead = None if self._ahead is None else self._ahead[places]
        return part

    def of_images(self) -> "Draws":
        """Return streams for the same indices that are the same in every epoch."""
        return Draws(self.seed, 0, self.indices, "image")

    def branch(self) -> "Draws":
        """Return new streams for the same indices; however much is drawn from them, these move on by one number."""
        new = copy.copy(self)
        new._streams, new._count, new._ahead = self.bits(), 0, None
        return new

    def bits(self, *shape: int) -> torch.Tensor:
        """Return (N, *shape) int64 with 64 random bits each; nobody may change them in place."""
        start, self._count = self._count, self._count + math.prod(shape)
        if self._count > AHEAD or len(self) > BATCH:
            return self._numbers(start, self._count).view(-1, *shape)
        if self._ahead is None:  # a GPU takes as long to begin with one number as with many
            self._ahead = self._numbers(0, AHEAD)
        return self._ahead[:, start : self._count].view(-1, *shape)

    def _numbers(self, start: int, end: int) -> torch.Tensor:
        """Return the numbers `start` … `end` - 1 of every stream, (N, end - start) int64."""
        steps = torch.arange(start + 1, end + 1, device=self._streams.device) * GOLDEN
        return _mix(self._streams[:, None] + steps)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return (N, *shape) float32, uniform in [0, 1), from 24 random bits each: all that a float32 can hold."""
        return _shift_right(self.bits(*shape), 40).float() * 2.0**-24

    def integers(self, high: int | torch.Tensor) -> torch.Tensor:
        """Return (N,) int64, uniform in 0 … high - 1, for `high` up to 2^31, one for all or (N,)."""
        return (_shift_right(self.bits(), 33) * high) >> 31

    def normal(self, count: int) -> torch.Tensor:
        """Return (N, count) float32, standard normal; the first of them do not depend on `count`.

        Two from each 64 bits: Box, Muller: "A Note on the Generation of Random Normal Deviates", 1958.
        """
        bits = self.bits(-(-count // 2))
        radius = (_shift_right(bits, 32) + 1).float().mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = (bits & (2**32 - 1)).float().mul_(2 * math.pi * 2.0**-32)
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)[:, :count]


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of what torch draws for itself in one epoch, such as dropout masks."""
    return _shift_right(Draws(seed, epoch, torch.zeros(1, dtype=torch.int64), "training").bits(), 1).item()


def shuffled(indices: torch.Tensor, seed: int, epoch: int, keys: torch.Tensor | None = None) -> torch.Tensor:
    """Return `indices` in this epoch's order: a sample's place depends on (seed, epoch, its key or index) alone."""
    draws = Draws(seed, epoch, indices if keys is None else keys, "order")
    return indices[torch.argsort(draws.bits(), stable=True)]


@functools.lru_cache(64)
def _key(purpose: str, seed: int, epoch: int) -> int:
    """Return what all streams of this purpose, seed and epoch begin with."""
    key = torch.tensor(PURPOSES.index(purpose))
    for number in (seed, epoch):
        key = _mix(key * GOLDEN + number)
    return key.item()


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(MULTIPLIERS[0])  # the others in place: twice as fast
    x.bitwise_xor_(_shift_right(x, 27)).mul_(MULTIPLIERS[1])
    return x.bitwise_xor_(_shift_right(x, 31))


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift as if unsigned: torch.int64 would fill with copies of the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)
