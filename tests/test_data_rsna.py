"""The RSNA Pneumonia Detection Challenge in the form of its release on Kaggle."""

import json
import uuid
import warnings

import numpy as np
import pytest
from released import listed, run_everything, write_table

pytest.importorskip("pydicom")
from dicom_files import write as write_dicom

from fastsquid import train
from fastsquid.data import known_source, open_data
from fastsquid.errors import UserError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
KINDS = ["Normal"] * 20 + ["No Lung Opacity / Not Normal"] * 4 + ["Lung Opacity"] * 4
IDS = [str(uuid.UUID(int=i + 1)) for i in range(len(KINDS))]
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def boxes(i):
    """x, y, width, height of an image; the files have 20 x 40 pixels."""
    return [(0.0, 0.0, 10.0, 10.0), (10.0, 30.0, 5.0, 10.0)][: 1 + i % 2] if KINDS[i] == "Lung Opacity" else [("",) * 4]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "rsna"
    classes, labels = [], []
    for i, (name, kind) in enumerate(zip(IDS, KINDS)):
        values = np.random.default_rng(i).integers(0, 256, (40, 20)).astype(np.uint8)
        tags = dict(Modality="CR", ViewPosition=("PA", "AP")[i % 2], PatientID=name, PatientAge="51")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of such an age
            write_dicom(root / "stage_2_train_images" / f"{name}.dcm", values, 8, SECONDARY_CAPTURE, **tags)
        for box in boxes(i):
            classes.append({"patientId": name, "class": kind})
            edges = dict(zip(("x", "y", "width", "height"), box))
            labels.append({"patientId": name, **edges, "Target": int(kind == "Lung Opacity")})
    write_dicom(root / "stage_2_test_images" / f"{uuid.UUID(int=99)}.dcm", values, 8, SECONDARY_CAPTURE, Modality="CR")
    write_table(root / "stage_2_detailed_class_info.csv", classes)
    write_table(root / "stage_2_train_labels.csv", labels)
    return root


def write_mapping(root, patient):
    items = [{"subset_img_id": name, "img_id": f"{patient(i):08d}_{i:03d}.png"} for i, name in enumerate(IDS)]
    (root / MAPPING).write_text(json.dumps(items))


def indices(split):
    return [IDS.index(name.split("/")[1][:-4]) for name in split.names]


def test_only_normal_is_healthy(root, caplog):
    data = open_data(root, size=8)
    assert known_source(root).name == "rsna" and all(split.drawn for split in data.values())
    assert {name: len(split) for name, split in data.items()} == {"train": 16, "val": 4, "test": 8}
    found = [row for rows in listed(data).values() for row in rows]
    kinds = {name.split("/")[1][:-4]: (label, kind) for name, label, kind in found}
    assert kinds == {
        name: (int(kind != "Normal"), kind if kind != "Normal" else "normal") for name, kind in zip(IDS, KINDS)
    }
    assert not data["train"].labels.any() and data["val"].labels.tolist().count(1) == 2
    assert "which images are of one patient is not known" in caplog.text and MAPPING in caplog.text


def test_boxes(root):
    data = open_data(root, size=8)
    places = {i: place for split in data.values() for i, place in zip(indices(split), split.places or [None] * 99)}
    lung = "Lung Opacity"
    assert [places[i] for i in range(20, 24)] == [None] * 4  # not normal, but nobody said where
    assert places[24].boxes == places[26].boxes == ((lung, 0, 0, 0.5, 0.25),)
    assert places[25].boxes == ((lung, 0, 0, 0.5, 0.25), (lung, 0.5, 0.75, 0.75, 1))
    healthy = [i for name in ("val", "test") for i in indices(data[name]) if i < 20]
    assert healthy and all(places[i].boxes == () for i in healthy)


def test_patients_of_the_mapping(root, caplog):
    """Healthy images 0 to 3 are of the patients of the last four: they must follow them out of train."""
    write_mapping(root, lambda i: i if i < 24 else i - 24)
    data = open_data(root, size=8)
    assert "which images are of one patient" not in caplog.text
    split = {i: name for name, one in data.items() for i in indices(one)}
    assert all(split[i] == split[i + 24] != "train" for i in range(4)) and len(split) == len(IDS)


