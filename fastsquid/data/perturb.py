"""Images changed in ways that are no anomaly, and images given one: what a score is tried on without more labels."""

import torch
import torch.nn.functional as F


def _gamma(exponent):
    return lambda images: images**exponent


def _contrast(factor):
    """Distances from each image's mean, times a factor."""

    def change(images):
        mean = images.mean((1, 2, 3), keepdim=True)
        return (mean + factor * (images - mean)).clamp(0, 1)

    return change


def _resize(images, side):
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def _crop(images):
    """Without 5 % of the side at every edge."""
    side = images.shape[-1]
    cut = max(1, round(0.05 * side))
    return _resize(images[..., cut:-cut, cut:-cut], side)


def _pad(images):
    """With a black border of 5 % of the side at every edge."""
    side = images.shape[-1]
    return _resize(F.pad(images, [max(1, round(0.05 * side))] * 4), side)


# Brightness, contrast and framing that a clinic may change: float (B, 1, H, W) in [0, 1] -> the same.
PERTURBATIONS = {
    "gamma 0.8": _gamma(0.8),
    "gamma 1.25": _gamma(1.25),
    "contrast 0.8": _contrast(0.8),
    "contrast 1.2": _contrast(1.2),
    "crop 5 %": _crop,
    "pad 5 %": _pad,
}


def with_opacity(images, seed=0):
    """Every image with a synthetic anomaly: a soft bright or dark disc, so that scores can be compared without labels.

    Centre within the middle 80 % of the image, radius (a Gaussian's deviation) 5 to 15 % of the side, and a shift of
    0.2 to 0.5 towards white or black at its centre.

    Args:
        images: float (B, 1, H, W) in [0, 1].
        seed: of everything drawn.

    Returns:
        float (B, 1, H, W) in [0, 1].
    """
    batch, _, height, width = images.shape
    rows, columns, radii, strengths, signs = torch.rand(
        5, batch, 1, 1, 1, generator=torch.Generator().manual_seed(seed)
    ).to(images)
    y = torch.arange(height, device=images.device).view(-1, 1) / height - (0.1 + 0.8 * rows)
    x = torch.arange(width, device=images.device).view(1, -1) / width - (0.1 + 0.8 * columns)
    disc = torch.exp(-(x**2 + y**2) / (2 * (0.05 + 0.1 * radii) ** 2))
    return torch.lerp(images, (signs < 0.5).to(images), disc * (0.2 + 0.3 * strengths))
