"""A frozen network is run once: its features are kept, and what follows it trains on them."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from common.data.batches import GPU_MEMORY_SHARE, Batches
from common.data.index import SHARED
from common.models.finetuning import is_frozen
from common.runs.run import Run
from common.runs.state import weights_sha256
from common.system.checkpoints import Damaged, load_checkpoint, save_checkpoint
from common.system.log import info, progress


class FeatureBatches:
    """Batches of features (n, F) instead of images, as long as the network that extracts them is frozen.

    The features of all images are computed when the first batch is asked for, in a number of views: view v is the
    augmentation of epoch v, and epoch e has view 1 + (e - 1) mod views. One view is exact where nothing is random
    about the images. All else, such as order and labels, is that of `images`, and so are the batches when the
    `extractor` (images -> features, without randomness in evaluation mode) is no longer frozen.

    The trials of a search keep features in the folder that they share, so that each batch goes through the network
    once for all of them.
    """

    def __init__(self, images: Batches, extractor: nn.Module, run: Run, views: int = 1):
        self._source, self._extractor, self._run, self._views = images, extractor, run, views
        self._kept: list[torch.Tensor] = []  # (N, F) float32 for each view
        self._labels = torch.tensor(images.split.labels)
        self._places = torch.zeros(len(images.split.dataset), dtype=torch.int64)  # of each sample in `_kept`
        self._places[images.split.indices] = torch.arange(len(images.split))

    def __getattr__(self, name: str):
        return getattr(self._source, name)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (features float32 (n, F) or images (n, C, H, W), labels int64 (n,)), both on the device."""
        if not is_frozen(self._extractor):
            self._kept.clear()
            yield from self._source.epoch(epoch, skip)
            return
        if not self._kept:
            self._extract()
        features = self._kept[(epoch - 1) % self._views]
        for indices in self._source.order(epoch)[skip:]:
            places = self._places[indices]
            inputs, labels = features[places.to(features.device, non_blocking=True)], self._labels[places]
            yield inputs.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    @torch.no_grad()
    def _extract(self) -> None:
        self._extractor.eval()
        weights = weights_sha256(self._extractor.state_dict())
        for view in range(1, self._views + 1):
            mine = []
            with progress(len(self.split), f"features, view {view}/{self._views}") as bar:
                for images, _ in self._source.in_order(view):
                    mine.append(self._features_of(images, weights))
                    bar.update(len(images) * self.processes.world_size)
            features = self._of_all(mine)
            size = self._views * features.nbytes
            stays = self.device.type != "cuda" or size <= GPU_MEMORY_SHARE * self._run.machine.free_memory()
            self._kept.append(features if stays else features.cpu())
        if self.training:
            size = sum(features.nbytes for features in self._kept) / 1e6
            count = f"{len(self.split):,} training images"
            info(f"the features of {count} are kept in {self._views} view(s): {size:.1f} MB")

    def _features_of(self, images: torch.Tensor, weights: str) -> torch.Tensor:
        """Return the features (n, F) float32 of a batch, which an earlier trial with such `weights` may have kept."""

        def extract() -> torch.Tensor:
            with self._run.machine.autocast():  # which is settled when the run is opened
                return self._extractor(images).float()

        shared = os.environ.get(SHARED, "")
        if not os.path.isdir(shared):
            return extract()
        key = hashlib.sha256(f"{weights} {self._run.machine.precision} {tuple(images.shape)}".encode())
        key.update(images.cpu().contiguous().numpy())
        path = Path(shared, f"{key.hexdigest()[:32]}.features")
        try:
            return load_checkpoint(path, {"features"})["features"].to(self.device)
        except Damaged:  # or not there
            features = extract()
            save_checkpoint(path, {"features": features})
            return features

    def _of_all(self, mine: list[torch.Tensor]) -> torch.Tensor:
        """Return the features (N, F) of all images, of which each process has extracted its share."""
        if self.processes.world_size == 1:
            return torch.cat(mine)
        shares = self.processes.gather(torch.cat(mine).cpu() if mine else None)
        return torch.cat([share for share in shares if share is not None]).to(self.device)
