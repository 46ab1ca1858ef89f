"""Batch normalisation that is fast on the CPU for any number of channels.

PyTorch's kernel for channels-last tensors works on whole vector registers of 16 float32 channels. A layer of 12
leaves its last register partly empty, and takes several times as long as one of 16. Here k neighbouring pixels are seen
as one pixel with k times as many channels, which fills the registers; the statistics of the k copies are then joined.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

REGISTER = 16  # float32 channels in the widest vector registers


def fill_registers(model: nn.Module) -> None:
    """Let the batch norms of `model` whose channels do not fill the registers train by folding.

    Results are those of `nn.BatchNorm2d` up to rounding; parameters, names and evaluation are its own.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and module.num_features % REGISTER:
            module.__class__ = BatchNorm2d


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that folds k pixels into one wherever it can: channels-last float32 tensors in training."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise `images` (N, C, H, W)."""
        k = REGISTER // math.gcd(REGISTER, self.num_features)
        n = images.numel() // self.num_features  # values of each channel
        folds = (
            self.training
            and self.affine
            and self.track_running_stats
            and self.momentum is not None
            and images.dtype == self.weight.dtype == torch.float32
            and images.is_contiguous(memory_format=torch.channels_last)
            and n % k == 0
            and n > k
        )
        if not folds:
            return super().forward(images)
        self.num_batches_tracked.add_(1)
        normalised, mean, var = _FoldedNorm.apply(images, self.weight, self.bias, self.eps, k)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        return normalised


class _FoldedNorm(torch.autograd.Function):
    """(images, weight, bias, eps, k) -> (normalised images, batch mean, biased batch variance)."""

    @staticmethod
    def forward(ctx, images, weight, bias, eps, k):
        folded = _fold(images, k)
        channels, rows = folded.shape[1:3]
        means, variances = torch.zeros(channels), torch.zeros(channels)
        F.batch_norm(folded, means, variances, training=True, momentum=1.0)  # for the statistics of the k copies
        means, variances = means.view(k, -1), variances.view(k, -1) * ((rows - 1) / rows)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        ctx.save_for_backward(folded, weight, mean, (var + eps).rsqrt())
        ctx.k = k
        ctx.mark_non_differentiable(mean, var)
        normalised = _affine(folded, mean, var, weight, bias, k, eps)
        return _unfold(normalised, images.shape), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        folded, weight, mean, inverse_std = ctx.saved_tensors
        k, n = ctx.k, grad.numel() // len(weight)
        folded_grad = _fold(grad, k)
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            folded_grad, folded, weight.repeat(k), None, None, mean.repeat(k), inverse_std.repeat(k),
            True, 0.0, [False, True, True],
        )  # fmt: skip
        grad_weight, grad_bias = grad_weight.view(k, -1).sum(0), grad_bias.view(k, -1).sum(0)
        # With x^ = (x - mean) * inverse_std:  dx = weight * inverse_std * (g - (grad_bias + x^ * grad_weight) / n)
        scale = weight * inverse_std
        grad_images = _affine(folded, mean, None, -scale * inverse_std * grad_weight / n, -scale * grad_bias / n, k)
        grad_images.add_(_affine(folded_grad, torch.zeros_like(mean), None, scale, torch.zeros_like(mean), k))
        return _unfold(grad_images, grad.shape), grad_weight, grad_bias, None, None


def _fold(images: torch.Tensor, k: int) -> torch.Tensor:
    """(N, C, H, W) -> the same memory as (1, k * C, N * H * W / k, 1), channels last."""
    pixels = images.permute(0, 2, 3, 1).reshape(1, -1, 1, k * images.shape[1])
    return pixels.permute(0, 3, 1, 2)


def _unfold(folded: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of `_fold`; `shape` is (N, C, H, W)."""
    n, channels, height, width = shape
    return folded.permute(0, 2, 3, 1).reshape(n, height, width, channels).permute(0, 3, 1, 2)


def _affine(folded, mean, var, weight, bias, k: int, eps: float = 0.0) -> torch.Tensor:
    """Return (folded - mean) / sqrt(var + eps) * weight + bias; without `var`, nothing is divided by."""
    var = torch.ones_like(mean) if var is None else var
    return F.batch_norm(folded, mean.repeat(k), var.repeat(k), weight.repeat(k), bias.repeat(k), False, 0.0, eps)
