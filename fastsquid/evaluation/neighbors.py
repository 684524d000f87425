"""The reference that any method should beat: the distance of pixels to the nearest training images, nothing trained."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ..data.images import to_unit


def nearest_scores(train, images, grid, k=3):
    """How far images are from normal ones, in the Euclidean distance of their pixels in [0, 1].

    Args:
        train: uint8 or uint16 (M, 1, S, S), normal images.
        images: uint8 or uint16 (N, 1, S, S).
        grid: patches a side; where it does not divide S, the first rows and columns are a pixel larger.
        k: neighbours.

    Returns:
        scores, larger = more abnormal: `nearest_image`, mean distance to the k nearest training images, (N,), and
        `nearest_patch`, the largest of an image's patch distances, (N,); and these, (N, grid * grid), row by row, each
        the mean distance to the k nearest training patches of the same place.

    Raises:
        ValueError: fewer than k training images.
    """
    train, images = (to_unit(images)[:, 0].numpy() for images in (train, images))
    places = zip(_patches(train, grid), _patches(images, grid))
    patches = np.stack([_distances(here, patch, k) for here, patch in places], axis=1)
    return {"nearest_image": _distances(train, images, k), "nearest_patch": patches.max(1)}, patches


def _patches(images, grid):
    """(N, S, S) -> grid * grid arrays (N, h, w), row by row."""
    rows = np.array_split(images, grid, axis=1)
    return [patch for row in rows for patch in np.array_split(row, grid, axis=2)]


def _distances(train, images, k):
    """Mean distance of each of (N, h, w) to the k nearest of (M, h, w)."""
    neighbors = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(train.reshape(len(train), -1))
    return neighbors.kneighbors(images.reshape(len(images), -1))[0].mean(1)
