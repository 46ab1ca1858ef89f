"""The way from a data set to the network: order, batches, transforms, device."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from common.data import Data
from common.datasets import ArrayDataset, Part
from common.draws import Draws, shuffled
from common.machine import Machine

GPU_MEMORY_SHARE = 0.4  # of the free memory of a GPU, for the images; the rest is the network's


class Batches:
    """All batches of one part of the data, epoch after epoch.

    Training batches are shuffled anew in every epoch; others keep the order of the data set. Order and augmentation
    depend on (seed, epoch, sample) alone.

    Args:
        transform: called as transform(images uint8 (N, C, H, W), draws), returns what the network takes.
        training: shuffle, and drop a last batch of a single image, of which batch norm cannot take statistics.
    """

    def __init__(self, part: Part, transform, batch_size: int, machine: Machine, seed: int, training: bool = False):
        self.part, self.transform = part, transform
        self.dataset = _nearest(part.dataset, machine.device)
        self.device, self.seed, self.training = machine.device, seed, training
        images = len(part)
        if training and images > batch_size > 1 and images % batch_size == 1:
            images -= 1
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-self.images // self.batch_size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape (C, H, W) of what the network takes."""
        images, _ = self.part.dataset.batch(self.part.samples[:1])
        return tuple(self.transform(images, Draws(self.seed, 0, self.part.samples[:1])).shape[1:])

    def first_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first batch of the first epoch, for a picture of what the network sees."""
        return next(self.epoch(1))

    def order(self, epoch: int) -> tuple[torch.Tensor, ...]:
        """Return the samples of each batch of an epoch."""
        order = shuffled(self.part.samples, self.seed, epoch) if self.training else self.part.samples
        return order[: self.images].split(self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (inputs float32 (n, C, H, W), labels int64 (n,)), both on the device."""
        return self._inputs(self.order(epoch), epoch)

    def in_order(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield every image as `epoch` does, augmented as in that epoch, but in the order of the data set."""
        return self._inputs(self.part.samples.split(self.batch_size), epoch)

    def _inputs(self, batches: tuple[torch.Tensor, ...], epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for samples, (images, labels) in self._read(batches, epoch):
            draws = Draws(self.seed, epoch, samples.to(self.device, non_blocking=True))
            images = images.to(self.device, non_blocking=True)
            yield self.transform(images, draws), labels.to(self.device, non_blocking=True)

    def _read(self, batches, epoch: int) -> Iterator[tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]]:
        if isinstance(self.dataset, ArrayDataset):
            for samples in batches:
                yield samples, self.dataset.batch(samples.to(self.dataset.labels.device, non_blocking=True))
            return

        def read(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            windows = Draws(self.seed, epoch, samples, "windows") if self.training else None
            return self.dataset.batch(samples, windows)

        with ThreadPoolExecutor(1) as reader:  # reads one batch while the network works on the one before
            coming = reader.submit(read, batches[0])
            for samples, following in zip(batches, (*batches[1:], None), strict=True):
                batch = coming.result()
                if following is not None:
                    coming = reader.submit(read, following)
                yield samples, batch


def make_batches(
    data: Data, train_transform, eval_transform, batch_size: int, machine: Machine, seed: int
) -> tuple[Batches, Batches, Batches]:
    """Return the batches of the training, validation and test images."""
    train = Batches(data.train, train_transform, batch_size, machine, seed, training=True)
    val, test = (Batches(part, eval_transform, batch_size, machine, seed) for part in (data.val, data.test))
    return train, val, test


def _nearest(dataset, device: torch.device):
    """Return `dataset` on the GPU if it is held in memory and fits, else as it is."""
    if device.type != "cuda" or not isinstance(dataset, ArrayDataset):
        return dataset
    free, _ = torch.cuda.mem_get_info(device)
    return dataset.to(device) if dataset.pixels.nbytes <= GPU_MEMORY_SHARE * free else dataset
