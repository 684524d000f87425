"""AUC and thresholds on labeled images."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from ..data.split import Split
from ..errors import UserError
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..scoring.scores import score_images
from .metrics import best_threshold, require_both_classes


def validate(detector: Detector | Ensemble, split: Split) -> dict[str, dict[str, float]]:
    """Return the AUC of every score on a labeled split, and the threshold of highest accuracy.

    Returns:
        {score: {"auc": in [0, 1], "threshold"}}.

    Raises:
        DivergedError: a score is not finite.
    """
    assert split.labels is not None
    return auc_and_threshold(split.labels, score_images(detector, split.images))


def auc_and_threshold(
    labels: np.ndarray | torch.Tensor, scores: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return what `validate` returns, of labels (N,) and {score: (N,)}."""
    return {
        name: {"auc": float(roc_auc_score(labels, values)), "threshold": best_threshold(labels, values)}
        for name, values in scores.items()
    }


def reported_split(data: Mapping[str, Split]) -> str | None:
    """Return the name of the split that is reported: `test` where it is labeled, else `val`, else None.

    Raises:
        UserError: the split has only one class.
    """
    for name in ("test", "val"):
        if name in data and (labels := data[name].labels) is not None:
            require_both_classes(labels, f"the {name} split")
            return name
    return None


def shown_split(data: Mapping[str, Split]) -> str:
    """Return the name of the split that pictures show: the reported one, or where there is none any other."""
    try:
        labeled = reported_split(data)
    except UserError:
        labeled = None
    return labeled or next(name for name in ("test", "val", "train") if name in data)
