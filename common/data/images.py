"""Reading one image file: every kind of picture becomes upright RGB by stated rules.

EXIF orientation is applied; transparency is laid over white; 16-bit gray keeps its upper 8 bits; grayscale, palette and
CMYK pictures are converted to RGB by Pillow. What was done is told, so that config.json can count it.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.system.errors import BadInput

EXIF_ORIENTATION = 0x0112  # 1 is upright
KINDS = {"1": "greyscale", "L": "greyscale", "LA": "greyscale", "P": "palette", "PA": "palette", "CMYK": "CMYK"}

# Up to 89 million pixels are taken silently, up to twice as many too; more are an error.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


# How a picture that is no square becomes one: its middle; in training a random square along its longer side instead; or
# all of it, out of proportion.
FITS = ("crop", "slide", "squash")
LONGEST = 4  # of a picture longer than four times its width, only the middle four are looked at


def read_image(path: Path) -> tuple[Image.Image, list[str]]:
    """Return the picture in `path`, mode RGB, upright, and what had to be done for that, such as "greyscale".

    Raises:
        BadInput: the file is missing, empty, truncated, or no image; the text names it.
    """
    if path.exists() and not path.is_file():  # a pipe, for instance, would be waited for without end
        raise BadInput(f"{path} cannot be read: it is no file")
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            rgb, kinds = _to_rgb(upright)
            return rgb, kinds + (["rotated"] if image.getexif().get(EXIF_ORIENTATION, 1) != 1 else [])
    except UnidentifiedImageError:
        reason = "it is empty" if path.stat().st_size == 0 else "it is no image"
    except Image.DecompressionBombError:
        reason = "it unpacks to too many pixels to be a photograph"
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for damaged files
        reason = getattr(error, "strerror", None) or str(error)
    raise BadInput(f"{path} cannot be read: {reason}")


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


def _to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode.startswith("I"):
        upper = (np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB"), ["16-bit"]
    kinds = [KINDS[image.mode]] if image.mode in KINDS else []
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB"), [*kinds, "transparent"]
    return image.convert("RGB"), kinds
