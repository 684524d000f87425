"""Good files of every format that fastsquid reads, all of one picture of 64 x 64 pixels."""

import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from dicom_files import write
from PIL import Image, TiffImagePlugin
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from test_data_dicom import jpeg, jpeg2000, rle

TRUTH = np.load(Path(__file__).parents[1] / "attacks" / "truth.npy")
EIGHT = np.rint(TRUTH * 255).astype(np.uint8)
SIXTEEN = np.rint(TRUTH * 65535).astype(np.uint16)
COLOR = np.repeat(EIGHT[:, :, None], 3, 2)


class Seed(NamedTuple):
    """A good file.

    Attributes:
        name: of the file, by which its format is known.
        content: bytes.
        header: [(start, stop)] of the bytes that say how the pixels are to be read.
        checked: the format has a checksum over all pixels, so that changed pixels are always noticed.
        repair: function that makes the checksums of changed bytes right again, or None.
    """

    name: str
    content: bytes
    header: list[tuple[int, int]]
    checked: bool = False
    repair: Callable[[bytes], bytes] | None = None


def seeds(folder):
    """Return {format: its seeds}.

    Args:
        folder: Path of an empty folder to work in.
    """
    found = {name: make() for name, make in IMAGES.items()}
    found |= {f"dicom {name}": [dicom(change, folder, bits) for bits in (8, 12)] for name, change in SYNTAXES.items()}
    found["tar"] = [shard(found["png"][0].content, found["dicom explicit"][1].content)]
    return found


def saved(values, kind, **options):
    """Return the bytes of a picture, as Pillow writes it."""
    file = io.BytesIO()
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(file, kind, **options)
    return file.getvalue()


def raw(name, values, kind, **options):
    """Return the seed of a format whose header, for Pillow, ends where the pixels begin."""
    content = saved(values, kind, **options)
    with Image.open(io.BytesIO(content)) as image:
        return Seed(name, content, [(0, image.tile[0][2])])


def png(name, values, **options):
    """Return a PNG seed; its pixels have the checksums of the chunks and of zlib."""
    content = saved(values, "PNG", **options)
    return Seed(name, content, [(0, content.index(b"IDAT") + 4)], checked=True, repair=chunks_repaired)


def chunks_repaired(content):
    """Return a PNG file with the CRC of every chunk computed again."""
    at, parts = 8, [content[:8]]
    while at + 12 <= len(content):
        stop = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if stop + 4 > len(content):
            break
        parts += [content[at:stop], zlib.crc32(content[at + 4 : stop]).to_bytes(4, "big")]
        at = stop + 4
    return b"".join([*parts, content[at:]])


def jpeg_header(content, start=0):
    """Return where the scan of a JPEG or JPEG-LS begins, or the tile data of JPEG 2000."""
    if content[start : start + 2] == b"\xff\xd8":
        at = content.index(b"\xff\xda", start)
        return at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return content.index(b"\xff\x93", start) + 2


def coded(name, values, kind, **options):
    """Return the seed of a JPEG or JPEG 2000 file."""
    content = saved(values, kind, **options)
    start = 0 if kind == "JPEG" else content.index(b"\xff\x4f\xff\x51")
    return Seed(name, content, [(0, jpeg_header(content, start))])


def webp(name, values, **options):
    """Return a WebP seed; sizes are in the first bytes of the chunk `VP8 ` or `VP8L`."""
    content = saved(values, "WEBP", **options)
    return Seed(name, content, [(0, content.index(b"VP8") + 18)])


def tiff(name, values, **options):
    """Return a TIFF seed; its header is everything outside of the strips."""
    content = saved(values, "TIFF", **options)
    with Image.open(io.BytesIO(content)) as image:
        tags = image.tag_v2
        strips = sorted(zip(tags[TiffImagePlugin.STRIPOFFSETS], tags[TiffImagePlugin.STRIPBYTECOUNTS]))
    edges = [0, *(edge for at, count in strips for edge in (at, at + count)), len(content)]
    header = [(start, stop) for start, stop in zip(edges[::2], edges[1::2]) if start < stop]
    return Seed(name, content, header, checked=options.get("compression") == "tiff_adobe_deflate")


def dicom(change, folder, bits):
    """Return the DICOM seed of a transfer syntax.

    Args:
        change: function of (source, target) that writes explicit little endian in this syntax.
        folder: Path to work in.
        bits: of a stored value.
    """
    values = EIGHT if bits == 8 else SIXTEEN >> 4
    source = write(
        folder / "source.dcm", values, bits, PatientAge="050Y", WindowCenter=2 ** (bits - 1), WindowWidth=2**bits
    )
    dataset = pydicom.dcmread(source)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.save_as(source)
    change(source, folder / "target.dcm")
    content = (folder / "target.dcm").read_bytes()
    syntax = pydicom.dcmread(folder / "target.dcm").file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        return Seed("x.dcm", content, [(0, dataset_start(content))])
    tag = struct.pack(">HH" if syntax == ExplicitVRBigEndian else "<HH", 0x7FE0, 0x0010)
    start = content.rindex(tag) + 12
    if syntax.is_encapsulated:
        frame = content.index(b"\xfe\xff\x00\xe0", start + 8) + 8
        start = frame + 64 if content[frame] in (1, 2) else jpeg_header(content, frame)
    return Seed("x.dcm", content, [(0, start)])


