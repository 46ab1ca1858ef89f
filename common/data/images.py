"""Reading one image file: every kind of picture becomes upright RGB by stated rules.

Read are JPEG (also the MPO of phones), PNG, WebP, GIF, BMP, TIFF and PPM, AVIF where Pillow has it and HEIC where
pillow-heif is installed: no other decoder sees a file, whatever its name. EXIF orientation is applied; of several
frames the first is taken; transparency is laid over white; of 16 bits the upper 8 are kept, whatever the picture's own
largest value; floating-point, signed and 32-bit numbers are refused, because nobody can know which of them is white;
grayscale, palette and CMYK pictures are converted to RGB by Pillow. What was done is told, so that config.json can
count it.
"""

import contextlib
import ctypes
import struct
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.system.errors import BadInput
from common.system.memory import available_memory

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")  # by Pillow's names
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
NEEDS_HEIF = "it is HEIC: `pip install pillow-heif`, then it is read, or convert it to JPEG"
BYTES_PER_PIXEL, BYTES_BY_FORMAT = 14, {"WEBP": 21, "AVIF": 18, "HEIF": 21}  # the most that decoding was seen to take
MEMORY_SHARE, LEAST_MEMORY = 0.25, 2**30  # of the free memory, for all pictures that are being decoded; bytes
LARGE = 1 / 64  # of that memory, for one picture: then decoding takes longer than getting the memory anew
TIFF_TILE = (322, 323)  # tags: width and height of a tile
EXIF_ORIENTATION = 0x0112  # 1 is upright
TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
KINDS = {"1": "greyscale", "L": "greyscale", "LA": "greyscale", "P": "palette", "PA": "palette", "CMYK": "CMYK"}
DIM = "16-bit, none above 4095"
FIRST = "first frame"  # of several
ALL_KINDS = (*sorted(set(KINDS.values())), FIRST, "16-bit", DIM, "transparent", "rotated")

# Up to 89 million pixels are taken silently, up to twice as many too; more are an error.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


# How a picture that is no square becomes one: its middle; in training a random square along its longer side instead; or
# all of it, out of proportion.
FITS = ("crop", "slide", "squash")
LONGEST = 4  # of a picture longer than four times its width, only the middle four are looked at


@cache
def formats() -> tuple[str, ...]:
    """Return those of FORMATS that can be read here."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class Budget:
    """Bytes of memory that threads share: who wants more than is left waits for the others.

    The C library keeps what a thread has freed, for this thread. So that this does not add up over all threads, it is
    handed back to the system whenever large pieces of `total` bytes together have been freed: no more than twice
    `total` is taken, and what it keeps in any case, 64 MB a thread.
    """

    def __init__(self, total: int):
        self.total, self.left, self.freed = total, total, 0
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        """Hold `amount` for the block; ValueError is raised if there is not so much in all."""
        if amount > self.total:
            has = f"more than the {self.total / 1e9:,.1f} GB that there are for pictures"
            raise ValueError(f"to decode it takes {amount / 1e9:,.1f} GB of memory, {has}")
        with self.changed:
            self.changed.wait_for(lambda: amount <= self.left)
            self.left -= amount
        try:
            yield
        finally:
            with self.changed:
                self.left += amount
                self.freed += amount if amount > LARGE * self.total else 0
                if self.freed > self.total:
                    self.freed = 0
                    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems hand back at once
                        ctypes.CDLL(None).malloc_trim(0)
                self.changed.notify_all()


@cache
def decoding_budget() -> Budget:
    """Return the memory that all pictures which are being decoded in this process share."""
    return Budget(max(LEAST_MEMORY, int(MEMORY_SHARE * available_memory())))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Give the picture in `path` with its header read and nothing decoded.

    BadInput, which names the file, is raised if it is missing, empty, no image, or something in the block fails.
    """
    if not path.is_file() and path.exists():  # a pipe, for instance, would be waited for without end
        raise BadInput(f"{path} cannot be read: it is no file")
    try:
        with Image.open(path, formats=formats()) as image:
            yield image
            return
    except UnidentifiedImageError:
        reason = _other_content(path)
    except Image.DecompressionBombError:
        reason = "it unpacks to too many pixels to be a photograph"
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for damaged files
        reason = getattr(error, "strerror", None) or str(error)
    raise BadInput(f"{path} cannot be read: {reason}")


