"""Scores of many images, and their usual values on normal images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..data.images import select_images
from ..data.split import Split
from ..errors import DivergedError
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from .batches import gather, split_batches


@dataclass(frozen=True)
class Calibration:
    """The usual values of one score.

    Attributes:
        mean, std: over the training images; for a group, over normal validation images.
        quantiles: the 0th to 100th percentile over normal validation images, 101 numbers; None without any.
    """

    mean: float
    std: float
    quantiles: list[float] | None = None


def score_images(
    detector: Detector | Ensemble,
    images: torch.Tensor,
    batch_size: int = 64,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """Return the scores of images, in their order.

    Args:
        detector: it is put in eval mode, and a frozen copy scores.
        images: uint8 or uint16 (N, 1, H, W), or float32 in [0, 1], at the model's size, on any device.
        batch_size: images per batch.
        change: function that changes a batch of images in [0, 1] before it is scored; or None.

    Returns:
        {score: float32 (N,)} for all scores of the configuration.

    Raises:
        DivergedError: a score is not finite.
    """
    return _score(detector.eval().frozen(), images, batch_size, change)


def require_finite(detector: Detector, images: torch.Tensor) -> None:
    """Score images without freezing the detector first, which takes longer than scoring a few.

    Args:
        detector: it is put in eval mode.
        images: as for `score_images`.

    Raises:
        DivergedError: a score is not finite.
    """
    _score(detector.eval(), images)


def _score(
    detector: Detector | Ensemble,
    images: torch.Tensor,
    batch_size: int = 64,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """Return `score_images` of a detector as it is, in eval mode."""
    device = next(detector.parameters()).device
    batches = split_batches(images, device, batch_size)
    found = gather(lambda batch: detector.scores(batch if change is None else change(batch))[0], batches)
    result = {name: found[name].numpy() for name in detector.config.scores}
    for name, values in result.items():
        if not np.isfinite(values).all():
            raise DivergedError(f"the detector's {name} scores are not finite: its training has diverged")
    return result


def standardize(detector: Detector, images: torch.Tensor, *others: Detector) -> None:
    """Set the mean and standard deviation that the score `combined` standardizes by.

    They are over at most 256 training images. A detector without this score does not change.

    Args:
        detector: it scores the images and gets the values.
        images: of training, as for `score_images`.
        others: detectors that get the same values.
    """
    if "combined" in detector.config.scores:
        scores = score_images(detector, spread_images(images, 256))
        for each in (detector, *others):
            each.set_usual(scores)


def spread_images(images: torch.Tensor, most: int) -> torch.Tensor:
    """Return at most `most` of the images (N, ...), evenly spread."""
    return images[:: -(-len(images) // most)]


def calibrate(
    detector: Detector | Ensemble, images: torch.Tensor, validation: Split | None = None
) -> dict[str, Calibration]:
    """Return the usual values of each score.

    Args:
        detector: it is put in eval mode.
        images: of training, as `score_images` takes them.
        validation: a labeled split, or None.

    Returns:
        {score: `Calibration`}: mean and standard deviation over the training images; percentiles over the normal
        validation images, which the detector has not seen.

    Source: SQUID 3.4.
    """
    detector = detector.eval().frozen()
    seen, unseen = score_images(detector, images), None
    if validation is not None and validation.labels is not None:
        unseen = score_images(detector, select_images(validation.images, validation.labels == 0))
    return {
        name: Calibration(
            float(np.mean(values, dtype=np.float64)),
            float(np.std(values, dtype=np.float64)),
            None if unseen is None else np.percentile(unseen[name], range(101)).tolist(),
        )
        for name, values in seen.items()
    }


def calibrated(scores: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Return the papers' sigmoid((score - mean) / standard deviation), in [0, 1].

    It is for display. Rank by the raw score: the sigmoid saturates and makes ties.

    Args:
        scores: raw scores (N,), any float dtype.
        calibration: of this score.

    Returns:
        float64 (N,).

    Source: SQUID 3.4.
    """
    values = torch.as_tensor(np.asarray(scores, np.float64))
    return torch.sigmoid((values - calibration.mean) / max(calibration.std, 1e-12)).numpy()


def score_splits(detector: Detector | Ensemble, data: dict[str, Split]) -> dict[str, dict[str, np.ndarray]]:
    """Return {split: `score_images` of its images} for every split but train."""
    detector = detector.eval().frozen()
    return {name: score_images(detector, split.images) for name, split in data.items() if name != "train"}


def score_members(
    detector: Detector | Ensemble, images: torch.Tensor
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Return `score_images`, and for an ensemble also the scores of each member, from one pass; else an empty list."""
    if not isinstance(detector, Ensemble):
        return score_images(detector, images), []
    found = [score_images(member, images) for member in detector.members]
    return detector.combine(found), found
