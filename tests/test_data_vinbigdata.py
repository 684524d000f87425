"""VinBigData's challenge in the form of its release on Kaggle, and of the smaller copies that are in use."""

import numpy as np
import pytest
from PIL import Image
from released import listed, run_everything, write_table

pytest.importorskip("pydicom")
from vindr_files import image_id, write_image

from fastsquid import train
from fastsquid.data import known_source, open_data
from fastsquid.errors import UserError

NOTHING = ("No finding", 14)
SPOT, HEART, FIBROSIS = ("Nodule/Mass", 8), ("Cardiomegaly", 3), ("Pulmonary fibrosis", 13)
# Image, radiologist, class, box; the DICOM files have 20 x 40 pixels.
ROWS = [
    *((i, f"R{reader}", NOTHING, ("",) * 4) for i in range(20) for reader in (1, 2, 3)),
    *((20, "R1", HEART, (0.0, 0.0, 10.0, 10.0)), (20, "R2", HEART, (0.0, 20.0, 20.0, 30.0))),
    *((20, "R3", SPOT, (1.0, 1.0, 2.0, 2.0)), (21, "R8", HEART, (0.0, 0.0, 5.0, 5.0))),
    *((21, "R9", FIBROSIS, (1.0, 1.0, 2.0, 2.0)), (21, "R10", SPOT, (1.0, 1.0, 2.0, 2.0))),
    *((22, f"R{reader}", kind, (5.0, 10.0, 15.0, 20.0)) for kind in (SPOT, FIBROSIS) for reader in (8, 9, 10)),
    *((23, "R1", NOTHING, ("",) * 4), (23, "R2", HEART, (0.0, 0.0, 5.0, 5.0)), (23, "R3", NOTHING, ("",) * 4)),
]
IMAGES = {image_id(row[0]): row[0] for row in ROWS}


def table(rows, **more):
    return [
        {
            **dict(image_id=image_id(i), class_name=kind[0], class_id=kind[1], rad_id=reader),
            **dict(zip(("x_min", "y_min", "x_max", "y_max"), box)),
            **more,
        }
        for i, reader, kind, box in rows
    ]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "vinbigdata"
    for name, i in IMAGES.items():
        write_image(root / "train" / f"{name}.dicom", i)
    write_image(root / "test" / f"{image_id(99)}.dicom", 99)  # nobody knows its label
    write_table(root / "train.csv", table(ROWS))
    write_table(root / "sample_submission.csv", [{"image_id": image_id(99), "PredictionString": "14 1 0 0 1 1"}])
    return root


@pytest.fixture
def small(tmp_path):
    """Copies of 8 x 8 pixels as PNG."""
    root = tmp_path / "small"
    (root / "train").mkdir(parents=True)
    for name, i in IMAGES.items():
        Image.fromarray(np.full((8, 8), 5 * i, np.uint8)).save(root / "train" / f"{name}.png")
    write_table(root / "train.csv", table(ROWS))
    return root


def by_image(data):
    found = {}
    for split in data.values():
        for name, place in zip(split.names, split.places or [None] * len(split)):
            found[IMAGES[name.split("/")[1].split(".")[0]]] = place
    return found


def test_splits_labels_and_classes(root, caplog):
    data = open_data(root, size=8)
    assert known_source(root).name == "vinbigdata" and all(split.drawn for split in data.values())
    found = {IMAGES[name[6:38]]: (label, kind) for rows in listed(data).values() for name, label, kind in rows}
    assert found == {
        **dict.fromkeys(range(20), (0, "normal")),
        20: (1, "Cardiomegaly"),  # two of three
        21: (1, "abnormal"),  # three findings of one radiologist each
        22: (1, "abnormal"),  # two findings
    }
    assert {name: len(split) for name, split in data.items()} == {"train": 16, "val": 3, "test": 4}
    assert not data["train"].labels.any() and "left out 1 of 24 images" in caplog.text


EXPECTED = {
    20: [("Cardiomegaly", 0, 0, 0.5, 0.25), ("Cardiomegaly", 0, 0.5, 1, 0.75)],
    22: [(name, 0.25, 0.25, 0.75, 0.5) for name in ["Nodule/Mass"] * 3 + ["Pulmonary fibrosis"] * 3],
}


