"""Pooling whose gradients CUDA can add in a fixed order, as --deterministic asks: PyTorch's own refuses there."""

import torch
import torch.nn.functional as F
from torch import nn


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """`nn.AdaptiveAvgPool2d` to a number of rows and columns; with --deterministic it takes the means one by one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, rows, columns)."""
        if not torch.are_deterministic_algorithms_enabled():
            return super().forward(images)
        rows, columns = self.output_size
        return _means(_means(images, rows, dim=2), columns, dim=3)


class GlobalMaxPool2d(nn.Module):
    """The largest number of each channel: `nn.AdaptiveMaxPool2d(1)`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)."""
        return F.max_pool2d(images, images.shape[-2:])


def _means(images: torch.Tensor, count: int, dim: int) -> torch.Tensor:
    """Return the means of `count` runs along a dimension, which overlap where they do not divide it evenly."""
    side = images.shape[dim]
    ends = [(place * side // count, -(-(place + 1) * side // count)) for place in range(count)]
    return torch.cat([images.narrow(dim, first, end - first).mean(dim, keepdim=True) for first, end in ends], dim)
