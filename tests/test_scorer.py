"""The door from Python: every number against its definition, every kind of image, what is refused, other runs."""

import copy
import csv
import doctest
import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import XRAYS, rewrite_run, tiny
from PIL import Image

import fastsquid
from fastsquid import api, score, train
from fastsquid.api import Scorer, unit_batches
from fastsquid.config import preset
from fastsquid.data import find_images, open_data, read_image, to_unit
from fastsquid.errors import UserError
from fastsquid.model.detector import Detector
from fastsquid.runs import checkpoint
from fastsquid.runs.trained import TrainedDetector, load_run
from fastsquid.scoring.maps import calibrate_maps, forward_maps

SCORES = preset("squid").scores

PATHS = sorted((XRAYS / "test").iterdir())
SQUARES = np.stack([read_image(path, 64) for path in PATHS])  # uint8 (4, 64, 64)


@pytest.fixture(scope="module")
def run(unbroken):
    return fastsquid.load(unbroken, device="cpu")


@pytest.fixture(scope="module")
def data():
    return open_data(XRAYS, 64)


@pytest.fixture
def copied(unbroken, tmp_path):
    return shutil.copytree(unbroken, tmp_path / "run")


# What the numbers are


def test_scores_are_their_definition(run, unbroken):
    detector = load_run(unbroken).detector
    images = torch.tensor(SQUARES[:, None] / 255, dtype=torch.float32)
    with torch.no_grad():
        out = detector.generator(images)  # squid's value range is [0, 1]
        logits = detector.discriminator(out.student, norm="image")
        running = detector.discriminator(out.student)
    scores = run.scores(PATHS)
    assert tuple(scores) == run.score_names == SCORES and run.score_name == "discriminator"
    assert all(values.shape == (4,) and values.dtype == np.float32 for values in scores.values())
    np.testing.assert_allclose(scores["discriminator"], -logits, atol=1e-5)
    np.testing.assert_allclose(scores["discriminator_running"], -running, atol=1e-5)
    np.testing.assert_allclose(scores["residual"], (out.student - images).square().mean((1, 2, 3)), atol=1e-6)
    np.testing.assert_array_equal(run.score(PATHS), scores["discriminator"])
    drawn = run.reconstruct(PATHS)
    assert drawn.shape == (4, 64, 64) and drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, out.student[:, 0], atol=1e-6)


@pytest.mark.parametrize("kind", ["residual", "memory_distance"])
def test_heatmaps_are_in_deviations_of_training_images(run, unbroken, data, kind):
    detector = load_run(unbroken).detector
    normal = forward_maps(detector, to_unit(data["train"].images))[kind].double().numpy()
    raw = forward_maps(detector, to_unit(data["test"].images))[kind].double().numpy()
    deviation = normal.std(0)
    expected = (raw - normal.mean(0)) / np.maximum(deviation, deviation.mean())
    heat = run.heatmap(PATHS, kind)
    assert heat.shape == (4, 64, 64) and heat.dtype == np.float32
    np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=1e-3)
    if kind == "residual":
        np.testing.assert_array_equal(run.heatmap(PATHS), heat)


@pytest.mark.parametrize("fast, name", [(False, "combined"), (True, "discriminator_image")])
def test_the_map_of_a_score_of_cells(data, fast, name):
    """The map of the score is what the discriminator says of its cells; the residual can be asked for."""
    torch.manual_seed(0)
    detector = Detector(preset("fastsquid-small", width=4, slots=8, crop=False)).eval().frozen()
    scorer = Scorer(
        TrainedDetector(detector, None), calibrate_maps(detector, data["train"].images, maps=forward_maps), fast=fast
    )
    assert scorer.map_name == name
    heat = scorer.heatmap(PATHS)
    np.testing.assert_array_equal(heat, scorer.heatmap(PATHS, name))
    mean, deviation = (moment.numpy() for moment in scorer.normal_map())
    raw = forward_maps(detector, to_unit(data["test"].images))[name].numpy()
    np.testing.assert_allclose(heat, (raw - mean) / deviation, rtol=1e-3, atol=1e-3)
    scores, _, examined = scorer.examine(PATHS)
    np.testing.assert_allclose(examined, heat, atol=1e-4)
    assert tuple(scores) == tuple(scorer.scores(PATHS)) == scorer.score_names
    assert np.abs(scorer.heatmap(PATHS, "residual") - heat).max() > 0.1


