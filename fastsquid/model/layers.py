"""The layers that the networks are made of."""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class Layers(nn.Sequential):
    """Layers one after the other. In training, a convolution that a normalization follows leaves its bias out.

    The normalization subtracts the bias again, so it changes no output, and its gradient is 0 but for rounding. To add
    it, a GPU would read and write each of these feature maps once more, and to sum its gradient read it once more. So
    the bias is added to BatchNorm's running mean alone, and not trained. The published checkpoints have these biases,
    and BatchNorm needs them in eval mode.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        for layer, following in pairwise(self):
            if isinstance(layer, nn.Conv2d) and isinstance(following, (*BATCH_NORMS, nn.InstanceNorm2d)):
                if layer.bias is not None:
                    layer.bias.requires_grad_(False)

    def forward(self, x: Tensor, norm: Literal["running", "image"] = "running") -> Tensor:
        """Return (N, C', h', w') from x (N, C, h, w).

        Args:
            norm: `running`, BatchNorm as the module's mode has it; `image`, each image by its own mean and variance.
        """
        left_out = None  # the bias of the convolution before
        for layer, following in pairwise((*self, None)):
            batch_norm = isinstance(layer, BATCH_NORMS)
            if isinstance(layer, nn.Conv2d) and _subtracts_mean(following, norm):
                left_out = layer.bias
                x = layer._conv_forward(x, layer.weight, None)
            elif isinstance(layer, nn.InstanceNorm2d) or batch_norm and norm == "image":
                x = instance_norm(x, layer.weight, layer.bias, layer.eps)
            else:
                x = layer(x)
                if batch_norm and layer.training and left_out is not None:
                    # Autograd has kept the tensor, but reads it in eval mode alone: `data` is not watched.
                    layer.running_mean.data.add_(left_out, alpha=layer.momentum)
                left_out = None
        return x


def _subtracts_mean(layer: nn.Module | None, norm: str) -> bool:
    """Return whether a layer subtracts the mean of its input. In eval mode BatchNorm subtracts a running mean."""
    if isinstance(layer, BATCH_NORMS):
        return layer.training or norm == "image"
    return isinstance(layer, nn.InstanceNorm2d)


class Block(nn.Module):
    """Residual block: conv-BN-ReLU, then conv-BN-ReLU-conv-BN added to it, ReLU.

    Args:
        channels_in: C of the input.
        channels: C' of the output.
        stride: of the first convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()

        def conv(c: int, s: int = 1) -> nn.Conv2d:
            return nn.Conv2d(c, channels, 3, stride=s, padding=1)

        self.conv1 = Layers(conv(channels_in, stride), nn.BatchNorm2d(channels), nn.ReLU())
        self.conv2 = Layers(
            conv(channels), nn.BatchNorm2d(channels), nn.ReLU(), conv(channels), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C', h / stride, w / stride) from x (N, C, h, w)."""
        x = self.conv1(x)
        return F.relu(self.conv2(x) + x)


def upsample(x: Tensor) -> Tensor:
    """Double the height and width of feature maps by bilinear interpolation (`align_corners=False`).

    Args:
        x: (N, C, h, w), floating point.

    Returns:
        (N, C, 2 h, 2 w).
    """
    # PyTorch's backward on a GPU adds with atomics, four per cell: slow, and in an order that changes from run to run.
    # On a CPU it does not, and is the faster one there.
    if x.is_cuda and torch.is_grad_enabled():
        return upsample_by_taps(x)
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def upsample_by_taps(x: Tensor) -> Tensor:
    """Compute `upsample` from slices alone: its backward adds in a fixed order, and fuses under torch.compile.

    The result is channels_last.
    """
    # With channels as the last dimension, torch.compile too keeps every intermediate in this layout.
    return _double(_double(x.permute(0, 2, 3, 1), 1), 2).permute(0, 3, 1, 2)


def _double(x: Tensor, dim: int) -> Tensor:
    """Double one dimension by linear interpolation: each output is 3/4 of its nearest input and 1/4 of the next."""
    n = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, n - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, n - 1), x.narrow(dim, n - 1, 1)], dim)
    return torch.stack([torch.lerp(x, before, 0.25), torch.lerp(x, after, 0.25)], dim + 1).flatten(dim, dim + 1)


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize each channel of each image by its own mean and variance.

    Args:
        x: (N, C, h, w).
        weight, bias: (C,), scale and shift after the normalization.
        eps: added to the variance.

    Returns:
        (N, C, h, w).
    """
    # On a GPU, PyTorch's copies channels_last maps to the other layout and back, and takes several times as long.
    # On a CPU it is the faster one. In half precision, as in training, the moments would be rounded.
    if x.is_cuda and x.dtype == weight.dtype:
        return instance_norm_by_moments(x, weight, bias, eps)
    return F.instance_norm(x, weight=weight, bias=bias, eps=eps)


def instance_norm_by_moments(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Compute `instance_norm` from two passes over x, in any memory layout."""
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    scale = weight.view(-1, 1, 1) * torch.rsqrt(variance + eps)
    return torch.addcmul(bias.view(-1, 1, 1) - mean * scale, x, scale)
