"""DICOM pixels: streams that are not as the tags say, bombs, and bytes that are inserted or cut off."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from dicom_files import write  # noqa: E402
from fuzzing.seeds import saved_as  # noqa: E402
from hostile_files import (  # noqa: E402
    EIGHT,
    J2K,
    JPEG,
    SIXTEEN,
    TWELVE,
    bright,
    changed_picture,
    compressed,
    deflated,
    lossless,
    rejected,
    stream,
)
from pydicom.encaps import generate_frames  # noqa: E402
from pydicom.uid import UID  # noqa: E402
from test_data_dicom import jpeg, rle  # noqa: E402

from fastsquid.data.dicom.read import read_dicom  # noqa: E402

# The compressed stream governs


@pytest.mark.parametrize("kind, syntax, options", [("JPEG2000", J2K, {"no_jp2": True}), ("JPEG", JPEG, {})])
def test_colors_under_gray_tags(tmp_path, kind, syntax, options):
    """Three equal channels are a gray image; others are none. CMYK is none either."""
    gray = np.repeat(EIGHT[:, :, None], 3, 2)
    bright(compressed(tmp_path / "gray.dcm", stream(gray, kind, **options), syntax, BitsStored=8))
    red = gray * np.array([1, 0, 0], np.uint8)
    rejected(compressed(tmp_path / "red.dcm", stream(red, kind, **options), syntax, BitsStored=8), "color")
    four = stream(np.repeat(EIGHT[:, :, None], 4, 2), kind, **options) if kind == "JPEG2000" else None
    if four is not None:
        rejected(compressed(tmp_path / "four.dcm", four, syntax, BitsStored=8), "4 values per pixel")


def test_fewer_bits_than_the_tags(tmp_path):
    """The stream's bits are the range; a window in the tags' bits would darken it."""
    few = stream(EIGHT, no_jp2=True)
    bright(compressed(tmp_path / "a.dcm", few, J2K, BitsStored=12))
    window = dict(WindowCenter=2048, WindowWidth=4096)
    rejected(compressed(tmp_path / "b.dcm", few, J2K, BitsStored=12, **window), "8 bits", "12")


def test_values_of_more_bits_than_the_tags(tmp_path):
    """They would wrap. Streams of 16 bits with values of 12 are good."""
    many = stream(SIXTEEN, no_jp2=True)
    rejected(compressed(tmp_path / "a.dcm", many, J2K, BitsStored=12), "12 unsigned bits")
    bright(compressed(tmp_path / "b.dcm", stream(SIXTEEN >> 4, no_jp2=True), J2K, BitsStored=12))


def test_signed_jpeg_2000_under_unsigned_tags(tmp_path):
    whole = bytearray(stream(SIXTEEN, no_jp2=True))
    whole[42] |= 0x80  # of the precision: values are signed
    rejected(compressed(tmp_path / "x.dcm", bytes(whole), J2K, BitsStored=16), "below 0")


def test_a_stream_of_another_kind_than_the_syntax(tmp_path):
    bright(compressed(tmp_path / "a.dcm", stream(EIGHT, no_jp2=True), JPEG, BitsStored=8))
    bright(compressed(tmp_path / "b.dcm", stream(EIGHT), J2K, BitsStored=8))  # in the boxes of a .jp2 file
    rejected(compressed(tmp_path / "c.dcm", EIGHT.tobytes(), J2K, BitsStored=8), "JPEG")
    pixels = pydicom.dcmread(lossless(tmp_path / "d.dcm", SIXTEEN >> 4)).PixelData
    for syntax in (J2K, JPEG):
        frame = next(generate_frames(pixels, number_of_frames=1))
        bright(compressed(tmp_path / "e.dcm", frame, syntax, BitsStored=12))


@pytest.mark.parametrize("undefined", [True, False])
def test_a_compressed_stream_under_an_uncompressed_syntax(tmp_path, undefined):
    path = compressed(tmp_path / "x.dcm", stream(EIGHT, no_jp2=True), J2K, BitsStored=8)
    dataset = pydicom.dcmread(path)
    if not undefined:  # and its length fits by chance
        dataset.PixelData = dataset.PixelData[:4096].ljust(4096, b"\0")
        dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.save_as(path)
    rejected(path, "compressed", "Explicit VR Little Endian")


@pytest.mark.parametrize("tag, value", [("Columns", 62), ("Rows", 63), ("Columns", 66)])
def test_run_lengths_of_another_size(tmp_path, tag, value):
    rle(write(tmp_path / "plain.dcm", SIXTEEN, 16), tmp_path / "x.dcm")
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    setattr(dataset, tag, value)
    dataset.save_as(tmp_path / "x.dcm")
    rejected(tmp_path / "x.dcm", "decoded", "RLE")


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind, syntax", [("JPEG2000", J2K), ("JPEG", JPEG)])
def test_streams_that_are_cut_short(tmp_path, cut, kind, syntax):
    whole = stream(EIGHT, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    rejected(compressed(tmp_path / "x.dcm", whole[: int(cut * len(whole))], syntax, BitsStored=8), "cut short")


def test_signed_lossless_values(tmp_path):
    signed = (SIXTEEN >> 4).astype(np.int16) - 2048
    plain = write(tmp_path / "plain.dcm", signed, 12)
    for name, change in (("a.dcm", jpeg("JPEGLosslessProcess14_1")), ("b.dcm", jpeg("JPEGLSLossless"))):
        pytest.importorskip("gdcm")
        change(plain, tmp_path / name)
        np.testing.assert_array_equal(read_dicom(tmp_path / name).gray, read_dicom(plain).gray)


# Uncompressed pixels


@pytest.mark.parametrize("excess", [-2, 128, -128])
def test_an_uncompressed_image_of_another_length(tmp_path, excess):
    content = SIXTEEN.tobytes() + bytes(128)
    rejected(write(tmp_path / "x.dcm", SIXTEEN, 16, PixelData=content[: 8192 + excess]), "bytes", "64 x 64")


def test_an_odd_number_of_bytes_is_padded(tmp_path):
    odd = EIGHT[:63, :63].copy()
    assert read_dicom(write(tmp_path / "x.dcm", odd, 8)).gray.shape == (63, 63)


def test_values_of_more_bits_than_stored(tmp_path):
    """They would wrap."""
    for values in (TWELVE, TWELVE.astype(np.int16)):
        rejected(write(tmp_path / "x.dcm", values, 10), "more than the 10 bits")


@pytest.mark.parametrize("count", [4, 64, 512])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_bytes_inserted_into_uncompressed_pixels(tmp_path, syntax, count):
    path = tmp_path / "x.dcm"
    saved_as(UID(syntax))(write(tmp_path / "plain.dcm", SIXTEEN | 0x0101, 16), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096] + bytes(count) + whole[-4096:])
    rejected(path, "follow its pixel data")


def test_what_may_follow_pixels(tmp_path):
    """Padding, a private tag, a tag that a program has appended, and zeros."""
    path = write(tmp_path / "x.dcm", SIXTEEN, 16)
    whole = path.read_bytes()
    for rest in (
        b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0abcd",
        b"\xe1\x7f\x10\0LO\x04\0ABCD",
        b"\x10\0\x10\x10AS\x04\x00040Y",
        bytes(500),
    ):
        path.write_bytes(whole + rest)
        bright(path)


# Deflated data, and bombs


def test_deflated_bombs(tmp_path):
    bright(deflated(tmp_path / "good.dcm", 1))
    path = deflated(tmp_path / "bomb.dcm", 150)
    assert path.stat().st_size < 1e6
    rejected(path, "inflates", "64 MB")
    code = f"""
