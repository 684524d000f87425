"""Healthy images with a synthetic anomaly: the discriminator learns to reject them.

All kinds are drawn on the images' device from torch's global generator. Nothing is copied to or from the host.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F

from .augment import gaussian_blur

Kind = Literal["haze", "opacity", "both", "cutpaste", "rectangles", "anatpaste"]

ELLIPSES = 3  # at most, per image
# The two lungs of a frontal view, as ellipses on coordinates from -1 to 1.
LUNG_X, LUNG_Y, LUNG_HALF_AXES = 0.42, 0.02, (0.36, 0.72)
# Pasted patches, as published: share of the image's area, height by width, and change of brightness.
AREA, ASPECT, JITTER = (0.02, 0.15), (0.3, 1 / 0.3), 0.1
# AnatPaste, as published: what its code subtracts from each half side of a patch, the largest deviation of the blur of
# its edges, both as shares of the image's side, and the strength.
MARGIN, BLUR, STRENGTH = 10 / 256, 14 / 256, (150 / 255, 1)


def with_anomaly(
    kind: Kind, images: torch.Tensor, lungs: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a synthetic anomaly of its own into every image of a batch.

    `haze` blends one to three large areas toward a blurred copy of the image that is up to 0.25 brighter. `opacity`
    fills smaller areas with ragged edges by a level between the image's 70 % and 97 % quantile. `both` takes one of
    these per image, with equal chances. `cutpaste` pastes an area of another image of the batch, moved.

    `rectangles` pastes a rectangle of the same image at another place, as CutPaste does (section 3.1). The rectangle
    has 2 to 15 % of the image's area, an aspect ratio of 0.3 to 3.3, and up to 10 % more or less brightness.

    `anatpaste` pastes a rectangle or an ellipse of the same image into its lungs, as AnatPaste does. Area, aspect ratio
    and brightness are those of `rectangles`. The strength is 0.59 to 1, and the edges are blurred. The center is a
    random pixel of the lungs. Two things are ours. AnatPaste finds the lungs by equalization, Otsu's threshold and
    morphology; here they are `dark_lungs`. AnatPaste blurs a drawn shape; here the strength falls with the distance
    from its edge.

    Args:
        kind: which anomaly.
        images: float (B, 1, H, H) in [0, 1], healthy.
        lungs: float (B or 1, 1, H, H) in [0, 1], where anomalies may be. None sets no limit but those above, and that
            ellipses are centered in a lung.

    Returns:
        the images with an anomaly, (B, 1, H, H) in [0, 1]; and its strength at each pixel, (B, 1, H, H) in [0, 1].

    Source: Li et al., "CutPaste", CVPR 2021, for `rectangles`. Sato et al., "Anatomy-aware self-supervised learning for
    anomaly detection in chest radiographs" (AnatPaste), iScience 2023, and its published code, for `anatpaste`. The
    others are ours.
    """
    if kind == "both":
        haze, opacity = _haze(images, lungs), _opacity(images, lungs)
        first = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return torch.where(first, haze[0], opacity[0]), torch.where(first, haze[1], opacity[1])
    draw = {
        "haze": _haze,
        "opacity": _opacity,
        "cutpaste": _cutpaste,
        "rectangles": _rectangles,
        "anatpaste": _anatpaste,
    }
    return draw[kind](images, lungs)


