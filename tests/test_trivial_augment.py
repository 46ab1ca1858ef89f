"""Each change is torchvision's, and each image has its own."""

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from common.transforms import trivial_augment
from common.transforms.random_streams import Draws
from common.transforms.trivial_augment import COLORS, GEOMETRY, TrivialAugmentWide, _move, _recolor

NAMES = [change.__name__.strip("_") for change in COLORS]


def photographs(count=6, size=32):
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(count, 3, 5, 5), size=size, mode="bilinear")
    images = (smooth * 180 + torch.rand(count, 3, size, size) * 60).to(torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


def expected(name, image, strength, sign):
    factor = 1 + 0.99 * sign * strength
    return {
        "brightness": lambda: F.adjust_brightness(image, factor),
        "saturation": lambda: F.adjust_saturation(image, factor),
        "contrast": lambda: F.adjust_contrast(image, factor),
        "sharpness": lambda: F.adjust_sharpness(image, factor),
        "posterize": lambda: F.posterize(image, 8 - round(strength * 6)),
        "solarize": lambda: F.solarize(image, 255 * (1 - strength)),
        "autocontrast": lambda: F.autocontrast(image),
        "equalize": lambda: F.equalize(image),
    }[name]()


@pytest.mark.parametrize("place", range(len(COLORS)), ids=NAMES)
def test_colors_change_as_torchvision_does_it(place):
    images = photographs()
    strengths, signs = torch.tensor([0, 0.2, 0.4, 0.6, 0.8, 1.0]), torch.tensor([1.0, -1, 1, -1, 1, -1])
    changed = _recolor(COLORS[place], images, strengths, signs)
    assert changed.dtype == torch.uint8
    for image, result, strength, sign in zip(images, changed, strengths.tolist(), signs.tolist(), strict=True):
        difference = (result.int() - expected(NAMES[place], image, strength, sign).int()).abs()
        assert difference.max() <= 1


@pytest.mark.parametrize("kind", range(len(GEOMETRY)), ids=GEOMETRY)
@pytest.mark.parametrize("amount", [-1.0, -0.3, 0.0, 0.2, 0.7])
def test_geometry_is_that_of_torchvision(kind, amount, monkeypatch):
    images = photographs()
    moved = _move(images, torch.full((6,), kind), torch.full((6,), amount))
    shear = math.degrees(math.atan(0.99 * amount))
    center = [0, 0]
    options = {
        0: {"shear": [shear, 0.0], "center": center}, 1: {"shear": [0.0, shear], "center": center},
        2: {"translate": [int(32 * amount), 0]}, 3: {"translate": [0, int(32 * amount)]}, 4: {"angle": 135 * amount},
    }[kind]  # fmt: skip
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | options
    if kind == 4:
        result = F.rotate(images, settings["angle"], interpolation=InterpolationMode.NEAREST)
    else:
        result = F.affine(images, interpolation=InterpolationMode.NEAREST, fill=0, **settings)
    assert (moved == result).float().mean() > 0.97, "but for pixels between two places"


def test_each_image_has_a_change_of_its_own_whatever_the_batch():
    images = photographs(1).expand(200, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    changed = TrivialAugmentWide()(images, Draws(0, 1, torch.arange(200)))
    assert changed.shape == images.shape and changed.dtype == torch.uint8
    kinds = {image.numpy().tobytes() for image in changed}
    assert len(kinds) > 100
    alone = TrivialAugmentWide()(images[:1], Draws(0, 1, torch.tensor([7])))
    assert torch.equal(alone[0], changed[7])
    unchanged = sum(torch.equal(image, images[0]) for image in changed)
    assert 200 / 14 / 2 < unchanged < 60


def test_all_changes_occur(monkeypatch):
    seen = set()

    def noting(name):
        def change(images, strength, sign):
            seen.add(name)
            return images

        return change

    monkeypatch.setattr(trivial_augment, "COLORS", tuple(noting(name) for name in NAMES))
    TrivialAugmentWide()(photographs(1).expand(300, -1, -1, -1), Draws(0, 1, torch.arange(300)))
    assert seen == set(NAMES)


def test_a_device_that_must_not_be_waited_for_gives_the_same(monkeypatch):
    images = photographs(40)
    one = TrivialAugmentWide()(images, Draws(0, 1, torch.arange(40)))
    monkeypatch.setattr("common.transforms.basic.knows_numbers", lambda images: False)
    assert torch.equal(TrivialAugmentWide()(images, Draws(0, 1, torch.arange(40))), one)