import sys
from pathlib import Path
from fastsquid.data.dicom.read import read_dicom, read_patient
def peak():
    status = Path("/proc/self/status").read_text() if sys.platform == "linux" else "VmHWM: 0 kB"
    return int(status.split("VmHWM:")[1].split()[0])
path, before = Path({str(path)!r}), peak()
assert read_patient(path) is None
try:
    read_dicom(path)
except ValueError:
    print(peak() - before)
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(out) < 300_000  # kB, beside PyTorch and pydicom


def test_a_deflated_file_that_is_cut_short(tmp_path):
    path = deflated(tmp_path / "x.dcm", 1)
    path.write_bytes(path.read_bytes()[:3000])
    rejected(path, "cut short")


def test_damaged_deflated_data(tmp_path):
    """It has no checksum, but seldom ends where it should. Without a look at the end 40 of 60 are other pictures."""
    whole = deflated(tmp_path / "x.dcm", 1).read_bytes()
    random, path, changed = np.random.default_rng(0), tmp_path / "x.dcm", 0
    for at in random.integers(400, len(whole) - 8, 60):
        path.write_bytes(whole[:at] + random.bytes(4) + whole[at + 4 :])
        changed += changed_picture(path)
    assert changed <= 5
    path.write_bytes(whole + b"more")
    rejected(path, "deflated", "damaged")


def test_deflated_data_with_the_end_of_gzip(tmp_path):
    path = deflated(tmp_path / "x.dcm", 1)
    whole, stream = path.read_bytes(), zlib.decompressobj(-zlib.MAX_WBITS)
    content = stream.decompress(whole[144 + int.from_bytes(whole[140:144], "little") :])
    end = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    path.write_bytes(whole[: len(whole) - len(stream.unused_data)] + end)
    bright(path)


def test_headers_of_huge_sizes(tmp_path):
    """Whether the tags agree or not."""
    whole = bytearray(stream(EIGHT, no_jp2=True))
    for at in (8, 12, 24, 28):
        whole[at : at + 4] = (60000).to_bytes(4, "big")
    rejected(compressed(tmp_path / "a.dcm", bytes(whole), J2K, BitsStored=8), "60000 x 60000", "64 x 64")
    rejected(compressed(tmp_path / "b.dcm", bytes(whole), J2K, BitsStored=8, Rows=60000, Columns=60000), "pixels")


def test_more_elements_than_a_radiograph_needs(tmp_path):
    path = write(tmp_path / "x.dcm", SIXTEEN, 16)
    whole = path.read_bytes()
    at = whole.index(b"\xe0\x7f\x10\x00")
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000
    sequence = b"\x28\x00\x10\x30SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(whole[:at] + sequence + whole[at:])
    rejected(path, "elements")