def lung_prior(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return where the lungs of a frontal chest X-ray usually are: float32 (1, 1, size, size) in [0, 1], soft edges."""
    y, x = _coordinates(size, device)
    width, height = LUNG_HALF_AXES
    lungs = [((x - side * LUNG_X) / width) ** 2 + ((y + LUNG_Y) / height) ** 2 for side in (-1, 1)]
    return torch.sigmoid((1 - torch.minimum(*lungs)) * 12)[:, None]


def dark_lungs(images: torch.Tensor) -> torch.Tensor:
    """Return the lungs of chest X-rays: what is dark within `lung_prior`.

    A threshold divides the pixels of the prior into dark and bright ones. It is the mean of two values: the mean of the
    dark pixels and the mean of the bright ones. An image of one value has half the prior.

    Args:
        images: float (B, 1, H, H) in [0, 1].

    Returns:
        float (B, 1, H, H) in [0, 1], with soft edges.
    """
    size = images.shape[-1]
    prior = lung_prior(size, images.device)
    smooth = gaussian_blur(images, size / 64)  # ribs are bright

    def mean(weight, otherwise):
        weight = weight * prior
        total = (smooth * weight).sum((1, 2, 3), keepdim=True)
        return (total + 1e-6 * otherwise) / (weight.sum((1, 2, 3), keepdim=True) + 1e-6)

    threshold = dark = bright = mean(torch.ones_like(smooth), 0.0)
    for _ in range(8):  # it hardly moves after five
        darker = (smooth < threshold).to(smooth)
        dark, bright = mean(darker, threshold), mean(1 - darker, threshold)
        threshold = (dark + bright) / 2
    return prior * torch.sigmoid((threshold - smooth) / (bright - dark).clamp_min(0.01) * 8)


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


def _rectangles(images, lungs):
    size = images.shape[-1]
    sides = _patch_sides(images)
    source, target = (_corner(size - sides) for _ in range(2))
    y, x = _pixels(size, images.device)
    (top, left), (height, width) = target, sides
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    area = _inside(inside.to(images), lungs)
    return torch.lerp(images, _brightened(_moved(images, source - target)), area), area


def _anatpaste(images, lungs):
    size, device = images.shape[-1], images.device
    lungs = dark_lungs(images) if lungs is None else lungs.expand_as(images)
    sides = _patch_sides(images)
    source = _corner(size - sides)
    # A random pixel of the lungs, each as likely as its value. `torch.multinomial` would read the values on the host.
    chances = lungs / torch.empty_like(lungs).exponential_()
    center = chances.flatten(1).argmax(1).view(-1, 1, 1, 1)
    center = torch.stack([center // size, center % size])
    # Distance from the edge in pixels, above 0 inside.
    half_height, half_width = (sides / 2 - MARGIN * size).clamp_min(1)
    y, x = (line - at for line, at in zip(_pixels(size, device), center))
    rectangle = torch.minimum(half_height - y.abs(), half_width - x.abs())
    radius = torch.hypot(y / half_height, x / half_width)
    ellipse = (1 - radius) * torch.minimum(half_height, half_width)
    distance = torch.where(_uniform(images, 0, 1) < 0.5, ellipse, rectangle)
    deviation = _uniform(images, 0, BLUR * size).clamp_min(0.1)
    area = torch.special.ndtr(distance / deviation) * lungs * _uniform(images, *STRENGTH)
    patch = _brightened(_moved(images, source - (center - sides // 2)))
    return torch.lerp(images, patch, area), area


def _patch_sides(images):
    """Return height and width of a patch per image, in pixels: int64 (2, B, 1, 1, 1)."""
    side = _uniform(images, *AREA).sqrt() * images.shape[-1]
    stretch = _uniform(images, *map(math.log, ASPECT)).div(2).exp()
    return torch.stack([side * stretch, side / stretch]).round().long()


def _corner(room):
    """Return a random place from 0 to each number of pixels, like `room`, int64."""
    return (torch.rand(room.shape, device=room.device) * (room + 1)).long().minimum(room)


def _moved(images, by):
    """Return the images' values `by` pixels further down and right, int64 (2, B, 1, 1, 1); outside, the edge's."""
    size = images.shape[-1]
    y, x = ((line + each).clamp(0, size - 1) for line, each in zip(_pixels(size, images.device), by))
    return images.flatten(1).gather(1, (y * size + x).flatten(1)).view_as(images)


def _brightened(images):
    return (images * _uniform(images, 1 - JITTER, 1 + JITTER)).clamp(0, 1)


def _pixels(size, device):
    """Return indices of rows (size, 1) and columns (1, size)."""
    line = torch.arange(size, device=device)
    return line.view(-1, 1), line.view(1, -1)


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
