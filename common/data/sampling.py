"""Epochs that have as many images of each class, however few a class has."""

import torch

from common.transforms.random_streams import GOLDEN, Draws


def balanced(labels: torch.Tensor, keys: torch.Tensor, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (places, keys) of as many images as there are, of each class the same number, give or take one.

    Args:
        labels, keys: int64 (N,) each; `keys` are what is random about each image.

    A large class gives other images in every epoch. All images of a small one are there, equally often, give or take
    one; each repetition has a key of its own, so that it is augmented in its own way.
    """
    chance = torch.argsort(Draws(seed, epoch, keys, "sampling").bits(), stable=True)
    classes = [chance[labels[chance] == label] for label in labels.unique()]
    drawn = [torch.arange(number, len(labels), len(classes)) // len(classes) for number in range(len(classes))]
    places = torch.cat([members[turn % len(members)] for members, turn in zip(classes, drawn, strict=True)])
    repetition = torch.cat([turn // len(members) for members, turn in zip(classes, drawn, strict=True)])
    return places, keys[places] + repetition * GOLDEN
