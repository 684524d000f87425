"""The input check: which images it flags, its numbers against their definition, and what every command says of it."""

import doctest
import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import XRAYS, rows_of
from PIL import Image
from sklearn.covariance import LedoitWolf

import fastsquid
from fastsquid import evaluate, report, score, train
from fastsquid.data import open_data
from fastsquid.errors import UserError
from fastsquid.runs.folder import INPUT_CHECK
from fastsquid.runs.input_check import read_check, save_check
from fastsquid.scoring import input_check
from fastsquid.scoring.input_check import fit_check

TURNS = {
    "upside-down": lambda images: images.flip(2),
    "turned by 180 degrees": lambda images: images.flip(2, 3),
    "turned left": lambda images: images.rot90(1, (2, 3)),
    "turned right": lambda images: images.rot90(-1, (2, 3)),
    "inverted": lambda images: 255 - images,
}


@pytest.fixture(scope="module")
def data():
    return open_data(XRAYS, 64)


@pytest.fixture(scope="module")
def digits():
    return open_data(None, 64)


@pytest.fixture(scope="module")
def check(data):
    return fit_check(data["train"].images)


@pytest.fixture(scope="module")
def unseen(data):
    return torch.cat([data["val"].images, data["test"].images])


@pytest.fixture
def run(unbroken, tmp_path):
    """A copy of a run of X-rays."""
    return shutil.copytree(unbroken, tmp_path / "run")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder with an X-ray, the same upside-down, a blank image, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images") / "mixed"
    folder.mkdir()
    with Image.open(XRAYS / "test" / "0000.jpeg") as image:
        image.save(folder / "a.png")
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "b.png")
        Image.new("L", image.size, 128).save(folder / "c.png")
    (folder / "d.png").touch()
    return folder


# What it flags


def test_xrays_that_were_not_trained_on_pass(check, unseen):
    assert (check.ratios(unseen) <= 1).all()


@pytest.mark.parametrize("gamma", [0.8, 1.25])
def test_other_exposures_pass(check, unseen, gamma):
    assert (check.ratios((unseen / 255) ** gamma) <= 1).all()


@pytest.mark.parametrize("cut", [2, 3, 5])
def test_crops_pass(check, unseen, cut):
    """Most of them: eight training images are few."""
    assert (check.ratios(unseen[..., cut:-cut, cut:-cut]) <= 1).double().mean() >= 0.9


@pytest.mark.parametrize("turn", TURNS)
def test_wrong_positions_and_polarities_are_flagged(check, unseen, turn):
    assert (check.ratios(TURNS[turn](unseen)) > 1).all()


def test_what_is_no_xray_is_flagged(check, digits):
    noise = torch.rand(20, 1, 64, 64)
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    for images in (digits["val"].images, noise, ramp):
        assert (check.ratios(images) > 1).all()


def test_digits_are_not_xrays_and_the_reverse(digits, unseen):
    check = fit_check(digits["train"].images)
    assert (check.ratios(unseen) > 1).all()
    normal = digits["test"].images[digits["test"].labels == 0]
    assert (check.ratios(normal) <= 1).all() and (check.ratios(normal.flip(2)) > 1).all()


# Its numbers


def thumbnails(images):
    """Standardized 8 x 8 block means of images (N, 1, 64, 64), by NumPy: (N, 64)."""
    blocks = images.double().numpy().reshape(len(images), 8, 8, 8, 8).mean((2, 4)).reshape(len(images), 64)
    blocks -= blocks.mean(1, keepdims=True)
    return blocks / np.linalg.norm(blocks, axis=1, keepdims=True)


def mahalanobis(framed, images):
    """Distances of images from images in every frame, by scikit-learn."""
    model = LedoitWolf().fit(np.concatenate([thumbnails(images) for images in framed]))
    return np.sqrt(model.mahalanobis(thumbnails(images)))


