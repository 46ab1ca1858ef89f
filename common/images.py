"""Reading one image file: every kind of picture becomes upright RGB by stated rules.

EXIF orientation is applied; transparency is laid over white; 16-bit grey keeps its upper 8 bits; greyscale, palette and
CMYK pictures are converted to RGB by Pillow. What was done is told, so that config.json can count it.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import BadInput

EXIF_ORIENTATION = 0x0112  # 1 is upright
KINDS = {"1": "greyscale", "L": "greyscale", "LA": "greyscale", "P": "palette", "PA": "palette", "CMYK": "CMYK"}

# Up to 89 million pixels are taken silently, up to twice as many too; more are an error.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


# How a picture that is no square becomes one: its largest central square, or all of it, out of proportion.
FITS = ("crop", "squash")


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


def square_pixels(image: Image.Image, size: int, fit: str) -> np.ndarray:
    """Return (size, size, 3) uint8: `image` made a square as `fit`, one of FITS, says (bilinear, antialiased)."""
    if image.size == (size, size):
        return np.asarray(image)
    if fit == "crop":
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


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
