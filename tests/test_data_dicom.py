"""DICOM radiographs: values as their tags have them shown, and everything else refused in a sentence."""

import os
import re
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS
from PIL import Image

pydicom = pytest.importorskip("pydicom")
from dicom_files import CR, DX, put_raw, radiograph, raw, write  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import apply_modality_lut, apply_voi_lut  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from fastsquid.data import (  # noqa: E402
    filetypes,
    find_images,
    open_data,
)
from fastsquid.data.dicom.kinds import Accept  # noqa: E402
from fastsquid.data.dicom.read import read_dicom, read_patient  # noqa: E402
from fastsquid.data.images import ImageError, read_image  # noqa: E402

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def expected(shown, bits):
    """What read_image is to give of gray values in [0, 1], by Pillow alone."""
    depth = np.uint8 if bits <= 8 else np.uint16
    image = Image.fromarray((shown * np.iinfo(depth).max).astype(np.float32))
    return np.rint(np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR))).astype(depth)


# Values


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


@pytest.mark.parametrize(
    "tags, shown",
    [
        (dict(WindowWidth=[1000, 1], WindowCenter=[1800, 1]), lambda x: (x - 1799.5) / 999 + 0.5),  # the first of two
        (dict(WindowWidth=1, WindowCenter=1800), lambda x: (x > 1799.5) * 1.0),
        (dict(WindowWidth=1, WindowCenter=1800.5), lambda x: (x > 1800) * 1.0),
        (dict(WindowWidth=0.5, WindowCenter=1800, VOILUTFunction="LINEAR_EXACT"), lambda x: (x - 1800) / 0.5 + 0.5),
        (dict(WindowWidth=999, WindowCenter=1800, VOILUTFunction="LINEAR_EXACT"), lambda x: (x - 1800) / 999 + 0.5),
        (
            dict(WindowWidth=1000, WindowCenter=1800, VOILUTFunction="SIGMOID"),
            lambda x: 1 / (1 + np.exp(-4 * (x - 1800) / 1000)),
        ),
        (dict(WindowWidth=1000), lambda x: x / 4095),  # no centre: the whole range
    ],
)
def test_windows(tmp_path, tags, shown):
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, one value at a time."""
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    found, bits, _ = read_dicom(write(tmp_path / "x.dcm", values, 12, **tags))
    assert bits == 12 and np.abs(found - shown(values.astype(float)).clip(0, 1)).max() < 1e-6


def test_signed_values_and_a_falling_rescale(tmp_path):
    values = (radiograph(12).astype(np.int32) - 2048).astype(np.int16)
    found = read_image(write(tmp_path / "x.dcm", values, 12), 64)
    assert np.abs(found.astype(int) - expected((values + 2048) / 4095, 12)).max() <= 1
    falling = dict(RescaleSlope=-1, RescaleIntercept=0)
    found = read_image(write(tmp_path / "y.dcm", values, 12, **falling), 64)
    assert np.abs(found.astype(int) - expected((2047 - values) / 4095, 12)).max() <= 1


def table(entries, first, bits, data=None):
    """An item of a LUT sequence; its data the entries as 16-bit words, unless it is packed otherwise."""
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = np.asarray(entries, "<u2").tobytes() if data is None else data
    return item


def test_voi_lookup_table(tmp_path):
    """A table of 256 entries of 12 bits from stored value 1000 on, which squares; a window beside it is not used."""
    values = radiograph(12)
    entries = np.rint(np.linspace(0, 1, 256) ** 2 * 4095).astype(np.uint16)
    tags = dict(VOILUTSequence=[table(entries, 1000, 12)], WindowCenter=1, WindowWidth=2)
    dataset = write(tmp_path / "x.dcm", values, 12, **tags)
    shown = entries[np.clip(values.astype(int) - 1000, 0, 255)] / 4095
    assert np.abs(read_image(dataset, 64).astype(int) - expected(shown, 12)).max() <= 1


def test_tables_of_eight_bits_packed_and_not(tmp_path):
    """Of 4096 entries, where pydicom's own function wraps at 256."""
    values = radiograph(12)
    entries = np.arange(4096) // 16
    for data in (None, entries.astype(np.uint8).tobytes()):
        path = write(tmp_path / "x.dcm", values, 12, VOILUTSequence=[table(entries, 0, 8, data)])
        assert np.abs(read_dicom(path)[0] - (values // 16) / 255).max() < 1e-6


def test_modality_table_before_the_window(tmp_path):
    values = radiograph(12)
    entries = 65535 - np.arange(4096) * 16
    for window, low, high in (({}, 0, 65535), (dict(WindowCenter=40000, WindowWidth=20001), 29999.5, 49999.5)):
        path = write(tmp_path / "x.dcm", values, 12, ModalityLUTSequence=[table(entries, 0, 16)], **window)
        shown = ((entries[values] - low) / (high - low)).clip(0, 1)
        assert np.abs(read_dicom(path)[0] - shown).max() < 1e-6


def test_a_table_of_signed_values(tmp_path):
    values = (radiograph(12).astype(np.int32) - 2048).astype(np.int16)
    entries = np.arange(4096)[::-1]
    path = write(tmp_path / "x.dcm", values, 12, VOILUTSequence=[table(entries, -2048, 12)])
    assert np.abs(read_dicom(path)[0] - (4095 - (values + 2048.0)) / 4095).max() < 1e-6


def test_overlays_in_the_unused_bits_are_not_seen(tmp_path):
    for values in (radiograph(12), (radiograph(12).astype(np.int32) - 2048).astype(np.int16)):
        plain = read_image(write(tmp_path / "a.dcm", values, 12), 64)
        drawn = (values.view(np.uint16) ^ np.uint16(0xF000)).view(values.dtype)
        path = write(tmp_path / "b.dcm", drawn, 12)
        if values.dtype == np.uint16:  # values of more bits look so too: they would wrap
            assert "more than the 12 bits" in reason(path)
        put_raw(path, raw(0x60000102, "US", b"\x0c\0"))  # OverlayBitPosition
        np.testing.assert_array_equal(read_image(path, 64), plain)


def test_padding_is_black(tmp_path):
    """What the collimator covered, whichever end of the values the device fills it with."""
    values = radiograph(12).clip(10, 4000)
    values[:, :20], values[:, 20:30] = 0, 4095
    found, *_ = read_dicom(write(tmp_path / "a.dcm", values, 12, PixelPaddingValue=4095))
    assert (found[:, :30] == 0).all() and np.abs(found[:, 30:] - values[:, 30:] / 4095).max() < 1e-6
    tags = dict(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=4095, PixelPaddingRangeLimit=4090)
    found, *_ = read_dicom(write(tmp_path / "b.dcm", values, 12, **tags))
    assert (found[:, :20] == 1).all() and (found[:, 20:30] == 0).all()
    tags = dict(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0)
    found, *_ = read_dicom(write(tmp_path / "c.dcm", values, 12, **tags))
    assert (found[:, :20] == 0).all()


# Compression


def jpeg(name):
    """A function of (source, target) that compresses by gdcm."""

    def change(source, target):
        gdcm = pytest.importorskip("gdcm")
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()

    return change


def jpeg2000(source, target):
    """By Pillow, so that encoder and decoder are not of one hand."""
    dataset, stream = pydicom.dcmread(source), BytesIO()
    Image.fromarray(dataset.pixel_array).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(target)


def rle(source, target):
    dataset = pydicom.dcmread(source)
    dataset.compress(RLELossless)
    dataset.save_as(target)


def uncompressed(syntax):
    def change(source, target):
        dataset = pydicom.dcmread(source)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(target, implicit_vr=syntax.is_implicit_VR, little_endian=True)

    return change


def big_endian(source, target):
    """Of a dataset of its own, since pydicom does not turn one round; the words of OW hold 8 bits the same way."""
    read = pydicom.dcmread(source)
    dataset, item = Dataset({element.tag: element for element in read}), read.VOILUTSequence[0]
    dataset.file_meta = read.file_meta
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    for element in (dataset["PixelData"], item["LUTData"]):
        element.value = np.frombuffer(element.value, "<u2").byteswap().tobytes()
    dataset.save_as(target, enforce_file_format=True)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize(
    "change, syntax",
    [
        (rle, "1.2.840.10008.1.2.5"),
        (jpeg("JPEGLosslessProcess14_1"), "1.2.840.10008.1.2.4.70"),
        (jpeg("JPEGLosslessProcess14"), "1.2.840.10008.1.2.4.57"),
        (jpeg("JPEGLSLossless"), "1.2.840.10008.1.2.4.80"),
        (jpeg2000, "1.2.840.10008.1.2.4.90"),
        (uncompressed(ImplicitVRLittleEndian), "1.2.840.10008.1.2"),
        (big_endian, "1.2.840.10008.1.2.2"),
        (uncompressed(DeflatedExplicitVRLittleEndian), "1.2.840.10008.1.2.1.99"),
    ],
)
def test_compressed_files_give_the_same_image(tmp_path, bits, change, syntax):
    falling = table(np.arange(2**bits)[::-1], 0, bits)
    plain = write(tmp_path / "plain.dcm", radiograph(bits), bits, VOILUTSequence=[falling])
    change(plain, tmp_path / "other.dcm")
    assert pydicom.dcmread(tmp_path / "other.dcm").file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_image(tmp_path / "other.dcm", 64), read_image(plain, 64))


@pytest.mark.parametrize("name", ["JPEGLSLossless", "JPEGLosslessProcess14_1"])
@pytest.mark.parametrize("tag, more", [("Rows", 1), ("Rows", -1), ("Columns", 1), ("Columns", -1)])
def test_a_frame_of_another_size_than_the_tags(tmp_path, name, tag, more):
    """gdcm would shear it, or end the whole process."""
    jpeg(name)(write(tmp_path / "plain.dcm", radiograph(12), 12), tmp_path / "x.dcm")
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    rows, columns = dataset.Rows, dataset.Columns
    setattr(dataset, tag, dataset[tag].value + more)
    dataset.save_as(tmp_path / "x.dcm")
    sizes = rf" {rows} x {columns} pixels .*\b16 bits\b.* {dataset.Rows} x {dataset.Columns} "
    assert re.search(sizes, reason(tmp_path / "x.dcm"))


def test_more_bits_than_the_tags_say(tmp_path):
    jpeg("JPEGLSLossless")(write(tmp_path / "plain.dcm", radiograph(12), 12), tmp_path / "x.dcm")
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.save_as(tmp_path / "x.dcm")
    assert re.search(rf"\b16 bits\b.* {dataset.Rows} x {dataset.Columns} of 8\b", reason(tmp_path / "x.dcm"))


@pytest.mark.parametrize("tags", [dict(SeriesDescription="CHEST LATERAL 2"), dict(ProtocolName="Thorax lat.")])
def test_a_lateral_view_that_only_words_tell(tmp_path, tags):
    found = reason(write(tmp_path / "x.dcm", radiograph(), 12, ViewPosition="", **tags))
    assert "lateral" in found and not any(word in found for word in tags.values())
    assert read_image(write(tmp_path / "x.dcm", radiograph(), 12, ViewPosition="PA", **tags), 64).shape == (64, 64)
    words = dict(SeriesDescription="CHEST PA", ProtocolName="lateralised")
    assert read_image(write(tmp_path / "x.dcm", radiograph(), 12, ViewPosition="", **words), 64).shape == (64, 64)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert find_images(tmp_path) == []


# pydicom's examples


def test_the_page_on_shipped_examples():
    sys.path.insert(0, str(XRAYS.parent.parent.parent / "docs"))
    try:
        import shipped
    finally:
        sys.path.pop(0)
    text = shipped.PAGE.read_text()
    if f"## pydicom {pydicom.__version__}\n" not in text:
        pytest.skip("the page is of another version of pydicom")
    assert shipped.pydicom_tables() in text


DECODABLE = [
    "693_J2KI",
    "CT_small",
    "J2K_pixelrep_mismatch",
    "JPEG2000",
    "JPEGLSNearLossless_08",
    "JPEGLSNearLossless_16",
    "MR_small",
    "MR_small_RLE",
    "MR_small_bigendian",
    "MR_small_implicit",
    "MR_small_jp2klossless",
    "MR_small_jpeg_ls_lossless",
    "examples_overlay",
    "image_dfl",
]


@pytest.mark.parametrize("name", [name for name in DECODABLE if (SHIPPED / f"{name}.dcm").exists()])
def test_pydicoms_examples_as_radiographs(tmp_path, name):
    """What refuses them is changed in a copy; the values are then what pydicom makes of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are odd on purpose
        dataset = pydicom.dcmread(SHIPPED / f"{name}.dcm")
        dataset.Modality, dataset.BodyPartExamined, dataset.PatientOrientation = "DX", "CHEST", ["L", "F"]
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = DX
        dataset.save_as(tmp_path / "x.dcm")
        values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    lowest = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
    stored = np.array([lowest, lowest + 2**dataset.BitsStored - 1])
    low, high = stored * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    shown = ((values - low) / (high - low)).clip(0, 1)
    if "PixelPaddingValue" in dataset:
        shown[dataset.pixel_array == dataset.PixelPaddingValue] = 0
    found, bits, _ = read_dicom(tmp_path / "x.dcm")
    assert bits == dataset.BitsStored and np.abs(found - shown).max() < 1e-6 and np.ptp(found) > 0


def test_pydicoms_own_examples_are_refused():
    """None of them is a chest radiograph with pixels. Each is rejected for its reason; no decoder fails by surprise."""
    files = [path for path in find_images(SHIPPED) if path.suffix == ".dcm" and filetypes.is_dicom(path)]
    assert len(files) > 60
    reasons = {reason(path) for path in files}
    assert any(re.search(r"modality .*\bCT\b", found) for found in reasons)
    assert not any("cut short)" in found for found in reasons)


# Refusals


def reason(path):
    """Read a file that fastsquid rejects. Return the reason and the remedy, as the message gives them.

    The file's name is cut off, because the folders of a test are named after the test.
    """
    with pytest.raises(ImageError) as error:
        read_image(path, 64)
    name, found = str(error.value).split(str(path))
    assert not name and re.search(r"\(.+\): .+", found) and "\n" not in found
    return found


def view(meaning, value="1"):
    item = Dataset()
    item.CodeMeaning, item.CodeValue = meaning, value
    return [item]


@pytest.mark.parametrize(
    "tags",
    [
        dict(Modality="DR"),
        dict(Modality=None),
        dict(Modality=None, sop_class=CR),
        *(dict(BodyPartExamined=part) for part in ("THORAX", "TORAX", "LUNG", "CHEST_PA", "PORT CHEST")),
        dict(ViewPosition="", ProtocolName="Thorax pa/lat"),
        dict(ViewPosition="", SeriesDescription="Chest frontal & lateral"),
        dict(sop_class="1.2.840.10008.5.1.4.1.1.7"),  # as RSNA's release has it
        dict(BodyPartExamined=None, AnatomicRegionSequence=view("Chest")),
        dict(BodyPartExamined=None, AnatomicRegionSequence=view("Brustkorb", "T-D3000")),
        dict(ViewPosition="", ViewCodeSequence=view("postero-anterior"), SeriesDescription="CHEST LAT"),
        dict(PhotometricInterpretation="MONOCHROME2", PresentationLUTShape="IDENTITY"),
    ],
)
def test_a_chest_radiograph_by_its_tags(tmp_path, tags):
    assert read_image(write(tmp_path / "x.dcm", radiograph(), 12, **tags), 32).max() > 0


@pytest.mark.parametrize(
    "tags, words",
    [
        (dict(Modality="CT"), r"modality .*\bCT\b"),
        (dict(Modality=None, sop_class="1.2.840.10008.5.1.4.1.1.2"), r"modality .*\bCR\b.*\bDX\b"),
        (dict(Modality="MG", sop_class=CR), r"modality .*\bMG\b"),
        (dict(BodyPartExamined="KNEE"), r"body part .*\bKNEE\b"),
        (dict(BodyPartExamined="THORAX SPINE"), r"body part .*\bSPINE\b"),
        (dict(BodyPartExamined="PORT"), r"body part .*\bPORT\b"),
        (dict(ViewPosition="", SeriesDescription="CHEST LAT"), r"lateral .*\(series description\)"),
        (dict(BodyPartExamined="CHEST_TO_ABDOMEN"), r"body part .*\bCHEST_TO_ABDOMEN\b"),
        (dict(NumberOfFrames=2), r"\b2 frames\b"),
        (dict(PresentationIntentType="FOR PROCESSING"), "FOR PROCESSING"),
        (dict(sop_class="1.2.840.10008.5.1.4.1.1.1.1.1"), "FOR PROCESSING"),
        (dict(sop_class="1.2.840.10008.1.3.10"), r"\bDICOMDIR\b"),
        (dict(ViewPosition="LL"), r"lateral .*\(view position LL\)"),
        (dict(ViewPosition="LATERAL"), r"lateral .*\(view position LATERAL\)"),
        (dict(ViewPosition="XTABLE LATERAL"), r"lateral .*\(view position XTABLE LATERAL\)"),
        (dict(ViewPosition="AP LLD"), r"decubitus .*\(view position AP LLD\)"),
        (dict(ViewPosition="RLO"), r"oblique .*\(view position RLO\)"),
        (dict(ViewPosition="", ViewCodeSequence=view("Left lateral")), r"lateral .*\(view code\)"),
        (dict(ViewPosition="", ViewCodeSequence=view("seitlich", "R-10236")), r"lateral .*\(view code\)"),
        (dict(ViewPosition="", PatientOrientation=["P", "F"]), r"lateral .*\(patient orientation P\\F\)"),
        *(
            (dict(ViewPosition=word), rf"{view} .*\(view position {word}\)")
            for word, view in (
                [("OBLIQUE", "oblique"), ("OBL", "oblique"), ("DECUBITUS", "decubitus"), ("LLDECUB", "decubitus")]
                + [("SAGITTAL", "lateral"), ("LATL", "lateral"), ("XTLAT", "lateral"), ("SEITLICH", "lateral")]
            )
        ),
        *(
            (dict(ViewPosition="UNKNOWN", SeriesDescription=words), rf"{view} .*\(series description\)")
            for words, view in (
                [("CHEST LAT", "lateral"), ("CHEST LL", "lateral"), ("ChestLat", "lateral")]
                + [("RX TORAX PERFIL", "lateral"), ("Chest Oblique", "oblique"), ("Chest decub", "decubitus")]
            )
        ),
        (
            dict(
                ViewPosition="", PatientOrientation=["L", "F"], AcquisitionDeviceProcessingDescription="CHEST LATERAL"
            ),
            r"lateral .*\(processing description\)",
        ),
        (dict(BodyPartExamined=None, AnatomicRegionSequence=view("Hand")), r"anatomic region .*\bHAND\b"),
        (dict(BodyPartExamined=None, AnatomicRegionSequence=view("Doe^John")), r"anatomic region .* \?,"),
        (dict(sop_class="1.2.840.10008.5.1.4.1.1.2"), r"SOP class .*\b1\.1\.2\b"),
        (dict(sop_class="1.2.840.10008.5.1.4.1.1.1.2"), r"SOP class .*\b1\.1\.1\.2\b"),
        (dict(PresentationLUTShape="INVERSE"), r"\bMONOCHROME2\b.*\bINVERSE\b"),
        (dict(PhotometricInterpretation="RGB"), r"\bRGB\b.*\bgray\b"),
        (dict(PhotometricInterpretation=None), r"\bpixel\b.*\bgray\b"),
        (dict(PixelData=None), r"\(.*\bpixel data\)"),
        (dict(PixelData=b"\0" * 100), r"cut short\b.*\b100 bytes\b.*\bframe\b"),
        (dict(PixelData=radiograph().tobytes() * 2), r"pixel data .*\bframe\b"),
        (dict(Rows=0), r"\b0 x 224 pixels"),
        (dict(Rows=None), r"\bRows\b"),
        (dict(SamplesPerPixel=3), r" x 224 pixels .*\b3\b"),
        (dict(PixelRepresentation=None), r"\bPixelRepresentation\b"),
        (dict(BitsStored=17, HighBit=16), r"\b17 of 16 bits\b"),
        (dict(BitsAllocated=32), r"\b12 of 32 bits\b"),
        (dict(HighBit=15), r"\b12 of 16 bits .*\bbit 15\b"),
        (dict(WindowCenter=0, WindowWidth=0), r"WindowWidth .*\b0\b"),
        (dict(WindowCenter=1, WindowWidth=-4, VOILUTFunction="SIGMOID"), r"WindowWidth .* -4\b"),
        (dict(WindowCenter=1e9, WindowWidth=10), r"\bwindow\b.*\bgray\b"),
        (dict(WindowCenter=1, WindowWidth=9, VOILUTFunction="CUBIC"), r"VOILUTFunction .*\bCUBIC\b"),
        (dict(RescaleSlope=0, RescaleIntercept=0), r"RescaleSlope .*\b0\b"),
        (dict(VOILUTSequence=[table(range(256), 0, 7)]), r"\bVOILUTSequence\b"),
        (dict(VOILUTSequence=[table(range(300), 0, 8)]), r"\bVOILUTSequence\b"),
        (dict(VOILUTSequence=[table(range(256), 0, 12, b"short!")]), r"\bVOILUTSequence\b"),
        (dict(ModalityLUTSequence=[Dataset()]), r"\bModalityLUTSequence\b"),
    ],
)
def test_a_rejected_file_is_named_with_its_tag(tmp_path, tags, words):
    assert re.search(words, reason(write(tmp_path / "x.dcm", radiograph(), 12, **tags)))


@pytest.mark.parametrize(
    "tags, accept, remedy",
    [
        (dict(BodyPartExamined="TRUNK"), Accept(body=("trunk",)), "--accept-body TRUNK"),
        (dict(BodyPartExamined="UPPER  BODY"), Accept(body=("Upper Body",)), "--accept-body 'UPPER  BODY'"),
        (dict(ViewPosition="LL"), Accept(view=("LL",)), "--accept-view lateral"),
        (dict(ViewPosition="AP LLD"), Accept(view=("ap lld",)), "--accept-view decubitus"),
        (dict(ViewPosition="RLO"), Accept(view=("oblique",)), "--accept-view oblique"),
        (dict(ViewPosition="", SeriesDescription="CHEST LAT"), Accept(view=("lateral",)), "--accept-view lateral"),
        (
            dict(BodyPartExamined=None, AnatomicRegionSequence=view("Upper trunk")),
            Accept(body=("upper trunk",)),
            "--accept-body 'UPPER TRUNK'",
        ),
    ],
)
def test_other_kinds_on_request(tmp_path, tags, accept, remedy):
    path = write(tmp_path / "x.dcm", radiograph(), 12, **tags)
    with pytest.raises(ImageError, match=f": replace or remove it, or give {re.escape(remedy)}$"):
        read_image(path, 32)
    others = Accept(accept.view, accept.body), Accept(("KNEE",), ("sagittal", ""))
    for other in others:
        with pytest.raises(ImageError):
            read_image(path, 32, accept=other)
    frontal = read_image(write(tmp_path / "frontal.dcm", radiograph(), 12), 32)
    np.testing.assert_array_equal(read_image(path, 32, accept=others[1] | accept), frontal)
    assert read_patient(path) is None and read_patient(path, accept).identity


@pytest.mark.parametrize("shape", [(50, 64), (64, 50)])
def test_padding_behind_the_pixels(tmp_path, shape):
    """It is ignored, unless it may be one more row or column."""
    values = radiograph()[: shape[0], : shape[1]].copy()
    expected = read_image(write(tmp_path / "x.dcm", values, 12), 50)
    for padding, read in ((2, True), (98, True), (100, False), (128, False)):
        path = write(tmp_path / "x.dcm", values, 12, PixelData=values.tobytes() + bytes(padding))
        if read:
            np.testing.assert_array_equal(read_image(path, 50), expected)
        else:
            assert f"{values.nbytes + padding} bytes" in reason(path)


def test_a_body_part_that_is_no_code_is_not_offered(tmp_path):
    said = reason(put_raw(write(tmp_path / "x.dcm", radiograph(), 12), raw("BodyPartExamined", "CS", b"Doe^John")))
    assert "body part is ?" in said and "--accept" not in said


@pytest.mark.parametrize(
    "tag, vr, value, words",
    [
        ("WindowWidth", "DS", b"nan", r"\bWindowWidth .*\bnumber\b"),
        ("WindowCenter", "DS", b"Doe^John", r"\bWindowCenter .*\bnumber\b"),
        ("RescaleSlope", "DS", b"inf", r"\bRescaleSlope .*\bnumber\b"),
        ("NumberOfFrames", "IS", b"Doe^John", r"\bNumberOfFrames .*\bnumber\b"),
        ("PixelPaddingValue", "LO", b"Doe^John", r"\bPixelPaddingValue .*\bnumber\b"),
        ("Modality", "CS", b"Doe^John", r"\bmodality .* \?"),
        ("ViewPosition", "CS", b"Doe^John LL", r"lateral .*\(view position \?\)"),
        ("PatientOrientation", "CS", b"A^Doe", r"lateral .*\(patient orientation \?\)"),
    ],
)
def test_malformed_tags_are_named_and_not_quoted(tmp_path, tag, vr, value, words):
    path = write(tmp_path / "x.dcm", radiograph(), 12, WindowCenter=2000, WindowWidth=1000)
    found = reason(put_raw(path, raw(tag, vr, value)))
    assert re.search(words, found) and "doe" not in found.lower()


def test_other_files(tmp_path, monkeypatch):
    path = write(tmp_path / "x.dcm", radiograph(), 12)
    content = path.read_bytes()
    (tmp_path / "bare.dcm").write_bytes(content[132:])
    assert re.search(r"\bDICOM\b.*\bDICM\b", reason(tmp_path / "bare.dcm"))
    (tmp_path / "x.png").write_bytes(content)
    assert re.search(r"\bDICOM\b.* \.png\b.* \.dcm\b", reason(tmp_path / "x.png"))
    (tmp_path / "half.dcm").write_bytes(content[: len(content) // 2])
    assert "cut short" in reason(tmp_path / "half.dcm")
    (tmp_path / "head.dcm").write_bytes(content[:132])
    assert "cut short)" in reason(tmp_path / "head.dcm")
    (tmp_path / "empty.dcm").touch()
    assert "empty)" in reason(tmp_path / "empty.dcm")
    rle(path, tmp_path / "rle.dcm")
    (tmp_path / "rle.dcm").write_bytes((tmp_path / "rle.dcm").read_bytes()[:-2000])
    assert "cut short)" in reason(tmp_path / "rle.dcm")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 224 * 224 - 1)
    assert re.search(r"\b50175 pixels.*\bPillow\b", reason(path))


@pytest.mark.parametrize(
    "syntax, words",
    [
        (None, r"\bTransferSyntaxUID\)"),
        ("1.2.3.4", r"\bTransferSyntaxUID .*compression"),
        ("1.2.840.10008.1.2.4.100", r"\bTransferSyntaxUID .*compression"),  # MPEG2
    ],
)
def test_transfer_syntaxes_that_are_none(tmp_path, syntax, words):
    path = write(tmp_path / "x.dcm", radiograph(), 12)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax is None:
        del dataset.file_meta.TransferSyntaxUID
    elif syntax.endswith(".100"):
        dataset.PixelData = encapsulate([b"film"])
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    assert re.search(words, reason(path))


def test_accepted_without_body_part_or_view(tmp_path):
    for tags in (
        dict(BodyPartExamined=None),
        dict(BodyPartExamined="", ViewPosition=None),
        dict(Modality="CR", sop_class=CR),
        dict(BodyPartExamined="Chest", ViewPosition="AP"),
        dict(ViewPosition="", ViewCodeSequence=view("postero-anterior"), PatientOrientation=["L", "F"]),
        dict(NumberOfFrames=1, PresentationIntentType="FOR PRESENTATION"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's of a code in lower case
            path = write(tmp_path / "x.dcm", radiograph(), 12, **tags)
        assert read_image(path, 64).shape == (64, 64)


# Files, and what is installed


def test_files_are_found_by_what_they_begin_with(tmp_path):
    write(tmp_path / "1.2.840.5", radiograph(), 12)
    write(tmp_path / "IM0001", radiograph(), 12)
    write(tmp_path / "a.dcm", radiograph(), 12)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "a.dcm").read_bytes())
    assert [path.name for path in find_images(tmp_path)] == ["1.2.840.5", "IM0001", "a.dcm"]


def uninstall(monkeypatch, name):
    """Makes an import of a library fail, and pydicom be imported anew."""
    for module in [module for module in sys.modules if module.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)


def test_without_pydicom(tmp_path, monkeypatch):
    path = write(tmp_path / "x.dcm", radiograph(), 12)
    uninstall(monkeypatch, "pydicom")
    assert re.search(r"\bpydicom 3\): pip install pydicom python-gdcm", reason(path))
    with pytest.raises(ImageError, match="x.dcm .*--skip-unreadable"):
        open_data(tmp_path, 64)
    assert len(open_data(XRAYS, 64)) == 3


def test_without_gdcm(tmp_path, monkeypatch):
    plain = write(tmp_path / "plain.dcm", radiograph(), 12)
    jpeg("JPEGLosslessProcess14_1")(plain, tmp_path / "x.dcm")
    jpeg2000(plain, tmp_path / "y.dcm")
    uninstall(monkeypatch, "gdcm")
    found = reason(tmp_path / "x.dcm")
    assert "JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection Value 1])" in found
    assert "python-gdcm): pip install pydicom python-gdcm" in found
    np.testing.assert_array_equal(read_image(tmp_path / "y.dcm", 64), read_image(plain, 64))
