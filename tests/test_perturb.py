"""Changes that are no anomaly, against definitions written out here."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from fastsquid.data.perturb import CONFOUNDS, PERTURBATIONS


@pytest.fixture
def images():
    """Noise, an image of the middle grays alone, black, white, and a step."""
    images = torch.rand(5, 1, 40, 40)
    images[1] = 0.3 + 0.4 * images[1]
    images[2], images[3] = 0, 1
    images[4, :, :, :17], images[4, :, :, 17:] = 0, 1
    return images


def resized(rows, size):
    """Rows (n, m) -> (size, m): bilinear, a triangle as wide as the coarser pixels around each new pixel's centre."""
    scale = len(rows) / size
    distance = np.abs(np.arange(len(rows)) + 0.5 - (np.arange(size)[:, None] + 0.5) * scale)
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return weights / weights.sum(1, keepdims=True) @ rows


def framed(image, size):
    return resized(resized(image, size).T, size).T


def expected(name, image):
    """The perturbation of one image (S, S), in float64."""
    kind, parameter = [*name.split(), ""][:2]
    side = len(image)
    if kind == "rotate":
        return ndimage.rotate(image, float(parameter), reshape=False, order=1, mode="grid-constant")
    if kind == "mirror":
        return image[:, ::-1]
    if kind == "blur":
        return ndimage.gaussian_filter(image, 0.01 * side, mode="nearest", radius=int(np.ceil(0.03 * side)))
    if kind == "noise":
        noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).numpy()
        cells = np.arange(side) * 64 // side
        return np.clip(image + 0.05 * noise[np.ix_(cells, cells)], 0, 1)
    if kind == "JPEG":
        file = io.BytesIO()
        Image.fromarray(np.rint(255 * image).astype(np.uint8)).save(file, "JPEG", quality=int(parameter))
        return np.asarray(Image.open(file)) / 255
    if kind == "gamma":
        return np.exp(float(parameter) * np.log(np.maximum(image, 1e-300)))
    if kind == "contrast":
        return np.clip(image.mean() + float(parameter) * (image - image.mean()), 0, 1)
    edge = max(1, round(len(image) * float(parameter) / 100))
    padded = np.pad(image, edge, constant_values=int(kind == "white"))
    return framed(image[edge:-edge, edge:-edge] if kind == "crop" else padded, side)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_each_is_its_definition(name, images):
    for batch in (images, torch.rand(3, 1, 64, 64), torch.rand(3, 1, 9, 9)):
        for image, mine in zip(batch.double()[:, 0].numpy(), PERTURBATIONS[name](batch)[:, 0].numpy()):
            np.testing.assert_allclose(mine, expected(name, image), atol=1e-5)


@pytest.mark.parametrize("change", PERTURBATIONS.values(), ids=PERTURBATIONS)
def test_range_shape_type_and_batch(change, images):
    before = images.clone()
    for kind in (torch.float32, torch.float64):
        changed = change(images.to(kind))
        assert changed.dtype == kind and changed.shape == images.shape
        assert changed.min() >= 0 and changed.max() <= 1 + 1e-6  # resizing's weights sum to 1 but for rounding
        alone = torch.cat([change(image[None]) for image in images.to(kind)])
        torch.testing.assert_close(changed, alone, atol=1e-6, rtol=0)
        assert (changed - images)[0].abs().max() > 0.01
    assert torch.equal(images, before)


def test_what_they_mean(images):
    at = {name: change(images) for name, change in PERTURBATIONS.items()}
    # Below 1 a gamma brightens, above it darkens; black and white stay.
    assert (at["gamma 0.8"][0] >= images[0]).all() and (at["gamma 1.25"][0] <= images[0]).all()
    for name in ("gamma 0.8", "gamma 1.25"):
        assert torch.equal(at[name][2:4], images[2:4])
    # Where nothing is cut, contrast keeps the mean and multiplies the deviation.
    for name, factor in (("contrast 0.8", 0.8), ("contrast 1.2", 1.2)):
        assert at[name][1].mean() == pytest.approx(images[1].mean().item(), abs=1e-6)
        assert at[name][1].std() == pytest.approx(factor * images[1].std().item(), rel=1e-5)
    # 5 % of 40 are 2 pixels: a bright edge of 2 is cropped away, and a black one of almost 2 is added.
    edge = torch.ones(1, 1, 40, 40)
    edge[..., 2:-2, 2:-2] = 0
    assert torch.equal(PERTURBATIONS["crop 5 %"](edge), torch.zeros(1, 1, 40, 40))
    white = at["pad 5 %"][3, 0]
    assert (white[0] < 1e-6).all() and (white[:, -1] < 1e-6).all() and (white[3:-3, 3:-3] > 1 - 1e-6).all()
    # The step, at 17 of 40: cropping moves it away from the centre, padding towards it.
    for name, place in (("crop 5 %", 15 * 40 / 36), ("pad 5 %", 19 * 40 / 44)):
        row = at[name][4, 0, 20, 5:30]
        assert 5 + (row < 0.5).sum() == pytest.approx(place, abs=0.6)


def test_positions_and_quality():
    """A bright spot at the upper right of the center turns to the left, and is mirrored to the left."""
    spot = torch.zeros(1, 1, 64, 64)
    spot[..., 12:16, 40:44] = 1

    def place(name):
        weights = PERTURBATIONS[name](spot)[0, 0].double().numpy()
        y, x = (np.sum(axis * weights) / weights.sum() - 31.5 for axis in np.mgrid[:64, :64])
        return np.hypot(x, y), np.degrees(np.arctan2(-y, x))

    radius, angle = np.hypot(10, 18), np.degrees(np.arctan2(18, 10))
    assert place("rotate +10") == pytest.approx((radius, angle + 10), abs=0.5)
    assert place("rotate -10") == pytest.approx((radius, angle - 10), abs=0.5)
    assert place("mirror") == pytest.approx((radius, 180 - angle), abs=0.1)
    assert place("blur") == pytest.approx((radius, angle), abs=0.1)
    white = torch.ones(1, 1, 64, 64)
    assert PERTURBATIONS["rotate +10"](white)[0, 0, 0, 0] == 0  # what comes in is black
    # Noise of the same deviation at every size: it averages to the same when the larger image is halved.
    gray = torch.full((2, 1, 128, 128), 0.5)
    large, small = (PERTURBATIONS["noise"](images) for images in (gray, gray[..., ::2, ::2]))
    assert small.std() == pytest.approx(0.05, rel=0.05)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large, 2), small)


def test_what_is_left_of_an_image():
    torch.manual_seed(0)
    images = torch.rand(3, 1, 64, 64)
    mean = images.mean((1, 2, 3))
    lungs, outside = (CONFOUNDS[name](images) for name in ("lungs only", "without lungs"))
    # Together they are the image: each pixel is as far from the mean in both as it was.
    torch.testing.assert_close(lungs + outside, images + mean.view(3, 1, 1, 1))
    # Centers of both lungs and the middle between them, as rows and columns of 64.
    for row, column, inside in ((31, 18, True), (31, 45, True), (31, 32, False), (2, 2, False), (60, 32, False)):
        kept, replaced = (lungs, outside) if inside else (outside, lungs)
        torch.testing.assert_close(kept[..., row, column], images[..., row, column], atol=0.02, rtol=0)
        torch.testing.assert_close(replaced[:, 0, row, column], mean, atol=0.02, rtol=0)
