import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from common.transforms import random_streams
from common.transforms.random_streams import PURPOSES, Draws, epoch_seed, shuffled

MANY = torch.arange(20_000)
NEVER = 1e-6  # a p-value below this is no bad luck: everything here is seeded, so that nothing fails now and then


def first_two_numbers(seed=0, epoch=1, samples=MANY, purpose="augmentation"):
    draws = Draws(seed, epoch, samples, purpose)
    return draws.uniform(), draws.uniform()


def correlation(x, y):
    return float(np.corrcoef(x.numpy(), y.numpy())[0, 1])


def as_unsigned(bits):
    return bits.numpy().astype(np.uint64)


def test_same_arguments_give_the_same_numbers():
    for one, other in zip(first_two_numbers(7, 3), first_two_numbers(7, 3), strict=True):
        assert torch.equal(one, other)


def test_numbers_of_a_sample_do_not_depend_on_the_batch_it_is_in():
    alone = [tuple(n.item() for n in first_two_numbers(samples=torch.tensor([sample]))) for sample in (3, 800, 41)]
    for batch in ([3, 800, 41], [41, 3, 800], [800, 5, 6, 41, 7, 3, 3]):
        first, second = first_two_numbers(samples=torch.tensor(batch))
        for sample, numbers in zip((3, 800, 41), alone, strict=True):
            place = batch.index(sample)
            assert (first[place].item(), second[place].item()) == numbers


@pytest.mark.parametrize("samples", [MANY[:5], MANY[:5000]], ids=len)
@pytest.mark.parametrize("counts", [(1, 34), (31, 1, 3), (32, 3), (10, 25), (35,)])
def test_numbers_do_not_depend_on_how_many_are_drawn_at_a_time(counts, samples):
    drawn, draws = [], Draws(0, 1, samples)
    for count in counts:
        drawn.append(draws.bits(count))
        draws = draws[:]
    one_by_one = Draws(0, 1, samples)
    expected = torch.stack([one_by_one.bits() for _ in range(35)], dim=1)
    assert torch.equal(torch.cat(drawn, dim=1), expected)


def test_the_order_of_many_images_is_not_paid_for_with_numbers_that_nobody_draws(monkeypatch):
    sizes, honest = [], random_streams._mix
    monkeypatch.setattr(random_streams, "_mix", lambda x: sizes.append(x.numel()) or honest(x))
    shuffled(MANY, 0, 1)
    assert max(sizes) == len(MANY)


def test_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    numbers = Draws(0, 1, MANY).bits()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(Draws(0, 1, MANY).bits(), numbers)


# A second way to compute them, in Python's own integers: no overflow or sign of torch's can hide.
def test_numbers_are_those_of_splitmix64():
    mask = 2**64 - 1

    def mix(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    seed, epoch, sample = 12345, 6, 789
    key = mix((mix((PURPOSES.index("training") * golden + seed) & mask) * golden + epoch) & mask)
    stream = mix((sample * golden + key) & mask)
    draws = Draws(seed, epoch, torch.tensor([sample]), "training")
    for count in (1, 2, 3):
        assert int(as_unsigned(draws.bits())[0]) == mix((stream + count * golden) & mask)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (1, 0), (2**31 - 1, 100_000)])
@pytest.mark.parametrize("purpose", PURPOSES)
def test_numbers_are_uniform_over_the_samples(seed, epoch, purpose):
    for numbers in first_two_numbers(seed, epoch, purpose=purpose):
        assert numbers.dtype == torch.float32
        assert 0 <= numbers.min() and numbers.max() < 1
        assert stats.kstest(numbers.double().numpy(), "uniform").pvalue > NEVER


def test_numbers_of_one_sample_are_uniform_over_its_stream():
    draws = Draws(0, 1, torch.tensor([0, 1]))
    numbers = torch.stack([draws.uniform() for _ in range(5_000)]).double().numpy()
    for stream in numbers.T:
        assert stats.kstest(stream, "uniform").pvalue > NEVER
        assert abs(np.corrcoef(stream[1:], stream[:-1])[0, 1]) < 5 / np.sqrt(len(stream))


