import io
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT, environment
from PIL import Image, ImageDraw
from torchvision.transforms import v2 as T

from common.data.images import (
    DIM,
    FITS,
    FORMATS,
    Budget,
    _bytes_to_decode,
    formats,
    frame,
    opened,
    read_frame,
    read_image,
    square,
    stored_shape,
)
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


def kinds_of(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return read_image(tmp_path / name)[1]


@pytest.mark.parametrize("number", [np.int32, np.float32])
def test_numbers_whose_range_nobody_knows_are_refused(tmp_path, number):
    path = tmp_path / "picture.tif"
    Image.fromarray(np.array([[0, 1, 1]], number)).save(path)
    with pytest.raises(BadInput, match="numbers, and nobody can know which is white: convert it to 8 or 16 bits"):
        read_image(path)


def test_16_bit_pictures_are_counted_in_every_format(tmp_path):
    gray = Image.fromarray(np.array([[0x80FF, 5]], np.uint16))
    assert [kinds_of(tmp_path, gray, f"gray.{end}") for end in ("png", "tif", "pgm")] == [["16-bit"]] * 3
    assert [pixel[0] for pixel in pixels_of(read_image(tmp_path / "gray.pgm")[0])] == [0x80, 0]
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0\x12\x34\x56\x78\x9a\xbc")), (b"IEND", b""))
    packed = [
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    ]
    (tmp_path / "rgb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    rgb, kinds = read_image(tmp_path / "rgb.png")
    assert pixels_of(rgb) == [(0x12, 0x56, 0x9A)] and kinds == ["16-bit"]
    assert kinds_of(tmp_path, NOISE, "plain.png") == kinds_of(tmp_path, NOISE, "plain.tif") == []


def test_12_bits_in_16_are_counted_and_not_made_brighter(tmp_path):
    image = Image.fromarray(np.array([[0, 4095]], np.uint16))
    assert kinds_of(tmp_path, image, "a.png") == ["16-bit", DIM]
    assert [pixel[0] for pixel in pixels_of(read_image(tmp_path / "a.png")[0])] == [0, 15]
    assert kinds_of(tmp_path, Image.fromarray(np.array([[0, 4096]], np.uint16)), "b.png") == ["16-bit"]


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


@pytest.mark.parametrize("end", ["gif", "webp", "tif", "png", "mpo"])
def test_that_other_frames_are_left_out_is_counted(tmp_path, end):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    options = {"lossless": True} if end == "webp" else {}
    kinds = kinds_of(tmp_path, frames[0], f"two.{end}", save_all=True, append_images=frames[1:], **options)
    assert "first frame" in kinds and "first frame" not in kinds_of(tmp_path, frames[0], f"one.{end}")
    assert pixels_of(read_image(tmp_path / f"two.{end}")[0])[0] == pytest.approx(RED, abs=2)


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


@pytest.mark.parametrize("end", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "mpo", "avif"])
def test_the_formats_of_class_folders_are_read_whatever_their_names(tmp_path, end):
    if end == "avif" and "AVIF" not in formats():
        pytest.skip("this Pillow has no AVIF")
    NOISE.save(tmp_path / f"a.{end}")
    assert read_image((tmp_path / f"a.{end}").rename(tmp_path / "a.jpeg"))[0].size == NOISE.size


@pytest.mark.parametrize("end", ["eps", "pcx", "ico", "tga", "jp2", "dds"])
def test_other_formats_are_not_even_tried(tmp_path, monkeypatch, end):
    """Pillow gives an EPS file to Ghostscript, which runs what is in it."""
    NOISE.save(tmp_path / f"a.{end}")
    path = (tmp_path / f"a.{end}").rename(tmp_path / "a.jpg")
    monkeypatch.setattr(subprocess, "check_call", None)
    for name in set(Image.OPEN) - set(formats()):
        monkeypatch.setitem(Image.OPEN, name, (None, None))
    with pytest.raises(BadInput, match=r"it is no image \(JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM"):
        read_image(path)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_is_named_with_the_package_that_reads_it(tmp_path, monkeypatch, brand):
    monkeypatch.setattr("common.data.images.formats", lambda: FORMATS[:7])
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(100))
    with pytest.raises(BadInput, match="it is HEIC: `pip install pillow-heif`"):
        read_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(BadInput, match="it is no file"), opened(path):
            pass


