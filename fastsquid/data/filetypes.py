"""What kind of file something is: an ordinary image by its name, DICOM by how it begins."""

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
DICOM_SUFFIXES = frozenset((".dcm", ".dicom"))


def is_image(path):
    """Whether a Path is to be read as an image.

    DICOM files are often called by a number, and one that is called .dcm counts even where it does not begin as one:
    reading it says so.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES | DICOM_SUFFIXES:
        return True
    try:
        return (
            path.name != "DICOMDIR" and path.is_file() and is_dicom(path)
        )  # a DICOMDIR is the list of the files beside it
    except OSError:
        return False


def is_dicom(path):
    """Whether a Path or `ShardFile` begins as DICOM files do (PS3.10, 7.1); what is named as another image is not even
    opened."""
    return path.suffix.lower() not in IMAGE_SUFFIXES and begins_as_dicom(path)


def begins_as_dicom(path):
    """Whether a file begins as DICOM files do, whatever its name."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
