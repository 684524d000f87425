"""The exposed field: synthetic borders around real X-rays are found, bodies are not cut, all doors crop alike."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import XRAYS, rewrite_run, rows_of
from dicom_files import write
from PIL import Image, ImageDraw, ImageFont

import fastsquid
from fastsquid import score, train
from fastsquid.data import ImageError, find_images, open_data, read_image
from fastsquid.data.framing import exposed_field
from fastsquid.data.images import convert_array, convert_image
from fastsquid.errors import UserError
from fastsquid.exporting import portable


def gray(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


FILES = find_images(XRAYS)
XRAY = gray(FILES[0])


def xrays():
    return [image for image in map(gray, FILES) if image.shape == (224, 224)]


def bordered(image, share, kind, rng):
    """An image (H, W) with a border of a share of its side per edge, and how wide that is at each edge."""
    edge = round(share * len(image))
    widths = (0, 0, edge, 0) if kind == "one-sided" else (edge,) * 4
    around = (widths[:2], widths[2:])
    framed = np.pad(image, around, constant_values=255 if kind == "white" else 0)
    if kind == "noise":
        outside = np.pad(np.zeros_like(image), around, constant_values=1) == 1
        framed[outside] = np.abs(rng.normal(0, 4, outside.sum()))
    if kind == "line":
        framed[edge - 2 : 2 - edge, edge - 2 : 2 - edge] = 240
        framed[edge:-edge, edge:-edge] = image
    if kind == "framed":
        framed, widths = np.pad(framed, 9, constant_values=255), (edge + 9,) * 4
    picture = Image.fromarray(framed)
    if kind == "marker":
        font = ImageFont.load_default(size=edge // 2)
        ImageDraw.Draw(picture).text((edge // 4, len(framed) // 3), "R", fill=255, font=font)
        ImageDraw.Draw(picture).text((len(framed) // 2, edge // 8), "L AP", fill=255, font=font)
    return picture, widths


@pytest.mark.parametrize("quality", [None, 75])
@pytest.mark.parametrize("kind", ["black", "white", "noise", "one-sided", "line", "framed", "marker"])
def test_borders_are_found_to_the_pixel(kind, quality):
    """The field of a bordered image is that of the image; what is off is where air beside the body is nearly black."""
    rng = np.random.default_rng(0)
    off = []
    for image in xrays():
        own = exposed_field(image)
        for share in (0.05, 0.1, 0.2) if kind != "marker" else (0.1, 0.2):
            picture, (top, _, left, _) = bordered(image, share, kind, rng)
            if quality:
                file = io.BytesIO()
                picture.save(file, "JPEG", quality=quality)
                picture = Image.open(file)
            found = exposed_field(np.asarray(picture))
            off.append(max(abs(a - b - c) for a, b, c in zip(found, own, (top, top, left, left))))
    assert np.mean(np.array(off) > 2) <= 0.05 and max(off) <= 12


def test_images_without_a_border_stay_nearly_whole():
    for image in xrays():
        top, bottom, left, right = exposed_field(image)
        assert top == 0 and bottom == 224 and left <= 16 and right >= 208


def test_what_must_not_be_cut():
    whole = (0, 224, 0, 224)
    half, other_half, lower = XRAY.copy(), XRAY.copy(), XRAY.copy()
    half[:, :112], other_half[:, 112:], lower[112:] = 0, 255, 0
    for image in (half, other_half, lower, XRAY * 0, XRAY * 0 + 255, np.pad(XRAY, 230)):
        assert exposed_field(image) == (0, image.shape[0], 0, image.shape[1])
    own = exposed_field(XRAY)
    dark, pale = XRAY // 16, 239 + XRAY // 16  # underexposed, and overexposed
    for image in (dark, pale):
        assert np.abs(np.subtract(exposed_field(image), own)).max() <= 2
    noise = np.random.default_rng(0).normal(size=(224, 224))
    assert exposed_field(noise) == exposed_field(noise.astype(np.float32)) == whole
    # A gradual change of brightness is not one border after the other: at most the first two steps of 8 % of the range.
    top, bottom, left, right = exposed_field(np.tile(np.arange(200.0), (100, 1)))
    assert (top, bottom) == (0, 100) and left <= 32 and right >= 168
    for shape in ((1, 1), (1, 7), (2, 2), (3, 300)):
        assert exposed_field(np.zeros(shape, np.uint8)) == (0, shape[0], 0, shape[1])


def test_the_depth_decides_nothing():
    for image in xrays():
        image = np.pad(image, 20)
        own = exposed_field(image)
        for same in (
            image / 255,
            image.astype(np.float32) / 255,
            image.astype(np.uint16) * 257,
            image * np.float32(255),
        ):
            assert exposed_field(same) == own
        assert exposed_field(image[::-1, ::-1])[0::2] == (len(image) - own[1], len(image) - own[3])
        assert exposed_field(image.T) == (*own[2:], *own[:2])


def test_padding_far_above_the_image():
    """12 bits in a file of 16, with a border of the highest value."""
    image = np.pad(XRAY.astype(np.uint16) * 16, 30, constant_values=65535)
    assert exposed_field(image) == tuple(30 + np.array(exposed_field(XRAY)))


# All doors


@pytest.fixture(scope="module")
def crop_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("crop") / "run"
    # After one epoch the discriminator gives every reconstruction nearly the same logit: `combined` would be rounding.
    options = (
        "--width 4 --slots 8 --discriminator-width 16 --epochs 1 --monitor true --device cpu --score patch_residual"
    )
    train.main(["--data", str(XRAYS), "--preset", "fastsquid-small", *options.split(), "--out", str(run)])
    return run


def test_all_doors_see_the_same_pixels(crop_run, tmp_path, command):
    """A bordered X-ray of 8 and of 16 bits, as a file, DICOM, a PIL image, an array, in a shard and in a folder."""
    run = fastsquid.load(crop_run, device="cpu")
    assert run.crop
    for depth, bits in ((np.uint8, 8), (np.uint16, 16)):
        pixels = np.pad(XRAY, ((40, 20), (30, 50))).astype(depth) * (1 if bits == 8 else 257)
        folder = tmp_path / str(bits)
        png, dicom = folder / "a.png", folder / "b.dcm"
        write(dicom, pixels, bits)
        Image.fromarray(pixels).save(png)
        top, bottom, left, right = exposed_field(pixels)
        assert 38 <= top <= 40 and right <= 254
        inner = folder.with_name(f"inner{bits}.png")
        Image.fromarray(pixels[top:bottom, left:right].copy()).save(inner)
        expected = read_image(inner, 64)
        assert np.abs(read_image(png, 64).astype(int) - expected).max() > pixels.max() // 25
        for found in (
            read_image(png, 64, crop=True),
            convert_image(Image.open(png), 64, crop=True),
            convert_array(pixels, 64, crop=True),
            open_data(folder, 64, crop=True)["train"].images[0, 0].numpy(),
        ):
            np.testing.assert_array_equal(found, expected)
        floats = convert_array(pixels / np.iinfo(depth).max, 64, crop=True)
        assert np.abs(floats - expected / np.iinfo(depth).max).max() <= 1.01 / np.iinfo(depth).max
        # What DICOM shows is rounded once, not after rows and columns.
        assert np.abs(read_image(dicom, 64, crop=True).astype(int) - expected.astype(int)).max() <= 1
        scores = [run.score(image) for image in (png, Image.open(png), pixels, torch.from_numpy(pixels))]
        np.testing.assert_array_equal(scores, [scores[0]] * 4)
        np.testing.assert_array_equal(run.scores(expected, cropped=True)[run.score_name], scores[0])
        code, _, err = command(
            score.main, crop_run, png, dicom, "--out", tmp_path / "scores.csv", "--overwrite", "--device", "cpu"
        )
        assert code == 0, err
        assert [float(row["score"]) for row in rows_of(tmp_path / "scores.csv")][0] == pytest.approx(
            float(scores[0][0]), abs=1e-5
        )
        assert run.score(dicom) == pytest.approx(scores[0], abs=2e-2)


def test_the_exported_document_says_how_to_crop(crop_run):
    document = portable.describe(fastsquid.load(crop_run, device="cpu"))
    assert document["crop"] is True
    for number in ("80%", "8%", "1st to 99th", "97%", "4 times", "16%", "24%", "more than a third"):
        assert number in document["crop_rule"]


def test_training_reads_cropped_images(crop_run, tmp_path, command):
    config = json.loads((crop_run / "config.json").read_text())
    assert config["config"]["crop"] is True
    data = open_data(XRAYS, 64, crop=True)
    plain = open_data(XRAYS, 64)
    assert not all(torch.equal(data[name].images, plain[name].images) for name in data)
    # The fingerprint covers the cropped images. A resumed run needs the same crop.
    code, _, err = command(train.main, "--resume", crop_run, "--device", "cpu")
    assert code == 0, err
    other = shutil.copytree(crop_run, tmp_path / "other")
    rewrite_run(other, lambda record, _: record.update(fingerprint="0"))
    code, _, err = command(train.main, "--resume", other, "--device", "cpu")
    assert code == 2 and str(XRAYS) in err and str(other) in err


def test_shards_are_cropped_alike(tmp_path):
    pytest.importorskip("webdataset")
    import tarfile

    path = tmp_path / "a.png"
    Image.fromarray(np.pad(XRAY, 40)).save(path)
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "train-000000.tar", "w") as archive:
        archive.add(path, "a.png")
    shard = open_data(tmp_path / "shards", 64, crop=True)["train"].images[0, 0].numpy()
    np.testing.assert_array_equal(shard, read_image(path, 64, crop=True))


def test_digits_have_no_field():
    with pytest.raises(UserError, match="crop = True .*DigitAnatomy"):
        open_data(None, 48, crop=True)


def test_an_unreadable_file_is_still_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        read_image(tmp_path / "a.png", 64, crop=True)
