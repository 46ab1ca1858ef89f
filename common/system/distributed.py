"""Several processes that train one network together, as `torchrun` starts them: each takes its share of every batch."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.system.errors import BadInput
from common.system.log import info

RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells its processes, beside their number
JOINING = timedelta(minutes=2)  # within which all processes must have started
TIMEOUT = timedelta(minutes=30)  # one process may decode, test or draw for so long while the others wait


@dataclass(frozen=True)
class Processes:
    """All processes of a run; on its own, a process is the first and only one."""

    rank: int = 0  # of this process
    world_size: int = 1  # of all
    local_rank: int = 0  # of this process among those on its machine

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def shard(self, samples: torch.Tensor) -> torch.Tensor:
        """Return this process's part of `samples` (N,): neighbors, and as many as the others have, or one more."""
        return samples if self.world_size == 1 else samples.tensor_split(self.world_size)[self.rank]

    def all_reduce(self, tensors: list[torch.Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes, in one message."""
        if self.world_size == 1:
            return
        message = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(message)
        parts = message.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def together(self, forward: Callable, trained: list[nn.Parameter]) -> Callable:
        """Return `forward`, but with more than one process so that `backward()` makes the gradients of the parameters
        `trained` their means over all processes, and sends the first of them while it computes the others.
        """
        if self.world_size == 1:
            return forward
        network = DistributedDataParallel(_Trained(forward, trained), gradient_as_bucket_view=True)
        # The first backward pass settles which gradients are sent in one message, and where in it. With three processes
        # the order of their sums depends on that, and so the last bits of a run that is resumed within an epoch. So
        # this pass is one over the parameters alone. (find_unused_parameters keeps the order, too, but warns of itself,
        # and goes through the whole graph at every step.)
        (0 * network(None)).backward()
        for parameter in trained:
            parameter.grad = None
        return network

    def average_statistics(self, model: nn.Module) -> None:
        """Replace running statistics by their means over all processes."""
        statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self.world_size > 1 and statistics:
            self.all_reduce(statistics)
            torch._foreach_div_(statistics, self.world_size)

    def gather(self, value) -> list:
        """Return what every process has given, in the order of their numbers."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, function: Callable):
        """Return in all processes what `function()` returns, or raise what it raises, in the first."""
        if self.world_size == 1:
            return function()
        message = [None, None]
        if self.is_main:
            try:
                message[0] = function()
            except Exception as error:
                message[1] = error
        dist.broadcast_object_list(message)
        if message[1] is not None:
            raise message[1]
        return message[0]


def started_by_torchrun() -> bool:
    """Tell whether this process is one of several: a number of them alone may be left of another job in this shell."""
    return _number("WORLD_SIZE") > 1 and set(RENDEZVOUS) <= os.environ.keys()


def is_restarted() -> bool:
    """Tell whether torchrun has started the processes again because one has ended (its `--max-restarts`)."""
    return started_by_torchrun() and _number("TORCHELASTIC_RESTART_COUNT", 0) > 0


def processes_here() -> int:
    """Return the number of processes of this run on this machine."""
    return _number("LOCAL_WORLD_SIZE") if started_by_torchrun() else 1


def usable_cores() -> int:
    """Return the number of CPU cores that are this process's: its part of those that its job may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes_here())


def _number(name: str, default: int = 1) -> int:
    """Return what the environment says a number is."""
    number = os.environ.get(name, "")
    return int(number) if number.isdecimal() else default


def is_first_here() -> bool:
    """Tell whether this is the process that does on its machine what one alone should do, such as a download."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextlib.contextmanager
def local_main_first() -> Iterator[None]:
    """Let one process on each machine do what is in the block before the others do it."""
    if dist.is_initialized() and not is_first_here():
        dist.barrier()
    yield
    if dist.is_initialized() and is_first_here():
        dist.barrier()


def join(device: str) -> Processes:
    """Meet the other processes, if there are any, and return all of them; `device` is "cpu" or "cuda".

    BadInput is raised if some do not come, or if there are others that nothing is known of.
    """
    if not started_by_torchrun():
        if _number("WORLD_SIZE") > 1:
            missing = f"but {', '.join(RENDEZVOUS)} are not all set"
            info(f"note: WORLD_SIZE is {_number('WORLD_SIZE')}, {missing}: working alone")
        if _number("SLURM_STEP_NUM_TASKS") > 1:
            raise BadInput(
                f"srun has started this {_number('SLURM_STEP_NUM_TASKS')} times, and they would all do the same; let "
                "torchrun start them: srun --ntasks-per-node=1 torchrun --nproc_per_node=N SCRIPT OPTIONS"
            )
        return Processes()
    if not dist.is_initialized():
        try:
            store, rank, world_size = next(dist.rendezvous("env://", timeout=JOINING))
            # torchrun keeps its store when it restarts the processes, and with it where the old ones could be found.
            store = dist.PrefixStore(f"start {_number('TORCHELASTIC_RESTART_COUNT', 0)}", store)
            store.set(f"joined/{rank}", "")
            store.wait([f"joined/{one}" for one in range(world_size)], JOINING)
        except dist.DistError as error:
            all_of_them, minutes = os.environ["WORLD_SIZE"], JOINING.total_seconds() / 60
            waited = f"not all {all_of_them} processes have started within {minutes:g} minutes"
            raise BadInput(f"{waited}; see what the others said") from error
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
    return Processes(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def leave() -> None:
    """Split from the other processes, at the end."""
    if dist.is_initialized():
        dist.destroy_process_group()


class _Trained(nn.Module):
    """What PyTorch is told of a network: how it runs, and its parameters that are trained.

    Of its buffers it is not told, as it would send them at every step: running statistics are averaged once an epoch.
    """

    def __init__(self, run: Callable, parameters: list[nn.Parameter]):
        super().__init__()
        self.trained = nn.ParameterList(parameters)
        self.run = lambda inputs: run(inputs)  # a module would be found, with its buffers

    def forward(self, inputs: torch.Tensor | None) -> torch.Tensor:
        """Return what the network makes of `inputs`; of None a number that depends on every parameter, last first."""
        return sum(parameter.sum() for parameter in self.trained) if inputs is None else self.run(inputs)


def sending(network: Callable, is_last: bool) -> contextlib.AbstractContextManager:
    """Return the context for a forward pass of what `together` returned: only if it is the last one of a step are the
    gradients sent, with those that have been added up before.
    """
    is_alone = not isinstance(network, DistributedDataParallel)
    return contextlib.nullcontext() if is_last or is_alone else network.no_sync()


class SumOverProcesses(torch.autograd.Function):
    """The sum over all processes of a tensor. Its derivative is the sum over processes of the derivatives."""

    @staticmethod
    def forward(context, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> torch.Tensor:
        return SumOverProcesses.apply(gradient)
