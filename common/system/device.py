"""The machine a run computes on: device, number format, memory layout, and the settings that make it fast."""

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from common.system.distributed import Processes, join, processes_here
from common.system.errors import BadInput
from common.system.log import info
from common.system.memory import available_memory

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """Where and in which number format a run computes."""

    device: torch.device
    autocast_dtype: torch.dtype | None  # that autocast computes in; None for plain float32
    processes: Processes = Processes()  # that share the training
    sync_batch_norm: bool = False  # whether their batch norms work on the whole batch or each on its share

    @property
    def precision(self) -> str:
        """The number format, by its name among PRECISIONS."""
        return next(name for name, dtype in AUTOCAST_DTYPES.items() if dtype is self.autocast_dtype)

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last, as the images come: CUDA would convert weights that lie otherwise at every step.

        MPS, of which this is not known, has its own default for float32.
        """
        is_mps_float32 = self.device.type == "mps" and self.autocast_dtype is None
        return torch.contiguous_format if is_mps_float32 else torch.channels_last

    def autocast(self):
        """Return the context for forward passes; it does nothing in float32, so that there is one path for all."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler that float16 needs; in other formats it does nothing."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype is torch.float16)

    def describe(self) -> dict:
        """Return what config.json says of the machine."""
        cuda = self.device.type == "cuda"
        return {
            "device": self.device.type,
            "device_name": torch.cuda.get_device_name() if cuda else cpu_name(),
            "cpu": f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}",
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "processes": self.processes.world_size,
            "sync_batch_norm": self.sync_batch_norm,
        }

    def random_state(self) -> list[torch.Tensor]:
        """Return the states of PyTorch's random generators."""
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if self.device.type == "cuda" else [])]

    def set_random_state(self, states: list[torch.Tensor]) -> None:
        """Go on with what `random_state` returned on a machine of this kind."""
        torch.set_rng_state(states[0])
        if self.device.type == "cuda" and len(states) > 1:
            torch.cuda.set_rng_state(states[1])

    def peak_memory_mb(self) -> float:
        """Return the most memory used so far: of the GPU if there is one, else of the process."""
        on_gpu = self.device.type == "cuda"
        return round(torch.cuda.max_memory_allocated() / 1e6, 1) if on_gpu else self.process_memory_mb()

    @staticmethod
    def process_memory_mb() -> float:
        """Return the most main memory that the process has used so far."""
        if sys.platform == "win32":
            return round(psutil.Process().memory_info().peak_wset / 1e6, 1)
        with contextlib.suppress(OSError):  # Linux; getrusage would begin with the peak of whoever started the process
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return round(int(line.split()[1]) * 1024 / 1e6, 1)
        import resource  # does not exist on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)

    def free_memory(self) -> float:
        """Return the bytes that are free: of the GPU if there is one, else of the system."""
        return torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else available_memory()

    def reset_peak_memory(self) -> None:
        """Forget the peak so far where that is possible; a process keeps its own."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def fetch(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Callable[[], bool]]:
        """Return a copy of `tensor` in main memory, and what tells if its numbers are there; no GPU is waited for."""
        if self.device.type != "cuda":
            return tensor.cpu(), lambda: True
        copy, event = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True), torch.cuda.Event()
        copy.copy_(tensor, non_blocking=True)
        event.record()
        return copy, event.query

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()


def cpu_name() -> str:
    """Return what the system calls the CPU: its kernels differ from kind to kind, and with them the last bits."""
    with contextlib.suppress(OSError):  # of Linux and macOS, Python knows no more than the architecture
        if sys.platform == "darwin":
            question = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(question, capture_output=True, text=True).stdout.strip() or platform.machine()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def prepare_machine(device: str, precision: str, deterministic: bool, sync_batch_norm: bool = False) -> Machine:
    """Choose the device and the number format, and set what makes them fast or, if asked, repeatable.

    Args:
        device: one of DEVICES; "auto" takes CUDA, then MPS, then the CPU. BadInput is raised if it is not there, or if
            there are fewer GPUs than processes on this machine.
        precision: one of PRECISIONS; "auto" is bf16 on CUDA, fp16 where the GPU has no bf16, and fp32 elsewhere;
            on a CPU `choose_precision` may decide otherwise once the network is known. fp16 on a CPU raises BadInput.
        deterministic: use only algorithms that give the same bits every time; some are slower.
        sync_batch_norm: let the batch norms of several processes work on the whole batch.
    """
    chosen = torch.device(_available(device))
    if precision == "auto":
        precision = "fp32"
        if chosen.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    _check_precision(chosen.type, precision)
    if chosen.type == "cpu":
        _keep_freed_memory()
        _show_numpy_vanishing_numbers()
        torch.set_flush_denormal(True)  # arithmetic on vanishing numbers is many times slower
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call itself imports a compiler: 1 s
        torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if chosen.type == "cuda":
        _check_gpus()
    processes = join(chosen.type)
    if sync_batch_norm and processes.world_size == 1:
        info("note: --sync_bn does nothing in a single process; torchrun starts several")
    if chosen.type == "cuda" and processes.world_size > 1:  # a GPU for each process
        chosen = torch.device("cuda", processes.local_rank)
        torch.cuda.set_device(chosen)
    return Machine(chosen, AUTOCAST_DTYPES[precision], processes, sync_batch_norm)


def _available(device: str) -> str:
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    present = [name for name, found in is_there.items() if found]
    if device not in ("auto", *present):
        there = ", ".join(present)
        raise BadInput(f"--device {device}: PyTorch finds no such device here; there is {there} (or leave it out)")
    return present[0] if device == "auto" else device


def _check_precision(device: str, precision: str) -> None:
    """Refuse what takes 29 times as long as fp32: a product of 512x512 matrices, on an AMD EPYC."""
    if device == "cpu" and precision == "fp16":
        raise BadInput("--precision fp16: a CPU is many times slower at it than at fp32; take auto, bf16 or fp32")


def _show_numpy_vanishing_numbers() -> None:
    """Let NumPy look at its smallest numbers now: older versions look once, and warn if those are zero then."""
    for dtype in (np.float32, np.float64):
        np.finfo(dtype)


def _check_gpus() -> None:
    """Refuse a process that there is no GPU for: two cannot share one, and would find out much later.

    A launcher may also show each process a GPU of its own, and then each is the first.
    """
    processes, gpus = processes_here(), torch.cuda.device_count()
    if processes > gpus and int(os.environ.get("LOCAL_RANK", "0")) >= gpus:
        raise BadInput(
            f"torchrun has started {processes} processes on this machine, and each needs one of its {gpus} GPU(s) for "
            f"itself; start {gpus} (--nproc_per_node), or take --device cpu"
        )


def _keep_freed_memory() -> None:
    """Make the C library keep large freed blocks instead of handing them back to the system.

    A training step frees and allocates the same large blocks again and again. To map and zero their pages anew each
    time would take longer than the arithmetic. glibc on Linux only: others do not give blocks back.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-4, 0)  # M_MMAP_MAX in malloc.h
    libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never
