"""DICOM files: frontal chest radiographs of one frame. Everything else is rejected with the reason.

`kinds` decides by tags what a file holds, and `pixels` decodes it. No message contains a tag that identifies a
patient. No message quotes pydicom, which may quote such a tag.
"""

from __future__ import annotations

import io
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image

from ...utils.quiet import quiet
from ..filetypes import IMAGE_SUFFIXES, ImageFile, begins_as_dicom
from .gray import padding_range, tone_curve
from .kinds import NOTHING_ELSE, Accept, reject_other_kinds
from .patient import Patient, patient_of
from .pixels import stored_values
from .tags import INSTALL, RejectedError, number, rejecting

if TYPE_CHECKING:
    from pydicom import Dataset

_MOST_INFLATED = 64 << 20  # bytes; the largest detectors give 40 million
_MOST_READS = 100_000  # pydicom reads twice per element; a radiograph has some hundred elements
_PIXELS = 0x7FE00010
_MOST_PADDING = 2**16  # bytes after the pixels that are looked at


class Radiograph(NamedTuple):
    """What is read of a DICOM file.

    Attributes:
        gray: float32 (H, W) in [0, 1]; bright is dense.
        bits: number of bits of a stored value, at most 16.
        patient: `Patient`.
    """

    gray: np.ndarray
    bits: int
    patient: Patient


def read_dicom(file: Path | BinaryIO, accept: Accept = NOTHING_ELSE) -> Radiograph:
    """Return a radiograph with the gray values that its file defines for display (`tone_curve`).

    Args:
        file: Path of a DICOM file, or the file opened at its start.
        accept: body parts and views that are read beside those of chest radiographs.

    Raises:
        RejectedError: not an accepted kind of image, damaged, or in need of a library that is not installed.
    """
    with quiet:
        return read_dataset(_open(file), accept)


def read_dataset(dataset: Dataset, accept: Accept = NOTHING_ELSE) -> Radiograph:
    """Return what `read_dicom` returns, of a file that pydicom has opened.

    Args:
        dataset: as `pydicom.dcmread` returns it.
        accept: as for `read_dicom`.

    Raises:
        RejectedError: as for `read_dicom`.
    """
    with quiet:
        if getattr(dataset, "file_meta", None) is None:
            raise RejectedError("it has no file_meta, which names the compression: open the file with pydicom.dcmread")
        reject_other_kinds(dataset, accept)
        patient = patient_of(dataset)
        words, bits = stored_values(dataset, _pixel_format(dataset))
        curve = tone_curve(dataset, bits).astype(np.float32)
        signed = bool(number(dataset, "PixelRepresentation"))
        padding = padding_range(dataset)
    # Bits above the stored ones may belong to an overlay. Signed values count from the lowest.
    _require_bits(dataset, words, bits, signed, padding)
    order = words & np.uint16(2**bits - 1)
    if signed:
        order ^= np.uint16(2 ** (bits - 1))
    shown = curve[order]
    if padding:
        # Padding may need more bits than the stored ones.
        whole = words.view(np.int16) if signed else words
        shown[(padding[0] <= whole) & (whole <= padding[1])] = 0
    if shown.min() == shown.max() and order.min() < order.max():
        raise RejectedError("its window or table shows all of its values in one gray")
    return Radiograph(shown, bits, patient)


def _require_bits(dataset, words, bits, signed, padding):
    """Reject values of more bits than the stored ones, which would wrap. Padding and overlays may have more.

    Source: DICOM PS3.5, section 8.1.1; PS3.3, section C.9.2 (overlays in unused bits, retired).
    """
    if bits == 16 or any((0x6000 + 2 * group, 0x0102) in dataset for group in range(16)):
        return
    above = words >> np.uint16(bits)
    allowed = above == 0
    if signed:  # and the sign, in all bits above
        allowed |= above == (2 ** (16 - bits) - 1)
        allowed |= above == (2 ** (max(8, int(number(dataset, "BitsAllocated"))) - bits) - 1)
    if padding:
        whole = words.view(np.int16) if signed else words
        allowed |= (padding[0] <= whole) & (whole <= padding[1])
    if not allowed.all():
        raise RejectedError(f"its pixel data has values of more than the {bits} bits of its BitsStored")


def read_patient(path: ImageFile, accept: Accept = NOTHING_ELSE) -> Patient | None:
    """Return the `Patient` of a file, from its header alone.

    Args:
        path: of the file.
        accept: as for `read_dicom`.

    Returns:
        None for files that are not DICOM and for those that `read_dicom` rejects. A file with the suffix of another
        kind of image is not opened.
    """
    try:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return None
        with path.open("rb") as file, quiet:
            if not begins_as_dicom(file):
                return None
            dataset = _open(file, stop_before_pixels=True)
            reject_other_kinds(dataset, accept)
            return patient_of(dataset)
    except (OSError, RejectedError):
        return None


