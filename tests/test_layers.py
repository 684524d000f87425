"""The layers of the networks: biases that a normalization subtracts, normalization and doubling in two ways."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsquid.model.layers import Block, Layers, instance_norm_by_moments, upsample, upsample_by_taps


def plain(layers):
    """The same layers, each of which runs as it is, bias included."""
    return nn.Sequential(*copy.deepcopy(layers)).requires_grad_(True)


def some_layers(norm):
    """Two convolutions that a normalization `norm(C)` follows, and one that none follows, with large biases."""
    layers = Layers(
        *(nn.Conv2d(2, 3, 3, 2, padding=1), norm(3), nn.ReLU()),
        *(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect", dilation=1), norm(4), nn.ReLU()),
        nn.Conv2d(4, 2, 1),
    ).double()
    with torch.no_grad():
        for i in (0, 3, 6):
            layers[i].bias.normal_(0, 5)
    return layers


def batch_norm(channels):
    return nn.BatchNorm2d(channels, momentum=0.3)


def instance_norm(channels):
    return nn.InstanceNorm2d(channels, affine=True)


@pytest.mark.parametrize("norm", [batch_norm, nn.SyncBatchNorm, instance_norm])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_a_bias_that_is_subtracted_again(norm, train):
    """Outputs, gradients and running statistics are those with the bias. Its gradient, which is 0, is missing."""
    layers = some_layers(norm).train(train)
    expected, buffers = plain(layers).train(train), [t.data_ptr() for t in layers.buffers()]
    for _ in range(2):
        x = torch.randn(4, 2, 6, 5, dtype=torch.float64)
        results = [each(x) for each in (layers, expected)]
        torch.testing.assert_close(*results, rtol=0, atol=1e-13)
    for out in results:
        out.square().sum().backward()
    torch.testing.assert_close(layers.state_dict(), expected.state_dict(), rtol=0, atol=1e-13)
    assert buffers == [t.data_ptr() for t in layers.buffers()]  # a CUDA graph reads them again
    found, theirs = ({name: p.grad for name, p in each.named_parameters()} for each in (layers, expected))
    for name in ("0", "3"):
        assert found.pop(f"{name}.bias") is None
        gradient = theirs.pop(f"{name}.bias")
        if train or norm is instance_norm:
            assert gradient.abs().max() <= 1e-12 * theirs[f"{name}.weight"].abs().max()
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-11)


def test_the_running_mean_of_compiled_layers():
    """torch.compile too adds the bias to it, once per pass, also where two passes come before one backward pass."""
    layers = some_layers(batch_norm)
    expected = plain(layers)
    torch._dynamo.reset()
    compiled = torch.compile(layers, backend="aot_eager")
    for _ in range(3):
        x = torch.randn(2, 4, 2, 6, 5, dtype=torch.float64)
        sum(compiled(each).square().sum() for each in x).backward()
        for each in x:
            expected(each)
    torch._dynamo.reset()
    torch.testing.assert_close(layers.state_dict(), expected.state_dict(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_each_image_by_its_own_statistics(train):
    """BatchNorm's scale and shift with the moments of each image, in any mode; its running statistics stay."""
    layers = some_layers(batch_norm).train(train)
    before = copy.deepcopy(layers.state_dict())
    x = torch.randn(4, 2, 6, 5, dtype=torch.float64)
    one_by_one = torch.cat([plain(layers).train()(image[None]) for image in x])
    torch.testing.assert_close(layers(x, "image"), one_by_one, rtol=0, atol=1e-13)
    torch.testing.assert_close(layers.state_dict(), before, rtol=0, atol=0)


def test_a_normalization_without_a_convolution_or_a_bias():
    """No bias is added to the running mean of another layer."""
    norms = [nn.BatchNorm2d(2) for _ in range(4)]
    layers = Layers(
        *(norms[0], nn.Conv2d(2, 2, 1), norms[1], nn.ReLU(), norms[2], nn.Conv2d(2, 2, 1, bias=False), norms[3])
    ).double()
    expected, x = plain(layers), torch.randn(4, 2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layers(x), expected(x), rtol=0, atol=1e-13)
    torch.testing.assert_close(layers.state_dict(), expected.state_dict(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("norm", [batch_norm, nn.SyncBatchNorm, instance_norm])
def test_which_biases_train(norm):
    layers = Layers(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), norm(2), nn.Conv2d(2, 1, 1))
    assert {name for name, p in layers.named_parameters() if not p.requires_grad} == {"2.bias"}
    untrained = {name for name, p in Block(1, 2).named_parameters() if not p.requires_grad}
    assert untrained == {"conv1.0.bias", "conv2.0.bias", "conv2.3.bias"}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_both_ways_to_normalize_an_image(layout):
    """PyTorch's, and the one that reads channels_last maps as they are."""
    x = (10 + torch.randn(2, 3, 5, 6, dtype=torch.float64)).to(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(2, 3, dtype=torch.float64)
    results = [F.instance_norm(x, weight=weight, bias=bias), instance_norm_by_moments(x, weight, bias, 1e-5)]
    assert results[1].is_contiguous(memory_format=layout)
    gradients = [torch.autograd.grad(out.sin().sum(), x)[0] for out in results]
    torch.testing.assert_close(*results, rtol=0, atol=1e-13)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (5, 6), (8, 8)], ids=str)
def test_both_ways_to_double_a_map(size):
    """PyTorch's, and the one whose backward has no atomics on a GPU."""
    x = torch.randn(2, 3, *size, dtype=torch.float64).requires_grad_()
    theirs, ours = upsample(x), upsample_by_taps(x)
    assert theirs.shape == (2, 3, 2 * size[0], 2 * size[1]) and ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    upstream = torch.randn_like(theirs)
    gradients = [torch.autograd.grad(out, x, upstream)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(upsample_by_taps, x)
