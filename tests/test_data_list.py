"""A list of one's own: CSV, JSON lines and Parquet."""

import json

import numpy as np
import pytest
from PIL import Image
from released import listed, run_everything, write_image, write_table

from fastsquid import evaluate, figures, report, train
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


def test_full_run(images, command, refused):
    rows = [{"path": f"images/{i}.png", "label": int(i >= 30)} for i in range(40)]
    path = write(images / "list.csv", rows)
    found = run_everything(command, path, images)
    assert found["split"] == "test" and (found["images"]["normal"], found["images"]["abnormal"]) == (3, 7)
    lines = (images / "run" / "splits.csv").read_text().splitlines()
    assert lines[0] == "path,label,split" and len(lines) == 41
    # Rows that are added later change the draw: training images must not be evaluated.
    path.write_text("\n".join([*path.read_text().splitlines()[:-6], ""]))
    message = refused(evaluate.main, images / "run", "--overwrite")
    assert "are training images of" in message and "splits.csv" in message
    assert "are training images of" in refused(evaluate.main, images / "run", "--overwrite", "--anonymous")
    assert "are training images of" in refused(figures.main, images / "run", "--out", images / "figures")
    assert "are training images of" in refused(report.main, images / "run", path, "--out", images / "r.html")
    # Images of another list may have the same names.
    (images / "other.csv").write_text(path.read_text())
    assert command(evaluate.main, images / "run", "--data", images / "other.csv", "--overwrite")[0] == 0
    write(path, rows)
    (images / "drawn.csv").write_text("\n".join(lines))
    assert listed(open_data(images / "drawn.csv", size=16)) == listed(open_data(path, size=16))


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
@pytest.mark.parametrize("column, meant", [("Split", "split"), ("PATIENT", "patient"), ("x min", "x_min")])
def test_columns_that_are_almost_known(images, name, column, meant):
    rows = [{**row, column: "1"} for row in ROWS]
    with pytest.raises(UserError, match=f"has the column '{column}': call it '{meant}'"):
        open_data(write(images / name, rows), size=16)


def test_other_columns_are_ignored(images):
    rows = [{**row, "age": 51, "meta": {"view": ["PA"]}} for row in ROWS]
    assert listed(open_data(write(images / "list.jsonl", rows), size=16)) == EXPECTED


@pytest.mark.parametrize("again", ["images/../images/0.png", "./images/0.png", "link/0.png"])
def test_one_file_in_two_spellings(images, again):
    (images / "link").symlink_to(images / "images")
    row = {"path": again, "label": "1", "split": "train", "patient": "p0"}
    with pytest.raises(UserError, match="has another label"):
        open_data(write(images / "list.csv", [*ROWS, row]), size=16)


@pytest.mark.parametrize("text", ["07", "7.0", " 7 "])
def test_numbers_of_patients_are_compared_as_numbers(images, text):
    rows = [{**row, "patient": {0: "7", 5: text}.get(i, row["patient"])} for i, row in enumerate(ROWS)]
    with pytest.raises(UserError, match="of the same patient"):
        open_data(write(images / "list.csv", rows), size=16)


def test_a_finding_without_a_box_makes_places_unknown(images):
    box = {"x_min": 0, "y_min": 0, "x_max": 5, "y_max": 5}
    rows = [{**row, "class": "", **dict.fromkeys(box, "")} for row in ROWS]
    rows[6] |= {"class": "mass", **box}
    rows[7] |= {"class": "mass", **box}
    rows.append({**rows[7], "class": "nodule", **dict.fromkeys(box, "")})
    places = open_data(write(images / "list.csv", rows), size=16, splits=("test",))["test"].places
    assert places[1] is not None and places[2] is None


@pytest.mark.parametrize("box", [(10, 0, 26, 10), (500, 500, 600, 600), (0, 0, 20, 24)])
def test_boxes_outside_of_the_image(images, box):
    rows = [{**row, **dict.fromkeys(("x_min", "y_min", "x_max", "y_max"), "")} for row in ROWS]
    rows[7] |= dict(zip(("x_min", "y_min", "x_max", "y_max"), box))
    with pytest.raises(UserError, match=r"7\.png has 24 x 20 pixels, but a box to"):
        open_data(write(images / "list.csv", rows), size=16)


@pytest.mark.parametrize(
    "mask, reason",
    [
        (Image.new("L", (24, 20)), "it marks no pixel"),
        (Image.new("L", (20, 24), 1), "another shape"),
        (Image.new("RGBA", (24, 20), (9, 9, 9, 9)), "alpha"),
        (None, "1 listed masks are missing"),
    ],
)
def test_masks_that_cannot_be_used(images, mask, reason):
    if mask is not None:
        mask.save(images / "mask.png")
    rows = [{**row, "mask": "mask.png" * (i == 7)} for i, row in enumerate(ROWS)]
    with pytest.raises(UserError, match=reason):
        open_data(write(images / "list.csv", rows), size=16)


def test_turned_images_masks_and_palettes(images):
    """A mark at the top left of the stored pixels; EXIF turns both files by 90 degrees to the right."""
    mask = Image.new("P", (24, 20), 0)
    mask.putpalette([255, 255, 255, 0, 0, 0])  # 0 is white
    mask.paste(1, (0, 0, 12, 10))
    exif = Image.Exif()
    exif[274] = 6
    Image.open(images / "images" / "7.png").save(images / "images" / "7.png", exif=exif)
    mask.save(images / "mask.png", exif=exif)
    rows = [{**row, "mask": "mask.png" * (i == 7)} for i, row in enumerate(ROWS)]
    drawn = open_data(write(images / "list.csv", rows), size=4, splits=("test",))["test"].places[2].mask(4)
    assert drawn.tolist() == [[0, 0, 1, 1]] * 2 + [[0, 0, 0, 0]] * 2


def test_contradictions_in_a_row(images):
    for row, message in (
        ({"path": "a.png", "label": "1", "class": "Normal"}, "label for abnormal but the class 'Normal'"),
        ({"path": "a.png", "label": "0", "mask": "m.png"}, "label for healthy but a mask"),
    ):
        with pytest.raises(UserError, match=message):
            open_data(write(images / "list.csv", [row]), size=16)
    (images / "list.jsonl").write_text('{"path": "a.png", "label": 1, "label": 0}\n')
    with pytest.raises(UserError, match="line 1 is no JSON object"):
        open_data(images / "list.jsonl", size=16)


def test_a_path_that_no_system_has(images):
    with pytest.raises(UserError, match="1 of 1 listed images are missing"):
        open_data(write(images / "list.jsonl", [{"path": "a" * 5000, "label": 0, "split": "train"}]), size=16)
