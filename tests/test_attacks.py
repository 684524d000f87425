"""Damaged, odd and hostile files: each is read right or rejected in one sentence, and no process dies."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS, rows_of
from PIL import Image

from fastsquid import score
from fastsquid.data import find_images, open_data, read_images
from fastsquid.data.decoding import decoded
from fastsquid.data.images import ImageError, read_image
from fastsquid.errors import UserError

ATTACKS = Path(__file__).parent / "attacks"
EXPECTED = json.loads((ATTACKS / "expected.json").read_text())


def rejected(path, *words):
    """Assert that a file is rejected in one line that names it and has these words."""
    with pytest.raises(ImageError) as error:
        read_image(path, 64)
    message = str(error.value)
    assert path.name in message and "\n" not in message and all(word in message for word in words), message


def test_every_attack_is_in_the_table_of_security():
    tests = Path(__file__).parent
    text = (tests.parent / "SECURITY.md").read_text("utf-8")
    assert set(re.findall(r"`([\w.-]+\.(?:bmp|dcm|dicom|png|tar|tif))`", text)) == EXPECTED.keys()
    code = "\n".join(path.read_text("utf-8") for path in tests.glob("test_*.py"))
    assert set(re.findall(r"`(test_\w+)`", text)) <= set(re.findall(r"^def (test_\w+)", code, re.M))


# DICOM pixels: decoders


pydicom = pytest.importorskip("pydicom")
from dicom_files import put_raw, radiograph, raw, write  # noqa: E402
from fuzzing.seeds import saved_as  # noqa: E402
from pydicom.encaps import encapsulate, generate_frames  # noqa: E402
from pydicom.uid import UID  # noqa: E402
from test_data_dicom import jpeg, jpeg2000, rle, table  # noqa: E402

from fastsquid.data.dicom import decoders  # noqa: E402
from fastsquid.data.dicom.read import read_dicom  # noqa: E402

TRUTH = np.load(ATTACKS / "truth.npy")


def bright(path):
    """Assert that a file shows the scene, not darkened."""
    gray = read_dicom(path).gray
    assert gray.shape == TRUTH.shape and gray.max() > 0.5
    assert np.corrcoef(gray.ravel(), TRUTH.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_files_of_attacks(tmp_path, name):
    """tests/attacks/README.md says what the words mean."""
    if name.endswith(".tar"):
        shutil.copy(ATTACKS / name, tmp_path)
        with pytest.raises(UserError) as error:
            open_data(tmp_path, 64)
        assert str(error.value).replace(f"{tmp_path}/", "") == EXPECTED[name]
        return
    try:
        gray = read_image(ATTACKS / name, 64)
    except ImageError as error:
        assert str(error).replace(f"{ATTACKS}/", "") == EXPECTED[name]
        return
    if EXPECTED[name] == "bright":
        assert np.corrcoef(gray.ravel(), TRUTH.ravel())[0, 1] > 0.99 and gray.max() > np.iinfo(gray.dtype).max / 2
    elif EXPECTED[name] == "black border":
        assert not gray[:, :18].any() and np.corrcoef(gray[gray > 0], TRUTH[gray > 0])[0, 1] > 0.99
    else:
        assert EXPECTED[name] == "read" and gray.max() > 128


def test_every_file_of_attacks_is_expected():
    assert {path.name for path in ATTACKS.iterdir()} - {"README.md", "expected.json", "truth.npy"} == EXPECTED.keys()


def lossless(path, values=None, bits=12):
    pytest.importorskip("gdcm")
    write(path.with_suffix(".plain"), radiograph(bits) if values is None else values, bits)
    jpeg("JPEGLosslessProcess14_1")(path.with_suffix(".plain"), path)
    return path


def test_decoders_are_used_again_also_after_a_crash(tmp_path):
    good = lossless(tmp_path / "good.dcm")
    expected = read_image(good, 64)
    decoders._pool.end()
    for path in [good, ATTACKS / "jpegll-one-byte.dcm"] * 2:
        if path == good:
            np.testing.assert_array_equal(read_image(path, 64), expected)
            (decoder,) = decoders._pool._idle
            np.testing.assert_array_equal(read_image(path, 64), expected)
            assert decoders._pool._idle == [decoder]
        else:
            rejected(path, "decoded")  # some versions of gdcm abort, others do not
            assert not hasattr(os, "fork") or decoders._pool._idle == [decoder]


@pytest.mark.skipif(not os.path.exists("/proc"), reason="needs the children of a process")
def test_a_child_that_is_killed_while_it_waits(tmp_path):
    """No answer is taken for that of another request."""
    paths = [lossless(tmp_path / f"{number}.dcm", radiograph() // 2**number) for number in range(3)]
    expected = [read_image(path, 64) for path in paths]
    (decoder,) = decoders._pool._idle
    for times in (1, 2):
        for _ in range(times):
            parent = decoder._process.pid
            child = int(Path(f"/proc/{parent}/task/{parent}/children").read_text())
            os.kill(child, signal.SIGKILL)
            while Path(f"/proc/{parent}/task/{parent}/children").read_text() in ("", f"{child} "):
                time.sleep(0.01)
        for path, image in zip(paths, expected, strict=True):
            np.testing.assert_array_equal(read_image(path, 64), image)
        assert decoders._pool._idle == [decoder]


def test_a_killed_decoder_is_replaced(tmp_path):
    good = lossless(tmp_path / "good.dcm")
    expected = read_image(good, 64)
    (decoder,) = decoders._pool._idle
    decoder._kill()
    decoder._process.wait()
    np.testing.assert_array_equal(read_image(good, 64), expected)
    assert decoders._pool._idle != [decoder]


def test_decoders_in_threads_and_workers(tmp_path, monkeypatch):
    good = lossless(tmp_path / "good.dcm")
    expected = read_image(good, 64)
    files = [good, ATTACKS / "jpegll-one-byte.dcm", good]
    images, kept = read_images(files, 64, skip_unreadable=True)
    assert kept == [0, 2] and (images[:, 0].numpy() == expected).all()
    monkeypatch.setattr("fastsquid.data.decoding.MAX_WITHOUT_WORKERS", 0)
    rows = [row for batch in decoded([(path.name, path) for path in files], 64, 2) for row in batch]
    assert ["decoded" in row.error for row in rows] == [False, True, False]
    np.testing.assert_array_equal(rows[2].image, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_starts_decoders_of_its_own(tmp_path):
    good = lossless(tmp_path / "good.dcm")
    expected = read_image(good, 64)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put((len(decoders._pool._idle), read_image(good, 64))))
    process.start()
    idle, image = queue.get()
    process.join()
    assert not idle and process.exitcode == 0
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(read_image(good, 64), expected)


def test_a_decoder_that_does_not_start(tmp_path, monkeypatch):
    good = lossless(tmp_path / "good.dcm")
    decoders._pool.end()
    monkeypatch.setattr(decoders, "get_executable", lambda: str(tmp_path / "missing"))
    rejected(good, "gdcm", "not start", "import gdcm")


def test_a_decoder_that_hangs(tmp_path, monkeypatch):
    good = lossless(tmp_path / "good.dcm")
    monkeypatch.setattr(decoders, "_SECONDS", 0.2)
    monkeypatch.setattr(decoders, "_SCRIPT", tmp_path / "hangs.py")
    (tmp_path / "hangs.py").write_text("print('ready', flush=True)\nimport time\ntime.sleep(600)\n")
    decoders._pool.end()
    rejected(good, "decoded")


@pytest.mark.parametrize("change", [lossless, jpeg2000, rle])
def test_damaged_streams(tmp_path, change):
    """Bytes changed at random: an image of the right size or one sentence, and this process lives."""
    path = tmp_path / "x.dcm"
    if change is lossless:
        lossless(path, radiograph()[:64, :64].copy())
    else:
        change(write(tmp_path / "plain.dcm", radiograph()[:64, :64].copy(), 12), path)
    dataset = pydicom.dcmread(path)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    random = np.random.default_rng(0)
    for at in random.integers(0, min(200, len(frame)), 30):
        damaged = bytearray(frame)
        damaged[at] ^= 1 << random.integers(8)
        dataset.PixelData = encapsulate([bytes(damaged)])
        dataset.save_as(tmp_path / "y.dcm")
        try:
            assert read_dicom(tmp_path / "y.dcm").gray.shape == (64, 64)
        except ValueError as error:
            assert type(error).__name__ == "RejectedError" and "\n" not in str(error)


# DICOM pixels: the compressed stream governs


def compressed(path, stream, syntax, **tags):
    write(path, np.zeros((64, 64), np.uint8 if tags["BitsStored"] <= 8 else np.uint16), tags["BitsStored"], **tags)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path


def stream(values, kind="JPEG2000", **options):
    file = BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


J2K, JPEG = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.50"
EIGHT = np.rint(TRUTH * 255).astype(np.uint8)
SIXTEEN = np.rint(TRUTH * 65535).astype(np.uint16)


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


@pytest.mark.parametrize("excess", [-2, 128, -128])
def test_an_uncompressed_image_of_another_length(tmp_path, excess):
    content = SIXTEEN.tobytes() + bytes(128)
    rejected(write(tmp_path / "x.dcm", SIXTEEN, 16, PixelData=content[: 8192 + excess]), "bytes", "64 x 64")


def test_an_odd_number_of_bytes_is_padded(tmp_path):
    odd = EIGHT[:63, :63].copy()
    assert read_dicom(write(tmp_path / "x.dcm", odd, 8)).gray.shape == (63, 63)


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


# DICOM pixels: tables, windows and padding as devices write them


TWELVE = SIXTEEN >> 4


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


# DICOM bombs


def deflated(path, megabytes):
    """A good image with a private element of so many zeros."""
    dataset = pydicom.dcmread(write(path, SIXTEEN, 16))
    block = dataset.private_block(0x0011, "zeros", create=True)
    block.add_new(1, "OB", bytes(megabytes << 20))
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.save_as(path)
    return path


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


def test_headers_of_huge_sizes(tmp_path):
    """Whether the tags agree or not."""
    whole = bytearray(stream(EIGHT, no_jp2=True))
    for at in (8, 12, 24, 28):
        whole[at : at + 4] = (60000).to_bytes(4, "big")
    rejected(compressed(tmp_path / "a.dcm", bytes(whole), J2K, BitsStored=8), "60000 x 60000", "64 x 64")
    rejected(compressed(tmp_path / "b.dcm", bytes(whole), J2K, BitsStored=8, Rows=60000, Columns=60000), "pixels")


# Found by tests/fuzz.py


def changed_picture(path):
    """Return whether a file is read as another picture than the scene."""
    try:
        gray = read_image(path, 64)
    except ImageError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return False
    return not np.corrcoef(gray.ravel(), TRUTH.ravel())[0, 1] > 0.9


def test_a_png_chunk_of_gigabytes_takes_no_memory(tmp_path):
    whole = stream(SIXTEEN, "PNG")
    at = whole.index(b"IDAT") - 4
    path = tmp_path / "x.png"
    path.write_bytes(whole[:at] + (2**32 - 16).to_bytes(4, "big") + whole[at + 4 :])
    tracemalloc.start()
    rejected(path, "damaged")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6


@pytest.mark.parametrize("values", [EIGHT, SIXTEEN], ids=["8", "16"])
def test_bytes_inserted_into_png(tmp_path, values):
    """Of the chunks behind them, which then cannot be read, the picture's own are not ignored."""
    whole, random, path = stream(values, "PNG"), np.random.default_rng(0), tmp_path / "x.png"
    for _ in range(100):
        at = int(random.integers(whole.index(b"IDAT") + 4, whole.index(b"IEND") - 8))
        path.write_bytes(whole[:at] + whole[at : at + 1] + whole[at:])
        assert not changed_picture(path), at


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


