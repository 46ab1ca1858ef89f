"""TrivialAugment: one random change of random strength for each image.

common/transforms/basic.py says what all transforms have in common.
"""

import math

import torch
import torch.nn.functional as F

from common.transforms.basic import change_where, warp
from common.transforms.color import gray_of
from common.transforms.random_streams import Draws

STRENGTHS = 31
SHEAR, SHIFT, TURN = 0.99, 32.0, 135.0  # at full strength: tangent, pixels (of CIFAR's 32), degrees
FACTOR = 0.99  # at full strength colors are multiplied by 1 - or 1 + so much
BITS = 6  # that posterizing takes away at full strength


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
        is_geometry = kinds < len(GEOMETRY)
        images = change_where(
            is_geometry,
            images,
            lambda chosen, places: _move(chosen, kinds[places], (signs * strengths)[places]),
        )
        for number, change in enumerate(COLORS, len(GEOMETRY)):
            images = change_where(kinds == number, images, _with_strengths(change, strengths, signs))
        return images


def _with_strengths(change, strengths: torch.Tensor, signs: torch.Tensor):
    def changed(images: torch.Tensor, places) -> torch.Tensor:
        result = change(images, strengths[places][:, None, None, None], signs[places][:, None, None, None])
        return result.to(torch.uint8).contiguous(memory_format=torch.channels_last)

    return changed


def _move(images: torch.Tensor, kinds: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Shear, shift or turn each image: `kinds` are places in GEOMETRY, `amounts` from -1 to 1, both (N,)."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device) + 0.5, torch.arange(width, device=images.device) + 0.5, indexing="ij"
    )
    amounts = amounts[:, None, None]
    from_x, from_y = x.expand(len(images), -1, -1), y.expand(len(images), -1, -1)
    for number, source in enumerate(GEOMETRY):
        places = source(x, y, amounts, width, height)
        chosen = (kinds == number)[:, None, None]
        from_x, from_y = torch.where(chosen, places[0], from_x), torch.where(chosen, places[1], from_y)
    return warp(images, torch.stack((from_x * (2 / width) - 1, from_y * (2 / height) - 1), dim=-1))


# Where the pixel at (x, y) comes from.
def _shear_x(x, y, amount, width, height):
    return x + SHEAR * amount * y, y + 0 * amount


def _shear_y(x, y, amount, width, height):
    return x + 0 * amount, y + SHEAR * amount * x


def _shift_x(x, y, amount, width, height):
    return x - (SHIFT * amount).trunc(), y + 0 * amount


def _shift_y(x, y, amount, width, height):
    return x + 0 * amount, y - (SHIFT * amount).trunc()


def _turn(x, y, amount, width, height):
    angle = amount * (TURN * math.pi / 180)
    right, down = x - width / 2, y - height / 2
    return (
        right * angle.cos() - down * angle.sin() + width / 2,
        right * angle.sin() + down * angle.cos() + height / 2,
    )


GEOMETRY = (_shear_x, _shear_y, _shift_x, _shift_y, _turn)


# Each takes images (N, 3, H, W) uint8, strengths from 0 to 1 and signs, (N, 1, 1, 1).
def _brightness(images, strength, sign):
    return _blend(images, 0.0, strength, sign)


def _saturation(images, strength, sign):
    return _blend(images, gray_of(images.float()), strength, sign)


def _contrast(images, strength, sign):
    return _blend(images, gray_of(images.float()).mean((2, 3), keepdim=True).floor(), strength, sign)


def _sharpness(images, strength, sign):
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    smooth = images.float()
    inner = F.conv2d(smooth.flatten(0, 1)[:, None], (kernel / kernel.sum())[None, None]).view(
        *images.shape[:2], images.shape[2] - 2, images.shape[3] - 2
    )
    smooth[:, :, 1:-1, 1:-1] = inner.round()
    return _blend(images, smooth, strength, sign)


def _posterize(images, strength, sign):
    kept = 8 - (strength * BITS).round()
    return images.bitwise_and((256 - 2 ** (8 - kept)).to(torch.uint8))


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
