import csv
import errno
import os
import shutil
from collections import Counter
from functools import partial
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image
from released import listed, run_everything, write_image

from fastsquid import train
from fastsquid.data import open_data, read_image
from fastsquid.data.sources.chexpert import DISEASES, Row, hold_out
from fastsquid.errors import UserError

HEADER = [
    "Path",
    "Sex",
    "Age",
    "Frontal/Lateral",
    "AP/PA",
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]


def row(patient, view=("Frontal", "PA"), study=1, part="train", **findings):
    name = f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study{study}/view1_{view[0].lower()}.jpg"
    return {
        "Path": name,
        "Sex": "Female",
        "Age": "50",
        "Frontal/Lateral": view[0],
        "AP/PA": view[1],
        **{name.replace("_", " "): value for name, value in findings.items()},
    }


def write(path, rows, header=HEADER):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, header, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def release(folder, train, valid=(), drop=1):
    """A small release: the CSVs and, for frontal PA rows only, the images, without `drop` leading folders."""
    for name, rows in (("train", train), ("valid", valid)):
        if rows:
            write(folder / f"{name}.csv", rows)
        for r in rows:
            if (r["Frontal/Lateral"], r["AP/PA"]) == ("Frontal", "PA"):
                path = folder.joinpath(*r["Path"].split("/")[drop:])
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8), int(path.parts[-3][7:]), np.uint8)).save(path)
    return folder


def normals(first, count):
    return [row(i, No_Finding="1.0") for i in range(first, first + count)]


def sick(first, count):
    return [row(i, Edema="1.0", Support_Devices="1.0") for i in range(first, first + count)]


@pytest.mark.parametrize("drop", [0, 1])
def test_release(tmp_path, drop):
    valid = [row(90, part="valid", No_Finding="1.0"), row(91, part="valid", Fracture="1.0")]
    splits = open_data(release(tmp_path, normals(0, 20) + sick(30, 10), valid, drop), size=8)
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"].labels.tolist() == [0] * 16
    assert splits["test"].labels.tolist() == [0] * 4 + [1] * 2
    assert splits["val"].labels.tolist() == [0, 1]
    assert splits["val"].names == [r["Path"] for r in valid]
    for split in splits.values():  # every image is the one of its name
        assert split.images[:, 0, 0, 0].tolist() == [int(name.split("/")[2][7:]) for name in split.names]
    assert not set(splits["train"].names) & set(splits["test"].names)


def test_anonymous_names(tmp_path):
    open_train = partial(open_data, release(tmp_path, normals(0, 5)), size=8, splits=("train",))
    files = [tmp_path.joinpath(*name.split("/")[1:]) for name in open_train()["train"].names]
    assert open_train(anonymous=True)["train"].names == [sha256(file.read_bytes()).hexdigest()[:16] for file in files]
    write(tmp_path / "train.csv", [dict(row(1, No_Finding="1"), Path="doe.jpg")])
    with pytest.raises(UserError, match=r"train\.csv line 2: .*patient00001"):
        open_train(anonymous=True)


def test_test_split_is_the_same_at_every_call_and_seed(tmp_path):
    release(tmp_path, normals(0, 20) + sick(30, 10))
    assert open_data(tmp_path, size=8, seed=0)["test"].names == open_data(tmp_path, size=8, seed=5)["test"].names


def test_only_certain_frontal_pa_images_are_read(tmp_path):
    unclear = [
        row(50, Edema="-1.0"),
        row(51, No_Finding="0.0"),
        row(52),
        row(53, Support_Devices="1.0"),
        row(54, view=("Frontal", "AP"), No_Finding="1.0"),
        row(55, view=("Lateral", ""), No_Finding="1.0"),
    ]
    splits = open_data(release(tmp_path, normals(0, 4) + unclear), size=8)
    assert list(splits) == ["train"] and len(splits["train"]) == 4


def test_a_disease_outweighs_no_finding(tmp_path):
    both = [row(i, No_Finding="1.0", Fracture="1.0") for i in range(60, 65)]
    splits = open_data(release(tmp_path, normals(0, 4) + both), size=8)
    assert len(splits["train"]) == 4 and splits["test"].labels.tolist() == [1]


