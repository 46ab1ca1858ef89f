import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from common.transforms.basic import (
    CenterCrop,
    Compose,
    Normalize,
    RandomApply,
    RandomCrop,
    RandomHorizontalFlip,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
)
from common.transforms.color import ColorJitter, GaussianBlur
from common.transforms.erasing import RandomErasing
from common.transforms.random_streams import Draws

NEVER = 1e-6  # a p-value below this is no bad luck: everything here is seeded
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_images(n, height, width, layout=torch.contiguous_format, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(n + height + width)
    images = torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)
    images = images if dtype == torch.uint8 else images.to(dtype) / 255
    return images.contiguous(memory_format=layout)


def same(ours, torchvisions):
    assert ours.dtype == torchvisions.dtype
    assert torch.equal(ours, torchvisions)


def within_one_level(ours, torchvisions):
    """Sums of floats in another order fall on the other side of a whole number now and then."""
    assert ours.dtype == torchvisions.dtype == torch.uint8
    assert (ours.int() - torchvisions.int()).abs().max() <= 1


def uniform(numbers, low, high):
    assert stats.kstest((numbers.double().numpy() - low) / (high - low), "uniform").pvalue > NEVER


@pytest.fixture(params=["chosen images", "all images"])
def way(request, monkeypatch):
    """What is drawn can be read on the CPU; on other devices all images are worked on, whatever is drawn."""
    if request.param == "all images":
        for module in ("basic", "erasing"):
            monkeypatch.setattr(f"common.transforms.{module}.knows_numbers", lambda images: False)


@LAYOUTS
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((32, 32), (128, 128)),
        ((32, 32), (20, 20)),
        ((8, 8), (32, 32)),
        ((32, 32), (32, 32)),
        ((32, 48), (17, 64)),
        ((61, 47), (128, 31)),
        ((30, 45), 15),
        ((45, 30), 20),
        ((30, 47), 21),  # 32.9 wide, which torchvision cuts off
        ((47, 30), 21),
        ((45, 31), 64),
        ((33, 33), 40),
        ((20, 37), 20),
    ],
)
def test_resize_equals_torchvisions_for_bytes(layout, n, shape, size):
    images = random_images(n, *shape, layout)
    same(Resize(size)(images), reference.resize(images, size if isinstance(size, int) else list(size), antialias=True))


@LAYOUTS
@pytest.mark.parametrize(("shape", "size"), [((32, 32), (50, 40)), ((40, 30), 16)])
def test_resize_equals_torchvisions_for_floats(layout, shape, size):
    images = random_images(4, *shape, layout, torch.float32)
    expected = reference.resize(images, size if isinstance(size, int) else list(size), antialias=True)
    torch.testing.assert_close(Resize(size)(images), expected, rtol=0, atol=1e-6)


@LAYOUTS
@pytest.mark.parametrize("size", [(8, 8), (9, 6), 7, (10, 12), (13, 12), (20, 21), (7, 30), (31, 4), 25])
@pytest.mark.parametrize("shape", [(10, 12), (11, 13), (15, 9)])
def test_center_crop_equals_torchvisions(layout, shape, size):
    images = random_images(3, *shape, layout)
    same(CenterCrop(size)(images), reference.center_crop(images, [size] if isinstance(size, int) else list(size)))


@LAYOUTS
@pytest.mark.parametrize(
    ("size", "padding", "fill"),
    [
        (12, 0, 0),
        (12, 4, 0),
        ((9, 14), 3, 128),
        ((16, 20), (1, 2, 3, 4), 7),
        (10, (0, 5, 0, 0), 255),
        ((24, 28), 4, 0),  # the whole padded image: one place only
    ],
)
def test_random_crop_equals_torchvisions_pad_and_crop_at_the_drawn_places(layout, size, padding, fill):
    images, samples = random_images(40, 16, 20, layout), torch.arange(100, 140)
    crops = RandomCrop(size, padding, fill)(images, Draws(3, 2, samples))

    height, width = (size, size) if isinstance(size, int) else size
    padded = reference.pad(images, [padding] if isinstance(padding, int) else list(padding), fill=fill)
    draws = Draws(3, 2, samples)
    tops = draws.integers(padded.shape[-2] - height + 1).tolist()
    lefts = draws.integers(padded.shape[-1] - width + 1).tolist()
    for image, crop, top, left in zip(padded, crops, tops, lefts, strict=True):
        same(crop, reference.crop(image, top, left, height, width))


