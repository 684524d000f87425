"""Images to patches and back: patches row-major, folded into the batch."""

from einops import rearrange


def to_patches(x, grid):
    """(B, C, H, W) -> (B * grid^2, C, H / grid, W / grid)."""
    return rearrange(x, "b c (gh h) (gw w) -> (b gh gw) c h w", gh=grid, gw=grid)


def to_image(patches, grid):
    """The inverse of `to_patches`."""
    return rearrange(patches, "(b gh gw) c h w -> b c (gh h) (gw w)", gh=grid, gw=grid)
