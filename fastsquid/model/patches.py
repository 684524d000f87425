"""Images to patches and back: patches row-major, folded into the batch."""

from einops import rearrange
from torch import Tensor


def to_patches(x: Tensor, grid: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B * grid^2, C, H / grid, W / grid)."""
    return rearrange(x, "b c (gh h) (gw w) -> (b gh gw) c h w", gh=grid, gw=grid)


def to_image(patches: Tensor, grid: int) -> Tensor:
    """Stitch patches (B * grid^2, C, h, w) into images (B, C, grid * h, grid * w): the inverse of `to_patches`."""
    return rearrange(patches, "(b gh gw) c h w -> b c (gh h) (gw w)", gh=grid, gw=grid)
