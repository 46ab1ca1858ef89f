import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.arrays import ArrayDataset, Split, balanced_subset, split_digest, stratified_folds, stratified_split
from common.data.load import Source
from common.system.errors import BadInput

CLASSES = ["ant", "bee", "cat"]
SEEDS = st.integers(0, 2**31 - 1)
FRACTIONS = st.sampled_from([0.05, 0.1, 0.2, 0.5])


def hash_of(number):
    return (number << 40).to_bytes(8, "little") + bytes(8)


def different_images(*counts):
    """Labels and hashes of so many images of each class, all different."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return labels, [hash_of(index) for index in range(len(labels))]


def split(labels, hashes, fraction=0.1, seed=0):
    return stratified_split(labels, hashes, CLASSES, fraction, seed)


@st.composite
def images_with_copies(draw):
    """Labels and hashes of images, many of them copies, some of these under another label."""
    own = list(range(6))  # two pictures of each class that no other class has, so that there is a split
    others = draw(st.lists(st.integers(0, 40), max_size=60))
    labels = [number % 3 if number < 6 or draw(st.booleans()) else draw(st.integers(0, 2)) for number in own + others]
    return labels, [hash_of(number) for number in own + others]


@given(st.lists(st.integers(2, 60), min_size=3, max_size=3), FRACTIONS, SEEDS)
@settings(deadline=None)
def test_every_class_gives_its_share(counts, fraction, seed):
    labels, hashes = different_images(*counts)
    rest, aside = split(labels, hashes, fraction, seed)
    given_by = Counter(labels[index] for index in aside)
    for label, count in enumerate(counts):
        assert given_by[label] == min(max(1, round(fraction * count)), count - 1)
    assert sorted(rest + aside) == list(range(len(labels)))
    assert rest == sorted(rest) and aside == sorted(aside)


@given(images_with_copies(), FRACTIONS, SEEDS)
@settings(deadline=None)
def test_sides_are_disjoint_complete_and_share_no_picture(images, fraction, seed):
    labels, hashes = images
    rest, aside = split(labels, hashes, fraction, seed)
    assert sorted(rest + aside) == list(range(len(labels)))
    assert not {hashes[index] for index in rest} & {hashes[index] for index in aside}
    assert {labels[index] for index in rest} == {0, 1, 2}


@given(images_with_copies(), FRACTIONS, SEEDS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_the_images_changes_nothing(images, fraction, seed, random):
    labels, hashes = images
    _, aside = split(labels, hashes, fraction, seed)
    order = list(range(len(labels)))
    random.shuffle(order)
    _, aside_of_shuffled = split([labels[i] for i in order], [hashes[i] for i in order], fraction, seed)
    assert sorted(order[index] for index in aside_of_shuffled) == aside


def test_copies_stay_together_even_under_different_labels():
    labels, hashes = different_images(30, 30, 30)
    sides = set()
    for copy in range(30):
        planted = [*labels, 0, 1, 2]
        rest, aside = split(planted, [*hashes, *[hashes[copy]] * 3], 0.3)
        together = {copy, 90, 91, 92}
        assert together <= set(rest) or together <= set(aside)
        sides.add(copy in aside)
    assert sides == {True, False}  # else nothing was tried


def test_copies_count_as_images_not_as_one():
    labels, hashes = different_images(50, 50, 50)
    rest, aside = split([*labels, *labels], [*hashes, *hashes], 0.1)
    assert Counter(labels[index % 150] for index in aside) == {0: 10, 1: 10, 2: 10}


def test_seeds_set_different_images_aside():
    labels, hashes = different_images(40, 40, 40)
    sides = [split(labels, hashes, 0.2, seed)[1] for seed in range(10)]
    assert all(one != other for one, other in itertools.combinations(sides, 2))
    assert sides[0] == split(labels, hashes, 0.2, 0)[1]
    # Every image has its turn: 24 of 120 in each of 200 seeds.
    turns = Counter(index for seed in range(200) for index in split(labels, hashes, 0.2, seed)[1])
    assert len(turns) == 120 and 12 < min(turns.values()) and max(turns.values()) < 75


@pytest.fixture(scope="module")
def scans():
    [undivided] = Source(["digits"]).read(32)
    return undivided


def test_the_split_seed_alone_chooses_the_validation_images(scans):
    def digits(**options):
        data = scans.divide(Source(["digits"], **options), 0.1)
        return [set(split.hashes) for split in data.splits.values()]

    before = digits()
    assert digits(seed=1) == before
    train, val, test = digits(split_seed=1)
    assert digits(seed=1, limit=99)[0] != digits(seed=2, limit=99)[0]  # of those that are not set aside
    assert val != before[1] and train | val == before[0] | before[1] and test == before[2]


@given(images_with_copies(), st.integers(2, 4), SEEDS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_each_image_is_in_one_fold_with_its_copies_wherever_its_file_is(images, count, seed, random):
    labels, hashes = images
    labels, hashes = [0, 0, 1, 1, 2, 2, *labels], [*map(hash_of, range(100, 106)), *hashes]  # four of each class
    order = list(range(len(labels)))
    random.shuffle(order)
    folds = stratified_folds(labels, hashes, CLASSES, count, seed)
    assert sorted(itertools.chain(*folds)) == sorted(order) and len(folds) == count
    for one, other in itertools.combinations(folds, 2):
        assert not {hashes[index] for index in one} & {hashes[index] for index in other}
    again = stratified_folds([labels[i] for i in order], [hashes[i] for i in order], CLASSES, count, seed)
    assert [sorted(order[index] for index in fold) for fold in again] == folds


@given(st.lists(st.integers(5, 60), min_size=3, max_size=3), st.integers(2, 5), SEEDS)
@settings(deadline=None)
def test_folds_are_as_equal_as_the_classes_allow(counts, count, seed):
    labels, hashes = different_images(*counts)
    folds = stratified_folds(labels, hashes, CLASSES, count, seed)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for label, images in enumerate(counts):
        sizes = [sum(labels[index] == label for index in fold) for fold in folds]
        assert max(sizes) - min(sizes) <= 1 and sum(sizes) == images
    if count > 2:
        assert folds != stratified_folds(labels, hashes, CLASSES, count, seed + 1)


def test_a_class_with_fewer_images_than_folds_is_named():
    with pytest.raises(BadInput, match="--folds 4: class 'bee' has 3 different"):
        stratified_folds(*different_images(9, 3, 9), CLASSES, 4, 0)


def test_the_folds_of_a_set_take_turns_and_leave_its_test_alone(scans):
    parts = scans.divide_for_each([vars(Source(["digits"], folds=f"{number}/3")) for number in (1, 2, 3)], 0.1)
    everything = sorted(itertools.chain(*(part.val.hashes for part in parts)))
    for part in parts:
        assert sorted(part.train.hashes + part.val.hashes) == everything
        assert not set(part.train.hashes) & set(part.val.hashes) and part.test.hashes == parts[0].test.hashes
    other = scans.divide(Source(["digits"], folds="1/3", split_seed=1, seed=5), 0.1)
    same = scans.divide(Source(["digits"], folds="1/3", seed=5), 0.1)
    assert (same.digest == parts[0].digest) and other.digest != parts[0].digest


def test_an_added_image_moves_few_others():
    labels, hashes = different_images(100, 100, 100)
    _, before = split(labels, hashes, 0.1)
    _, after = split([*labels, 0], [*hashes, hash_of(10**6)], 0.1)
    assert len(set(before) ^ set(after)) <= 2


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ([0, 0, 1, 2, 2], [0, 1, 2, 3, 4]),  # one image
        ([0, 0, 1, 1, 1, 2, 2], [0, 1, 5, 5, 5, 3, 4]),  # copies of one image
        ([0, 0, 1, 1, 1, 2, 2], [0, 1, 0, 1, 2, 3, 4]),  # all but one are another class's
        ([0, 0, 2, 2], [0, 1, 2, 3]),  # none
    ],
)
def test_a_class_without_two_images_of_its_own_is_named(labels, numbers):
    with pytest.raises(BadInput, match="'bee'") as error:
        split(labels, [hash_of(number) for number in numbers])
    assert f"{labels.count(1)} image" in str(error.value)


def test_two_images_of_each_class_are_enough_even_for_a_large_fraction():
    for fraction in (0.01, 0.5, 0.99):
        rest, aside = split(*different_images(2, 2, 2), fraction)
        assert len(rest) == len(aside) == 3


@given(st.lists(st.integers(1, 30), min_size=3, max_size=3), st.integers(3, 100))
@settings(deadline=None)
def test_subset_is_as_balanced_as_the_classes_allow(counts, limit):
    labels, hashes = different_images(*counts)
    chosen = balanced_subset(labels, hashes, CLASSES, limit)
    assert len(chosen) == len(set(chosen)) == min(limit, len(labels))
    assert chosen == sorted(chosen)
    taken = Counter(labels[index] for index in chosen)
    most = max(taken.values())
    assert all(taken[label] in (count, most, most - 1) and taken[label] <= count for label, count in enumerate(counts))


@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_subset_does_not_depend_on_the_order_of_the_images(random):
    labels, hashes = different_images(20, 5, 11)
    chosen = {hashes[index] for index in balanced_subset(labels, hashes, CLASSES, 17)}
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled_hashes = [hashes[i] for i in order]
    again = balanced_subset([labels[i] for i in order], shuffled_hashes, CLASSES, 17)
    assert {shuffled_hashes[index] for index in again} == chosen


def test_a_smaller_subset_is_part_of_a_larger_one():
    labels, hashes = different_images(20, 20, 20)
    subsets = [set(balanced_subset(labels, hashes, CLASSES, limit)) for limit in (3, 10, 30, 60)]
    assert all(small < large for small, large in itertools.pairwise(subsets))


def test_seeds_draw_different_subsets():
    images = different_images(100, 100, 100)
    subsets = [set(balanced_subset(*images, CLASSES, 60, seed)) for seed in range(30)]
    common = [len(one & other) for one, other in itertools.combinations(subsets, 2)]
    assert 9 < sum(common) / len(common) < 15  # 12 by chance
    turns = Counter(index for subset in subsets for index in subset)  # 6 each
    assert len(turns) > 290 and max(turns.values()) < 20


def test_a_subset_is_drawn_independently_of_the_split():
    """With one seed for both, the images that were not quite set aside would not come first."""
    labels, hashes = different_images(1000, 1000, 1000)
    subset, (_, aside) = set(balanced_subset(labels, hashes, CLASSES, 300, 5)), split(labels, hashes, 0.1, 5)
    assert 15 < len(subset & set(aside)) < 50  # 30 by chance


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_below_the_number_of_classes_is_refused(limit):
    with pytest.raises(BadInput, match=f"--limit {limit}: 3 classes need"):
        balanced_subset(*different_images(5, 5, 5), CLASSES, limit)


@given(images_with_copies(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_keys_and_order_of_images_do_not_depend_on_where_they_are(images, random):
    labels, hashes = images
    order = list(range(len(labels)))
    random.shuffle(order)
    found = []
    for places in (range(len(labels)), order):
        dataset = ArrayDataset(torch.zeros(len(labels), 1, 1, 3), [labels[i] for i in places], CLASSES, [])
        part = Split(dataset, torch.arange(len(labels)), [hashes[i] for i in places]).by_image()
        assert [hashes[places[index]] for index in part.indices.tolist()] == part.hashes
        found.append((part.hashes, part.labels, part.keys[part.indices].tolist()))
    assert found[0] == found[1]
    assert len(set(found[0][2])) == len(labels)  # copies, too, have keys of their own


TRAIN, TEST = ([0, 1, 2], [hash_of(1), hash_of(2), hash_of(3)]), ([1, 0], [hash_of(4), hash_of(5)])


def test_digest_does_not_depend_on_any_order():
    backwards = tuple(values[::-1] for values in TRAIN)
    digest = split_digest(train=TRAIN, test=TEST)
    assert split_digest(test=TEST, train=backwards) == digest
    assert len(digest) == 64 and int(digest, 16)


@pytest.mark.parametrize(
    "sides",
    [
        {"train": TEST, "test": TRAIN},
        {"train": TRAIN, "val": TEST},
        {"train": TRAIN},
        {"train": TRAIN, "test": TEST, "val": ([], [])},
        {"train": ([0, 2, 1], TRAIN[1]), "test": TEST},
        {"train": (TRAIN[0], [hash_of(1), hash_of(2), hash_of(6)]), "test": TEST},
        {"train": ([*TRAIN[0], 2], [*TRAIN[1], hash_of(3)]), "test": TEST},
        {"train": ([0, 1], TRAIN[1][:2]), "test": ([1, 0, 2], [*TEST[1], hash_of(3)])},
    ],
)
def test_digest_tells_what_differs(sides):
    assert split_digest(**sides) != split_digest(train=TRAIN, test=TEST)
