import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY, XRAYS
from PIL import Image, ImageOps

from fastsquid import train
from fastsquid.data import duplicates, open_data
from fastsquid.data.duplicates import BITS, CORRELATION, RADIUS, find_copies, perceptual_hashes, warn_of_copies
from fastsquid.data.images import convert_image
from fastsquid.data.split import Split

PATHS = sorted(XRAYS.rglob("*.jpeg"))


def pictures():
    return [Image.open(path).convert("L") for path in PATHS]


def jpeg(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=50)
    return Image.open(file)


def half_and_back(picture):
    return picture.resize((picture.width // 2, picture.height // 2)).resize(picture.size)


def brighter(picture):
    return Image.fromarray(np.minimum(np.asarray(picture, np.uint16) + 2, 255).astype(np.uint8))


def sixteen_bits(picture):
    """16 bits whose lower half is not the upper one, so that no pixel need be equal."""
    gray = np.minimum(np.asarray(picture, np.uint16), 254) * 257
    return Image.fromarray(gray + np.arange(gray.size, dtype=np.uint16).reshape(gray.shape) % 200)


def lanczos(picture):
    return picture.resize((150, 170), Image.Resampling.LANCZOS)


def split_of(some, letter, size=64):
    images = torch.from_numpy(np.stack([convert_image(picture, size) for picture in some])[:, None])
    return Split(images, None, [f"{letter}{i}" for i in range(len(some))])


def flat(*values):
    return [Image.new("L", (80, 80), value) for value in values]


def messages(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def found(data):
    return [(one.here, one.there, one.exact, one.near) for one in find_copies(data)]


def test_shared_images_are_counted_and_named(tmp_path, caplog):
    for name, value in {
        "train/NORMAL/a": 1,
        "train/NORMAL/b": 2,
        "train/NORMAL/c": 3,
        "test/d": 9,
        "test/e": 2,
    }.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), value).save(path)
    Image.new("L", (8, 8), 3).save(tmp_path / "test" / "f.bmp")
    data = open_data(tmp_path, size=8)
    warn_of_copies(data)
    ((level, text),) = messages(caplog)
    assert level == "WARNING" and "2 of 3 " in text and "e.png and NORMAL/b.png" in text and "near" not in text
    caplog.clear()
    data["test"].images = data["test"].images.to(torch.uint16) * 257  # as if another file had 16 bits
    warn_of_copies(data)
    assert [text for _, text in messages(caplog)] == [text]


@pytest.mark.parametrize("size", [16, 64, 128])
@pytest.mark.parametrize("change", [jpeg, half_and_back, brighter, sixteen_bits, lanczos])
def test_near_duplicates_are_counted_and_named(change, size, caplog):
    xrays = pictures()
    data = {"train": split_of(xrays[:8], "a", size), "val": split_of(xrays[8:12], "b", size)}
    data["test"] = split_of([change(picture) for picture in [*xrays[14:], *xrays[1:4]]], "c", size)
    copies = [(f"a{i}", f"c{len(PATHS) - 14 + i - 1}") for i in (1, 2, 3)]
    assert found(data) == [("test", "train", [], copies)]
    warn_of_copies(data)
    ((level, text),) = messages(caplog)
    count = len(data["test"])
    assert level == "WARNING" and f"3 of {count} images of test are near duplicates of images of train" in text
    assert f"such as {copies[0][1]} and {copies[0][0]}:" in text


@pytest.mark.parametrize("size", [16, 32, 128])
def test_different_x_rays_are_no_copies(size):
    """Among them two of the same patient."""
    patients = [path.name.split("_")[0] for path in PATHS]
    assert len(set(patients)) < len(patients)
    data = {"val": split_of(pictures()[::2], "a", size), "test": split_of(pictures()[1::2], "b", size)}
    assert found(data) == []
    assert found({"val": split_of(pictures(), "a", size)}) == []


@pytest.mark.parametrize("size", [16, 48])
def test_digit_anatomy_has_no_copies(size):
    assert found(open_data(size=size)) == []


def test_each_image_counts_once():
    xray, other = pictures()[:2]
    data = {
        "train": split_of([xray, xray], "a"),
        "val": split_of([jpeg(xray), other], "b"),
        "test": split_of([jpeg(xray), other, jpeg(other), xray], "c"),
    }
    assert found(data) == [
        ("val", "train", [], [("a0", "b0")]),
        ("test", "train", [("a0", "c3")], [("a0", "c0")]),
        ("test", "val", [("b1", "c1")], [("b1", "c2")]),
    ]


def test_copies_in_one_split(caplog):
    """Copies within train are not reported. Those within test are reported at level INFO, without a warning."""
    caplog.set_level("INFO")
    xrays = pictures()
    twice = [*xrays[:3], jpeg(xrays[0]), xrays[1], xrays[1]]
    assert find_copies({"train": split_of(twice, "a")}) == []
    warn_of_copies({"test": split_of(twice, "c")})
    ((level, text),) = messages(caplog)
    assert level == "INFO" and "3 of 6 images of test" in text and "2 pixel by pixel" in text and "c4 and c1" in text


def test_images_without_contrast_have_no_near_duplicates():
    """Equal ones are still found, by their pixels."""
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 2, (80, 80)).astype(np.uint8)) for _ in range(2)]
    data = {
        "train": split_of([*flat(0, 7, 7), noise[0], *pictures()[:2]], "a"),
        "val": split_of([*flat(0, 1, 255), noise[1], pictures()[2]], "b"),
    }
    assert found(data) == [("val", "train", [("a0", "b0")], [])]
    assert not perceptual_hashes(split_of(flat(0, 7), "a").images).any()


