"""Metrics of maps against their plain definitions: every pair of pixels counted, every threshold tried."""

import numpy as np
import pytest

from fastsquid.evaluation.metrics import aupro, pixel_auroc


def regions_of(mask):
    """Lists of the pixels of each connected component, by flood fill over all eight neighbors."""
    left, found = {tuple(place) for place in np.argwhere(mask)}, []
    while left:
        region, front = [], [left.pop()]
        while front:
            row, column = front.pop()
            region.append((row, column))
            for near in [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if near in left:
                    left.remove(near)
                    front.append(near)
        found.append(region)
    return found


def plain_aupro(masks, maps, limit):
    """The curve at every threshold, and its area by ten thousand rectangles."""
    regions = [(image, region) for image, mask in enumerate(masks) for region in regions_of(mask)]
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        called = maps >= threshold
        overlaps = [np.mean([called[image][place] for place in region]) for image, region in regions]
        curve.append((called[~masks].mean(), np.mean(overlaps)))
    middles = (np.arange(10_000) + 0.5) / 10_000 * limit
    return np.mean(np.interp(middles, *zip(*curve)))


@pytest.fixture(params=["distinct", "ties"])
def example(request):
    """Masks of several regions, two of which touch at a corner, and maps that know something of them."""
    rng = np.random.default_rng(0)
    masks = np.zeros((3, 12, 12), bool)
    masks[0, 1:4, 1:4] = masks[0, 4, 4] = masks[0, 8:10, 2:9] = masks[1, 5:11, 6:7] = True  # none in the last image
    maps = masks + rng.normal(size=masks.shape)
    return masks, maps if request.param == "distinct" else np.round(maps * 2)


def test_pixel_auroc_is_the_share_of_pairs_in_order(example):
    masks, maps = example
    difference = maps[masks][:, None] - maps[~masks]
    assert pixel_auroc(masks, maps) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean(), abs=1e-12)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_the_mean_overlap_of_regions(example, limit):
    masks, maps = example
    # A rectangle that holds a step of the curve is wrong by at most the step.
    assert aupro(masks, maps, limit) == pytest.approx(plain_aupro(masks, maps, limit), abs=1e-3)


def test_regions_count_the_same_whatever_their_size():
    """A map that finds the small region alone, and one that finds the large one alone."""
    masks = np.zeros((1, 20, 20), bool)
    masks[0, :10, :10] = masks[0, 15, 15] = True
    large, small = np.zeros((2, 1, 20, 20))
    large[0, :10, :10] = small[0, 15, 15] = 1
    # Half of the regions at once, the other one in step with false positives.
    assert aupro(masks, large) == pytest.approx(aupro(masks, small)) == pytest.approx(0.5 + 0.5 * 0.3 / 2)
    assert pixel_auroc(masks, large) > 0.99 and pixel_auroc(masks, small) < 0.51


def test_ends_of_the_scale():
    masks = np.zeros((2, 8, 8), bool)
    masks[:, 2:4, 2:5] = True
    assert aupro(masks, masks.astype(float)) == pytest.approx(1) and pixel_auroc(masks, masks.astype(float)) == 1
    assert aupro(masks, -masks.astype(float)) == 0 and pixel_auroc(masks, -masks.astype(float)) == 0
    assert aupro(masks, np.zeros(masks.shape)) == pytest.approx(0.15)


@pytest.mark.parametrize("metric", [aupro, pixel_auroc])
@pytest.mark.parametrize("kind", [False, True])
def test_pixels_of_one_kind(metric, kind):
    with pytest.raises(ValueError, match="normal and abnormal pixels"):
        metric(np.full((1, 4, 4), kind), np.zeros((1, 4, 4)))
