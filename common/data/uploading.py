"""Bringing batches to the device."""

from collections.abc import Sequence

import torch


class Uploader:
    """Copies batches to a device: to a GPU on a stream of its own, while the GPU works on the batches before.

    They must lie in pinned memory then: all other is copied only when the GPU has done all that it was given.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return copies for the work that is given to the device from now on."""
        if self.stream is None:
            return [tensor.to(self.device, non_blocking=True) for tensor in batch]
        with torch.cuda.stream(self.stream):
            copies = [tensor.to(self.device, non_blocking=True) for tensor in batch]
        work = torch.cuda.current_stream(self.device)
        work.wait_stream(self.stream)
        for copy in copies:
            copy.record_stream(work)  # so that their memory is used again only when the work on them is done
        return copies
