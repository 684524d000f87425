"""DICOM files that tests write: real X-rays as a device would store them, with whatever tags a test is about."""

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
    """A real X-ray's grey values, as a device would store them in so many bits."""
    grey = np.asarray(Image.open(xray).convert("L"), np.float64) / 255
    return np.rint(grey * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def write(path, values, bits, sop_class=DX, **tags):
    """A DICOM file of one grey image, with some tags besides; None leaves a tag out."""
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
