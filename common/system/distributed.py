"""Several processes that train one network together, as `torchrun` starts them: each takes its share of every batch."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from common.system.log import info

RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells its processes, beside their number
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
        return samples.tensor_split(self.world_size)[self.rank]

    def all_reduce(self, tensors: list[torch.Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes, in one message."""
        if self.world_size == 1:
            return
        message = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(message)
        parts = message.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def average_statistics(self, model: torch.nn.Module) -> None:
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
    return _promised() > 1 and set(RENDEZVOUS) <= os.environ.keys()


def processes_here() -> int:
    """Return how many processes of the run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started_by_torchrun() else 1


def _promised() -> int:
    """Return the number of processes that the environment tells of."""
    number = os.environ.get("WORLD_SIZE", "")
    return int(number) if number.isdecimal() else 1


@contextlib.contextmanager
def local_main_first() -> Iterator[None]:
    """Let one process on each machine do what is in the block, such as a download, before the others do it."""
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    if dist.is_initialized() and not is_first:
        dist.barrier()
    yield
    if dist.is_initialized() and is_first:
        dist.barrier()


def join(device: str) -> Processes:
    """Meet the other processes, if there are any, and return all of them; `device` is "cpu" or "cuda"."""
    if not started_by_torchrun():
        if _promised() > 1:
            info(f"note: WORLD_SIZE is {_promised()}, but {', '.join(RENDEZVOUS)} are not all set: working alone")
        return Processes()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    return Processes(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def leave() -> None:
    """Split from the other processes, at the end."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_peer_failure(error: BaseException) -> bool:
    """Tell whether `error` is how a process learns that another one has gone."""
    texts = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")
    return started_by_torchrun() and isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


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
