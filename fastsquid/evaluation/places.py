"""How well heat maps find known boxes and masks: pixel AUROC, AUPRO, pointing game and IoU, with intervals.

Pixels of all images are sorted into `BINS` bins by rank, once per map. Curves are computed from the bins, also for each
resample of the images. So a figure may differ from that of `metrics.pixel_auroc` and `metrics.aupro` by 1 / BINS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from sklearn.metrics import auc

from ..data.images import select_images
from ..data.places import Places
from ..data.split import Split
from ..scoring.batches import gather, split_batches
from .metrics import interval, region_shares

BINS = 4096
MOST = 1000  # images of each label, which bounds time and memory of large data sets
RESAMPLES = 1000
LIMIT = 0.3  # the false positive rate where AUPRO's curve ends
SHARES = (0.01, 0.05, 0.1)  # of the healthy images' pixels that are above a threshold
MEASURES = ("pixel_auroc", "aupro", "pointing_game", *(f"iou_{share}" for share in SHARES))


@dataclass(frozen=True)
class _Binned:
    """What an image, or a region of it, has in each bin, highest value first.

    Attributes:
        normal: (N, BINS), the number of normal pixels.
        abnormal: (N, BINS), the number of abnormal pixels.
        overlap: (N, BINS), the sum over regions of the share of their pixels.
        regions: (N,).
    """

    normal: np.ndarray
    abnormal: np.ndarray
    overlap: np.ndarray
    regions: np.ndarray


def measure_places(
    give: Callable[[torch.Tensor], dict[str, torch.Tensor]], split: Split, device: torch.device, batch_size: int = 64
) -> dict[str, Any]:
    """Return how well maps find the places of a split's findings.

    Of a split with more than `MOST` healthy or `MOST` abnormal images of known places, that many are used, evenly
    spread.

    Args:
        give: function of images, float32 (B, 1, S, S) in [0, 1] on the device, that returns a dict of maps (B, S, S),
            larger = more abnormal.
        split: labeled, with healthy images, and with abnormal ones whose places are known.
        device: that the images are moved to.
        batch_size: images per batch.

    Returns:
        dict: `healthy` and `abnormal`, how many images were used; `places`, {map: {"all" or a finding:
        `measure_known`}}, and `findings`, {name: number of images}.
    """
    assert split.places is not None and split.labels is not None
    chosen = [_spread(np.flatnonzero(split.labels.numpy() == 0)), _spread(np.flatnonzero(known_places(split)))]
    both = np.concatenate(chosen)
    places = [Places() for _ in chosen[0]] + [cast(Places, split.places[i]) for i in chosen[1]]
    maps = gather(give, split_batches(select_images(split.images, both), device, batch_size))
    findings = sorted(set[str]().union(*(one.findings for one in places)))
    counts = {name: sum(name in one.findings for one in places) for name in findings}
    measured = {name: measure_known(values.numpy(), places, findings) for name, values in maps.items()}
    return {"healthy": len(chosen[0]), "abnormal": len(chosen[1]), "findings": counts, "places": measured}


def known_places(split: Split) -> np.ndarray:
    """Return which images are abnormal and show a place that is known: bool (N,)."""
    if split.places is None or split.labels is None:
        return np.zeros(len(split), bool)
    size = split.images.shape[-1]
    labeled = zip(split.places, split.labels.tolist())
    return np.array([bool(label and places is not None and places.mask(size).any()) for places, label in labeled])


def measure_known(maps: np.ndarray, places: Sequence[Places], findings: Sequence[str] = ()) -> dict[str, Any]:
    """Return how well one kind of map finds places.

    - `pixel_auroc`: AUROC of all pixels of all images together.
    - `aupro`: area under the per-region-overlap curve up to a false positive rate of `LIMIT`, as `metrics.aupro`.
    - `pointing_game`: share of abnormal images whose highest pixel is in one of their places. Of equal pixels, the
      first one counts.
    - `iou_0.05` and so on: mean over abnormal images of the intersection over union of their places, and the pixels
      above a threshold. This share of the healthy images' pixels is above it.

    For one finding the abnormal images are those that have it. Pixels that belong only to other findings are left out.

    Args:
        maps: float (N, S, S), larger = more abnormal.
        places: of the N images. Those without any are healthy; there is at least one healthy and one other.
        findings: names that are also measured each on its own, with `places` of at least one image.

    Returns:
        {"all" or a finding: {measure: {"value", "low", "high"}}}: the measure and its 95 % percentile interval over
        resamples of the images, healthy and abnormal ones separately.

    Sources: Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, section 5.1 (pixel AUROC, AUPRO); Zhang
    et al., "Top-down Neural Attention by Excitation Backprop", IJCV 2018 (pointing game, here without tolerance).
    """
    size = maps.shape[-1]
    bins = _ranked(maps)
    masks = np.stack([one.mask(size) for one in places])
    abnormal = masks.any((1, 2))
    normal = _resampled((~abnormal).sum(), 0) @ _count(bins[~abnormal].reshape((~abnormal).sum(), -1))
    thresholds = [float(np.quantile(maps[~abnormal], 1 - share)) for share in SHARES]
    result = {"all": _measure(maps[abnormal], bins[abnormal], masks[abnormal], masks[abnormal], normal, thresholds)}
    for name in findings:
        mine = abnormal & [name in one.findings for one in places]
        own = np.stack([one.mask(size, name) for one, have in zip(places, mine) if have])
        result[name] = _measure(maps[mine], bins[mine], own, masks[mine], normal, thresholds)
    return result


def _measure(maps, bins, own, masks, healthy, thresholds):
    """Return all measures of abnormal images.

    Args:
        maps: (N, S, S).
        bins: (N, S, S), the bins of their pixels.
        own: bool (N, S, S), the places that are looked for.
        masks: bool (N, S, S), all places; what is only here is left out.
        healthy: (1 + RESAMPLES, BINS), the counts of the healthy images, and of resamples of them.
        thresholds: one per entry of `SHARES`.
    """
    kept = own | ~masks
    sick = _bin(bins, own, kept)
    hidden = np.where(kept, maps, -np.inf)
    highest = hidden.reshape(len(maps), -1).argmax(1)
    hits = own.reshape(len(own), -1)[np.arange(len(own)), highest].astype(float)
    means = {"pointing_game": hits}
    for share, threshold in zip(SHARES, thresholds):
        above = hidden > threshold
        means[f"iou_{share}"] = (above & own).sum((1, 2)) / (above | own).sum((1, 2))
    drawn = _resampled(len(maps), 1)
    normal = healthy + drawn @ sick.normal
    values = {
        "pixel_auroc": _auroc(normal, drawn @ sick.abnormal),
        "aupro": _aupro(normal, drawn @ sick.overlap / (drawn @ sick.regions)[:, None]),
        **{name: drawn @ one / len(maps) for name, one in means.items()},
    }
    return {name: _with_interval(values[name]) for name in MEASURES}


def _resampled(count, label):
    """Return how often each image of a label counts: once, then in each resample: (1 + RESAMPLES, N)."""
    drawn = np.random.default_rng((count, label)).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn])


def _with_interval(values):
    low, high = interval(values[1:])
    return {"value": float(values[0]), "low": low, "high": high}


def _ranked(maps):
    """Return each pixel's bin, int64 in [0, BINS), 0 for the highest values; equal values share a bin."""
    edges = np.unique(np.quantile(maps, np.linspace(0, 1, BINS + 1)[1:-1]))
    return BINS - 1 - np.searchsorted(edges, maps, side="left")