def dataset_start(content):
    """Return where a DICOM file's dataset begins, after the meta information (PS3.10, section 7.1)."""
    return 144 + int.from_bytes(content[140:144], "little")


def saved_as(syntax):
    """Return a function of (source, target) that writes DICOM in an uncompressed syntax."""

    def change(source, target):
        dataset = pydicom.dcmread(source)
        if syntax == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
            dataset["PixelData"].value = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
        elif syntax == ExplicitVRBigEndian:
            dataset["PixelData"].VR = "OB"
        meta, dataset = dataset.file_meta, pydicom.Dataset({element.tag: element for element in dataset})
        dataset.file_meta, meta.TransferSyntaxUID = meta, syntax
        endian = dict(implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        dataset.save_as(target, **endian, enforce_file_format=True)

    return change


def jpeg_baseline(source, target):
    """Write DICOM with a JPEG of 8 bits; more bits are cut."""
    dataset = pydicom.dcmread(source)
    dataset.PixelData = encapsulate([saved(EIGHT, "JPEG")])
    dataset["PixelData"].is_undefined_length = True
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.WindowCenter, dataset.WindowWidth = 7, 128, 256
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    dataset.save_as(target)


def shard(*pictures):
    """Return a WebDataset shard of some pictures with classes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, content in enumerate(pictures * 2):
            suffix = "png" if content[:4] == b"\x89PNG" else "dcm"
            for name, data in ((f"{number:04}.{suffix}", content), (f"{number:04}.cls", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    content = file.getvalue()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        header = [(member.offset, member.offset_data) for member in archive]
    return Seed("train-0.tar", content, header, repair=headers_repaired)


def headers_repaired(content):
    """Return a tar archive with the checksum of every header computed again."""
    content = bytearray(content)
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            block = content[at : at + 148] + b" " * 8 + content[at + 156 : at + 512]
            content[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    return bytes(content)


SYNTAXES = {
    "implicit": saved_as(ImplicitVRLittleEndian),
    "explicit": saved_as(ExplicitVRLittleEndian),
    "big endian": saved_as(ExplicitVRBigEndian),
    "deflated": saved_as(DeflatedExplicitVRLittleEndian),
    "rle": rle,
    "jpeg": jpeg_baseline,
    "jpeg lossless": jpeg("JPEGLosslessProcess14_1"),
    "jpeg-ls": jpeg("JPEGLSLossless"),
    "jpeg 2000": jpeg2000,
}

IMAGES = {
    "png": lambda: [
        png("x.png", EIGHT),
        png("x.png", SIXTEEN),
        png("x.png", COLOR, icc_profile=bytes(200), exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
        png("x.png", Image.fromarray(EIGHT).convert("P")),
    ],
    "jpeg": lambda: [
        coded("x.jpeg", EIGHT, "JPEG"),
        coded("x.jpeg", COLOR, "JPEG", progressive=True),
        coded("x.jpeg", EIGHT, "JPEG", restart_marker_rows=1),
    ],
    "tiff": lambda: [
        tiff("x.tif", EIGHT),
        tiff("x.tif", SIXTEEN),
        *(tiff("x.tif", EIGHT, compression=name) for name in ("tiff_lzw", "packbits", "jpeg")),
        tiff("x.tif", SIXTEEN, compression="tiff_adobe_deflate"),
    ],
    "bmp": lambda: [raw("x.bmp", EIGHT, "BMP"), raw("x.bmp", COLOR, "BMP")],
    "gif": lambda: [raw("x.gif", EIGHT, "GIF")],
    "webp": lambda: [webp("x.webp", COLOR, lossless=True), webp("x.webp", COLOR)],
    "jpeg 2000": lambda: [coded("x.jp2", EIGHT, "JPEG2000"), coded("x.j2k", SIXTEEN, "JPEG2000", no_jp2=True)],
    "pnm": lambda: [
        raw("x.pgm", EIGHT, "PPM"),
        raw("x.pgm", SIXTEEN, "PPM"),
        raw("x.ppm", COLOR, "PPM"),
        Seed("x.pgm", b"P2 64 64 255\n" + b" ".join(b"%d" % value for value in EIGHT.ravel()), [(0, 13)]),
    ],
    "pcx": lambda: [raw("x.pcx", EIGHT, "PCX")],
    "sgi": lambda: [raw("x.sgi", EIGHT, "SGI")],
    "tga": lambda: [raw("x.tga", EIGHT, "TGA"), raw("x.tga", EIGHT, "TGA", compression="tga_rle")],
}