def test_lossless_data_that_gdcm_decodes_with_errors(tmp_path):
    """It only prints that the data is corrupt."""
    lossless(tmp_path / "x.dcm", SIXTEEN >> 4)
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    middle = len(frame) // 2
    dataset.PixelData = encapsulate([frame[:middle] + bytes(64) + b"\xff\xd9" + frame[middle + 66 :]])
    dataset.save_as(tmp_path / "x.dcm")
    rejected(tmp_path / "x.dcm", "decoded", "damaged")


# Found by trying to break it


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["x.png", "y.dcm", "t.tar", "labels.csv", "labels.xlsx"])
def test_named_pipes_do_not_hang(tmp_path, name, unbroken, command):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(find_images(XRAYS)[0], folder)
    os.mkfifo(folder / name)
    out = ("--out", tmp_path / "s.csv", "--overwrite")
    if not name.startswith("labels"):
        code, _, err = command(score.main, unbroken, folder / name, *out)
        assert code and name in err + (tmp_path / "s.csv").read_text() if (tmp_path / "s.csv").exists() else name in err
    code, _, err = command(score.main, unbroken, folder, *out)
    assert code == 0 or name == "t.tar"
    open_data(folder, 32)


def test_more_elements_than_a_radiograph_needs(tmp_path):
    path = write(tmp_path / "x.dcm", SIXTEEN, 16)
    whole = path.read_bytes()
    at = whole.index(b"\xe0\x7f\x10\x00")
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 200_000
    sequence = b"\x28\x00\x10\x30SQ\0\0\xff\xff\xff\xff" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(whole[:at] + sequence + whole[at:])
    rejected(path, "elements")


