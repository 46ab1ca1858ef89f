import io
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw
from torchvision.transforms import v2 as T

from common.data.images import FITS, frame, read_image, square, stored_shape
from common.system.errors import BadInput

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def read_saved(tmp_path, image, name="picture.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    result, _ = read_image(path)
    assert result.mode == "RGB"
    return result


def pixels_of(image):
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def test_rgb_comes_as_it_is(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(read_saved(tmp_path, Image.fromarray(noise))), noise)


def test_greyscale_has_three_equal_channels(tmp_path):
    image = read_saved(tmp_path, Image.fromarray(np.array([[0, 100, 255]], np.uint8)))
    assert pixels_of(image) == [(0, 0, 0), (100, 100, 100), (255, 255, 255)]


def test_black_and_white_becomes_0_and_255(tmp_path):
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    assert pixels_of(read_saved(tmp_path, image)) == [WHITE, BLACK]


def palette_image():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    return image


@pytest.mark.parametrize("name", ["picture.png", "picture.gif"])
def test_palette_colors_are_looked_up(tmp_path, name):
    assert pixels_of(read_saved(tmp_path, palette_image(), name)) == [RED, GREEN, BLUE]


def test_a_transparent_palette_color_is_white(tmp_path):
    assert pixels_of(read_saved(tmp_path, palette_image(), transparency=1)) == [RED, WHITE, BLUE]


def test_transparency_is_laid_over_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128)])
    opaque, clear, half = pixels_of(read_saved(tmp_path, image))
    assert (opaque, clear) == (RED, WHITE)
    assert half == pytest.approx((127, 127, 127), abs=1)


def test_transparent_greyscale_is_laid_over_white(tmp_path):
    image = Image.new("LA", (2, 1))
    image.putdata([(50, 255), (50, 0)])
    assert pixels_of(read_saved(tmp_path, image)) == [(50, 50, 50), WHITE]


@pytest.mark.parametrize(("mode", "colors"), [("RGB", [RED, GREEN]), ("L", [10, 20])])
def test_a_color_that_is_declared_transparent_is_white(tmp_path, mode, colors):
    image = Image.new(mode, (2, 1))
    image.putdata(colors)
    kept = colors[0] if mode == "RGB" else (10, 10, 10)
    assert pixels_of(read_saved(tmp_path, image, transparency=colors[1])) == [kept, WHITE]


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    ImageDraw.Draw(image).rectangle((8, 0, 15, 15), fill=(255, 0, 255, 0))
    pixels = np.asarray(read_saved(tmp_path, image, "picture.jpg", quality=100, subsampling=0)).astype(int)
    assert np.abs(pixels[:, :7] - RED).max() < 10
    assert np.abs(pixels[:, 9:] - GREEN).max() < 10


@pytest.mark.parametrize("name", ["picture.png", "picture.tif"])
def test_16_bit_grey_keeps_its_upper_8_bits(tmp_path, name):
    values = np.array([[0, 255, 256, 0x1234, 0x80FF, 65535]], np.uint16)
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    assert [pixel[0] for pixel in pixels_of(read_saved(tmp_path, image, name))] == [0, 0, 1, 0x12, 0x80, 255]


def test_32_bit_grey_reads_like_16_bit_gray(tmp_path):
    image = read_saved(tmp_path, Image.fromarray(np.array([[-5, 0x1234, 10**6]], np.int32)), "picture.tif")
    assert [pixel[0] for pixel in pixels_of(image)] == [0, 0x12, 255]


# Where the top left pixel of the upright picture is stored, by EXIF orientation.
CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}


@pytest.mark.parametrize("orientation", CORNERS)
def test_exif_orientation_is_applied(tmp_path, orientation):
    stored = np.zeros((3, 5, 3), np.uint8)
    stored[CORNERS[orientation]] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(read_saved(tmp_path, Image.fromarray(stored), exif=exif))
    assert upright.shape == ((3, 5, 3) if orientation < 5 else (5, 3, 3))
    assert tuple(upright[0, 0]) == RED
    assert upright.sum() == 255


