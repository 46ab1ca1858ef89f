"""From image files to predictions, and what is told of them: lines, a table, a picture."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import torch

from common.data.layouts import folder_names, image_files, tell_passed_over
from common.evaluation.looks import note_look_at
from common.evaluation.metrics import wilson_interval
from common.inside.maps import NotThere, grad_cam
from common.predicting.classifier import Classifier
from common.runs.folder import read_config
from common.runs.images import UsedImages
from common.system.errors import BadInput
from common.system.files import write_table
from common.system.log import info, progress, warn
from common.system.text import printable
from common.system.threads import read_ahead
from tools.outputs import check_writable

THREADS = 8  # that decode files; decoding releases the interpreter lock, and slow disks need more than there are cores
BATCH_PIXELS = 64 * 512 * 512  # of all images that the network is shown at a time, however large a run has them
MONTAGE_IMAGES = 64
EXPLAINED = 8  # images at a time, as what the network computes of them is kept
LONGEST_PATH, LONGEST_NAME = 60, 24  # characters that columns of the terminal are aligned to


@dataclass(frozen=True)
class FoundImage:
    """An image file."""

    path: Path
    true: str | None = None  # the name of its class, where its folder tells that
    is_stray: bool = False  # it lies beside folders that are named like classes, in none of them


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image: `probabilities` is (classes,) float32. `brightness` is its mean, up to 1."""

    image: FoundImage
    probabilities: np.ndarray
    brightness: float

    def top(self, k: int, classes: list[str]) -> list[tuple[str, float]]:
        """Return the `k` most probable names, each with its probability."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(classes[label], float(self.probabilities[label])) for label in order]

    def predicted(self, classes: list[str]) -> str:
        """Return the most probable name."""
        return classes[self.probabilities.argmax()]


def find_images(locations: list[str], classes: list[str]) -> list[FoundImage]:
    """Return the images among and below `locations`, folders sorted; raise BadInput if one of these has none."""
    images = []
    for place, location in enumerate(locations):
        path = Path(location)
        if not path.exists():
            joined = (" ".join(locations[place:end]) for end in range(place + 2, len(locations) + 1))
            hint = "; a path with a space needs quotes" if any(Path(one).exists() for one in joined) else ""
            raise BadInput(f"{location}: there is no such image or folder{hint}")
        try:
            found = list(_images_below(path, classes)) if path.is_dir() else [FoundImage(path)]
        except OSError as error:
            raise BadInput(f"{error.filename} cannot be read ({error.strerror})") from error
        if not found:
            raise BadInput(f"{location} is empty: there is no image in it")
        images += found
    return images


def _images_below(folder: Path, classes: list[str]) -> Iterator[FoundImage]:
    names, passed_over = folder_names(folder), []
    has_class_folders = not set(names).isdisjoint(classes)
    below = image_files(folder, passed_over)  # files of the folder itself come first
    loose = takewhile(lambda path: path.parent == folder, below)
    yield from (FoundImage(path, is_stray=has_class_folders) for path in loose)
    passed_over[:] = [path for path in passed_over if path.parent == folder]  # it has looked further for the next one
    for name in names:  # each on its own, as in training, so that a link to a class folder is followed
        true = name if name in classes else None
        for path in image_files(folder / name, passed_over):
            yield FoundImage(path, true, is_stray=has_class_folders and true is None)
    tell_passed_over(passed_over)


def check_outputs(outputs: dict[str, str | None], checkpoint: Path, images: list[FoundImage]) -> None:
    """Raise BadInput, before the work, if a file cannot be written or would take the place of one that is needed.

    `outputs` has for each option its file, or None.
    """
    run_folder = checkpoint.resolve().parent
    if not (run_folder / "config.json").exists():  # a best.pth that was copied elsewhere
        run_folder = None
    taken = set()
    for option, name in outputs.items():
        if name is None:
            continue
        what, path = f"{option} {name}", Path(name).resolve()
        if option == "--montage" and path.suffix.lower() != ".png":
            raise BadInput(f"{what} will be a PNG picture: choose a name that ends in .png")
        if run_folder in path.parents:
            raise BadInput(f"{what} lies in the folder of the run, in which nothing is changed; write it elsewhere")
        if path.exists():
            taken |= {checkpoint.resolve(), *(image.path.resolve() for image in images)}
        if path in taken:
            raise BadInput(f"{what} would take the place of a file that is read or written; choose another name")
        taken.add(path)
        check_writable(path, what)


class Encounters:
    """Counts the images that a run is shown again, by the part that they had in it: such scores are not of new images.

    Args:
        folder: of the run, in which its images are known.
    """

    def __init__(self, folder: Path):
        self._folder, self._used, self._parts, self._look = folder, UsedImages(folder), Counter(), None

    def meet(self, squares: list[np.ndarray], hashes: list[bytes]) -> None:
        """Count images before they are predicted; the first test image is a look at them, which is written down.

        They are told by their squares (side, side, 3), of which all are of one size, or by the hashes of their frames.
        """
        self._parts.update(filter(None, self._used.parts_of(np.stack(squares), hashes)))
        if self._parts["test"] and self._look is None:
            self._look = 0
            try:
                config = read_config(self._folder)
                look = note_look_at(self._folder, config, self._used.test_sha256, "predictions")
                self._look = look.looks_at_images
            except BadInput as error:  # a copy of a run, say, that cannot be written to
                warn(f"warning: this look at test images is not counted ({error})")

    def tell(self, count: int) -> None:
        """Say how many of `count` images the run knows."""
        trained, chose, tested = (self._parts[part] for part in ("train", "val", "test"))
        if trained:
            info(f"note: {trained:,} of these {count:,} images have trained the network: this is too good for new ones")
        if chose:
            info(f"note: {chose:,} are validation images of this run, by which its weights were chosen")
        if tested:
            which = f"; this was look {self._look} at them" if self._look else ""
            info(f"note: {tested:,} are test images of this run{which}")


def predict(
    classifier: Classifier, images: list[FoundImage], batch_size: int, encounters: Encounters
) -> Iterator[Prediction]:
    """Yield the prediction of each image in turn; one that cannot be read is left out, with a warning."""

    def read(image: FoundImage) -> tuple[np.ndarray, bytes] | BadInput:
        try:
            return classifier.read(image.path)
        except BadInput as error:
            return error

    batch_size = min(batch_size, _most_at_a_time(classifier))
    threads = min(THREADS, batch_size)
    # While the network works on one batch, the next one is read.
    coming = read_ahead(read, images, threads, ahead=math.ceil(batch_size / threads))
    with progress(len(images), "predicting") as bar:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            decoded = list(islice(coming, len(batch)))
            readable = [one for one in decoded if not isinstance(one, BadInput)]
            rows = iter(())
            if readable:
                squares, hashes = zip(*readable, strict=True)
                encounters.meet(squares, hashes)
                means = np.stack(squares).mean(axis=(1, 2, 3)) / 255
                rows = zip(classifier.probabilities(squares), means, strict=True)
            for image, one in zip(batch, decoded, strict=True):
                if isinstance(one, BadInput):
                    warn(printable(one))
                else:
                    yield Prediction(image, *next(rows))
            bar.update(len(batch))


def _most_at_a_time(classifier: Classifier) -> int:
    """Return the number of images that may be in memory together."""
    side = max(classifier.stored_size, classifier.blank().shape[-1])
    return max(1, BATCH_PIXELS // side**2)


def report(coming: Iterator[Prediction], images: list[FoundImage], classes: list[str], topk: int) -> list[Prediction]:
    """Print a line for each prediction as it comes, in columns as wide as all `images` need, then the accuracy."""
    path_width = min(LONGEST_PATH, max(len(printable(image.path)) for image in images))
    name_width = min(LONGEST_NAME, max(len(printable(name)) for name in classes))
    predictions = []
    for one in coming:
        predictions.append(one)
        cells, true = [f"{printable(one.image.path):<{path_width}}"], one.image.true
        for name, share in one.top(topk, classes):
            cells.append(f"{printable(name, LONGEST_NAME):<{name_width}} {share:6.1%}")
        if true is not None:
            is_correct = one.predicted(classes) == true
            cells.append("right" if is_correct else f"wrong, it is {printable(true, LONGEST_NAME)}")
        info("  ".join(cells))
    _report_accuracy(predictions, classes)
    return predictions


def _report_accuracy(predictions: list[Prediction], classes: list[str]) -> None:
    are_correct = [one.predicted(classes) == one.image.true for one in predictions if one.image.true is not None]
    if are_correct:
        correct, count = sum(are_correct), len(are_correct)
        low, high = wilson_interval(correct, count)
        counts = f"{correct:,} of {count:,} images are right; 95 % interval {low:.4f} to {high:.4f}"
        info(f"accuracy {correct / count:.4f} ({counts})")
    strays = [one.image.path for one in predictions if one.image.is_stray]
    if strays:
        where = f"in no folder that is named like a class of the run (such as {printable(strays[0])})"
        info(f"not counted: {len(strays):,} image(s) {where}")


def tell_of_brightness(predictions: list[Prediction], known: dict) -> None:
    """Say how many images are much brighter or darker than all training images that the run has looked at.

    `known` is what it keeps of these, see `brightness` in common/runs/config.py.

    Much is more than a standard deviation beyond the last of them: of new images that are like the others a few lie
    just outside, but not so far. Photographs reach so far to both sides that nothing is told of them.
    """
    numbers = [known.get(name) for name in ("least", "greatest", "spread")]
    if not all(isinstance(number, float) for number in numbers):
        return  # of an older run
    (least, greatest, spread), means = numbers, np.array([one.brightness for one in predictions])
    low, high = least - spread, greatest + spread
    for how, count in (("brighter", (means > high).sum()), ("darker", (means < low).sum())):
        if count:
            are = f"{count:,} of {len(means):,} image(s) are much {how} than any training image that was looked at"
            info(f"note: {are}: the answers mean little, as a network takes all that it sees for one of its classes")


def write_csv(name: str, predictions: list[Prediction], classes: list[str], topk: int) -> None:
    """Write a row for each prediction: path, predicted, confidence, the `topk` names with confidences, true."""
    pairs = [f"{column}{place}" for place in range(1, topk + 1) for column in ("top", "confidence")]
    rows = [("path", "predicted", "confidence", *pairs, "true")]
    for one in predictions:
        top = [value for name, share in one.top(topk, classes) for value in (name, round(share, 6))]
        rows.append((str(one.image.path), *top[:2], *top, one.image.true or ""))
    write_table(Path(name).resolve(), rows)
    info(f"{printable(name)}: {len(predictions):,} rows")


def write_montage(name: str, predictions: list[Prediction], classifier: Classifier, explain: bool = False) -> None:
    """Draw the images of some predictions, evenly spread over all of them, as the network sees them.

    With `explain` each has Grad-CAM beside it: which pixels spoke for the answer. BadInput is raised if the network has
    no layer to tell that.
    """
    from common import figures  # imports matplotlib, which nothing else here needs

    if not predictions:
        info(f"{printable(name)} is not written: there is nothing to show")
        return
    count = min(len(predictions), MONTAGE_IMAGES, _most_at_a_time(classifier))
    shown = [predictions[place] for place in np.linspace(0, len(predictions) - 1, count).astype(int)]
    inputs = classifier.inputs([classifier.read(one.image.path)[0] for one in shown])
    titles = []
    for one in shown:
        label = -1 if one.image.true is None else classifier.classes.index(one.image.true)
        text, color = figures.verdict(label, one.probabilities, classifier.classes)
        titles.append((f"{text}\n{figures.plain(one.image.path.name)}" if label < 0 else text, color))
    heading = f"{count} of {len(predictions):,} images{', evenly spread' if count < len(predictions) else ''}"
    pictures = figures.viewable(inputs, classifier.transform)
    if explain:
        pictures, titles = _explained(classifier, inputs, shown, pictures, titles)
        heading += ", each with what spoke for the answer (Grad-CAM)"
    figures.save_sheets(Path(name).resolve(), [(heading, pictures, titles)], in_pairs=explain)
    info(f"{printable(name)}: {heading}")


def _explained(classifier: Classifier, inputs: torch.Tensor, shown: list[Prediction], pictures: list, titles: list):
    """Return pictures and titles with Grad-CAM behind each picture, and the scale of it at the end."""
    from common import figures

    answers = torch.tensor([one.probabilities.argmax() for one in shown])
    try:
        parts = zip(inputs.split(EXPLAINED), answers.split(EXPLAINED), strict=True)
        heats = torch.cat([grad_cam(classifier.model, *part) for part in parts]).numpy()
    except NotThere as reason:
        raise BadInput(f"--explain: {reason}") from reason
    more, more_titles = [], []
    for picture, title, heat, answer in zip(pictures, titles, heats, answers.tolist(), strict=True):
        what = f"{'' if heat.any() else 'no '}evidence for\n{figures.plain(classifier.classes[answer])}"
        more += [picture, figures.with_heat(picture, heat)]
        more_titles += [title, (what, "black")]
    scale, title = figures.heat_scale(len(pictures[0]))
    return [*more, scale], [*more_titles, title]