def drawn_places(n, height, width, crop, seed=0, epoch=1):
    """A pixel's value is its place, so that the first pixel of a crop tells where it was cut."""
    place = torch.arange(height * width, dtype=torch.uint8).reshape(1, 1, height, width).expand(n, 3, -1, -1)
    return RandomCrop(crop)(place, Draws(seed, epoch, torch.arange(n)))[:, 0, 0, 0].long()


def test_random_crop_cuts_every_image_at_a_place_of_its_own_and_all_places_equally_often():
    places = drawn_places(20_000, 12, 14, 8)
    counts = torch.bincount(places, minlength=12 * 14).reshape(12, 14)
    assert counts[5:].sum() == 0 and counts[:, 7:].sum() == 0
    assert counts[:5, :7].min() > 0
    assert stats.chisquare(counts[:5, :7].flatten().numpy()).pvalue > NEVER


def test_random_crop_differs_between_epochs_and_seeds():
    base = drawn_places(500, 12, 14, 8)
    for other in (drawn_places(500, 12, 14, 8, epoch=2), drawn_places(500, 12, 14, 8, seed=1)):
        assert 0.9 < (base != other).float().mean()  # of 35 places, 1 in 35 is the same by chance


@pytest.mark.parametrize("size", [17, (17, 8), (8, 19)])
def test_random_crop_refuses_a_window_that_does_not_fit(size):
    with pytest.raises(ValueError, match="does not fit into 16x18"):
        RandomCrop(size, padding=(1, 2, 1, 2))(random_images(2, 12, 16), Draws(0, 1, torch.arange(2)))


FLIPS = pytest.mark.parametrize(
    ("flip", "expected"),
    [(RandomHorizontalFlip, reference.horizontal_flip), (RandomVerticalFlip, reference.vertical_flip)],
    ids=["horizontal", "vertical"],
)


@LAYOUTS
@FLIPS
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_random_flip_equals_torchvisions_where_drawn(layout, flip, expected, p, way):
    images, samples = random_images(60, 6, 7, layout), torch.arange(60)
    results = flip(p)(images, Draws(0, 1, samples))
    flips = Draws(0, 1, samples).uniform() < p
    assert flips.any() == (p > 0) and flips.all() == (p == 1)
    for image, result, flipped in zip(images, results, flips, strict=True):
        same(result, expected(image) if flipped else image)


@FLIPS
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_random_flip_mirrors_the_asked_share(flip, expected, p):
    images = torch.tensor([[0, 1], [2, 3]], dtype=torch.uint8).expand(5_000, 3, 2, 2)
    flipped = int((flip(p)(images, Draws(0, 1, torch.arange(5_000)))[:, 0, 0, 0] > 0).sum())
    assert stats.binomtest(flipped, 5_000, p).pvalue > NEVER


def test_crop_and_flip_are_drawn_independently():
    n = 20_000
    draws = Draws(0, 1, torch.arange(n))
    images = torch.arange(12, dtype=torch.uint8).expand(n, 3, 1, 12)
    crops = RandomHorizontalFlip()(RandomCrop((1, 9))(images, draws), draws)[:, 0, 0]
    flipped = (crops[:, 0] > crops[:, -1]).long()
    left = torch.minimum(crops[:, 0], crops[:, -1]).long()
    table = torch.bincount(left * 2 + flipped, minlength=8).reshape(4, 2).numpy()
    assert stats.chi2_contingency(table).pvalue > NEVER


@pytest.mark.parametrize("degrees", [180, 25.0, (-10, 60)])
def test_rotation_angles_are_uniform_in_the_asked_range(degrees):
    low, high = degrees if isinstance(degrees, tuple) else (-degrees, degrees)
    uniform(RandomRotation(degrees).angles(Draws(0, 1, torch.arange(5_000))), low, high)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6), st.sampled_from([torch.uint8, torch.float32]))
def test_rotation_equals_torchvisions_at_the_drawn_angles(height, width, seed, dtype):
    rotation, samples = RandomRotation(180), torch.arange(8)
    images = random_images(8, height, width, torch.channels_last, dtype)
    results = rotation(images, Draws(seed, 1, samples))
    angles = rotation.angles(Draws(seed, 1, samples)).tolist()
    expected = torch.stack([reference.rotate(image, angle) for image, angle in zip(images, angles, strict=True)])
    assert results.dtype == dtype
    # A pixel right between two others may take either.
    assert (results != expected).any(1).sum() <= 1 + 0.0005 * height * width * 8