def test_calibrated_is_the_papers_sigmoid(run, data):
    usual = run.score(data["train"].images).astype(np.float64)
    scores = run.score(PATHS).astype(np.float64)
    expected = 1 / (1 + np.exp(-(scores - usual.mean()) / usual.std()))
    np.testing.assert_allclose(run.calibrated(scores), expected, atol=1e-3)
    assert run.calibrated(run.score(PATHS)).dtype == np.float64


def test_percentiles_are_among_normal_validation_images(run, data):
    normal = np.sort(run.score(data["val"].images[data["val"].labels == 0]))
    np.testing.assert_allclose(run.percentile(normal), np.linspace(0, 100, len(normal)), atol=1e-2)
    np.testing.assert_allclose(run.percentile(np.percentile(normal, [12.5, 37, 80])), [12.5, 37, 80], atol=1e-2)
    assert run.percentile([normal[0] - 1, normal[-1] + 1]).tolist() == [0, 100]
    for quantiles in (values.quantiles for values in run.calibration.values()):
        assert len(quantiles) == 101


def test_the_command_writes_the_same_bits(run, unbroken, tmp_path, command):
    assert command(score.main, unbroken, XRAYS, "--out", tmp_path / "s.csv", "--device", "cpu", "--all-scores")[0] == 0
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = run.scores(find_images(XRAYS))
    for name, values in scores.items():
        np.testing.assert_array_equal(np.array([row[name] for row in rows], np.float32), values)
    np.testing.assert_array_equal(np.array([row["score"] for row in rows], np.float32), run.score(find_images(XRAYS)))
    shown = [float(row["percentile"]) for row in rows]
    np.testing.assert_allclose(run.percentile(scores["discriminator"]), shown, rtol=1e-3)


@pytest.mark.parametrize("name", SCORES)
def test_one_score_is_the_same_as_among_all(run, name):
    (alone,) = run.scores(SQUARES, names=[name]).values()
    np.testing.assert_array_equal(alone, run.scores(SQUARES)[name])
    np.testing.assert_array_equal(alone, run.scores(SQUARES, names=name)[name])
    with pytest.raises(UserError, match="names is empty"):
        run.scores(SQUARES, names=[])


def test_a_score_of_the_image_needs_no_generator(run, monkeypatch):
    expected = run.scores(SQUARES)["discriminator_image"]
    monkeypatch.setattr(run.detector.generator, "forward", None)
    np.testing.assert_array_equal(run.scores(SQUARES, names=["discriminator_image"])["discriminator_image"], expected)
    with pytest.raises(UserError, match="'combined': .*'discriminator_image'"):
        run.scores(SQUARES, names=["combined"])


def test_a_run_that_ranks_by_the_image_needs_no_generator():
    detector = Detector(preset("fastsquid-small", width=4, slots=8, score="discriminator_image")).eval().frozen()
    scorer = Scorer(TrainedDetector(detector, None), None)
    detector.generator.forward = None
    assert scorer.score(SQUARES).shape == (4,)


def test_combined_needs_its_two_parts_alone(monkeypatch):
    detector = Detector(preset("fastsquid-small", width=4, slots=8, discriminator_norm="batch")).eval().frozen()
    scorer = Scorer(TrainedDetector(detector, None), None)
    expected, norms = scorer.scores(SQUARES)["combined"], []
    forward = detector.discriminator.forward

    def judge(images, **options):
        norms.append(options.get("norm"))
        return forward(images, **options)

    monkeypatch.setattr(detector.discriminator, "forward", judge)
    np.testing.assert_array_equal(scorer.score(SQUARES), expected)
    assert norms == ["image"] * 2  # not the one of running statistics


def test_what_it_says_of_itself(run, unbroken):
    said = repr(run)
    for fact in (str(unbroken), "squid-small", "'discriminator'", "64", "(0,)", "'best'", "'cpu'"):
        assert fact in said
    detector = Detector(preset("auto-encoder-small", width=4)).eval().frozen()
    assert "seeds" not in repr(Scorer(TrainedDetector(detector, None), None))


def test_thresholds(run, unbroken):
    value, _ = run.thresholds[0]
    assert value == load_run(unbroken).validation["discriminator"]["threshold"] and len(run.thresholds) == 3
    image_only = fastsquid.load(unbroken, device="cpu", fast=True)
    assert image_only.thresholds[0][0] == load_run(unbroken).validation["discriminator_image"]["threshold"]


# Which images


