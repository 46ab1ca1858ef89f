"""How many of the near-duplicates that people have found in CIFAR-10 does the look for copies find?

    python benchmarks/copies.py --data cifar10-jpeg --list duplicates_cifar10.csv --labels labels.npz

The list is that of Barz and Denzler ("Do We Train on Test Data? Purging CIFAR of Near-Duplicates", 2020), from the
folder meta/ of https://github.com/cvjena/cifair. It counts images in the order of the original files. `--data` are
class folders whose files are in that order within each class; `--labels` has the arrays `train` (50,000) and `test`
(10,000) of the original labels, in their order.
"""

import argparse
import csv
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.data.arrays import Split
from common.data.folders import load_folder
from common.evaluation.metrics import wilson_interval
from common.exploring.copies import NEAR, all_exact_copies, all_near_copies, pairs_of_splits, small_pictures

JUDGMENTS = {0: "exact duplicate", 1: "near-duplicate", 2: "very similar"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train/ and test/")
    parser.add_argument("--list", required=True, help="CSV file with TestID, TrainID, Judgment")
    parser.add_argument("--labels", required=True, help="NPZ file with the original labels")
    parser.add_argument("--full", action="store_true", help="compare inside train and test, too: for the time")
    options = parser.parse_args()
    with np.load(options.labels) as labels:
        splits = {name: in_original_order(options.data, name, labels[name]) for name in ("train", "test")}
    started = time.process_time()
    copies = look(splits, pairs_of_splits(splits) if options.full else [("train", "test")])
    print(f"looked for in {time.process_time() - started:.0f} s of one thread's time")
    report({copy.indices for copy in copies if copy.splits == ("train", "test")}, read_list(options.list), splits)


def in_original_order(folder: str, name: str, labels: np.ndarray) -> Split:
    """Return a split whose images are in the order of `labels`, of class folders with those of each class in order."""
    splits, _ = load_folder(folder, 32, 1, "crop", False, None)
    split = splits[name]
    ranked = torch.from_numpy(np.argsort(labels, kind="stable"))  # where the first image of class 0 is, the second, …
    if sorted(split.labels) != sorted(labels.tolist()):
        sys.exit(f"{name}: the folders have other numbers of images than the labels")
    by_name = sorted(
        range(len(split)), key=lambda place: (split.labels[place], split.dataset.ids[split.indices[place]])
    )
    place_of = torch.empty_like(ranked)
    place_of[ranked] = torch.tensor(by_name)
    return split.subset(place_of.tolist())


def look(splits: dict[str, Split], pairs: list[tuple[str, str]]) -> list:
    """Return exact and near copies."""
    pictures = {
        name: torch.cat([small_pictures(images) for images, _ in split.blocks()]) for name, split in splits.items()
    }
    return all_exact_copies(splits) + all_near_copies(splits, pictures, NEAR, pairs)


def read_list(path: str) -> dict[tuple[int, int], int]:
    """Return the judgment of each (test, train) pair."""
    with open(path, newline="") as file:
        return {(int(row["TestID"]), int(row["TrainID"])): int(row["Judgment"]) for row in csv.DictReader(file)}


def report(found: set[tuple[int, int]], listed: dict[tuple[int, int], int], splits: dict[str, Split]) -> None:
    """Print which share of the listed test images were found, and how many were that the list lacks."""
    original = {
        name: {int(index): place for place, index in enumerate(split.indices)} for name, split in splits.items()
    }
    partner = {original["test"][test]: original["train"][train] for train, test in found}
    for judgment, count in sorted(Counter(listed.values()).items()):
        of_it = [(test, train) for (test, train), judged in listed.items() if judged == judgment]
        hits, same = sum(test in partner for test, _ in of_it), sum(partner.get(test) == train for test, train in of_it)
        low, high = wilson_interval(hits, count)
        print(f"{JUDGMENTS[judgment]}: {hits} of {count} found, {hits / count:.1%} ({low:.1%} to {high:.1%}), "
              f"{same} with the same training image")  # fmt: skip
    known = {test for test, _ in listed}
    print(f"{len(partner)} test images found, {len(partner.keys() - known)} of them not in the list")


if __name__ == "__main__":
    main()
