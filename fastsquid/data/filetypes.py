"""What kind of file something is: an ordinary image by its name, DICOM by its first bytes; a mask by its folder."""

import re
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

# Of still images that every supported Pillow reads.
IMAGE_SUFFIXES = frozenset(
    (".apng", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx")
    + (".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".sgi", ".tga", ".tif", ".tiff", ".webp")
)
DICOM_SUFFIXES = frozenset((".dcm", ".dicom"))
# Larger files are not read. Pillow's limit of pixels, at 8 bytes each, is less.
MAX_FILE_BYTES = 2**30

_MASK_FOLDER = re.compile(r"labels?|annotations?|segmentations?|ground[ _-]?truth|(.*[^a-z])?masks?([^a-z].*)?", re.S)
_MASK_FILE = re.compile(r"(.+)[ _-](?:masks?|seg|segmentation)(?:[ _-]?\d+)?", re.S)


class ImageFile(Protocol):
    """A file that images are read from: a Path, or a `sources.shards.ShardFile` inside an archive."""

    @property
    def suffix(self) -> str: ...

    def open(self, mode: Literal["rb"]) -> BinaryIO: ...

    def read_bytes(self) -> bytes: ...

    def as_posix(self) -> str: ...


def is_image(path: Path) -> bool:
    """Return whether a file is to be read as an image.

    DICOM files are often named by a number, so any file that begins as DICOM counts. A file named .dcm counts whatever
    it holds; reading it then says what is wrong. A DICOMDIR, the list of the files beside it, does not count.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES | DICOM_SUFFIXES:
        return True
    try:
        return path.name != "DICOMDIR" and path.is_file() and is_dicom(path)
    except PermissionError:
        return True  # reading it will say so
    except OSError:
        return False


def is_mask_folder(name: str) -> bool:
    """Return whether a folder of this name holds masks of images, not images.

    >>> list(map(is_mask_folder, ["masks", "lung mask", "ManualMask", "Annotations", "NORMAL"]))
    [True, True, True, True, False]
    """
    return bool(_MASK_FOLDER.fullmatch(name.lower()) or re.search(r"[a-z]Masks?$", name))


def masked_stem(stem: str) -> str | None:
    """Return the stem of the image that a file beside it masks, in lower case; None if the name is not a mask's.

    >>> masked_stem("CHNCXR_0001_0_mask"), masked_stem("CHNCXR_0001_0")
    ('chncxr_0001_0', None)
    """
    match = _MASK_FILE.fullmatch(stem.lower())
    return match[1] if match else None


def is_dicom(path: ImageFile) -> bool:
    """Return whether a file is DICOM by its first bytes. A file with an image's suffix is not, and is not opened."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return False
    with path.open("rb") as file:
        return begins_as_dicom(file)


def begins_as_dicom(file: BinaryIO) -> bool:
    """Return whether an open file begins as DICOM files do, whatever its name. It is left at its start.

    Source: DICOM PS3.10, section 7.1: 128 bytes, then DICM.
    """
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"