def test_classes(tmp_path):
    valid = [
        row(90, part="valid", No_Finding="1.0"),
        row(91, part="valid", Fracture="1.0"),
        row(92, part="valid", Fracture="1.0", Edema="1.0"),
        row(93, part="valid", Edema="1.0", Fracture="-1.0"),
    ]
    splits = open_data(release(tmp_path, normals(0, 4), valid), size=8)
    assert splits["train"].classes == ["normal"] * 4
    assert splits["val"].classes == ["normal", "Fracture", "abnormal", "Edema"]
    assert splits["train"].findings is None
    assert splits["val"].findings == [(), ("Fracture",), ("Edema", "Fracture"), ("Edema",)]
    masks = {name: mask.tolist() for name, mask in splits["val"].abnormal_masks().items()}
    assert masks == {"Edema": [False, False, True, True], "Fracture": [False, True, True, False]}
    assert splits["val"].abnormal_classes == ["Edema", "Fracture"]


def test_findings_of_the_images_that_could_be_read(tmp_path):
    valid = [
        row(90, part="valid", Fracture="1.0", Edema="1.0"),
        row(91, part="valid", No_Finding="1.0"),
        row(92, part="valid", Cardiomegaly="1.0"),
        row(93, part="valid", Pneumothorax="1.0"),
        row(94, part="valid", Pneumonia="1.0", Atelectasis="1.0"),
    ]
    folder = release(tmp_path, normals(0, 4), valid)
    broken = [folder.joinpath(*valid[i]["Path"].split("/")[1:]) for i in (2, 0, 4)]
    broken[0].write_bytes(b"corrupt")
    opened = partial(open_data, folder, size=8, splits=("val",), skip_unreadable=True)
    assert opened()["val"].findings == [("Edema", "Fracture"), (), ("Pneumothorax",), ("Pneumonia", "Atelectasis")]
    for path in broken[1:]:
        path.write_bytes(b"corrupt")
    split = opened()["val"]
    assert split.findings is None and split.abnormal_findings() == [(), ("Pneumothorax",)]  # no more than the class


def test_paper_protocol():
    rng = np.random.default_rng(1)
    rows = [Row(f"n{i}", f"patient{i // 3}", 0, ()) for i in range(3000)]
    rare = [Row(f"r{d}-{i}", f"patient{5000 + i}", 1, (d,)) for d in DISEASES[1:] for i in range(60)]
    common = [Row(f"a{i}", f"patient{rng.integers(1000)}", 1, ("Enlarged Cardiomediastinum",)) for i in range(5000)]
    train, test = hold_out(rows + rare + common)
    assert Counter(r.label for r in test) == {0: 250, 1: 250}
    assert len(set(test)) == 500
    counts = Counter(d for r in test for d in r.diseases)
    assert all(counts[d] >= 10 for d in DISEASES)
    assert not {r.patient for r in train} & {r.patient for r in test}
    assert all(r.label == 0 for r in train)
    held = {r.patient for r in test}
    assert set(train) == {r for r in rows if r.patient not in held}


def test_patients_of_the_test_leave_train_with_all_their_images(tmp_path):
    twice = [row(i, study=study, No_Finding="1.0") for i in range(10) for study in (1, 2)]
    splits = open_data(release(tmp_path, twice), size=8)
    patients = {name: {n.split("/")[2] for n in split.names} for name, split in splits.items()}
    assert len(splits["test"]) == 4 and not patients["train"] & patients["test"]
    assert len(splits["train"]) == 20 - 2 * len(patients["test"])


def test_valid_is_optional_and_read_alone(tmp_path):
    valid = [row(90, part="valid", No_Finding="1.0")]
    release(tmp_path, normals(0, 5), valid)
    assert list(open_data(tmp_path, size=8, splits=("val",))) == ["val"]
    (tmp_path / "valid.csv").unlink()
    assert open_data(tmp_path, size=8, splits=("val",)) == {}


@pytest.mark.parametrize("column", ["Path", "AP/PA", "No Finding", "Pleural Other"])
def test_missing_column(tmp_path, column):
    write(tmp_path / "train.csv", normals(0, 5), [name for name in HEADER if name != column])
    with pytest.raises(UserError, match=f"train.csv .*'{column}'"):
        open_data(tmp_path, size=8)


def test_missing_image_is_named_and_can_be_skipped(tmp_path):
    release(tmp_path, normals(0, 4))
    (tmp_path / "train/patient00002/study1/view1_frontal.jpg").unlink()
    with pytest.raises(UserError, match=f"patient00002.*{os.strerror(errno.ENOENT)}"):
        open_data(tmp_path, size=8)
    train = open_data(tmp_path, size=8, skip_unreadable=True)["train"]
    assert train.skipped == 1 and len(train) == 3


