"""DICOM files: frontal chest radiographs of one frame. Everything else is rejected with the reason.

Tags decide what a file holds (DICOM PS3.3); `pixels` decodes it. No message contains a tag that
identifies a patient. No message quotes pydicom, which may quote such a tag.
"""

from __future__ import annotations

import hashlib
import io
import re
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ...utils.quiet import quiet
from ..filetypes import IMAGE_SUFFIXES, ImageFile, begins_as_dicom
from .gray import padding_range, tone_curve
from .pixels import stored_values
from .tags import INSTALL, RejectedError, code, number, rejecting, text, values

if TYPE_CHECKING:
    from pydicom import Dataset

_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"  # the DX class whose images are not meant for display
_RADIOGRAPHS = frozenset(("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"))  # CR, and DX for presentation
_DIRECTORY = "1.2.840.10008.1.3.10"

_MOST_INFLATED = 64 << 20  # bytes; the largest detectors give 40 million

# Words of BodyPartExamined in use for the chest, and words that may stand beside them.
_CHEST = frozenset(("CHEST", "THORAX", "TORAX", "LUNG", "LUNGS"))
_BESIDE_CHEST = frozenset("AP CR DR DX ERECT FRONTAL PA PORT PORTABLE STANDING SUPINE UPRIGHT XR".split())
_FRONTAL = frozenset(("AP", "FRONTAL", "PA"))
# Words of ViewPosition that are not frontal: the standard's, and others in use.
_VIEWS = {
    **dict.fromkeys(("LATERAL", "LAT", "LL", "RL", "LLAT", "RLAT"), "lateral"),
    **dict.fromkeys(("LLD", "RLD"), "decubitus"),
    **dict.fromkeys(("LLO", "RLO", "LAO", "RAO", "LPO", "RPO"), "oblique"),
}
# Of ViewCodeSequence (PS3.16, CID 4010): lateral, left, right, lateral-medial and medial-lateral in SNOMED CT and SRT.
_LATERAL_CODES = frozenset(
    ("399067008", "399173006", "399198007", "399352003", "399260004")
    + ("R-102CD", "R-10236", "R-10232", "R-10228", "R-10224")
)
# Of PatientID, in capital letters and digits: what programs write in the place of an ID.
_NOBODY = frozenset(
    "ANON ANONYM ANONYMIZED ANONYMISED ANONYMOUS DEIDENTIFIED DELETED DUMMY HIDDEN NA NAN NIL NOID NONE NULL PATIENT "
    "PATIENTID REDACTED REMOVED UNKNOWN".split()
)
_OLDEST = 130  # years; releases with higher ages, such as 148Y and 999Y, use them as placeholders
_AGE_UNITS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


class Patient(NamedTuple):
    """The patient of a file.

    Attributes:
        identity: sha256 of PatientID; None where there is none, or one that stands for nobody: `ANONYMOUS`, `0`, `-`
            and the like. IssuerOfPatientID is left out, although two hospitals may give one ID to two people: if only
            one split had it, it would hide a shared patient.
        age: in years, or None where there is none, a malformed one, or a placeholder: 000Y, or 130 years and more.
    """

    identity: bytes | None
    age: float | None


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


def read_dicom(file: Path | BinaryIO) -> Radiograph:
    """Return a radiograph with the gray values that its file defines for display (`tone_curve`).

    Args:
        file: Path of a DICOM file, or the file opened at its start.

    Raises:
        RejectedError: not an accepted kind of image, damaged, or in need of a library that is not installed.
    """
    with quiet:
        return read_dataset(_open(file))


def read_dataset(dataset: Dataset) -> Radiograph:
    """Return what `read_dicom` returns, of a file that pydicom has opened.

    Args:
        dataset: as `pydicom.dcmread` returns it.

    Raises:
        RejectedError: as for `read_dicom`.
    """
    with quiet:
        if getattr(dataset, "file_meta", None) is None:
            raise RejectedError("it has no file_meta, which names the compression: open the file with pydicom.dcmread")
        _reject_other_kinds(dataset)
        patient = Patient(_identity(dataset), _age(dataset))
        words, bits = stored_values(dataset, _pixel_format(dataset))
        curve = tone_curve(dataset, bits).astype(np.float32)
        signed = bool(number(dataset, "PixelRepresentation"))
        padding = padding_range(dataset)
    # Bits above the stored ones may belong to an overlay. Signed values count from the lowest.
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


