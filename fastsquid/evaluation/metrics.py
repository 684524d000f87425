"""AUC and its bootstrap interval, metrics at one threshold, and AUROC and AUPRO of heat maps.

Larger scores are more abnormal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import (
    auc,
    average_precision_score,
    confusion_matrix,
    roc_auc_score,
    roc_curve,
)

from ..errors import UserError

Array = np.ndarray | torch.Tensor


def require_both_classes(labels: Array, where: str | Path) -> None:
    """Raise a UserError if labels (N,) have a single class, for which no AUC exists; `where` names the images."""
    for label, name in enumerate(("normal", "abnormal")):
        if not (np.asarray(labels) == label).any():
            raise UserError(f"AUC needs normal and abnormal images, but {where} has no {name} ones")


def best_threshold(labels: Array, scores: Array) -> float:
    """Return the threshold of highest accuracy. An image is called abnormal if its score reaches the threshold.

    It lies halfway between two adjacent scores, so that rounding of one image's score does not decide.

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: (N,), larger = more abnormal.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    best = np.argmax(tpr * labels.sum() + (1 - fpr) * (labels == 0).sum())
    if np.isinf(thresholds[best]):  # call nothing abnormal
        return float(np.nextafter(scores.max(), np.inf))
    below = scores[scores < thresholds[best]]
    return float((thresholds[best] + below.max()) / 2) if below.size else float(thresholds[best])


def at_threshold(labels: Array, scores: Array, threshold: float) -> dict[str, float]:
    """Return the threshold, and accuracy, f1, sensitivity and specificity at it, each in [0, 1].

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: (N,), larger = more abnormal.
        threshold: an image is called abnormal if its score reaches it.
    """
    called = np.asarray(scores, dtype=np.float64) >= threshold  # float32 would round the threshold
    tn, fp, fn, tp = confusion_matrix(labels, called, labels=[0, 1]).ravel().tolist()
    return {
        "threshold": threshold,
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
    }


def at_sensitivity(labels: Array, scores: Array, sensitivity: float) -> tuple[float, float]:
    """Return the highest threshold with at least this sensitivity, in [0, 1], and its specificity."""
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    first = np.argmax(tpr >= sensitivity)
    return float(thresholds[first]), float(1 - fpr[first])