def test_decoding_takes_its_share_of_the_memory_and_waits_for_it(tmp_path, monkeypatch):
    NOISE.save(tmp_path / "a.png")
    needed = 26 * 26 * 14
    budget = Budget(2 * needed + 1)
    monkeypatch.setattr("common.data.images.decoding_budget", lambda: budget)
    left, honest = [], Image.Image.getexif
    monkeypatch.setattr(
        Image.Image, "getexif", lambda image: (left.append(budget.left), time.sleep(0.01), honest(image))[2]
    )
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda path: read_frame(path, 8, "crop"), [tmp_path / "a.png"] * 12))
    assert min(left) == 1 and budget.left == budget.total


def test_a_picture_larger_than_the_memory_for_pictures_is_refused_undecoded(tmp_path, monkeypatch):
    NOISE.save(tmp_path / "a.png")
    monkeypatch.setattr("common.data.images.decoding_budget", lambda: Budget(9000))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(
        BadInput, match="a.png cannot be read: to decode it takes 0.0 GB of memory, more than the 0.0 GB"
    ):
        read_image(tmp_path / "a.png")


def test_a_tile_larger_than_its_picture_counts(tmp_path):
    """Two kilobytes of these would take four gigabytes."""
    picture = SimpleNamespace(size=(16, 16), format="TIFF", tag_v2={322: 16384, 323: 16384})
    assert _bytes_to_decode(picture) > 3.7e9 > 1e6 > _bytes_to_decode(SimpleNamespace(size=(16, 16), format="PNG"))