def test_every_kind_of_image_gives_the_same(run, tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for path, square in zip(files, SQUARES):
        Image.fromarray(square).save(path)
    locked = SQUARES.copy()
    locked.flags.writeable = False
    deep = SQUARES.astype(np.uint16) * 257
    np.save(tmp_path / "squares.npy", SQUARES)
    kinds = {
        "paths": files,
        "names of paths": [str(path) for path in files],
        "PIL": [Image.fromarray(square) for square in SQUARES],
        "(N, 1, H, W)": SQUARES[:, None],
        "uint16": deep,
        "big-endian uint16": deep.astype(">u2"),
        "float32": (SQUARES / 255).astype(np.float32),
        "float64": SQUARES / 255,
        "big-endian float64": (SQUARES / 255).astype(">f8"),
        "read-only": locked,
        "memory-mapped": np.load(tmp_path / "squares.npy", mmap_mode="r"),
        "Fortran order": np.asfortranarray(SQUARES),
        "mirrored twice": np.ascontiguousarray(SQUARES[:, :, ::-1])[:, :, ::-1],
        "uint8 tensor": torch.from_numpy(SQUARES.copy()),
        "uint16 tensor": torch.from_numpy(deep.copy()),
        "float64 tensor with a gradient": torch.tensor(SQUARES / 255, requires_grad=True)[:, None],
        "a list of everything": [files[0], SQUARES[1], [Image.fromarray(SQUARES[2])], torch.tensor(SQUARES[3:] / 255)],
        "a generator": (square for square in SQUARES),
        "a folder": tmp_path,
        "bytes": [path.read_bytes() for path in files],
        "open files": [io.BytesIO(path.read_bytes()) for path in files],
    }
    expected = run.scores(SQUARES)
    for kind, images in kinds.items():
        for name, values in run.scores(images).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=kind)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors(run, dtype):
    images = torch.tensor(SQUARES / 255, dtype=dtype)
    np.testing.assert_array_equal(run.score(images), run.score(images.float().numpy()))


def test_images_are_not_changed(run):
    for images in (SQUARES / 255, SQUARES.astype(np.uint16), torch.tensor(SQUARES / 255, dtype=torch.float32)):
        before = copy.deepcopy(images)
        run.score(images), run.reconstruct(images), run.heatmap(images)
        assert (images == before).all()


def test_one_image(run):
    for image in (PATHS[0], str(PATHS[0]), SQUARES[0], SQUARES[:1], torch.tensor(SQUARES[0]), Image.open(PATHS[0])):
        assert run.score(image) == pytest.approx(run.score(PATHS)[:1], abs=1e-5)
    assert run.heatmap(PATHS[0]).shape == run.reconstruct(PATHS[0]).shape == (1, 64, 64)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_arrays_of_other_sizes_are_resized_as_files_are(dtype, tmp_path):
    image = np.random.default_rng(0).integers(np.iinfo(dtype).max + 1, size=(150, 201)).astype(dtype)
    Image.fromarray(image).save(tmp_path / "image.png")
    (of_file,), (of_array,) = unit_batches(tmp_path / "image.png", 64), unit_batches(image, 64)
    assert of_file.shape == (1, 1, 64, 64) and torch.equal(of_array, of_file)
    (of_floats,) = unit_batches(image / np.iinfo(dtype).max, 64)  # which are not rounded to so many bits
    # 8 bits are rounded after the rows and after the columns.
    assert 0 < (of_floats - of_file).abs().max() <= 1 / np.iinfo(dtype).max + 1e-6


