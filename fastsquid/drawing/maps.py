"""The figure of heat maps that `fastsquid.locate` writes."""

import torch
from matplotlib.figure import Figure

from ..data.images import select_images, to_unit
from ..data.split import Split
from ..evaluation.localization import finite_maps
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..scoring.maps import Moments
from .gallery import caption_or_name, choose_images
from .pictures import map_figure


def draw_maps(detector: Detector | Ensemble, split: Split, calibration: dict[str, Moments], where: str) -> Figure:
    """Draw eight images of a split, each with its reconstruction and every heat map.

    Args:
        detector: in eval mode.
        split: its images are chosen as by `choose_images`.
        calibration: as `calibrate_maps` returns it.
        where: detector and images, for the title.

    Returns:
        a matplotlib figure.

    Raises:
        DivergedError: a map is not finite.
    """
    chosen = torch.as_tensor(choose_images(split))
    images = to_unit(select_images(split.images, chosen)).to(next(detector.parameters()).device)
    maps = {name: values.cpu().numpy() for name, values in finite_maps(detector, images, calibration).items()}
    _, student = detector.scores(images)
    assert student is not None
    captions = [caption_or_name(split, i) for i in chosen.tolist()]
    places = [split.shown_places(i) for i in chosen.tolist()]
    return map_figure(images[:, 0].cpu().numpy(), student[:, 0].cpu().numpy(), maps, captions, places, where)
