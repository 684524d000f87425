"""Stored values of DICOM images. The compressed stream decides what it holds, not the tags (PS3.5, 8.2.1)."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from .decoders import decode_by_gdcm
from .tags import INSTALL, RejectedError, number, rejecting, values

if TYPE_CHECKING:
    from pydicom import Dataset

_RLE = "1.2.840.10008.1.2.5"
_JPEG_LOSSLESS, _JPEG_LS = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.81"
_DECODED = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)) | {_RLE}
_ITEM = b"\xfe\xff\x00\xe0"  # begins an item of encapsulated pixel data, in little endian
# Levels that the colors of a gray image may differ by, after lossy compression.
_GRAY_TOLERANCE = 4


class StreamHeader(NamedTuple):
    """What the header of a compressed image says of it.

    Attributes:
        kind: `JPEG` (baseline, extended or progressive), `JPEG Lossless`, `JPEG-LS`, `JPEG 2000`, or `JPEG of a rare
            kind`.
        bits: precision of a value.
        rows, columns: size in pixels.
        components: values per pixel.
        signed: whether values are signed, which only JPEG 2000 says.
    """

    kind: str
    bits: int
    rows: int
    columns: int
    components: int
    signed: bool = False


def stored_values(dataset: Dataset, bits: int) -> tuple[np.ndarray, int]:
    """Decode the image of a dataset.

    Sizes, components and precision are compared with the tags before any decoder sees the data.

    Args:
        dataset: a pydicom Dataset of a gray image of one frame.
        bits: its BitsStored.

    Returns:
        words: uint16 (Rows, Columns), the stored values in two's complement. Of uncompressed data, bits above
            `bits` may hold an overlay.
        bits: of a value; fewer than BitsStored where the compressed stream has fewer.

    Raises:
        RejectedError: the data is damaged, of an unknown compression, or disagrees with the tags.

    Source: DICOM PS3.5, sections 8.1.1 and 8.2.1.
    """
    syntax = _syntax(dataset)
    damaged = f"its pixel data cannot be decoded: it is damaged, cut short, or of a rare kind ({syntax.name})"
    if not syntax.is_encapsulated:
        _require_length(dataset, syntax)
        with rejecting(damaged):
            return _whole_words(dataset, syntax), bits
    from pydicom.encaps import generate_frames

    with rejecting(damaged):
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        if syntax == _RLE:
            _require_rle_length(frame, dataset)
            return _whole_words(dataset, syntax, decoding_plugin="pydicom"), bits
        header = stream_header(frame)
    if header is None:
        raise RejectedError("its pixel data does not begin as a JPEG or JPEG 2000 image")
    _require_agreement(header, dataset)
    if header.kind in ("JPEG Lossless", "JPEG-LS") and importlib.util.find_spec("gdcm") is None:
        raise RejectedError(f"decoding {syntax.name} needs python-gdcm", INSTALL)
    with rejecting(damaged):
        words = _by_gdcm(frame, header) if header.kind in ("JPEG Lossless", "JPEG-LS") else _by_pillow(frame, header)
        if words.shape != (header.rows, header.columns):
            raise ValueError
    return words, _bits(words, header, dataset, bits)


def stream_header(stream: bytes) -> StreamHeader | None:
    """Return the header of a JPEG, JPEG-LS or JPEG 2000 image; None where there is none.

    Source: ISO 10918-1, B.2.2 (JPEG); ISO 15444-1, A.5.1 and I.4 (JPEG 2000).
    """
    if stream[:2] == b"\xff\xd8":
        return _jpeg_header(stream)
    at = 0
    if stream[4:8] == b"jP  ":  # boxes around the codestream, which DICOM does not allow but devices write
        while stream[at + 4 : at + 8] not in (b"jp2c", b""):
            at += max(8, int.from_bytes(stream[at : at + 4], "big"))
        at += 8
    size = stream[at + 4 : at + 4 + int.from_bytes(stream[at + 4 : at + 6], "big")]
    if stream[at : at + 4] != b"\xff\x4f\xff\x51" or len(size) < 41:
        return None
    right, bottom, left, top = (int.from_bytes(size[i : i + 4], "big") for i in range(4, 20, 4))
    components = int.from_bytes(size[36:38], "big")
    # Precision and sampling of each component. Of components that differ, none is the image's.
    kinds = {size[i : i + 3] for i in range(38, 38 + 3 * components, 3)}
    precision, *sampling = next(iter(kinds), b"")
    if len(kinds) != 1 or sampling != [1, 1]:
        return StreamHeader("JPEG of a rare kind", 0, bottom - top, right - left, components)
    return StreamHeader(
        "JPEG 2000", (precision & 0x7F) + 1, bottom - top, right - left, components, bool(precision & 0x80)
    )


def _jpeg_header(stream):
    at = 2
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            kinds = {0xC0: "JPEG", 0xC1: "JPEG", 0xC2: "JPEG", 0xC3: "JPEG Lossless", 0xF7: "JPEG-LS"}
            rows, columns = (int.from_bytes(stream[at + i : at + i + 2], "big") for i in (5, 7))
            return StreamHeader(kinds.get(marker, "JPEG of a rare kind"), stream[at + 4], rows, columns, stream[at + 9])
        else:
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


def _decoder(syntax):
    from pydicom.pixels import get_decoder  # pyright: ignore[reportPrivateImportUsage]

    return get_decoder(syntax)


def _whole_words(dataset, syntax, **options):
    """Decode by pydicom, with all bits: padding may need more than the stored ones."""
    decoded, _ = _decoder(syntax).as_array(dataset, raw=True, correct_unused_bits=False, **options)
    return decoded.astype(np.uint16)


def _syntax(dataset):
    """Return a transfer syntax that can be decoded here. An unknown syntax is not quoted."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise RejectedError("it has no TransferSyntaxUID")
    with rejecting("its TransferSyntaxUID is of no image compression that is known"):
        _decoder(syntax)
        encapsulated = syntax.is_encapsulated
    if encapsulated and syntax not in _DECODED:
        raise RejectedError(f"{syntax.name} is not decoded here")
    return syntax


