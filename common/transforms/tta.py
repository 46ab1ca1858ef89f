"""Test-time augmentation: one prediction from several views of an image."""

from collections.abc import Callable

import torch

from common.transforms.basic import CenterCrop, Resize

SHIFT = 1 / 32  # of the side: a pixel of CIFAR's
ENLARGED = 8 / 7  # 256 pixels for 224
MOST_VIEWS = 12


def views(count: int) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Return the first `count` views of inputs (N, C, H, W), each of the same shape.

    In turn, each followed by its mirror image: as it is, shifted a little towards the four corners (the first two as in
    cifar10-airbench), and enlarged with its middle cut out. ValueError is raised if there are not so many.
    """
    if not 1 <= count <= MOST_VIEWS:
        raise ValueError(f"there are 1 to {MOST_VIEWS} views, not {count}")
    shifted = [_shifted(rows, columns) for rows, columns in ((-1, -1), (1, 1), (-1, 1), (1, -1))]
    plain = [lambda inputs: inputs, *shifted, _enlarged]
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
