"""The same image twice: equal pixels, or a copy that was compressed again, resized or brightened.

A perceptual hash finds candidates, and the correlation of their pixels confirms them. `bench/duplicates.py` measures
what they find.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F

from .images import select_images, to_unit
from .split import Split

log = logging.getLogger(__name__)

SIDE = 64  # of the thumbnails, in pixels
LOW = 16  # lowest frequencies per side in a hash
BITS = LOW**2
RADIUS = 24  # bits by which the hashes of near duplicates differ, at most
CORRELATION = 0.98  # of the thumbnails of near duplicates, at least
FLAT = 1e-4  # of the gray range: an image with a lower standard deviation has no contrast, and so no near duplicates
_BATCH, _ROWS, _COLUMNS = 256, 1024, 8192  # images in memory at once: as floats, and compared with how many


@dataclass(frozen=True)
class Copies:
    """Images of one split that are copies of images of another. Each image counts once, for the first such split.

    Attributes:
        here: the split.
        there: a split before it; or `here` again, for copies of earlier images of the same split.
        exact: (name in `there`, name in `here`) of images that are equal pixel by pixel.
        near: the same of near duplicates.
    """

    here: str
    there: str
    exact: list[tuple[str, str]]
    near: list[tuple[str, str]]


def warn_of_copies(data: Mapping[str, Split]) -> list[Copies]:
    """Log a warning for two splits that share images, and a line for a split that has an image twice.

    Args:
        data: as `find_copies` takes it.

    Returns:
        what `find_copies` returns.
    """
    found = find_copies(data)
    for copies in found:
        here, there, count = copies.here, copies.there, len(data[copies.here])
        if here == there:
            pairs = copies.exact + copies.near
            log.info(
                "%d of %d images of %s are copies of other images of %s (%d pixel by pixel), such as %s and %s",
                *(len(pairs), count, here, here, len(copies.exact), *reversed(pairs[0])),
            )
            continue
        if copies.exact:
            log.warning(
                "%d of %d images of %s are also in %s, pixel by pixel, such as %s and %s: remove them from one of the "
                "two",
                *(len(copies.exact), count, here, there, *reversed(copies.exact[0])),
            )
        if copies.near:
            log.warning(
                "%d of %d images of %s are near duplicates of images of %s, such as %s and %s: remove them from one of "
                "the two",
                *(len(copies.near), count, here, there, *reversed(copies.near[0])),
            )
    return found


def find_copies(data: Mapping[str, Split]) -> list[Copies]:
    """Find images that are in two splits, and images that are twice in `val` or in `test`.

    Time grows with the product of the numbers of images. Images are compared in blocks, so that memory does not.

    Args:
        data: splits by name; all their images have one size.

    Returns:
        a `Copies` for each two splits that share images, and for `val` or `test` if it has an image twice.
    """
    deep = any(split.images.dtype == torch.uint16 for split in data.values())
    digests = {name: _digests(split.images, deep) for name, split in data.items()}
    hashes = {name: perceptual_hashes(split.images) for name, split in data.items()}
    found, before = [], []
    for here, split in data.items():
        left = list(range(len(split)))  # no copy was found yet
        for there in [*before, here]:
            own = there == here
            if own and here == "train":
                continue
            first = {digest: i for i, digest in reversed(list(enumerate(digests[there])))}
            exact = {i: first[digests[here][i]] for i in left if digests[here][i] in first}
            if own:
                exact = {i: twin for i, twin in exact.items() if twin < i}
            left = [i for i in left if i not in exact]
            near = near_copies(data[there].images, split.images, hashes[there], hashes[here], left, own)
            left = [i for i in left if i not in near]
            if exact or near:
                names = data[there].names
                named = ([(names[twin], split.names[i]) for i, twin in pairs.items()] for pairs in (exact, near))
                found.append(Copies(here, there, *named))
        before.append(here)
    return found


def count_copies(found: Sequence[Copies]) -> dict[str, dict[str, dict[str, int]]]:
    """Return {split: {split of the other image: {"exact": count, "near": count}}}, as config.json holds it."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for copies in found:
        counts.setdefault(copies.here, {})[copies.there] = {"exact": len(copies.exact), "near": len(copies.near)}
    return counts


def perceptual_hashes(images: torch.Tensor) -> torch.Tensor:
    """Return the DCT hashes of images: which of the low frequencies are above their median.

    It is the DCT hash of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010), with
    16 x 16 frequencies of 64 x 64 pixels instead of 8 x 8 of 32 x 32. Chest X-rays look alike, and 64 bits do not
    separate them.

    Args:
        images: uint8 or uint16 (N, 1, H, W).

    Returns:
        float32 (N, 256), 1 above the median, else -1; 0 for an image without contrast.
    """
    hashes = torch.zeros(len(images), BITS)
    for some in torch.arange(len(images)).split(_BATCH):
        small = thumbnails(select_images(images, some))
        frequencies = np.asarray(scipy.fft.dctn(small.view(-1, SIDE, SIDE).numpy(), axes=(1, 2)))
        low = frequencies[:, :LOW, :LOW].reshape(-1, BITS)
        above = torch.from_numpy(low > np.median(low, axis=1, keepdims=True))
        hashes[some] = torch.where(above, 1.0, -1.0) * small.any(1, keepdim=True)
    return hashes


def _digests(images: torch.Tensor, deep: bool) -> list[bytes]:
    """Return the sha256 of each image's pixels; where `deep`, of their 16 bits."""
    arrays = images.numpy()
    widen = deep and arrays.dtype == np.uint8
    return [hashlib.sha256((image.astype(np.uint16) * 257 if widen else image).tobytes()).digest() for image in arrays]


def thumbnails(images: torch.Tensor) -> torch.Tensor:
    """Return float32 (N, 64 * 64) of mean 0 and length 1; all 0 for an image without contrast."""
    small = F.interpolate(to_unit(images), size=(SIDE, SIDE), mode="bilinear", antialias=True).flatten(1)
    small = small - small.mean(1, keepdim=True)
    length = small.norm(dim=1, keepdim=True)
    return torch.where(length > FLAT * SIDE, small / length, 0.0)


def near_copies(
    there: torch.Tensor,
    here: torch.Tensor,
    hashes_there: torch.Tensor,
    hashes_here: torch.Tensor,
    rows: Sequence[int],
    own: bool,
) -> dict[int, int]:
    """Return {index in `here`: index in `there`} of near duplicates, of those the first one.

    Args:
        there, here: uint8 or uint16 (M, 1, S, S) and (N, 1, S, S).
        hashes_there, hashes_here: their `perceptual_hashes`.
        rows: indices in `here` to look up, ascending.
        own: both are the same images, and only earlier ones count.
    """
    found = {}
    for left in torch.tensor(rows, dtype=torch.long).split(_ROWS) if len(rows) else ():
        for columns in torch.arange(int(left[-1]) if own else len(there)).split(_COLUMNS):
            # The product of two hashes is the number of equal bits less that of different ones.
            near = hashes_here[left] @ hashes_there[columns].T >= BITS - 2 * RADIUS
            if own:
                near &= columns < left[:, None]
            at, to = near.any(1).nonzero()[:, 0], near.any(0).nonzero()[:, 0]
            if len(at):
                ours, theirs = thumbnails(select_images(here, left[at])), thumbnails(select_images(there, columns[to]))
                near[at[:, None], to] &= ours @ theirs.T >= CORRELATION
                is_copy = near.any(1)
                found |= dict(zip(left[is_copy].tolist(), columns[near[is_copy].int().argmax(1)].tolist()))
                left = left[~is_copy]
    return dict(sorted(found.items()))
