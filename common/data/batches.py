"""The way from a data set to the network: order, batches, transforms, device."""

import math
from collections.abc import Iterator, Sequence

import torch

from common.data.arrays import ArrayDataset, Split
from common.data.load import Data
from common.data.sampling import balanced
from common.data.uploading import Uploader
from common.system.device import Machine
from common.system.errors import BadInput
from common.system.threads import read_ahead
from common.transforms.random_streams import BATCH, Draws, shuffled

READ_AHEAD = 2  # batches that are read while the network works on another one
GPU_MEMORY_SHARE = 0.4  # of the free memory of a GPU, for the images; the rest is the network's
# Images, and bytes of them as float32, that are transformed in one call: to begin with one thing takes as long as to do
# it for a thousand small images. A CPU is slower as soon as they do not stay in its cache.
TOGETHER, GPU_BYTES, CPU_BYTES = BATCH, 2**27, 2**20


class Batches:
    """All batches of one split of the data, epoch after epoch.

    Training batches are shuffled anew in every epoch; others keep the order of the split. Order and augmentation
    depend on (seed, epoch, key of the image) alone, see `Split`.

    Args:
        transform: (images uint8 (N, C, H, W), draws) -> what the network takes.
        training: shuffle, and drop a last batch of which some process would get less than two images: batch norm needs
            two values in each channel.
        later_sizes: (epoch, batch size) pairs: from that epoch on batches have that size.

    BadInput is raised if training batches have less than two images for each process.
    """

    def __init__(
        self, split: Split, transform, batch_size: int, machine: Machine, seed: int, training: bool = False,
        later_sizes: Sequence[tuple[int, int]] = (),
    ):  # fmt: skip
        self.split, self.transform = split, transform
        self.dataset = split.dataset
        if machine.device.type == "cuda" and isinstance(self.dataset, ArrayDataset):
            room = GPU_MEMORY_SHARE * machine.free_memory()
            if self.dataset.is_on(machine.device) or self.dataset.pixels.nbytes <= room:
                self.dataset = self.dataset.to(machine.device)
        self.device, self.processes, self.seed, self.training = machine.device, machine.processes, seed, training
        self.batch_size, self.later_sizes = batch_size, later_sizes
        smallest = min(batch_size, len(split), *(size for _, size in later_sizes))
        needed = 2 * self.processes.world_size
        if training and needed > 2 and smallest < needed:
            advice = "each needs two; raise --batch_size (and --batch_schedule, --limit) or start fewer"
            count = self.processes.world_size
            raise BadInput(f"a batch of {smallest} image(s) is too small for {count} processes: {advice}")

    def size_in(self, epoch: int) -> int:
        """Return the batch size of an epoch."""
        return ([self.batch_size] + [size for start, size in self.later_sizes if start <= epoch])[-1]

    def images_in(self, epoch: int) -> int:
        """Return the number of images in an epoch."""
        images, size = len(self.split), self.size_in(epoch)
        leftover = images % size
        drop = self.training and images > size > 1 and leftover < 2 * self.processes.world_size
        return images - leftover if drop else images

    def batches_in(self, epoch: int) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.images_in(epoch) // self.size_in(epoch))

    @property
    def place(self) -> str:
        """Where the images lie, in words."""
        if not isinstance(self.dataset, ArrayDataset):
            return "read from files"
        return "in main memory" if self.dataset.pixels.is_cpu else "on the device"

    def class_weights(self, kind: str) -> torch.Tensor | None:
        """Return what an image of each class counts in the loss, (classes,) float32 on the device, None if all alike.

        With "auto" each class counts the same, and the mean over all images is 1 (King and Zeng: "Logistic Regression
        in Rare Events Data", 2001); with "none" all images do.
        """
        if kind == "none":
            return None
        counts = torch.bincount(torch.tensor(self.split.labels), minlength=len(self.dataset.classes)).float()
        is_there = counts > 0
        weights = is_there * counts.sum() / (is_there.sum() * counts.clamp(min=1))
        return weights.to(self.device, non_blocking=True)

    @property
    def _is_on_device(self) -> bool:
        return isinstance(self.dataset, ArrayDataset) and self.dataset.pixels.device.type == self.device.type

    def batches_together(self, epoch: int) -> int:
        """Return how many batches of an epoch are transformed in one call, which changes no result."""
        if not self._is_on_device:
            return 1
        numbers, limit = math.prod(self.dataset.pixels.shape[1:]), GPU_BYTES
        if self.device.type == "cpu":
            numbers, limit = max(numbers, math.prod(self.input_shape)), CPU_BYTES
        return max(1, min(TOGETHER, limit // (4 * numbers)) // self.size_in(epoch))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of what the network takes."""
        first = self.split.indices[:1]
        images, _ = self.split.dataset.batch(first)
        return tuple(self.transform(images, Draws(self.seed, 0, self.split.keys[first])).shape[1:])

    def first_images(self, count: int) -> torch.Tensor:
        """Return the first images as the network takes them, (count, C, H, W); nothing may be random about them."""
        images, _ = self.split.dataset.batch(self.split.indices[:count])
        return self.transform(images.to(self.device))

    def first_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first batch of the first epoch, for a picture of what the network sees."""
        return next(self.epoch(1))

    def sizes(self, epoch: int) -> list[int]:
        """Return the number of images in each batch of an epoch, those of all processes together."""
        images, size = self.images_in(epoch), self.size_in(epoch)
        return [size] * (images // size) + [images % size] * (images % size > 0)

    def order(self, epoch: int) -> list[torch.Tensor]:
        """Return the indices of each batch of an epoch, this process's share of them."""
        return [indices for indices, _ in self._order(epoch)]

    def _order(self, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return (indices, keys of what is random about them) of each batch of an epoch, this process's share.

        Training batches are divided one by one, so that all processes together make the steps of one; all others as a
        whole, so that their results only have to be put one after the other.
        """
        if not self.training:
            return self._in_order()
        places, keys = torch.arange(len(self.split)), self.split.keys[self.split.indices]
        if self.split.is_balanced:
            places, keys = balanced(torch.tensor(self.split.labels), keys, self.seed, epoch)
        order = shuffled(torch.arange(len(keys)), self.seed, epoch, keys)[: self.images_in(epoch)]
        shares = [self.processes.shard(batch) for batch in order.split(self.size_in(epoch))]
        return [(self.split.indices[places[share]], keys[share]) for share in shares]

    def _in_order(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        batches = self.processes.shard(self.split.indices).split(self.batch_size)
        return [(indices, self.split.keys[indices]) for indices in batches]

    def places(self, epoch: int) -> list[torch.Tensor]:
        """Return where each image of each batch stands among all of an epoch, for this process's share of them."""
        places = torch.arange(self.images_in(epoch)).split(self.size_in(epoch))
        return [self.processes.shard(batch) for batch in places]

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (inputs float32 (n, C, H, W), labels int64 (n,)), both on the device: this process's share.

        The first `skip` batches are left out.
        """
        return self._inputs(self._order(epoch), epoch, skip)

    def in_order(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield this process's share of all images, augmented as in that epoch, but in the order of the data set."""
        return self._inputs(self._in_order(), epoch)

    def _inputs(
        self, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], epoch: int, skip: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        count = self.batches_together(epoch)
        # The groups are the same ones wherever an epoch begins.
        groups = [batches[max(start, skip) : start + count] for start in range(0, len(batches), count)]
        groups = [group for group in groups if group]
        together = [tuple(map(torch.cat, zip(*group, strict=True))) for group in groups]
        for group, (keys, (images, labels)) in zip(groups, self._read(together, epoch), strict=True):
            draws = Draws(self.seed, epoch, keys.to(self.device, non_blocking=True))
            inputs, sizes = self.transform(images, draws), [len(indices) for indices, _ in group]
            yield from zip(inputs.split(sizes), labels.split(sizes), strict=True)

    def _read(self, batches, epoch: int) -> Iterator[tuple[torch.Tensor, Sequence[torch.Tensor]]]:
        is_cuda = self.device.type == "cuda"
        draws_windows = self.training and not isinstance(self.dataset, ArrayDataset)
        if self._is_on_device:
            for indices, keys in batches:
                yield keys, self.dataset.batch(indices.to(self.device, non_blocking=True))
            return

        def read(share: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
            indices, keys = share
            windows = Draws(self.seed, epoch, keys, "windows") if draws_windows else None
            batch = self.dataset.batch(indices, windows)
            return tuple(tensor.pin_memory() for tensor in batch) if is_cuda else batch

        # Reads batches while the network works on the ones before.
        coming = zip(batches, read_ahead(read, batches, ahead=READ_AHEAD), strict=True)
        upload = Uploader(self.device)
        yield from ((keys, upload(batch)) for (_, keys), batch in coming)


def make_batches(
    data: Data, train_transform, eval_transform, batch_size: int, machine: Machine, seed: int,
    later_sizes: Sequence[tuple[int, int]] = (),
) -> tuple[Batches, Batches, Batches]:  # fmt: skip
    """Return the batches of the training, validation and test images; `later_sizes` are those of training."""
    train = Batches(data.train, train_transform, batch_size, machine, seed, training=True, later_sizes=later_sizes)
    val, test = (Batches(split, eval_transform, batch_size, machine, seed) for split in (data.val, data.test))
    return train, val, test
