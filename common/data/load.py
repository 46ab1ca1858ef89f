"""From a data set's name to its training, validation and test images."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from common.data.arrays import ArrayDataset, Split, balanced_subset, split_digest, whole, with_shuffled_labels
from common.data.folders import Reading, load_folder, read_images
from common.data.layouts import NAMES_OF_PARTS
from common.data.published import SETS, layout_of, load_published, splits_of
from common.system.distributed import local_main_first
from common.system.errors import BadInput
from common.system.log import info
from common.system.text import printable

DATASETS = ("digits", *SETS, "folder", "hdf5")
READ = {"digits", *(name for name, one in SETS.items() if one.is_read)}  # whose images are others when mirrored
# Of a set that comes without a test split, one image in five is it: always the same ones, whatever the run's seed.
TEST_FRACTION, TEST_SEED = 0.2, 0
UNBALANCED = 2.0  # images of the largest class for one of the smallest: from there on a note says so
FEW = 100  # training images of a class; below, a note says so


@dataclass
class Data:
    """Training, validation and test images of one experiment, and what config.json says of them."""

    name: str
    classes: list[str]
    train: Split
    val: Split
    test: Split
    reading: Reading = field(default_factory=Reading)

    @property
    def splits(self) -> dict[str, Split]:
        """The three by their names in files."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def digest(self) -> str:
        """SHA-256 of which image is in which split: equal for two runs exactly if they saw the same data.

        Of an HDF5 file without hashes it has seen some of the pixels only, see `checks_sha256`.
        """
        return split_digest(**{name: (split.labels, split.hashes) for name, split in self.splits.items()})

    @property
    def checks_sha256(self) -> dict[str, str]:
        """SHA-256 of the checks of all images of each split, where `digest` has seen some images: in an HDF5 file.

        There is none of a file that does not fit into memory: its images are compared when they are read.
        """
        checks = {name: split.checks for name, split in self.splits.items() if split.checks}
        return {name: digest for name, one in checks.items() if (digest := one.sha256())}


@dataclass(frozen=True)
class Source:
    """Which data sets an experiment runs on: the shared data options by name; `--help` says what each does."""

    dataset: list[str]
    data: str | None = None
    limit: int | None = None
    seed: int = 0
    split_seed: int | None = 0  # None: a run from before it, whose seed chose them, but not the images of --limit
    folds: str | None = None  # such as 2/5: the second of five parts of the training images validates
    workers: int = 2
    skip_unreadable: bool = False
    balanced_sampling: bool = False  # an epoch has as many images of each class
    null_test: bool = False  # shuffle the labels, by the seed: there is nothing to learn then
    output_dir: str | None = None  # has a place for what is known of image files

    @classmethod
    def of(cls, options: dict) -> "Source":
        """Return the source in `options`, which may hold others too."""
        return cls(**{field.name: options[field.name] for field in fields(cls)})

    def load(self, image_size: int, val_fraction: float, fit: str = "crop") -> list[Data]:
        """Load and divide all sets; arguments and errors are those of `read` and `Undivided.divide`."""
        return [images.divide(self, val_fraction) for images in self.read(image_size, fit)]

    def read(self, image_size: int, fit: str = "crop") -> list["Undivided"]:
        """Read all sets before the first is trained on, so that what is wrong with the last shows at once.

        Args:
            image_size: side in pixels of the squares that photographs become; much smaller square images of one size
                keep their own.
            fit: how image files become squares, see `load_folder`.

        Raises:
            BadInput: something is missing, damaged or contradictory; the text names it.
        """
        return [Undivided(name, *self._splits(name, image_size, fit)) for name in self.dataset]

    def _splits(self, name: str, image_size: int, fit: str) -> tuple[dict[str, Split], Reading]:
        if name == "digits":
            return _digits(), Reading()
        how = (image_size, self.workers, fit, self.skip_unreadable, self.output_dir)
        if name in SETS:
            with local_main_first():  # so that one downloads and the others find it
                sources = load_published(name, self.data)
            layout = layout_of(sources)
            return read_images(layout, *how) if layout else (splits_of(sources), Reading())
        if name == "hdf5":
            from common.data.hdf5 import fit_of, load_hdf5  # imports h5py, which other data does not need

            return load_hdf5(self.data), Reading(fit=fit_of(self.data))
        return load_folder(self.data, *how)