def _count(bins, weights=None):
    """Return the sums of weights, or the numbers of pixels, in each bin: (N, P) -> float64 (N, BINS)."""
    offset = bins + BINS * np.arange(len(bins))[:, None]
    flat = np.bincount(offset.ravel(), None if weights is None else weights.ravel(), BINS * len(bins))
    return flat.reshape(len(bins), BINS).astype(np.float64)


def _bin(bins, own, kept):
    shares, regions = region_shares(own)
    flat = bins.reshape(len(bins), -1)
    normal, abnormal = (kept & ~own).reshape(flat.shape), own.reshape(flat.shape)
    return _Binned(_count(flat, normal), _count(flat, abnormal), _count(flat, shares), regions)


def _auroc(normal, abnormal):
    """Return AUROCs of counts per bin (R, BINS), highest values first; pairs in one bin count half."""
    above = np.cumsum(abnormal, 1) - abnormal / 2
    return (above * normal).sum(1) / (normal.sum(1) * abnormal.sum(1))


def _aupro(normal, overlap):
    """Return AUPROs (R,).

    Args:
        normal: (R, BINS), numbers of normal pixels, highest values first.
        overlap: (R, BINS), what each bin adds to the mean overlap of regions.
    """
    areas = np.empty(len(normal))
    rates = np.pad(np.cumsum(normal, 1) / normal.sum(1, keepdims=True), ((0, 0), (1, 0)))
    heights = np.pad(np.cumsum(overlap, 1), ((0, 0), (1, 0)))
    for i, (x, y) in enumerate(zip(rates, heights)):
        inside = x < LIMIT
        areas[i] = auc(np.append(x[inside], LIMIT), np.append(y[inside], np.interp(LIMIT, x, y))) / LIMIT
    return areas


def _spread(indices):
    """Return at most `MOST` of the indices (N,), evenly spread."""
    return indices[np.linspace(0, len(indices) - 1, min(MOST, len(indices))).round().astype(int)]


def places_table(result: Mapping[str, Any], split: str, shown: str) -> str:
    """Return what `measure_places` found as a table for people.

    Args:
        result: of `measure_places`.
        split: name of the split.
        shown: the map of the score, which gets a star.
    """
    lines = [
        f"{result['abnormal']} abnormal {split} images of known places, {result['healthy']} healthy ones",
        "",
        f"{'map, finding':34} {'pixel AUROC':>20} {'AUPRO':>20} {'pointing game':>20}"
        + "".join(f" {f'IoU at {100 * share:g} %':>20}" for share in SHARES),
    ]
    for name, found in result["places"].items():
        mark = " *" if name == shown else ""
        for finding, measures in found.items():
            if finding != "all" and len(result["findings"]) == 1:
                continue  # the same as all
            count = result["findings"].get(finding, result["abnormal"])
            title = name + mark if finding == "all" else f"  {finding} ({count})"
            cells = ("{value:.3f} ({low:.3f}, {high:.3f})".format(**measures[measure]) for measure in MEASURES)
            lines.append(f"{title:34} " + " ".join(f"{cell:>20}" for cell in cells))
    lines.append(
        "* the map of the score. In brackets: 95 % intervals over images. IoU at 5 %: 5 % of the pixels of healthy "
        "images are above the threshold\n"
    )
    return "\n".join(lines)
