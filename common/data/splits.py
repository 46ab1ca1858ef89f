"""Which images train and which validate: stratified, seeded, and copies of one image never on both sides."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from common.system.errors import BadInput


def stratified_split(
    labels: Sequence[int], hashes: Sequence[bytes], classes: Sequence[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Return the sorted indices of (the rest, the `fraction` that was set aside from every class).

    A pure function of the images: the order in which they come changes nothing. Images with the same hash stay
    together, on the side where the class with the smallest label among them puts them.

    Args:
        labels: N class numbers.
        hashes: N digests of the pixels.
        classes: names, for the error message.

    Raises:
        BadInput: a class has no two different images, so that one side would be empty.
    """
    copies = defaultdict(list)
    for index, pixel_hash in enumerate(hashes):
        copies[pixel_hash].append(index)
    groups = defaultdict(list)
    for pixel_hash, indices in copies.items():
        place = hashlib.blake2b(pixel_hash, key=str(seed).encode(), digest_size=16).digest()
        groups[min(labels[index] for index in indices)].append((place, indices))

    counts = Counter(labels)
    rest, aside = [], []
    for label, name in enumerate(classes):
        if len(groups[label]) < 2:
            raise BadInput(
                f"class {name!r} has {counts[label]} image(s) and no two different ones of its own; "
                "training and held-out images need at least one each: add images or remove the class"
            )
        target = max(1, round(fraction * counts[label]))
        taken = 0
        *most, (_, last) = sorted(groups[label])
        for _, indices in most:
            (aside if taken < target else rest).extend(indices)
            taken += len(indices)
        rest.extend(last)  # so that training never ends up with none
    return sorted(rest), sorted(aside)


def balanced_subset(labels: Sequence[int], hashes: Sequence[bytes], classes: Sequence[str], limit: int) -> list[int]:
    """Return the sorted indices of at most `limit` images, of every class as equal a number as there are.

    Raises:
        BadInput: `limit` is smaller than the number of classes.
    """
    if limit < len(classes):
        raise BadInput(f"--limit {limit}: {len(classes)} classes need at least {len(classes)} images")
    of_class = defaultdict(list)
    for index in sorted(range(len(labels)), key=lambda index: hashes[index]):  # whatever order the files are in
        of_class[labels[index]].append(index)
    rounds = sorted((place, label, index) for label, indices in of_class.items() for place, index in enumerate(indices))
    return sorted(index for _, _, index in rounds[:limit])


def split_digest(**sides: tuple[Sequence[int], Sequence[bytes]]) -> str:
    """Return a SHA-256 (hexadecimal) of which images, with which labels, are on which side; order does not matter.

    Each side is (labels, hashes).
    """
    digest = hashlib.sha256()
    for side, (labels, hashes) in sorted(sides.items()):
        digest.update(side.encode())
        for pixel_hash, label in sorted(zip(hashes, labels, strict=True)):
            digest.update(pixel_hash + str(label).encode())
    return digest.hexdigest()
