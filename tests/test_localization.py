"""Synthetic anomalies whose places are known, and what is measured of maps with them."""

import numpy as np
import pytest
import torch

from fastsquid.data.split import Split
from fastsquid.evaluation.localization import KINDS, STRENGTH, draw_synthetic, healthy_images, measure_synthetic
from fastsquid.evaluation.metrics import aupro, pixel_auroc
from fastsquid.scoring.scores import spread_images


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(40, 160, (6, 1, 32, 32)).astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_anomalies_are_drawn_again_the_same(images, kind):
    state = torch.get_rng_state()
    first, second, other = draw_synthetic(images, kind), draw_synthetic(images, kind), draw_synthetic(images, kind, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.images, second.images) and np.array_equal(first.masks, second.masks)
    assert not np.array_equal(first.masks, other.masks)
    assert first.masks.shape == (6, 32, 32) and first.masks.dtype == bool
    assert first.masks.any((1, 2)).all() and not first.masks.all((1, 2)).any()
    # Where it is no anomaly the image has hardly changed: by the strength at most.
    change = (first.images - images / 255).abs()[:, 0].numpy()
    assert change[~first.masks].max() <= STRENGTH and change[first.masks].mean() > 2 * change[~first.masks].mean()


def test_measures_are_those_of_the_drawn_masks(images):
    """The function sees the images with anomalies, batch by batch; what it gives is compared with their masks."""
    healthy = images.float() / 255

    def give(batch):
        assert len(batch) <= 4
        return {"bright": batch[:, 0], "dark": -batch[:, 0]}

    found = measure_synthetic(give, images, batch_size=4)
    assert set(found) == set(KINDS)
    for kind in KINDS:
        drawn = draw_synthetic(healthy, kind)
        for name, values in (("bright", drawn.images), ("dark", -drawn.images)):
            values = values[:, 0].numpy()
            assert found[kind][name] == pytest.approx(
                {"pixel_auroc": pixel_auroc(drawn.masks, values), "aupro": aupro(drawn.masks, values)}
            )
        assert list(found[kind]) == ["bright", "dark", "lung_prior"]
        assert 0.5 < found[kind]["lung_prior"]["pixel_auroc"] < 1
        assert found[kind]["bright"]["pixel_auroc"] + found[kind]["dark"]["pixel_auroc"] == pytest.approx(1)


def split_of(labels):
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    return Split(images, None if labels is None else torch.tensor(labels), list("abcd"))


def test_healthy_images_are_known_and_not_trained_on():
    both, sick, unknown, healthy = map(split_of, ([0, 1, 0, 1], [1, 1, 1, 1], None, [0, 0, 0, 0]))
    name, images = healthy_images({"train": healthy, "val": both, "test": unknown}, "val")
    assert name == "val" and images.flatten().tolist() == [0, 2]
    assert healthy_images({"train": healthy, "val": both, "test": unknown}, "test")[0] == "val"
    assert healthy_images({"train": healthy, "val": healthy, "test": both}, "test")[0] == "test"
    assert healthy_images({"train": healthy, "val": healthy, "test": sick}, "test")[0] == "val"
    assert healthy_images({"train": healthy, "test": sick}, "test") is None
    assert healthy_images({"train": healthy}, "train") is None


@pytest.mark.parametrize("count", [1, 199, 200, 201, 1000])
def test_images_are_spread_evenly(count):
    chosen = spread_images(torch.arange(count), 200)
    assert len(chosen) <= 200 and chosen[0] == 0 and len(set(chosen.diff().tolist())) <= 1
    assert len(chosen) == count or len(chosen) > 100
