"""Maps of what is abnormal: each against its definition, and what they make of a planted anomaly."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from fastsquid.config import preset
from fastsquid.data import to_unit
from fastsquid.model.detector import Detector
from fastsquid.model.networks import Reconstruction
from fastsquid.scoring.gradcam import grad_cam
from fastsquid.scoring.maps import anomaly_maps, by_cell, calibrate_maps, raw_maps, smooth

CONFIGS = {
    "digits": dict(width=4, slots=8),
    "fastsquid-small": dict(width=4, slots=8),
    "simsid-small": dict(width=4, slots=8, inpainting="off"),
    "memae-small": dict(width=4, slots=8),
    "auto-encoder-small": dict(width=4),
}


@pytest.fixture(scope="module", params=CONFIGS)
def detector(request):
    """An untrained detector, but one whose reconstructions and logits depend on the image."""
    torch.manual_seed(0)
    detector = Detector(preset(request.param, **CONFIGS[request.param])).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += parameter.std(correction=0) * torch.randn_like(parameter)
    return detector


def some(count, size, dtype=torch.uint8):
    return torch.randint(torch.iinfo(dtype).max + 1, (count, 1, size, size)).to(dtype)


@pytest.mark.parametrize("deviation", [0.8, 1.5, 4])
def test_smooth_is_a_gaussian(deviation):
    images = torch.rand(2, 1, 48, 48)
    options = dict(sigma=deviation, mode="constant", truncate=np.ceil(3 * deviation) / deviation)
    inside = gaussian_filter(np.ones((48, 48)), **options)
    for image, mine in zip(images[:, 0].double().numpy(), smooth(images, deviation)[:, 0]):
        np.testing.assert_allclose(mine, gaussian_filter(image, **options) / inside, atol=1e-6)
    constant = torch.full((1, 1, 48, 48), 0.7)
    torch.testing.assert_close(smooth(constant, deviation), constant, atol=1e-6, rtol=0)


def test_raw_maps_are_their_definitions(detector):
    config = detector.config
    size, grid = config.image_size, config.grid
    images = to_unit(some(3, size))
    maps = raw_maps(detector, images)
    expected = {"residual"}
    expected |= {"memory_distance"} if config.inpainting != "off" else set()
    expected |= {"grad_cam"} if config.discriminator else set()
    expected |= {"discriminator", "discriminator_image", "combined"} if config.discriminator_head == "cells" else set()
    assert set(maps) == expected
    assert all(values.shape == (3, size, size) and values.dtype == torch.float32 for values in maps.values())
    assert not any(values.requires_grad for values in maps.values())

    seen = images
    if config.standardize:
        mean, deviation = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), correction=0, keepdim=True)
        seen = (0.5 + 0.2 * (images - mean) / deviation).clamp(0, 1)
    inside, unit = (seen, lambda x: x) if config.value_range == "unit" else (2 * seen - 1, lambda x: (x + 1) / 2)
    with torch.no_grad():
        out = detector.generator(inside)
    errors = (seen - unit(out.student)).square()
    torch.testing.assert_close(maps["residual"], smooth(errors, size / 32)[:, 0], atol=1e-6, rtol=1e-4)
    if "grad_cam" in maps:
        torch.testing.assert_close(maps["grad_cam"], grad_cam(detector, images))
    if "combined" in maps:
        (_, deviation), (_, other_deviation) = detector.usual
        with torch.no_grad():
            cells = -detector.discriminator(out.student, norm="image", cells=True)
            other = -detector.discriminator(inside, norm="image", cells=True)
        both = cells / deviation + other / other_deviation
        for name, values in {"discriminator": cells, "discriminator_image": other, "combined": both}.items():
            values = torch.nn.functional.interpolate(values[:, None], size=(size, size), mode="bilinear")[:, 0]
            torch.testing.assert_close(maps[name], values)
    if "memory_distance" in maps:
        centres, pixels = (np.arange(grid) + 0.5) * size / grid, np.arange(size) + 0.5
        for table, mine in zip(out.memory_distance.double().numpy().reshape(-1, grid, grid), maps["memory_distance"]):
            rows = np.stack([np.interp(pixels, centres, column) for column in table.T], 1)  # [size, grid]
            expected = np.stack([np.interp(pixels, centres, row) for row in rows])
            np.testing.assert_allclose(mine, expected, rtol=1e-5)


def test_calibration_is_mean_and_deviation(detector):
    images = some(7, detector.config.image_size, torch.uint16)
    calibration = calibrate_maps(detector, images, batch_size=3)
    # In the same batches: the rounding of others would be all the deviation of a map that is the same for every image.
    raw = [raw_maps(detector, to_unit(batch)) for batch in images.split(3)]
    assert list(calibration) == list(raw[0])
    for name, (mean, deviation) in calibration.items():
        values = torch.cat([maps[name] for maps in raw]).double().numpy()
        np.testing.assert_allclose(mean, values.mean(0), atol=1e-6, rtol=1e-5)
        spread = values.std(0)
        floor = max(np.mean(spread), 1e-12)
        np.testing.assert_allclose(deviation, np.maximum(spread, floor), rtol=1e-2, atol=1e-7)
        assert (deviation > 0).all()


def test_training_images_are_normal(detector):
    images = some(9, detector.config.image_size)
    maps = anomaly_maps(detector, to_unit(images), calibrate_maps(detector, images))
    raw = raw_maps(detector, to_unit(images))
    assert list(maps) == list(raw)
    for name, values in maps.items():
        assert values.shape == images[:, 0].shape and values.mean(0).abs().max() < 1e-2, name
        spread = raw[name].std(0, correction=0)
        own = spread > spread.mean() * 1.01  # in its own deviations where it varies more than the mean pixel
        torch.testing.assert_close(values.std(0, correction=0)[own], torch.ones(int(own.sum())), atol=1e-2, rtol=0)


def test_image_by_image(detector):
    """In float64: convolutions of one image and of four may be other code, whose rounding normalization magnifies."""
    detector, images = detector.double(), to_unit(some(4, detector.config.image_size)).double()
    together = raw_maps(detector, images)
    for i in range(4):
        for name, values in raw_maps(detector, images[i : i + 1]).items():
            torch.testing.assert_close(together[name][i], values[0], atol=1e-5, rtol=1e-5)


def test_by_cell_against_a_loop():
    maps = torch.rand(2, 12, 12)
    for side in (1, 2, 3):
        cells, step = by_cell(maps, side), 12 // side
        assert cells.shape == (2, side**2)
        for i in range(side**2):
            top, left = i // side * step, i % side * step
            expected = [values[top : top + step, left : left + step].mean() for values in maps]
            torch.testing.assert_close(cells[:, i], torch.stack(expected))


def test_a_planted_square_is_found(monkeypatch):
    """Where the generator draws the healthy anatomy, whatever it is shown, and always badly in one corner."""
    detector = Detector(preset("auto-encoder-small", width=4)).eval()
    healthy = torch.full((1, 1, 64, 64), 0.4)
    healthy[..., :16, :16] = 0.9
    monkeypatch.setattr(
        detector.generator, "forward", lambda images: Reconstruction(healthy.expand_as(images), *[None] * 5)
    )
    train = (255 * (0.4 + 0.05 * torch.randn(30, 1, 64, 64)).clamp(0, 1)).to(torch.uint8)
    calibration = calibrate_maps(detector, train)
    images = to_unit(train[:1]).repeat(2, 1, 1, 1)
    images[1, :, 36:44, 20:28] += 0.3
    maps = anomaly_maps(detector, images, calibration)
    row, column = divmod(int(maps["residual"][1].argmax()), 64)
    assert 34 <= row < 46 and 18 <= column < 30
    assert maps["residual"][1].max() > 10 > maps["residual"][0].max()
    assert by_cell(maps["residual"], 4)[1].argmax() == 9  # the third row's second cell
    assert raw_maps(detector, images)["residual"][1].argmax() // 64 < 16  # the corner, were it not for calibration
