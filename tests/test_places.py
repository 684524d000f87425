"""Places of findings in the square, and how well maps find them: against numbers computed here from the definitions."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import XRAYS
from PIL import Image
from released import SMALLEST, write_image, write_table

from fastsquid import locate, report, train
from fastsquid.data import open_data, to_unit
from fastsquid.data.framing import Frame
from fastsquid.data.negatives import with_anomaly
from fastsquid.data.places import Box, Places, box_in_square, read_mask
from fastsquid.data.split import Split
from fastsquid.evaluation import places as measuring
from fastsquid.evaluation.metrics import aupro, pixel_auroc
from fastsquid.evaluation.places import known_places, measure_known, measure_places

WHOLE = Frame(100, 50, 0, 0, 100, 50)


def drawn(mask, finding=""):
    return Places(drawn=np.asarray(mask, bool), drawn_finding=finding)


def test_pixels_whose_centers_are_inside():
    mask = Places((Box("a", 0.25, 0.0, 0.75, 0.5),)).mask(4)
    assert mask.tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert Places((Box("a", 0.13, 0, 0.37, 1),)).mask(4).sum() == 0 + 4  # only column 0.375 is near: the nearest counts
    assert Places((Box("a", 0.99, 0.99, 1.0, 1.0),)).mask(4)[3, 3]
    assert Places((Box("a", 0, 0, 1, 1),)).mask(5).all()


def test_boxes_in_the_square():
    box = Box("a", 10, 10, 60, 35)
    assert box_in_square(box, WHOLE) == ("a", 0.1, 0.2, 0.6, 0.7)
    assert box_in_square(box, WHOLE, (200, 100)) == ("a", 0.05, 0.1, 0.3, 0.35)
    cropped = WHOLE._replace(left=20, right=40, top=30, bottom=50)
    assert box_in_square(box, cropped) == ("a", 0.0, 0.0, 1.0, 0.25)
    assert box_in_square(Box("a", 50, 10, 60, 35), cropped) is None


def test_masks_of_any_size_follow_the_crop(tmp_path):
    mask = np.zeros((20, 40), np.uint8)
    mask[10:, 20:] = 3
    Image.fromarray(mask).save(tmp_path / "mask.png")
    expected = np.zeros((4, 4), bool)
    expected[2:, 2:] = True
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", WHOLE, 4, "mask"), expected)
    assert read_mask(tmp_path / "mask.png", WHOLE._replace(left=50, top=25), 4, "mask").all()


def definitions(maps, masks, kept, healthy_quantile):
    """Pointing game and IoU of abnormal images, from their definitions."""
    hits, ious = [], []
    for values, mask, keep in zip(maps, masks, kept):
        values = np.where(keep, values, -np.inf)
        hits.append(mask.flat[values.argmax()])
        above = values > healthy_quantile
        ious.append((above & mask).sum() / (above | mask).sum())
    return np.mean(hits), np.mean(ious)


def test_measures_are_those_of_the_definitions():
    """12 images of 10 x 10: two findings that overlap, several regions, maps with ties."""
    rng = np.random.default_rng(0)
    places = [Places()] * 5
    for i in range(7):
        boxes = [Box("a", 0.1 * i, 0, 0.1 * i + 0.3, 0.3), Box("b", 0.2, 0.2, 0.5, 0.9), Box("a", 0.8, 0.8, 1, 1)]
        places.append(Places(tuple(boxes[: 1 + i % 3])))
    masks = np.stack([one.mask(10) for one in places])
    maps = np.round(rng.normal(size=masks.shape) + masks, 1)
    found = measure_known(maps, places, ["a", "b"])
    assert found["all"]["pixel_auroc"]["value"] == pytest.approx(pixel_auroc(masks, maps), abs=1e-9)
    assert found["all"]["aupro"]["value"] == pytest.approx(aupro(masks, maps), abs=1e-9)
    for share in measuring.SHARES:
        hits, iou = definitions(maps[5:], masks[5:], masks[5:] >= 0, np.quantile(maps[:5], 1 - share))
        assert found["all"]["pointing_game"]["value"] == pytest.approx(hits)
        assert found["all"][f"iou_{share}"]["value"] == pytest.approx(iou)
    # Finding b: what shows only a is left out of images that have both; images with only a are not looked at.
    own = np.stack([one.mask(10, "b") for one in places])
    mine = np.array([i < 5 or own[i].any() for i in range(12)])
    kept = own | ~masks
    labels, values = own[mine][kept[mine]], maps[mine][kept[mine]]
    assert found["b"]["pixel_auroc"]["value"] == pytest.approx(pixel_auroc(labels[None], values[None]), abs=1e-9)
    hits, iou = definitions(maps[5:][mine[5:]], own[5:][mine[5:]], kept[5:][mine[5:]], np.quantile(maps[:5], 0.95))
    assert found["b"]["pointing_game"]["value"] == pytest.approx(hits)
    assert found["b"]["iou_0.05"]["value"] == pytest.approx(iou)
    for measures in found.values():
        for name, one in measures.items():
            assert 0 <= one["low"] <= one["value"] <= one["high"] <= 1, name


def test_bins_cost_less_than_one_in_bins():
    rng = np.random.default_rng(1)
    masks = np.zeros((6, 64, 64), bool)
    masks[3:, 10:30, 20:40] = True
    maps = rng.normal(size=masks.shape) + 0.7 * masks
    found = measure_known(maps, [drawn(mask) for mask in masks])["all"]
    assert found["pixel_auroc"]["value"] == pytest.approx(pixel_auroc(masks, maps), abs=1 / measuring.BINS)
    assert found["aupro"]["value"] == pytest.approx(aupro(masks, maps), abs=2 / measuring.BINS)


def test_intervals_are_over_images():
    """Half of 40 abnormal images are found wholly, half not at all: the pointing game's interval is the binomial's."""
    mask = np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    maps = np.stack([np.zeros((8, 8))] * 5 + [mask * 1.0, (1.0 - mask)] * 20)
    found = measure_known(maps, [Places()] * 5 + [drawn(mask, "x")] * 40, ["x"])
    one = found["all"]["pointing_game"]
    assert one["value"] == 0.5
    assert (one["low"], one["high"]) == (pytest.approx(0.35, abs=0.03), pytest.approx(0.65, abs=0.03))
    assert found["x"] == found["all"]


def test_healthy_and_abnormal_images_are_resampled_separately():
    healthy, abnormal = measuring._resampled(20, 0), measuring._resampled(20, 1)
    assert healthy.shape == abnormal.shape and (healthy[1:] != abnormal[1:]).any(1).all()


def test_an_oracle_and_chance_on_synthetic_opacities():
    """Real X-rays with synthetic opacities: the anomaly's own strength finds all, its opposite nothing."""
    images = to_unit(open_data(XRAYS, 64)["val"].images)
    torch.manual_seed(0)
    sick, strength = with_anomaly("opacity", images)
    masks = strength[:, 0].numpy() > 0.2
    split = Split(
        torch.cat([(images * 255).round().byte(), (sick * 255).round().byte()]),
        torch.tensor([0] * len(images) + [1] * len(images)),
        [str(i) for i in range(2 * len(images))],
        places=[Places()] * len(images) + [drawn(mask, "opacity") for mask in masks],
    )
    strengths = torch.cat([torch.zeros_like(strength), strength])[:, 0]
    given = iter(range(0, 2 * len(images), 4))

    def give(batch):
        start = next(given)
        here = strengths[start : start + len(batch)]
        return {"oracle": here, "opposite": -here, "constant": torch.zeros_like(here)}

    found = measure_places(give, split, torch.device("cpu"), batch_size=4)
    assert found["findings"] == {"opacity": len(images)} and found["healthy"] == found["abnormal"] == len(images)
    best, worst, chance = (found["places"][name]["all"] for name in ("oracle", "opposite", "constant"))
    for name in ("pixel_auroc", "aupro", "pointing_game"):
        assert best[name]["value"] == pytest.approx(1, abs=1 / measuring.BINS)
        assert worst[name]["value"] == pytest.approx(0, abs=1 / measuring.BINS)
    assert chance["pixel_auroc"]["value"] == 0.5 and chance["aupro"]["value"] == pytest.approx(0.15)
    assert best["iou_0.05"]["value"] > 0.4 and worst["iou_0.05"]["value"] == 0


