"""Reading one image file: every kind of picture becomes upright RGB by stated rules.

EXIF orientation is applied; transparency is laid over white; 16-bit grey keeps its upper 8 bits; greyscale, palette and
CMYK pictures are converted to RGB by Pillow.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import BadInput

# Up to 89 million pixels are taken silently, up to twice as many too; more are an error.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def read_image(path: Path) -> Image.Image:
    """Return the picture in `path`, mode RGB, upright.

    Raises:
        BadInput: the file is missing, empty, truncated, or no image; the text names it.
    """
    if path.exists() and not path.is_file():  # a pipe, for instance, would be waited for without end
        raise BadInput(f"{path} cannot be read: it is no file")
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        reason = "it is empty" if path.stat().st_size == 0 else "it is no image"
    except Image.DecompressionBombError:
        reason = "it unpacks to too many pixels to be a photograph"
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything for damaged files
        reason = getattr(error, "strerror", None) or str(error)
    raise BadInput(f"{path} cannot be read: {reason}")


def square_pixels(image: Image.Image, size: int) -> np.ndarray:
    """Return (size, size, 3) uint8: the largest central square of `image`, resized (bilinear, antialiased)."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
