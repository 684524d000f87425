"""VinDr-CXR in the form of its release on PhysioNet."""

import pytest
from released import listed, run_everything, write_table

pytest.importorskip("pydicom")
from vindr_files import image_id, write_image

from fastsquid import train
from fastsquid.data import known_source, open_data
from fastsquid.data.sources.vindr import agree
from fastsquid.errors import UserError

NOTHING = "No finding"
# The columns in the order of the release; train says `Other diseases`, test `Other disease`.
FINDINGS = [
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
]
# Image: what three radiologists wrote, or their consensus.
TRAIN = {
    **{i: [{NOTHING}] * 3 for i in range(18)},
    18: [{"ILD", "Edema"}, {"ILD"}, {"Atelectasis"}],
    19: [{"Pneumonia", "Other diseases"}] * 2 + [{"Other diseases"}],
    20: [{NOTHING}, {NOTHING}, {"ILD"}],  # disagreement
    21: [{NOTHING}, {NOTHING}, set()],
}
TEST = {
    50: [{NOTHING}],
    51: [{NOTHING}],
    52: [{"Nodule/Mass"}],
    53: [{"ILD", "Other diseases"}],
    54: [{NOTHING, "Tuberculosis"}],  # nobody knows
}
# Image, radiologist, finding, box; the images have 20 x 40 pixels.
BOXES = {
    "train": [
        *((18, "R9", "ILD", (0, 0, 10, 10)), (18, "R9", "Edema", (0, 0, 1, 1)), (18, "R10", "ILD", (10, 20, 20, 40))),
        *((18, "R8", "Atelectasis", (2, 2, 3, 3)), (20, "R8", "ILD", (2, 2, 3, 3)), (0, "R9", NOTHING, ("",) * 4)),
        (19, "R9", "Pneumonia", ("",) * 4),
    ],
    "test": [
        *((52, "", "Nodule/Mass", (5, 0, 10, 30)), (53, "", "ILD", (0, 20, 20, 40)), (50, "", NOTHING, ("",) * 4)),
    ],
}


def labels(part, images, other):
    for i, votes in images.items():
        for reader, written in zip(("R9", "R10", "R8"), votes):
            row = {"image_id": image_id(i), **({"rad_id": reader} if part == "train" else {})}
            row.update({name: int(name in written) for name in FINDINGS})
            yield {**row, other: int("Other diseases" in written), NOTHING: int(NOTHING in written)}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "vindr-cxr"
    for part, images, other in (("train", TRAIN, "Other diseases"), ("test", TEST, "Other disease")):
        for i in images:
            write_image(root / part / f"{image_id(i)}.dicom", i)
        write_table(root / "annotations" / f"image_labels_{part}.csv", list(labels(part, images, other)))
        rows = [
            {
                "image_id": image_id(i),
                **({"rad_id": reader} if part == "train" else {}),
                "class_name": finding,
                **dict(zip(("x_min", "y_min", "x_max", "y_max"), box)),
            }
            for i, reader, finding, box in BOXES[part]
        ]
        write_table(root / "annotations" / f"annotations_{part}.csv", rows)
    return root


def test_consensus():
    none, ild, edema = ({name} for name in (NOTHING, "ILD", "Edema"))
    assert agree([none, none, none]) == (0, ())
    assert agree([ild, ild | edema, edema | ild]) == (1, ("Edema", "ILD"))
    assert agree([ild, edema, {"COPD"}]) == (1, ())  # all saw something, and each something else
    assert agree([none, none, ild]) == agree([none, ild, ild]) == agree([ild, ild, set()]) == (None, ())
    assert agree([none | ild]) == agree([set()]) == (None, ())


