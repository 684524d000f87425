"""A list of one's own: CSV, JSON lines and Parquet."""

import json

import numpy as np
import pytest
from PIL import Image
from released import listed, run_everything, write_image, write_table

from fastsquid import train
from fastsquid.data import open_data
from fastsquid.data.listed import Listed, draw_splits
from fastsquid.errors import UserError

ROWS = [
    {"path": f"images/{i}.png", "label": label, "split": split, "patient": f"p{i}"}
    for i, (label, split) in enumerate(
        [("0", "train"), ("Normal", "train"), ("1", "train"), ("no finding", "val"), ("Nodule", "val"), ("0.0", "test")]
        + [("abnormal", "TESTING"), ("1", "test")]
    )
]


@pytest.fixture
def images(tmp_path):
    for i in range(40):
        write_image(tmp_path / "images" / f"{i}.png", i)
    return tmp_path


def write(path, rows):
    if path.suffix == ".csv":
        write_table(path, rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


EXPECTED = {
    "train": [("images/0.png", 0, "normal"), ("images/1.png", 0, "normal")],
    "val": [("images/3.png", 0, "normal"), ("images/4.png", 1, "Nodule")],
    "test": [("images/5.png", 0, "normal"), ("images/6.png", 1, "abnormal"), ("images/7.png", 1, "abnormal")],
}


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "list.parquet"])
def test_every_format(images, name):
    data = open_data(write(images / name, ROWS), size=16)
    assert listed(data) == EXPECTED
    first = np.asarray(Image.open(images / "images" / "4.png").resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data["val"].images[1, 0].numpy(), first)
    assert not any(split.drawn for split in data.values())


def test_numbers_of_json_and_missing_values(images):
    rows = [{**row, "label": 0 if i in (0, 1, 3, 5) else 1, "class": None} for i, row in enumerate(ROWS)]
    data = open_data(write(images / "list.jsonl", rows), size=16)
    assert data["val"].labels.tolist() == [0, 1] and data["val"].classes == ["normal", "abnormal"]


def test_windows_and_absolute_paths(images):
    rows = [{**row, "path": row["path"].replace("/", "\\")} for row in ROWS]
    rows[0]["path"] = str(images / "images" / "0.png")
    assert listed(open_data(write(images / "list.csv", rows), size=16)) == EXPECTED


def test_boxes_masks_and_several_findings(images):
    def row(path, finding, *box, label=1, split="test", mask=""):
        edges = dict(zip(("x_min", "y_min", "x_max", "y_max"), box or [""] * 4))
        return {"path": f"images/{path}.png", "label": label, "split": split, "class": finding, **edges, "mask": mask}

    mask = np.zeros((20, 24), np.uint8)
    mask[10:, 12:] = 1
    Image.fromarray(mask).save(images / "mask.png")
    rows = [row(0, "", label=0, split="train"), row(1, "", label=0)]
    rows += [
        row(2, "mass", 0, 0, 12, 10),
        row(2, "nodule", 12, 10, 24, 20),
        row(3, "mass"),
        row(4, "", mask="mask.png"),
    ]
    test = open_data(write(images / "list.csv", rows), size=8)["test"]
    assert test.classes == ["normal", "abnormal", "mass", "abnormal"]
    assert test.findings == [(), ("mass", "nodule"), ("mass",), ()]
    counted = {name: np.flatnonzero(mask).tolist() for name, mask in test.abnormal_masks().items()}
    assert counted == {"abnormal": [3], "mass": [1, 2], "nodule": [1]}
    hidden = open_data(images / "list.csv", size=8, anonymous=True)["test"]  # names of findings too
    assert hidden.findings is None and hidden.abnormal_classes == ["abnormal"]
    assert test.places[0].boxes == () and test.places[2] is None
    both = np.kron(np.eye(2, dtype=bool), np.ones((4, 4), bool))
    np.testing.assert_array_equal(test.places[1].mask(8), both)
    np.testing.assert_array_equal(test.places[1].mask(8, "nodule"), both & (np.arange(8) >= 4))
    np.testing.assert_array_equal(test.places[3].mask(8), both & (np.arange(8) >= 4))


def test_boxes_follow_the_crop(tmp_path):
    """A border of 20 pixels at the left and 10 at the top: the box is found where the crop leaves it."""
    values = np.random.default_rng(0).integers(100, 255, (40, 60)).astype(np.uint8)
    Image.fromarray(np.pad(values, ((10, 0), (20, 0)))).save(tmp_path / "a.png")
    write_image(tmp_path / "b.png", 1)
    rows = [
        {"path": "a.png", "label": 1, "x_min": 20, "y_min": 10, "x_max": 50, "y_max": 30, "split": "test"},
        {"path": "b.png", "label": 0, "x_min": "", "y_min": "", "x_max": "", "y_max": "", "split": "test"},
    ]
    path = write(tmp_path / "list.csv", rows)
    cropped = open_data(path, size=8, splits=("test",), crop=True)["test"].places[0]
    assert cropped.boxes[0][1:] == (0, 0, 0.5, 0.5)
    assert open_data(path, size=8, splits=("test",))["test"].places[0].boxes[0][1:] == (0.25, 0.2, 0.625, 0.6)
    assert cropped.mask(8).sum() == 16


