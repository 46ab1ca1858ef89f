"""Several processes train through DistributedDataParallel: what one of them sends, and when.

It is alone in its group, and what it sends comes back: to the sums, not to the messages, that makes a difference. What
several come to is the matter of test_processes.py.
"""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from helpers import part
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ex_1
from common.data.batches import Batches
from common.models.finetuning import train_only
from common.optim.recipe import Recipe
from common.runs.saving import AGREED_EVERY
from common.runs.state import TrainState
from common.system.device import Machine
from common.system.distributed import Processes
from common.training.loop import train_one_epoch
from common.training.meter import TOGETHER
from common.transforms.basic import Compose, Normalize

RECIPE = replace(Recipe.of(vars(ex_1.parse_options([]))), epochs=2)
HIDDEN = 1500  # units: the weights in front of them are more than the first bucket of PyTorch holds
LAST = 6 * 28  # gradients that are known last, of the convolution
FIRST = HIDDEN * 6 * 36 + HIDDEN + 4 * HIDDEN + 4
METER = 3 + 1  # the loss of each batch and the sum of correct predictions, after three steps
STATISTICS = 2 * 6  # of the batch norm


class Watching(TorchDispatchMode):
    """Notes in their order messages between processes, as (what, how many numbers), and "conv" for its backward."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        space, _, name = func._schema.name.partition("::")
        if space == "c10d":
            self.seen.append((name, _count(args[0])))
        elif name == "convolution_backward":
            self.seen.append("conv")
        return func(*args, **(kwargs or {}))


def _count(tensors):
    return tensors.numel() if isinstance(tensors, torch.Tensor) else sum(map(_count, tensors))


@pytest.fixture
def several():
    """A machine on which this process is the first of two."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Machine(torch.device("cpu"), None, Processes(0, 2))
    dist.destroy_process_group()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, HIDDEN),
        nn.Linear(HIDDEN, 4),
    )  # fmt: skip


def prepared(machine, **settings):
    """Return a state and batches for three steps of an epoch, and the recipe."""
    recipe, model = replace(RECIPE, **settings), network()
    normalize = Compose([Normalize((0.5,) * 3, (0.5,) * 3)])
    source = Batches(part(48), normalize, 16 // recipe.accumulate, machine, 0, training=True)
    optimizer, schedule = recipe.build(model.parameters(), source)
    return TrainState.of(model, optimizer, schedule, recipe, machine), source, recipe


def watched_epoch(state, source, recipe, machine):
    """Train for an epoch, and return all messages behind those that prepare the sending."""
    with Watching() as watching:
        train_one_epoch(state, source, 1, machine, recipe)
    last = max(place for place, each in enumerate(watching.seen) if each[0] == "broadcast_")
    return watching.seen[last + 1 :]


def test_gradients_are_sent_while_others_are_computed_and_alike_at_every_step(several):
    """If the first step sent them in another order, so would the first one after a resume within an epoch."""
    seen = watched_epoch(*prepared(several), several)
    sums = [(each if each == "conv" else each[1]) for each in seen]
    assert sums == [FIRST, "conv", LAST] * 3 + [METER, STATISTICS]


def test_all_processes_have_counted_when_one_saves_within_an_epoch():
    assert AGREED_EVERY % TOGETHER == 0  # what is saved is what the first has counted, and that takes a message of all


def test_only_the_last_of_accumulated_batches_sends(several):
    seen = watched_epoch(*prepared(several, accumulate=4), several)
    sums = [(each if each == "conv" else each[1]) for each in seen]
    assert sums == ["conv", "conv", "conv", FIRST, "conv", LAST] * 3 + [4 * 3 + 1, STATISTICS]


@pytest.mark.slow
def test_only_what_is_trained_is_sent_from_epoch_to_epoch(several):
    state, source, recipe = prepared(several)
    names = list(state.model.state_dict())
    for parts, sizes in (([state.model[5]], [4 * HIDDEN + 4]), ([state.model], [FIRST, LAST])):
        train_only(state.model, parts)
        seen = [each for each in watched_epoch(state, source, recipe, several) if each != "conv"]
        assert [size for _, size in seen] == sizes * 3 + [METER, STATISTICS]
    assert list(state.model.state_dict()) == names


def test_what_sent_the_gradients_of_an_epoch_is_gone_after_it(several):
    """Its hooks would send those of the next epochs, too."""
    parameter = nn.Parameter(torch.zeros(3))
    sender = weakref.ref(several.processes.together(lambda inputs: inputs * parameter, [parameter]))
    gc.collect()
    assert sender() is None


def test_gradients_and_random_numbers_are_as_before_once_the_sending_is_prepared(several):
    parameter, before = nn.Parameter(torch.zeros(3)), torch.get_rng_state()
    together = several.processes.together(lambda inputs: inputs * parameter, [parameter])
    assert parameter.grad is None and torch.equal(torch.get_rng_state(), before)
    together(torch.ones(3)).sum().backward()
    assert parameter.grad.tolist() == [1.0] * 3


def test_one_process_runs_the_network_itself():
    model = network()
    assert Processes().together(model, list(model.parameters())) is model
