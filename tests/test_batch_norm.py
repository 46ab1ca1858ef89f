"""The folded batch norm is `nn.BatchNorm2d`, for any number of channels."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from common.models.batch_norm import BatchNorm2d, fill_registers, share_left, synchronize

sizes = st.integers(1, 9)


def twins(channels, **options):
    """Return the same random layer as float64 original and as folded float32."""
    exact = nn.BatchNorm2d(channels, **options).double()
    if exact.affine:
        nn.init.uniform_(exact.weight, -2, 2)
        nn.init.uniform_(exact.bias, -1, 1)
    folded = nn.BatchNorm2d(channels, **options)
    folded.load_state_dict(exact.state_dict())
    fill_registers(folded)
    return exact, folded


def passed_through(layer, images, grad):
    """Return everything that a training step computes and leaves behind."""
    images = images.to(layer.running_mean.dtype).clone().requires_grad_()
    out = layer(images)
    out.backward(grad.to(out.dtype))
    state = layer.state_dict()
    return {
        "out": out,
        "images.grad": images.grad,
        "weight.grad": layer.weight.grad,
        "bias.grad": layer.bias.grad,
    } | state


@given(n=sizes, channels=st.integers(1, 40), height=sizes, width=sizes, mean=st.floats(-20, 20))
@settings(max_examples=100, deadline=None)
def test_equals_pytorchs(n, channels, height, width, mean):
    assume(n * height * width >= 8)  # fewer values can lie so near each other that the division magnifies rounding
    exact, folded = twins(channels)
    torch.manual_seed(n)
    images = (torch.randn(n, channels, height, width) + mean).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(n, channels, height, width)
    expected, found = passed_through(exact, images, grad), passed_through(folded, images, grad)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].to(value.dtype), value, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("is_trained", [True, False])
def test_what_is_left_of_the_first_averages_is_told(is_trained):
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, momentum=0.25).requires_grad_(is_trained)
    assert share_left(nn.ReLU()) == 0 and share_left(layer) == float(is_trained)
    for _ in range(4):
        layer(torch.zeros(2, 3, 2, 2))
    assert share_left(layer) == pytest.approx(0.75**4 if is_trained else 0)
    if is_trained:  # a variance of 0 moves 1 by just that
        assert layer.running_var.tolist() == pytest.approx([share_left(layer)] * 3)


def test_it_folds_where_registers_are_not_full():
    model = nn.Sequential(nn.BatchNorm2d(12), nn.BatchNorm2d(32), nn.BatchNorm2d(24), nn.BatchNorm1d(12))
    fill_registers(model)
    assert [type(layer) is BatchNorm2d for layer in model] == [True, False, True, False]
    assert [type(layer).__name__ for layer in model][0] == "BatchNorm2d"  # the name that summary.txt shows


def test_evaluation_and_state_are_pytorchs():
    exact, folded = twins(12)
    images = torch.randn(4, 12, 6, 6).contiguous(memory_format=torch.channels_last)
    passed_through(folded, images, torch.randn_like(images))
    plain = nn.BatchNorm2d(12)
    plain.load_state_dict(folded.state_dict())
    assert plain.num_batches_tracked == 1
    assert torch.equal(plain.eval()(images), folded.eval()(images))


def test_what_follows_may_work_in_place():
    exact, folded = twins(12)
    images = torch.randn(4, 12, 6, 6).contiguous(memory_format=torch.channels_last)
    nn.Sequential(folded, nn.ReLU(inplace=True))(images).sum().backward()
    nn.Sequential(exact, nn.ReLU())(images.double()).sum().backward()
    torch.testing.assert_close(folded.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"affine": False}, {"momentum": None}, {"track_running_stats": False}])
def test_variants_without_a_part_still_work(options):
    plain = nn.BatchNorm2d(12, **options)
    folded = nn.BatchNorm2d(12, **options)
    fill_registers(folded)
    images = torch.randn(4, 12, 6, 6).contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain(images), folded(images))


def test_one_value_a_channel_is_refused_as_by_pytorch():
    _, folded = twins(12)
    with pytest.raises(ValueError, match="more than 1 value"):
        folded(torch.randn(1, 12, 1, 1).contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("channels", [12, 16, 24, 48])
def test_bfloat16_is_folded_to_float32_up_to_its_rounding(channels):
    exact, folded = twins(channels)
    torch.manual_seed(0)
    images = torch.randn(16, channels, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(images)
    expected = passed_through(exact, images, grad)
    source = images.clone().requires_grad_()
    out = folded(source)
    out.backward(grad)
    assert out.dtype == source.grad.dtype == torch.bfloat16 and type(folded) is BatchNorm2d
    found = {"out": out, "images.grad": source.grad, "weight.grad": folded.weight.grad, "bias.grad": folded.bias.grad}
    for name, value in (found | folded.state_dict()).items():
        scale = max(1.0, expected[name].abs().max().item())
        assert (value.double() - expected[name].double()).abs().max() < 0.01 * scale, name


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float64, 1e-5)])
def test_a_synchronized_one_of_one_process_is_pytorchs(monkeypatch, dtype, near):
    monkeypatch.setattr("common.models.batch_norm.SumOverProcesses", SimpleNamespace(apply=lambda tensor: tensor))
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    own, original = synchronize(nn.BatchNorm2d(5).to(parameters)), nn.BatchNorm2d(5).to(parameters)
    images = (3 + 2 * torch.randn(4, 5, 6, 6)).to(dtype)
    out, expected = (passed_through(layer, images.to(parameters), images) for layer in (own, original))
    for name in expected:
        torch.testing.assert_close(out[name], expected[name], atol=1e-5, rtol=1e-4)
    found, expected = own(images), original(images)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected.float(), atol=near, rtol=near)
    torch.testing.assert_close(own.running_var, original.running_var, atol=near, rtol=near)
