"""AUC and false alarms where all images are changed alike, and the AUC of parts of images."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from ..config import Config
from ..data.images import convert_array
from ..data.perturb import CHANGES, CONFOUNDS, PERTURBATIONS
from ..data.split import Split
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..scoring.scores import score_images
from .metrics import at_threshold


def uncropped_size(config: Config) -> int:
    """Return the side of the square images that perturbations change.

    Where the configuration crops, it is larger than the model's, because images are cropped after the change.
    """
    return 4 * config.image_size if config.crop else config.image_size


def perturbed_scores(detector: Detector | Ensemble, images: torch.Tensor) -> dict[str, dict[str, np.ndarray]]:
    """Return the scores of images that are all perturbed alike, for each of `PERTURBATIONS`.

    Where the detector's config crops, a changed image is cropped and resized like any image that is read.

    Args:
        detector: a `Detector`; it is put in eval mode.
        images: uint8 or uint16 (N, 1, S, S), not cropped, S = `uncropped_size(detector.config)`.

    Returns:
        {perturbation: {score: float32 (N,)}}.

    Raises:
        DivergedError: a score is not finite.
    """
    frozen, config = detector.eval().frozen(), detector.config
    if not config.crop:
        return {name: score_images(frozen, images, change=change) for name, change in PERTURBATIONS.items()}

    def cropped(change):
        def changed(batch):
            squares = [convert_array(image[0], config.image_size, crop=True) for image in change(batch).cpu().numpy()]
            return torch.from_numpy(np.stack(squares))[:, None].to(batch)

        return changed

    return {name: score_images(frozen, images, change=cropped(change)) for name, change in CHANGES.items()}


def perturbed_aucs(detector: Detector | Ensemble, split: Split) -> dict[str, dict[str, float]]:
    """Return the AUC of every score on a labeled split whose images are all perturbed alike.

    Args:
        detector: it is put in eval mode.
        split: labeled, with images as `perturbed_scores` takes them.

    Returns:
        {perturbation: {score: AUC}}.
    """
    return {
        name: {score: float(roc_auc_score(np.asarray(split.labels), values)) for score, values in scores.items()}
        for name, scores in perturbed_scores(detector, split.images).items()
    }


def confounds(detector: Detector | Ensemble, split: Split) -> dict[str, dict[str, float]]:
    """Return the AUC of every score where only the lungs are left of each image, and where they are removed.

    A score that depends on disease keeps its AUC on the lungs alone, and falls to 0.5 without them. The region is the
    same in every image. A mask per image would already reveal sick lungs, because they are hard to outline.

    Args:
        detector: a `Detector`; it is put in eval mode.
        split: a labeled `Split` of images as the model sees them.

    Returns:
        {score: {"lungs only": AUC, "without lungs": AUC}}.
    """
    frozen, result = detector.eval().frozen(), {}
    for name, change in CONFOUNDS.items():
        for score, values in score_images(frozen, split.images, change=change).items():
            result.setdefault(score, {})[name] = float(roc_auc_score(np.asarray(split.labels), values))
    return result


def robustness(
    labels: np.ndarray | torch.Tensor,
    scores: Mapping[str, Mapping[str, np.ndarray]],
    ranking: str,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Return how well scores do where all images are perturbed alike.

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: {images: {score: (N,)}}: `score_images` as "clean", and `perturbed_scores`.
        ranking: the score that the threshold is of.
        threshold: at which an image is called abnormal, or None.

    Returns:
        dict: `robustness`, {score: {clean, each perturbation, mean: AUC}}, the mean over the clean images and all
        perturbations; and, with a threshold, `healthy_above_threshold`, {clean, each perturbation: share}, in [0, 1],
        of the normal images that are called abnormal.
    """
    labels, result = np.asarray(labels), {"robustness": {}}
    for score in scores["clean"]:
        aucs = {name: float(roc_auc_score(labels, found[score])) for name, found in scores.items()}
        result["robustness"][score] = {**aucs, "mean": fmean(aucs.values())}
    if threshold is not None:
        result["healthy_above_threshold"] = {
            name: 1 - at_threshold(labels, found[ranking], threshold)["specificity"] for name, found in scores.items()
        }
    return result


def confounds_table(aucs: dict[str, dict[str, float]]) -> str:
    """Return `confounds` as a table for people: a row per score."""
    names = list(next(iter(aucs.values())))
    lines = [f"{'AUC of parts of images':22} " + "  ".join(names)]
    for score, values in aucs.items():
        lines.append(f"{score:22} " + "  ".join(f"{values[name]:{len(name)}.3f}" for name in names))
    return "\n".join(lines)


def robustness_table(aucs: dict[str, dict[str, float]], healthy: dict[str, float] | None = None) -> str:
    """Return the two parts of `robustness` as a table for people: a row per perturbation, a column per score."""
    head = f"{'AUC of changed images':22} " + "  ".join(f"{score:>6}" for score in aucs)
    lines = [head + "  healthy above threshold" * (healthy is not None)]
    for name in next(iter(aucs.values())):
        row = f"{name:22} " + "  ".join(f"{values[name]:{max(6, len(score))}.3f}" for score, values in aucs.items())
        lines.append(row + (f"  {healthy[name]:23.1%}" if healthy and name in healthy else ""))
    return "\n".join(lines)
