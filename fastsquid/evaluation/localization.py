"""How well heat maps find synthetic anomalies, and abnormal cells of DigitAnatomy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.images import select_images, to_unit
from ..data.negatives import Kind, lung_prior, with_anomaly
from ..data.split import Split
from ..errors import DivergedError
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..scoring.batches import gather, split_batches
from ..scoring.maps import Moments, anomaly_maps, by_cell
from ..scoring.scores import score_images, spread_images
from .metrics import aupro, evaluate, pixel_auroc
from .neighbors import nearest_scores
from .summary import describe_checkpoint

KINDS: tuple[Kind, ...] = ("haze", "opacity")
PRIOR = "lung_prior"  # the reference that every map should beat
STRENGTH = 0.2  # above which a pixel counts as abnormal; 1 = the anomaly has replaced the image
MOST = 200  # images, which bounds the time of large data sets
SIDE = 3  # cells per side of DigitAnatomy


@dataclass(frozen=True)
class Synthetic:
    """Healthy images with a synthetic anomaly each.

    Attributes:
        images: float32 (N, 1, H, H) in [0, 1], on the CPU.
        masks: bool (N, H, H), the abnormal pixels.
    """

    images: torch.Tensor
    masks: np.ndarray


def draw_synthetic(images: torch.Tensor, kind: Kind, seed: int = 0) -> Synthetic:
    """Draw a synthetic anomaly into each of some healthy images.

    Args:
        images: uint8 or uint16 (N, 1, H, H), or float32 in [0, 1]; healthy ones.
        kind: `haze` or `opacity`, as `data.negatives.with_anomaly` draws them.
        seed: of the anomalies. They are drawn on the CPU, so that they are the same for every device.
    """
    images = to_unit(images.cpu())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        abnormal, strength = with_anomaly(kind, images)
    return Synthetic(abnormal, strength[:, 0].numpy() > STRENGTH)


def healthy_images(data: dict[str, Split], shown: str) -> tuple[str, torch.Tensor] | None:
    """Return the split whose healthy images are known but not trained on, by its name, and these images.

    Args:
        data: splits by name.
        shown: the split that is reported, which comes first.

    Returns:
        the split's name and its images (N, 1, H, H); None where there are none.
    """
    for name in (shown, "test", "val"):
        labels = data[name].labels if name in data and name != "train" else None
        if labels is not None:
            images = select_images(data[name].images, labels == 0)
            if len(images):
                return name, images
    return None


def measure_synthetic(
    give: Callable[[torch.Tensor], dict[str, torch.Tensor]], images: torch.Tensor, batch_size: int = 64
) -> dict[str, dict[str, dict[str, float]]]:
    """Return how well maps find the pixels of synthetic anomalies.

    Args:
        give: function of images, float32 (B, 1, H, H) in [0, 1] on the CPU, that returns a dict of maps (B, H, H),
            larger = more abnormal.
        images: healthy images, as `draw_synthetic` takes them.

    Returns:
        {kind of anomaly: {map: {pixel_auroc, aupro}}}, as `metrics` defines them. The last map is `lung_prior`, the
        usual place of the lungs, the same for every image: anomalies are centered there, so it is better than chance.
    """
    result = {}
    for kind in KINDS:
        drawn = draw_synthetic(images, kind)
        batches = split_batches(drawn.images, drawn.images.device, batch_size)
        maps = {name: values.numpy() for name, values in gather(give, batches).items()}
        maps[PRIOR] = lung_prior(images.shape[-1])[:, 0].expand(len(images), -1, -1).numpy()
        result[kind] = {
            name: {"pixel_auroc": pixel_auroc(drawn.masks, values), "aupro": aupro(drawn.masks, values)}
            for name, values in maps.items()
        }
    return result


def locate(
    detector: Detector | Ensemble, train: Split, split: Split, calibration: dict[str, Moments], batch_size: int = 64
) -> dict[str, Any]:
    """Return how well maps find abnormal cells of DigitAnatomy, and abnormal images by their largest cell.

    Nearest neighbors are measured beside them.

    Args:
        detector: in eval mode.
        train, split: of DigitAnatomy; `split` has normal and abnormal images.
        calibration: as `calibrate_maps` returns it for the training images.
        batch_size: images per batch.

    Returns:
        dict with `cell_auc`, over all cells of all images, and `image_auc`, also of the score that ranks; each is
        {name: {auc, auc_by_kind}}. The cells of a kind are all normal cells, and the abnormal cells of its images.

    Raises:
        DivergedError: a map is not finite.
    """
    assert split.cells is not None and split.labels is not None

    def measure(batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: _by_cell(values) for name, values in finite_maps(detector, batch, calibration).items()}

    batches = split_batches(split.images, next(detector.parameters()).device, batch_size)
    cells = {name: values.numpy() for name, values in gather(measure, batches).items()}
    nearest, patches = nearest_scores(train.images, split.images, SIDE)
    largest = {f"largest {name}": values.max(1) for name, values in cells.items()}
    score = detector.config.score
    named = {f"score: {score}": score_images(detector, split.images)[score]}
    places = split.cells.flatten().long()
    kinds = split.abnormal_masks()
    cell_kinds = {name: np.repeat(mask, SIDE**2) for name, mask in kinds.items()}
    return {
        "cell_auc": {
            name: _aucs(places, values.ravel(), cell_kinds)
            for name, values in {**cells, "nearest_patch": patches}.items()
        },
        "image_auc": {
            name: _aucs(split.labels, values, kinds) for name, values in {**named, **largest, **nearest}.items()
        },
    }


def locate_synthetic(
    detector: Detector | Ensemble, images: torch.Tensor, calibration: dict[str, Moments]
) -> dict[str, Any]:
    """Return how well maps find synthetic anomalies in healthy images.

    Args:
        detector: in eval mode.
        images: uint8 or uint16 (N, 1, H, H), healthy, not trained on.
        calibration: as `calibrate_maps` gives it, of the training images.

    Returns:
        dict: `images`, how many were used; `strength`, above which a pixel of an anomaly is abnormal; and `synthetic`,
        as `localization.measure_synthetic` gives it.

    Raises:
        DivergedError: a map is not finite.
    """
    device = next(detector.parameters()).device
    used = spread_images(images, MOST)
    return {
        "images": len(used),
        "strength": STRENGTH,
        "synthetic": measure_synthetic(lambda batch: finite_maps(detector, batch.to(device), calibration), used),
    }


def finite_maps(
    detector: Detector | Ensemble, images: torch.Tensor, calibration: dict[str, Moments]
) -> dict[str, torch.Tensor]:
    """Return `scoring.maps.anomaly_maps`.

    Raises:
        DivergedError: a map is not finite.
    """
    maps = anomaly_maps(detector, images, calibration)
    for name, values in maps.items():
        if not values.isfinite().all():
            raise DivergedError(f"the detector's {name} map is not finite: its training has diverged")
    return maps


def _by_cell(maps):
    """Return the means over DigitAnatomy's cells: (B, H, W) -> (B, 9).

    Where 3 does not divide the side, the digits were drawn at the next multiple and resized. The maps are resized back.
    """
    side = -(-maps.shape[-1] // SIDE) * SIDE
    if side != maps.shape[-1]:
        maps = F.interpolate(maps[:, None], size=(side, side), mode="bilinear")[:, 0]
    return by_cell(maps, SIDE)


def _aucs(labels, values, kinds):
    metrics = evaluate(labels, values, kinds=kinds)
    return {name: metrics[name] for name in ("auc", "auc_by_kind")}


def cell_table(result: dict) -> str:
    """Return the AUCs of `localization.locate` as tables for people."""
    images, checkpoint = result["images"], result["checkpoint"]
    lines = [
        f"{result['split']} split: {images['normal']} normal, {images['abnormal']} abnormal; "
        + describe_checkpoint(checkpoint["name"], checkpoint["epoch"])
    ]
    for key, title in (("cell_auc", "AUC of the cells"), ("image_auc", "AUC of the images")):
        kinds = next(iter(result[key].values()))["auc_by_kind"]
        lines += ["", f"{title:32} {'all':>9} " + " ".join(f"{kind:>9}" for kind in kinds)]
        for name, aucs in result[key].items():
            values = (aucs["auc"], *aucs["auc_by_kind"].values())
            lines.append(f"{name:32} " + " ".join(f"{value:9.3f}" for value in values))
    return "\n".join(lines)


def synthetic_table(result: dict) -> str:
    """Return what `localization.locate_synthetic` measured as a table for people."""
    checkpoint = result["checkpoint"]
    lines = [
        f"{result['images']} healthy {result['split']} images with synthetic anomalies; "
        + describe_checkpoint(checkpoint["name"], checkpoint["epoch"]),
        "",
        " " * 20 + "".join(f" {kind:>18}" for kind in KINDS),
        f"{'map':20}" + " pixel AUROC  AUPRO" * len(KINDS),
    ]
    for name in result["synthetic"][KINDS[0]]:
        values = [result["synthetic"][kind][name] for kind in KINDS]
        mark = " *" if name == result["map"] else ""
        lines.append(f"{name + mark:20}" + "".join(f" {v['pixel_auroc']:11.3f}  {v['aupro']:5.3f}" for v in values))
    return "\n".join([*lines, "* the map of the score"])