def tiff_of(entries, data=b""):
    """A TIFF file of some (tag, type, count, value) and bytes that begin at 8."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


@pytest.mark.parametrize(
    "more, words",
    [
        ([(262, 3, 1, b"\1\0"), (322, 2, 2, b"9\0"), (323, 4, 1, b"\0\0\0\x95")], "tiles"),
        ([], "PhotometricInterpretation"),
        ([(262, 3, 1, b"\1\0"), (339, 3, 1, b"\2\0")], "signed"),
    ],
)
def test_tiff_that_pillow_shows_otherwise(tmp_path, more, words):
    size = struct.pack("<I", 64)
    entries = [(256, 4, 1, size), (257, 4, 1, size), (258, 3, 1, b"\x08\0"), (259, 3, 1, b"\1\0")]
    entries += [(273, 4, 1, b"\x08"), (278, 4, 1, size), (279, 4, 1, struct.pack("<I", 4096)), *more]
    (tmp_path / "x.tif").write_bytes(tiff_of(sorted(entries), EIGHT.tobytes()))
    rejected(tmp_path / "x.tif", words)


def test_a_png_of_very_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("fastsquid.data.opening._MOST_CHUNKS", 100)
    chunk = b"\0\0\0\0teXt" + zlib.crc32(b"teXt").to_bytes(4, "big")
    whole = stream(SIXTEEN, "PNG")
    at = whole.index(b"IDAT") - 4
    (tmp_path / "x.png").write_bytes(whole[:at] + chunk * 101 + whole[at:])
    rejected(tmp_path / "x.png", "100 chunks")


def test_a_shard_of_long_names_of_long_names(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 3
    block = header.tobuf(tarfile.GNU_FORMAT) + b"ab\0" + bytes(509)
    (tmp_path / "train-0.tar").write_bytes(block * 5000 + bytes(1024))
    with pytest.raises(UserError, match="train-0.tar"):
        open_data(tmp_path, 32)


def test_a_damaged_spreadsheet_beside_images(tmp_path):
    """It says nothing of the images, and ends no command."""
    shutil.copytree(XRAYS / "train" / "NORMAL", tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "notes.xlsx", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("xl/sharedStrings.xml", "<t>notes</t>" * 1000)
    content = bytearray((tmp_path / "notes.xlsx").read_bytes())
    for at in range(80, 120):
        content[at] ^= 0xFF
    (tmp_path / "notes.xlsx").write_bytes(content)
    assert len(open_data(tmp_path / "images", 32, all_normal=False)["train"]) == 8


@pytest.mark.parametrize("slope, intercept", [("1e305", "0"), ("1", "1e308"), ("1e17", "1e300")])
def test_rescaling_to_numbers_without_differences(tmp_path, slope, intercept):
    tags = dict(RescaleSlope=slope, RescaleIntercept=intercept)
    rejected(write(tmp_path / "x.dcm", SIXTEEN, 16, **tags), "Rescale")


def test_values_of_more_bits_than_stored(tmp_path):
    """They would wrap."""
    for values in (TWELVE, TWELVE.astype(np.int16)):
        rejected(write(tmp_path / "x.dcm", values, 10), "more than the 10 bits")


def test_signed_jpeg_2000_under_unsigned_tags(tmp_path):
    whole = bytearray(stream(SIXTEEN, no_jp2=True))
    whole[42] |= 0x80  # of the precision: values are signed
    rejected(compressed(tmp_path / "x.dcm", bytes(whole), J2K, BitsStored=16), "below 0")


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


# A folder of good and hostile files


def test_a_folder_of_good_and_hostile_files(tmp_path, unbroken, command):
    """120 rows, good ones as without the hostile ones, and exit code 1."""
    xrays = find_images(XRAYS)
    good, mixed = tmp_path / "good", tmp_path / "mixed"
    good.mkdir()
    for number in range(100):
        shutil.copy(xrays[number % len(xrays)], good / f"{number:03}.jpeg")
    shutil.copytree(good, mixed)
    for name in ("columns_62_to_32", "j2k_siz_2e9", "jpegll-one-byte"):
        for copy in "abc":
            shutil.copy(ATTACKS / f"{name}.dcm", mixed / f"{copy}{name}.dcm")
    shutil.copy(ATTACKS / "eps_named.png", mixed)
    deflated(mixed / "deflated.dcm", 150)
    write(mixed / "knee.dcm", SIXTEEN, 16, BodyPartExamined="KNEE")
    write(mixed / "cut.dcm", SIXTEEN, 16, PixelData=SIXTEEN.tobytes()[:-2])
    content = xrays[0].read_bytes()
    bitmap = b"BM" + struct.pack("<IIIIiiHHI", 100, 0, 54, 40, 60000, 60000, 1, 8, 0) + bytes(50)
    for name, wrong in {
        "cut.jpeg": content[: len(content) // 2],
        "empty.png": b"",
        "text.jpeg": b"not an image",
        "header.dcm": bytes(128) + b"DICM" + content[:500],
        "size.bmp": bitmap,
        "size.tif": b"II*\0\10\0\0\0\3\0" + b"".join(struct.pack("<HHII", tag, 4, 1, 60000) for tag in (256, 257, 258)),
        "=1+1.gif": b"GIF89a" + b"\xff" * 100,
    }.items():
        (mixed / name).write_bytes(wrong)
    for folder, code in ((good, 0), (mixed, 1)):
        assert command(score.main, unbroken, folder, "--out", tmp_path / f"{folder.name}.csv")[0] == code
    expected = {row["name"]: row for row in rows_of(tmp_path / "good.csv")}
    found = {row["name"]: row for row in rows_of(tmp_path / "mixed.csv")}
    assert (len(expected), len(found)) == (100, 120) and expected.keys() <= found.keys()
    for name, row in expected.items():
        assert float(found[name]["score"]) == pytest.approx(float(row["score"]), rel=1e-4) and not found[name]["error"]
    assert all(found[name]["error"] and not found[name]["score"] for name in found.keys() - expected.keys())