@pytest.mark.parametrize(
    "name", ["stage_2_detailed_class_info.csv", "stage_2_train_labels.csv", "stage_2_train_images"]
)
def test_an_incomplete_release(root, refused, name):
    (root / name).rename(root.parent / name)
    for more in ((), ("--all-normal",)):
        err = refused(train.main, "--data", root, "--out", root / "run", *more)
        assert f"is of the RSNA Pneumonia Detection Challenge but {name} is missing: download it" in err


def test_images_alone_are_not_taken_for_healthy(root, refused):
    for path in root.glob("*.csv"):
        path.unlink()
    err = refused(train.main, "--data", root, "--out", root / "run")
    assert "stage_2_detailed_class_info.csv is missing" in err


def test_the_folder_of_the_images_is_not_taken_for_healthy(root, refused):
    err = refused(train.main, "--data", root / "stage_2_train_images", "--out", root / "run")
    assert "it is not known which images" in err and "stage_2_detailed_class_info.csv" in err


def test_missing_images(root):
    (root / "stage_2_train_images" / f"{IDS[0]}.dcm").unlink()
    with pytest.raises(UserError, match=f"1 of 28 listed images are missing, such as 'stage_2_train_images/{IDS[0]}"):
        open_data(root, size=8)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        ("class_info", ",Normal", ",normal?", "class_info.csv line 2: class is 'normal\\?', it should be Normal"),
        ("class_info", f"{IDS[25]},Lung Opacity", f"{IDS[25]},Normal", "line 28: .* has another class than in an"),
        (
            "class_info",
            f"{IDS[0]},Normal\n",
            "",
            "labels.csv line 2: Target of .*0001' is '0', but its class in .* 'missing'",
        ),
        (
            "class_info",
            f"{IDS[24]},Lung Opacity",
            f"{IDS[24]},Normal",
            "Target of .* is '1', but its class .* 'Normal'",
        ),
        ("labels", f"{IDS[0]},,,,,0\n", "", "labels.csv does not list .*0001', which"),
        ("labels", f"{IDS[0]},,,,,0", f"{IDS[0]},,,,,1", "labels.csv line 2: Target of .* is '1', but its class"),
        ("labels", f"{IDS[0]},,,,,0", f"{IDS[0]},1,1,1,1,0", "labels.csv line 2: 1, 1, 1, 1 should be a box"),
        ("labels", f"{IDS[24]},0.0,0.0,10.0,10.0", f"{IDS[24]},0.0,0.0,10.0,0", "0.0, 0.0, 10.0, 0 should be a box"),
        ("labels", f"{IDS[24]},0.0,0.0,10.0,10.0", f"{IDS[24]},,0.0,10.0,10.0", ", 0.0, 10.0, 10.0 should be a box"),
        ("labels", f"{IDS[24]},0.0,0.0,10.0,10.0", f"{IDS[24]},,,,", ", , ,  should be a box"),
    ],
)
def test_what_is_wrong_is_said(root, file, old, new, message):
    (path,) = root.glob(f"*{file}.csv")
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    edit(path, old, new)
    with pytest.raises(UserError, match=message):
        open_data(root, size=8)


@pytest.mark.parametrize(
    "content", ["{}x", '["a"]', '[{"img_id": "1_1.png"}]', '[{"subset_img_id": "a", "img_id": 3}]']
)
def test_a_broken_mapping(root, content):
    (root / MAPPING).write_text(content)
    with pytest.raises(UserError, match="is no list of img_id and subset_img_id"):
        open_data(root, size=8)
    (root / MAPPING).write_text('[{"subset_img_id": "a", "img_id": "00000001_000.png"}]')
    with pytest.raises(UserError, match=f"does not name '{IDS[0]}'"):
        open_data(root, size=8)


def test_full_run(root, command, tmp_path):
    found = run_everything(command, root, tmp_path)
    assert found["split"] == "test" and found["images"]["normal"] == 2 and found["images"]["abnormal"] == 6
