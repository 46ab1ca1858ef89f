"""Mixing the images of a batch with one another, and their labels in the same shares."""

import torch

from common.transforms.random_streams import Draws


class Mix:
    """MixUp blends each image with another of the batch; CutMix pastes a rectangle of another into it.

    The transforms are torchvision's own. What they draw is a function of (seed, epoch, step), the same for all images
    of a batch; with both, a coin decides between them at each step. Zhang et al.: "mixup: Beyond Empirical Risk
    Minimization", 2018; Yun et al.: "CutMix", 2019.

    Args:
        mixup, cutmix: alpha of the Beta distribution that shares are drawn from; 0 is none of it.
    """

    def __init__(self, mixup: float, cutmix: float, num_classes: int, seed: int):
        self._mixes, self._seed = [], seed
        if mixup or cutmix:
            from torchvision.transforms import v2  # takes a second to import

            kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            self._mixes = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha]

    def __bool__(self) -> bool:
        return bool(self._mixes)

    def __call__(
        self, inputs: torch.Tensor, labels: torch.Tensor, epoch: int, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mixed inputs, (N, C, H, W) images or (N, F) features, and the shares of the classes (N, classes)."""
        bits, coin = Draws(self._seed, epoch, torch.tensor([step]), "mixing").bits(2)[0].tolist()
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the CPU's generator, and that alone is seeded
            torch.default_generator.manual_seed(bits)
            mixed, shares = self._mixes[coin % len(self._mixes)](inputs[(...,) + (None,) * (4 - inputs.dim())], labels)
        return mixed.view(inputs.shape), shares
