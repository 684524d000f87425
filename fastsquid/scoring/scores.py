"""Scores of many images, and their usual values on normal images."""

import numpy as np
import torch

from ..data.images import to_unit
from ..errors import DivergedError


def score_images(detector, images, batch_size=64, change=None):
    """Scores of images, in their order.

    Args:
        detector: a `Detector`; it is put in eval mode, and frozen first where it is not.
        images: uint8 or uint16 (N, 1, H, W) at the model's size, on any device.
        change: function of the images in [0, 1], a batch at a time, before they are scored; or None.

    Returns:
        dict of float32 numpy arrays (N,), by the names in the config's `scores`.

    Raises:
        DivergedError: a score is not finite.
    """
    return _score(detector.eval().frozen(), images, batch_size, change)


def require_finite(detector, images):
    """Score images without freezing the detector first, which takes longer than scoring a few.

    Args:
        detector: a `Detector`; it is put in eval mode.
        images: as `score_images` takes them.

    Raises:
        DivergedError: a score is not finite.
    """
    _score(detector.eval(), images)


def _score(detector, images, batch_size=64, change=None):
    """`score_images` by a detector as it is, in eval mode."""
    device = next(detector.parameters()).device
    parts = {name: [] for name in detector.config.scores}
    for batch in images.split(batch_size):
        batch = to_unit(batch.to(device))
        scores, _ = detector.scores(batch if change is None else change(batch))
        for name in parts:
            parts[name].append(scores[name].float().cpu())
    result = {name: torch.cat(values).numpy() for name, values in parts.items()}
    for name, values in result.items():
        if not np.isfinite(values).all():
            raise DivergedError(f"the detector's {name} scores are not finite: its training has diverged")
    return result


def standardize(detector, images, *others):
    """Set what the score `combined` standardizes by, over at most 256 healthy training images; without it do nothing.

    Args:
        detector: a `Detector`.
        images: as `score_images` takes them.
        others: detectors that get the same values.
    """
    if "combined" in detector.config.scores:
        scores = score_images(detector, spread_images(images, 256))
        for each in (detector, *others):
            each.set_usual(scores)


def spread_images(images: torch.Tensor, most: int) -> torch.Tensor:
    """Return at most `most` of the images (N, ...), evenly spread."""
    return images[:: -(-len(images) // most)]


def calibrate(detector, images, validation=None):
    """What scores are usual: of each score the mean and standard deviation over the training images (SQUID 3.4).

    Args:
        images: of training, as `score_images` takes them.
        validation: a labelled `Split`, or None.

    Returns:
        {score: {mean, std, quantiles}}, the last being the 0th to 100th percentile over the normal validation images,
        which the detector has not seen; None without any.
    """
    detector = detector.eval().frozen()
    seen, unseen = score_images(detector, images), None
    if validation is not None:
        unseen = score_images(detector, validation.images[validation.labels == 0])
    return {
        name: {
            "mean": float(np.mean(values, dtype=np.float64)),
            "std": float(np.std(values, dtype=np.float64)),
            "quantiles": None if unseen is None else np.percentile(unseen[name], range(101)).tolist(),
        }
        for name, values in seen.items()
    }


def score_splits(detector, data):
    """`score_images` of every split but train, by the split's name."""
    detector = detector.eval().frozen()
    return {name: score_images(detector, split.images) for name, split in data.items() if name != "train"}