def test_cells_of_digits():
    """DigitAnatomy's cells as boxes: a map of the missing digits' cells is right at those, and at those alone."""
    split = open_data(size=48)["test"]
    split.places = [split.shown_places(i) for i in range(len(split))]
    for i, name in enumerate(split.classes):
        boxes = tuple(box._replace(finding=name) for box in split.places[i].boxes)
        split.places[i] = Places(boxes)
        assert split.places[i].mask(48).sum() == 256 * int(split.cells[i].sum())
    assert (known_places(split) == split.labels.numpy().astype(bool)).all()
    maps = np.stack([places.mask(48, "missing") for places in split.places]).astype(float)
    found = measure_known(maps, split.places, ["missing", "zero"])
    assert found["missing"]["pixel_auroc"]["value"] == found["missing"]["iou_0.05"]["value"] == 1
    assert found["zero"]["pixel_auroc"]["value"] == 0.5 and found["zero"]["pointing_game"]["value"] < 0.3


@pytest.fixture
def boxed(tmp_path):
    rows = []
    for i in range(16):
        write_image(tmp_path / f"{i}.png", i, (64, 64))
        rows.append({"path": f"{i}.png", "label": int(i > 11), "split": "train" if i < 8 else "test"})
        box = dict.fromkeys(("x_min", "y_min", "x_max", "y_max"), "")
        if i in (12, 13):
            box = {"x_min": 8, "y_min": 16, "x_max": 40, "y_max": 48}
        rows[-1] |= {"class": "nodule" if i == 15 else "mass" if i > 11 else "", **box}
    write_table(tmp_path / "list.csv", rows)
    return tmp_path / "list.csv"