@LAYOUTS
@pytest.mark.parametrize("angle", [0, 90, 180, 270, -90])
@pytest.mark.parametrize("size", [15, 16])
def test_rotation_by_right_angles_moves_every_pixel_to_its_place(layout, angle, size):
    images = random_images(3, size, size, layout)
    same(RandomRotation((angle, angle))(images, Draws(0, 1, torch.arange(3))), reference.rotate(images, angle))


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_random_apply_changes_the_drawn_images_only(p, way):
    images, samples = random_images(40, 9, 8), torch.arange(40)
    rotation, jitter = RandomRotation(90), ColorJitter(0.4)
    draws = Draws(0, 1, samples)
    applied, inner = draws.uniform() < p, draws.branch()
    expected = torch.where(applied[:, None, None, None], jitter(rotation(images, inner), inner), images)
    assert applied.any() == (p > 0) and applied.all() == (p == 1)
    again = Draws(0, 1, samples)
    same(RandomApply([rotation, jitter], p)(images, again), expected)
    assert torch.equal(again.bits(), draws.bits())  # what comes next draws the same, applied or not


CHANGES = {
    "brightness": reference.adjust_brightness,
    "contrast": reference.adjust_contrast,
    "saturation": reference.adjust_saturation,
    "hue": reference.adjust_hue,
}


def smooth_images(n):
    """All colors, from dark to light, with grays and pure colors among them."""
    images = random_images(n, 12, 16)
    images[:, :, 0] = images[:, :1, 0]
    images[:, 1:, 1] = 0
    images[:, :, 2] = torch.tensor([0, 1, 254, 255] * 4, dtype=torch.uint8)
    return images


@LAYOUTS
@pytest.mark.parametrize(
    "change", [{"brightness": 0.9}, {"contrast": (0, 3)}, {"saturation": (0.0, 2.5)}, {"hue": 0.5}, {"hue": (0.1, 0.3)}]
)
def test_each_change_of_color_equals_torchvisions(layout, change, way):
    jitter, samples = ColorJitter(**change), torch.arange(30)
    images = smooth_images(30).contiguous(memory_format=layout)
    results = jitter(images, Draws(2, 1, samples))
    _, factors = jitter.factors(Draws(2, 1, samples))
    assert len(factors.unique()) == 30
    adjust = CHANGES[next(iter(change))]
    for image, result, factor in zip(images, results, factors[:, 0].tolist(), strict=True):
        within_one_level(result, adjust(image, factor))


@pytest.mark.parametrize("hue", [0, 0.2])
def test_all_changes_of_color_in_the_drawn_order_equal_torchvisions(hue, way):
    jitter, samples = ColorJitter(0.4, 0.4, (0.5, 1.2), hue), torch.arange(60)
    images = smooth_images(60)
    results = jitter(images, Draws(0, 1, samples))
    adjustments = list(CHANGES.values())
    orders, factors = (numbers.tolist() for numbers in jitter.factors(Draws(0, 1, samples)))
    expected = []
    for image, order, amounts in zip(images, orders, factors, strict=True):
        for place, amount in zip(order, amounts, strict=True):
            image = adjustments[place](image, amount)
        expected.append(image)
    differences = (results.int() - torch.stack(expected).int()).abs()
    assert (differences > 0).float().mean() < 0.01  # by one level, which the next change may enlarge
    assert differences.max() <= 4


def test_factors_are_uniform_and_all_orders_equally_frequent():
    jitter = ColorJitter(0.2, (0.5, 0.9), 3, 0.1)
    order, factors = jitter.factors(Draws(0, 1, torch.arange(20_000)))
    factors = torch.empty_like(factors).scatter_(1, order, factors)
    for numbers, (low, high) in zip(factors.unbind(1), [(0.8, 1.2), (0.5, 0.9), (0, 4), (-0.1, 0.1)], strict=True):
        uniform(numbers, low, high)
    assert order.sort(1).values.eq(torch.arange(4)).all()
    _, counts = (order * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)
    assert len(counts) == math.factorial(4) and stats.chisquare(counts.numpy()).pvalue > NEVER


def test_no_change_of_color_changes_nothing():
    images = smooth_images(4)
    assert torch.equal(ColorJitter(0, (1, 1), 0, 0)(images, Draws(0, 1, torch.arange(4))), images)


@pytest.mark.parametrize(("kernel_size", "sigma"), [(3, (0.1, 2.0)), ((5, 9), 1.5), (1, 1.0)])
def test_blur_equals_torchvisions_at_the_drawn_widths(kernel_size, sigma):
    blur, samples = GaussianBlur(kernel_size, sigma), torch.arange(20)
    images = random_images(20, 14, 11, torch.channels_last)
    results = blur(images, Draws(0, 1, samples))
    sigmas = blur.sigmas(Draws(0, 1, samples)).tolist()
    for image, result, width in zip(images, results, sigmas, strict=True):
        within_one_level(result, reference.gaussian_blur(image, kernel_size, width))


