"""Image files to square grey tensors: any size, any common mode, 8 or 16 bits, one documented scaling.

Grey values keep the file's depth: 8 bit is divided by 255 and 16 bit by 65535 (`to_unit`), never by the image's own
extremes, so a dark radiograph stays dark.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from ..utils.quiet import quiet
from .dicom.read import read_dicom
from .filetypes import DICOM_SUFFIXES, begins_as_dicom, is_dicom, is_image
from .framing import exposed_field

_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}
_SIXTEEN_BIT = {"I", "I;16", "I;16L", "I;16B", "I;16N"}  # Pillow opens a 16-bit PGM as "I"


class ImageError(UserError):
    """A file that cannot be used as an image; the message names it and says why."""


def read_image(path, size, name=None, crop=False):
    """Decodes one image file to a grey square.

    EXIF orientation is applied, colour becomes luminance (Pillow's "L": 0.299 R + 0.587 G + 0.114 B), transparency is
    ignored, the first frame of several is taken, and the image, or its exposed field, is resized to the square with
    antialiased bilinear interpolation, aspect ratio not kept. 16-bit greyscale keeps its 16 bits; Pillow itself decodes
    16-bit colour to 8. A DICOM file gives the values that it says are to be shown (`dicom.read_dicom`).

    Args:
        path: of the file, in any form, or a `ShardFile`.
        size: side of the square in pixels.
        name: what messages call the file; its path by default.
        crop: crop every image to its exposed field first (`framing.exposed_field`).

    Returns:
        np.uint8 (size, size), or np.uint16 for greyscale of more than 8 bits.

    Raises:
        ImageError: the file is missing, empty, no image, truncated, not permitted, larger than
            PIL.Image.MAX_IMAGE_PIXELS (checked before decoding), or of a mode without a meaning as grey; or DICOM that
            is no frontal chest radiograph.
    """
    path = Path(path) if isinstance(path, (str, os.PathLike)) else path
    try:
        if is_dicom(path):
            return _dicom_square(path, size, crop)
        with _open(path) as image:
            return convert_image(image, size, crop)
    except Exception as error:  # a damaged file makes decoders raise almost anything
        remedy = getattr(error, "remedy", "replace or remove it")
        raise ImageError(f"{name or path} cannot be read as an image ({_reason(path, error)}): {remedy}") from error


def convert_image(image, size, crop=False):
    """A PIL image as `read_image` gives a file's.

    Raises:
        ValueError: a mode without a meaning as grey, or values that do not fit 16 bits.
    """
    return _grey_square(ImageOps.exif_transpose(image), size, crop)


def convert_array(values, size, crop=False):
    """An array of grey values as a square, resized as files are.

    Args:
        values: (H, W) of uint8, uint16, or floats in [0, 1], in any byte order; a NumPy array or a tensor on the CPU.

    Returns:
        (size, size) of uint8 or uint16, or of float32 in [0, 1] where the values are floats.

    Raises:
        ValueError: another shape or dtype, no pixels, or floats that are not finite or outside of [0, 1].
    """
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(
            f"its shape is {values.shape}: give grey values as (height, width), both at least 1, and colour as a PIL "
            "image"
        )
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return _grey_square(Image.fromarray(values.astype(values.dtype.newbyteorder("="), copy=False)), size, crop)
    if values.dtype.kind != "f":
        raise ValueError(f"its dtype is {values.dtype}: give uint8, uint16, or floats from 0 to 1")
    if not np.isfinite(values).all():
        raise ValueError("it has values that are not finite (NaN or infinity): give floats from 0 to 1")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"its values reach from {values.min():.9g} to {values.max():.9g}: give floats from 0 to 1")
    return _resized(Image.fromarray(values.astype(np.float32)), size, crop).clip(0, 1)


def find_images(folder):
    """All image files below a folder, by suffix in any case, and DICOM files by what they begin with; sorted Paths.

    Names starting with "." (files and folders) are skipped, and links to folders are not followed.

    Raises:
        UserError: a folder that is missing or cannot be listed.
    """

    def refuse(error):
        raise UserError(f"cannot list the folder {error.filename} ({error.strerror}): give a readable one") from error

    images = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images += [Path(parent, name) for name in files if not name.startswith(".") and is_image(Path(parent, name))]
    return sorted(images, key=Path.as_posix)


def read_images(paths, size, skip_unreadable=False, names=None, crop=False):
    """Decodes image files in threads, each once, in the given order.

    Args:
        paths: of the files.
        size: side of the square images in pixels.
        skip_unreadable: leave out what cannot be read.
        names: what messages call the files; their paths by default.
        crop: as `read_image` takes it.

    Returns:
        images: (N, 1, size, size) torch.uint8, or torch.uint16 if any file has 16 bits (8-bit values then times 257,
            which is exact: 255 becomes 65535).
        kept: the N indices into `paths` that were read, all of them unless `skip_unreadable`.

    Raises:
        ImageError: a file cannot be read and `skip_unreadable` is false.
    """

    def read(path, name):
        try:
            return read_image(path, size, name, crop)
        except ImageError as error:
            if skip_unreadable:
                return None
            raise ImageError(f"{error}, or use --skip-unreadable") from error

    with ThreadPoolExecutor() as pool:
        decoded = list(pool.map(read, paths, names or paths))
    kept = [i for i, image in enumerate(decoded) if image is not None]
    depth = np.result_type(np.uint8, *(decoded[i].dtype for i in kept))
    images = np.empty((len(kept), 1, size, size), depth)
    for image, i in zip(images, kept):
        image[0] = decoded[i]
        if image.dtype != decoded[i].dtype:
            image *= 257
    return torch.from_numpy(images), kept


def to_unit(images):
    """uint8 / 255 or uint16 / 65535: a float32 tensor in [0, 1] of the same shape, on the same device.

    Floats are taken to be in [0, 1] already.
    """
    if images.is_floating_point():
        return images.to(torch.float32)
    return images.to(torch.float32) / torch.iinfo(images.dtype).max


def _dicom_square(path, size, crop):
    shown, bits = read_dicom(path)
    depth = np.uint8 if bits <= 8 else np.uint16
    image = Image.fromarray(shown * np.float32(np.iinfo(depth).max))
    return np.rint(_resized(image, size, crop)).astype(depth)


def _open(path):
    """Pillow's lazily opened image, refused if its header announces too many pixels."""
    with quiet:  # of what is refused below
        image = Image.open(path if isinstance(path, Path) else path.open())
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        image.close()
        raise Image.DecompressionBombError
    return image


def _grey_square(image, size, crop):
    if image.mode in _EIGHT_BIT:
        if image.mode == "P":
            image = image.convert("RGBA")  # straight to L, Pillow warns of transparency
        return _resized(image.convert("L"), size, crop)
    if image.mode not in _SIXTEEN_BIT:
        raise ValueError(f"Pillow's mode {image.mode} is neither 8-bit nor 16-bit grey nor colour")
    image = image.convert("F")
    low, high = image.getextrema()
    if low < 0 or high > 65535:
        raise ValueError(f"its values {low:.0f} to {high:.0f} do not fit 16 bits")
    return np.rint(_resized(image, size, crop)).astype(np.uint16)


def _resized(image, size, crop):
    """A PIL image of mode L or F, or its exposed field, as a square array, which is writable, for torch."""
    if crop:
        top, bottom, left, right = exposed_field(np.asarray(image))
        image = image.crop((left, top, right, bottom))
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR))


def _reason(path, error):
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {Image.MAX_IMAGE_PIXELS} pixels, Pillow's limit"
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(path)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _unidentified(path):
    with path.open("rb") as file:
        if not file.read(1):
            return "the file is empty"
    if begins_as_dicom(path):
        return f"it is DICOM but named {path.suffix}, where .dcm would be right"
    if path.suffix.lower() in DICOM_SUFFIXES:
        return "it is named as DICOM but does not begin so, with 128 bytes and DICM"
    return "the file is no image"
