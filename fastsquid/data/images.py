"""Image files to square gray tensors: any size, any common mode, 8 or 16 bits, one documented scaling.

Gray values keep the file's depth. 8-bit values are divided by 255 and 16-bit values by 65535 (`to_unit`), never by the
image's own extremes. So a dark radiograph stays dark.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..errors import UserError
from ..utils.bars import bar
from .cache import cached_images
from .dicom.kinds import NOTHING_ELSE, Accept
from .dicom.patient import Patient
from .dicom.read import read_dataset, read_dicom
from .dicom.tags import RejectedError
from .filetypes import DICOM_SUFFIXES, IMAGE_SUFFIXES, ImageFile, begins_as_dicom
from .framing import Frame, exposed_field
from .opening import black_and_white, open_image, require_file, require_size, upright

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger(__name__)

_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Gray that an image of 12 bits, declared as 16, cannot reach.
_DARK = 0.07
_SIXTEEN_BIT = {"I", "I;16", "I;16L", "I;16B", "I;16N"}  # Pillow opens a 16-bit PGM as "I"


class ImageError(UserError):
    """A file that cannot be used as an image; the message names the file and says why."""


def read_image(
    path: str | os.PathLike | ImageFile,
    size: int,
    name: object | None = None,
    crop: bool = False,
    accept: Accept = NOTHING_ELSE,
) -> np.ndarray:
    """Decode one image file to a gray square.

    EXIF orientation is applied, unless the EXIF data are broken. Color becomes luminance (Pillow's "L":
    0.299 R + 0.587 G + 0.114 B), and transparency is ignored. Of several frames the first is taken. The image, or its
    exposed field, is resized to the square with antialiased bilinear interpolation; the aspect ratio is not kept.
    16-bit gray keeps its 16 bits; Pillow itself decodes 16-bit color to 8. Ancillary chunks of PNG that are broken or
    too large are ignored. A DICOM file gives the gray values that it defines for display (`dicom.read.read_dicom`).

    Args:
        path: of the file, or a `ShardFile`.
        size: side of the square in pixels.
        name: what messages call the file; its path by default.
        crop: crop the image to its exposed field first (`framing.exposed_field`).
        accept: body parts and views of DICOM files that are read beside those of frontal chest radiographs.

    Returns:
        np.uint8 (size, size), or np.uint16 for gray of more than 8 bits.

    Raises:
        ImageError: the file is missing, empty, no image, truncated, not permitted, of more than `MAX_FILE_BYTES` or
            PIL.Image.MAX_IMAGE_PIXELS (both checked before decoding), or of a mode without a meaning as gray; or DICOM
            that is no frontal chest radiograph.

    >>> import numpy as np
    >>> from PIL import Image
    >>> from fastsquid.data import read_image
    >>> Image.fromarray(np.full((300, 400), 128, np.uint8)).save("chest.png")
    >>> square = read_image("chest.png", size=128)
    >>> square.shape, square.dtype, int(square.max())
    ((128, 128), dtype('uint8'), 128)
    """
    return read_with_patient(path, size, name, crop, accept=accept).square


class ReadImage(NamedTuple):
    """What `read_with_patient` reads of a file.

    Attributes:
        square: as `read_image` returns it.
        picture: the same at a larger size, for people; the square itself unless it was asked for.
        patient: a `Patient`, or None for files that are not DICOM.
        frame: what the square shows of the image.
    """

    square: np.ndarray
    picture: np.ndarray
    patient: Patient | None
    frame: Frame


def read_with_patient(
    path: str | os.PathLike | ImageFile,
    size: int,
    name: object | None = None,
    crop: bool = False,
    picture: int = 0,
    accept: Accept = NOTHING_ELSE,
) -> ReadImage:
    """Return what `read_image` returns, a larger picture, and the patient of a DICOM file. The file is opened once.

    Args:
        path, size, name, crop, accept: as for `read_image`.
        picture: largest side of the picture in pixels. The picture has no more than the file has, and no fewer than
            the square.

    Raises:
        ImageError: as for `read_image`.
    """
    file = Path(path) if isinstance(path, (str, os.PathLike)) else path
    try:
        require_file(file)
        with file.open("rb") as opened:
            require_size(opened)
            if file.suffix.lower() not in IMAGE_SUFFIXES and begins_as_dicom(opened):
                radiograph = read_dicom(opened, accept)
                square, frame = _dicom_square(radiograph, size, crop)
                large = min(picture, max(radiograph.gray.shape))
                shown = _dicom_square(radiograph, large, crop)[0] if large > size else square
                return ReadImage(square, shown, radiograph.patient, frame)
            with open_image(opened) as image:
                square, frame = _file_square(image, size, crop)
                large = min(picture, max(image.size))
                shown = convert_image(image, large, crop) if large > size else square
                return ReadImage(square, shown, None, frame)
    except Exception as error:  # a damaged file makes decoders raise almost anything
        raise _image_error(name or path, _reason(file, error), error) from error


def convert_dataset(
    dataset: Dataset, size: int, name: object, crop: bool = False, accept: Accept = NOTHING_ELSE
) -> np.ndarray:
    """Convert a DICOM file that pydicom has opened to a gray square, as `read_image` does with the file.

    Args:
        dataset: as `pydicom.dcmread` returns it.
        size, name, crop, accept: as for `read_image`.

    Returns:
        np.uint8 (size, size), or np.uint16 for gray of more than 8 bits.

    Raises:
        ImageError: DICOM that is no frontal chest radiograph, or that cannot be decoded.
    """
    try:
        return _dicom_square(read_dataset(dataset, accept), size, crop)[0]
    except Exception as error:  # as above; only the words of a RejectedError are known to hold no tag of a patient
        reason = str(error) if isinstance(error, RejectedError) else "it is damaged"
        raise _image_error(name, reason, error) from error


def convert_image(image: Image.Image, size: int, crop: bool = False) -> np.ndarray:
    """Convert a PIL image to a gray square, as `read_image` does with a file.

    Args:
        image: of any common mode.
        size: side of the square in pixels.
        crop: as `read_image` takes it.

    Returns:
        np.uint8 (size, size), or np.uint16 for gray of more than 8 bits.

    Raises:
        ValueError: a mode without a meaning as gray, or values that do not fit 16 bits.
    """
    return _file_square(image, size, crop)[0]


def convert_array(values: np.ndarray | torch.Tensor, size: int, crop: bool = False) -> np.ndarray:
    """Resize an array of gray values to a square, as `read_image` resizes files.

    Args:
        values: (H, W) of uint8, uint16, or floats in [0, 1], in any byte order; a NumPy array or a tensor on the CPU.
        size: side of the square in pixels.
        crop: as `read_image` takes it.

    Returns:
        (size, size) of uint8 or uint16, or of float32 in [0, 1] if the values are floats.

    Raises:
        ValueError: another shape or dtype, no pixels, or floats that are not finite or outside of [0, 1].
    """
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"its shape is {values.shape}: give gray values as (height, width), both at least 1, and color as a PIL "
            "image"
        )
    if not crop and values.shape == (size, size) and values.dtype in (np.uint8, np.uint16):
        return np.array(values)  # as `read_image` made it
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return _gray_square(Image.fromarray(values.astype(values.dtype.newbyteorder("="), copy=False)), size, crop)[0]
    if values.dtype.kind != "f":
        raise ValueError(f"its dtype is {values.dtype}: give uint8, uint16, or floats from 0 to 1")
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite (NaN or infinity): give floats from 0 to 1")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"its values reach from {values.min():.9g} to {values.max():.9g}: give floats from 0 to 1")
    return _resized(Image.fromarray(values.astype(np.float32)), size, crop)[0].clip(0, 1)


def read_images(
    paths: Sequence[str | os.PathLike | ImageFile],
    size: int,
    skip_unreadable: bool = False,
    names: Sequence[object] | None = None,
    crop: bool = False,
    accept: Accept = NOTHING_ELSE,
) -> tuple[torch.Tensor, list[int]]:
    """Decode image files in threads, each once, in the given order.

    Args:
        paths: N files.
        size: side of the square images in pixels.
        skip_unreadable: leave out files that cannot be read.
        names: N names that messages call the files; their paths by default.
        crop, accept: as `read_image` takes them.

    Returns:
        images: (N, 1, size, size) torch.uint8, or torch.uint16 if any file has 16 bits. 8-bit values are then
            multiplied by 257, which is exact: 255 becomes 65535.
        kept: indices into `paths` of the files that were read; all N of them unless `skip_unreadable`.

    Raises:
        ImageError: a file cannot be read and `skip_unreadable` is false.

    >>> import numpy as np
    >>> from PIL import Image
    >>> from fastsquid.data import read_images
    >>> for name in ("a.png", "b.png"):
    ...     Image.fromarray(np.full((300, 400), 128, np.uint8)).save(name)
    >>> images, kept = read_images(["a.png", "missing.png", "b.png"], size=64, skip_unreadable=True)
    >>> images.shape, kept
    (torch.Size([2, 1, 64, 64]), [0, 2])
    """
    images, kept, _ = decode_images(paths, size, skip_unreadable, names, crop, accept)
    return images, kept


def decode_images(
    paths: Sequence[str | os.PathLike | ImageFile],
    size: int,
    skip_unreadable: bool = False,
    names: Sequence[object] | None = None,
    crop: bool = False,
    accept: Accept = NOTHING_ELSE,
    cache: Path | None = None,
) -> tuple[torch.Tensor, list[int], list[Frame]]:
    """Return what `read_images` returns, and the `Frame` of each image that was read.

    Args:
        paths, size, skip_unreadable, names, crop, accept: as for `read_images`.
        cache: folder of a cache (`cache.cached_images`), or None.

    Raises:
        ImageError: as for `read_images`.
        UserError: as for `cached_images`.
    """

    skipped = []

    def read(path, name):
        try:
            found = read_with_patient(path, size, name, crop, accept=accept)
            return found.square, found.frame
        except ImageError as error:
            if skip_unreadable:
                return error
            raise ImageError(f"{error}, or use --skip-unreadable") from error

    def decode():
        with ThreadPoolExecutor() as pool:
            for found in bar(pool.map(read, paths, names or paths), "reading images", total=len(paths)):
                if isinstance(found, ImageError):
                    skipped.append(found)
                yield None if isinstance(found, ImageError) else found

    if cache is not None:
        files = [Path(path) if isinstance(path, (str, os.PathLike)) else path for path in paths]
        facts = [skip_unreadable, crop, accept.body, accept.view]
        images, kept, frames = cached_images(cache, files, size, facts, decode)
    else:
        decoded = list(decode())
        kept = [i for i, found in enumerate(decoded) if found is not None]
        squares, frames = [found[0] for found in decoded if found], [found[1] for found in decoded if found]
        values = np.empty((len(kept), 1, size, size), np.result_type(np.uint8, *(square.dtype for square in squares)))
        for image, square in zip(values, squares):
            image[0] = square
            if image.dtype != square.dtype:
                image *= 257
        images = torch.from_numpy(values)
    if skipped and kept:
        log.warning("the first of %d files that are left out: %s", len(skipped), skipped[0])
    if images.dtype == torch.uint16:
        warn_of_darkness([gray_range(image) for image in images.numpy()])
    return images, kept, frames


def gray_range(square: np.ndarray) -> tuple[float, float]:
    """Return the darkest and the brightest gray of a square (`read_image`), in [0, 1]."""
    most = np.iinfo(square.dtype).max
    return float(square.min() / most), float(square.max() / most)


def warn_of_darkness(ranges: Sequence[tuple[float, float]]) -> None:
    """Warn once if every image of a set uses only the dark or only the bright end of its gray range.

    Files that declare more bits than they use look so, such as 16 bits of which 12 are used; inverted, almost white.

    Args:
        ranges: `gray_range` of each image.
    """
    if not ranges:
        return
    darkest, brightest = min(low for low, _ in ranges), max(high for _, high in ranges)
    if 0 < brightest < _DARK or 1 - _DARK < darkest < 1:
        log.warning(
            "all grays of all %d images are from %.1f to %.1f %% of their range: they look almost %s. Their files may "
            "declare more bits than they use, such as 16 for 12; correct BitsStored, or add a window",
            len(ranges),
            100 * darkest,
            100 * brightest,
            "black" if brightest < _DARK else "white",
        )


def select_images(images: torch.Tensor, which: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Return `images[which]`. Indexing uint16 needs PyTorch 2.10; this works with older versions too.

    Args:
        images: (N, ...) of any dtype.
        which: indices (M,), or bool (N,).
    """
    which = torch.as_tensor(which)
    if images.dtype != torch.uint16:
        return images[which]
    return images.view(torch.int16)[which].view(torch.uint16)


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Scale images to [0, 1]: uint8 is divided by 255, uint16 by 65535.

    Args:
        images: uint8 or uint16 of any shape and device; or floats, which are taken to be in [0, 1] already.

    Returns:
        float32 of the same shape, on the same device.

    >>> import torch
    >>> from fastsquid.data import to_unit
    >>> to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    if images.is_floating_point():
        return images.to(torch.float32)
    return images.to(torch.float32) / torch.iinfo(images.dtype).max


