"""Every source of images gives the same thing: a dict of train, val and test `Split`s."""

from pathlib import Path

from ..errors import UserError
from .augment import augment
from .filetypes import IMAGE_SUFFIXES
from .images import ImageError, find_images, read_image, read_images, to_unit
from .sources import Source, source_of
from .split import SPLITS, ReadOptions, Split

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
    root = None if path is None else Path(path)
    if root is not None and not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(f"{root} {what}: give a folder of images, or none for DigitAnatomy")
    source = source_of(root)
    if contamination and not source.has_abnormal_training(root):
        raise UserError(
            f"contamination = {contamination} needs abnormal training images, which {root} does not have apart: give "
            "a folder with train/NORMAL beside folders of abnormal images such as train/PNEUMONIA, or DigitAnatomy"
        )
    return source.open(root, ReadOptions(size, seed, skip_unreadable, splits, contamination, anonymous, crop))


def known_source(path) -> Source | None:
    """Return the source of the data at a path if it is known what its images show.

    Args:
        path: as `open_data` takes it; it exists.

    Returns:
        a `Source` with a description: DigitAnatomy, CheXpert, COVIDx or ZhangLab; None of anything else.
    """
    source = source_of(None if path is None else Path(path))
    return source if source.description else None
