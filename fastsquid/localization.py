"""How well maps find anomalies whose places are known: synthetic ones, drawn into healthy images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .data import to_unit
from .data.negatives import lung_prior, with_anomaly
from .data.split import Split
from .metrics import aupro, pixel_auroc

KINDS = ("haze", "opacity")
PRIOR = "lung_prior"  # the reference that every map should beat
STRENGTH = 0.2  # above which a pixel counts as abnormal; 1 = the anomaly has replaced the image
MOST = 200  # images, which bounds the time of large data sets


@dataclass(frozen=True)
class Synthetic:
    """Healthy images with a synthetic anomaly each.

    Attributes:
        images: float32 (N, 1, H, H) in [0, 1], on the CPU.
        masks: bool (N, H, H), the abnormal pixels.
    """

    images: torch.Tensor
    masks: np.ndarray


def draw_synthetic(images: torch.Tensor, kind: str, seed: int = 0) -> Synthetic:
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
        if name in data and name != "train" and data[name].labels is not None:
            images = data[name].images[data[name].labels == 0]
            if len(images):
                return name, images
    return None


def measure_maps(
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
        drawn, parts = draw_synthetic(images, kind), {}
        for batch in drawn.images.split(batch_size):
            for name, values in give(batch).items():
                parts.setdefault(name, []).append(values.cpu())
        maps = {name: torch.cat(values).numpy() for name, values in parts.items()}
        maps[PRIOR] = lung_prior(images.shape[-1])[:, 0].expand(len(images), -1, -1).numpy()
        result[kind] = {
            name: {"pixel_auroc": pixel_auroc(drawn.masks, values), "aupro": aupro(drawn.masks, values)}
            for name, values in maps.items()
        }
    return result
