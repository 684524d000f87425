"""Changes of images that are no anomaly: a score should not rise with them."""

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .augment import gaussian_blur
from .negatives import lung_prior


def _gamma(exponent):
    return lambda images: images**exponent


def _contrast(factor):
    """Multiply the distances from each image's mean by a factor."""

    def change(images):
        mean = images.mean((1, 2, 3), keepdim=True)
        return (mean + factor * (images - mean)).clamp(0, 1)

    return change


def _same_size(change):
    """Make a change that resizes the images to their former side."""

    def changed(images):
        side, images = images.shape[-1], change(images)
        if images.shape[-1] == side:
            return images
        images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
        return images.clamp(0, 1)

    return changed


def _crop(share):
    """Cut off a share of the side at every edge."""

    def change(images):
        cut = max(1, round(share * images.shape[-1]))
        return images[..., cut:-cut, cut:-cut]

    return change


def _pad(share, value=0.0):
    """Add a border of one gray at every edge, as wide as a share of the side."""
    return lambda images: F.pad(images, [max(1, round(share * images.shape[-1]))] * 4, value=value)


def _rotate(degrees):
    """Turn counterclockwise about the center; pixels from outside are black."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def change(images):
        turn = images.new_tensor([[cosine, -sine, 0], [sine, cosine, 0]]).expand(len(images), 2, 3)
        grid = F.affine_grid(turn, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)

    return change


def _blur(images):
    """Blur by a Gaussian whose deviation is 1 % of the side."""
    return gaussian_blur(images, 0.01 * images.shape[-1], padding="replicate").clamp(0, 1)


def _noise(images):
    """Add Gaussian noise of deviation 0.05, always the same.

    It has 64 x 64 cells whatever the image's size, so that an image read at twice the size gets the same noise.
    """
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).to(images)
    return (images + 0.05 * F.interpolate(noise, size=images.shape[-2:])).clamp(0, 1)


def _jpeg(quality):
    """Save as a JPEG file of 8 bits, and read it again."""

    def change(images):
        result = []
        for image in (images.cpu() * 255).round().to(torch.uint8).numpy():
            file = io.BytesIO()
            Image.fromarray(image[0]).save(file, "JPEG", quality=quality)
            with Image.open(file) as saved:
                result.append(torch.from_numpy(np.array(saved)))
        return torch.stack(result)[:, None].to(images) / 255

    return change


Change = Callable[[torch.Tensor], torch.Tensor]

# What a clinic may change in exposure, framing, position and quality: float (B, 1, S, S) in [0, 1] -> the same, with
# another S where the frame changes.
CHANGES: dict[str, Change] = {
    "gamma 0.8": _gamma(0.8),
    "gamma 1.25": _gamma(1.25),
    "contrast 0.8": _contrast(0.8),
    "contrast 1.2": _contrast(1.2),
    "crop 5 %": _crop(0.05),
    "crop 15 %": _crop(0.15),
    "pad 5 %": _pad(0.05),
    "pad 10 %": _pad(0.1),
    "pad 20 %": _pad(0.2),
    "white 10 %": _pad(0.1, value=1.0),
    "rotate +10": _rotate(10),
    "rotate -10": _rotate(-10),
    "mirror": lambda images: images.flip(-1),
    "blur": _blur,
    "noise": _noise,
    "JPEG 30": _jpeg(30),
}
# The same changes, resized to the former S.
PERTURBATIONS: dict[str, Change] = {name: _same_size(change) for name, change in CHANGES.items()}


def lungs_only(images: torch.Tensor) -> torch.Tensor:
    """Replace everything outside the lungs (`negatives.lung_prior`) by each image's mean: float (B, 1, S, S)."""
    return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, lung_prior(images.shape[-1], images.device))


def without_lungs(images: torch.Tensor) -> torch.Tensor:
    """Replace the lungs (`negatives.lung_prior`) by each image's mean: float (B, 1, S, S)."""
    return torch.lerp(images, images.mean((1, 2, 3), keepdim=True), lung_prior(images.shape[-1], images.device))


# Scores of parts of images show what a score depends on: the lungs, or what should not matter.
CONFOUNDS: dict[str, Change] = {"lungs only": lungs_only, "without lungs": without_lungs}
