"""What every source gives: one `Split` for each of train, val and test."""

from dataclasses import dataclass

import torch

from ..errors import UserError
from .images import read_images

SPLITS = ("train", "val", "test")


@dataclass
class Split:
    """The images of one split and what is known about them.

    Attributes:
        images: torch.uint8 or torch.uint16 (N, 1, S, S); `to_unit` gives float32 in [0, 1].
        labels: torch.int64 (N,), 0 normal and 1 abnormal, or None where the images are unlabelled.
        names: N strings that tell the images apart.
        cells: torch.bool (N, 9), the anomalous cells in reading order, or None (DigitAnatomy only).
        kinds: N of "normal", "missing", "swapped", "flipped", "zero", or None (DigitAnatomy only).
        skipped: how many unreadable files were left out.
    """

    images: torch.Tensor
    labels: torch.Tensor | None
    names: list[str]
    cells: torch.Tensor | None = None
    kinds: list[str] | None = None
    skipped: int = 0

    def __len__(self):
        return len(self.names)


def read_split(paths, names, labels, size, skip_unreadable=False):
    """The Split of image files, decoded once; `labels` is a list of 0 and 1, or None.

    Raises:
        ImageError: a file cannot be read and `skip_unreadable` is false.
        UserError: every file was skipped.
    """
    images, kept = read_images(paths, size, skip_unreadable)
    if not kept:
        raise UserError(
            f"none of the {len(paths)} images could be read, the first being {paths[0]}: "
            "give images that Pillow can decode"
        )
    return Split(
        images=images,
        labels=None if labels is None else torch.tensor([labels[i] for i in kept]),
        names=[names[i] for i in kept],
        skipped=len(paths) - len(kept),
    )
