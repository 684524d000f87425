"""DICOM files that tests write: real X-rays as a device would store them, with whatever tags a test is about."""

import warnings

import numpy as np
import pydicom
from conftest import XRAYS
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DX, CR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1"
XRAY = sorted((XRAYS / "train" / "NORMAL").glob("*.jpeg"))[0]


def radiograph(bits=12, xray=XRAY):
    """A real X-ray's gray values, as a device would store them in so many bits."""
    gray = np.asarray(Image.open(xray).convert("L"), np.float64) / 255
    return np.rint(gray * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def write(path, values, bits, sop_class=DX, **tags):
    """A DICOM file of one gray image, with some tags besides; None leaves a tag out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    signed = values.dtype.kind == "i"
    defaults = dict(
        Modality="DX",
        BodyPartExamined="CHEST",
        ViewPosition="PA",
        PatientID="p1",
        Rows=values.shape[0],
        Columns=values.shape[1],
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=8 * values.dtype.itemsize,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(signed),
        PixelData=values.tobytes(),
    )
    for name, value in {**defaults, **tags}.items():
        if value is not None:
            setattr(dataset, name, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def raw(tag, vr, value):
    """A tag with bytes that pydicom would not write of itself, as other software does."""
    value += b" " * (len(value) % 2)
    return RawDataElement(pydicom.tag.Tag(tag), vr, len(value), value, 0, False, True, True)


def put_raw(path, *elements):
    """Puts tags made by `raw` into a file."""
    dataset = pydicom.dcmread(path)
    for element in elements:
        dataset[element.tag] = element
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that is what they are for
        dataset.save_as(path)
    return path


def data_set(root, **tags):
    """The X-rays of tests/data as DICOM of 12 bits: train/NORMAL, and val and test of two classes; a patient a file."""
    copies = [
        (path, path.relative_to(XRAYS)) for part in ("train/NORMAL", "val") for path in (XRAYS / part).rglob("*.*")
    ]
    for path in (XRAYS / "test").iterdir():
        copies.append((path, f"test/{'NORMAL' if path.stem < '0002' else 'PNEUMONIA'}/{path.name}"))
    for number, (path, name) in enumerate(sorted(copies, key=lambda pair: str(pair[1]))):
        own = dict(PatientID=f"p{number}", PatientAge=f"{3 + number % 3:03}Y")
        write((root / name).with_suffix(".dcm"), radiograph(12, path), 12, **{**own, **tags})
    return root


# A planted string holds the tag that it stands in, as in Zq00100010zQ for PatientName, or, where only digits may be,
# these digits. Nothing else that is ever written does.
PLANTED = rb"(?i)zq[0-9a-f]{8}zq|99887766554433|18991231"
WELL_FORMED = {
    "PatientBirthDate": "18991231",
    "StudyDate": "18991231",
    "StudyInstanceUID": "1.2.826.0.99887766554433.1",
    "SeriesInstanceUID": "1.2.826.0.99887766554433.2",
    "SOPInstanceUID": "1.2.826.0.99887766554433.3",
}
# By these tags it is decided what is read and how; the age of a patient is told, among those of others.
DECISIVE = (
    *("SpecificCharacterSet", "SOPClassUID", "Modality", "BodyPartExamined", "ViewPosition", "PatientOrientation"),
    *("PresentationIntentType", "NumberOfFrames", "PhotometricInterpretation", "PatientAge"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept"),
)
TEXTS = (
    "AE",
    "CS",
    "DA",
    "DS",
    "DT",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "TM",
    "UC",
    "UI",
    "UR",
    "UT",
    "OB",
    "OW",
    "UN",
)


def mark(tag):
    return f"Zq{int(tag):08X}zQ"


def plant(path, patient):
    """Plants a string in every tag of DICOM's dictionary that holds text or bytes, which the identifying ones of
    PS3.15, Annex E, are among, and in sequences, private tags, the preamble and the file's meta information.

    Most of them are malformed, dates and UIDs and numbers above all, so that pydicom has something to say of them.
    """
    dataset = pydicom.dcmread(path)
    for tag, (vr, *_, keyword) in pydicom.datadict.DicomDictionary.items():
        image = tag >> 16 in (0x0028, 0x7FE0) and vr in ("OB", "OW")
        if tag >> 16 >= 8 and vr in TEXTS and keyword not in DECISIVE and not image:
            dataset[tag] = raw(tag, vr, WELL_FORMED.get(keyword, mark(tag)).encode())
    dataset[0x00100020] = raw(0x00100020, "LO", f"{mark(0x00100020)}{patient}".encode())
    inner, outer = Dataset(), Dataset()
    for item in (inner, outer):
        for tag, vr in ((0x00080080, "LO"), (0x00100010, "PN"), (0x00100020, "LO"), (0x00100030, "DA")):
            item[tag] = raw(tag, vr, mark(tag).encode())
    outer.ReferencedStudySequence = [inner]
    dataset.OtherPatientIDsSequence = dataset.RequestAttributesSequence = [outer, inner]
    block = dataset.private_block(0x0011, mark(0x00110010), create=True)
    block.add_new(1, "LO", mark(0x00111001))
    block.add_new(2, "SQ", [outer])
    dataset.preamble = mark(0).encode().ljust(128, b"\0")
    dataset.file_meta.MediaStorageSOPInstanceUID = WELL_FORMED["SOPInstanceUID"]
    dataset.file_meta.SourceApplicationEntityTitle = mark(0x00020016)
    dataset.save_as(path)
    return path
