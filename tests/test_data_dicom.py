"""DICOM radiographs: values as their tags have them shown, and everything else refused by name."""

from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS
from PIL import Image

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, generate_uid  # noqa: E402

from fastsquid.data.dicom import is_dicom  # noqa: E402
from fastsquid.data.images import ImageError, find_images, read_image  # noqa: E402

XRAY = sorted((XRAYS / "train" / "NORMAL").glob("*.jpeg"))[0]
DX, CR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1"


def radiograph(bits=12):
    """A real X-ray's grey values, as a device would store them in so many bits."""
    grey = np.asarray(Image.open(XRAY).convert("L"), np.float64) / 255
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
    dataset.save_as(path, enforce_file_format=True)
    return path


def expected(shown, bits):
    """What read_image is to give of grey values in [0, 1], by Pillow alone."""
    depth = np.uint8 if bits <= 8 else np.uint16
    image = Image.fromarray((shown * np.iinfo(depth).max).astype(np.float32))
    return np.rint(np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))).astype(depth)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_depth_is_kept(tmp_path, bits):
    values = radiograph(bits)
    found = read_image(write(tmp_path / "x.dcm", values, bits), 64)
    assert found.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(found.astype(int) - expected(values / (2**bits - 1), bits)).max() <= 1


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    values = radiograph(12)
    window = dict(WindowCenter=1800, WindowWidth=1000)
    upright = read_image(write(tmp_path / "a.dcm", values, 12, **window), 64).astype(int)
    inverse = dict(PhotometricInterpretation="MONOCHROME1")
    inverted = read_image(write(tmp_path / "b.dcm", values, 12, **window, **inverse), 64)
    assert np.abs(upright + inverted - 65535).max() <= 1
    assert upright.min() == 0 and upright.max() == 65535  # the window cuts both ends of this image


def test_window_and_rescale(tmp_path):
    """PS3.3 C.11.2.1.2.1, again: ((x - (c - 0.5)) / (w - 1) + 0.5), of rescaled values."""
    values = radiograph(12)
    tags = dict(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3000, WindowWidth=2001)
    found = read_image(write(tmp_path / "x.dcm", values, 12, **tags), 64)
    shown = (((values * 2.0 - 1000) - 2999.5) / 2000 + 0.5).clip(0, 1)
    assert np.abs(found.astype(int) - expected(shown, 12)).max() <= 1


def test_signed_values_and_a_falling_rescale(tmp_path):
    values = (radiograph(12).astype(np.int32) - 2048).astype(np.int16)
    found = read_image(write(tmp_path / "x.dcm", values, 12), 64)
    assert np.abs(found.astype(int) - expected((values + 2048) / 4095, 12)).max() <= 1
    falling = dict(RescaleSlope=-1, RescaleIntercept=0)
    found = read_image(write(tmp_path / "y.dcm", values, 12, **falling), 64)
    assert np.abs(found.astype(int) - expected((2047 - values) / 4095, 12)).max() <= 1


def test_voi_lookup_table(tmp_path):
    """A table of 256 entries of 12 bits from stored value 1000 on, which squares."""
    values = radiograph(12)
    table = Dataset()
    entries = np.rint(np.linspace(0, 1, 256) ** 2 * 4095).astype(np.uint16)
    table.LUTDescriptor = [256, 1000, 12]
    table.LUTData = entries.tobytes()
    dataset = write(tmp_path / "x.dcm", values, 12, VOILUTSequence=[table])
    shown = entries[np.clip(values.astype(int) - 1000, 0, 255)] / 4095
    assert np.abs(read_image(dataset, 64).astype(int) - expected(shown, 12)).max() <= 1


@pytest.mark.parametrize(
    "tags, words",
    [
        (dict(Modality="CT"), "its modality is CT"),
        (dict(Modality=None), "its modality is not given"),
        (dict(BodyPartExamined="KNEE"), "its body part is KNEE"),
        (dict(NumberOfFrames=2), "it has 2 frames"),
        (dict(PresentationIntentType="FOR PROCESSING"), "FOR PROCESSING"),
        (dict(ViewPosition="LL"), "lateral view (view position LL)"),
        (dict(ViewPosition="", PatientOrientation=["P", "F"]), "lateral view (patient orientation P\\F)"),
        (dict(PhotometricInterpretation="RGB"), "it is RGB"),
        (dict(PixelData=None), "it has no pixel data"),
    ],
)
def test_refused_by_name(tmp_path, tags, words):
    path = write(tmp_path / "x.dcm", radiograph(), 12, **tags)
    with pytest.raises(ImageError) as error:
        read_image(path, 64)
    assert words in str(error.value) and str(path) in str(error.value)


def test_accepted_without_body_part_or_view(tmp_path):
    for tags in (dict(BodyPartExamined=None), dict(BodyPartExamined="", ViewPosition=None), dict(Modality="CR")):
        assert read_image(write(tmp_path / "x.dcm", radiograph(), 12, **tags), 64).shape == (64, 64)


def test_pydicoms_own_examples_are_refused_or_read():
    """None of them is a chest radiograph with pixels: each is refused by what it is, and no decoder is surprised."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = [path for path in find_images(folder) if path.suffix == ".dcm" and is_dicom(path)]
    assert len(files) > 60
    for path in files:
        with pytest.raises(ImageError, match="cannot be read as an image"):
            read_image(path, 64)


def test_files_are_found_by_what_they_begin_with(tmp_path):
    write(tmp_path / "1.2.840.5", radiograph(), 12)
    write(tmp_path / "IM0001", radiograph(), 12)
    write(tmp_path / "a.dcm", radiograph(), 12)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "a.dcm").read_bytes())
    assert [path.name for path in find_images(tmp_path)] == ["1.2.840.5", "IM0001", "a.dcm"]