def test_ratios_are_their_definition(check, data, unseen):
    frames = [input_check.reframe(data["train"].images, *frame) for frame in input_check.FRAMES]
    halves = [[images[start::2] for images in frames] for start in (0, 1)]
    held_out = [mahalanobis(a, torch.cat(b)) for a, b in (halves, halves[::-1])]
    threshold = 1.1 * np.quantile(np.concatenate(held_out), 0.999)
    assert check.threshold == pytest.approx(threshold, rel=1e-4)
    own = mahalanobis(frames, unseen)
    turned = [mahalanobis(frames, turn(unseen)) for turn in TURNS.values()]
    turned += [mahalanobis(frames, images) for images in (unseen.mT, unseen.flip(2, 3).mT)]
    expected = np.maximum(own / threshold, own / np.min(turned, axis=0))
    np.testing.assert_allclose(check.ratios(unseen), expected, rtol=1e-4)


def test_a_frame_crops_pads_turns_and_mirrors():
    square = torch.zeros(1, 1, 60, 60, dtype=torch.uint8)
    square[..., 15:45, 20:50] = 255  # right of the middle by 5
    x = torch.arange(60).float() + 0.5

    def extent(*frame):
        image = input_check.reframe(square, *frame)[0, 0]
        return [round(value.item()) for value in (image.sum() ** 0.5, (image.sum(0) * x).sum() / image.sum())]

    assert extent(1, 0, False) == [30, 35] and extent(1, 0, True) == [30, 25]
    assert extent(1.4, 0, False) == [42, 37] and extent(1 / 1.2, 0, False) == [25, 34]
    assert extent(1, 10, False) == [30, 35]


def test_ratios_depend_neither_on_batch_nor_depth_nor_contrast(check, unseen):
    ratios = check.ratios(unseen)
    alone = torch.cat([check.ratios(image[None]) for image in unseen])
    np.testing.assert_allclose(alone, ratios, rtol=1e-12)
    deep = (unseen.to(torch.int32) * 257).to(torch.uint16)
    np.testing.assert_allclose(check.ratios(deep), ratios, rtol=1e-6)
    np.testing.assert_allclose(check.ratios(0.2 + 0.5 * unseen.float() / 255), ratios, rtol=1e-4)


def test_an_image_without_contrast_has_the_largest_ratio(check):
    for value in (0, 0.3, 1):
        assert check.ratios(torch.full((2, 1, 64, 64), value)).tolist() == [99, 99]


@pytest.mark.parametrize("images", [torch.zeros(5, 1, 64, 64), torch.rand(1, 1, 8, 8), torch.rand(2, 1, 20, 20)])
def test_any_training_images_give_finite_ratios(images, unseen):
    assert torch.isfinite(fit_check(images).ratios(unseen)).all()


def test_large_training_sets_are_thinned(monkeypatch):
    images = torch.rand(9, 1, 16, 16)
    expected = fit_check(images[::3])
    monkeypatch.setattr(input_check, "MOST", 4)
    assert fit_check(images).threshold == expected.threshold


# Where it is kept


def test_a_saved_check_is_the_same(check, unseen, tmp_path):
    save_check(tmp_path, check)
    assert torch.equal(read_check(tmp_path).ratios(unseen), check.ratios(unseen))
    assert (tmp_path / INPUT_CHECK).stat().st_size < 35_000  # 64 x 64 numbers, and no image


@pytest.mark.parametrize("content", [b"", b"no tensors at all", "another"])
def test_a_damaged_check_is_rejected(run, content):
    path = run / INPUT_CHECK
    path.write_bytes((run / "maps.safetensors").read_bytes() if content == "another" else content)
    with pytest.raises(UserError, match=rf"{path} .*python -m fastsquid\.train --resume {run} "):
        fastsquid.load(run)


def test_a_run_of_an_earlier_version(run, tmp_path, command, mixed):
    before = (run / INPUT_CHECK).read_bytes()
    (run / INPUT_CHECK).unlink()
    code, out, err = command(score.main, run, mixed, "--out", tmp_path / "s.csv")
    assert code == 1 and "unlike" not in out
    assert re.search(rf"\bunlike_training\b.* {run} .*--resume {run}\b", err)
    assert [row["unlike_training"] for row in rows_of(tmp_path / "s.csv")] == [""] * 4
    with pytest.raises(UserError, match=f"{run} .*input check.* --resume {run}"):
        fastsquid.load(run).unlike_training(mixed / "a.png")
    code, _, err = command(report.main, run, XRAYS / "val", "--out", tmp_path / "r.html")
    assert code == 0 and "unlike" not in err and '"unlike":null' in (tmp_path / "r.html").read_text()
    assert command(train.main, "--resume", run)[0] == 0
    assert (run / INPUT_CHECK).read_bytes() == before


