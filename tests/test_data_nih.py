"""NIH ChestX-ray14 in the form of its release."""

import numpy as np
import pytest
from PIL import Image
from released import listed, run_everything, write_image

from fastsquid import train
from fastsquid.data import known_source, open_data
from fastsquid.errors import UserError

# Both headers have commas inside of names, as released. Rows of 2017 end with a comma, those of 2020 do not.
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
# patient: (split, [(findings, view)])
PATIENTS = {
    **{i: ("train_val", [("No Finding", "PA")]) for i in range(1, 19)},
    19: ("train_val", [("No Finding", "PA"), ("Effusion", "PA"), ("No Finding", "AP")]),
    20: ("train_val", [("Mass", "PA"), ("No Finding", "PA")]),
    21: ("train_val", [("Hernia", "PA"), ("No Finding", "PA")]),
    30: ("test", [("No Finding", "PA"), ("Atelectasis", "PA"), ("Edema", "AP")]),
    31: ("test", [("Infiltration|Pleural_Thickening", "PA"), ("No Finding", "AP"), ("No Finding", "PA")]),
    32: ("test", [("Infiltration", "PA"), ("Mass|Nodule", "PA")]),
}
BOXES = [
    ("00000030_001", "Atelectasis", 256, 512, 128, 256),
    ("00000031_000", "Infiltrate", 0, 0, 100, 100),  # its other finding has no box
    ("00000032_000", "Infiltrate", 0, 0, 512, 1024),
    ("00000032_001", "Mass", 512, 0, 512, 512),
    ("00000032_001", "Nodule", 0, 768, 256, 256),
]


def entries():
    """[(image, findings, patient, view, split)]"""
    return [
        (f"{patient:08d}_{i:03d}.png", findings, patient, view, split)
        for patient, (split, images) in PATIENTS.items()
        for i, (findings, view) in enumerate(images)
    ]