def _image_error(name, reason, error):
    return ImageError(
        f"{name} cannot be read as an image ({reason}): {getattr(error, 'remedy', 'replace or remove it')}"
    )


def _dicom_square(radiograph, size, crop):
    """Return a DICOM file's gray values as a square, and its `Frame`."""
    depth = np.uint8 if radiograph.bits <= 8 else np.uint16
    image = Image.fromarray(radiograph.gray * np.float32(np.iinfo(depth).max))
    square, frame = _resized(image, size, crop)
    return np.rint(square).astype(depth), frame


def _file_square(image, size, crop):
    """Return a PIL image that a file was opened as, as a square, and its `Frame`."""
    return _gray_square(upright(image), size, crop, *black_and_white(image))


def _gray_square(image, size, crop, black=0, white=65535):
    """Return a PIL image as a square, and its `Frame`.

    Args:
        image: of any common mode.
        size, crop: as `read_image` takes them.
        black, white: values of black and white, where the mode has more than 8 bits.
    """
    if image.mode in _EIGHT_BIT:
        if image.mode == "P":
            image = image.convert("RGBA")  # Pillow warns of transparency if it converts to L at once
        return _resized(image.convert("L"), size, crop)
    if image.mode not in _SIXTEEN_BIT:
        raise ValueError(f"Pillow's mode {image.mode} is neither 8-bit nor 16-bit gray nor color")
    image = image.convert("F")
    low, high = image.getextrema()
    if low < 0 or high > 65535:
        raise ValueError(f"its values {low:.0f} to {high:.0f} do not fit 16 bits")
    if (black, white) != (0, 65535):
        image = Image.fromarray((np.asarray(image) - np.float32(black)) * np.float32(65535 / (white - black)))
    square, frame = _resized(image, size, crop)
    return np.rint(square).astype(np.uint16), frame


def _resized(image, size, crop):
    """Return a PIL image of mode L or F, or its exposed field, as a square array, and its `Frame`.

    The array is writable, as torch needs it.
    """
    width, height = image.size
    top, bottom, left, right = exposed_field(np.asarray(image)) if crop else (0, height, 0, width)
    if crop:
        image = image.crop((left, top, right, bottom))
    square = np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    return square, Frame(width, height, left, top, right, bottom)


def _reason(path, error):
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {Image.MAX_IMAGE_PIXELS} pixels, Pillow's limit"
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(path)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _unidentified(path):
    with path.open("rb") as file:
        start = file.read(4)
        if not start:
            return "the file is empty"
        file.seek(0)
        has_dicom_start = begins_as_dicom(file)
    if has_dicom_start:
        return f"it is DICOM but named {path.suffix}, where .dcm would be right"
    if path.suffix.lower() in DICOM_SUFFIXES:
        return "it is named as DICOM but does not begin so, with 128 bytes and DICM"
    if start in _TIFF:
        return "it is TIFF of a rare kind, such as 10 or 32 bits per value"
    return "the file is no image"
