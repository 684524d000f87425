"""DigitAnatomy (SQUID 4.1): digits 1 to 9 in reading order on a 3 x 3 grid are normal anatomy.

An abnormal image has one digit missing, two swapped, one flipped, or one replaced by a zero. The digits come from
scikit-learn (1,797 digits of 8 x 8, no download) or from MNIST files. The test uses scikit-learn's last third. Other
people wrote those digits, so the test is a little out of distribution, like a new hospital.
"""

import gzip
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...errors import UserError
from ..split import ReadOptions, Split

KINDS = ("normal", "missing", "swapped", "flipped", "zero")
COUNTS = {"train": (1000, 0, 0, 0, 0), "val": (100, 25, 25, 25, 25), "test": (200, 50, 50, 50, 50)}  # of each kind


def open_digits(root: Path | None, options: ReadOptions) -> dict[str, Split]:
    """Draw DigitAnatomy; the splits share no handwritten digit.

    The last sixth of the digits for training is kept for validation. `options.seed` draws the training images;
    validation and test are the same for every seed.

    Args:
        root: Path of a folder with MNIST idx files, or None for scikit-learn's digits.
        options: images are drawn at the next multiple of 3 from `size`, and resized if that differs. Contamination puts
            the four abnormal kinds in equal parts after the normal images; the normal images are those that the seed
            draws without contamination.

    Returns:
        dict of split name to Split: uint8 images, labels, cells and classes; names like "test-0007-swapped".

    Raises:
        UserError: damaged files, files with too few digits, or `options.crop`.
    """
    if options.crop:
        raise UserError(
            "crop = True is for X-rays, and DigitAnatomy has its cells at fixed places: give X-rays, the preset "
            "fastsquid-digits, or crop false"
        )
    digits, values, cut = _mnist(root) if root else _sklearn()
    fit = cut - cut // 6
    pools = {"train": slice(0, fit), "val": slice(fit, cut), "test": slice(cut, None)}
    seeds = {"train": (0, options.seed % 2**64), "val": 1, "test": 2}  # any int is a seed
    for name in options.splits:
        absent = set(range(10)) - set(values[pools[name]].tolist())
        if absent:
            raise UserError(f"{root} has no digit {min(absent)} for the {name} images: use the complete MNIST files")
    counts = {**COUNTS, "train": _contaminated(COUNTS["train"], options.contamination)}
    return {
        name: _draw(name, counts[name], digits[pools[name]], values[pools[name]], options.size, seeds[name])
        for name in options.splits
    }


def is_digits(root: Path | None) -> bool:
    """Return whether a path stands for DigitAnatomy: no path, or a folder of MNIST files."""
    return root is None or is_mnist(root)


def is_mnist(root: Path) -> bool:
    """Return whether the folder holds MNIST images under their standard names."""
    return any(_find(root, f"{part}-images-idx3-ubyte") for part in ("train", "t10k"))


def _contaminated(counts, contamination):
    """Return the counts of each kind after the four abnormal kinds replace a share of the normal images evenly."""
    abnormal = round(contamination * counts[0])
    return (counts[0] - abnormal, *((abnormal + 3 - i) // 4 for i in range(4)))


def _draw(name, counts, digits, values, size, seed):
    """Return the Split of `counts` images of each kind, from a pool of digits uint8 (P, h, w) and their values (P,)."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind, count in zip(KINDS, counts) for _ in range(count)]
    pick = _picker(digits, values, -(-size // 3), rng)
    images, cells = zip(*(_anatomy(kind, pick, rng) for kind in kinds))
    if size % 3:
        images = [
            np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in images
        ]
    return Split(
        images=torch.from_numpy(np.stack(images)[:, None]),
        labels=torch.tensor([int(kind != "normal") for kind in kinds]),
        names=[f"{name}-{i:04d}-{kind}" for i, kind in enumerate(kinds)],
        cells=torch.from_numpy(np.stack(cells)),
        classes=kinds,
    )


def _picker(digits, values, cell, rng):
    """Return a function of a digit's value that returns a random handwritten digit, uint8 (cell, cell)."""
    where = [np.flatnonzero(values == value) for value in range(10)]

    @cache
    def resized(i):
        return np.asarray(Image.fromarray(digits[i]).resize((cell, cell), Image.Resampling.BILINEAR))

    return lambda value: resized(int(rng.choice(where[value])))


def _anatomy(kind, pick, rng):
    """Return one image, uint8 (3 cell, 3 cell), and its anomalous cells, bool (9,)."""
    cells = np.stack([pick(value) for value in range(1, 10)])  # [9, cell, cell]
    first, second = rng.choice(9, 2, replace=False)
    anomalous = np.zeros(9, bool)
    anomalous[first] = kind != "normal"
    if kind == "missing":
        cells[first] = 0
    elif kind == "swapped":
        cells[[first, second]] = cells[[second, first]]
        anomalous[second] = True
    elif kind == "flipped":
        cells[first] = np.flip(cells[first], axis=rng.integers(2))
    elif kind == "zero":
        cells[first] = pick(0)
    side = 3 * cells.shape[-1]
    return cells.reshape(3, 3, *cells.shape[1:]).transpose(0, 2, 1, 3).reshape(side, side), anomalous


def _sklearn():
    """Return digits uint8 (1797, 8, 8) in 0..255, their values, and how many are for training."""
    from sklearn.datasets import load_digits  # takes a second, which X-rays should not wait for

    pixels, values = load_digits(return_X_y=True)
    return np.rint(np.reshape(pixels, (-1, 8, 8)) * (255 / 16)).astype(np.uint8), values, 1200


def _mnist(root):
    """Return digits uint8 (P, 28, 28), their values, and how many are for training.

    Of both of MNIST's parts the first is for training; of one part alone, two thirds.
    """
    parts = [_mnist_part(root, part) for part in ("train", "t10k") if _find(root, f"{part}-images-idx3-ubyte")]
    digits, values = (np.concatenate(arrays) for arrays in zip(*parts))
    return digits, values, len(parts[0][1]) if len(parts) == 2 else len(digits) * 2 // 3


def _mnist_part(root, part):
    images, labels = _find(root, f"{part}-images-idx3-ubyte"), _find(root, f"{part}-labels-idx1-ubyte")
    if labels is None:
        raise UserError(f"{images} has no labels: put {part}-labels-idx1-ubyte or its .gz beside it")
    digits, values = _read_idx(images, 3), _read_idx(labels, 1)
    if len(digits) != len(values):
        raise UserError(
            f"{images} has {len(digits)} images but {labels} has {len(values)} labels: use files of one set"
        )
    return digits, values


def _find(root, stem):
    return next((path for path in (root / stem, root / f"{stem}.gz") if path.is_file()), None)


def _read_idx(path, dims):
    """Read the uint8 array of an idx file, gzip or not: magic, sizes as big-endian int32, then the bytes."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}): download it again") from error
    head = 4 + 4 * dims
    magic, *shape = np.frombuffer(data[:head].ljust(head, b"\0"), ">i4").tolist()
    if magic != 0x0800 + dims or min(shape) < 0 or len(data) != head + np.prod(shape):
        raise UserError(f"{path} is no idx file of {dims}-dimensional bytes, or not all of it: download it again")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