def test_widths_of_the_blur_are_uniform():
    uniform(GaussianBlur(3, (0.5, 4)).sigmas(Draws(0, 1, torch.arange(5_000))), 0.5, 4)


def first_fitting(areas, ratios, fits):
    """Return the sides of the first rectangle that fits, as torchvision finds it."""
    for area, ratio in zip(areas, ratios, strict=True):
        sides = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if fits(*sides):
            return sides
    return None


@pytest.mark.parametrize(("scale", "ratio"), [((0.02, 0.33), (0.3, 3.3)), ((0.3, 1.0), (0.5, 4.0))])
def test_erased_boxes_are_those_that_torchvision_would_find(scale, ratio):
    samples, height, width = torch.arange(300), 31, 24
    draws = Draws(0, 1, samples)
    erased = (draws.uniform() < 0.7).tolist()
    areas = height * width * (scale[0] + (scale[1] - scale[0]) * draws.uniform(10).double())
    ratios = torch.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * draws.uniform(10).double())
    boxes = torch.stack(RandomErasing(0.7, scale, ratio).boxes(Draws(0, 1, samples), height, width), 1).tolist()
    for box, is_erased, *tries in zip(boxes, erased, areas.tolist(), ratios.tolist(), strict=True):
        found = first_fitting(*tries, lambda h, w: h < height and w < width) if is_erased else None
        top, left, h, w = box
        assert (h, w) == (found or (0, 0))
        assert 0 <= top <= height - h and 0 <= left <= width - w
    assert len({tuple(box[:2]) for box in boxes}) > 150


@LAYOUTS
@pytest.mark.parametrize("value", [0, 0.5, (1.0, -2.0, 3.0)])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_erasing_equals_torchvisions_in_the_drawn_boxes(layout, value, p, way):
    erasing, samples = RandomErasing(p, value=value), torch.arange(40)
    images = random_images(40, 18, 23, layout, torch.float32)
    results = erasing(images, Draws(0, 1, samples))
    boxes = torch.stack(erasing.boxes(Draws(0, 1, samples), 18, 23), dim=1)
    assert (boxes[:, 2] > 0).any() == (p > 0) and (boxes[:, 2] > 0).all() == (p == 1)
    values = torch.tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
    for image, result, box in zip(images, results, boxes.tolist(), strict=True):
        same(result, reference.erase(image, *box, values))


def test_erased_pixels_are_noise_and_all_others_stay(way):
    erasing, samples = RandomErasing(1, value="random"), torch.arange(50)
    images = torch.full((50, 3, 30, 20), 99.0)
    results = erasing(images, Draws(0, 1, samples))
    noise = results[results != 99]
    assert stats.kstest(noise.numpy(), "norm").pvalue > NEVER
    assert len(noise.unique()) > 0.99 * len(noise)
    for result, (top, left, h, w) in zip(
        results, zip(*(n.tolist() for n in erasing.boxes(Draws(0, 1, samples), 30, 20)), strict=True), strict=True
    ):
        assert (result != 99).sum() == 3 * h * w == (result[:, top : top + h, left : left + w] != 99).sum()


def test_a_rectangle_that_never_fits_erases_nothing():
    images = random_images(5, 8, 8, dtype=torch.float32)
    assert torch.equal(RandomErasing(1, (1, 1), (1, 1))(images, Draws(0, 1, torch.arange(5))), images)


def test_erasing_in_place_saves_the_copy(way):
    images = random_images(9, 12, 12, dtype=torch.float32)
    expected = RandomErasing(1)(images, Draws(0, 1, torch.arange(9)))
    assert RandomErasing(1, inplace=True)(images, Draws(0, 1, torch.arange(9))) is images
    assert torch.equal(images, expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomRotation((10, -10)),
        lambda: RandomRotation(-5),
        lambda: ColorJitter(brightness=-0.1),
        lambda: ColorJitter(contrast=(-0.5, 1)),
        lambda: ColorJitter(saturation=(2, 1)),
        lambda: ColorJitter(hue=0.6),
        lambda: GaussianBlur(4),
        lambda: GaussianBlur(3, 0),
        lambda: GaussianBlur(3, (2, 1)),
    ],
)
def test_ranges_that_are_none_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_normalize_equals_torchvisions(layout, dtype):
    images = random_images(4, 9, 11, layout, dtype)
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])(images)
    result = Normalize(MEAN, STD)(images)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=2e-6)


def test_normalize_leaves_its_input_alone():
    images = random_images(2, 4, 4, dtype=torch.float32)
    before = images.clone()
    Normalize(MEAN, STD)(images)
    assert torch.equal(images, before)