def read_patient(path: ImageFile) -> Patient | None:
    """Return the `Patient` of a file, from its header alone.

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
            _reject_other_kinds(dataset)
            return Patient(_identity(dataset), _age(dataset))
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
        dataset = pydicom.dcmread(_inflated(opened), **options)
    if not len(dataset):  # pydicom returns nothing where the end is missing
        raise RejectedError("it is cut short")
    return dataset


def _inflated(file):
    """Return a deflated file as an uncompressed one, and any other as it is.

    pydicom inflates without a limit. Here the meta information stays, with the uncompressed syntax.

    Raises:
        RejectedError: the file inflates to more than `_MOST_INFLATED` bytes.

    Source: DICOM PS3.10, section 7.1 (meta information); PS3.5, section A.5 (deflated syntax).
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
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(_MOST_INFLATED), _MOST_INFLATED + 1)
    if len(content) > _MOST_INFLATED:
        raise RejectedError(f"it inflates to more than {_MOST_INFLATED >> 20} MB, more than a radiograph needs")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain = io.BytesIO()
    plain.write(start)
    write_file_meta_info(plain, meta, enforce_standard=False)
    plain.write(content)
    plain.seek(0)
    return plain


def _reject_other_kinds(dataset):
    """Raise RejectedError for anything but a single-frame frontal CR or DX of the chest that is meant for display."""
    classes = text(dataset.file_meta, "MediaStorageSOPClassUID"), text(dataset, "SOPClassUID")
    if _DIRECTORY in classes:
        raise RejectedError("it is a DICOMDIR, a list of files and no image")
    modality, body = code(dataset, "Modality"), code(dataset, "BodyPartExamined")
    if modality not in ("CR", "DX", "DR") and (modality or not _RADIOGRAPHS.intersection(classes)):
        raise RejectedError(f"its modality is {modality or 'not given'}, where only CR and DX are chest radiographs")
    parts = set(re.findall("[A-Z]+", body))
    if body and not (parts & _CHEST and parts <= _CHEST | _BESIDE_CHEST and "\\" not in body):
        raise RejectedError(f"its body part is {body}, where only CHEST, or none, is accepted")
    frames = number(dataset, "NumberOfFrames", default=1)
    if frames > 1:
        raise RejectedError(f"it has {frames:g} frames, where only single images are accepted")
    if code(dataset, "PresentationIntentType") == "FOR PROCESSING" or _FOR_PROCESSING in classes:
        raise RejectedError("it is FOR PROCESSING, where only images FOR PRESENTATION are accepted")
    if view := _other_view(dataset):
        raise RejectedError(f"it is a {view}, where only frontal ones are accepted")
    photometric = code(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise RejectedError(f"it is {photometric or 'of no kind of pixel'}, where only gray images are accepted")


def _other_view(dataset):
    """Return which view a radiograph is, and the tag that says so; "" if it is frontal. Devices use different tags."""
    position = code(dataset, "ViewPosition")
    for word in re.split("[^A-Z]+", text(dataset, "ViewPosition").upper()):
        if word in _VIEWS:
            return f"{_VIEWS[word]} view (view position {position})"
    for item in values(dataset, "ViewCodeSequence"):
        meaning = re.search(r"\b(lateral|oblique|sagittal)", text(item, "CodeMeaning").lower())
        if meaning or text(item, "CodeValue") in _LATERAL_CODES:
            return f"{meaning[1] if meaning else 'lateral'} view (view code)"
    # The rows of a frontal view run to the patient's left or right, those of a lateral view to the front or back.
    orientation = text(dataset, "PatientOrientation").upper()
    if orientation.startswith(("A", "P")):
        return f"lateral view (patient orientation {code(dataset, 'PatientOrientation')})"
    # Many CR devices leave all of these empty. Then what people write decides; it is not quoted.
    if not (position or orientation or values(dataset, "ViewCodeSequence")):
        for name, words in (("SeriesDescription", "series description"), ("ProtocolName", "protocol name")):
            found = set(re.findall("[A-Z]+", text(dataset, name).upper()))
            # "CHEST PA AND LAT" names the study's views, not this one.
            if found & {"LATERAL", "LAT"} and not found & _FRONTAL:
                return f"lateral view ({words})"
    return ""


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


def _identity(dataset):
    try:
        patient = text(dataset, "PatientID")
    except RejectedError:
        return None
    letters = re.sub("[^A-Z0-9]", "", patient.upper()) if patient.isascii() else patient
    if not letters.strip("0X") or letters in _NOBODY:
        return None
    return hashlib.sha256(patient.encode(errors="replace")).digest()


def _age(dataset):
    try:
        age = re.fullmatch(r"(\d{3})([DWMY])", text(dataset, "PatientAge"))
    except RejectedError:
        return None
    if age is None or age[0] == "000Y":  # a placeholder: of a newborn the days are given
        return None
    years = int(age[1]) * _AGE_UNITS[age[2]]
    return years if years < _OLDEST else None