def _require_length(dataset, syntax):
    """Reject uncompressed data of another length than the tags say: it would be sheared, or is compressed.

    Padding may follow, of fewer bytes than one more row or column would have.
    """
    element = dataset["PixelData"]
    content = element.value
    rows, columns, allocated = (int(number(dataset, name)) for name in ("Rows", "Columns", "BitsAllocated"))
    expected = rows * columns * allocated // 8
    with rejecting("its pixel data cannot be read"):
        length = len(content)
        items = content[:4] == _ITEM and content[8 + int.from_bytes(content[4:8], "little") :][:4] == _ITEM
    if element.is_undefined_length or items:
        raise RejectedError(f"its pixel data is compressed, where its TransferSyntaxUID says {syntax.name}")
    if not expected <= length <= expected + max(expected % 2, min(rows, columns) * allocated // 8 - 1):
        start = "its pixel data is cut short: it" if length < expected else "its pixel data"
        raise RejectedError(
            f"{start} has {length} bytes, where one frame of {rows} x {columns} values of {allocated} bits has "
            f"{expected}"
        )


def _require_rle_length(frame, dataset):
    """Raise ValueError for RLE segments of another length than the tags say. pydicom would shear them.

    Source: DICOM PS3.5, sections G.3.2 and G.5.
    """
    expected = dataset.Rows * dataset.Columns
    starts = list(np.frombuffer(frame[4 : 4 + 4 * frame[0]], "<u4")) + [len(frame)]
    for start, end in zip(starts[:-1], starts[1:]):
        at, length = start, 0
        # The decoder stops at the segment's end too. A byte may follow, which makes its length even.
        while at < end - 1:
            count = frame[at]
            at += 2 + count if count < 128 else 2 if count > 128 else 1
            length += 1 + count if count < 128 else 257 - count if count > 128 else 0
        if not expected <= length <= expected + 1:
            raise ValueError


def _require_agreement(header, dataset):
    """Reject a stream of another size than the tags say, or one that cannot be shown as they say."""
    if (header.rows, header.columns) != (dataset.Rows, dataset.Columns) or header.bits > dataset.BitsAllocated:
        raise RejectedError(
            f"its pixel data is of {header.rows} x {header.columns} pixels of {header.bits} bits, where its tags have "
            f"{int(dataset.Rows)} x {int(dataset.Columns)} of {int(dataset.BitsAllocated)}"
        )
    convertible = header.kind in ("JPEG", "JPEG 2000") and header.components == 3 and header.bits == 8
    if header.components != 1 and not convertible:
        raise RejectedError(
            f"its pixel data is {header.kind} of {header.components} values per pixel of {header.bits} bits, where "
            "its tags have 1"
        )
    if header.kind == "JPEG of a rare kind" or (header.kind == "JPEG" and header.bits != 8):
        raise RejectedError(f"its pixel data is {header.kind} of {header.bits} bits, which is not decoded here")


def _by_gdcm(frame, header):
    syntax = _JPEG_LOSSLESS if header.kind == "JPEG Lossless" else _JPEG_LS
    decoded = decode_by_gdcm(frame, syntax, header.rows, header.columns, header.bits)
    words = np.frombuffer(decoded or b"", np.uint8 if header.bits <= 8 else "<u2")
    return words.reshape(header.rows, header.columns).astype(np.uint16)


def _by_pillow(frame, header):
    with Image.open(io.BytesIO(frame), formats=("JPEG" if header.kind == "JPEG" else "JPEG2000",)) as image:
        if image.size != (header.columns, header.rows) or image.mode not in ("L", "I;16", "RGB"):
            raise ValueError
        decoded = np.asarray(image)
        if image.mode == "RGB":
            if np.ptp(decoded, axis=2).max() > _GRAY_TOLERANCE:
                raise RejectedError("its pixel data is a color image, where its tags have gray")
            return np.asarray(image.convert("L")).astype(np.uint16)
    # Pillow moves signed values up to unsigned ones, and the highest bit to that of 8 or 16 bits.
    words = decoded >> (8 * decoded.dtype.itemsize - header.bits)
    return (words.astype(np.int32) - (2 ** (header.bits - 1) if header.signed else 0)).astype(np.uint16)


def _bits(words, header, dataset, bits):
    """Return the bits of a stored value; reject values that the tags cannot mean."""
    signed = bool(number(dataset, "PixelRepresentation"))
    if header.signed and not signed and (words >= 2**15).any():
        raise RejectedError("its pixel data has values below 0, where its tags have none")
    if header.bits < bits:
        # A window or table in the tags' values would darken the stream's.
        described = any(
            values(dataset, name) for name in ("ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth")
        )
        if described or signed or header.signed:
            raise RejectedError(f"its pixel data is of {header.bits} bits, where its tags have {bits}")
        return header.bits
    negative = 2 ** (16 if header.signed else header.bits) - 2 ** (bits - 1)
    fits = words < 2**bits
    if signed:
        fits |= words >= negative
    if not fits.all():
        raise RejectedError(
            f"its pixel data has values that do not fit the {bits} {'signed' if signed else 'unsigned'} bits of its "
            "tags"
        )
    return bits