def test_missing_splits_are_drawn_by_patient(images):
    rows = [{"path": f"images/{i}.png", "label": int(i >= 30), "patient": i // 2} for i in range(40)]
    path = write(images / "list.csv", rows)
    data = open_data(path, size=16)
    assert all(split.drawn for split in data.values())
    assert {name: len(split) for name, split in data.items()} == {"train": 22, "val": 8, "test": 10}
    patients = {name: {int(n[7:-4]) // 2 for n in split.names} for name, split in data.items()}
    assert sum(map(len, patients.values())) == len(set.union(*patients.values())) == 20
    assert data["train"].labels.sum() == 0 and data["val"].labels.sum() == 4 and data["test"].labels.sum() == 6
    write_table(path, rows[::-1])
    assert listed(open_data(path, size=16)) == listed(data)  # whatever the order of the rows is
    for row in rows[:4] + rows[36:]:
        row["split"] = "test"
    write_table(path, [{"split": "", **row} for row in rows])
    assert len(open_data(path, size=16)["test"]) == 8  # a given split stays as it is


def test_few_patients(tmp_path):
    rows = [Listed(tmp_path / f"{i}.png", int(i > 3)) for i in range(6)]
    drawn = draw_splits(rows)
    counts = {name: [sum(row.label == label for row in mine) for label in (0, 1)] for name, mine in drawn.items()}
    assert counts == {"train": [2, 0], "val": [1, 1], "test": [1, 1]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": ""}, "list.csv row 4 has no label"),
        ({"label": "2"}, "list.csv row 4: label is '2'"),
        ({"path": ""}, "list.csv row 4 has no path"),
        ({"split": "holdout"}, "list.csv row 4: split is 'holdout'"),
        ({"path": "images/0.png"}, "row 4: .*0.png' has another label, split or patient"),
        ({"path": "images/99.png"}, "1 of 4 listed images are missing, such as 'images/99.png'"),
        ({"patient": "p3"}, "of the same patient"),
        ({"split": " "}, "gives 1 images no split, such as .*2.png', but others"),
        ({"x_min": "3"}, "row 4 has x_min but not all of"),
        ({"x_min": "3", "y_min": "1", "x_max": "2", "y_max": "5"}, "row 4: the box 3, 1, 2, 5 is none"),
        ({"label": "0", "class": "mass"}, "row 4 has a label for healthy but the class 'mass'"),
    ],
)
def test_what_is_wrong_is_said(images, change, message):
    rows = [{**row, **dict.fromkeys(("x_min", "y_min", "x_max", "y_max", "class"), "")} for row in ROWS]
    rows[2].update({"split": "test", **change})
    with pytest.raises(UserError, match=message):
        open_data(write(images / "list.csv", rows), size=16, splits=("test",))


@pytest.mark.parametrize(
    "content, message",
    [
        ("[1, 2]", "line 1 is no JSON object"),
        ('{"path": "a.png"}', "row 1 has no 'label'"),
        ('{"path": ["a.png"], "label": 1}', "path is a list"),
        ("", "lists no images"),
    ],
)
def test_broken_json_lines(tmp_path, content, message):
    (tmp_path / "list.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        open_data(tmp_path / "list.jsonl", size=16)


def test_broken_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "list.parquet").write_text("path,label")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        open_data(tmp_path / "list.parquet", size=16)


def test_no_healthy_image_to_train_on(images):
    rows = [{**row, "label": 1} if row["split"] == "train" else row for row in ROWS]
    with pytest.raises(UserError, match="lists no healthy images to train on"):
        open_data(write(images / "list.csv", rows), size=16)


def test_other_files_are_no_lists(images, refused):
    (images / "notes.txt").write_text("path,label")
    for name in ("notes.txt", "missing.csv"):
        assert name in refused(train.main, "--data", images / name, "--out", images / "run")


def test_full_run(images, command):
    rows = [{"path": f"images/{i}.png", "label": int(i >= 30)} for i in range(40)]
    path = write(images / "list.csv", rows)
    found = run_everything(command, path, images)
    assert found["split"] == "test" and (found["images"]["normal"], found["images"]["abnormal"]) == (3, 7)
    lines = (images / "run" / "splits.csv").read_text().splitlines()
    assert lines[0] == "path,label,split" and len(lines) == 41
    (images / "drawn.csv").write_text("\n".join(lines))
    assert listed(open_data(images / "drawn.csv", size=16)) == listed(open_data(path, size=16))
