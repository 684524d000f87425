"""What every source returns: a `Split` for each of train, val and test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .dicom.kinds import NOTHING_ELSE, Accept
from .filetypes import ImageFile
from .finding import Found
from .framing import Frame
from .images import decode_images
from .names import PATH_NAMES, Names
from .places import Box, Places

SPLITS = ("train", "val", "test")
_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class ReadOptions:
    """How a source is read; `open_data` documents each field.

    Attributes:
        size: side of the square images in pixels.
        seed: draws DigitAnatomy's training images, and what contamination replaces.
        skip_unreadable: leave out files that cannot be read.
        splits: the splits to decode.
        contamination: share of abnormal training images, in [0, 1).
        names: how images are named, in messages too.
        crop: crop every image to its exposed field.
        all_normal: take every image of a plain folder as normal.
        accept: as `read_image` takes it.
        cache: folder of decoded images (`cache.cached_images`), or None.
    """

    size: int
    seed: int = 0
    skip_unreadable: bool = False
    splits: Sequence[str] = SPLITS
    contamination: float = 0.0
    names: Names = PATH_NAMES
    crop: bool = False
    all_normal: bool = True
    accept: Accept = NOTHING_ELSE
    cache: Path | None = None


@dataclass
class Split:
    """The images of one split and what is known about them.

    Attributes:
        images: torch.uint8 or torch.uint16 (N, 1, S, S); `to_unit` gives float32 in [0, 1].
        labels: torch.int64 (N,), 0 normal and 1 abnormal, or None where the images are unlabeled.
        names: N different strings.
        cells: torch.bool (N, 9), the anomalous cells in reading order, or None (DigitAnatomy only).
        classes: N names of the images' classes, as the source calls them; or None where no class is known. An abnormal
            image with several findings may have the class `abnormal`.
        findings: beside `classes`, N tuples of all that was found in an image; empty for a normal image. None where no
            image has more than its class.
        skipped: how many unreadable files were left out.
        ages: N ages of patients in years, None where a file has none; or None if the source does not look for them.
        beside: masks and files that are no images among its files; or None if the source does not look for them.
        places: N `Places`, where the findings are: none in normal images, None where it is not known; or None.
        files: N files of the images, or None (DigitAnatomy).
        by_path: N names by the paths of the files, which `names` hides with `--anonymous`; or None (DigitAnatomy).
        drawn: the source does not say which images are in this split; fastsquid drew them.
    """

    images: torch.Tensor
    labels: torch.Tensor | None
    names: list[str]
    cells: torch.Tensor | None = None
    classes: list[str] | None = None
    findings: list[tuple[str, ...]] | None = None
    skipped: int = 0
    ages: list[float | None] | None = None
    beside: Found | None = None
    places: list[Places | None] | None = None
    files: list[ImageFile] | None = None
    by_path: list[str] | None = None
    drawn: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def abnormal_classes(self) -> list[str]:
        """The sorted names of the abnormal classes; empty where labels or classes are not known."""
        return list(self.abnormal_masks())

    def abnormal_findings(self) -> list[tuple[str, ...]] | None:
        """Return the abnormal classes of every image, N tuples: its findings, else its class, and () if it is normal.

        None where labels or classes are not known.
        """
        if self.labels is None or self.classes is None:
            return None
        several = [()] * len(self) if self.findings is None else self.findings
        rows = zip(self.labels.tolist(), self.classes, several)
        return [(found or (name,)) if label else () for label, name, found in rows]

    def abnormal_masks(self) -> dict[str, np.ndarray]:
        """Return {abnormal class: bool (N,), its images}, by sorted name. An image counts for each of its findings.

        Empty where labels or classes are not known.
        """
        found = self.abnormal_findings()
        return {} if found is None or self.labels is None else class_masks(self.labels.tolist(), found)

    def shown_places(self, index: int) -> Places:
        """Return where an image is abnormal as far as it is known: places of findings, or cells of DigitAnatomy."""
        if self.cells is not None:
            side = round(self.cells.shape[1] ** 0.5)
            cells = [divmod(cell, side) for cell in self.cells[index].nonzero()[:, 0].tolist()]
            return Places(tuple(Box("", x / side, y / side, (x + 1) / side, (y + 1) / side) for y, x in cells))
        return (self.places and self.places[index]) or Places()

    def caption(self, index: int) -> str:
        """Return what an image is, for a figure: `normal`, `abnormal`, or "" where it is unlabeled.

        Where there are several abnormal classes, an abnormal image is called by its class.
        """
        if self.labels is None:
            return ""
        if not self.labels[index]:
            return "normal"
        return self.classes[index] if self.classes and len(self.abnormal_classes) > 1 else "abnormal"


def class_masks(labels: Sequence[int | None], findings: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Return {abnormal class: bool (N,), its images}, by sorted name.

    Args:
        labels: N of 0 normal, 1 abnormal, None unknown.
        findings: N tuples. An abnormal image counts for each name, and for `abnormal` if it has none. Those of other
            images do not count.
    """
    masks: dict[str, np.ndarray] = {}
    for i, (label, names) in enumerate(zip(labels, findings)):
        if label:
            for name in names or ("abnormal",):
                masks.setdefault(name, np.zeros(len(labels), bool))[i] = True
    return dict(sorted(masks.items()))