@pytest.mark.slow
def test_numbers_of_one_sample_are_uniform_over_epochs_and_over_seeds():
    sample = torch.tensor([17])
    over_epochs = [Draws(0, epoch, sample).uniform().item() for epoch in range(3_000)]
    over_seeds = [Draws(seed, 1, sample).uniform().item() for seed in range(3_000)]
    for numbers in (over_epochs, over_seeds):
        assert stats.kstest(numbers, "uniform").pvalue > NEVER


def test_every_bit_is_set_half_of_the_time():
    bits = as_unsigned(Draws(0, 1, MANY).bits())
    shares = np.array([((bits >> np.uint64(place)) & np.uint64(1)).mean() for place in range(64)])
    assert np.abs(shares - 0.5).max() < 6 * 0.5 / np.sqrt(len(bits))


VARIANTS = {
    "seeds": [{"seed": seed} for seed in (0, 1, 2, 1000)],
    "epochs": [{"epoch": epoch} for epoch in (0, 1, 2, 50)],
    "purposes": [{"purpose": purpose} for purpose in PURPOSES],
    "seed and epoch exchanged": [{"seed": 3, "epoch": 4}, {"seed": 4, "epoch": 3}, {"seed": 7, "epoch": 0}],
    "samples": [{"samples": MANY}, {"samples": MANY + 1}, {"samples": MANY + len(MANY)}],
}


@pytest.mark.parametrize("variants", VARIANTS.values(), ids=VARIANTS)
def test_streams_are_independent_between(variants):
    columns = [numbers for variant in variants for numbers in first_two_numbers(**variant)]
    for one, other in itertools.combinations(columns, 2):
        assert not torch.equal(one, other)
        assert abs(correlation(one, other)) < 5 / np.sqrt(len(MANY))
        squares = torch.bincount((one * 8).long() * 8 + (other * 8).long(), minlength=64)
        assert stats.chisquare(squares.numpy()).pvalue > NEVER


def test_no_two_samples_and_no_two_epochs_share_a_number():
    bits = torch.cat([Draws(seed, epoch, MANY[:10_000]).bits() for seed in range(3) for epoch in range(3)])
    assert len(bits.unique()) == len(bits)


@pytest.mark.parametrize("high", [2, 3, 9, 10, 100])
def test_integers_reach_every_value_equally_often(high):
    numbers = Draws(0, 1, MANY).integers(high)
    counts = torch.bincount(numbers)
    assert numbers.dtype == torch.int64
    assert numbers.min() >= 0 and len(counts) == high
    assert counts.min() > 0
    assert stats.chisquare(counts.numpy()).pvalue > NEVER


def test_integers_of_a_bound_for_each_sample_stay_below_it():
    bounds = MANY % 7 + 1
    numbers = Draws(0, 1, MANY).integers(bounds)
    assert torch.equal(numbers[bounds == 5], Draws(0, 1, MANY[bounds == 5]).integers(5))
    assert 0 <= numbers.min() and (numbers < bounds).all()


def test_several_numbers_at_once_are_those_drawn_one_by_one():
    at_once, one_by_one = Draws(0, 1, MANY), Draws(0, 1, MANY)
    numbers = at_once.uniform(2, 3)
    assert numbers.shape == (len(MANY), 2, 3)
    assert torch.equal(numbers.flatten(1), torch.stack([one_by_one.uniform() for _ in range(6)], dim=1))
    assert torch.equal(at_once.bits(), one_by_one.bits())


def test_some_of_the_streams_go_on_where_all_were():
    draws, places = Draws(0, 1, MANY), torch.tensor([7, 5, 19_000])
    draws.uniform()
    some = draws[places]
    assert torch.equal(some.uniform(), draws.uniform()[places])
    assert torch.equal(some.bits(), draws.bits()[places])
    assert len(draws[:0].uniform(3)) == 0