def test_boxes(root):
    places = by_image(open_data(root, size=8))
    assert {i: sorted(places[i].boxes) for i in EXPECTED} == EXPECTED and places[21] is None


@pytest.mark.parametrize("sizes", ["train_meta.csv", "train.csv"])
def test_boxes_of_smaller_copies(small, sizes):
    if sizes == "train.csv":
        write_table(small / "train.csv", table(ROWS, width=20, height=40))
    else:
        write_table(small / sizes, [{"image_id": name, "dim0": 40, "dim1": 20} for name in IMAGES])
    places = by_image(open_data(small, size=8))
    assert {i: sorted(places[i].boxes) for i in EXPECTED} == EXPECTED and places[21] is None


def test_boxes_of_smaller_copies_of_unknown_size(small, caplog):
    data = open_data(small, size=8)
    assert all(split.places is None for split in data.values())
    assert "the boxes of 2 images are not used" in caplog.text and "train_meta.csv" in caplog.text


@pytest.mark.parametrize("name", ["train.csv", "train"])
def test_an_incomplete_release(root, refused, name):
    for path in (root / name, root / "sample_submission.csv"):
        path.rename(root.parent / path.name)
    err = refused(train.main, "--data", root, "--out", root / "run", "--all-normal")
    assert f"but {name} is missing: download it from https://www.kaggle.com" in err


def test_copies_without_labels_are_not_taken_for_healthy(small, refused):
    (small / "train.csv").unlink()
    write_table(small / "train_meta.csv", [{"image_id": name, "dim0": 40, "dim1": 20} for name in IMAGES])
    err = refused(train.main, "--data", small, "--out", small / "run", "--all-normal")
    assert "is of VinBigData's challenge" in err and "train.csv is missing" in err


def test_every_class_has_its_number(root):
    """As the challenge numbers them."""
    names = ["Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD"]
    names += ["Infiltration", "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening"]
    names += ["Pneumothorax", "Pulmonary fibrosis"]
    rows = [
        (20 + i, f"R{reader}", kind, (0, 0, 1, 1)) for i, kind in enumerate(zip(names, range(14))) for reader in (1, 2)
    ]
    for i, *_ in rows:
        write_image(root / "train" / f"{image_id(i)}.dicom", i)
    write_table(root / "train.csv", table(ROWS[:60] + rows))
    data = open_data(root, size=8)
    found = {kind for split in data.values() for kind in split.classes}
    assert found == {"normal", *names}


def test_missing_images(root):
    (root / "train" / f"{image_id(0)}.dicom").unlink()
    with pytest.raises(UserError, match=f"1 of 23 listed images are missing, such as 'train/{image_id(0)}.dicom'"):
        open_data(root, size=8)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class_id": 3}, "line 2: class_name 'No finding' and class_id '3' are not of one class"),
        ({"class_name": "Flu", "class_id": 15}, "line 2: class_name 'Flu' and class_id '15' are not of one class"),
        ({"rad_id": ""}, "line 2 lacks image_id or rad_id"),
        ({"image_id": ""}, "line 2 lacks image_id or rad_id"),
        ({"class_name": "Cardiomegaly", "class_id": 3}, "line 2: , , ,  is no box"),
        ({**table(ROWS[60:61])[0], "x_max": 0.0}, "line 2: 0.0, 0.0, 0.0, 10.0 is no box"),
    ],
)
def test_what_is_wrong_is_said(root, change, message):
    first, *rows = table(ROWS)
    write_table(root / "train.csv", [{**first, **change}, *rows])
    with pytest.raises(UserError, match=f"train.csv {message}"):
        open_data(root, size=8)


@pytest.mark.parametrize("size", ["", "0", "x"])
def test_invalid_sizes(small, size):
    write_table(small / "train_meta.csv", [{"image_id": name, "dim0": size, "dim1": 20} for name in IMAGES])
    with pytest.raises(UserError, match=f"train_meta.csv line 2: dim1 '20' and dim0 '{size}' should be whole numbers"):
        open_data(small, size=8)


def test_full_run(root, command, tmp_path):
    found = run_everything(command, root, tmp_path)
    assert found["split"] == "test" and found["images"]["normal"] == 2 and found["images"]["abnormal"] == 2
