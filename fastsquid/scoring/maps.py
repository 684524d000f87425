"""Heat maps of where an image is abnormal, from values that the model computes anyway, calibrated on normal images.

Both papers name localization as a limit of their methods (SQUID 5.2). A pixel counts as abnormal if it differs from its
own values in healthy images. So an edge that the generator draws badly in every image does not count.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..config import COMBINED
from ..model.detector import Detector
from ..model.ensemble import Ensemble
from ..model.patches import to_patches
from .batches import split_batches
from .gradcam import grad_cam

Moments = tuple[torch.Tensor, torch.Tensor]  # mean and standard deviation of a map at every pixel


def forward_maps(
    detector: Detector | Ensemble, images: torch.Tensor, reconstructed: Any | None = None
) -> dict[str, torch.Tensor]:
    """Return the maps that need no gradients, larger = more abnormal.

    Args:
        detector: in eval mode.
        images: float (B, 1, H, W) in [0, 1], on the detector's device.
        reconstructed: what `detector.reconstruct` returned for them, or None.

    Returns:
        {map: float32 (B, H, W)}; of an ensemble of R detectors (B, R, H, W). The maps are:

        - `residual`: squared error of the reconstruction, smoothed by a Gaussian of 1/32 of the side.
        - `memory_distance`: |z - m|^2 / |z|^2 of each patch's token, interpolated between patch centers. It needs an
          in-painting memory.
        - `discriminator_image`: minus the logits of the discriminator's cells on the image, interpolated between their
          centers. This and the next map need a discriminator with cells.
        - `discriminator`: the same on the reconstruction, where the discriminator learned to reject reconstructions.
        - `combined`: the sum of both, each divided by the standard deviation of its score over healthy images. It needs
          this score to be the one that ranks.
    """
    if isinstance(detector, Ensemble):
        return detector.every_map(forward_maps, images, reconstructed)
    size, grid = images.shape[-1], detector.config.grid
    with torch.no_grad():
        inputs, out = reconstructed or detector.reconstruct(images)
        seen, student = detector.from_range(inputs), detector.from_range(out.student.to(images.dtype))
        maps = {"residual": smooth((seen - student) ** 2, size / 32)[:, 0]}
        if out.memory_distance is not None:
            distance = out.memory_distance.view(-1, 1, grid, grid)
            maps["memory_distance"] = F.interpolate(distance, size=(size, size), mode="bilinear")[:, 0]
        if detector.has_cells:
            cells = detector.cell_scores(images, (inputs, out))
            if detector.config.score == "combined":  # as the score adds them
                first, second = (cells[name] / moments[1] for name, moments in zip(COMBINED, detector.usual))
                cells["combined"] = first + second
            for name, values in cells.items():
                maps[name] = F.interpolate(values[:, None], size=(size, size), mode="bilinear")[:, 0]
    return {name: values.float() for name, values in maps.items()}


def raw_maps(
    detector: Detector | Ensemble, images: torch.Tensor, reconstructed: Any | None = None
) -> dict[str, torch.Tensor]:
    """Return `forward_maps`, and `grad_cam` if there is a discriminator."""
    if isinstance(detector, Ensemble):
        return detector.every_map(raw_maps, images, reconstructed)
    maps = forward_maps(detector, images, reconstructed)
    if detector.discriminator is not None:
        maps["grad_cam"] = grad_cam(detector, images).float()
    return maps


def smooth(images: torch.Tensor, deviation: float) -> torch.Tensor:
    """Return images (B, 1, H, W) convolved with a Gaussian.

    Args:
        images: float (B, 1, H, W).
        deviation: standard deviation of the Gaussian in pixels. At the border only pixels inside count.
    """
    radius = math.ceil(3 * deviation)
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(x**2) / (2 * deviation**2))

    def blur(images: torch.Tensor) -> torch.Tensor:
        images = F.conv2d(images, kernel.view(1, 1, -1, 1), padding=(radius, 0))
        return F.conv2d(images, kernel.view(1, 1, 1, -1), padding=(0, radius))

    return blur(images) / blur(torch.ones_like(images[:1]))


def calibrate_maps(
    detector: Detector | Ensemble,
    images: torch.Tensor,
    batch_size: int = 64,
    maps: Callable[..., dict[str, torch.Tensor]] = raw_maps,
) -> dict[str, Moments]:
    """Return mean and standard deviation of every map at every pixel, over normal images.

    A standard deviation is at least the map's mean one, so that pixels that hardly vary do not dominate.

    Args:
        detector: in eval mode.
        images: normal ones, uint8 or uint16 (N, 1, H, W), or float32 in [0, 1], on any device.
        batch_size: images per batch.
        maps: the function that computes maps, `raw_maps` or `forward_maps`.

    Returns:
        {map: (mean (H, W), standard deviation (H, W))}, float32 on the CPU; of an ensemble both are (R, H, W).
    """
    sums: dict[str, torch.Tensor] = {}
    device = next(detector.parameters()).device
    for batch in split_batches(images, device, batch_size):
        for name, values in maps(detector, batch).items():
            values = values.cpu().double()  # MPS has no float64
            moments = torch.stack([values.sum(0), values.square().sum(0)])
            sums[name] = sums[name] + moments if name in sums else moments
    result: dict[str, Moments] = {}
    for name, moments in sums.items():
        mean, square = moments / len(images)
        deviation = (square - mean**2).clamp_min(0).sqrt()
        result[name] = (
            mean.float(),
            deviation.clamp_min(deviation.mean((-2, -1), keepdim=True)).clamp_min(1e-12).float(),
        )
    return result


def anomaly_maps(
    detector: Detector | Ensemble,
    images: torch.Tensor,
    calibration: dict[str, Moments],
    reconstructed: Any | None = None,
) -> dict[str, torch.Tensor]:
    """Return maps in standard deviations from the normal values at each pixel.

    Args:
        detector, images, reconstructed: as for `forward_maps`.
        calibration: as `calibrate_maps` returns it, or some of its maps.

    Returns:
        {map: float32 (B, H, W)} of the calibrated maps; of an ensemble the mean over its members.
    """
    raw = (raw_maps if "grad_cam" in calibration else forward_maps)(detector, images, reconstructed)
    maps = {
        name: (raw[name] - mean.to(images.device)) / deviation.to(images.device)
        for name, (mean, deviation) in calibration.items()
    }
    return {name: values.mean(1) for name, values in maps.items()} if isinstance(detector, Ensemble) else maps


def by_cell(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Return the mean of maps (B, H, W) over each of side x side cells: (B, side * side), row by row."""
    return to_patches(maps[:, None], side).mean((1, 2, 3)).view(len(maps), -1)
