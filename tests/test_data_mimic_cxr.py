"""MIMIC-CXR-JPG in the form of its release on PhysioNet."""

import gzip
import shutil
from hashlib import sha256

import pytest
from released import listed, run_everything, write_image, write_table

from fastsquid import train
from fastsquid.data import known_source, open_data
from fastsquid.errors import UserError

LABELS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
).split(",")
METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
).split(",")
# Patient, study, views, split, findings: every kind of row.
STUDIES = [
    (10000032, 50414267, ("PA", "LATERAL"), "train", {"No Finding": "1.0", "Pneumonia": ""}),
    (10000032, 50414268, ("AP",), "train", {"No Finding": "1.0", "Support Devices": "1.0"}),
    (11000044, 51000001, ("AP",), "train", {"Edema": "1.0"}),
    (12000055, 52000001, ("PA",), "validate", {"No Finding": "1.0"}),
    (12000055, 52000002, ("AP", "LL", ""), "validate", {"Pneumonia": "1.0", "Edema": "-1.0"}),
    (13000066, 53000001, ("PA", "PA"), "test", {"No Finding": "1.0"}),
    (13000066, 53000002, ("AP",), "test", {"Fracture": "1.0", "Lung Lesion": "1.0", "Pneumothorax": "0.0"}),
    (13000066, 53000003, ("PA",), "test", {"Pneumonia": "-1.0"}),
    (13000066, 53000004, ("PA",), "test", {"Support Devices": "1.0"}),
    (13000066, 53000005, ("PA",), "test", {"No Finding": "1.0", "Atelectasis": "1.0"}),
]


def image_of(study, number):
    return "-".join(sha256(f"{study}/{number}".encode()).hexdigest()[i : i + 8] for i in range(0, 40, 8))


def path_of(patient, study, number=0):
    return f"files/p{str(patient)[:2]}/p{patient}/s{study}/{image_of(study, number)}.jpg"


def release(root, studies=STUDIES, packed=True, shape=(20, 24)):
    """Write the tables and all images of a release."""
    labels, splits, views = [], [], []
    for patient, study, positions, split, findings in studies:
        labels.append({"subject_id": patient, "study_id": study, **{name: findings.get(name, "") for name in LABELS}})
        for number, position in enumerate(positions):
            image = {"dicom_id": image_of(study, number), "study_id": study, "subject_id": patient}
            splits.append({**image, "split": split})
            known = {**image, "ViewPosition": position, "Rows": 3056, "Columns": 2544, "StudyDate": 21800506}
            views.append({name: known.get(name, "CHEST (PA AND LAT)") for name in METADATA})
            write_image(root / path_of(patient, study, number), len(views), shape)
    for name, rows in {"chexpert": labels, "split": splits, "metadata": views}.items():
        path = root / f"mimic-cxr-2.0.0-{name}.csv"
        write_table(path, rows)
        if packed:
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return root


@pytest.mark.parametrize("packed", [True, False])
def test_release(tmp_path, packed):
    data = open_data(release(tmp_path, packed=packed), size=16)
    assert known_source(tmp_path).name == "mimic-cxr"
    assert listed(data) == {
        "train": [(path_of(10000032, 50414267), 0, "normal"), (path_of(10000032, 50414268), 0, "normal")],
        "val": [(path_of(12000055, 52000001), 0, "normal"), (path_of(12000055, 52000002), 1, "Pneumonia")],
        "test": [
            (path_of(13000066, 53000001, 0), 0, "normal"),
            (path_of(13000066, 53000001, 1), 0, "normal"),
            (path_of(13000066, 53000002), 1, "abnormal"),
            (path_of(13000066, 53000005), 1, "Atelectasis"),
        ],
    }
    assert not any(split.drawn for split in data.values())


def test_labels_of_negbio_where_those_of_chexpert_are_missing(tmp_path):
    data = open_data(release(tmp_path, packed=False), size=16)
    labels = tmp_path / "mimic-cxr-2.0.0-chexpert.csv"
    labels.with_name("mimic-cxr-2.0.0-negbio.csv").write_text(labels.read_text().replace("1.0", "-1.0"))
    assert listed(open_data(tmp_path, size=16)) == listed(data)  # both are there
    labels.rename(labels.with_name("mimic-cxr-2.0.0-negbio.csv"))
    assert listed(open_data(tmp_path, size=16)) == listed(data)