@LAYOUTS
def test_normalize_inverted_gives_the_pixels_back(layout):
    images = random_images(4, 9, 11, layout)
    normalize = Normalize(MEAN, STD)
    pixels = normalize.invert(normalize(images))
    assert torch.equal((pixels * 255).round().byte(), images)


def test_normalize_inverted_stays_between_0_and_1_and_leaves_its_input_alone():
    extreme = torch.tensor([-9.0, 0.0, 9.0]).expand(1, 3, 1, 3).clone()
    pixels = Normalize(MEAN, STD).invert(extreme)
    assert pixels[0, 0, 0].tolist() == [0, pytest.approx(MEAN[0]), 1]
    assert extreme.min() == -9


AUGMENTATION = Compose([Resize((20, 20)), RandomCrop(18, padding=2), RandomHorizontalFlip(), Normalize(MEAN, STD)])
ON_BYTES = {
    "resize": Resize((24, 24)),
    "center crop": CenterCrop(10),
    "center crop padded": CenterCrop(30),
    "random crop": RandomCrop(14, padding=2),
    "horizontal flip": RandomHorizontalFlip(),
    "vertical flip": RandomVerticalFlip(),
    "rotation": RandomRotation(180),
    "jitter": ColorJitter(0.3, 0.3, 0.3, 0.1),
    "apply": RandomApply([ColorJitter(0.3), RandomVerticalFlip()]),
    "blur": GaussianBlur(5),
}
ALL = {
    **ON_BYTES,
    "the first": AUGMENTATION,
    "erasing": Compose([Normalize(MEAN, STD), RandomErasing(0.7, value="random")]),
    "all": Compose([*ON_BYTES.values(), Normalize(MEAN, STD), RandomErasing(0.7, value="random")]),
}


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(torch.contiguous_format, marks=pytest.mark.slow, id="nchw"),
        pytest.param(torch.channels_last, id="nhwc"),
    ],
)
@pytest.mark.parametrize("transform", ALL.values(), ids=ALL)
def test_what_becomes_of_an_image_does_not_depend_on_the_batch_it_is_in(layout, transform, way):
    images, samples = random_images(12, 16, 16, layout), torch.arange(12) + 30
    together = transform(images, Draws(1, 4, samples))
    order = torch.tensor([7, 0, 11, 3])
    reordered = transform(images[order], Draws(1, 4, samples[order]))
    alone = torch.cat([transform(images[i : i + 1], Draws(1, 4, samples[i : i + 1])) for i in range(12)])
    assert torch.equal(together, alone)
    assert torch.equal(together[order], reordered)
    is_random = not isinstance(transform, Resize | CenterCrop)
    assert torch.equal(together, transform(images, Draws(1, 5, samples))) != is_random


@pytest.mark.parametrize("transform", ALL.values(), ids=ALL)
def test_what_is_done_to_the_chosen_images_is_what_is_done_to_all(transform, monkeypatch):
    images, samples = random_images(12, 16, 16, torch.channels_last), torch.arange(12)
    chosen = transform(images, Draws(0, 1, samples))
    for module in ("basic", "erasing"):
        monkeypatch.setattr(f"common.transforms.{module}.knows_numbers", lambda images: False)
    everything = transform(images, Draws(0, 1, samples))
    torch.testing.assert_close(
        everything, chosen, rtol=0, atol=1 if chosen.dtype == torch.uint8 else 2 / 255 / min(STD)
    )


@LAYOUTS
@pytest.mark.parametrize("transform", ON_BYTES.values(), ids=ON_BYTES)
def test_bytes_stay_bytes_and_the_input_is_left_alone(layout, transform, way):
    images = random_images(5, 16, 16, layout)
    before = images.clone()
    assert transform(images, Draws(0, 1, torch.arange(5))).dtype == torch.uint8
    assert torch.equal(images, before)


@pytest.mark.parametrize("transform", ALL.values(), ids=ALL)
def test_channels_stay_last_in_memory(transform, way):
    result = transform(random_images(5, 16, 16, torch.channels_last), Draws(0, 1, torch.arange(5)))
    assert result.stride(1) == 1 and result.stride(3) == 3


def test_compose_applies_all_in_turn_and_knows_its_normalization():
    images = random_images(3, 16, 16)
    draws, again = Draws(0, 1, torch.arange(3)), Draws(0, 1, torch.arange(3))
    resize, crop, flip, normalize = AUGMENTATION.transforms
    assert torch.equal(AUGMENTATION(images, draws), normalize(flip(crop(resize(images), again), again)))
    assert AUGMENTATION.normalize is normalize