def evaluate(
    labels: Array,
    scores: Array,
    validation_threshold: float | None = None,
    kinds: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return all metrics of one score.

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: (N,), larger = more abnormal.
        validation_threshold: chosen on validation data, or None where there is none.
        kinds: None, or {class: bool (N,)}, the images of each abnormal class, as `Split.abnormal_masks` returns them.

    Returns:
        dict with `auc` and `average_precision`; `validation_threshold` and `test_threshold`, metrics as `at_threshold`
        returns them. The first is None without a threshold. The second is chosen on these labels, as the papers do,
        which flatters. With several abnormal classes also `auc_by_kind`: per class, the AUC of its images against all
        normal images.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    result = {
        "auc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
        "validation_threshold": None
        if validation_threshold is None
        else at_threshold(labels, scores, validation_threshold),
        "test_threshold": at_threshold(labels, scores, best_threshold(labels, scores)),
    }
    if kinds and len(kinds) > 1:
        result["auc_by_kind"] = {name: kind_auc(labels, scores, mask) for name, mask in kinds.items()}
    return result


def kind_auc(labels: np.ndarray, scores: np.ndarray, mask: np.ndarray) -> float:
    """Return the AUC of the abnormal images in a mask, bool (N,), against all normal images."""
    keep = mask | (labels == 0)
    return float(roc_auc_score(labels[keep], scores[keep]))


def evaluate_kinds(labels: Array, scores: Array, kinds: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the AUC of every abnormal class against all normal images, with its interval as `bootstrap_auc` has it.

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: (N,), larger = more abnormal.
        kinds: {class: bool (N,)}, the images of each abnormal class.

    Returns:
        {class: {"images": how many, "auc", "low", "high"}}; empty for fewer than two classes.
    """
    if len(kinds) < 2:
        return {}
    labels, scores, result = np.asarray(labels), np.asarray(scores), {}
    for name, aucs in bootstrap_kinds(labels, [scores], kinds).items():
        low, high = interval(aucs[0])
        auc = kind_auc(labels, scores, kinds[name])
        result[name] = {"images": int(kinds[name][labels == 1].sum()), "auc": auc, "low": low, "high": high}
    return result


def bootstrap_auc(labels: Array, scores: Array, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of the AUC over images. Normal and abnormal images are resampled separately.

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: (N,), larger = more abnormal.
        resamples: how many.
        seed: of the generator that draws them.

    Returns:
        (low, high), floats in [0, 1].
    """
    return interval(bootstrap_aucs(labels, [scores], resamples, seed)[0])


def bootstrap_aucs(labels: Array, scores: Sequence[Array], resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Return the AUCs (K, resamples) of K scores (N,) of the same images. Each resample has the same images for all."""
    return bootstrap_kinds(labels, scores, {"all": np.asarray(labels) == 1}, resamples, seed)["all"]


def bootstrap_kinds(
    labels: Array, scores: Sequence[Array], kinds: Mapping[str, np.ndarray], resamples: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the AUCs of every abnormal class against all normal images, each resampled separately.

    Each resample has the same images for all scores, and the same normal images for all classes.

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: K of (N,), larger = more abnormal.
        kinds: {class: bool (N,)}, the images of each abnormal class, at least one.
        resamples: how many.
        seed: of the generator that draws them.

    Returns:
        {class: float64 (K, resamples)}.
    """
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    normal = int((labels == 0).sum())
    members = {name: np.asarray(mask)[labels == 1] for name, mask in kinds.items()}
    parts: dict[str, list] = {name: [] for name in kinds}

    def draw(count, rows):
        return rng.multinomial(count, np.full(count, 1 / count), rows)

    for start in range(0, resamples, 100):  # a part at a time, which bounds the memory of many images
        rows = min(100, resamples - start)
        drawn = draw(normal, rows)
        ranks = [ranks_above(labels, values, drawn) for values in scores]
        for name, mine in members.items():
            count = int(mine.sum())
            weights = draw(count, rows)
            parts[name].append([(weights * rank[:, mine]).sum(1) / (2 * normal * count) for rank in ranks])
    return {name: np.concatenate(found, axis=1) for name, found in parts.items()}


def ranks_above(labels: Array, scores: Array, weights: np.ndarray) -> np.ndarray:
    """Return twice the number of drawn normal images below every abnormal image; an equal one counts half.

    So the AUC of a resample is the sum over its abnormal images, divided by twice the number of its pairs.

    Args:
        labels, scores: (N,).
        weights: int64 (R, normal images), how often each normal image is drawn.

    Returns:
        int64 (R, abnormal images).
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    normal, abnormal = scores[labels == 0], scores[labels == 1]
    order = np.argsort(normal)
    below = np.zeros((len(weights), len(normal) + 1), np.int64)
    np.cumsum(weights[:, order], axis=1, out=below[:, 1:])
    first, last = (np.searchsorted(normal, abnormal, side, sorter=order) for side in ("left", "right"))
    return below[:, first] + below[:, last]


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of values (R,)."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def pixel_auroc(masks: np.ndarray, maps: np.ndarray) -> float:
    """Return the AUROC of all pixels of all images together.

    Args:
        masks: bool (N, H, W), the abnormal pixels; both kinds of pixel are present.
        maps: float (N, H, W), larger = more abnormal.

    Returns:
        AUROC in [0, 1].

    Raises:
        ValueError: all pixels are of one kind.
    """
    _require_both_kinds(masks)
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def aupro(masks: np.ndarray, maps: np.ndarray, limit: float = 0.3) -> float:
    """Return the area under the per-region-overlap curve up to a false positive rate, divided by that rate.

    A region is a connected component of an image's mask; pixels that touch at a corner are connected. At each threshold
    the per-region overlap is the mean, over all regions of all images, of the share of the region's pixels that reach
    the threshold. Each region counts the same, whatever its size.

    Args:
        masks, maps: as for `pixel_auroc`.
        limit: the false positive rate of pixels where the curve ends, above 0 and at most 1.

    Returns:
        AUPRO in [0, 1]; a map of constant value has limit / 2.

    Raises:
        ValueError: all pixels are of one kind.

    Source: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.1.
    """
    _require_both_kinds(masks)
    shares, counts = region_shares(masks)
    regions = counts.sum()
    order = np.argsort(-maps.ravel(), kind="stable")
    ranked, normal = maps.ravel()[order], ~masks.ravel()[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of each distinct value, which is a threshold
    false_positives = np.append(0, (normal.cumsum() / normal.sum())[last])
    overlap = np.append(0, (shares.ravel()[order].cumsum() / regions)[last])
    inside = false_positives < limit
    x = np.append(false_positives[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, false_positives, overlap))
    return float(auc(x, y) / limit)


def region_shares(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what each abnormal pixel adds to the sum of all overlaps, and the number of regions of each image.

    A region is a set of abnormal pixels that touch, also at corners. A pixel adds one over the number of its region's
    pixels.

    Args:
        masks: bool (N, H, W), true where abnormal.

    Returns:
        float (N, H, W), 0 where normal; float (N,).
    """
    shares, regions = np.zeros(masks.shape), np.zeros(len(masks))
    for i, mask in enumerate(masks):
        # SciPy's annotations lack the pair that `label` returns.
        components, regions[i] = cast("tuple[np.ndarray, int]", ndimage.label(mask, np.ones((3, 3))))
        shares[i][mask] = 1 / np.bincount(components[mask])[components[mask]]
    return shares, regions


def _require_both_kinds(masks):
    if masks.all() or not masks.any():
        raise ValueError("a map's AUROC needs normal and abnormal pixels, but all are of one kind")
