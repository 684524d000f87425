"""Every source of images gives the same thing: a dict of train, val and test `Split`s."""

from pathlib import Path

from ..errors import UserError
from .augment import augment
from .filetypes import IMAGE_SUFFIXES
from .images import ImageError, find_images, read_image, read_images, to_unit
from .sources.chexpert import is_chexpert, open_chexpert
from .sources.covidx import is_covidx, open_covidx
from .sources.digits import is_mnist, open_digits
from .sources.folder import open_folder
from .sources.shards import is_sharded, open_shards
from .split import SPLITS, Split

__all__ = [
    "IMAGE_SUFFIXES",
    "SPLITS",
    "ImageError",
    "Split",
    "augment",
    "find_images",
    "known_source",
    "open_data",
    "read_image",
    "read_images",
    "to_unit",
]


def open_data(
    path=None,
    size=128,
    seed=0,
    skip_unreadable=False,
    splits=SPLITS,
    contamination=0.0,
    anonymous=False,
    crop=False,
):
    """Opens the data at a path, recognised by what is there.

    None is DigitAnatomy from scikit-learn's digits, MNIST idx files are DigitAnatomy from MNIST, WebDataset shards are
    read by their names, CheXpert's train.csv and COVIDx's lists as released, any other folder by its layout
    (`open_folder`).

    Args:
        path: folder, or None.
        size: side of the square images in pixels.
        seed: draws DigitAnatomy's training images, and which images contamination replaces by which; nothing else
            depends on it.
        skip_unreadable: leave out files that cannot be read, counted in Split.skipped, instead of raising.
        splits: the splits to read; no others are decoded.
        contamination: share of the training images, in [0, 1), that is abnormal; their number does not change. More
            of it at the same seed keeps the abnormal images of less. 0 opens no abnormal training image.
        anonymous: call image files by a hash of what is in them, not by their paths, in messages too.
        crop: crop every image to its exposed field (`framing.exposed_field`) before it is resized.

    Returns:
        dict of split name to Split, in the order of `splits`, without those that the source does not have.

    Raises:
        ImageError: a file that cannot be read.
        UserError: no such folder, no images in it, a patient in two splits, contamination of a source without abnormal
            training images, crop of DigitAnatomy, or anything else wrong with the source.
    """
    if crop and (path is None or is_mnist(Path(path))):
        raise UserError(
            "crop = True is for X-rays, and DigitAnatomy has its cells at fixed places: give X-rays, the preset "
            "fastsquid-digits, or crop false"
        )
    if path is None:
        return open_digits(None, size, seed, splits, contamination)
    root = Path(path)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"{root} {what}: give a folder of images, or none for DigitAnatomy")
    if is_mnist(root):
        return open_digits(root, size, seed, splits, contamination)
    sharded = is_sharded(root)
    if contamination and (sharded or is_chexpert(root) or is_covidx(root) or not (root / "train").is_dir()):
        raise UserError(
            f"contamination = {contamination} needs abnormal training images, which {root} does not have apart: give "
            "a folder with train/NORMAL beside folders of abnormal images such as train/PNEUMONIA, or DigitAnatomy"
        )
    if sharded:
        return open_shards(root, size, skip_unreadable, splits, anonymous, crop)
    if is_chexpert(root):
        return open_chexpert(root, size, skip_unreadable, splits, anonymous, crop)
    if is_covidx(root):
        return open_covidx(root, size, skip_unreadable, splits, anonymous, crop)
    return open_folder(root, size, seed, skip_unreadable, splits, contamination, anonymous, crop)


def known_source(path, train):
    """What training images are known to be of, for a report that says whom a run has seen.

    Args:
        path: as `open_data` takes it; it is open already.
        train: its `Split` of training images.

    Returns:
        `digits`, `chexpert`, `covidx`, `zhanglab`, or None of any other folder.
    """
    if path is None or is_mnist(Path(path)):
        return "digits"
    for name, is_source in (("chexpert", is_chexpert), ("covidx", is_covidx)):
        if is_source(Path(path)):
            return name
    return train.source
