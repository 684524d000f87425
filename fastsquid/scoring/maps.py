"""Where an image is abnormal: maps of what the model computes anyway, calibrated on normal images.

Both papers name localisation as what they cannot do (SQUID 5.2). A place counts as abnormal where it differs from its
own values in healthy images, so that an edge that is drawn badly in every image does not.
"""

import math

import torch
import torch.nn.functional as F

from ..config import COMBINED
from ..data.images import to_unit
from ..model.ensemble import Ensemble
from ..model.patches import to_patches
from .gradcam import grad_cam

Moments = tuple[torch.Tensor, torch.Tensor]  # mean and standard deviation of a map at every pixel


def forward_maps(detector, images, drawn=None):
    """What is known of every pixel from a pass without gradients, larger = more abnormal.

    Args:
        detector: a `Detector` in eval mode, or an `Ensemble`.
        images: float (B, 1, H, W) in [0, 1], on the detector's device.
        drawn: what `detector.draw` gave of them, where it is there already.

    Returns:
        dict of float32 (B, H, W): `residual`, squared error of the reconstruction, smoothed by a Gaussian of 1/32 of
        the side; `memory_distance`, |z - m|^2 / |z|^2 of the patch's token, interpolated between patch centres, where
        there is an in-painting memory; and where D has cells `discriminator_image`, minus its cells' logits on the
        image, interpolated between their centers, `discriminator`, the same on the reconstruction, and, if that score
        ranks, `combined`, the sum of both, each divided by its score's deviation over healthy images. Of an ensemble of
        R detectors each is (B, R, H, W).
    """
    if isinstance(detector, Ensemble):
        return detector.every_map(forward_maps, images, drawn)
    size, grid = images.shape[-1], detector.config.grid
    with torch.no_grad():
        inputs, out = drawn or detector.draw(images)
        seen, student = detector.from_range(inputs), detector.from_range(out.student.to(images.dtype))
        maps = {"residual": smooth((seen - student) ** 2, size / 32)[:, 0]}
        if out.memory_distance is not None:
            distance = out.memory_distance.view(-1, 1, grid, grid)
            maps["memory_distance"] = F.interpolate(distance, size=(size, size), mode="bilinear")[:, 0]
        if detector.has_cells:
            cells = detector.judge_cells(images, (inputs, out))
            if detector.config.score == "combined":  # as the score adds them
                cells["combined"] = sum(cells[name] / moments[1] for name, moments in zip(COMBINED, detector.usual))
            for name, values in cells.items():
                maps[name] = F.interpolate(values[:, None], size=(size, size), mode="bilinear")[:, 0]
    return {name: values.float() for name, values in maps.items()}


def raw_maps(detector, images, drawn=None):
    """`forward_maps`, and where there is a discriminator `grad_cam`."""
    if isinstance(detector, Ensemble):
        return detector.every_map(raw_maps, images, drawn)
    maps = forward_maps(detector, images, drawn)
    if detector.discriminator is not None:
        maps["grad_cam"] = grad_cam(detector, images).float()
    return maps


def smooth(images, deviation):
    """Images (B, 1, H, W) convolved with a Gaussian of so many pixels; the border counts what is inside."""
    radius = math.ceil(3 * deviation)
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(x**2) / (2 * deviation**2))

    def blur(images):
        images = F.conv2d(images, kernel.view(1, 1, -1, 1), padding=(radius, 0))
        return F.conv2d(images, kernel.view(1, 1, 1, -1), padding=(0, radius))

    return blur(images) / blur(torch.ones_like(images[:1]))


def calibrate_maps(detector, images, batch_size=64, maps=raw_maps):
    """Mean and standard deviation of every map at every pixel, over normal images.

    A deviation counts at least as much as the map's mean one, so that places that hardly ever vary decide nothing.

    Args:
        detector: a `Detector` in eval mode, or an `Ensemble`.
        images: uint8 or uint16 (N, 1, H, W), or float32 in [0, 1], on any device; normal ones.
        maps: the function that gives them, `raw_maps` or `forward_maps`.

    Returns:
        {map: (mean (H, W), standard deviation (H, W))}, float32 on the CPU; of an ensemble both are (R, H, W).
    """
    sums, device = {}, next(detector.parameters()).device
    for batch in images.split(batch_size):
        for name, values in maps(detector, to_unit(batch.to(device))).items():
            values = values.cpu().double()  # MPS has no float64
            moments = torch.stack([values.sum(0), values.square().sum(0)])
            sums[name] = sums.get(name, 0) + moments
    result = {}
    for name, moments in sums.items():
        mean, square = moments / len(images)
        deviation = (square - mean**2).clamp_min(0).sqrt()
        result[name] = (
            mean.float(),
            deviation.clamp_min(deviation.mean((-2, -1), keepdim=True)).clamp_min(1e-12).float(),
        )
    return result


def anomaly_maps(detector, images, calibration, drawn=None):
    """Maps in standard deviations from what is normal at each pixel.

    Args:
        detector, images, drawn: as `forward_maps`.
        calibration: as `calibrate_maps` gives it, or some of its maps.

    Returns:
        dict of float32 (B, H, W), the maps that are calibrated; of an ensemble the mean of its members' own.
    """
    raw = (raw_maps if "grad_cam" in calibration else forward_maps)(detector, images, drawn)
    maps = {
        name: (raw[name] - mean.to(images.device)) / deviation.to(images.device)
        for name, (mean, deviation) in calibration.items()
    }
    return {name: values.mean(1) for name, values in maps.items()} if isinstance(detector, Ensemble) else maps


def by_cell(maps, side):
    """Mean of maps (B, H, W) over each of side x side cells: (B, side * side), row by row."""
    return to_patches(maps[:, None], side).mean((1, 2, 3)).view(len(maps), -1)