def test_locate_and_report_with_boxes(boxed, command):
    run = boxed.parent / "run"
    assert command(train.main, "--data", boxed, "--out", run, *SMALLEST)[0] == 0
    code, out, err = command(locate.main, run)
    assert code == 0, err
    result = json.loads((run / "localization" / "locate.json").read_text())
    found = result["known_places"]
    assert (found["healthy"], found["abnormal"], found["findings"]) == (4, 2, {"mass": 2})
    assert "2 abnormal test images of known places, 4 healthy ones" in out and "mass (2)" not in out
    line = next(line for line in out.splitlines() if line.startswith("residual"))
    measured = found["places"]["residual"]["all"]
    shown = [(measured[name]["value"], measured[name]["low"], measured[name]["high"]) for name in measuring.MEASURES]
    assert re.findall(r"(\S+) \((\S+), (\S+)\)", line) == [tuple(f"{x:.3f}" for x in values) for values in shown]
    assert "synthetic" in result and "haze" in out
    # The report frames them. An anonymous one does not name what they are.
    for options, finding in (([], "mass"), (["--anonymous"], "abnormal")):
        page = boxed.parent / f"{finding}.html"
        code, out, err = command(report.main, run, boxed, "--out", page, *options)
        assert code == 0 and "8 of 8 images shown" in out, err
        data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(), re.S)[1])
        assert data["labels"] == [0] * 4 + [1] * 4
        classes = {one["name"]: one["images"] for one in data["metrics"].get("classes") or []}
        assert classes == ({} if options else {"mass": 3, "nodule": 1})
        box = [0.125, 0.25, 0.625, 0.75, finding]
        assert data["places"] == {"4": [box], "5": [box]}


def test_places_without_healthy_images(boxed, command):
    run, rows = boxed.parent / "run", boxed.read_text().splitlines()
    assert command(train.main, "--data", boxed, "--out", run, *SMALLEST)[0] == 0
    assert command(locate.main, run)[0] == 0
    sick = boxed.parent / "sick.csv"
    sick.write_text("\n".join(row for row in rows if ",0,test" not in row))
    code, out, err = command(locate.main, run, "--data", sick, "--overwrite")
    assert code == 0, err
    assert "the test split has no healthy images" in out
    # The measures of the first data are gone, as its maps are.
    assert [path.name for path in (run / "localization").iterdir()] == ["maps.png"]


def test_outlines_of_drawn_regions():
    mask = np.zeros((10, 10), bool)
    mask[2:4, 1:5] = mask[8:, 8:] = True
    assert drawn(mask, "x").outlines() == (Box("x", 0.1, 0.2, 0.5, 0.4), Box("x", 0.8, 0.8, 1, 1))
    assert Places((Box("a", 0, 0, 1, 1),)).outlines() == (("a", 0, 0, 1, 1),)