MEMORY_PROGRAM = """
import ctypes, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from common.data import images
budget = images.Budget(2_400_000_000)
images.decoding_budget = lambda: budget
images.read_frame(Path(sys.argv[1]), 8, "crop")  # loads what takes memory once
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
for group in sys.argv[2:]:
    if os.fork():  # each in a process of its own: threads that end give their memory back when they like
        os.wait()
        continue
    images.read_frame(Path(sys.argv[1]), 8, "crop")
    paths = [Path(path) for path in group.split(":")]
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda path: images.read_frame(path, 64, "crop"), paths))
    with images.opened(paths[0]) as image:
        print(images._bytes_to_decode(image), status("VmHWM") - before, flush=True)
    os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads its memory from /proc")
def test_no_picture_takes_more_memory_than_is_set_aside_for_it(tmp_path):
    """Each format alone, in the way that takes most; and three files of 20 kB at once, which wait for each other."""
    side = 2500
    slope = np.add.outer(np.arange(side), np.arange(side)).astype(np.uint16)
    color = Image.fromarray(np.stack([slope // 24, slope // 30, slope % 256], -1).astype(np.uint8))
    clear = color.copy()
    clear.putalpha(color.getchannel(2))
    turned = Image.Exif()
    turned[0x0112] = 6
    NOISE.save(tmp_path / "small.png")
    Image.new("1", (13000, 13000)).save(tmp_path / "bomb.png")
    color.convert("CMYK").save(tmp_path / "a.jpg", progressive=True, exif=turned)
    clear.save(tmp_path / "a.png", compress_level=1, exif=turned)
    clear.save(tmp_path / "a.webp", lossless=True, method=0, quality=0)
    color.quantize(64).save(tmp_path / "a.gif", transparency=3)
    Image.fromarray(slope).save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    if "AVIF" in formats():
        clear.save(tmp_path / "a.avif", speed=10)
    groups = [tmp_path / "small.png", *sorted(tmp_path.glob("a.*")), ":".join([str(tmp_path / "bomb.png")] * 3)]
    done = subprocess.run([sys.executable, "-c", MEMORY_PROGRAM, *groups], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    taken = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(taken) == len(groups) - 1 and all(most <= 1.02 * set_aside for set_aside, most in taken), taken


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


def mutated(content, chance, at_most=30):
    """Return `content` with flipped bits, a piece cut off or out, or two exchanged, where it hurts most often."""
    damaged, first = bytearray(content), chance.choice([100, 400, len(content)])
    kind = chance.random()
    if kind < 0.15:
        del damaged[chance.randrange(len(content)) :]
    elif kind < 0.25:
        place = chance.randrange(min(first, len(content)))
        del damaged[place : place + chance.choice([1, 2, 4, 50])]
    elif kind < 0.4:
        size = chance.choice([1, 4, 16, 64])
        one, other = (chance.randrange(min(first, len(content))) for _ in range(2))
        damaged[one : one + size], damaged[other : other + size] = (
            content[other : other + size],
            content[one : one + size],
        )
    else:
        for _ in range(chance.choice([1, 1, 1, 3, at_most])):
            place = chance.randrange(min(first, len(content)))
            damaged[place] = chance.choice([0, 255, damaged[place] ^ (1 << chance.randrange(8)), chance.randrange(256)])
    return bytes(damaged)


def contents():
    """Return a small picture in every way that the formats have of writing it."""
    clear = NOISE.copy()
    clear.putalpha(NOISE.getchannel(0))
    deep = Image.fromarray(np.asarray(NOISE)[..., 0].astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [NOISE.rotate(90)]}
    tiff_frames = {"save_all": True, "append_images": [NOISE.rotate(90)]}  # Pillow notes at them how they were saved
    return [
        with_exif(NOISE, "JPEG"), encoded(NOISE, "JPEG", progressive=True), encoded(NOISE.convert("CMYK"), "JPEG"),
        encoded(NOISE, "MPO", **frames), with_exif(NOISE, "PNG"), encoded(clear, "PNG"), encoded(deep, "PNG"),
        encoded(NOISE.quantize(16), "PNG", transparency=3), encoded(NOISE, "PNG", **frames), with_exif(NOISE, "WEBP"),
        encoded(clear, "WEBP", lossless=True), encoded(NOISE, "WEBP", **frames), encoded(NOISE, "GIF", **frames),
        encoded(NOISE.quantize(16), "GIF", transparency=3), encoded(NOISE, "BMP"), encoded(NOISE.quantize(16), "BMP"),
        encoded(NOISE, "TIFF"), encoded(NOISE, "TIFF", compression="tiff_lzw", **tiff_frames), encoded(deep, "TIFF"),
        encoded(NOISE, "TIFF", compression="jpeg"), encoded(NOISE, "TIFF", compression="tiff_adobe_deflate"),
        encoded(NOISE, "PPM"), encoded(deep, "PPM"),
        *([encoded(clear, "AVIF", speed=10)] if "AVIF" in formats() else []),
    ]  # fmt: skip


def check_mutated(path, seeds):
    """Read so many mutated pictures: each is read or named, in at most two seconds."""
    originals = contents()
    for seed in seeds:
        chance = random.Random(seed)
        path.write_bytes(mutated(originals[seed % len(originals)], chance))
        started = time.monotonic()
        try:
            pixels, _ = read_frame(path, 16, chance.choice(FITS))
            assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and 16 in pixels.shape[:2]
        except BadInput as error:
            assert str(path) in str(error)
        assert time.monotonic() - started < 2, seed


@pytest.mark.filterwarnings("ignore")  # Pillow's about what it finds in them
def test_whatever_is_damaged_in_a_file_it_is_read_or_named(tmp_path):
    check_mutated(tmp_path / "damaged", range(500))


MUTATIONS_PROGRAM = """
import sys, warnings
from pathlib import Path
from common.data import images
from common.system.device import Machine
from test_images import check_mutated
budget = images.Budget(2**28)
images.decoding_budget = lambda: budget
warnings.simplefilter("ignore")
check_mutated(Path(sys.argv[1]), range(100))
before = Machine.process_memory_mb()
check_mutated(Path(sys.argv[1]), range(100, 5000))
print((Machine.process_memory_mb() - before) * 1e6 / 2**20)
"""


@pytest.mark.slow
def test_five_thousand_damaged_files_take_no_more_than_the_memory_for_pictures(tmp_path):
    """In a process of its own, because a decoder that crashes ends it."""
    words = [sys.executable, "-c", MUTATIONS_PROGRAM, str(tmp_path / "damaged")]
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(words, capture_output=True, text=True, env=environment(PYTHONPATH=path), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 256 + 64  # MiB


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


def test_a_picture_with_damaged_exif_is_read(tmp_path):
    picture = Image.fromarray(np.full((4, 4, 3), 200, np.uint8))
    picture.save(tmp_path / "a.jpg", exif=b"Exif\0\0" + b"garbage that is no TIFF header")
    assert abs(np.asarray(read_image(tmp_path / "a.jpg")[0]).astype(int) - 200).max() < 3


def tiff_of_16_bits(values, white_is_zero):
    """Return the bytes of a gray TIFF, as scanners write it."""
    height, width = values.shape
    entries = [(256, width), (257, height), (258, 16), (259, 1), (262, 0 if white_is_zero else 1),
               (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, height), (279, values.nbytes)]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + bytes(4) + values.astype("<u2").tobytes()


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_16_bits_in_which_0_is_white_are_no_negative(tmp_path, white_is_zero):
    values = np.array([[0, 65535], [256, 32768]], np.uint16)
    (tmp_path / "a.tiff").write_bytes(tiff_of_16_bits(65535 - values if white_is_zero else values, white_is_zero))
    assert np.asarray(read_image(tmp_path / "a.tiff")[0])[..., 0].tolist() == [[0, 255], [1, 128]]