def test_pil_images_are_read_as_their_files(tmp_path):
    with Image.open(PATHS[0]) as image:
        turned, grey = Image.Exif(), image.convert("L").crop((0, 0, 150, 90))
    turned[0x0112] = 6  # a quarter
    grey.save(tmp_path / "turned.jpeg", exif=turned)
    grey.convert("P").save(tmp_path / "palette.png")
    grey.convert("RGBA").save(tmp_path / "colour.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 200).save(tmp_path / "deep.png")
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as image:
            (of_image,), (of_file,) = unit_batches(image, 64), unit_batches(path, 64)
            assert torch.equal(of_image, of_file), path.name
            assert image.size == (150, 90) and (image.getexif().get(0x0112) == 6) == (path.name == "turned.jpeg")
    (upright,) = unit_batches(grey, 64)
    (of_turned,) = unit_batches(tmp_path / "turned.jpeg", 64)
    assert (of_turned - upright.rot90(-1, (2, 3))).abs().max() < 0.2 < (of_turned - upright).abs().max()


def test_of_an_iterable_only_a_batch_is_held(run, monkeypatch):
    drawn, batches, original = [], [], run.detector.scores

    def images():
        for square in np.concatenate([SQUARES, SQUARES]):
            drawn.append(1)
            yield square

    def scores(batch, **options):
        batches.append((len(drawn), len(batch)))
        return original(batch, **options)

    monkeypatch.setattr(run.detector, "scores", scores)
    assert run.score(images(), batch_size=3).shape == (8,)
    assert batches == [(3, 3), (6, 3), (8, 2)]


def test_batch_size_does_not_matter(run):
    one, all_of_them = run.scores(PATHS, batch_size=1), run.scores(PATHS, batch_size=np.int64(64))
    for name in one:
        np.testing.assert_allclose(one[name], all_of_them[name], atol=1e-5)
    np.testing.assert_allclose(run.heatmap(PATHS, batch_size=3), run.heatmap(PATHS), atol=1e-3)


GOOD, BAD = np.zeros((8, 8)), np.full((8, 8), 0.5)
REFUSED = {
    "NaN": ([GOOD, BAD * np.nan], r"^image 1\b.*\bfinite\b"),
    "infinite": (GOOD + np.inf, r"^image 0\b.*\bfinite\b"),
    "over 1": (torch.stack([torch.zeros(8, 8), torch.full((8, 8), 255.0)]), r"^image 1\b.* 255 to 255\b"),
    "just over 1": (BAD * 2.0000001, r"^image 0\b.* 1\.00000005 to 1\.00000005\b"),
    "negative": (BAD - 1, r"^image 0\b.* -0\.5 to -0\.5\b"),
    "bool": (GOOD > 0, r"^image 0\b.*\bdtype .*\bbool\b.*\buint8, uint16\b"),
    "int64": (GOOD.astype(int), r"^image 0\b.*\bdtype .*\bint64\b"),
    "complex": (GOOD.astype(complex), r"^image 0\b.*\bdtype .*\bcomplex128\b"),
    "objects": (GOOD.astype(object), r"^image 0\b.*\bdtype .*\bobject\b"),
    "color (H, W, 3)": (np.zeros((8, 8, 3)), r"^image 0\b.*\bshape .*\(8, 8, 3\).*\bPIL\b"),
    "color (N, H, W, 3)": (np.zeros((2, 8, 8, 3)), r"^image 0\b.*\bshape .*\(2, 8, 8, 3\).*\bPIL\b"),
    "color (N, 3, H, W)": ([GOOD, torch.zeros(2, 3, 8, 8)], r"^image 1\b.*\bshape .*\(2, 3, 8, 8\).*\bPIL\b"),
    "one axis": (np.zeros(8), r"^image 0\b.*\bshape .*\(8,\)"),
    "no pixels": (np.zeros((3, 8, 0)), r"^image 0\b.*\bshape .*\(8, 0\)"),
    "no images": ([], "no images"),
    "no images in an array": (np.zeros((0, 8, 8)), "no images"),
    "None": (None, r"^image 0\b.*\bNoneType\b"),
    "numbers": ([[0.5, 0.5], [0.5, 0.5]], r"^image 0\b.* float\b"),
    "bytes of nothing": (b"", r"^image 0\b.*\bempty\b"),
    "bytes of no image": (b"no image at all", r"^image 0\b.*\bno image\b"),
    "a file open as text": (io.StringIO("a"), r"^image 0\b.* 'rb'"),
    "missing file": ("nowhere.png", r"^nowhere\.png "),
    "missing files": (["nowhere.png", "nor here.png"], r"^nowhere\.png "),
    "PIL of a float mode": (Image.new("F", (8, 8)), r"^image 0\b.*\bmode F\b"),
}


@pytest.mark.parametrize("images, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_image_is_refused(run, images, message):
    with pytest.raises(UserError, match=message) as refusal:
        run.score(images)
    assert "\n" not in str(refusal.value) and isinstance(refusal.value, ValueError)


def test_a_damaged_pil_image_is_refused(run, tmp_path):
    (tmp_path / "cut.jpeg").write_bytes(PATHS[0].read_bytes()[:3000])  # which shows when it is decoded
    with Image.open(tmp_path / "cut.jpeg") as image, pytest.raises(UserError, match=r"^image 0\b.*truncated"):
        run.score(image)


def test_broken_files_among_others_give_nan(run, tmp_path, caplog):
    (tmp_path / "cut.jpeg").write_bytes(PATHS[0].read_bytes()[:3000])
    (tmp_path / "empty.png").touch()
    with Image.open(tmp_path / "cut.jpeg") as cut:
        images = [SQUARES[0], tmp_path / "empty.png", SQUARES[1], cut, b"no image", "nowhere.png", SQUARES[2]]
        for batch_size in (2, 64):
            caplog.clear()
            scores = run.score(images, batch_size=batch_size)
            assert np.isnan(scores).tolist() == [False, True, False, True, True, True, False]
            np.testing.assert_allclose(scores[[0, 2, 6]], run.score(SQUARES[:3]), atol=1e-5)
            for name, message in zip(("empty.png", "image 3", "image 4", "nowhere.png"), caplog.messages, strict=True):
                assert name in message and "NaN" in message
        every, drawn, heat = run.examine(images)
    for values in (*every.values(), drawn, heat, run.unlike_training(images), run.reconstruct(images)):
        assert np.isnan(values).reshape(7, -1).all(1).tolist() == np.isnan(scores).tolist()
        assert np.isfinite(values[[0, 2, 6]]).all()
    assert np.isnan(run.percentile(scores)).tolist() == np.isnan(scores).tolist()


def test_an_array_that_cannot_be_used_loses_no_time(run):
    """It is the caller's mistake, and not a file's."""
    with pytest.raises(UserError, match=r"^image 1\b.*\bfinite\b"):
        run.score([PATHS[0], np.full((8, 8), np.nan)])


def test_an_empty_folder(run, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} .*no images"):
        run.score(tmp_path)


def test_dicom_as_a_file_as_bytes_and_as_a_dataset(run, tmp_path, caplog):
    pydicom = pytest.importorskip("pydicom")
    from dicom_files import radiograph, write

    path = write(tmp_path / "x.dcm", radiograph(), 12)
    lateral = write(tmp_path / "y.dcm", radiograph(), 12, ViewPosition="LL")
    expected = run.score(path)
    dataset = pydicom.dcmread(path)
    with open(path, "rb") as file:
        for image in (path.read_bytes(), file, dataset, [dataset], io.BytesIO(path.read_bytes())):
            np.testing.assert_array_equal(run.score(image), expected)
    scores = run.score([pydicom.dcmread(lateral), dataset])
    assert np.isnan(scores).tolist() == [True, False] and "lateral" in caplog.text
    with pytest.raises(UserError, match="^image 0, .*lateral"):
        run.score(pydicom.dcmread(lateral))
    with pytest.raises(UserError, match="^image 0, .*file_meta"):
        run.score(pydicom.Dataset())


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_batch_sizes_that_are_none(run, size):
    with pytest.raises(UserError, match=f"batch_size = {size}"):
        run.score(PATHS, batch_size=size)


def test_a_map_that_there_is_not(run):
    with pytest.raises(UserError, match="'grad_cam' .*'memory_distance', 'residual'"):
        run.heatmap(PATHS, "grad_cam")


# Which runs


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(checkpoint="latest"), "checkpoint = 'latest' .*'best', 'last', None"),
        (dict(precision="fp16"), "precision = 'fp16' .*'bf16'"),
        (dict(impl="cuda"), "impl = 'cuda' .*'triton'"),
        (dict(device="cuda:77"), r"device 'cuda:77' .*\bcpu\b"),
        (dict(run=XRAYS), rf"{XRAYS} .*config\.json"),
    ],
)
def test_load_refuses(unbroken, arguments, message):
    with pytest.raises(UserError, match=message):
        fastsquid.load(**{"run": unbroken, **arguments})


