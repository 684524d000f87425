"""Images of every kind that a `Scorer` takes: from files, from memory, one or many, as batches of the model's size."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, Union

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import UserError
from .dicom.kinds import NOTHING_ELSE, Accept
from .finding import find_files, find_images
from .images import ImageError, convert_array, convert_dataset, convert_image, read_image, to_unit
from .labels import require_all_normal
from .names import PATH_NAMES

if TYPE_CHECKING:
    from pydicom import Dataset

# One image, several in one array, all images below a folder, or any iterable of these.
Images: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    BinaryIO,
    Image.Image,
    "Dataset",
    "NDArray[Any]",
    torch.Tensor,
    Iterable["Images"],
]

log = logging.getLogger(__name__)


class Content:
    """The bytes of an image file, as an `ImageFile`. Its first bytes say whether it is DICOM."""

    suffix = ""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        return io.BytesIO(self._content)

    def read_bytes(self) -> bytes:
        return self._content

    def as_posix(self) -> str:
        return "bytes"


def unit_batches(
    images: Images,
    size: int,
    batch_size: int = 64,
    crop: bool = False,
    unreadable: set[int] | None = None,
    accept: Accept = NOTHING_ELSE,
) -> Iterator[torch.Tensor]:
    """Yield batches of images that a `Scorer` takes, at the model's size.

    Args:
        images: as for `Scorer.score`.
        size: side of the square images in pixels.
        batch_size: images per batch.
        crop: crop every image to its exposed field first.
        unreadable: a set to which the numbers of images that cannot be read are added. A warning names each, and a
            black image takes its place. None: the first such image raises its error.
        accept: as `read_image` takes it.

    Yields:
        float32 (B, 1, size, size) in [0, 1], on the CPU.

    Raises:
        UserError: no image; one that cannot be used, or none that can be read; or a batch size that is not a whole
            number above 0.
    """
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise UserError(f"batch_size = {batch_size!r} should be a whole number, at least 1")
    batch: list[torch.Tensor] = []
    number, first = -1, None
    for number, image in enumerate(_single(images)):
        try:
            batch.append(to_unit(torch.as_tensor(_square(image, size, number, crop, accept))))
        except ImageError as error:
            if unreadable is None or image is images:
                raise
            log.warning("%s; its results are NaN", error)
            first = first or error
            unreadable.add(number)
            batch.append(torch.zeros(size, size))
        if len(batch) == batch_size:
            yield torch.stack(batch)[:, None]
            batch = []
    if number < 0:
        raise UserError("there are no images: give at least one")
    if first is not None and unreadable is not None and len(unreadable) > number:
        raise first
    if batch:
        yield torch.stack(batch)[:, None]


def require_normal_folders(images: Any) -> None:
    """Check folders among images that all count as healthy, by their label files and the names of their folders.

    Raises:
        UserError: a folder's images are not known to be healthy (`labels.require_all_normal`).
    """
    for each in images if isinstance(images, (list, tuple)) else [images]:
        if isinstance(each, (str, os.PathLike)) and os.path.isdir(each):
            remedy = "all images of fit count as normal: give the folder of the healthy ones, or a list of their files"
            require_all_normal(Path(each), find_files(each), PATH_NAMES, remedy)


def _single(images: Any) -> Iterator[Any]:
    """Yield one image after the other. What is not an image is passed on: `_square` rejects it by its number."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim == 4 and images.shape[1] == 1:
            images = images[:, 0]
        if images.ndim == 3 and images.shape[2] not in (3, 4):  # 3 or 4 are colors, not columns of an X-ray
            yield from images
        else:
            yield images
    elif isinstance(images, (str, os.PathLike)) and os.path.isdir(images):
        found = find_images(images)
        if not found:
            raise UserError(f"{os.fspath(images)} holds no images")
        yield from found
    elif not isinstance(images, Iterable) or _is_one(images):
        yield images
    else:
        for image in images:
            yield from _single(image)


def _is_one(image: Any) -> bool:
    """Return whether something that can be iterated over is a single image: a path, bytes, an open file or DICOM."""
    return isinstance(image, (str, bytes, bytearray, os.PathLike)) or hasattr(image, "read") or _is_dataset(image)


def _is_dataset(image: Any) -> bool:
    """Return whether this is a pydicom Dataset, without importing pydicom, which may not be installed."""
    pydicom = sys.modules.get("pydicom")
    return pydicom is not None and isinstance(image, pydicom.Dataset)


def _square(image: Any, size: int, number: int, crop: bool, accept: Accept) -> NDArray[Any]:
    """Return the square that `read_image` or one of the `convert` functions makes of one image.

    Raises:
        ImageError: it is a file, or was one, that cannot be read.
        UserError: it is no image, or an array that cannot be used.
    """
    name = f"image {number}, counted from 0,"
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image), size, crop=crop, accept=accept)
    if hasattr(image, "read"):
        image = _content(image, name)
    if isinstance(image, (bytes, bytearray)):
        return read_image(Content(bytes(image)), size, name, crop, accept)
    if _is_dataset(image):
        return convert_dataset(image, size, name, crop, accept)
    if isinstance(image, Image.Image):
        try:
            return convert_image(image, size, crop)
        except Exception as error:  # decoders raise errors of almost any type for a damaged image
            raise ImageError(f"{name} cannot be used: {error}") from error
    try:
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            # NumPy has no bfloat16.
            image = (image.float() if image.is_floating_point() else image).numpy()
        if isinstance(image, np.ndarray):
            return convert_array(image, size, crop)
    except Exception as error:  # a tensor of a rare layout has errors of its own
        raise UserError(f"{name} cannot be used: {error}") from error
    raise UserError(
        f"{name} cannot be used: its type is {type(image).__name__}; give a path, bytes, an open file, a PIL image, a "
        "pydicom dataset, an array or a tensor"
    )


def _content(file: BinaryIO, name: str) -> bytes:
    """Return all bytes of an open file, also where somebody has read some of them."""
    if file.seekable():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise UserError(f"{name} cannot be used: the file is open as text; open it with mode 'rb'")
    return content