@pytest.mark.parametrize(
    "rows, message",
    [
        ([row(1, No_Finding="yes")], r"train\.csv line 2\b.*No Finding\b.*'yes'"),
        ([row(1, No_Finding="1"), dict(row(2, No_Finding="1"), Path="a.jpg")], r"train\.csv line 3\b.*Path 'a\.jpg'"),
        ([row(1, Edema="1")], r"train\.csv .*No Finding = 1"),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    write(tmp_path / "train.csv", rows)
    with pytest.raises(UserError, match=message):
        open_data(tmp_path, size=8)


def test_byte_order_mark_before_the_first_column(tmp_path):
    path = release(tmp_path, normals(0, 4)) / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(open_data(tmp_path, size=8)["train"]) == 4


def test_binary_csv(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(UserError, match="train.csv .*CSV"):
        open_data(tmp_path, size=8)


def test_another_csv_beside_the_split_folders_is_not_chexpert(tmp_path):
    (tmp_path / "train" / "NORMAL").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "train" / "NORMAL" / "a.png")
    (tmp_path / "train.csv").write_text("file,label\na.png,0\n")
    assert open_data(tmp_path, size=8)["train"].names == ["NORMAL/a.png"]


BATCHES = (
    "CheXpert-v1.0 batch 1 (validate & csv)",
    "CheXpert-v1.0 batch 2 (train 1)",
    "CheXpert-v1.0 batch 3 (train 2)",
    "CheXpert-v1.0 batch 4 (train 3)",
)
VALID = [row(90, part="valid", No_Finding="1.0"), row(91, part="valid", Fracture="1.0")]


def in_batches(folder):
    """The full-size release as it is unpacked: patients in three batches, the CSVs and valid/ in the first one."""
    full = [{**r, "Path": r["Path"].replace("-small", "")} for r in [*normals(0, 20), *sick(30, 10), *VALID]]
    (folder / BATCHES[0]).mkdir()
    write(folder / BATCHES[0] / "train.csv", full[:-2])
    write(folder / BATCHES[0] / "valid.csv", full[-2:])
    for i, r in enumerate(full):
        part, patient = r["Path"].split("/")[1:3]
        path = folder / (f"{BATCHES[0]}/valid" if part == "valid" else BATCHES[1 + i % 3]) / patient
        write_image(path / "/".join(r["Path"].split("/")[3:]), int(patient[7:]))
    return folder


@pytest.mark.parametrize("root", [".", BATCHES[0]])
def test_batch_folders(tmp_path, root):
    data = open_data(in_batches(tmp_path) / root, size=8)
    assert {name: split.labels.tolist() for name, split in data.items()} == {
        "train": [0] * 16,
        "val": [0, 1],
        "test": [0] * 4 + [1] * 2,
    }
    for split in data.values():
        for name, image in zip(split.names, split.images):
            write_image(tmp_path / "one.jpg", int(name.split("/patient")[1][:5]))
            assert (image == read_image(tmp_path / "one.jpg", 8)).all()
            assert (tmp_path / name).is_file() or root != "."


def test_the_csv_is_in_a_folder_below(tmp_path):
    (tmp_path / "CheXpert-v1.0-small").mkdir()
    release(tmp_path / "CheXpert-v1.0-small", normals(0, 5))
    assert len(open_data(tmp_path, size=8)["train"]) == 4


def test_a_batch_that_is_not_unpacked(tmp_path):
    shutil.rmtree(in_batches(tmp_path) / BATCHES[2])
    with pytest.raises(UserError, match=r"is CheXpert but \d of 24 listed images are missing, such as .*patient000"):
        open_data(tmp_path, size=8)


@pytest.mark.parametrize("root", [".", "train", "valid"])
def test_images_alone_are_not_taken_as_healthy(tmp_path, root, refused):
    release(tmp_path, normals(0, 4) + sick(30, 4), VALID)
    (tmp_path / "train.csv").unlink()
    message = refused(train.main, "--data", tmp_path / root, "--out", tmp_path / "run", "--all-normal")
    assert "is CheXpert but train.csv is missing" in message


# The official test set: `test_labels.csv` of CheXlocalize names images, `groundtruth.csv` names studies.
GROUND = [
    ("patient64741/study1", ["view1_frontal.jpg", "view2_lateral.jpg"], {"No Finding": 1}),
    ("patient64742/study1", ["view1_frontal.jpg", "view2_frontal.jpg"], {"Edema": 1, "Lung Opacity": 1}),
    ("patient64743/study1", ["view1_frontal.jpg"], {"Pleural Other": 1, "Support Devices": 1}),
    ("patient64744/study1", ["view1_frontal.jpg"], {"Support Devices": 1}),
    ("patient64745/study1", ["view1_frontal.jpg"], {}),
]
EXPECTED = [
    ("64741/study1/view1_frontal.jpg", 0, "normal"),
    ("64742/study1/view1_frontal.jpg", 1, "abnormal"),
    ("64742/study1/view2_frontal.jpg", 1, "abnormal"),
    ("64743/study1/view1_frontal.jpg", 1, "Pleural Other"),
]


def official_test(folder, by_study, name=None):
    header = ["Study" if by_study else "Path", *HEADER[5:]]
    rows = []
    for study, views, findings in GROUND:
        for i, view in enumerate(views):
            write_image(folder / "test" / study / view, int(study[7:12]) % 255 + i)
        found = {name: findings.get(name, 0) for name in HEADER[5:]}
        if by_study:
            rows.append({"Study": f"CheXpert-v1.0/test/{study}", **found})
        else:
            rows += [{"Path": f"test/{study}/{view}", **found} for view in views]
    write(folder / (name or ("groundtruth.csv" if by_study else "test_labels.csv")), rows, header)


@pytest.mark.parametrize("by_study", [False, True])
def test_official_test_set(tmp_path, by_study):
    release(tmp_path, normals(0, 20) + sick(30, 10), VALID)
    official_test(tmp_path, by_study)
    data = open_data(tmp_path, size=8)
    assert len(data["train"]) == 20 and not data["train"].labels.any()  # nothing is held out
    assert [(name.split("patient")[1], *rest) for name, *rest in listed(data)["test"]] == EXPECTED


def test_squid_takes_no_official_test_set(tmp_path):
    """--protocol squid-chexpert draws the test from train.csv, whether the official test set is there or not."""
    release(tmp_path, normals(0, 20) + sick(30, 10), VALID)
    before = open_data(tmp_path, 8, protocol="squid-chexpert")
    official_test(tmp_path, by_study=False)
    after = open_data(tmp_path, 8, protocol="squid-chexpert")
    assert {name: split.names for name, split in after.items()} == {n: split.names for n, split in before.items()}
    assert open_data(tmp_path, 8)["test"].names != after["test"].names


def test_official_test_set_alone(tmp_path):
    (tmp_path / "CheXpert").mkdir()
    official_test(tmp_path / "CheXpert", False)
    assert [label for _, label, _ in listed(open_data(tmp_path, size=8, splits=("val", "test")))["test"]] == [
        0,
        1,
        1,
        1,
    ]
    with pytest.raises(UserError, match="train.csv is missing"):
        open_data(tmp_path, size=8)
    shutil.rmtree(tmp_path / "CheXpert" / "test" / "patient64743")
    with pytest.raises(UserError, match="1 of 4 listed images are missing, such as .*64743"):
        open_data(tmp_path, size=8, splits=("test",))


def test_a_test_file_with_views_has_pa_only(tmp_path):
    release(tmp_path, normals(0, 20))
    rows = [row(95, part="test", No_Finding="1"), row(96, part="test", view=("Frontal", "AP"), Edema="1")]
    write(tmp_path / "test.csv", rows)
    write_image(tmp_path / rows[0]["Path"].split("/", 1)[1], 95)
    assert open_data(tmp_path, size=8)["test"].names == [rows[0]["Path"]]


def test_a_study_of_the_test_set_without_images(tmp_path):
    release(tmp_path, normals(0, 20))
    official_test(tmp_path, True)
    shutil.rmtree(tmp_path / "test" / "patient64743")
    with pytest.raises(UserError, match="1 of 24 listed images are missing, such as .*64743"):
        open_data(tmp_path, size=8)


def test_full_run(tmp_path, command):
    found = run_everything(command, release(tmp_path, normals(0, 20) + sick(30, 10), VALID, drop=0), tmp_path)
    assert found["split"] == "test" and (found["images"]["normal"], found["images"]["abnormal"]) == (4, 2)