def test_what_is_known_of_a_run(run, unbroken):
    summary = json.loads((unbroken / "summary.json").read_text())
    assert (run.run.folder, run.run.record.seed, run.image_size) == (unbroken, 0, 64)
    assert {name: getattr(run.run, name) for name in ("checkpoint", "epoch")} == {
        "checkpoint": summary["checkpoint"]["name"],
        "epoch": summary["checkpoint"]["epoch"],
    }
    assert fastsquid.load(str(unbroken), "last").run.epoch == 3


def test_half_precision(run, unbroken):
    half = fastsquid.load(unbroken, device=torch.device("cpu"), precision="bf16")
    assert (half.score(PATHS) != run.score(PATHS)).any()
    np.testing.assert_allclose(half.score(PATHS), run.score(PATHS), rtol=0.02)
    np.testing.assert_allclose(half.heatmap(PATHS), run.heatmap(PATHS), atol=0.1)  # standard deviations


def test_resuming_a_finished_run_writes_maps_again(copied, run, command):
    before = (copied / "maps.safetensors").read_bytes()
    (copied / "maps.safetensors").unlink()
    without = fastsquid.load(copied)
    np.testing.assert_array_equal(without.score(PATHS), run.score(PATHS))
    with pytest.raises(UserError, match=f"{copied} .* maps .*best checkpoint.* --resume {copied}"):
        without.heatmap(PATHS)
    assert command(train.main, "--resume", copied)[0] == 0
    assert (copied / "maps.safetensors").read_bytes() == before
    np.testing.assert_array_equal(fastsquid.load(copied).heatmap(PATHS), run.heatmap(PATHS))