def test_a_trained_estimator_has_one(unseen):
    images = torch.rand(6, 16, 16).numpy()
    detector = fastsquid.AnomalyDetector(epochs=1, config={"width": 4, "slots": 8}, device="cpu").fit(images)
    expected = fit_check(torch.from_numpy(images)[:, None])
    assert detector.scorer_.input_check.threshold == pytest.approx(expected.threshold, rel=0.5)  # of other pixels
    assert (detector.scorer_.unlike_training(np.zeros((1, 9, 9))) == 99).all()


# What is said


def test_the_example_of_the_docstring(unbroken):
    (example,) = doctest.DocTestFinder().find(
        fastsquid.api.Scorer.unlike_training,
        "unlike_training",
        globs={"load": fastsquid.load, "RUN": unbroken, "np": np},
    )
    assert doctest.DocTestRunner().run(example) == (0, 2)


def test_score_says_how_many_and_which(unbroken, mixed, tmp_path, command):
    out = tmp_path / "s.csv"
    code, said, _ = command(score.main, unbroken, mixed, "--out", out, "--device", "cpu")
    rows = rows_of(out)
    assert code == 1 and list(rows[0])[4:6] == ["unlike_training", "error"]
    assert re.match(r"2 of 3 images .*\bunlike_training\b.* 1\): ", said.splitlines()[-1])
    ratios = [row["unlike_training"] for row in rows]
    assert float(ratios[0]) <= 1 < float(ratios[1]) and ratios[2:] == ["99", ""]
    files = [mixed / row["name"] for row in rows[:3]]
    expected = fastsquid.load(unbroken, device="cpu").unlike_training(files)
    np.testing.assert_allclose(list(map(float, ratios[:3])), expected, rtol=1e-3)
    _, said, _ = command(score.main, unbroken, XRAYS / "test", "--out", out, "--overwrite", "--device", "cpu")
    assert re.match(r"0 of 4 images .*\bunlike_training\b", said.splitlines()[-1])


def test_a_run_of_digits_says_that_xrays_are_none(run, digits, tmp_path, command):
    save_check(run, fit_check(digits["train"].images))
    _, said, _ = command(score.main, run, XRAYS, "--out", tmp_path / "s.csv")
    assert re.search(r"^20 of 20 images .*\bunlike_training\b", said, re.M)


def test_evaluate_warns_in_one_line(unbroken, tmp_path, command):
    turned = shutil.copytree(XRAYS / "val", tmp_path / "data" / "val")
    _, _, err = command(evaluate.main, unbroken, "--data", turned.parent, "--out", tmp_path)
    assert "unlike" not in err
    path = next(turned.glob("NORMAL/*"))
    with Image.open(path) as image:
        image.rotate(90).save(path)
    _, _, err = command(evaluate.main, unbroken, "--data", turned.parent, "--out", tmp_path, "--overwrite")
    assert re.fullmatch("warning: 1 of 6 images .*unlike.*\n", err)


def test_the_report_has_what_score_writes(unbroken, mixed, tmp_path, command):
    command(score.main, unbroken, mixed, "--out", tmp_path / "s.csv", "--device", "cpu")
    _, _, err = command(report.main, unbroken, mixed, "--out", tmp_path / "r.html", "--device", "cpu")
    assert re.search("^warning: 2 of 3 images .*unlike", err, re.M)
    text = (tmp_path / "r.html").read_text()
    data = json.loads(text.partition('<script id="data" type="application/json">')[2].partition("</script>")[0])
    rows = rows_of(tmp_path / "s.csv")
    assert data["names"] == [row["name"] for row in rows] and data["unlike_note"].startswith("2 of 3 images")
    assert data["unlike"] == [float(row["unlike_training"]) if row["unlike_training"] else None for row in rows]
