"""DICOM tags as devices write them, and as they should not be: tables, windows, padding, body parts."""

import numpy as np
import pytest

from fastsquid.data import read_images
from fastsquid.data.decoding import decoded

pydicom = pytest.importorskip("pydicom")
from dicom_files import put_raw, raw, write  # noqa: E402
from hostile_files import SIXTEEN, TWELVE, bright, rejected  # noqa: E402
from test_data_dicom import table  # noqa: E402

from fastsquid.data.dicom.read import read_dicom  # noqa: E402


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("used", [10, 12, 14])
def test_tables_that_declare_more_bits_than_they_use(tmp_path, sequence, used):
    entries = np.rint(np.linspace(0, 2**used - 1, 4096)).astype(np.uint16)
    item = table(entries, 0, 16)
    bright(write(tmp_path / "x.dcm", TWELVE, 12, **{sequence: [item]}))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize("signed", [False, True])
def test_the_first_value_of_a_table_in_either_vr(tmp_path, syntax, vr, signed):
    """-2048 written as unsigned, or 40000 as signed."""
    values = TWELVE.astype(np.int16) - 2048 if signed else TWELVE + np.uint16(40000)
    item = table(np.arange(4096), 0, 12)
    first = -2048 if signed else 40000
    descriptor = b"".join((value & 0xFFFF).to_bytes(2, "little") for value in (4096, first, 12))
    item[0x00283002] = raw(0x00283002, vr, descriptor)
    path = write(tmp_path / "x.dcm", values, 12 if signed else 16, VOILUTSequence=[item])
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=syntax.endswith(".2"), little_endian=True)
    bright(path)


@pytest.mark.parametrize(
    "center, width",
    [
        (b"2048,0", b"4096,00"),
        (b"\\2048", b"\\4096"),
        (b"nan\\2048", b"1\\4096"),
        (b"2,048E3", b"4096"),
        (b"\\", b"\\"),
        (b"", b"4096"),
    ],
)
def test_windows_of_devices(tmp_path, center, width):
    path = write(tmp_path / "x.dcm", TWELVE, 12)
    bright(put_raw(path, raw(0x00281050, "DS", center), raw(0x00281051, "DS", width)))


@pytest.mark.parametrize("center", [b"nan", b"2,048"])
def test_windows_without_a_certain_number(tmp_path, center):
    path = write(tmp_path / "x.dcm", TWELVE, 12)
    rejected(put_raw(path, raw(0x00281050, "DS", center), raw(0x00281051, "DS", b"4096")), "WindowCenter", "number")


def test_a_rescale_with_a_decimal_comma(tmp_path):
    path = write(tmp_path / "x.dcm", TWELVE, 12, WindowCenter=1024, WindowWidth=2048)
    bright(put_raw(path, raw(0x00281053, "DS", b"0,5"), raw(0x00281052, "DS", b"0,0")))


@pytest.mark.parametrize("slope, intercept", [("1e305", "0"), ("1", "1e308"), ("1e17", "1e300")])
def test_rescaling_to_numbers_without_differences(tmp_path, slope, intercept):
    tags = dict(RescaleSlope=slope, RescaleIntercept=intercept)
    rejected(write(tmp_path / "x.dcm", SIXTEEN, 16, **tags), "Rescale")


@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize(
    "signed, bits, padding", [(True, 12, -2000), (True, 16, -2000), (False, 12, 63536), (False, 16, 63536)]
)
def test_padding_in_either_vr(tmp_path, vr, signed, bits, padding):
    """The border is black, and nothing else is."""
    values = (TWELVE.astype(np.int32) | 1).astype(np.int16 if signed else np.uint16)
    values[:, :18] = padding
    path = write(tmp_path / "x.dcm", values, bits)
    path = put_raw(path, raw(0x00280120, vr, (padding & 0xFFFF).to_bytes(2, "little")))
    gray = read_dicom(path).gray
    assert not gray[:, :18].any() and gray[:, 18:].all()


def test_dark_sets_are_told_once(tmp_path, caplog):
    paths = [write(tmp_path / f"{i}.dcm", TWELVE, 16) for i in range(3)]
    read_images(paths, 64)
    (record,) = caplog.records
    assert "3 images" in record.message and "BitsStored" in record.message
    caplog.clear()
    list(decoded([(path.name, path) for path in paths], 64, 2))
    assert len(caplog.records) == 1
    caplog.clear()
    read_images([*paths, write(tmp_path / "good.dcm", SIXTEEN, 16)], 64)
    assert not caplog.records


def test_bright_sets_are_told_too(tmp_path, caplog):
    """12 of 16 bits, inverted."""
    paths = [write(tmp_path / f"{i}.dcm", TWELVE, 16, PhotometricInterpretation="MONOCHROME1") for i in range(3)]
    read_images(paths, 64)
    (message,) = caplog.messages
    assert "3 images" in message and "almost white" in message


@pytest.mark.parametrize("body", ["TÓRAX", "CHEST-PA", "CHEST, AP", "Chest (PA)", "CHEST/PA"])
def test_body_parts_as_people_write_them(tmp_path, body):
    path = write(tmp_path / "x.dcm", SIXTEEN, 16)
    content = body.encode("latin-1")
    bright(put_raw(path, raw("SpecificCharacterSet", "CS", b"ISO_IR 100"), raw("BodyPartExamined", "CS", content)))


def test_a_body_part_that_may_be_a_name_is_not_quoted(tmp_path):
    path = put_raw(write(tmp_path / "x.dcm", SIXTEEN, 16), raw("BodyPartExamined", "CS", b"Doe, John"))
    rejected(path, "body part is ?,")


def test_a_view_in_one_word(tmp_path):
    rejected(write(tmp_path / "x.dcm", SIXTEEN, 16, ViewPosition="XTABLELATERAL"), "lateral")
