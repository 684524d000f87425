"""Folders and archives: named pipes, hostile shards and spreadsheets, and good files beside hostile ones."""

import os
import shutil
import struct
import tarfile
import zipfile

import pytest
from conftest import XRAYS, rows_of

from fastsquid import score
from fastsquid.data import find_images, open_data
from fastsquid.errors import UserError

pytest.importorskip("pydicom")
from dicom_files import write  # noqa: E402
from hostile_files import ATTACKS, SIXTEEN, deflated  # noqa: E402


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
