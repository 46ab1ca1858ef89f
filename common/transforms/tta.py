"""Test-time augmentation: one prediction from several views of an image."""

from collections.abc import Callable

import torch

from common.transforms.basic import CenterCrop, Resize

SHIFT = 1 / 16  # of the side: CIFAR's training crops move by up to an eighth
ENLARGED = 8 / 7  # 256 pixels for 224
MOST_VIEWS = 12


def views(count: int) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Return the first `count` views of inputs (N, C, H, W), each of the same shape.

    In turn: as it is, mirrored, enlarged and its middle cut out, that mirrored, shifted left, right, up and down, and
    these mirrored. ValueError is raised if there are not so many.
    """
    if not 1 <= count <= MOST_VIEWS:
        raise ValueError(f"there are 1 to {MOST_VIEWS} views, not {count}")
    plain = [lambda inputs: inputs, _enlarged, _shifted(0, -1), _shifted(0, 1), _shifted(-1, 0), _shifted(1, 0)]
    return [view for one in plain for view in (one, _mirrored(one))][:count]


def _enlarged(inputs: torch.Tensor) -> torch.Tensor:
    height, width = inputs.shape[-2:]
    return CenterCrop((height, width))(Resize((round(height * ENLARGED), round(width * ENLARGED)))(inputs))


def _mirrored(view: Callable) -> Callable:
    return lambda inputs: view(inputs).flip(-1)


def _shifted(rows: int, columns: int) -> Callable:
    """Return a view that lies so many steps lower and further right; what it uncovers repeats the border."""

    def view(inputs: torch.Tensor) -> torch.Tensor:
        height, width = inputs.shape[-2:]
        down = torch.arange(height, device=inputs.device) - rows * max(1, round(height * SHIFT))
        right = torch.arange(width, device=inputs.device) - columns * max(1, round(width * SHIFT))
        return inputs[:, :, down.clamp(0, height - 1)][:, :, :, right.clamp(0, width - 1)]

    return view
