"""Image files below a folder, and what lies there beside them: masks of images, and files that are no images."""

import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import TypeVar

from ..errors import UserError
from ..utils.text import printable
from .filetypes import is_image, is_mask_folder, masked_stem
from .names import PATH_NAMES, Names

log = logging.getLogger(__name__)

AnyPath = TypeVar("AnyPath", bound=PurePath)


@dataclass
class Found:
    """The files below some folders, without those whose names start with ".".

    Attributes:
        images: Paths, sorted within each folder.
        masks: Paths of images that are masks of others; they are never read.
        others: Paths of files that are no images.
        links: Paths of links to folders, which are not followed.
    """

    images: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)


def find_images(folder: str | os.PathLike) -> list[Path]:
    """Find all image files below a folder: by suffix in any case, and DICOM files by their first bytes.

    Files and folders whose names start with "." are skipped, and so are masks (`find_files`). Links to folders are not
    followed.

    Args:
        folder: where to look.

    Returns:
        sorted Paths.

    Raises:
        UserError: a folder is missing or cannot be listed.

    >>> from pathlib import Path
    >>> from fastsquid.data import find_images
    >>> for name in ("b.png", "a.JPG", "notes.txt"):
    ...     Path("clinic", "monday").mkdir(parents=True, exist_ok=True)
    ...     Path("clinic", "monday", name).touch()
    >>> [path.as_posix() for path in find_images("clinic")]
    ['clinic/monday/a.JPG', 'clinic/monday/b.png']
    """
    return find_files(folder).images


def find_files(
    *folders: str | os.PathLike, base: Path | None = None, deep: bool = True, names: Names = PATH_NAMES
) -> Found:
    """Find images, masks and other files.

    An image is a mask if a folder that it lies in is named so (`masks`, `lung mask`, `labels`, `annotations`,
    `segmentations`), or if it is named after an image beside it (`0001_mask.png` beside `0001.png`).

    Args:
        folders: where to look, one after the other.
        base: names of folders below it count for masks; by default those below each of `folders`.
        deep: also look in the folders inside.
        names: what messages call folders.

    Returns:
        `Found`.

    Raises:
        UserError: a folder is missing or cannot be listed.
    """
    found = Found()
    for folder in folders:
        one = Found()
        for parent, inside, files in os.walk(folder, onerror=partial(_fail, folder, names)):
            inside[:] = [name for name in inside if deep and not name.startswith(".")]
            paths = [Path(parent, name) for name in files if not name.startswith(".")]
            images = [path for path in paths if is_image(path) and not _is_endless(path)]
            masks = set(masks_among(images, Path(parent).relative_to(base or folder)))
            one.images += [path for path in images if path not in masks]
            one.masks += masks
            one.others += set(paths).difference(images)
            one.links += [Path(parent, name) for name in inside if Path(parent, name).is_symlink()]
        for name in ("images", "masks", "others", "links"):
            getattr(found, name).extend(sorted(getattr(one, name), key=Path.as_posix))
    return found


def _is_endless(path):
    """Return whether a path is a pipe or a device, or a link to one. A link to nothing is an image that is missing."""
    return path.exists() and not path.is_file()


def _fail(folder, names, error):
    inner = os.fspath(error.filename) != os.fspath(folder)
    what = names.inner_folder(error.filename, folder) if inner else f"the folder {folder}"
    raise UserError(f"cannot list {what} ({error.strerror}): give a readable one") from error


def masks_among(images: Iterable[AnyPath], inside: PurePath) -> list[AnyPath]:
    """Return those of the images of one folder that are masks. `inside` are the folders whose names count."""
    images = list(images)
    if any(map(is_mask_folder, inside.parts)):
        return images
    stems = {path.stem.lower() for path in images}
    return [path for path in images if masked_stem(path.stem) in stems]


def no_images(folder: Path, found: Found) -> UserError:
    """Return the error that a folder holds no images."""
    if found.masks:
        return UserError(
            f"{folder} holds no images but {len(found.masks)} in folders that are named as masks: give the folder of "
            "the images, or rename those that hold X-rays"
        )
    links = f", and links to folders are not followed ({len(found.links)} here)" if found.links else ""
    return UserError(f"{folder} holds no images{links}: put some there, as .png, .jpeg, .tif, .dcm or the like")


def log_skipped(found: Iterable[Found], names: Names) -> None:
    """Log how many masks, links to folders, and files that are no images were skipped.

    Args:
        found: of the folders that were read.
        names: what messages call files.
    """
    found = list(found)
    masks = [path for one in found for path in one.masks]
    if masks:
        log.warning("skipped %d mask%s, such as %s", len(masks), "s" * (len(masks) > 1), names.file(masks[0]))
    links = sum(len(one.links) for one in found)
    if links:
        log.warning("did not follow %d link%s to a folder: give the folders themselves", links, "s" * (links > 1))
    suffixes = Counter(path.suffix.lower() or "without suffix" for one in found for path in one.others)
    if suffixes:
        counts = ", ".join(f"{count} {printable(suffix)}" for suffix, count in suffixes.most_common())
        what = "files that are no images" if suffixes.total() > 1 else "file that is no image"
        log.info("skipped %d %s: %s", suffixes.total(), what, counts)
