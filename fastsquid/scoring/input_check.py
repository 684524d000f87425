"""The input check: whether an image looks like the training images at all.

A detector gives every image a score: an upside-down chest, an inverted one, a digit. The check compares a thumbnail of
8 x 8 pixels with the mean and covariance of the training images' thumbnails. It needs no network.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..data.images import to_unit
from .scores import spread_images

log = logging.getLogger(__name__)
SIDE = 8  # of a thumbnail
QUANTILE, MARGIN = 0.999, 1.1  # the threshold: a margin times a quantile of the training images' distances
MOST = 4096  # training images that are measured, evenly spaced
LARGEST = 99.0  # largest ratio that is reported; also that of an image without contrast, which has no distance
# Framings of the training images, so that a clinic's own framing counts as usual: zoom, degrees, mirrored.
# Zooms above 1 crop 5 and 15 % at every edge; those below 1 give every edge a black border of 5 and 10 %.
FRAMES = (
    (1, 0, False),
    (1, 0, True),
    (1 / 0.9, 0, False),
    (1 / 0.7, 0, False),
    (1 / 1.1, 0, False),
    (1 / 1.2, 0, False),
    (1, 10, False),
    (1, -10, False),
)
# Thumbnails (N, 8, 8) in a wrong position or polarity. Mirrored ones are not among them: the check may pass them.
WRONG: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda thumbnails: thumbnails.flip(1),
    lambda thumbnails: thumbnails.flip(1, 2),
    lambda thumbnails: thumbnails.rot90(1, (1, 2)),
    lambda thumbnails: thumbnails.rot90(-1, (1, 2)),
    lambda thumbnails: thumbnails.transpose(1, 2),
    lambda thumbnails: thumbnails.flip(1, 2).transpose(1, 2),
    lambda thumbnails: -thumbnails,
)


@dataclass(frozen=True)
class InputCheck:
    """What the training images look like, as `fit_check` measures it. All tensors are float64 on the CPU.

    Attributes:
        mean: (64,), of the training images' thumbnails.
        whitening: (64, 64); the length of (thumbnail - mean) @ whitening is the distance.
        threshold: distance above which an image counts as unlike.
    """

    mean: torch.Tensor
    whitening: torch.Tensor
    threshold: float

    def ratios(self, images: torch.Tensor) -> torch.Tensor:
        """Return how unlike the training images these images are; above 1 counts as unlike.

        It is the larger of two ratios. The first is the image's distance divided by the threshold. The second is its
        distance divided by the least distance of the image turned upside-down, turned by 90 degrees, or inverted.

        Args:
            images: uint8 or uint16, or floats in [0, 1]: (N, 1, H, W), on any device.

        Returns:
            float64 (N,) on the CPU, in [0, 99]; 99 for an image without contrast.
        """
        thumbnails, has_contrast = to_thumbnails(images)
        own = self.distances(thumbnails)
        turned = torch.stack([self.distances(change(thumbnails)) for change in WRONG]).amin(0)
        ratios = torch.maximum(own / self.threshold, own / turned.clamp_min(1e-12))
        return torch.where(has_contrast, ratios.clamp_max(LARGEST), LARGEST)

    def distances(self, thumbnails: torch.Tensor) -> torch.Tensor:
        """Return Mahalanobis distances of thumbnails (N, 8, 8) from those of the training images: float64 (N,)."""
        return ((thumbnails.flatten(1) - self.mean) @ self.whitening).norm(dim=1)


def fit_check(images: torch.Tensor) -> InputCheck:
    """Return the input check of training images.

    The mean and covariance are over all thumbnails in all of `FRAMES`. The threshold is 1.1 times the distance that one
    in a thousand thumbnails exceeds. For it, each half of the images is measured by the moments of the other half.

    Args:
        images: of training, (N, 1, H, W), uint8 or uint16, or floats in [0, 1], on any device.
    """
    batches = spread_images(images, MOST).split(256)
    framed = torch.cat([torch.stack([to_thumbnails(reframe(b, *frame))[0] for frame in FRAMES], 1) for b in batches])
    halves = (framed[::2], framed[1::2]) if len(framed) > 1 else (framed, framed)
    unseen = [
        InputCheck(*_moments(seen), threshold=1.0).distances(half.flatten(0, 1))
        for seen, half in (halves, halves[::-1])
    ]
    threshold = MARGIN * np.quantile(torch.cat(unseen).numpy(), QUANTILE)
    return InputCheck(*_moments(framed), max(float(threshold), 1e-12))


def describe_unlike(unlike: int, count: int) -> str:
    """Return a sentence for people: how many of all images are unlike the training images.

    Args:
        unlike: number of images that are unlike.
        count: number of all images.
    """
    advice = ": look at them before you trust their scores" if unlike else ""
    return f"{unlike} of {count} images are unlike the training images (unlike_training above 1){advice}"


def warn_of_unlike(ratios: torch.Tensor | np.ndarray) -> str:
    """Log a warning that says how many images are unlike the training images.

    Args:
        ratios: (N,), as `InputCheck.ratios` returns them.

    Returns:
        the sentence, or "" if no image is unlike.
    """
    unlike = int((ratios > 1).sum())
    if not unlike:
        return ""
    sentence = describe_unlike(unlike, len(ratios))
    log.warning(sentence)
    return sentence


def to_thumbnails(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return standardized thumbnails: means of 8 x 8 blocks, minus their mean, divided by their Euclidean length.

    Args:
        images: as for `InputCheck.ratios`.

    Returns:
        float64 (N, 8, 8) on the CPU, and bool (N,): whether the image has any contrast.
    """
    pooled = torch.cat([F.adaptive_avg_pool2d(to_unit(b.cpu()).double(), SIDE)[:, 0] for b in images.split(256)])
    pooled = pooled - pooled.mean((1, 2), keepdim=True)
    length = pooled.flatten(1).norm(dim=1)
    return pooled / length.clamp_min(1e-6)[:, None, None], length > 1e-6


def reframe(images: torch.Tensor, zoom: float, degrees: float, mirrored: bool) -> torch.Tensor:
    """Return images zoomed and rotated about their center; pixels from outside the image are black.

    Args:
        images: as for `InputCheck.ratios`.
        zoom: scale; above 1 crops, below 1 adds a border.
        degrees: angle of the rotation.
        mirrored: exchange left and right.

    Returns:
        float32 (N, 1, H, W) in [0, 1], on the CPU.
    """
    images = to_unit(images.cpu())
    cosine, sine = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    sign = -1 if mirrored else 1
    theta = torch.tensor([[sign * cosine, -sine, 0], [sign * sine, cosine, 0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _moments(framed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and whitening of thumbnails (N, frames, 8, 8), with the covariance shrunk as Ledoit and Wolf do."""
    from sklearn.covariance import ledoit_wolf  # takes a second, which scoring need not wait for

    values = framed.flatten(0, 1).flatten(1)
    mean = values.mean(0)
    covariance, _ = ledoit_wolf((values - mean).numpy(), assume_centered=True)
    # A thumbnail's values add up to 0, so a covariance that was not shrunk has no inverse.
    variances, axes = np.linalg.eigh(covariance)
    return mean, torch.from_numpy(axes / np.sqrt(variances.clip(1e-9)))
