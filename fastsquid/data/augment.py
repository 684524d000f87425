"""Augmentation: the papers' translations and scalings (SQUID 4.4); our rotations, crops and changes of appearance."""

import math

import torch
import torch.nn.functional as F


def augment(
    images: torch.Tensor, shift: float, zoom: float, rotation: float = 0.0, closer: float = 0.0
) -> torch.Tensor:
    """Move and scale every image of a batch by random amounts of its own.

    Translation is uniform within +-`shift` of the side in each direction. Scale is uniform in [1 - zoom, 1 + zoom].
    Pixels from outside of the image are black. Draws from torch's global generator of the images' device.

    Args:
        images: float (B, 1, H, W) in [0, 1].
        shift: largest translation, a fraction of the side in [0, 1).
        zoom: largest change of scale, in [0, 1).
        rotation: largest rotation in degrees.
        closer: further scale, uniform in [1, 1 + closer]. With it or a rotation, pixels from outside repeat the edge
            instead.

    Returns:
        float (B, 1, H, W) in [0, 1]; the input itself if all are 0.

    Source: SQUID, section 4.4, for translation and scale; `rotation` and `closer` are ours.

    >>> import torch
    >>> from fastsquid.data import augment
    >>> augment(torch.rand(8, 1, 64, 64), shift=0.05, zoom=0.05).shape
    torch.Size([8, 1, 64, 64])
    """
    if rotation or closer:
        return _augment_widely(images, shift, zoom, math.radians(rotation), closer)
    if shift == zoom == 0:
        return images
    tx, ty, dz = torch.empty(3, len(images), device=images.device, dtype=images.dtype).uniform_(-1, 1)
    scale, zero = 1 + zoom * dz, torch.zeros_like(dz)
    # affine_grid maps output to input, on coordinates in which the side is 2 long: x_in = (x_out - 2 shift) / scale
    theta = torch.stack(
        [
            torch.stack([1 / scale, zero, -2 * shift * tx / scale], 1),
            torch.stack([zero, 1 / scale, -2 * shift * ty / scale], 1),
        ],
        1,
    )  # [B, 2, 3]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _augment_widely(images, shift, zoom, rotation, closer):
    def draw(low, high):
        return torch.empty(len(images), device=images.device, dtype=images.dtype).uniform_(low, high)

    scale, angle = (1 + draw(-zoom, zoom)) * (1 + draw(0, closer)), draw(-rotation, rotation)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    x, y = 2 * draw(-shift, shift), 2 * draw(-shift, shift)
    theta = torch.stack([torch.stack([cosine, sine, x], 1), torch.stack([-sine, cosine, y], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def change_appearance(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Give every image of a batch a gamma, a blur and noise of its own, as other devices and exposures would.

    At strength 1 the logarithm of gamma is uniform in +-0.3. Half of the images are blurred by a Gaussian of 1/64 of
    the side, mixed in by a share uniform in [0, 1]. Normal noise has a deviation of up to 0.05, mostly less.

    Args:
        images: float (B, 1, H, H) in [0, 1].
        strength: factor of all three, at least 0.

    Returns:
        float (B, 1, H, H) in [0, 1].
    """

    def draw(low, high):
        return torch.empty(len(images), 1, 1, 1, device=images.device, dtype=images.dtype).uniform_(low, high)

    images = torch.lerp(images, gaussian_blur(images, images.shape[-1] / 64), draw(-strength, strength).clamp(0, 1))
    images = images + torch.randn_like(images) * draw(0, 1) ** 2 * 0.05 * strength
    return images.clamp(1e-4, 1) ** torch.exp(draw(-0.3, 0.3) * strength)


def gaussian_blur(images: torch.Tensor, deviation: float, padding: str = "reflect") -> torch.Tensor:
    """Convolve images with a Gaussian.

    Args:
        images: float (B, 1, H, W).
        deviation: standard deviation of the Gaussian in pixels, above 0.
        padding: what lies outside of the image, as `torch.nn.functional.pad` names it.

    Returns:
        float (B, 1, H, W).
    """
    radius = max(1, math.ceil(3 * deviation))
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(x**2) / (2 * deviation**2))
    kernel = kernel / kernel.sum()
    images = F.pad(images, [radius] * 4, mode=padding)
    return F.conv2d(F.conv2d(images, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
