"""PNG and TIFF: bombs, inserted bytes, and what Pillow shows otherwise."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest

pytest.importorskip("pydicom")
from hostile_files import EIGHT, SIXTEEN, changed_picture, rejected, stream  # noqa: E402


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


def test_a_png_of_very_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("fastsquid.data.opening._MOST_CHUNKS", 100)
    chunk = b"\0\0\0\0teXt" + zlib.crc32(b"teXt").to_bytes(4, "big")
    whole = stream(SIXTEEN, "PNG")
    at = whole.index(b"IDAT") - 4
    (tmp_path / "x.png").write_bytes(whole[:at] + chunk * 101 + whole[at:])
    rejected(tmp_path / "x.png", "100 chunks")


@pytest.mark.parametrize("values", [EIGHT, SIXTEEN], ids=["8", "16"])
def test_bytes_inserted_into_png(tmp_path, values):
    """Of the chunks behind them, which then cannot be read, the picture's own are not ignored."""
    whole, random, path = stream(values, "PNG"), np.random.default_rng(0), tmp_path / "x.png"
    for _ in range(100):
        at = int(random.integers(whole.index(b"IDAT") + 4, whole.index(b"IEND") - 8))
        path.write_bytes(whole[:at] + whole[at : at + 1] + whole[at:])
        assert not changed_picture(path), at


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
