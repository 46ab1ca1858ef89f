"""Random numbers that are a pure function of (seed, epoch, sample index).

A generator that is advanced draw by draw gives a sample other numbers when the order, the batch size or the number of
workers changes, or when a run is resumed. Here every sample has a stream of its own, computed by hashing. All
arithmetic is on 64-bit integers, so that every device gives the same numbers without waiting for another.
Hash: the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
"""

import torch

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, as a signed integer like all in here
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
PURPOSES = ("augmentation", "order", "training")


class Draws:
    """One random stream for each sample of a batch.

    Each call takes the next number of every stream, so a pipeline that draws in the same order draws the same numbers.

    Args:
        seed, epoch: integers; every pair has streams of its own.
        samples: (N,) int64 indices into the data set, on the device where the numbers are wanted.
        purpose: one of PURPOSES; streams of different purposes are independent.
    """

    def __init__(self, seed: int, epoch: int, samples: torch.Tensor, purpose: str = "augmentation"):
        key = torch.tensor(PURPOSES.index(purpose))
        for number in (seed, epoch):
            key = _mix(key * GOLDEN + number)
        self._streams = _mix(samples * GOLDEN + key.item())
        self._count = 0

    def bits(self) -> torch.Tensor:
        """Return (N,) int64 with 64 random bits each."""
        self._count += 1
        return _mix(self._streams + _wrap(self._count * GOLDEN))

    def uniform(self) -> torch.Tensor:
        """Return (N,) float32, uniform in [0, 1), from 24 random bits each: all that a float32 can hold."""
        return _shift_right(self.bits(), 40).float() * 2.0**-24

    def integers(self, high: int) -> torch.Tensor:
        """Return (N,) int64, uniform in 0 … high - 1, for `high` up to 2^31."""
        return (_shift_right(self.bits(), 33) * high) >> 31


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of what torch draws for itself in one epoch, such as dropout masks."""
    return _shift_right(Draws(seed, epoch, torch.zeros(1, dtype=torch.int64), "training").bits(), 1).item()


def shuffled(samples: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    """Return `samples` in this epoch's order: a sample's place depends on (seed, epoch, its index) alone."""
    return samples[torch.argsort(Draws(seed, epoch, samples, "order").bits(), stable=True)]


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * MULTIPLIERS[0]
    x = (x ^ _shift_right(x, 27)) * MULTIPLIERS[1]
    return x ^ _shift_right(x, 31)


def _wrap(number: int) -> int:
    """Return `number` modulo 2^64 as the signed integer that torch.int64 holds."""
    return (number + 2**63) % 2**64 - 2**63


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift as if unsigned: torch.int64 would fill with copies of the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