def test_maps_of_another_detector_are_not_used(copied):
    """As those of the best are not of the last, where these are two."""
    path = checkpoint.latest_checkpoint(copied) / "best.safetensors"
    maps = checkpoint.read_maps(copied, checkpoint.hashlib.sha256(path.read_bytes()).hexdigest())
    assert set(maps) == {"residual", "memory_distance"}
    checkpoint.save_maps(copied, maps, "another's")
    with pytest.raises(UserError, match=f"{copied} .* maps .*best checkpoint.* --resume {copied}"):
        fastsquid.load(copied).heatmap(PATHS)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", None])
def test_damaged_maps(copied, content):
    path = copied / "maps.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UserError, match=rf"{path} .*python -m fastsquid\.train --resume {copied} "):
        fastsquid.load(copied)


def test_a_run_of_an_earlier_version(copied, run):
    def without_quantiles(_, state):
        for name in ("best", "last"):
            for values in state[name]["calibration"].values():
                del values["quantiles"]

    rewrite_run(copied, without_quantiles)
    early = fastsquid.load(copied)
    np.testing.assert_array_equal(early.calibrated(early.score(PATHS)), run.calibrated(run.score(PATHS)))
    with pytest.raises(UserError, match=r"\bpercentiles\b.*\bNORMAL\b"):
        early.percentile(early.score(PATHS))


def test_an_unfinished_run_is_not_calibrated(copied, run):
    def unfinish(_, state):
        state["finished"] = False
        for name in ("best", "last"):
            state[name]["calibration"] = None

    rewrite_run(copied, unfinish)
    unfinished = fastsquid.load(copied)
    np.testing.assert_array_equal(unfinished.score(PATHS), run.score(PATHS))
    for method in (unfinished.calibrated, unfinished.percentile):
        with pytest.raises(UserError, match=f"--resume {copied}$"):
            method(unfinished.score(PATHS))


def test_without_labels_there_are_no_percentiles(tmp_path, command):
    folder = tmp_path / "run"
    assert command(train.main, *tiny(folder, "--data", XRAYS / "train" / "NORMAL", "--epochs", "1"))[0] == 0
    run = fastsquid.load(folder)
    assert {values.quantiles for values in run.calibration.values()} == {None}
    assert run.run.checkpoint == "last" and run.heatmap(PATHS).shape == (4, 64, 64)
    with pytest.raises(UserError, match=r"\bpercentiles\b.*\bNORMAL\b"):
        run.percentile(run.score(PATHS))


def test_pickles_and_copies(run):
    for other in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        assert other.detector is not run.detector
        for name, values in run.scores(PATHS).items():
            np.testing.assert_array_equal(other.scores(PATHS)[name], values)
        np.testing.assert_array_equal(other.heatmap(PATHS), run.heatmap(PATHS))
        np.testing.assert_array_equal(other.percentile(run.score(PATHS)), run.percentile(run.score(PATHS)))


def test_a_pickle_from_a_device_that_is_gone(run):
    other = copy.copy(run)
    other.device = torch.device("cuda:77")
    assert pickle.loads(pickle.dumps(other)).device == torch.device("cpu")


# The package


def test_the_door_is_opened_when_it_is_asked_for():
    assert fastsquid.load is api.load
    with pytest.raises(AttributeError, match="'fastsquid' .*'lode'"):
        fastsquid.lode  # noqa: B018


def test_examples_in_docstrings(unbroken, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)
    (example,) = doctest.DocTestFinder().find(api.load, "load", globs={"load": api.load, "RUN": unbroken})
    assert doctest.DocTestRunner().run(example) == (0, 2)