def _open(file: Path | BinaryIO, **options) -> Dataset:
    try:
        import pydicom
        import pydicom.pixels  # exists since pydicom 3
    except ImportError:
        raise RejectedError("reading DICOM needs pydicom 3", INSTALL) from None
    with (
        rejecting("its tags cannot be read"),
        file.open("rb") if isinstance(file, Path) else nullcontext(file) as opened,
    ):
        whole = _inflated(opened)
        dataset = pydicom.dcmread(_Counted(whole), **options)
        if not len(dataset):  # pydicom returns nothing where the end is missing
            raise RejectedError("it is cut short")
        _require_end(whole, dataset)
    return dataset


class _Counted:
    """An open file that can be read so many times: millions of empty elements take minutes and gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._reads = file, 0

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise RejectedError(f"it has more than {_MOST_READS // 2} elements, more than a radiograph needs")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _require_end(file, dataset):
    """Reject a file if something follows its pixels that is no tag: bytes were inserted, and the picture is shifted.

    Zeros are padding. Tags of the dictionary are accepted in any order.

    Source: DICOM PS3.5, section 7.1 (tags ascend; layout of elements).
    """
    from pydicom.datadict import dictionary_has_tag
    from pydicom.tag import BaseTag

    element = dataset.get_item(_PIXELS) if _PIXELS in dataset else None
    if element is None or element.length == 0xFFFFFFFF:  # a delimiter ends it
        return
    file.seek(element.value_tell + element.length)
    rest = file.read(_MOST_PADDING)
    if not rest.strip(b"\0"):
        return
    order: Literal["little", "big"] = "little" if element.is_little_endian else "big"
    tag = BaseTag(int.from_bytes(rest[:2], order) << 16 | int.from_bytes(rest[2:4], order))
    known = tag > _PIXELS if tag.is_private else dictionary_has_tag(tag)
    if len(rest) < 8 or not known or not (element.is_implicit_VR or rest[4:6].isalpha()):
        raise RejectedError("bytes that are no tag follow its pixel data: it is damaged")


def _inflated(file):
    """Return a deflated file as an uncompressed one, and any other as it is.

    pydicom inflates without a limit. Here the meta information stays, with the uncompressed syntax.

    Raises:
        RejectedError: the file inflates to more than `_MOST_INFLATED` bytes, or is damaged. Deflated data have no
            checksum, but the end of damaged data is seldom where they say it is.

    Source: DICOM PS3.10, section 7.1 (meta information); PS3.5, section A.5 (deflated syntax: a byte may follow).
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

    start = file.read(132)
    meta = FileMetaDataset(read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2))
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return file
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    with rejecting("its deflated data is damaged"):
        content = stream.decompress(file.read(_MOST_INFLATED), _MOST_INFLATED + 1)
    if len(content) > _MOST_INFLATED:
        raise RejectedError(f"it inflates to more than {_MOST_INFLATED >> 20} MB, more than a radiograph needs")
    gzip_end = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")  # by some older programs
    if not stream.eof or len(stream.unused_data) > 1 and stream.unused_data[:8] != gzip_end:
        raise RejectedError("its deflated data is damaged or cut short")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain = io.BytesIO()
    plain.write(start)
    write_file_meta_info(plain, meta, enforce_standard=False)
    plain.write(content)
    plain.seek(0)
    return plain


def _pixel_format(dataset):
    """Return BitsStored.

    Raises:
        RejectedError: no pixels, or pixels of a format that is not read.
    """
    if "PixelData" not in dataset:
        raise RejectedError("it has no pixel data")
    rows, columns, samples, allocated, bits, _ = (
        int(number(dataset, name))
        for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
    )
    if not rows * columns or samples != 1:
        raise RejectedError(f"it has {rows} x {columns} pixels of {samples} values")
    if Image.MAX_IMAGE_PIXELS is not None and rows * columns > Image.MAX_IMAGE_PIXELS:
        raise RejectedError(f"it has more than {Image.MAX_IMAGE_PIXELS} pixels, Pillow's limit")
    high = int(number(dataset, "HighBit", default=bits - 1))
    if allocated not in (8, 16) or not 1 <= bits <= allocated or high != bits - 1:
        raise RejectedError(f"it stores {bits} of {allocated} bits up to bit {high}, where 1 to 16 from bit 0 are read")
    return bits
