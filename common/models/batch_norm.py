"""Batch normalization that is fast on the CPU for any number of channels, and one over the batches of all processes.

PyTorch's kernel for channels-last tensors works on whole vector registers of 16 float32 channels, or 32 of bfloat16: a
layer of 12 takes several times as long as one of 16. Here k neighboring pixels are seen as one pixel with k times as
many channels, which fills the registers; the statistics of the k copies are then joined.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from common.system.distributed import SumOverProcesses

# A first variance is 1, and that of a fresh convolution's outputs about a tenth: of them a hundredth of 1 is a tenth.
AVERAGES_LEFT = 0.01
REGISTER = {torch.float32: 16, torch.bfloat16: 32}  # channels in the widest vector registers


def fill_registers(model: nn.Module) -> None:
    """Let the batch norms of `model` whose channels do not fill the registers train by folding.

    Results are those of `nn.BatchNorm2d` up to rounding; parameters, names and evaluation are its own.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d and module.num_features % max(REGISTER.values()):
            module.__class__ = BatchNorm2d


def share_left(model: nn.Module) -> float:
    """Return how much of running averages that are trained is, at most, what they began with; 0 without batch norm.

    Each batch leaves 1 - momentum of that.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    trained = [one for one in norms if one.momentum and any(weight.requires_grad for weight in one.parameters())]
    counts = [(one, one.num_batches_tracked) for one in trained if one.num_batches_tracked is not None]
    return max(((1 - one.momentum) ** int(count) for one, count in counts), default=0.0)


def synchronize(model: nn.Module) -> nn.Module:
    """Return `model` with batch norms that take statistics of the batches of all processes together."""
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():  # PyTorch's own exists for GPUs only
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return model


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the images of all processes, on any device; in evaluation it is that."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize `images` (N, C, H, W); N may differ between processes."""
        if not self.training:
            return super().forward(images)
        dtype = images.dtype
        images = images.to(torch.promote_types(dtype, torch.float32))  # PyTorch's own has such statistics, too
        count = images.new_full((1,), images.numel() / self.num_features)  # values of each channel
        sums = SumOverProcesses.apply(torch.cat([images.sum((0, 2, 3)), count]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centered = images - mean[:, None, None]
        var = SumOverProcesses.apply(centered.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centered, scale[:, None, None]).to(dtype)


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that folds k pixels into one wherever it can: in training, of channels-last images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalize `images` (N, C, H, W)."""
        register = REGISTER.get(images.dtype, 1)
        k = register // math.gcd(register, self.num_features)
        n = images.numel() // self.num_features  # values of each channel
        folds = (
            self.training
            and self.affine
            and self.track_running_stats
            and self.momentum is not None
            and k > 1
            and self.weight.dtype == torch.float32
            and images.is_contiguous(memory_format=torch.channels_last)
            and n % k == 0
            and n > k
        )
        if not folds:
            return super().forward(images)
        self.num_batches_tracked.add_(1)
        # The same memory as (1, k * C, N * H * W / k, 1), channels last.
        folded = images.permute(0, 2, 3, 1).reshape(1, -1, 1, k * self.num_features).permute(0, 3, 1, 2)
        normalized, mean, var = _FoldedNorm.apply(folded, self.weight, self.bias, self.eps, k)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        n, channels, height, width = images.shape
        return normalized.permute(0, 2, 3, 1).reshape(n, height, width, channels).permute(0, 3, 1, 2)


class _FoldedNorm(torch.autograd.Function):
    """(folded images, weight, bias, eps, k) -> (the same normalized, mean (C,), biased variance (C,))."""

    @staticmethod
    def forward(ctx, folded, weight, bias, eps, k):
        channels, rows = folded.shape[1:3]
        means, variances = torch.zeros(channels), torch.zeros(channels)
        F.batch_norm(folded, means, variances, training=True, momentum=1.0)  # for the statistics of the k copies
        means, variances = means.view(k, -1), variances.view(k, -1) * ((rows - 1) / rows)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        inverse_std = (var + eps).rsqrt()
        ctx.save_for_backward(folded, weight, mean, inverse_std)
        ctx.k = k
        ctx.mark_non_differentiable(mean, var)
        scale = weight * inverse_std
        return _affine(folded, scale, bias - mean * scale, k), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        folded, weight, mean, inverse_std = ctx.saved_tensors
        k, n = ctx.k, grad.numel() // len(weight)
        grad = grad.contiguous(memory_format=torch.channels_last)
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, folded, weight.repeat(k), None, None, mean.repeat(k), inverse_std.repeat(k),
            True, 0.0, [False, True, True],
        )  # fmt: skip
        grad_weight, grad_bias = grad_weight.view(k, -1).sum(0), grad_bias.view(k, -1).sum(0)
        # dx = scale * (grad - (grad_bias + x^ * grad_weight) / n)  with  x^ = (x - mean) * inverse_std
        scale = weight * inverse_std
        of_x = -scale * inverse_std * grad_weight / n
        grad_images = _affine(folded, of_x, -scale * grad_bias / n - of_x * mean, k)
        grad_images.add_(_affine(grad, scale, torch.zeros_like(scale), k))
        return grad_images, grad_weight, grad_bias, None, None


def _affine(folded: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, k: int) -> torch.Tensor:
    """Return folded * scale + shift, both (C,), by the kernel of evaluation, which does it in one pass."""
    mean, var = torch.zeros(folded.shape[1]), torch.ones(folded.shape[1])
    return F.batch_norm(folded, mean, var, scale.repeat(k), shift.repeat(k), eps=1e-12)  # too little to change 1