def split_of(folder: Path) -> str | None:
    """Return the split that a folder's name stands for, in any case: `Train`, `valid`, `testing`; None for others."""
    return _FOLDERS.get(folder.name.lower())


def split_folders(root: Path) -> dict[str, Path]:
    """Return {split: its folder} of a folder of splits, in the order of `SPLITS`; empty if there are none.

    Raises:
        UserError: two folders of one split.
    """
    found: dict[str, Path] = {}
    for child in sorted(root.iterdir()):
        split = split_of(child)
        if split is not None and child.is_dir():
            if split in found:
                raise UserError(f"{root} has two {split} folders, {found[split].name} and {child.name}: keep one")
            found[split] = child
    return {split: found[split] for split in SPLITS if split in found}


def read_split(
    paths: Sequence[ImageFile],
    names: Sequence[str],
    labels: Sequence[int] | None,
    options: ReadOptions,
    ages: Sequence[float | None] | None = None,
    classes: Sequence[str] | None = None,
    places: Sequence[Callable[[Frame], Places | None]] | None = None,
    findings: Sequence[tuple[str, ...]] | None = None,
) -> Split:
    """Decode image files, each once, and return their Split.

    Args:
        paths: N files.
        names: N different names of the images by their paths; `options.names` gives the names of the Split.
        labels: N of 0 normal and 1 abnormal, or None.
        options: `ReadOptions`.
        ages: N ages of the patients in years, or None.
        classes: N names of the images' classes, or None.
        places: N functions, or None. Each takes the `Frame` of its image and returns the image's `Places`, or None if
            they are not known.
        findings: beside classes, N tuples as in `Split`, or None.

    Raises:
        ImageError: a file cannot be read and `options.skip_unreadable` is false.
        UserError: every file was skipped.
    """
    by_path = names
    names, titles = options.names.images_and_files(by_path, paths)
    images, kept, frames = decode_images(
        paths, options.size, options.skip_unreadable, titles, options.crop, options.accept, options.cache
    )
    if not kept:
        raise UserError(
            f"none of the {len(paths)} images could be read; the first is {titles[0]}. "
            "Give images that Pillow can decode, or chest radiographs in DICOM"
        )
    found = None if findings is None else [findings[i] for i in kept]
    return Split(
        images=images,
        labels=None if labels is None else torch.tensor([labels[i] for i in kept]),
        names=[names[i] for i in kept],
        classes=None if classes is None else [classes[i] for i in kept],
        findings=None if found is None or max(map(len, found)) < 2 else found,
        skipped=len(paths) - len(kept),
        ages=None if ages is None else [ages[i] for i in kept],
        files=[paths[i] for i in kept],
        by_path=[by_path[i] for i in kept],
        places=None if places is None else [places[i](frame) for i, frame in zip(kept, frames)],
    )
