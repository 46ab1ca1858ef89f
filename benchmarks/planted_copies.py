"""Which share of planted near copies does the look for copies find, and what does it take for copies that is none?

    python benchmarks/planted_copies.py FOLDER --size 32 --planted 2000

Of so many images of the class folders a copy is made: moved by up to 2 pixels, scaled by 0.9 to 1.1, contrast 0.7 to
1.3, brightness ±30, half of them mirrored, JPEG of quality 60 to 95. Found is a copy that is paired with its image.
Then all images of the folder are compared with each other: of photographs without copies, what is found is a mistake.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.data.arrays import ArrayDataset, Split, whole
from common.data.folders import load_folder
from common.evaluation.metrics import wilson_interval
from common.exploring.copies import NEAR, all_near_copies, small_pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="class folders, or train/, val/ and test/ of them")
    parser.add_argument("--size", type=int, default=32, help="side of the squares")
    parser.add_argument("--planted", type=int, default=2000, help="how many copies")
    parser.add_argument("--seed", type=int, default=0, help="of the choice and the changes")
    options = parser.parse_args()
    splits, _ = load_folder(options.folder, options.size, 2)
    pixels = np.concatenate([images.permute(0, 2, 3, 1) for split in splits.values() for images, _ in split.blocks()])
    chance = np.random.default_rng(options.seed)
    chosen = np.sort(chance.choice(len(pixels), options.planted, replace=False))
    parts = {"train": pixels, "test": np.stack([planted(picture, chance) for picture in pixels[chosen]])}
    parts = {name: unlabelled(images) for name, images in parts.items()}
    pictures = {name: torch.cat([small_pictures(some) for some, _ in part.blocks()]) for name, part in parts.items()}
    found = all_near_copies(parts, pictures, NEAR, [("train", "test")])
    right = sum(chosen[copy.indices[1]] == copy.indices[0] for copy in found)
    low, high = wilson_interval(int(right), options.planted)
    print(f"{right} of {options.planted} found, {right / options.planted:.1%} ({low:.1%} to {high:.1%}); "
          f"{len(found) - right} paired with another of {len(pixels)} images")  # fmt: skip
    within = all_near_copies(parts, pictures, NEAR, [("train", "train")])
    print(f"among the images themselves {len(within)}:", *(f"{copy.correlation:.3f}" for copy in within[:20]))


def unlabelled(images: np.ndarray) -> Split:
    """Return all of some images (N, side, side, 3)."""
    return whole(ArrayDataset(images, np.zeros(len(images)), ["any"], [str(place) for place in range(len(images))]))


def planted(picture: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Return a near copy of a picture (side, side, 3)."""
    side, scale, moved = len(picture), chance.uniform(0.9, 1.1), chance.uniform(-2, 2, 2)
    wide = Image.fromarray(np.pad(picture, ((8, 8), (8, 8), (0, 0)), mode="edge"))
    left, top = moved + 8 + side / 2 * (1 - scale)
    picture = np.asarray(wide.transform((side, side), Image.AFFINE, (scale, 0, left, 0, scale, top), Image.BICUBIC))
    light = (picture - 127.0) * chance.uniform(0.7, 1.3) + 127 + chance.uniform(-30, 30)
    picture, buffer = light.clip(0, 255).astype(np.uint8)[:, :: chance.choice([-1, 1])], io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=int(chance.integers(60, 96)))
    return np.asarray(Image.open(buffer))


if __name__ == "__main__":
    main()
