import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from common.draws import Draws
from common.transforms import CenterCrop, Compose, Normalize, RandomCrop, RandomHorizontalFlip, Resize

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


@LAYOUTS
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_random_flip_equals_torchvisions_where_drawn(layout, p):
    images, samples = random_images(60, 6, 7, layout), torch.arange(60)
    results = RandomHorizontalFlip(p)(images, Draws(0, 1, samples))
    flips = Draws(0, 1, samples).uniform() < p
    assert flips.any() == (p > 0) and flips.all() == (p == 1)
    for image, result, flip in zip(images, results, flips, strict=True):
        same(result, reference.horizontal_flip(image) if flip else image)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_random_flip_mirrors_the_asked_share(p):
    images = torch.tensor([0, 1], dtype=torch.uint8).expand(20_000, 3, 1, 2)
    flipped = int(RandomHorizontalFlip(p)(images, Draws(0, 1, torch.arange(20_000)))[:, 0, 0, 0].sum())
    assert stats.binomtest(flipped, 20_000, p).pvalue > NEVER


def test_crop_and_flip_are_drawn_independently():
    n = 20_000
    draws = Draws(0, 1, torch.arange(n))
    images = torch.arange(12, dtype=torch.uint8).expand(n, 3, 1, 12)
    crops = RandomHorizontalFlip()(RandomCrop((1, 9))(images, draws), draws)[:, 0, 0]
    flipped = (crops[:, 0] > crops[:, -1]).long()
    left = torch.minimum(crops[:, 0], crops[:, -1]).long()
    table = torch.bincount(left * 2 + flipped, minlength=8).reshape(4, 2).numpy()
    assert stats.chi2_contingency(table).pvalue > NEVER


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


@LAYOUTS
def test_what_becomes_of_an_image_does_not_depend_on_the_batch_it_is_in(layout):
    images, samples = random_images(12, 16, 16, layout), torch.arange(12) + 30
    together = AUGMENTATION(images, Draws(1, 4, samples))
    order = torch.tensor([7, 0, 11, 3])
    reordered = AUGMENTATION(images[order], Draws(1, 4, samples[order]))
    alone = torch.cat([AUGMENTATION(images[i : i + 1], Draws(1, 4, samples[i : i + 1])) for i in range(12)])
    assert torch.equal(together, alone)
    assert torch.equal(together[order], reordered)
    assert not torch.equal(together, AUGMENTATION(images, Draws(1, 5, samples)))


@LAYOUTS
@pytest.mark.parametrize(
    "transform",
    [Resize((24, 24)), CenterCrop(10), CenterCrop(30), RandomCrop(14, padding=2), RandomHorizontalFlip()],
    ids=["resize", "center crop", "center crop padded", "random crop", "flip"],
)
def test_bytes_stay_bytes_and_the_input_is_left_alone(layout, transform):
    images = random_images(5, 16, 16, layout)
    before = images.clone()
    assert transform(images, Draws(0, 1, torch.arange(5))).dtype == torch.uint8
    assert torch.equal(images, before)


def test_compose_applies_all_in_turn_and_knows_its_normalisation():
    images = random_images(3, 16, 16)
    draws, again = Draws(0, 1, torch.arange(3)), Draws(0, 1, torch.arange(3))
    resize, crop, flip, normalize = AUGMENTATION.transforms
    assert torch.equal(AUGMENTATION(images, draws), normalize(flip(crop(resize(images), again), again)))
    assert AUGMENTATION.normalize is normalize
