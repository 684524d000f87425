"""What kind of file something is: an ordinary image by its name, DICOM by its first bytes."""

from pathlib import Path
from typing import BinaryIO, Literal, Protocol

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
DICOM_SUFFIXES = frozenset((".dcm", ".dicom"))


class ImageFile(Protocol):
    """A file that images are read from: a Path, or a `sources.shards.ShardFile` inside an archive."""

    @property
    def suffix(self) -> str: ...

    @property
    def parts(self) -> tuple[str, ...]: ...

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
    except OSError:
        return False


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
