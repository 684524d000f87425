import doctest
import errno
import importlib
import io
import os
import re
import struct
import subprocess
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fastsquid.data import find_images
from fastsquid.data.images import ImageError, read_image, read_images, to_unit
from fastsquid.errors import UserError

XRAYS = Path(__file__).parent / "data" / "xrays"
ATTACKS = Path(__file__).parent / "attacks"
GRADIENT = (np.arange(64 * 64).reshape(64, 64) * 16 + 5).astype(np.uint16)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def resized(array, size):
    """The float64 definition of antialiased bilinear resizing."""
    image = torch.from_numpy(np.asarray(array, np.float64))[None, None]
    return F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()


# Modes and depths


def test_eight_bit_gray_is_unchanged_at_its_own_size(tmp_path):
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = read_image(save(tmp_path / "a.png", array), 16)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, array)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_sixteen_bit_gray_keeps_all_its_bits(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "pgm":  # which Pillow writes since version 11
        path.write_bytes(b"P5 64 64 65535 " + GRADIENT.astype(">u2").tobytes())
    else:
        save(path, GRADIENT)
    image = read_image(path, 64)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, GRADIENT)


def test_sixteen_bit_big_endian_tiff(tmp_path):
    Image.frombytes("I;16B", (64, 64), GRADIENT.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "I;16B"
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", 64), GRADIENT)


def tiff(path, order, bits, photometric, values, *more):
    """An uncompressed TIFF with one strip, as bytes; `more` are other (tag, value)."""
    height, width = values.shape
    if bits == 12:  # two values to three bytes, big-endian whatever the file's order
        even, odd = values[:, ::2].astype(int), values[:, 1::2].astype(int)
        data = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], -1).astype(np.uint8).tobytes()
    else:
        data = values.astype(f"{order}u{bits // 8}").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (277, 1), (278, height), *more]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags = sorted([*tags, (273, start), (279, len(data))])
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8) + struct.pack(f"{order}H", len(tags))
    head += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(head + struct.pack(f"{order}I", 0) + data)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_tiff_where_zero_is_white_is_inverted(tmp_path, order):
    path = tiff(tmp_path / "a.tif", order, 16, 0, 65535 - GRADIENT)
    np.testing.assert_array_equal(read_image(path, 64), GRADIENT)
    path = tiff(tmp_path / "b.tif", order, 16, 1, GRADIENT)
    np.testing.assert_array_equal(read_image(path, 64), GRADIENT)


@pytest.mark.parametrize("photometric", [0, 1])
def test_the_brightest_value_of_a_twelve_bit_tiff_is_white(tmp_path, photometric):
    twelve = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    path = tiff(tmp_path / "a.tif", "<", 12, photometric, twelve if photometric else 4095 - twelve)
    np.testing.assert_allclose(read_image(path, 64), twelve * (65535 / 4095), atol=0.51)


def test_sixteen_bit_values_in_a_32_bit_file(tmp_path):
    image = read_image(save(tmp_path / "a.tif", GRADIENT.astype(np.int32)), 64)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image, GRADIENT)


def test_sixteen_bit_resize_rounds_to_the_nearest(tmp_path):
    image = read_image(save(tmp_path / "a.png", GRADIENT), 24)
    assert np.abs(image - resized(GRADIENT, 24)).max() < 0.51


@pytest.mark.parametrize(
    "mode, color, gray",
    [
        ("RGB", (200, 100, 50), 124),  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
        ("RGBA", (200, 100, 50, 7), 124),
        ("LA", (77, 3), 77),
        ("1", 1, 255),
    ],
)
def test_color_becomes_luminance(tmp_path, mode, color, gray):
    Image.new(mode, (8, 8), color).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 4), np.full((4, 4), gray, np.uint8))


