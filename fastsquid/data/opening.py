"""Image files as Pillow images: known formats, sizes that fit memory, PNG as viewers read it, and the ends of gray."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, TiffImagePlugin

from ..utils.quiet import quiet
from .filetypes import MAX_FILE_BYTES, ImageFile

# The formats of IMAGE_SUFFIXES. Without this list Pillow tries all it knows: it calls Ghostscript for EPS.
_FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "DIB", "GIF", "PPM", "PCX", "SGI", "TGA", "WEBP")
_MOST_CHUNKS = 2**17  # of a PNG file; encoders write chunks of 8 kB or more
_PNG = b"\x89PNG\r\n\x1a\n"
_TURNS = {  # of EXIF's Orientation (EXIF 2.32, section 4.6.4)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow lacks these kinds of TIFF where 0 is white: 16 bits in big-endian order, and 12 bits.
_TIFF_WHITE_IS_ZERO = {(b"MM", 16): ("I;16B", "I;16B"), (b"II", 12): ("I;16", "I;12")}
for (_order, _bits), _modes in _TIFF_WHITE_IS_ZERO.items():
    TiffImagePlugin.OPEN_INFO.setdefault((_order, 0, (1,), 1, (_bits,), ()), _modes)


def require_file(path: ImageFile) -> None:
    """Reject a path that may never end when it is read, such as a named pipe or a device."""
    if isinstance(path, Path) and path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is a pipe or a device, not a file")


def require_size(file: BinaryIO) -> None:
    """Reject an open file that is too large to be an image: decoders may read all of it into memory."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > MAX_FILE_BYTES:
        raise ValueError(f"it has {size} bytes, where at most {MAX_FILE_BYTES} are read")


def open_image(file: BinaryIO) -> Image.Image:
    """Return Pillow's image of an open file, decoded.

    PNG viewers reject damaged pixels and ignore ancillary chunks that they cannot use. Pillow does not compare the
    pixels' CRC. If it rejects a PNG file whose pixels are intact, it gets the file without ancillary chunks.
    """
    start = file.read(len(_PNG))
    file.seek(0)
    if start != _PNG:
        return _decoded(file)
    content = memoryview(file.read())
    if next(islice(_png_chunks(content), _MOST_CHUNKS, None), None) is not None:
        raise ValueError(f"it has more than {_MOST_CHUNKS} chunks")
    if not all(intact for kind, _, intact in _png_chunks(content) if kind in (b"IHDR", b"PLTE", b"IDAT")):
        raise ValueError("it is damaged or cut short")
    file.seek(0)
    try:
        return _decoded(file)
    except Image.DecompressionBombError:
        raise
    except Exception:  # as in `read_with_patient`
        kept = bytearray(_PNG)
        for kind, chunk, intact in _png_chunks(content):
            if kind[:1].isupper() or (kind == b"eXIf" and intact):
                kept += chunk
        return _decoded(io.BytesIO(kept))


def _png_chunks(content: memoryview) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Yield type, bytes and intactness of a PNG file's chunks.

    Source: PNG, third edition, sections 5.3 (layout and CRC of chunks) and 5.4 (critical chunks).
    """
    at, kind = len(_PNG), b""
    while at + 8 <= len(content) and kind != b"IEND":
        length, kind = int.from_bytes(content[at : at + 4], "big"), bytes(content[at + 4 : at + 8])
        chunk = content[at : at + 12 + length]
        intact = len(chunk) == 12 + length and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        yield kind, chunk, intact
        at += len(chunk)


def _decoded(file: BinaryIO) -> Image.Image:
    """Return Pillow's image of an open file, decoded; reject a header that announces too many pixels."""
    with quiet:  # Pillow warns of too many pixels, which are rejected below
        image = Image.open(file, formats=_FORMATS)
    most = Image.MAX_IMAGE_PIXELS
    sizes = [(image.width, image.height)]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _require_meaning(image)
        # A tile takes its memory, however small the image is.
        sizes.append((image.tag_v2.get(TiffImagePlugin.TILEWIDTH, 0), image.tag_v2.get(TiffImagePlugin.TILELENGTH, 0)))
    if most is not None and any(width * height > most for width, height in sizes):
        image.close()
        raise Image.DecompressionBombError
    with quiet:  # Pillow warns of broken EXIF in TIFF
        image.load()
    return image


def _require_meaning(image: TiffImagePlugin.TiffImageFile) -> None:
    """Reject a TIFF file whose values Pillow would show as other ones.

    Source: TIFF 6.0, PhotometricInterpretation (required) and SampleFormat (2 is signed, as programs also write
    32 bits that hold 16).
    """
    tags = image.tag_v2
    for name in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH):
        if not isinstance(tags.get(name, 0), int):
            raise ValueError("the size of its tiles is no number")
    if TiffImagePlugin.PHOTOMETRIC_INTERPRETATION not in tags:
        raise ValueError("it does not say whether 0 is black or white (PhotometricInterpretation)")
    if 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)) and max(tags[TiffImagePlugin.BITSPERSAMPLE]) <= 16:
        raise ValueError("its values are signed, so that it is not known which one is black")


def upright(image: Image.Image) -> Image.Image:
    """Return a PIL image turned as its EXIF says, decoded. Broken EXIF says nothing, as in other viewers."""
    image.load()
    try:
        with quiet:  # Pillow warns of broken EXIF
            turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # as in `read_with_patient`
        turn = None
    return image if turn is None else image.transpose(turn)


def black_and_white(image: Image.Image) -> tuple[int, int]:
    """Return the values of black and white in a PIL image of more than 8 bits.

    Source: TIFF 6.0, PhotometricInterpretation and BitsPerSample. Pillow applies them for up to 8 bits only.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.mode.startswith("I;16"):
        return 0, 65535
    white = 2 ** image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0] - 1
    return (white, 0) if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0 else (0, white)