def test_orientation_of_a_16_bit_picture_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.array([[0x1000, 0x2000]], np.uint16))
    assert read_saved(tmp_path, image, exif=exif).size == (1, 2)


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    image = read_saved(tmp_path, frames[0], "picture.gif", save_all=True, append_images=frames[1:])
    assert set(pixels_of(image)) == {RED}


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"no picture at all", "it is no image"),
        (encoded(NOISE, "PNG")[:20], "cannot be read"),
        (encoded(NOISE, "PNG")[:500], "(?i)truncated"),
        (encoded(NOISE, "JPEG")[:500], "(?i)truncated"),
        (encoded(NOISE, "PNG").replace(b"\0\0\0\x0dIHDR", b"\0\0\0\x0cIHDR"), "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=reason) as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_absent_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(BadInput) as error:
            read_image(path)
        assert str(path) in str(error.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_absurdly_many_pixels_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "bomb.png"
    Image.new("RGB", (50, 50)).save(path)
    with pytest.raises(BadInput, match="too many pixels"):
        read_image(path)


def with_exif(image, kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    return encoded(image, kind, exif=exif)


def test_an_exif_block_that_contradicts_itself_does_not_end_in_a_traceback(tmp_path):
    # The tag of the description (ASCII) becomes the tag of the width (a number).
    content = with_exif(NOISE, "JPEG").replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")
    path = tmp_path / "odd.jpg"
    path.write_bytes(content)
    try:
        read_image(path)
    except BadInput as error:
        assert str(path) in str(error)


@pytest.mark.filterwarnings("ignore")  # Pillow's about what it finds in them
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"])
def test_whatever_is_damaged_in_a_file_it_is_read_or_named(tmp_path, kind):
    content = with_exif(NOISE, kind) if kind in ("PNG", "JPEG", "WEBP") else encoded(NOISE, kind)
    chance = random.Random(kind)
    path = tmp_path / "damaged"
    for _ in range(250):
        damaged = bytearray(content)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(content)) :]
        else:
            for _ in range(chance.choice([1, 1, 3])):
                damaged[chance.randrange(chance.choice([100, len(content)]))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path)[0].mode == "RGB"
        except BadInput as error:
            assert str(path) in str(error)


def squared(pixels, size, fit):
    return square(frame(Image.fromarray(pixels), size, fit))


def noise(height, width):
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [8, 24])
def test_a_square_of_the_wanted_size_keeps_its_pixels(size, fit):
    assert np.array_equal(squared(noise(size, size), size, fit), noise(size, size))


@pytest.mark.parametrize("fit", ["crop", "slide"])
@pytest.mark.parametrize("shape", [(20, 40), (40, 20), (21, 40), (64, 64), (5, 9), (375, 500)])
@pytest.mark.parametrize("size", [8, 20, 33, 256])
def test_squares_are_those_of_torchvision(shape, size, fit):
    expected = T.CenterCrop(size)(T.Resize(size)(Image.fromarray(noise(*shape))))
    assert np.array_equal(squared(noise(*shape), size, fit), np.asarray(expected))


@pytest.mark.parametrize("shape", [(30, 44), (44, 30), (30, 30)])
def test_what_is_kept_of_a_photograph_makes_all_later_crops_exact(shape):
    whole = np.asarray(T.Resize(24)(Image.fromarray(noise(*shape))))
    kept = frame(Image.fromarray(noise(*shape)), 24, "slide")
    assert np.array_equal(kept, whole) and kept.shape[:2] == stored_shape(shape[1], shape[0], 24, "slide")


@pytest.mark.parametrize("shape", [(10, 27), (27, 10)])
def test_places_along_a_photograph_reach_from_end_to_end_and_all_alike(shape):
    pixels = noise(*shape)
    starts = [square(pixels, place) for place in np.arange(1800) / 1800]
    axis = int(shape[1] > shape[0])
    expected = [np.take(pixels, range(start, start + 10), axis) for start in range(18) for _ in range(100)]
    assert all(np.array_equal(one, other) for one, other in zip(starts, expected, strict=True))


@pytest.mark.parametrize("fit", ["crop", "slide"])
def test_an_endless_strip_does_not_fill_the_memory(fit):
    strip = noise(1, 5000)
    strip[:, 2400:2600] = GREEN
    kept = frame(Image.fromarray(strip), 16, fit)
    assert kept.shape == (16, 64 if fit == "slide" else 16, 3) and set(pixels_of(kept)) == {GREEN}


def test_squashing_keeps_all_of_the_picture():
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :15], pixels[:, 15:] = RED, BLUE
    squashed = frame(Image.fromarray(pixels), 10, "squash")
    assert tuple(squashed[5, 0]) == RED and tuple(squashed[5, 9]) == BLUE