def test_splits_labels_and_classes(root, caplog):
    data = open_data(root, size=8)
    assert known_source(root).name == "vindr"
    path = {i: f"{'test' if i >= 50 else 'train'}/{image_id(i)}.dicom" for i in (*TRAIN, *TEST)}
    assert listed(data)["test"] == [
        (path[50], 0, "normal"),
        (path[51], 0, "normal"),
        (path[52], 1, "Nodule/Mass"),
        (path[53], 1, "abnormal"),
    ]
    val = [row for row in listed(data)["val"] if row[1]]
    assert sorted(val) == sorted([(path[18], 1, "ILD"), (path[19], 1, "abnormal")])
    assert len(data["val"]) == 4 and len(data["train"]) == 16 and not data["train"].labels.any()
    assert {*data["train"].names, *data["val"].names} == {path[i] for i in range(20)}
    assert "left out 2 of 22 images" in caplog.text and "left out 1 of 5 images" in caplog.text


def test_boxes(root):
    data = open_data(root, size=8)
    places = {name: place for split in (data["val"], data["test"]) for name, place in zip(split.names, split.places)}
    # of both who wrote ILD; what only one of three wrote does not count
    assert places[f"train/{image_id(18)}.dicom"].boxes == (("ILD", 0, 0, 0.5, 0.25), ("ILD", 0.5, 0.5, 1, 1))
    assert places[f"train/{image_id(19)}.dicom"] is None  # pneumonia has no box
    assert places[f"test/{image_id(50)}.dicom"].boxes == ()
    assert places[f"test/{image_id(52)}.dicom"].boxes == (("Nodule/Mass", 0.25, 0, 0.5, 0.75),)
    assert places[f"test/{image_id(53)}.dicom"].boxes == (("ILD", 0, 0.5, 1, 1),)


@pytest.mark.parametrize(
    "name",
    [f"annotations/{kind}_{part}.csv" for kind in ("image_labels", "annotations") for part in ("train", "test")]
    + ["train", "test"],
)
def test_an_incomplete_release(root, refused, name):
    (root / name).rename(root.parent / "elsewhere")
    err = refused(train.main, "--data", root, "--out", root / "run", "--all-normal")
    assert f"is VinDr-CXR but {name} is missing: download it from https://physionet.org" in err


def test_missing_images(root):
    (root / "test" / f"{image_id(50)}.dicom").unlink()
    with pytest.raises(UserError, match=f"1 of 24 listed images are missing, such as 'test/{image_id(50)}.dicom'"):
        open_data(root, size=8)


def edit(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)))


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("image_labels_train", lambda ls: [ls[0], ls[1].replace(",0,", ",2,", 1)], "line 2: Aortic .* is '2'"),
        ("image_labels_train", lambda ls: [*ls, ls[-1]], "has a row of R8 already"),
        ("image_labels_test", lambda ls: [*ls, ls[-1]], "has a row of the consensus already"),
        ("image_labels_test", lambda ls: [ls[0], ls[1][32:]], "line 2 has no image_id"),
        (
            "image_labels_test",
            lambda ls: [ls[0].replace("Other disease", "O"), *ls[1:]],
            "no column 'Other diseases' or",
        ),
        ("image_labels_train", lambda ls: [ls[0].replace("rad_id", "R"), *ls[1:]], "no column 'rad_id'"),
        ("annotations_train", lambda ls: [ls[0], ls[1].replace("ILD", "Flu")], "line 2: class_name is 'Flu'"),
        ("annotations_train", lambda ls: [ls[0], ls[1].replace("ILD", "COPD")], "line 2: class_name is 'COPD'"),
        ("annotations_test", lambda ls: [ls[0], ls[1].replace("10,30", "4,30")], "line 2: 5, 0, 4, 30 is no box"),
        ("annotations_test", lambda ls: [ls[0], ls[1].replace("10,30", ",")], "line 2: 5, 0, ,  is no box"),
        ("annotations_test", lambda ls: [ls[0], "0" + ls[1][1:]], "line 2: .* is not in the table of image labels"),
    ],
)
def test_what_is_wrong_is_said(root, file, change, message):
    edit(root / "annotations" / f"{file}.csv", change)
    with pytest.raises(UserError, match=f"{file}.csv .*{message}"):
        open_data(root, size=8)


def test_full_run(root, command, tmp_path):
    found = run_everything(command, root, tmp_path)
    assert found["split"] == "test" and found["images"]["normal"] == 2 and found["images"]["abnormal"] == 2
