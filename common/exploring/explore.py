"""Know the data before a network does: counts, sizes, pixels, copies, and in words what is unusual about them.

`explore` does all of it. Its parts work on their own too:
    looked_at = balanced_sample(data.train, 1000)
    statistics = PixelStatistics(looked_at.dataset.classes)
    for images, labels in blocks(looked_at):
        statistics.add(images, labels)
    print(statistics.mean(), statistics.std())
"""

from pathlib import Path

import torch

from common.data.arrays import Part
from common.data.load import Data
from common.exploring.copies import Copy, all_exact_copies, all_near_copies, describe_copies, near_limit, thumbnails
from common.exploring.counts import describe_balance, describe_part, describe_sizes
from common.exploring.notes import notes
from common.exploring.pixels import PixelStatistics
from common.exploring.sample import MOST_IMAGES, MOST_PIXELS, SEED, balanced_sample, blocks, most_images
from common.runs.config import describe_origin
from common.runs.folder import make_folder
from common.system.device import Machine
from common.system.files import write_json
from common.system.log import log_to, progress, say


def explore(data: Data, folder: Path) -> dict:
    """Look at a data set: write `explore.json` and pictures into `folder`, say what is unusual, return explore.json.

    Pixels and near copies of larger sets are taken from a sample, the same in every run, with as many images of each
    class as there are; explore.json says of how many. Exact copies are looked for among all images.

    Raises:
        BadInput: an image cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": data.train, "val": data.val, "test": data.test}
    looked_at = {name: balanced_sample(part, most_images(part)) for name, part in parts.items()}
    statistics, small = _look(looked_at)
    limit = near_limit(statistics)
    exact, near = all_exact_copies(parts), all_near_copies(looked_at, small, limit)
    described = {name: describe_part(part, len(looked_at[name])) for name, part in parts.items()}
    report = {
        "dataset": data.name,
        "parts": described,
        "looked_at": {"most_pixels_a_part": MOST_PIXELS, "most_images_a_part": MOST_IMAGES, "seed": SEED},
        "balance": describe_balance(described["train"]["per_class"].values()),
        "sizes": describe_sizes(data.reading, statistics.side, sum(map(len, parts.values()))),
        "pixels": statistics.describe(),
        "correlation": statistics.correlations(),
        "copies": {
            "exact": None if exact is None else describe_copies(exact, parts),
            "near": describe_copies(near, parts),
            "near_limit": limit,
        },
    }
    report["notes"] = notes(report)

    _draw(folder, parts, report, statistics, (exact or []) + near)
    write_json(folder / "explore.json", report)  # last: whoever finds it finds the pictures too
    for note in report["notes"]:
        say(f"note: {note}")
    return report


def explore_only(script: str, options: dict, loaded: list[Data], machine: Machine) -> Path:
    """Explore data sets instead of training on them, each in a folder of its own; return the last one.

    Args:
        script: `__file__` of the experiment.
        options: every option by name.
    """
    name = Path(script).stem
    for data in loaded:
        config = {"script": name, "dataset": data.name, "classes": data.classes, "options": options}
        folder = make_folder(Path(options["output_dir"]) / name / "explore", config | describe_origin(machine))
        log_to(folder / "log.txt")
        say(f"looking at {data.name}: {folder}")
        explore(data, folder)
        say(f"finished: {folder}")
    return folder


def _look(looked_at: dict[str, Part]) -> tuple[PixelStatistics, dict[str, torch.Tensor]]:
    """Return the statistics of the training images and the thumbnails of all, reading each image once."""
    statistics = PixelStatistics(looked_at["train"].dataset.classes)
    small = {name: [] for name in looked_at}
    with progress(sum(map(len, looked_at.values())), "looking at images") as bar:
        for name, part in looked_at.items():
            for images, labels in blocks(part):
                small[name].append(thumbnails(images))
                if name == "train":
                    statistics.add(images, labels)
                bar.update(len(images))
    return statistics, {name: torch.cat(of_blocks) for name, of_blocks in small.items()}


def _draw(folder: Path, parts: dict[str, Part], report: dict, statistics: PixelStatistics, copies: list[Copy]) -> None:
    from common.exploring import plots  # imports matplotlib

    plots.draw_class_counts(folder / "class_counts.png", report["parts"])
    plots.draw_samples(folder / "explore_samples.png", parts["train"])
    plots.draw_histogram(folder / "pixel_histogram.png", report["pixels"])
    plots.draw_mean_images(folder / "mean_images.png", statistics.mean_images(), parts["train"].dataset.classes)
    plots.draw_correlation(folder / "correlation.png", report["correlation"])
    path = folder / "duplicates.png"
    path.unlink(missing_ok=True)  # of an earlier look, when there were copies
    if copies:
        plots.draw_copies(path, copies, parts)
