"""Images to patches and back: patches row-major, folded into the batch; maps keep their memory layout."""

import torch
from einops import rearrange
from torch import Tensor


def to_patches(x: Tensor, grid: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B * grid^2, C, H / grid, W / grid)."""
    return to_map(x, "b c (gh h) (gw w)", ("(b gh gw)", "c", "h", "w"), layout_of(x), gh=grid, gw=grid)


def to_image(patches: Tensor, grid: int) -> Tensor:
    """Stitch patches (B * grid^2, C, h, w) into images (B, C, grid * h, grid * w): the inverse of `to_patches`."""
    target = ("b", "c", "(gh h)", "(gw w)")
    return to_map(patches, "(b gh gw) c h w", target, layout_of(patches), gh=grid, gw=grid)


def to_map(
    x: Tensor, source: str, target: tuple[str, str, str, str], layout: torch.memory_format, **sizes: int
) -> Tensor:
    """Rearrange a tensor into feature maps (N, C, h, w) of a memory layout, with one copy at most.

    Args:
        x: any tensor.
        source: its axes, as einops writes them.
        target: the axes of N, C, h and w.
        layout: `torch.channels_last`; or `torch.contiguous_format`, where the result may also be a view of x.
        **sizes: of axes.
    """
    n, c, h, w = target
    if layout == torch.channels_last:
        return rearrange(x, f"{source} -> {n} {h} {w} {c}", **sizes).contiguous().permute(0, 3, 1, 2)
    return rearrange(x, f"{source} -> {n} {c} {h} {w}", **sizes)


def layout_of(x: Tensor) -> torch.memory_format:
    """Return the memory layout of feature maps: `torch.channels_last` where they have it and no other."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