def test_a_branch_is_independent_and_costs_its_parent_one_number():
    parent, other = Draws(0, 1, MANY), Draws(0, 1, MANY)
    branch = parent.branch()
    inner = branch.uniform(2)
    other.bits()
    outer = parent.uniform(2)
    assert torch.equal(outer, other.uniform(2))
    columns = [*inner.unbind(1), *outer.unbind(1), parent.branch().uniform()]
    for one, other in itertools.combinations(columns, 2):
        assert abs(correlation(one, other)) < 5 / np.sqrt(len(MANY))
    assert torch.equal(inner[:3], Draws(0, 1, MANY[:3]).branch().uniform(2))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_normal_numbers_are_normal_and_independent(count):
    numbers = Draws(0, 1, MANY).normal(count)
    assert numbers.shape == (len(MANY), count) and numbers.dtype == torch.float32
    for column in numbers.unbind(1):
        assert stats.kstest(column.double().numpy(), "norm").pvalue > NEVER
    for one, other in itertools.combinations(numbers.unbind(1), 2):
        assert abs(correlation(one, other)) < 5 / np.sqrt(len(MANY))
        assert abs(correlation(one.abs(), other.abs())) < 5 / np.sqrt(len(MANY))
    assert torch.equal(numbers, Draws(0, 1, MANY).normal(9)[:, :count])


def test_integers_below_one_are_all_zero():
    assert Draws(0, 1, MANY).integers(1).eq(0).all()


@pytest.mark.parametrize("high", [2**20 + 7, 2**31])
def test_large_integers_stay_in_range_and_fill_it(high):
    numbers = Draws(0, 1, MANY).integers(high)
    assert 0 <= numbers.min() < 0.01 * high and 0.99 * high < numbers.max() < high
    assert stats.kstest(numbers.numpy() / high, "uniform").pvalue > NEVER


@pytest.mark.parametrize("samples", [torch.arange(1000), torch.arange(1000) * 3 + 5, torch.tensor([4]), MANY[:0]])
def test_shuffled_is_a_permutation(samples):
    assert torch.equal(shuffled(samples, 0, 1).sort().values, samples)


def test_shuffled_differs_between_epochs_and_seeds_and_repeats_itself():
    orders = [shuffled(MANY, seed, epoch).tolist() for seed in (0, 1) for epoch in (1, 2, 3)]
    assert all(one != other for one, other in itertools.combinations(orders, 2))
    assert shuffled(MANY, 0, 1).tolist() == orders[0]


@pytest.mark.slow
def test_every_place_of_the_order_is_equally_likely():
    samples = torch.arange(8)
    places = torch.zeros(8, 8)
    for epoch in range(4_000):
        places[torch.arange(8), shuffled(samples, 0, epoch)] += 1
    assert stats.chisquare(places.numpy().ravel()).pvalue > NEVER


def test_order_of_two_samples_depends_on_nothing_but_these_two():
    everybody = shuffled(torch.arange(200), 5, 2)
    few = torch.tensor([190, 3, 77, 12, 150])
    assert shuffled(few, 5, 2).tolist() == [sample for sample in everybody.tolist() if sample in few]
    assert shuffled(few.flip(0), 5, 2).tolist() == shuffled(few, 5, 2).tolist()


def test_order_and_augmentation_are_independent():
    ranks = torch.empty(len(MANY))
    ranks[shuffled(MANY, 0, 1)] = MANY.float()
    assert abs(correlation(ranks, first_two_numbers(0, 1)[0])) < 5 / np.sqrt(len(MANY))


def test_epoch_seeds_are_repeatable_distinct_and_what_manual_seed_takes():
    seeds = [epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [epoch_seed(seed, epoch) for seed in range(20) for epoch in range(20)]
    assert all(isinstance(seed, int) and 0 <= seed < 2**63 for seed in seeds)
