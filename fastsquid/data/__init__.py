"""Images of any source as a dict of train, val and test `Split`s."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .augment import augment
from .dicom.kinds import NOTHING_ELSE, Accept
from .filetypes import IMAGE_SUFFIXES
from .finding import find_images
from .images import ImageError, read_image, read_images, to_unit
from .names import choose_names
from .protocols import protocol_opener
from .sources import Source, source_of
from .sources.own_list import is_list
from .split import SPLITS, ReadOptions, Split

__all__ = [
    "IMAGE_SUFFIXES",
    "SPLITS",
    "Accept",
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
    path: str | os.PathLike | None = None,
    size: int = 128,
    seed: int = 0,
    skip_unreadable: bool = False,
    splits: Sequence[str] = SPLITS,
    contamination: float = 0.0,
    anonymous: bool = False,
    crop: bool = False,
    all_normal: bool = True,
    accept: Accept = NOTHING_ELSE,
    cache: str | os.PathLike | None = None,
    protocol: str | None = None,
) -> dict[str, Split]:
    """Open the data at a path; the source is recognized by what is there (`sources.SOURCES`).

    None is DigitAnatomy from scikit-learn's digits. MNIST idx files are DigitAnatomy from MNIST. WebDataset shards are
    read by their names, and public data sets as released. A file is a list of images (`sources.own_list`). Any other
    folder is read by its layout (`sources.folder.open_folder`).

    Args:
        path: of a folder or a list, or None.
        size: side of the square images in pixels.
        seed: draws DigitAnatomy's training images, and which images contamination replaces by which. Nothing else
            depends on it.
        skip_unreadable: leave out files that cannot be read, counted in Split.skipped, instead of raising.
        splits: the splits to read; no others are decoded.
        contamination: share of abnormal training images, in [0, 1). The number of training images does not change. At
            the same seed, more contamination contains the abnormal images of less. 0 opens no abnormal training image.
        anonymous: name image files by a hash of their content, not by their paths, in messages too.
        crop: crop every image to its exposed field (`framing.exposed_field`) before it is resized.
        all_normal: take every image of a plain folder, or of shards without classes, as normal. If false, one with
            label files or class folders (`labels.require_all_normal`) is rejected.
        accept: body parts and views of DICOM files that are read beside those of frontal chest radiographs.
        cache: folder where decoded images are kept and found again, or None. The images are then mapped from there, not
            held in memory. DigitAnatomy is drawn and needs none.
        protocol: name of a publication's split (`protocols.PROTOCOLS`), or None for that of the source.

    Returns:
        dict of split name to Split, in the order of `splits`, without those that the source does not have.

    Raises:
        ImageError: a file that cannot be read.
        UserError: no such folder or list, no images in it, a patient in two splits, contamination of a source without
            abnormal training images, crop of DigitAnatomy, a plain folder that may hold abnormal images and no
            `all_normal`, a protocol for another source, or anything else wrong with the source.

    >>> from fastsquid.data import open_data
    >>> data = open_data(size=48)  # DigitAnatomy; open_data("zhanglab", size=128) reads a folder of X-rays
    >>> {name: len(split) for name, split in data.items()}
    {'train': 1000, 'val': 200, 'test': 400}
    >>> data["test"].images.shape, data["test"].names[399], data["test"].abnormal_classes
    (torch.Size([400, 1, 48, 48]), 'test-0399-zero', ['flipped', 'missing', 'swapped', 'zero'])
    """
    root = None if path is None else Path(path)
    if root is not None and not root.is_dir() and not is_list(root):
        what = "is no list of images" if root.exists() else "does not exist"
        raise UserError(
            f"{root} {what}: give a folder of images, a list of them (.csv, .jsonl, .parquet), or none for DigitAnatomy"
        )
    source = source_of(root)
    if contamination and not source.has_abnormal_training(root):
        raise UserError(
            f"contamination = {contamination} needs abnormal training images, but {root} has no folder of them: give "
            "a folder with train/NORMAL and folders of abnormal images such as train/PNEUMONIA, or DigitAnatomy"
        )
    names = choose_names(anonymous)
    kept = None if cache is None else Path(cache)
    read = source.open if protocol is None else protocol_opener(protocol, source, root)
    return read(
        root, ReadOptions(size, seed, skip_unreadable, splits, contamination, names, crop, all_normal, accept, kept)
    )


def known_source(path: str | os.PathLike | None) -> Source | None:
    """Return the source of the data at a path if it is known what its images show.

    Args:
        path: as `open_data` takes it; it exists.

    Returns:
        a `Source` with a description: DigitAnatomy, ZhangLab, or a public data set; None for a list, shards or folders.

    >>> from fastsquid.data import known_source
    >>> known_source(None).name
    'digits'
    """
    source = source_of(None if path is None else Path(path))
    return source if source.description else None
