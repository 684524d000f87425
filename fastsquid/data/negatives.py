"""Healthy images with a synthetic lung anomaly: the discriminator learns to reject them, beside reconstructions.

All kinds are drawn on the images' device from torch's global generator. Nothing is copied to or from the host.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F

from .augment import gaussian_blur

Kind = Literal["haze", "opacity", "both", "cutpaste"]

ELLIPSES = 3  # at most, per image
# The two lungs of a frontal view, as ellipses on coordinates from -1 to 1.
LUNG_X, LUNG_Y, LUNG_HALF_AXES = 0.42, 0.02, (0.36, 0.72)


def with_anomaly(
    kind: Kind, images: torch.Tensor, lungs: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a synthetic anomaly of its own into every image of a batch.

    `haze` blends one to three large areas toward a blurred copy of the image that is up to 0.25 brighter. `opacity`
    fills smaller areas with ragged edges by a level between the image's 70 % and 97 % quantile. `both` takes one of
    these per image, with equal chances. `cutpaste` pastes an area of another image of the batch, moved.

    Args:
        kind: which anomaly.
        images: float (B, 1, H, H) in [0, 1], healthy.
        lungs: float (B or 1, 1, H, H) in [0, 1], where anomalies may be. None sets no limit but that ellipses are
            centered in a lung.

    Returns:
        the images with an anomaly, (B, 1, H, H) in [0, 1]; and its strength at each pixel, (B, 1, H, H) in [0, 1].

    Source: ours. Li et al., "CutPaste", CVPR 2021, and Sato et al., "Anatomy-aware self-supervised learning for anomaly
    detection in chest radiographs" (AnatPaste), iScience 2023, train one-class classifiers with pasted patches.
    """
    if kind == "both":
        haze, opacity = _haze(images, lungs), _opacity(images, lungs)
        first = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return torch.where(first, haze[0], opacity[0]), torch.where(first, haze[1], opacity[1])
    return {"haze": _haze, "opacity": _opacity, "cutpaste": _cutpaste}[kind](images, lungs)


def lung_prior(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return where the lungs of a frontal chest X-ray usually are: float32 (1, 1, size, size) in [0, 1], soft edges."""
    y, x = _coordinates(size, device)
    width, height = LUNG_HALF_AXES
    lungs = [((x - side * LUNG_X) / width) ** 2 + ((y + LUNG_Y) / height) ** 2 for side in (-1, 1)]
    return torch.sigmoid((1 - torch.minimum(*lungs)) * 12)[:, None]


def _haze(images, lungs):
    size = images.shape[-1]
    area = _inside(_ellipses(images, 0.25, 0.8, edge=6), lungs)
    weight, brighter = _uniform(images, 0.2, 0.9), _uniform(images, 0, 0.25)
    strength = area * weight
    return torch.lerp(images, (gaussian_blur(images, size / 32) + brighter).clamp(0, 1), strength), strength


def _opacity(images, lungs):
    size = images.shape[-1]
    area = _ellipses(images, 0.12, 0.45, edge=3)
    ragged = sum(_noise(images, cells) / octave for octave, cells in ((1, 8), (2, 16)))
    area = _inside(torch.sigmoid((2.2 * area - 1 + 0.6 * ragged) * 4) * (area > 0.05), lungs)
    # Two numbers, not a tensor of both: a tensor would be copied from the host, which no CUDA graph may contain.
    low, high = (torch.quantile(images.flatten(1), share, dim=1) for share in (0.7, 0.97))
    level = torch.lerp(low, high, torch.rand_like(low)).view(-1, 1, 1, 1)
    texture = 0.3 * (images - gaussian_blur(images, size / 32))
    strength = area * _uniform(images, 0.3, 0.95)
    return torch.lerp(images, torch.maximum((level + texture).clamp(0, 1), images), strength), strength


def _cutpaste(images, lungs):
    area = _inside(_ellipses(images, 0.15, 0.5, edge=20), lungs)
    moved = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    moved[:, :, 2] = torch.empty_like(moved[:, :, 2]).uniform_(-0.5, 0.5)
    grid = F.affine_grid(moved, list(images.shape), align_corners=False)
    others = F.grid_sample(images.roll(1, 0), grid, padding_mode="reflection", align_corners=False)
    return torch.lerp(images, others, area), area


def _ellipses(images, smallest, largest, edge):
    """Return the union of one to three ellipses, centered in the lungs: (B, 1, H, H) in [0, 1].

    Args:
        images: the batch, for its shape and device.
        smallest, largest: half-axes, as a share of half the side.
        edge: steepness; the value falls from 1 to 0 within about 8 / edge of the half-axes.
    """
    batch, device = len(images), images.device
    y, x = _coordinates(images.shape[-1], device)

    def draw(low, high):
        return torch.empty(ELLIPSES, batch, 1, 1, device=device).uniform_(low, high)

    side = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    u, v = x - side * draw(0.2, 0.6), y - draw(-0.5, 0.55)
    a, b, angle = draw(smallest, largest), draw(smallest, largest), draw(0, math.pi)
    cosine, sine = angle.cos(), angle.sin()
    radius = torch.hypot((u * cosine + v * sine) / a, (v * cosine - u * sine) / b)
    value = torch.sigmoid((1 - radius) * edge)
    count = torch.randint(1, ELLIPSES + 1, (batch, 1, 1), device=device)
    drawn = torch.arange(ELLIPSES, device=device).view(-1, 1, 1, 1) < count
    return (value * drawn).amax(0)[:, None]


def _coordinates(size, device):
    """Return pixel centers from -1 to 1: y (1, size, 1) and x (1, 1, size)."""
    line = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    return line.view(1, -1, 1), line.view(1, 1, -1)


def _inside(area, lungs):
    return area if lungs is None else area * lungs


def _uniform(images, low, high):
    return torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high)


def _noise(images, cells):
    """Return smooth normal noise of `cells` independent values per side."""
    values = torch.randn(len(images), 1, cells, cells, device=images.device)
    return F.interpolate(values, size=images.shape[-2:], mode="bicubic", align_corners=False)
