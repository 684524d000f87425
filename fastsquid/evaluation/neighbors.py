"""A reference that any method should beat: the distance of pixels to the nearest training images."""

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from ..data.images import to_unit


def nearest_scores(
    train: torch.Tensor, images: torch.Tensor, grid: int, k: int = 3
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the distance of images to normal images, Euclidean in pixels in [0, 1].

    Args:
        train: normal images, uint8 or uint16 (M, 1, S, S).
        images: uint8 or uint16 (N, 1, S, S).
        grid: patches per side. Where it does not divide S, the first rows and columns are one pixel larger.
        k: number of neighbors.

    Returns:
        two scores, larger = more abnormal: `nearest_image` (N,), the mean distance to the k nearest training images,
        and `nearest_patch` (N,), the largest patch distance of an image. Also the patch distances
        (N, grid * grid), row by row: the mean distance to the k nearest training patches at the same place.

    Raises:
        ValueError: fewer than k training images.
    """
    normal, shown = (to_unit(pixels)[:, 0].numpy() for pixels in (train, images))
    places = zip(_patches(normal, grid), _patches(shown, grid))
    patches = np.stack([_distances(here, patch, k) for here, patch in places], axis=1)
    return {"nearest_image": _distances(normal, shown, k), "nearest_patch": patches.max(1)}, patches


def _patches(images, grid):
    """Cut (N, S, S) into grid * grid arrays (N, h, w), row by row."""
    rows = np.array_split(images, grid, axis=1)
    return [patch for row in rows for patch in np.array_split(row, grid, axis=2)]


def _distances(train, images, k):
    """Return the mean distance of each image (N, h, w) to its k nearest of (M, h, w)."""
    neighbors = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(train.reshape(len(train), -1))
    return neighbors.kneighbors(images.reshape(len(images), -1))[0].mean(1)