@dataclass
class Undivided:
    """All images of a data set: the splits that it comes with, of which "train" is there always."""

    name: str
    splits: dict[str, Split]
    reading: Reading

    def divide_for_each(self, runs: Sequence[dict], val_fraction: float) -> list[Data]:
        """Divide for the options of runs that differ in the seed, or in the fold, alone; see `divide`."""
        sources = [Source.of(options) for options in runs]
        if sources[0].limit is sources[0].folds is None and not sources[0].null_test:  # then no seed counts
            return [self.divide(sources[0], val_fraction)] * len(sources)
        return [self.divide(source, val_fraction) for source in sources]

    def divide(self, source: Source, val_fraction: float) -> Data:
        """Set test and validation images aside where the set has none of its own, and leave out what `source` limits.

        Args:
            val_fraction: share of the training images set aside for validation.

        Raises:
            BadInput: there are too few images, or classes, or no training images are to validate and there are folds.
        """
        splits = dict(self.splits)
        train, classes, is_older = splits["train"], splits["train"].dataset.classes, source.split_seed is None
        if len(classes) < 2:
            raise BadInput(f"{source.data or self.name} has one class only, {classes[0]!r}: nothing to tell apart")
        if "test" not in splits:
            train, splits["test"] = train.set_aside(TEST_FRACTION, TEST_SEED)
        if "val" in splits and source.folds:
            has = f"{source.data or self.name} has validation images of its own, so no training images take turns"
            raise BadInput(f"--folds: {has}{'; give with --data its train/ alone' if self.name == 'folder' else ''}")
        if source.folds:
            train, splits["val"] = train.fold(*map(int, source.folds.split("/")), source.split_seed)
        elif "val" not in splits:
            train, splits["val"] = train.set_aside(val_fraction, source.seed if is_older else source.split_seed)
        for split, who in (("val", "validation"), ("test", "test")):
            if shared := len(set(train.hashes) & set(splits[split].hashes)):
                info(f"warning: {shared} {who} image(s) are in the training images too, so its accuracy is too good")
        if source.limit is not None and source.limit < len(train):
            drawn_by = None if is_older else source.seed
            train = train.subset(balanced_subset(train.labels, train.hashes, classes, source.limit, drawn_by))
        if not is_older and train.has_pixel_hashes:  # the images of an HDF5 file may have their places in it alone
            train, splits["val"] = train.by_image(), splits["val"].by_image()  # the test keeps the order of its files
        train.is_balanced = source.balanced_sampling
        parts = [train, splits["val"], splits["test"]]
        return Data(
            self.name, classes, *(with_shuffled_labels(parts, source.seed) if source.null_test else parts), self.reading
        )


def tell_of_images(data: Data, transform: Callable, options: dict) -> None:
    """Say how many images there are, and of a new run what is unusual about them, and about training by `transform`.

    That a class has few images is not told where the person has asked for few.
    """
    parts = (("training", data.train), ("validation", data.val), ("test", data.test))
    info(f"images: {', '.join(f'{len(split):,} {what}{_origin(split, data)}' for what, split in parts)}")
    if data.name in READ and transform.mirrors and not options["resume"]:
        switch = next((name for name in ("augment", "flip") if name in options), None)
        off = f" (--{switch} {'False' if options[switch] is True else 'none'} switches it off)" if switch else ""
        info(f"note: images are mirrored at random{off}, and mirrored digits, letters and signs are other shapes")
    if not (options["limit"] or options["resume"]):
        counts = Counter(data.train.labels)
        named = {name: counts[label] for label, name in enumerate(data.classes)}
        info(*(f"note: {note}" for note in notes_on_counts(named)))


def _origin(split: Split, data: Data) -> str:
    """Return where images come from that the data set does not have in a part of their own."""
    if split.dataset is data.train.dataset:
        return "" if split is data.train else " (set aside from training)"
    part = split.dataset.ids[0].partition("/")[0]
    is_val = split is data.test and NAMES_OF_PARTS.get(part.lower()) == "val"
    return f" ({part}/, as there is no test/)" if is_val else ""


def notes_on_counts(counts: dict[str, int]) -> Iterator[str]:
    """Yield in words what is unusual about the numbers of training images of the classes, and what helps."""
    smallest, largest = min(counts, key=counts.get), max(counts, key=counts.get)
    if counts[largest] >= UNBALANCED * counts[smallest]:
        have = f"{counts[largest]:,} training images of '{printable(largest, 40)}'"
        have += f", {counts[smallest]:,} of '{printable(smallest, 40)}'"
        helps = "accuracy hides what happens to small classes; with --class_weights auto or --balanced_sampling True"
        yield f"the classes are unbalanced: {have}; {helps} each counts the same"
    if counts[smallest] < FEW:
        few = sum(count < FEW for count in counts.values())
        have = f"few images: {few:,} of {len(counts):,} classes have fewer than {FEW} training images"
        yield f"{have}, the smallest {counts[smallest]:,}; pretrained weights and augmentation help"


def _digits() -> dict[str, Split]:
    from sklearn.datasets import load_digits  # imports half of SciPy

    digits = load_digits()
    gray = (digits.images * 255 / 16).round().astype(np.uint8)  # (1797, 8, 8), 17 levels of gray
    names = [str(name) for name in digits.target_names]
    ids = [f"digits/{index}" for index in range(len(gray))]
    return {"train": whole(ArrayDataset(np.repeat(gray[..., None], 3, axis=-1), digits.target, names, ids))}
