"""Dropout by hashes is `nn.Dropout` in distribution, and draws the same whatever divides the work."""

import copy

import numpy as np
import pytest
import torch
from helpers import part
from scipy.stats import binomtest, chisquare
from torch import nn

from common.data.batches import Batches
from common.models.dropout import CHUNK, Dropout, hash_dropouts, set_draws
from common.system.device import Machine
from common.system.distributed import Processes
from common.transforms.random_streams import Draws


def hashed(p, *shape, seed=0, epoch=1, first=0, layers=1):
    """Return what dropouts make of ones of `shape`, of images whose places begin with `first`."""
    model = nn.ModuleList(nn.Dropout(p) for _ in range(layers))
    dropouts = hash_dropouts(model)
    set_draws(dropouts, Draws(seed, epoch, torch.arange(first, first + shape[0]), "dropout"))
    ones = torch.ones(shape)
    if len(shape) == 4:
        ones = ones.contiguous(memory_format=torch.channels_last)
    return [layer(ones) for layer in model]


@pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("shape", [(64, 5000), (8, 32, 30, 40)])
def test_so_many_are_dropped_and_the_others_make_up_for_them(p, shape):
    [out] = hashed(p, *shape)
    dropped = int((out == 0).sum())
    assert binomtest(dropped, out.numel(), p).pvalue > 1e-6
    assert torch.equal(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - p)))


def test_numbers_are_independent_of_their_neighbors_layers_images_and_epochs():
    first, second = (layer == 0 for layer in hashed(0.5, 400, 500, layers=2))
    other = hashed(0.5, 400, 500, epoch=2)[0] == 0
    pairs = {"neighbor": (first[:, 1:], first[:, :-1]), "fourth neighbor": (first[:, 4:], first[:, :-4]),
             "image": (first[1:], first[:-1]), "layer": (first, second), "epoch": (first, other)}  # fmt: skip
    for name, (one, two) in pairs.items():
        counts = torch.bincount((2 * one.int() + two.int()).flatten(), minlength=4)
        assert chisquare(counts).pvalue > 1e-4, name


def test_shares_of_images_have_the_binomial_spread():
    dropped = (hashed(0.3, 5000, 100)[0] == 0).sum(1).double()
    assert abs(dropped.var().item() - 100 * 0.3 * 0.7) < 4 * 21 * np.sqrt(2 / 5000)


def test_a_mask_belongs_to_its_image():
    whole = hashed(0.4, 9, 6, 5, 4)[0]
    assert torch.equal(whole[3:7], hashed(0.4, 4, 6, 5, 4, first=3)[0])
    numbers = CHUNK // 2 + 1  # one image at a time
    assert torch.equal(hashed(0.4, 3, numbers)[0][1:], hashed(0.4, 2, numbers, first=1)[0])


def test_threads_draw_the_same():
    threads = torch.get_num_threads()
    outs = []
    for count in (1, 2):
        torch.set_num_threads(count)
        outs.append(hashed(0.4, 16, 20, 40, 40)[0])
    torch.set_num_threads(threads)
    assert torch.equal(*outs)


def test_gradients_pass_where_numbers_did():
    layer = nn.Sequential(nn.Dropout(0.3))
    set_draws(hash_dropouts(layer), Draws(0, 1, torch.arange(4), "dropout"))
    inputs = torch.randn(4, 3, 5, 5, requires_grad=True)
    out = layer(inputs)
    out.sum().backward()
    assert torch.equal(inputs.grad, (out != 0) / 0.7)


def test_it_is_pytorchs_where_nothing_is_drawn_for_it():
    layer = nn.Dropout(0.5)
    twin = copy.deepcopy(layer)
    [dropout] = hash_dropouts(layer)
    assert type(dropout).__name__ == "Dropout" and not dropout.state_dict()
    ones = torch.ones(6, 7)
    for draws in (None, Draws(0, 1, torch.arange(5), "dropout")):  # none; of another batch
        dropout.draws = draws
        torch.manual_seed(3)
        out = dropout(ones)
        torch.manual_seed(3)
        assert torch.equal(out, twin(ones))
    set_draws([dropout], Draws(0, 1, torch.arange(6), "dropout"))
    assert torch.equal(dropout.eval()(ones), ones)
    for p, expected in ((0.0, ones), (1.0, 0 * ones)):
        [dropout] = hash_dropouts(nn.Dropout(p))
        set_draws([dropout], Draws(0, 1, torch.arange(6), "dropout"))
        assert torch.equal(dropout(ones), expected)


def test_half_precision_keeps_its_type():
    layer = nn.Dropout(0.5)
    set_draws(hash_dropouts(layer), Draws(0, 1, torch.arange(4), "dropout"))
    assert layer(torch.ones(4, 9, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("count", [1, 2, 3])
def test_places_of_all_processes_are_those_of_one(count):
    shares = []
    for rank in range(count):
        machine = Machine(torch.device("cpu"), None, Processes(rank, count))
        batches = Batches(part(images=25), None, 8, machine, seed=0, training=True)
        shares.append(batches.places(1))
        assert [len(places) for places in shares[-1]] == [len(indices) for indices in batches.order(1)]
    assert torch.cat([torch.cat(of_batch) for of_batch in zip(*shares, strict=True)]).tolist() == list(range(
        batches.images_in(1)))  # fmt: skip


def test_on_other_devices_it_is_left_alone():
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Dropout())
    assert hash_dropouts(model) == [] and type(model[1]) is nn.Dropout


def test_a_type_of_its_own_is_left_alone():
    class Mine(nn.Dropout):
        pass

    assert hash_dropouts(nn.Sequential(Mine(), nn.Dropout2d())) == []
    assert Dropout.__mro__[1] is nn.Dropout
