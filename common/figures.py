"""What every picture is made of. Drawn without pyplot, so that there is no window, no global state, no display needed.

Whoever saves a picture calls `figures.save_figure` or `figures.save_sheets`: in one place saving can be switched off.
"""

import io
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.data.batches import Batches
from common.system.files import picture_kind, write_bytes
from common.system.text import printable
from common.transforms.basic import Compose
from common.transforms.random_streams import shuffled

TRAIN_COLOR, VAL_COLOR = "#1f77b4", "#d95f02"
COLORS = ("#1f77b4", "#d95f02", "#1b9e77", "#e7298a", "#7570b3", "#a6761d", "#17becf", "#b2182b", "#66a61e", "#e6ab02")
RIGHT_COLOR, WRONG_COLOR = "#1b7837", "#b2182b"
LONGEST_NAME = 18  # characters of a class name in a picture
LONGEST_ON_AXIS = 28  # beside an axis, where there is more room
SHEET_COLUMNS = 8
PAIR_GAP = 0.3  # between two pairs of images that belong together, in widths of an image
UNDATED = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}  # the same picture is the same file
HEAT = "inferno"  # even steps look even, also to the color-blind

# For names in scripts that matplotlib's own font lacks: the fonts of Linux, Windows and macOS that have them.
MORE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo",
    "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI",
)  # fmt: skip

Title = tuple[str, str]  # text and color
Sheet = tuple[str, Sequence[np.ndarray], Sequence[Title]]  # heading, images (H, W, 3), what stands above each


def use_fonts_that_are_here() -> None:
    """Let texts take the letters that one font lacks from another that this system has."""
    here = {font.name for font in font_manager.fontManager.ttflist}
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of each that has one weight only
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(name for name in MORE_FONTS if name in here)]
    matplotlib.rcParams["svg.hashsalt"] = "figures"  # else an SVG has random names in it


use_fonts_that_are_here()


def blank_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def save_figure(figure: Figure, path: Path, title: str = "") -> None:
    """Write a figure, under a title if there is one, to the PNG file `path`, whole or not at all.

    Within `pictures_also_as` it is beside that as SVG or PDF too.
    """
    if title:
        figure.suptitle(title, fontsize=11)
    for kind in dict.fromkeys(("png", picture_kind.get())):
        buffer = io.BytesIO()
        with warnings.catch_warnings():  # names in scripts that the font lacks are drawn as boxes; that is no news
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(buffer, format=kind, metadata=UNDATED[kind])
        write_bytes(path if kind == "png" else path.with_suffix(f".{kind}"), buffer.getbuffer())


def save_sheets(path: Path, sheets: list[Sheet], columns: int = SHEET_COLUMNS, in_pairs: bool = False) -> None:
    """Draw sheets of images, one below the other, as wide as their images and headings are; `in_pairs`: two by two.

    All images lie in one coordinate system with sides of length 1: an axes for each would take seconds to lay out.
    """
    heading_height, line_height, inches = 0.32, 0.105, 1.36
    columns = min(columns, max(len(images) for _, images, _ in sheets))
    gap = PAIR_GAP if in_pairs else 0
    written = max(len(heading) for heading, _, _ in sheets) * 0.078  # of 13 points
    width = max(1.05 * columns - 0.05 + gap * ((columns - 1) // 2), written)
    rows = [-(-len(images) // columns) for _, images, _ in sheets]
    lines = [max(title.count("\n") + 1 for title, _ in titles) for _, _, titles in sheets]
    heights = [1.12 + line_height * count for count in lines]
    height = sum(map(math.prod, zip(rows, heights, strict=True))) + len(sheets) * heading_height
    figure = Figure(figsize=(inches * (width + 0.1), inches * height), dpi=120)
    axes = figure.add_axes((0.05 / (width + 0.1), 0, width / (width + 0.1), 1))
    top = 0.0
    for (heading, images, titles), count, row_height in zip(sheets, rows, heights, strict=True):
        axes.text(width / 2, top + 0.17, heading, ha="center", va="center", fontsize=13)
        top += heading_height
        for place, (image, (title, color)) in enumerate(zip(images, titles, strict=True)):
            left = 1.05 * (place % columns) + gap * (place % columns // 2)
            bottom = top + row_height * (place // columns + 1)
            axes.imshow(image, extent=(left, left + 1, bottom - 0.05, bottom - 1.05), interpolation="none")
            size = min(8, 160 / max(map(len, title.split("\n"))))  # 20 characters of 8 points are as wide as an image
            axes.text(left + 0.5, bottom - 1.07, title, ha="center", va="bottom", fontsize=size, color=color)
        top += count * row_height
    axes.set(xlim=(0, width), ylim=(top, 0))
    axes.axis("off")
    save_figure(figure, path)


def epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    """Let the x axis show whole epochs, the grid be faint."""
    axes.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def plain(name: str, longest: int = LONGEST_NAME, keep_end: bool = False) -> str:
    """Return a name that is safe and short enough to stand in a picture: one line, no mathematics."""
    return printable(name, longest, keep_end).replace("$", r"\$")


def verdict(label: int, row: np.ndarray, classes: list[str]) -> Title:
    """Return what is said of a prediction above its image: name and confidence, the true name, and a color."""
    predicted = int(row.argmax())
    text = f"{plain(classes[predicted])} ({row[predicted]:.0%})"  # a name may be a number
    if label < 0:
        return text, "black"
    return f"{text}\ntrue: {plain(classes[label])}", RIGHT_COLOR if label == predicted else WRONG_COLOR


def predicted(
    images: Batches, places: list[int], probabilities: np.ndarray, classes: list[str]
) -> tuple[torch.Tensor, np.ndarray, list[Title]]:
    """Return the images at `places` as the network takes them, as they are drawn, and what is said of each.

    `probabilities` (N, classes) are what the network gives for all of `images`.
    """
    pixels, labels = images.split.dataset.batch(images.split.indices[places])
    inputs = images.transform(pixels)
    rows = zip(labels.tolist(), probabilities[places], strict=True)
    return inputs, viewable(inputs, images.transform), [verdict(label, row, classes) for label, row in rows]


def viewable(inputs: torch.Tensor, transform: Compose) -> np.ndarray:
    """Return (N, H, W, 3) float from 0 to 1 of what the network takes, which `transform` made."""
    return transform.normalize.invert(inputs).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


def with_heat(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a picture (H, W, 3) from 0 to 1 under a map (H, W) from 0 to 1; where that is 0, it is as it was."""
    share = 0.65 * heat[..., None]
    return np.clip((1 - share) * picture + share * colormaps[HEAT](heat)[..., :3], 0, 1)


def heat_scale(side: int) -> tuple[np.ndarray, Title]:
    """Return a picture (side, side, 3) of the colors of `with_heat` over gray, from 0 to 1, with its title."""
    heat = np.broadcast_to(np.linspace(0, 1, side), (side, side))
    title = "scale: left 0, right 1,\nthe strongest of an image"
    return with_heat(np.full((side, side, 3), 0.5), heat), (title, "black")


def random_places(count: int) -> list[int]:
    """Return 0 … count - 1 in an order that is always the same."""
    return shuffled(torch.arange(count), seed=0, epoch=0).tolist()
