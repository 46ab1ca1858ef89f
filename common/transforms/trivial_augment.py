"""TrivialAugment: one random change of random strength for each image.

common/transforms/basic.py says what all transforms have in common.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from common.transforms.basic import change_where, warp
from common.transforms.color import gray_of
from common.transforms.random_streams import Draws

STRENGTHS = 31
SHEAR, SHIFT, TURN = 0.99, 32.0, 135.0  # at full strength: tangent, pixels (of CIFAR's 32), degrees
FACTOR = 0.99  # at full strength colors are multiplied by 1 - or 1 + so much
BITS = 6  # that posterizing takes away at full strength
GEOMETRY = ("shear_x", "shear_y", "shift_x", "shift_y", "rotate")


class TrivialAugmentWide:
    """Changes each RGB image (bytes) in one of 14 ways, or not at all, by one of 31 strengths, either way round.

    The "wide" set of Müller and Hutter: "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", 2021, as
    torchvision has it: identity, shear and shift along x and y, rotation, brightness, saturation, contrast, sharpness,
    posterize, solarize, autocontrast, equalize. What comes from outside an image is black.
    """

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        kinds = draws.integers(len(GEOMETRY) + len(COLORS) + 1)  # the last one is the identity
        strengths = draws.integers(STRENGTHS) / (STRENGTHS - 1)  # 0 to 1
        signs = 1.0 - 2.0 * draws.integers(2)

        def move(chosen, places):
            return _move(chosen, kinds[places], (signs * strengths)[places])

        def recolor(chosen, places, change):
            return _recolor(change, chosen, strengths[places], signs[places])

        images = change_where(kinds < len(GEOMETRY), images, move)
        for number, change in enumerate(COLORS, len(GEOMETRY)):
            images = change_where(kinds == number, images, partial(recolor, change=change))
        return images


def _move(images: torch.Tensor, kinds: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Shear, shift or turn each image: `kinds` are places in GEOMETRY, `amounts` from -1 to 1, both (N,)."""
    kinds, amounts = kinds[:, None, None], amounts[:, None, None]
    is_shear_x, is_shear_y, is_shift_x, is_shift_y, is_turn = (kinds == kind for kind in range(len(GEOMETRY)))
    shears, shifts = SHEAR * amounts, (SHIFT * amounts).trunc()
    angles = torch.where(is_turn, amounts * (TURN * math.pi / 180), 0)
    cos, sin = angles.cos(), angles.sin()
    # The pixel at (x, y) comes from a linear map of it, less the shift; an image is turned about its center.
    height, width = images.shape[-2:]
    center_x, center_y = width / 2 * is_turn, height / 2 * is_turn
    x = torch.arange(width, device=images.device) + 0.5 - center_x
    y = torch.arange(height, device=images.device)[:, None] + 0.5 - center_y
    from_x = x * cos + y * torch.where(is_shear_x, shears, -sin) + center_x - torch.where(is_shift_x, shifts, 0)
    from_y = x * torch.where(is_shear_y, shears, sin) + y * cos + center_y - torch.where(is_shift_y, shifts, 0)
    return warp(images, torch.stack((from_x * (2 / width) - 1, from_y * (2 / height) - 1), dim=-1))


def _recolor(change: Callable, images: torch.Tensor, strengths: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Make one of COLORS in all images; `strengths` from 0 to 1 and `signs` are (N,)."""
    changed = change(images, strengths[:, None, None, None], signs[:, None, None, None])
    return changed.to(torch.uint8).contiguous(memory_format=torch.channels_last)


# Each takes images (N, 3, H, W) uint8, strengths from 0 to 1 and signs, (N, 1, 1, 1).
def _brightness(images, strength, sign):
    return _blend(images, 0.0, strength, sign)


def _saturation(images, strength, sign):
    return _blend(images, gray_of(images.float()), strength, sign)


def _contrast(images, strength, sign):
    return _blend(images, gray_of(images.float()).mean((2, 3), keepdim=True).floor(), strength, sign)


def _sharpness(images, strength, sign):
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    smooth = images.float()
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(smooth, kernel / 13, groups=3).round()
    return _blend(images, smooth, strength, sign)


def _posterize(images, strength, sign):
    return images.bitwise_and((256 - 2 ** (strength * BITS).round()).to(torch.uint8))


def _solarize(images, strength, sign):
    return torch.where(images >= 255 * (1 - strength), 255 - images, images)


def _autocontrast(images, strength, sign):
    least, greatest = images.amin((2, 3), keepdim=True).float(), images.amax((2, 3), keepdim=True).float()
    stretched = (images - least) * (255 / (greatest - least).clamp(min=1))
    return torch.where(greatest > least, stretched, images.float())


def _equalize(images, strength, sign):
    from torchvision.transforms.v2.functional import equalize

    return equalize(images)


COLORS = (_brightness, _saturation, _contrast, _sharpness, _posterize, _solarize, _autocontrast, _equalize)


def _blend(images, other, strength, sign):
    """Return `images` moved towards `other` or away from it."""
    factor = 1 + FACTOR * sign * strength
    return (images.float() * factor + other * (1 - factor)).clamp_(0, 255)
