"""What is taken of the machine: memory, and of a GPU its utilization and power."""

import threading

import torch

from common.system.device import Machine

INTERVAL = 0.5  # seconds between two looks at a GPU; NVIDIA's library averages over about as much


class ResourceMonitor:
    """Looks at a GPU from time to time while the block runs, without waiting for it.

    Utilization and power need the package nvidia-ml-py; without it, and on other devices, they are None.
    """

    def __init__(self, machine: Machine):
        self._machine, self._samples = machine, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ResourceMonitor":
        if self._machine.device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def record(self) -> dict:
        """Return the entries of an epoch's record: megabytes, percent and watts."""
        utilization, power = zip(*self._samples, strict=True) if self._samples else ((), ())
        return {
            "process_memory_mb": self._machine.process_memory_mb(),
            "gpu_utilization": sum(utilization) / len(utilization) if utilization else None,
            "gpu_power_w": sum(power) / len(power) / 1000 if power else None,
        }

    def _watch(self) -> None:
        try:
            while not self._stop.wait(INTERVAL):
                self._samples.append((torch.cuda.utilization(), torch.cuda.power_draw()))
        except Exception:  # no library, no permission, a GPU that does not tell: that is no reason to stop a run
            return