def read_image(path: Path) -> tuple[Image.Image, list[str]]:
    """Return the picture in `path`, mode RGB, upright, and what had to be done for that, such as "greyscale".

    BadInput, which names the file, is raised if it is missing, empty, truncated, or no image.
    """
    with opened(path) as image, decoding_budget().taking(_bytes_to_decode(image)):
        return _upright_rgb(image)


def read_frame(path: Path, size: int, fit: str) -> tuple[np.ndarray, list[str]]:
    """Return the `frame` of the picture in `path`, and what `read_image` tells; raises as that does."""
    with opened(path) as image, decoding_budget().taking(_bytes_to_decode(image)):
        upright, kinds = _upright_rgb(image)
        return frame(upright, size, fit), kinds


def stored_shape(width: int, height: int, size: int, fit: str) -> tuple[int, int]:
    """Return (height, width) of what `frame` makes of a picture: as torchvision's Resize(size) does, or a square."""
    if fit != "slide":
        return size, size
    shorter, longer = sorted((width, height))
    long_side = int(size * min(longer, LONGEST * shorter) / shorter)
    return (size, long_side) if height <= width else (long_side, size)


def frame(image: Image.Image, size: int, fit: str) -> np.ndarray:
    """Return (H, W, 3) uint8 of the `stored_shape`: the picture resized (bilinear, antialiased) as `fit` says.

    With "slide" the shorter side is `size`, with "crop" it is the central square of that, with "squash" both sides are.
    """
    if fit == "squash":
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    width, height = image.size
    longest = LONGEST * min(width, height)
    if max(width, height) > longest:
        image = ImageOps.fit(image, (min(width, longest), min(height, longest)))
    height, width = stored_shape(*image.size, size, "slide")
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return resized if fit == "slide" else square(resized)


def square(pixels: np.ndarray, place: float | None = None) -> np.ndarray:
    """Return the square of an image (H, W, 3) that lies at `place` (from 0 to below 1) along its longer side.

    Without a place it is the middle, where torchvision's CenterCrop has it.
    """
    height, width = pixels.shape[:2]
    size, spare = min(height, width), abs(height - width)
    start = round(spare / 2) if place is None else int(place * (spare + 1))
    return pixels[:, start : start + size] if width > height else pixels[start : start + size]


def _other_content(path: Path) -> str:
    """Return what there is to say of a file that is none of the `formats`."""
    with open(path, "rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp" and head[8:] in HEIC and "HEIF" not in formats():
        return NEEDS_HEIF
    return f"it is no image ({', '.join(formats())})" if head else "it is empty"


def _bytes_to_decode(image: Image.Image) -> int:
    """Return about the most memory that decoding takes; resizing needs some for each row and column.

    Of a TIFF a whole tile is decoded, which can be larger than the picture.
    """
    tags = getattr(image, "tag_v2", {})
    width, height = (max(side, tags.get(tag, 0)) for side, tag in zip(image.size, TIFF_TILE, strict=True))
    return (width + 2) * (height + 2) * BYTES_BY_FORMAT.get(image.format, BYTES_PER_PIXEL)


def _upright_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Decode a picture; what is in it that cannot be known is a ValueError."""
    has_16_bits = image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile)
    kinds = [FIRST] if getattr(image, "is_animated", False) else []
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        what = "floating-point" if image.mode == "F" else "signed or 32-bit"
        raise ValueError(f"it has {what} numbers, and nobody can know which is white: convert it to 8 or 16 bits")
    kinds += ["16-bit"] if has_16_bits and image.format != "BMP" else []  # which has five bits of a color in ";16"
    image.load()
    is_turned = False
    with contextlib.suppress(SyntaxError, struct.error, ValueError, TypeError):  # EXIF may be damaged, or be none
        is_turned = image.getexif().get(EXIF_ORIENTATION, 1) != 1
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
        image = Image.fromarray(65535 - np.asarray(image))  # which Pillow does for 8 bits alone
    rgb, more = _to_rgb(image)
    return rgb, kinds + more + ["rotated"] * is_turned


def _to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode.startswith("I"):
        values = np.asarray(image)
        gray = Image.fromarray((values >> 8).astype(np.uint8))
        return gray.convert("RGB"), [DIM] if values.max() < 4096 else []
    kinds = [KINDS[image.mode]] if image.mode in KINDS else []
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return over_white.convert("RGB"), [*kinds, "transparent"]
    return image if image.mode == "RGB" else image.convert("RGB"), kinds
