"""Do the verdicts of compare.py keep their promises? Many comparisons whose truth is known, by compare.py's own functions.

    python benchmarks/simulate_comparing.py simulated

Told are: how often equal recipes are called different (at most 5 % was promised), also after different numbers of epochs;
how often a true difference is found; how often the interval of a difference has the true one within it, on new seeds and
new images. The folder gets simulated.json and simulated.png. docs/statistics.md says what it came to.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from scipy import stats  # noqa: E402

from common import figures  # noqa: E402
from tools.comparing.contrasts import Contrast, find_contrasts  # noqa: E402
from tools.comparing.estimates import Arm, difference, mean, t_interval  # noqa: E402
from tools.comparing.finished_runs import FinishedRun  # noqa: E402
from tools.comparing.groups import Group  # noqa: E402
from tools.comparing.overview import Question, compare  # noqa: E402
from tools.comparing.predictions import Told  # noqa: E402

REPETITIONS = 4000  # the 95 % interval of a rate of 5 % is then from 4.4 to 5.7 %
GROUPS, SEEDS, SHARED = (2, 5, 10, 20), (3, 5, 10), (0.0, 0.3, 0.5, 0.8)
IMAGES, ACCURACY, BETTER = (500, 10_000), 0.7, 0.01
SEED_STD = 0.003  # of the accuracy of ten networks on the same 10,000 images, as on CIFAR-10
# What makes an image right or wrong, as shares of the variance: how hard it is, how hard for this recipe, and chance.
HARD, HARD_HERE = 0.6, 0.1
CLASSES, VALIDATION = 10, 143  # with nothing to learn: digits with permuted labels
EPOCHS = ((5, 50), (1, 50), (10, 20))


def main():
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, metavar="N", help="(default: %(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = simulate(options.repetitions)
    (options.folder / "simulated.json").write_text(json.dumps(found, indent=2))
    draw(options.folder / "simulated.png", found)


def simulate(repetitions: int) -> dict[str, list[dict]]:
    """Return the rates of all settings, and print them as they come."""
    found = {"repetitions": repetitions}
    plans = {
        "false_alarms": (false_alarms, itertools.product(GROUPS, SEEDS, SHARED)),
        "power": (power, itertools.product(SEEDS, SHARED)),
        "coverage": (coverage, itertools.product(SEEDS, IMAGES, (True, False))),
        "epochs": (false_alarms_of_epochs, itertools.product(EPOCHS, SEEDS, (0.0, 0.9))),
        "epochs_power": (power_of_epochs, itertools.product(EPOCHS[:1], SEEDS)),
    }
    for name, (function, settings) in plans.items():
        found[name] = []
        for setting in settings:
            row = function(np.random.default_rng(0), repetitions, *setting)
            found[name].append(row)
            print(name, json.dumps(row), flush=True)
    return found


def contrasts_of(values: np.ndarray) -> list[Contrast]:
    """Return the contrasts of the best of some groups: values (groups, seeds)."""
    arms = [Arm(dict(enumerate(row.tolist()))) for row in values]
    order = np.argsort(-values.mean(axis=1))
    return find_contrasts([Group(place, {}, "", [], 0, arms[one]) for place, one in enumerate(order, 1)], {})


def values_of_seeds(rng: np.random.Generator, groups: int, seeds: int, shared: float) -> np.ndarray:
    """Return normal values (groups, seeds) with standard deviation 1, of whose variance a seed shares so much."""
    own, common = rng.standard_normal((groups, seeds)), rng.standard_normal(seeds)
    return np.sqrt(1 - shared) * own + np.sqrt(shared) * common


def false_alarms(rng: np.random.Generator, repetitions: int, groups: int, seeds: int, shared: float) -> dict:
    """Return how often the best of equal groups is called significantly better than at least one other."""
    alarms = sum(
        any(one.is_significant for one in contrasts_of(values_of_seeds(rng, groups, seeds, shared)))
        for _ in range(repetitions)
    )
    return {"groups": groups, "seeds": seeds, "shared": shared, "rate": alarms / repetitions}


def power(rng: np.random.Generator, repetitions: int, seeds: int, shared: float) -> dict:
    """Return how often a group that is better by one standard deviation is found to be."""
    found = 0
    for _ in range(repetitions):
        values = values_of_seeds(rng, 2, seeds, shared)
        values[0] += 1
        [one] = contrasts_of(values)
        found += one.is_significant and one.one.mean == values[0].mean()
    return {"groups": 2, "seeds": seeds, "shared": shared, "rate": found / repetitions}


def coverage(rng: np.random.Generator, repetitions: int, seeds: int, images: int, same_images: bool) -> dict:
    """Return how often intervals have the true value: of a difference, of a mean, and of the mean by seeds alone.

    A network is right on an image if a normal number is below a limit; the number is made of the image, of the seed (half
    of that is the same for both recipes) and of chance. The true accuracy, over all seeds and images, is then known. The
    images are the same for all seeds, as test images are, or others for each, as where the seed chooses them.
    """
    truth = np.array([ACCURACY + BETTER, ACCURACY])
    limit = stats.norm.ppf(truth)
    seed_std = SEED_STD / stats.norm.pdf(limit).mean()
    hits = np.zeros(3)
    for _ in range(repetitions):
        correct = correct_images(rng, limit, seeds, images, seed_std, same_images)
        arms = [arm_of(one, same_images) for one in correct]
        intervals = difference(*arms).interval(), mean(arms[0]).interval(), t_interval(list(arms[0].values.values()))
        trues = truth[0] - truth[1], truth[0], truth[0]
        hits += [
            interval is not None and interval[0] <= true <= interval[1]
            for interval, true in zip(intervals, trues, strict=True)
        ]
    names = ("difference", "mean", "mean_by_seeds_alone")
    setting = {"seeds": seeds, "images": images, "same_images": same_images}
    return setting | dict(zip(names, (hits / repetitions).tolist(), strict=True))


def correct_images(
    rng: np.random.Generator, limit: np.ndarray, seeds: int, images: int, seed_std: float, same_images: bool
) -> np.ndarray:
    """Return on which images two recipes are right: (2, seeds, images) bool."""

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    of_seed = seed_std * np.sqrt(0.5) * (drawn(1, seeds, 1) + drawn(2, seeds, 1))
    sets = 1 if same_images else seeds
    of_image = np.sqrt(HARD) * drawn(1, sets, images) + np.sqrt(HARD_HERE) * drawn(2, sets, images)
    chance = np.sqrt(1 - HARD - HARD_HERE - seed_std**2) * drawn(2, seeds, images)
    return of_image + of_seed + chance < limit[:, None, None]


def arm_of(correct: np.ndarray, same_images: bool) -> Arm:
    """Return what came out of one recipe: correct (seeds, images)."""
    seeds, images = correct.shape
    values = correct.mean(axis=1)
    moves = (correct - values[:, None]) / images
    if not same_images:  # each seed has seen its own part of all images
        apart = np.zeros((seeds, seeds, images))
        apart[np.arange(seeds), np.arange(seeds)] = moves
        moves = apart.reshape(seeds, -1)
    return Arm(dict(enumerate(values.tolist())), dict(enumerate(moves)))


def false_alarms_of_epochs(
    rng: np.random.Generator, repetitions: int, epochs: tuple[int, int], seeds: int, alike: float
) -> dict:
    """Return how often two recipes are called different that had so many epochs to choose among, and nothing to learn.

    Successive epochs of a run have a correlation `alike`. What is chosen is best on the validation images, by chance.
    """
    alarms = sum(
        any(one.is_significant for one in contrasts_of_curves(chance_curves(rng, epochs, seeds, alike)))
        for _ in range(repetitions)
    )
    return {"epochs": list(epochs), "seeds": seeds, "alike": alike, "rate": alarms / repetitions}


def power_of_epochs(rng: np.random.Generator, repetitions: int, epochs: tuple[int, int], seeds: int) -> dict:
    """Return how often the longer training is found to be better where it is, by two errors of one validation accuracy."""
    better = 2 * np.sqrt((1 - 1 / CLASSES) / CLASSES / VALIDATION)
    found = 0
    for _ in range(repetitions):
        curves = chance_curves(rng, epochs, seeds, 0.0)
        curves[1] += better * (1 - np.exp(-np.arange(epochs[1]) / 5))
        found += any(one.is_significant and one.estimate.value > 0 for one in contrasts_of_curves(curves))
    return {"epochs": list(epochs), "seeds": seeds, "better": better, "rate": found / repetitions}


def chance_curves(rng: np.random.Generator, epochs: tuple[int, int], seeds: int, alike: float) -> list[np.ndarray]:
    """Return the validation accuracies (seeds, epochs) of networks that guess, for each number of epochs."""
    std = np.sqrt((1 - 1 / CLASSES) / CLASSES / VALIDATION)
    curves = []
    for count in epochs:
        noise = rng.standard_normal((seeds, count))
        for epoch in range(1, count):
            noise[:, epoch] = alike * noise[:, epoch - 1] + np.sqrt(1 - alike**2) * noise[:, epoch]
        curves.append(np.round(VALIDATION * (1 / CLASSES + std * noise)).clip(0, VALIDATION) / VALIDATION)
    return curves


def contrasts_of_curves(curves: list[np.ndarray]) -> list[Contrast]:
    """Return the contrasts of recipes that differ in the number of epochs, each run at the best of them."""
    runs = [run_of(curve, seed) for recipe in curves for seed, curve in enumerate(recipe)]
    return compare(runs, Question("val_accuracy"), Told(), []).contrasts


def run_of(curve: np.ndarray, seed: int) -> FinishedRun:
    """Return a run with these validation accuracies."""
    epochs = [{"epoch": epoch, "val_accuracy": value} for epoch, value in enumerate(curve.tolist(), 1)]
    options, scores = {"epochs": len(curve), "seed": seed}, {"val_accuracy": float(curve.max())}
    return FinishedRun(Path(), "", "", "", [], options, {}, False, epochs, scores, frozenset())


def draw(path: Path, found: dict) -> None:
    """Draw the four rates with what was promised of them."""
    figure = figures.blank_figure(10, 7)
    ((alarms, epochs), (powers, covered)) = figure.subplots(2, 2)
    figures.save_figure(figure, path)


if __name__ == "__main__":
    main()