def test_palette_with_transparency_becomes_luminance_without_a_warning(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=b"\x10\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_image(tmp_path / "a.png", 4) == 124).all()


def test_exif_orientation_is_applied(tmp_path):
    array = np.zeros((32, 32), np.uint8)
    array[:, :16] = 255  # left half bright; orientation 6 turns left to top
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(save(tmp_path / "a.png", array, exif=exif), 32)
    np.testing.assert_array_equal(image, array.T)


def chunk(kind, body, checksum=None):
    return struct.pack(">I", len(body)) + kind + body + (checksum or struct.pack(">I", zlib.crc32(kind + body)))


PROFILE = b"ICC\0\0" + zlib.compress(bytes(3 * 2**20))


@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after the pixels"])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"iCCP", PROFILE),
        chunk(b"iCCP", b"ICC\0\0no zlib"),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3 * 2**20))),
        chunk(b"iTXt", b"a\0\1"),
        chunk(b"gAMA", b""),
        chunk(b"pHYs", b"1"),
        chunk(b"sRGB", b"1", b"none"),
        chunk(b"tIME", b"1234567", b"none"),
        chunk(b"eXIf", b"no EXIF"),
        chunk(b"eXIf", b"no EXIF", b"none"),
    ],
    ids=lambda extra: extra[4:8].decode(),
)
def test_ancillary_chunks_of_png_do_not_decide(tmp_path, extra, after):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GRADIENT).save(file, "PNG", **({} if b"eXIf" in extra else {"exif": exif}))
    content = file.getvalue()
    at = content.index(b"IEND" if after else b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(content[:at] + extra + content[at:])
    image = read_image(tmp_path / "a.png", 64)
    np.testing.assert_array_equal(image, GRADIENT if b"eXIf" in extra else np.rot90(GRADIENT, -1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_broken_exif_says_nothing(tmp_path, suffix):
    array = np.full((16, 16), 200, np.uint8)
    if suffix == "tif":
        tiff(tmp_path / "a.tif", "<", 8, 1, array, (34665, 2**31))
    else:
        save(tmp_path / f"a.{suffix}", array, exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(read_image(tmp_path / f"a.{suffix}", 16).astype(int) - 200).max() <= 2


@pytest.mark.parametrize("height, width", [(37, 91), (224, 224), (20, 20), (1, 300)])
def test_resize_agrees_with_a_float_reference(tmp_path, height, width):
    array = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    image = read_image(save(tmp_path / "a.png", array), 48)
    assert image.shape == (48, 48)
    assert np.abs(image - resized(array, 48)).max() <= 1


def test_real_xray_agrees_with_a_float_reference():
    path = next((XRAYS / "train" / "NORMAL").iterdir())
    with Image.open(path) as image:
        expected = resized(image.convert("L"), 64)
    assert np.abs(read_image(path, 64) - expected).max() <= 1


# Bad files


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not an image")


def truncated(path):
    path.write_bytes(next((XRAYS / "test").glob("*.jpeg")).read_bytes()[:3000])


def directory(path):
    path.mkdir()


def missing(path):
    pass


def floats(path):
    Image.fromarray(np.ones((8, 8), np.float32)).save(path, format="TIFF")


def negative(path):
    Image.fromarray(np.full((8, 8), -5, np.int32)).save(path, format="TIFF")


def wide(path):
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(path, format="TIFF")


@pytest.mark.parametrize(
    "make, reason",
    [
        (empty, "empty"),
        (text, "no image"),
        (truncated, "truncated"),
        (directory, os.strerror(errno.EISDIR)),
        (missing, os.strerror(errno.ENOENT)),
        (floats, r"\bmode F\b"),
        (negative, r" -5 .* -5 .*\b16 bits\b"),
        (wide, r" 70000 .* 70000 .*\b16 bits\b"),
    ],
)
def test_bad_file_is_named_with_its_reason(tmp_path, make, reason):
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(ImageError) as error:
        read_image(path, 16)
    assert isinstance(error.value, UserError)
    assert re.search(rf"{path} .*\(.*{reason}.*\)", str(error.value))
    assert "\n" not in str(error.value)


def test_unreadable_permissions_are_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "a reason", str(path))

    monkeypatch.setattr(Image, "open", refuse)  # root, as tests often run, may read anything
    with pytest.raises(ImageError, match=f"{path} .*a reason"):
        read_image(path, 4)


@pytest.mark.parametrize("pixels", [4095, 2047])  # Pillow warns above its limit and raises above twice its limit
def test_decompression_bomb_is_refused_before_decoding_and_in_silence(tmp_path, monkeypatch, pixels):
    path = save(tmp_path / "a.bmp", np.zeros((64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:1100])  # header only: decoding would say truncated
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageError, match=rf"a\.bmp .*\b{pixels} pixels"):
            read_image(path, 4)
        with pytest.raises(ImageError, match=rf"a\.bmp .*\b{pixels} pixels"):
            read_images([path] * 20, 4)
    assert not caught


def test_a_tile_above_the_pixel_limit_is_rejected(tmp_path):
    path = tiff(tmp_path / "a.tif", "<", 8, 1, np.zeros((8, 8), np.uint8), (322, 2**15), (323, 2**15))
    with pytest.raises(ImageError, match=r"a\.tif .*pixels"):
        read_image(path, 8)


def test_a_file_too_large_for_an_image_is_rejected_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("fastsquid.data.opening.MAX_FILE_BYTES", 100)
    path = save(tmp_path / "a.png", GRADIENT)
    with pytest.raises(ImageError, match=r"a\.png .*100 are read"):
        read_image(path, 8)


def test_no_other_program_is_started_for_eps_named_png(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda command, **_: started.append(command))
    with pytest.raises(ImageError, match=r"eps_named\.png .*no image"):
        read_image(ATTACKS / "eps_named.png", 8)
    assert not started


def test_an_image_at_the_pixel_limit_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    assert read_image(save(tmp_path / "a.png", np.zeros((64, 64), np.uint8)), 4).shape == (4, 4)


def test_the_warning_filters_survive_reading_in_threads(tmp_path):
    path = save(tmp_path / "a.png", np.zeros((8, 8), np.uint8))
    before = list(warnings.filters)
    threads = [threading.Thread(target=read_images, args=([path] * 40, 4)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


# Many files


def test_read_images_keeps_the_order(tmp_path):
    paths = [save(tmp_path / f"{i}.png", np.full((8 + 40 * (i % 3), 8), i, np.uint8)) for i in range(50)]
    images, kept = read_images(paths[::-1], 8)
    assert images.dtype == torch.uint8 and images.shape == (50, 1, 8, 8)
    assert images[:, 0, 0, 0].tolist() == list(range(50))[::-1]
    assert kept == list(range(50))


def test_read_images_decodes_each_file_once(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"{i}.png", np.zeros((4, 4), np.uint8)) for i in range(5)]
    opened, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file, **_: opened.append(Path(file.name)) or original(file))
    read_images(paths, 4)
    assert sorted(opened) == paths


def test_read_images_raises_eight_bit_to_sixteen_exactly_where_depths_mix(tmp_path):
    paths = [save(tmp_path / "a.png", np.full((4, 4), 200, np.uint8)), save(tmp_path / "b.png", GRADIENT[:4, :4])]
    images, _ = read_images(paths, 4)
    assert images.dtype == torch.uint16
    assert (images[0].int() == 200 * 257).all()
    np.testing.assert_array_equal(images[1, 0].numpy(), GRADIENT[:4, :4])
    assert torch.equal(to_unit(images)[0], to_unit(read_images(paths[:1], 4)[0])[0])


def test_read_images_of_nothing_is_empty():
    images, kept = read_images([], 8)
    assert images.shape == (0, 1, 8, 8) and images.dtype == torch.uint8 and kept == []


def test_read_images_names_an_unreadable_file_or_skips_it(tmp_path):
    paths = [save(tmp_path / f"{i}.png", np.full((4, 4), i, np.uint8)) for i in range(3)]
    text(paths[1])
    with pytest.raises(ImageError, match=r"1\.png .*--skip-unreadable"):
        read_images(paths, 4)
    images, kept = read_images(paths, 4, skip_unreadable=True)
    assert kept == [0, 2] and images[:, 0, 0, 0].tolist() == [0, 2]


@pytest.mark.parametrize("dtype, top", [(torch.uint8, 255), (torch.uint16, 65535)])
def test_to_unit(dtype, top):
    unit = to_unit(torch.tensor([0, 1, top // 5, top], dtype=torch.int32).to(dtype).view(4, 1, 1, 1))
    assert unit.dtype == torch.float32 and unit.shape == (4, 1, 1, 1)
    torch.testing.assert_close(unit.flatten(), torch.tensor([0, 1 / top, 0.2, 1]))
    assert unit[0] == 0 and unit[3] == 1


# Finding files


def test_find_images_is_recursive_sorted_and_skips_what_is_hidden_or_no_image(tmp_path):
    for name in ["b/2.PNG", "b/10.jpeg", "a.Tif", "B.jpg", ".hidden.png", "notes.txt", "b/.git/x.png", "__X/._a.jpeg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["B.jpg", "a.Tif", "b/10.jpeg", "b/2.PNG"]


def test_find_images_names_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        find_images(tmp_path / "nowhere")


@pytest.mark.parametrize("module", ["fastsquid.data", "augment", "framing", "images", "names"])
def test_examples_in_docstrings(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = module if "." in module else f"fastsquid.data.{module}"
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted and not done.failed