@pytest.mark.parametrize("one, other", [("No Finding", "Support Devices"), ("Edema", "Atelectasis")])
def test_swapped_columns_are_seen(tmp_path, one, other):
    right = listed(open_data(release(tmp_path / "a"), size=16))
    swap = {one: other, other: one}
    studies = [(*study[:4], {swap.get(name, name): value for name, value in study[4].items()}) for study in STUDIES]
    assert listed(open_data(release(tmp_path / "b", studies), size=16)) != right


@pytest.mark.parametrize("name", ["chexpert", "split", "metadata"])
def test_a_missing_table_is_named(tmp_path, name, refused):
    release(tmp_path)
    (tmp_path / f"mimic-cxr-2.0.0-{name}.csv.gz").unlink()
    message = refused(train.main, "--data", tmp_path, "--out", tmp_path / "run", "--all-normal")
    assert f"MIMIC-CXR-JPG but mimic-cxr-2.0.0-{name}.csv.gz is missing" in message


def test_images_alone_are_not_taken_as_healthy(tmp_path):
    release(tmp_path)
    for path in tmp_path.glob("*.gz"):
        path.unlink()
    for root in (tmp_path, tmp_path / "files"):
        with pytest.raises(UserError, match="MIMIC-CXR-JPG but .*chexpert.csv.gz is missing"):
            open_data(root, size=16)


def test_tables_alone(tmp_path):
    shutil.rmtree(release(tmp_path) / "files")
    with pytest.raises(UserError, match="8 of 8 listed images are missing, such as 'files/p10/p10000032/s50414267/"):
        open_data(tmp_path, size=16)


def test_tables_beside_the_folders_of_patients(tmp_path):
    root = release(tmp_path)
    for part in ("p10", "p11", "p12", "p13"):
        (root / "files" / part).rename(root / part)
    assert len(open_data(root, size=16)["test"]) == 4


def test_images_that_are_not_downloaded(tmp_path):
    (release(tmp_path) / path_of(10000032, 50414268)).unlink()
    with pytest.raises(UserError, match="is incomplete: 1 of 8 listed images are missing, such as .*50414268"):
        open_data(tmp_path, size=16)
    assert len(open_data(tmp_path, size=16, skip_unreadable=True)["train"]) == 1


@pytest.mark.parametrize(
    "table, change, message",
    [
        ("chexpert", ("1.0", "2.0"), r"chexpert.csv line 2: No Finding is '2.0'"),
        ("chexpert", ("50414268", "50414267"), r"chexpert.csv line 3: the study 50414267 is there twice"),
        ("chexpert", ("No Finding", "Nothing"), r"chexpert.csv has no column 'No Finding'"),
        ("split", ("validate", "valid"), r"split.csv line 6: split is 'valid'"),
        ("split", (image_of(50414267, 0), "x"), r"metadata.csv line 2: .* is not in mimic-cxr-2.0.0-split.csv"),
        ("metadata", ("ViewPosition", "View"), r"metadata.csv has no column 'ViewPosition'"),
        ("metadata", (",5", ",6"), r"lists no frontal images with clear findings"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, table, change, message):
    path = release(tmp_path, packed=False) / f"mimic-cxr-2.0.0-{table}.csv"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        open_data(tmp_path, size=16)


def test_a_patient_in_two_splits(tmp_path):
    with pytest.raises(UserError, match="of the same patient"):
        open_data(release(tmp_path, [*STUDIES, (10000032, 59, ("PA",), "test", {"Edema": "1"})]), size=16)


def test_full_run(tmp_path, command):
    healthy = [(14000000 + i, 54000000 + i, ("PA",), "train", {"No Finding": "1.0"}) for i in range(6)]
    found = run_everything(command, release(tmp_path, [*STUDIES, *healthy]), tmp_path)
    assert found["split"] == "test" and (found["images"]["normal"], found["images"]["abnormal"]) == (2, 2)
