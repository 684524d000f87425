"""The pasted negatives of CutPaste and AnatPaste, each image against a plain definition."""

import numpy as np
import pytest
import torch
from conftest import chests

from fastsquid.data.negatives import BLUR, MARGIN, dark_lungs, lung_prior, with_anomaly


def draw(kind, images, lungs=None, seed=0):
    torch.manual_seed(seed)
    return [values[:, 0].double().numpy() for values in with_anomaly(kind, images, lungs)]


def pasted_from(image, patch, inside):
    """Return where a patch was cut, as (rows down, columns right), and its factor of brightness, by trying all places.

    Args:
        image, patch: (H, H); the patch has values only inside.
        inside: bool (H, H), where it was pasted.
    """
    rows, columns = np.nonzero(inside)
    size, found = len(image), []
    for down in range(-rows.min(), size - rows.max()):
        for right in range(-columns.min(), size - columns.max()):
            factors = patch[inside] / image[rows + down, columns + right]
            if np.ptp(factors) < 1e-3:
                found.append(((down, right), factors.mean()))
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("count", [1, 12])
def test_a_rectangle_is_one_of_the_same_image(count):
    torch.manual_seed(3)
    images = torch.empty(count, 1, 40, 40).uniform_(0.2, 0.8)
    factors, moves = [], []
    for image, after, mask in zip(images[:, 0].double().numpy(), *draw("rectangles", images)):
        inside = mask == 1
        rows, columns = np.nonzero(inside)
        full = np.zeros_like(inside)
        full[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        assert (inside == full).all() and set(np.unique(mask)) == {0, 1}
        assert (after[~inside] == image[~inside]).all()
        move, factor = pasted_from(image, after, inside)
        factors.append(factor)
        moves.append(move)
    assert 0.9 - 1e-3 <= min(factors) and max(factors) <= 1.1 + 1e-3
    if count > 1:
        assert len(set(moves)) > count / 2 and max(factors) - min(factors) > 0.1


def test_rectangles_have_the_published_area_and_aspect_and_lie_anywhere():
    size = 100
    _, masks = draw("rectangles", torch.rand(2000, 1, size, size))
    heights, widths = ((masks.max(axis) > 0).sum(1) for axis in (2, 1))
    # Each side is rounded to a pixel.
    low, high = (heights - 0.5) * (widths - 0.5), (heights + 0.5) * (widths + 0.5)
    assert (high >= 0.02 * size**2).all() and (low <= 0.15 * size**2).all()
    assert ((heights + 0.5) / (widths - 0.5) >= 0.3).all() and ((heights - 0.5) / (widths + 0.5) <= 1 / 0.3).all()
    areas, aspects = heights * widths / size**2, np.log(heights / widths)
    assert areas.min() < 0.025 and areas.max() > 0.145 and areas.mean() == pytest.approx(0.085, abs=0.003)
    assert aspects.min() < -1.1 and aspects.max() > 1.1 and abs(aspects.mean()) < 0.06
    ever = masks.max(0)
    assert (ever[[0, -1]] > 0).mean() > 0.9 and (ever[:, [0, -1]] > 0).mean() > 0.9  # up to the borders


@pytest.mark.parametrize("count", [1, 12])
def test_anatpaste_pastes_the_same_image_into_its_lungs(count):
    images, lungs = chests(count, 48)
    befores = images[:, 0].double().numpy()
    tried, ratios = 0, []
    for before, after, mask in zip(befores, *draw("anatpaste", images)):
        assert (np.abs(after - before) <= mask + 1e-6).all() and 0 < mask.max() <= 1
        strong = mask > 0.3
        if strong.sum() > 12:
            patch = before + (after - before) / np.maximum(mask, 0.3)
            rows, columns = np.nonzero(strong)
            assert lungs[rows, columns].mean() > 0.8
            _, factor = pasted_from(before, patch, strong)
            ratios.append(factor)
            tried += 1
    assert tried >= count * 0.4
    if count > 1:
        assert 0.9 - 2e-3 <= min(ratios) < max(ratios) <= 1.1 + 2e-3


def test_anatpaste_changes_nothing_outside_the_lungs():
    images, lungs = chests(200)
    after, masks = draw("anatpaste", images)
    changed = np.abs(after - images[:, 0].double().numpy())
    # Where lungs are soft by a few pixels of blur, so is the mask.
    near = torch.nn.functional.max_pool2d(torch.as_tensor(lungs)[None, None].float(), 9, 1, 4)[0, 0].numpy() > 0
    assert changed[:, ~near].max() < 0.02 and changed[:, lungs].max() > 0.3
    assert (masks <= lung_prior(64)[0, 0].numpy() + 1e-6).all()
    middle, border = masks[:, lungs].sum(), masks[:, ~near].sum()
    assert border < 0.02 * middle


def test_dark_lungs_are_the_lungs():
    images, lungs = chests(5)
    found = dark_lungs(images)[:, 0].numpy() > 0.5
    for each in found:
        assert (each & lungs).sum() / (each | lungs).sum() > 0.85
    # The exposure does not matter, and an image of one value has the prior alone.
    torch.testing.assert_close(dark_lungs(0.5 * images + 0.2), dark_lungs(images), atol=0.02, rtol=0)
    flat = dark_lungs(torch.full((1, 1, 64, 64), 0.4))
    torch.testing.assert_close(flat, lung_prior(64) / 2, atol=1e-3, rtol=0)


def test_shapes_of_anatpaste():
    """Without a limit by lungs: at least as small as the patch, falling from its center, some with corners."""
    size = 128
    _, masks = draw("anatpaste", torch.rand(300, 1, size, size), torch.ones(1, 1, size, size))
    peaks = masks.max((1, 2))
    assert (peaks <= 1).all() and peaks.max() > 0.97
    shares, corners = [], []
    for mask, peak in zip(masks, peaks):
        half = mask > peak / 2
        rows, columns = np.nonzero(half)
        if min(rows.min(), columns.min()) > 0 and max(rows.max(), columns.max()) < size - 1:
            sides = np.ptp(rows) + 1, np.ptp(columns) + 1
            shares.append(half.sum() / size**2)
            corners.append(half.sum() / np.prod(sides))
            inside = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            # Its middle row and column rise to one value and fall.
            for line in (inside[sides[0] // 2], inside[:, sides[1] // 2]):
                steps = np.sign(np.diff(line).round(6))
                assert (np.diff(steps[steps != 0]) <= 0).all()
    # The published code draws the shape with a margin inside the patch; its blur moves no edge.
    assert 0 < min(shares) and max(shares) <= (np.sqrt(0.15) - 2 * MARGIN / 2) ** 2 * 1.1
    corners = np.array(corners)
    ellipses, rectangles = (corners < 0.87).mean(), (corners > 0.93).mean()
    assert 0.25 < ellipses < 0.75 and 0.25 < rectangles < 0.75
    gradients = np.abs(np.diff(masks, axis=2)).max((1, 2)) / peaks
    assert gradients.min() < 1 / (2 * BLUR * size) < 0.5 < gradients.max()  # soft edges and hard ones