def write(root, table="Data_Entry_2017.csv", rows=None):
    tail, comma = ("", "") if "2020" in table else (",", ",")
    lines = [HEADER + comma]
    for i, (name, findings, patient, view, _) in enumerate(rows or entries()):
        lines.append(f"{name},{findings},{i},{patient},57,M,{view},2682,2749,0.143,0.143{tail}")
    (root / table).write_text("\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "nih"
    for i, (name, *_) in enumerate(entries()):
        write_image(root / f"images_{1 + i % 12:03d}" / "images" / name, i, (16, 16))
    write(root)
    for split in ("train_val", "test"):
        names = [name for name, _, _, _, mine in entries() if mine == split]
        (root / f"{split}_list.txt").write_bytes("\r\n".join(names).encode())
    lines = [f"{name}.png,{','.join(map(str, box))}" for name, *box in BOXES]
    (root / "BBox_List_2017.csv").write_text("\n".join([BOX_HEADER, *lines]) + "\n")
    return root


def patients(split):
    return {int(name.rsplit("/", 1)[1][:8]) for name in split.names}


@pytest.mark.parametrize("table", ["Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv"])
def test_splits_labels_and_classes(root, table):
    (root / "Data_Entry_2017.csv").unlink()
    write(root, table)
    data = open_data(root, size=16)
    assert known_source(root).name == "nih"
    assert {(name.rsplit("/", 1)[1], label, kind) for name, label, kind in listed(data)["test"]} == {
        ("00000030_000.png", 0, "normal"),
        ("00000030_001.png", 1, "Atelectasis"),
        ("00000031_000.png", 1, "abnormal"),  # two findings
        ("00000031_002.png", 0, "normal"),
        ("00000032_000.png", 1, "Infiltration"),
        ("00000032_001.png", 1, "abnormal"),
    }
    train, val = data["train"], data["val"]
    assert not train.labels.any() and not patients(train) & patients(val)
    assert patients(train) | patients(val) == set(range(1, 22))  # nobody's healthy images are lost
    assert len(patients(val)) == 4 and len(patients(val) & {19, 20, 21}) == 2  # 2 of 18 healthy, as many of the others
    assert set(val.classes) - {"normal"} <= {"Effusion", "Mass", "Hernia"} and val.labels.sum() == 2
    (left,) = {19, 20, 21} - patients(val)
    healthy = {19: "00000019_000.png", 20: "00000020_001.png", 21: "00000021_001.png"}[left]
    assert [name for name in train.names if int(name.rsplit("/", 1)[1][:8]) == left] == [
        next(path.relative_to(root).as_posix() for path in root.rglob(healthy))
    ]


def test_every_image_is_its_own(root):
    test = open_data(root, size=16, splits=("test",))["test"]
    for name, image in zip(test.names, test.images):
        np.testing.assert_array_equal(image[0], np.asarray(Image.open(root / name)))


def test_boxes_in_the_pixels_of_the_release(root):
    """They are of 1024 x 1024 pixels, whatever the file's size is."""
    test = open_data(root, size=8, splits=("test",))["test"]
    places = dict(zip((name.rsplit("/", 1)[1][:12] for name in test.names), test.places))
    mask = np.zeros((8, 8), bool)
    mask[4:6, 2:3] = True
    np.testing.assert_array_equal(places["00000030_001"].mask(8), mask)
    assert places["00000030_000"].boxes == ()
    assert places["00000031_000"] is None
    assert places["00000032_000"].boxes == (("Infiltration", 0, 0, 0.5, 1),)
    assert places["00000032_001"].boxes == (("Mass", 0.5, 0, 1, 0.5), ("Nodule", 0, 0.75, 0.25, 1))
    (root / "BBox_List_2017.csv").unlink()
    assert open_data(root, size=8, splits=("test",))["test"].places is None


@pytest.mark.parametrize("folder", ["images", "images-224/images-224"])
def test_images_in_one_folder(root, folder):
    (root / folder).mkdir(parents=True)
    for path in list(root.rglob("*.png")):
        path.rename(root / folder / path.name)
    assert all(name.startswith(folder) for name in open_data(root, size=16)["test"].names)


@pytest.mark.parametrize("name", ["Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"])
def test_missing_tables(root, refused, name):
    (root / name).unlink()
    (root / "BBox_List_2017.csv").unlink()
    err = refused(train.main, "--data", root, "--out", root / "run")
    assert f"is NIH ChestX-ray14 but {name} is missing: download it from https://nihcc" in err


@pytest.mark.parametrize("folder", ["images", "images_001/images"])
def test_images_alone_are_not_taken_for_healthy(tmp_path, refused, folder):
    for i in range(3):
        write_image(tmp_path / folder / f"0000000{i}_000.png", i)
    for more in ((), ("--all-normal",)):
        err = refused(train.main, "--data", tmp_path, "--out", tmp_path / "run", *more)
        assert "Data_Entry_2017.csv is missing" in err


@pytest.mark.parametrize(
    "folder, message",
    [("images_001", "Data_Entry_2017.csv is missing"), ("images_001/images", "it is not known which images")],
)
def test_a_folder_of_the_images_is_not_taken_for_healthy(root, refused, folder, message):
    err = refused(train.main, "--data", root / folder, "--out", root / "run")
    assert message in err and "Data_Entry_2017.csv" in err


def test_missing_images(root):
    for path in root.glob("images_003/images/*"):
        path.unlink()
    with pytest.raises(UserError, match="is incomplete: . of .* listed images are missing, such as 'images/0000"):
        open_data(root, size=16)
    assert open_data(root, size=16, skip_unreadable=True)["train"].skipped


@pytest.mark.parametrize(
    "change, message",
    [
        (("00000001_000.png", "Pneumonitis", 1, "PA"), "line 2: Finding Labels has 'Pneumonitis'"),
        (("00000001_000.png", "No Finding|Mass", 1, "PA"), "line 2: Finding Labels has 'No Finding'"),
        (("00000001_000.png", "", 1, "PA"), "line 2: Finding Labels has ''"),
        (("00000001_000.png", "Mass", 2, "PA"), "line 2: Patient ID is not the number"),
        (("00000001_000.png", "Mass", "x", "PA"), "line 2: Patient ID is not the number"),
        (("00000001_000.png", "Mass", 1, "LL"), "line 2: View Position is 'LL'"),
        (("1.png", "Mass", 1, "PA"), "line 2: Image Index is '1.png'"),
        (("00000001_007.png", "Mass", 1, "PA"), "line 2: '00000001_007.png' is neither in train_val_list.txt nor in"),
    ],
)
def test_what_is_wrong_is_said(root, change, message):
    write(root, rows=[(*change, ""), *entries()[1:]])
    with pytest.raises(UserError, match=message):
        open_data(root, size=16)


@pytest.mark.parametrize("columns", [("Finding Labels", "View Position"), ("Patient ID", "Follow-up #")])
def test_swapped_columns_are_noticed(root, columns):
    path = root / "Data_Entry_2017.csv"
    first, second = columns
    header, rows = path.read_text().split("\n", 1)
    path.write_text(header.replace(first, "#").replace(second, first).replace("#", second, 1) + "\n" + rows)
    with pytest.raises(UserError, match="line [23]: "):
        open_data(root, size=16)


def test_an_image_in_both_lists(root):
    path = root / "test_list.txt"
    path.write_text(path.read_text() + "\n00000001_000.png")
    with pytest.raises(UserError, match="test_list.txt has '00000001_000.png', which is also in train_val_list.txt"):
        open_data(root, size=16)


@pytest.mark.parametrize(
    "lines, message",
    [
        ([BOX_HEADER, "00000030_001.png,Atelectasis,900,0,200,10"], "line 2: Atelectasis,900,0,200,10 is no box"),
        ([BOX_HEADER, "00000030_001.png,Atelectasis,900,0,,10"], "line 2: Atelectasis,900,0,,10 is no box"),
        ([BOX_HEADER, "Atelectasis,00000030_001.png,1,1,1,1"], "line 2: .* is no box"),
        (["Image Index,Finding Label,x,y,w,h"], "does not begin with Image Index,Finding Label,Bbox"),
    ],
)
def test_broken_boxes(root, lines, message):
    (root / "BBox_List_2017.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        open_data(root, size=16)


def test_full_run(root, command, tmp_path):
    found = run_everything(command, root, tmp_path)
    assert found["split"] == "test" and found["images"]["normal"] == 2 and found["images"]["abnormal"] == 4


@pytest.mark.parametrize("part", ["images_001/images", "images_001", ".."])
def test_parts_without_tables_are_not_taken_for_healthy(root, part, refused, tmp_path):
    for table in (*root.glob("*.csv"), *root.glob("*.txt")):
        table.unlink()
    err = refused(train.main, "--data", root / part, "--out", tmp_path.with_name("run"))
    assert "is one (nih)" in err or "is NIH ChestX-ray14 but" in err