def test_hash_and_pixels_must_agree():
    """An equalized X-ray may have a similar hash. X-rays under one strong shade correlate. Neither are copies."""
    xrays = pictures()
    first, second = (split_of([change(xrays[0])], "a") for change in (lambda picture: picture, ImageOps.equalize))
    hashes, small = (
        torch.cat([function(one.images) for one in (first, second)])
        for function in (perceptual_hashes, duplicates.thumbnails)
    )
    assert (hashes[0] != hashes[1]).sum() <= RADIUS and small[0] @ small[1] < CORRELATION
    assert found({"val": first, "test": second}) == []

    shade = Image.linear_gradient("L").resize(xrays[0].size)
    shaded = split_of([Image.blend(shade, picture, 0.12) for picture in xrays], "a")
    small = duplicates.thumbnails(shaded.images)
    assert (small @ small.T >= CORRELATION).all()
    assert found({"test": shaded}) == []


def test_hashes():
    """They have as many bits above the median as below, and a bit per low frequency: its sign, where it is alone."""
    hashes = perceptual_hashes(split_of(pictures(), "a").images)
    assert hashes.shape == (len(PATHS), BITS) and hashes.unique().tolist() == [-1, 1]
    assert (hashes.sum(1) == 0).all()
    waves = np.cos(np.pi * np.arange(3) * (np.arange(64)[:, None] + 0.5) / 64)
    image = 128 + 50 * waves[:, 2] * waves[:, 1, None]  # frequency 1 down, 2 across
    (strong,) = perceptual_hashes(split_of([Image.fromarray(image.round().astype(np.uint8))], "a").images)
    (weak,) = perceptual_hashes(split_of([Image.fromarray((255 - image).round().astype(np.uint8))], "a").images)
    assert strong.view(16, 16)[1, 2] == 1 and weak.view(16, 16)[1, 2] == -1


def test_blocks_change_nothing(monkeypatch):
    xrays = pictures()
    data = {
        "train": split_of([*xrays, *xrays[5:7]], "a"),  # of two equal images, the first counts
        "val": split_of([jpeg(picture) for picture in xrays[5:]], "b"),
        "test": split_of([*xrays[:4], *map(lanczos, xrays[2:4]), *map(half_and_back, xrays[:2])], "c"),
    }
    alone = {"test": data["test"]}
    expected = found(data), found(alone)
    assert len(expected[0][0][3]) == len(xrays) - 5 and len(expected[1][0][3]) == 4
    for name, size in (("_BATCH", 2), ("_ROWS", 3), ("_COLUMNS", 2)):
        monkeypatch.setattr(duplicates, name, size)
    assert (found(data), found(alone)) == expected


def test_a_run_records_them(tmp_path, command, unbroken):
    assert json.loads((unbroken / "config.json").read_text())["copies"] == {}
    xrays = shutil.copytree(XRAYS, tmp_path / "xrays")
    healthy = sorted((xrays / "train" / "NORMAL").iterdir())
    shutil.copy(healthy[0], xrays / "val" / "NORMAL" / "again.jpeg")
    with Image.open(healthy[1]) as picture:
        jpeg(picture.convert("L")).save(xrays / "test" / "again.png")
    shutil.copy(xrays / "test" / "0000.jpeg", xrays / "test" / "twice.jpeg")
    code, _, err = command(train.main, *TINY, "--data", xrays, "--epochs", 1, "--out", tmp_path / "run")
    assert code == 0 and f"such as again.png and NORMAL/{healthy[1].name}" in err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["copies"] == {
        "val": {"train": {"exact": 1, "near": 0}},
        "test": {"train": {"exact": 0, "near": 1}, "test": {"exact": 1, "near": 0}},
    }
