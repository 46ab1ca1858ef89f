import pytest
import torch
from pretend_gpu import PretendGPU
from torch import nn

from common.models.finetuning import Rescaler
from common.models.pooling import AdaptiveAvgPool2d, GlobalMaxPool2d


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def pooled(layer, images):
    """Return what a layer makes of images, and the gradient of a loss that weights its numbers differently."""
    images = images.clone().requires_grad_()
    result = layer(images)
    (result * torch.linspace(1, 2, result.numel(), dtype=result.dtype).view(result.shape)).sum().backward()
    return result.detach(), images.grad


def images_of(height, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 9, (4, 5, height, width), generator=generator).to(dtype)  # so that some are equal
    return images.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (6, 6), (7, 5), (13, 6)])
def test_means_one_by_one_are_those_of_pytorch(deterministic, height, width):
    ours, theirs = (
        pooled(layer((6, 6)), images_of(height, width)) for layer in (AdaptiveAvgPool2d, nn.AdaptiveAvgPool2d)
    )
    assert all(torch.allclose(one, other, rtol=1e-6) for one, other in zip(ours, theirs, strict=True))
    assert height not in (1, 6) or torch.equal(ours[0], theirs[0])


def test_without_deterministic_means_have_pytorchs_bits():
    ours, theirs = (pooled(layer((6, 6)), images_of(7, 5) / 3) for layer in (AdaptiveAvgPool2d, nn.AdaptiveAvgPool2d))
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_largest_of_all_has_pytorchs_bits(side, dtype):
    images = images_of(side, side, dtype)
    assert all(map(torch.equal, pooled(GlobalMaxPool2d(), images), pooled(nn.AdaptiveMaxPool2d(1), images)))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 3, 1), AdaptiveAvgPool2d((6, 6))),
        nn.Sequential(nn.Conv2d(3, 3, 1), GlobalMaxPool2d()),
        Rescaler(2),
    ],
    ids=["means", "largest", "rescaled"],
)
def test_cuda_can_train_it_deterministically(deterministic, network):
    with PretendGPU():
        network = network.to("cuda")
        network(torch.ones(2, 3, 4, 4, device="cuda")).sum().backward()
        *_, bias = network.parameters()
        assert bias.grad.abs().sum().item() > 0
