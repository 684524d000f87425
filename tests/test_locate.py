"""The locate command: the AUCs of cells and images against pairs counted here, and what its figure shows."""

import contextlib
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import possible_aucs
from PIL import Image

from fastsquid import locate, train
from fastsquid.config import preset
from fastsquid.data import open_data, to_unit
from fastsquid.data.sources import digits
from fastsquid.drawing import save as saving
from fastsquid.drawing.gallery import choose_images
from fastsquid.drawing.maps import draw_maps
from fastsquid.drawing.save import save_figure
from fastsquid.errors import DivergedError
from fastsquid.evaluation import localization
from fastsquid.evaluation.localization import KINDS as ANOMALIES
from fastsquid.evaluation.localization import STRENGTH, draw_synthetic
from fastsquid.evaluation.metrics import aupro, pixel_auroc
from fastsquid.evaluation.validation import shown_split
from fastsquid.model.detector import Detector
from fastsquid.runs.trained import load_run
from fastsquid.scoring.maps import anomaly_maps, calibrate_maps
from fastsquid.scoring.scores import score_images

XRAYS = Path(__file__).parent / "data" / "xrays"
KINDS = ["flipped", "missing", "swapped", "zero"]
MAPS = ["residual", "memory_distance", "grad_cam"]


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    """DigitAnatomy of fewer images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "COUNTS", {"train": (60, 0, 0, 0, 0), "val": (4, 1, 1, 1, 1), "test": (12, 3, 3, 3, 3)})
        yield


@pytest.fixture(scope="module")
def run(few_digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = "--preset digits --width 4 --slots 8 --epochs 3 --device cpu --out"
    with contextlib.redirect_stdout(io.StringIO()):
        train.main([*options.split(), str(folder)])
    return folder


def run_and_keep(*arguments):
    """Runs the command: what it prints, its figure, and the scores of images that it ranks (if it ranks any)."""
    kept, ranked, out = [], [], io.StringIO()

    def save(figure, path, largest):
        kept.append(figure)
        save_figure(figure, path, largest)

    def scored(*arguments):
        ranked.append(score_images(*arguments))
        return ranked[-1]

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(saving, "save_figure", save)
        patch.setattr(localization, "score_images", scored)
        locate.main([str(argument) for argument in (*arguments, "--overwrite", "--device", "cpu")])
    (figure,) = kept
    return out.getvalue(), figure, ranked


@pytest.fixture(scope="module")
def located(run):
    return run_and_keep(run)


def expected_maps(run, data, split):
    """Maps of a split, all images at once, and the reconstructions."""
    detector = load_run(run).detector.frozen()
    images = to_unit(data[split].images)
    maps = anomaly_maps(detector, images, calibrate_maps(detector, data["train"].images))
    return {name: values.double().numpy() for name, values in maps.items()}, detector.scores(images)[1][:, 0].numpy()


def auc_of(normal, abnormal):
    """The share of pairs in the right order, equals counting half."""
    above = abnormal[None].astype(np.float64) - normal[:, None]
    return np.mean((above > 0) + 0.5 * (above == 0))


def check_aucs(found, normal, abnormal, by_kind):
    """The AUCs of a table's row against pairs counted here.

    Values are the same to 1e-4 of the largest one: a network's sums and a cell's 256 pixels, added in another order,
    leave at least 13 of float32's 24 bits.
    """
    assert found["auc_by_kind"].keys() == by_kind.keys()
    for auc, values in [(found["auc"], abnormal), *((found["auc_by_kind"][kind], by_kind[kind]) for kind in by_kind)]:
        low, high = possible_aucs(normal, values, 1e-4)
        assert low <= auc + 1e-12 and auc - 1e-12 <= high


def test_aucs_of_digits(run, located):
    data = open_data(None, 48)
    split, (maps, _) = data["test"], expected_maps(run, data, "test")
    result = json.loads((run / "localization" / "locate.json").read_text())
    assert {key: result[key] for key in ("split", "images", "checkpoint", "map")} == {
        "split": "test",
        "images": {"normal": 12, "abnormal": 12},
        "checkpoint": {"name": "last", "epoch": 3},
        "map": "residual",
    }
    # Cells of 16 x 16 pixels; the pixels of training and test images as they are.
    cells = {
        name: np.stack(
            [v[:, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16].mean((1, 2)) for r in range(3) for c in range(3)]
        )
        for name, v in maps.items()
    }
    known, asked = (data[name].images[:, 0].numpy() / 255 for name in ("train", "test"))

    def nearest(place):
        distances = np.sqrt(((asked[place][:, None] - known[place][None]) ** 2).sum((2, 3)))
        return np.sort(distances, axis=1)[:, :3].mean(1)

    cells["nearest_patch"] = np.stack(
        [nearest(np.s_[:, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16]) for r in range(3) for c in range(3)]
    )
    of_images = {f"largest {name}": cells[name].max(0) for name in MAPS}
    of_images |= {"nearest_image": nearest(np.s_[:]), "nearest_patch": cells["nearest_patch"].max(0)}
    detector = load_run(run).detector
    score, (ranked,) = detector.config.score, located[2]
    np.testing.assert_allclose(ranked[score], score_images(detector, split.images)[score], rtol=1e-4)
    kinds, odd = np.array(split.classes), split.cells.numpy().T  # [cell, image], as `cells`
    assert list(result["cell_auc"]) == [*MAPS, "nearest_patch"]
    largest = [f"largest {name}" for name in MAPS]
    assert list(result["image_auc"]) == ["score: discriminator", *largest, "nearest_image", "nearest_patch"]
    for name, found in result["cell_auc"].items():
        values = cells[name]
        by_kind = {kind: values[:, kinds == kind][odd[:, kinds == kind]] for kind in KINDS}
        check_aucs(found, values[~odd], values[odd], by_kind)
    normal = kinds == "normal"
    # After three epochs the discriminator scores all images alike to five digits: the ranks of these very scores count.
    found, values = result["image_auc"].pop(f"score: {score}"), ranked[score]
    assert found["auc"] == pytest.approx(auc_of(values[normal], values[~normal]), abs=1e-12)
    by_kind = {kind: auc_of(values[normal], values[kinds == kind]) for kind in KINDS}
    assert found["auc_by_kind"] == pytest.approx(by_kind, abs=1e-12)
    for name, found in result["image_auc"].items():
        values = of_images[name]
        check_aucs(found, values[normal], values[~normal], {kind: values[kinds == kind] for kind in KINDS})
    # An empty cell is found by any distance of pixels.
    assert result["cell_auc"]["nearest_patch"]["auc_by_kind"]["missing"] > 0.99


def test_the_printed_table(run, located):
    lines = located[0].splitlines()
    result = json.loads((run / "localization" / "locate.json").read_text())
    assert re.fullmatch(r"test\b.* 12 .* 12 .*\blast\b.* 3", lines[0])
    tables = "\n".join(lines).split("\n\n")[1:3]
    for table, key in zip(tables, ("cell_auc", "image_auc")):
        head, *rows = table.splitlines()
        assert head.split()[-5:] == ["all", *KINDS]
        expected = [
            [name, *(f"{value:.3f}" for value in (aucs["auc"], *aucs["auc_by_kind"].values()))]
            for name, aucs in result[key].items()
        ]
        assert [row.rsplit(maxsplit=5) for row in rows] == expected
    assert lines[-2:] == [str(run / "localization" / name) for name in ("locate.json", "maps.png")]


def test_the_figure_of_digits(run, located):
    data = open_data(None, 48)
    split, (maps, student) = data["test"], expected_maps(run, data, "test")
    chosen = choose_images(split)
    *axes, bar = located[1].axes
    assert "standard deviations" in bar.get_xlabel() and bar.get_xlim() == (0, 5)
    assert [axis.get_title() for axis in axes[:5]] == [
        "input",
        "reconstruction",
        "residual",
        "memory distance",
        "Grad-CAM",
    ]
    assert len(axes) == 8 * 5 and "digits, seed 0, last checkpoint, epoch 3, test split" in located[1].get_suptitle()
    for row, i in enumerate(chosen):
        input, drawn, *heat = axes[5 * row : 5 * row + 5]
        assert input.get_ylabel() == split.classes[i]
        image = split.images[i, 0].numpy() / 255
        np.testing.assert_allclose(input.images[0].get_array(), image, atol=1e-6)
        np.testing.assert_allclose(drawn.images[0].get_array(), student[i], atol=1e-4)
        for name, axis in zip(MAPS, heat):
            below, above = axis.images
            np.testing.assert_allclose(below.get_array(), image, atol=1e-6)
            if name != "grad_cam":  # which magnifies rounding where it does not vary
                np.testing.assert_allclose(above.get_array(), maps[name][i].clip(0, 5), atol=0.02)
            assert (above.norm.vmin, above.norm.vmax) == (0, 5)
            assert not above.get_alpha()[above.get_array() == 0].any() and above.get_alpha().max() <= 0.7
        for axis in (input, drawn, *heat):
            frames = [(frame.get_x() + 0.5, frame.get_y() + 0.5, frame.get_width()) for frame in axis.patches]
            assert frames == [(index % 3 * 16, index // 3 * 16, 16) for index in np.flatnonzero(split.cells[i])]
    with Image.open(run / "localization" / "maps.png") as image:
        assert image.format == "PNG" and min(image.size) > 300
    assert (run / "localization" / "maps.png").stat().st_size < 300_000


def test_x_rays(unbroken, tmp_path):
    """No place is known to be abnormal: a figure of the labeled split, and what maps find of synthetic anomalies."""
    folder = tmp_path / "new" / "folder"
    out, figure, _ = run_and_keep(unbroken, "--out", folder, "--checkpoint", "last")
    assert sorted(os.listdir(folder)) == ["locate.json", "maps.png"]
    result = json.loads((folder / "locate.json").read_text())
    synthetic = result.pop("synthetic")
    assert result == {
        "split": "val",
        "checkpoint": {"name": "last", "epoch": 3},
        "map": "residual",
        "images": 3,
        "strength": STRENGTH,
    }
    data = open_data(XRAYS, 64)
    healthy = data["val"].images[data["val"].labels == 0]
    detector = load_run(unbroken, "last").detector.frozen()
    calibration = calibrate_maps(detector, data["train"].images)
    assert list(synthetic) == list(ANOMALIES)
    for kind, found in synthetic.items():
        drawn = draw_synthetic(healthy, kind)
        maps = anomaly_maps(detector, drawn.images, calibration)
        assert list(maps) == MAPS and list(found) == [*MAPS, "lung_prior"]
        for name in ("residual", "memory_distance"):  # Grad-CAM magnifies rounding where it does not vary
            values = maps[name].numpy()
            assert found[name]["pixel_auroc"] == pytest.approx(pixel_auroc(drawn.masks, values), abs=1e-3)
            assert found[name]["aupro"] == pytest.approx(aupro(drawn.masks, values), abs=1e-2)
    lines = out.splitlines()
    assert re.fullmatch(r"3 .*\bval\b.*\bsynthetic\b.*\blast\b.* 3", lines[0])
    assert lines[2].split() == ["haze", "opacity"]
    for line, name in zip(lines[4:8], [*MAPS, "lung_prior"]):
        numbers = [f"{synthetic[kind][name][metric]:.3f}" for kind in ANOMALIES for metric in ("pixel_auroc", "aupro")]
        assert line.split() == [name, *["*"] * (name == "residual"), *numbers]
    assert lines[8:] == ["* the map of the score", "", str(folder / "locate.json"), str(folder / "maps.png")]
    *axes, _ = figure.axes
    assert [axis.get_ylabel() for axis in axes[::5]] == ["normal"] * 3 + ["abnormal"] * 3
    assert not any(axis.patches for axis in axes)
    assert "squid-small, seed 0, last checkpoint, epoch 3, val split" in figure.get_suptitle()


def test_unlabeled_images_and_one_that_cannot_be_read(unbroken, tmp_path, refused, caplog):
    data = shutil.copytree(XRAYS / "train" / "NORMAL", tmp_path / "data")
    (data / "broken.png").write_bytes(b"")
    assert "--skip-unreadable" in refused(locate.main, unbroken, "--data", data, "--out", tmp_path / "out")
    out, figure, _ = run_and_keep(unbroken, "--data", data, "--skip-unreadable", "--out", tmp_path / "out")
    said = out.splitlines()
    assert "1 unreadable" in caplog.text and "no healthy" in said[0]
    assert os.listdir(tmp_path / "out") == ["maps.png"]
    names = sorted(path.name for path in data.iterdir() if path.name != "broken.png")
    assert [axis.get_ylabel() for axis in figure.axes[:-1][::5]] == names
    assert "train split" in figure.get_suptitle()


def test_which_split_is_shown():
    xrays = open_data(XRAYS, 48)
    assert shown_split(xrays) == "val"  # the test split has no labels
    assert shown_split({"train": xrays["train"], "test": xrays["test"]}) == "test"
    assert shown_split({"train": xrays["train"], "val": xrays["train"]}) == "val"  # of one class
    assert shown_split({"train": xrays["train"]}) == "train"


def test_cells_of_a_side_that_three_does_not_divide():
    """The drawn cells, resized as the images are, are found again."""
    for size in (64, 128):
        side = -(-size // 3)
        cells = torch.arange(9.0).view(3, 3)
        drawn = cells.repeat_interleave(side, 0).repeat_interleave(side, 1).numpy()
        resized = np.asarray(Image.fromarray(drawn).resize((size, size), Image.Resampling.BILINEAR))
        found = localization._by_cell(torch.tensor(resized)[None])
        torch.testing.assert_close(found, cells.view(1, 9), atol=0.05, rtol=0)


def test_refusals(run, tmp_path, refused):
    out = tmp_path / "out"
    assert re.search(
        rf"{XRAYS / 'train'} .*train/NORMAL", refused(locate.main, run, "--data", XRAYS / "train", "--out", out)
    )
    assert f"{tmp_path} " in refused(locate.main, tmp_path)
    assert "/nowhere " in refused(locate.main, run, "--data", tmp_path / "nowhere", "--out", out)
    assert "--checkpoint last" in refused(locate.main, run, "--checkpoint", "best", "--out", out)
    assert re.search("--dat:? .*--data", refused(locate.main, run, "--dat", XRAYS))
    assert not out.exists()
    out.write_text("")
    assert str(out) in refused(locate.main, run, "--out", out)


def test_existing_maps_are_kept(run, tmp_path, refused, monkeypatch):
    (tmp_path / "locate.json").write_text("old")
    monkeypatch.setattr("fastsquid.runs.trained.load_trained", None)  # nothing is loaded before
    said = refused(locate.main, run, "--out", tmp_path)
    assert f"{tmp_path / 'locate.json'} exists" in said and "--overwrite" in said
    assert (tmp_path / "locate.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_diverged_detector_is_refused():
    detector = Detector(preset("digits", width=4, slots=8)).eval()
    split = open_data(None, 48, splits=("val",))["val"]
    with torch.no_grad():
        detector.generator.student.output.bias.fill_(torch.nan)
    calibration = calibrate_maps(detector, split.images)
    for act in (
        lambda: draw_maps(detector, split, calibration, ""),
        lambda: localization.locate(detector, split, split, calibration),
    ):
        with pytest.raises(DivergedError, match=r"\bresidual map\b"):
            act()
