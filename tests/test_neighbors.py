"""Distances to the nearest training images and patches, against loops."""

import numpy as np
import pytest
import torch

from fastsquid.evaluation.neighbors import nearest_scores


def mean_of_nearest(train, image, k):
    return np.mean(sorted(np.sqrt(((image - other) ** 2).sum()) for other in train)[:k])


@pytest.mark.parametrize("grid, edges", [(3, [0, 3, 5, 7]), (1, [0, 7])])
def test_against_a_loop(grid, edges):
    train = torch.randint(256, (9, 1, 7, 7)).to(torch.uint8)
    images = torch.randint(65536, (5, 1, 7, 7)).to(torch.uint16)
    scores, patches = nearest_scores(train, images, grid, k=2)
    assert list(scores) == ["nearest_image", "nearest_patch"] and patches.shape == (5, grid**2)
    known, asked = train[:, 0].numpy() / 255, images[:, 0].numpy() / 65535
    for i, image in enumerate(asked):
        assert scores["nearest_image"][i] == pytest.approx(mean_of_nearest(known, image, 2), rel=1e-5)
        each = []
        for top, bottom in zip(edges, edges[1:]):
            for left, right in zip(edges, edges[1:]):
                place = np.s_[..., top:bottom, left:right]
                each.append(mean_of_nearest(known[place], image[place], 2))
        np.testing.assert_allclose(patches[i], each, rtol=1e-5)
        assert scores["nearest_patch"][i] == patches[i].max()


def test_three_neighbours_unless_told():
    train = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(4, 1, 1, 1)
    scores, patches = nearest_scores(train, torch.zeros(1, 1, 1, 1, dtype=torch.uint8), 1)
    assert scores["nearest_image"] == patches == pytest.approx((0 + 0.2 + 0.4) / 3)
    with pytest.raises(ValueError, match="n_neighbors"):
        nearest_scores(train[:2], train, 1)
