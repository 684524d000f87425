"""PadChest in the form of its release."""

import gzip

import pytest
from released import listed, run_everything, write_image, write_table

from fastsquid import train
from fastsquid.data import known_source, open_data
from fastsquid.errors import UserError

CSV = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
    "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
    "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,"
    "labelCUIS,LocalizationsCUIS"
).split(",")
USUAL = {
    "StudyDate_DICOM": "20140915",
    "PatientSex_DICOM": "F",
    "ViewPosition_DICOM": "POSTEROANTERIOR",
    "Projection": "PA",
    "MethodProjection": "Manual review of DICOM fields",
    "Pediatric": "No",
    "Modality_DICOM": "CR",
    "PhotometricInterpretation_DICOM": "MONOCHROME2",
    "PixelAspectRatio_DICOM": "['1', '1']",
    "Report": "sin hallazg patolog , edad pulmon pleural",
    "MethodLabel": "Physician",
    "Localizations": "['loc normal']",
    "LabelsLocalizationsBySentence": "[['normal'], ['pleural effusion', 'loc right']]",
}
NORMAL = "['normal']"


def row(number, labels=NORMAL, patient=None, **others):
    study = 20536686640136348236148679891455886468 + number
    patient = number if patient is None else patient
    known = {"": number, "ImageID": f"{study}_k6ga29.png", "ImageDir": number % 3, "StudyID": study}
    known.update(PatientID=839860488694292331637988235681460987 + patient, Labels=labels)
    return {name: {**known, **USUAL, **others}.get(name, "") for name in HEADER}


def release(root, rows, place="{ImageDir}/{ImageID}", packed=False):
    """Write the CSV and all images."""
    write_table(root / CSV, rows)
    if packed:
        (root / f"{CSV}.gz").write_bytes(gzip.compress((root / CSV).read_bytes()))
        (root / CSV).unlink()
    for one in rows:
        write_image(root / place.format(**one), one[""])
    return root


def found_labels(root):
    """{number of the image: (label, class)} of all splits."""
    found = [image for images in listed(open_data(root, size=16)).values() for image in images]
    return {int(name.split("/")[-1].split("_")[0][-4:]) - 6468: rest for name, *rest in found}


HEALTHY = [row(i) for i in range(12)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "place",
    ["{ImageDir}/{ImageID}", "images/{ImageDir}/{ImageID}", "{ImageID}", "images/{ImageID}", "images-224/{ImageID}"],
)
def test_every_layout(tmp_path, place, packed):
    rows = [*HEALTHY, *(row(i, "['pneumonia', ' Infiltrates ', '']") for i in range(20, 24))]
    data = open_data(release(tmp_path, rows, place, packed), size=16)
    assert known_source(tmp_path).name == "padchest" and all(split.drawn for split in data.values())
    assert {name: sorted(split.labels.tolist()) for name, split in data.items()} == {
        "train": [0] * 10,
        "val": [0, 1],
        "test": [0, 1, 1, 1],
    }
    written = {place.format(**one) for one in rows}
    names = [name for split in data.values() for name in split.names]
    assert len(names) == len(rows) and set(names) == written


def test_labels(tmp_path):
    kinds = {
        "['pleural effusion']": [1, "pleural effusion"],
        "['pneumonia', 'unchanged']": [1, "pneumonia"],
        "[' Pneumonia ', 'infiltrates', 'infiltrates']": [1, "abnormal"],
        "['Normal ']": [0, "normal"],
        "['pacemaker']": [1, "pacemaker"],
        "['normal', 'unchanged']": None,
        "['normal', 'scoliosis']": None,
        "['unchanged']": None,
        "['exclude']": None,
        "['suboptimal study', 'pneumonia']": None,
        "['exclude', 'normal']": None,
        "['']": None,
        "[]": None,
        "": None,
        "nan": None,
    }
    rows = [row(100 + i, labels) for i, labels in enumerate(kinds)]
    found = found_labels(release(tmp_path, [*HEALTHY, *rows]))
    assert [found.get(100 + i) for i in range(len(kinds))] == list(kinds.values())


@pytest.mark.parametrize(
    "others",
    [{"Projection": view} for view in ("L", "AP", "AP_horizontal", "COSTAL", "EXCLUDE", "")]
    + [{"Pediatric": "PED"}, {"PhotometricInterpretation_DICOM": "MONOCHROME1"}],
)
def test_what_is_left_out(tmp_path, others):
    found = found_labels(release(tmp_path, [*HEALTHY, row(100, **others), row(101, "['mass']", **others), row(102)]))
    assert not {100, 101} & set(found) and 102 in found


def test_patients_are_not_shared(tmp_path):
    rows = [row(i, NORMAL if i % 5 else "['mass']", patient=i // 3) for i in range(60)]
    data = open_data(release(tmp_path, rows), size=16)
    patients = [
        {(int(name.split("/")[-1].split("_")[0][-4:]) - 6468) // 3 for name in split.names} for split in data.values()
    ]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 20


@pytest.mark.parametrize("one, other", [("ImageID", "StudyID"), ("Labels", "Localizations"), ("ImageDir", "Pediatric")])
def test_swapped_columns_are_seen(tmp_path, one, other):
    rows = [{**each, one: each[other], other: each[one]} for each in HEALTHY]
    release(tmp_path, HEALTHY)
    write_table(tmp_path / CSV, rows)
    with pytest.raises(UserError):
        open_data(tmp_path, size=16)


@pytest.mark.parametrize("place", ["{ImageDir}/{ImageID}", "{ImageID}", "images-224/{ImageID}"])
def test_images_alone_are_not_taken_as_healthy(tmp_path, place, refused):
    (release(tmp_path, HEALTHY, place) / CSV).unlink()
    message = refused(train.main, "--data", tmp_path, "--out", tmp_path / "run", "--all-normal")
    assert f"PadChest but {CSV} is missing" in message


def test_the_table_alone(tmp_path):
    write_table(tmp_path / CSV, HEALTHY)
    with pytest.raises(UserError, match="12 of 12 listed images are missing"):
        open_data(tmp_path, size=16)


@pytest.mark.parametrize(
    "others, message",
    [
        ({"Labels": "normal"}, "line 3: Labels is 'normal', it should be a list"),
        ({"Labels": "['normal'"}, "line 3: Labels is"),
        ({"Labels": "{'normal': 1}"}, "line 3: Labels is"),
        ({"Labels": "[1]"}, "line 3: Labels is"),
        ({"PatientID": " "}, "line 3 has no ImageID or no PatientID"),
        ({"ImageID": HEALTHY[0]["ImageID"], "ImageDir": 0}, "is listed twice"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, others, message):
    release(tmp_path, [HEALTHY[0], {**HEALTHY[1], **others}, *HEALTHY[2:]])
    with pytest.raises(UserError, match=message):
        open_data(tmp_path, size=16)


def test_no_healthy_image(tmp_path):
    with pytest.raises(UserError, match="lists no healthy images"):
        open_data(release(tmp_path, [row(i, "['mass']") for i in range(4)]), size=16)


def test_a_missing_column(tmp_path):
    write_table(tmp_path / CSV, [{name: one[name] for name in HEADER if name != "Projection"} for one in HEALTHY])
    with pytest.raises(UserError, match="no column 'Projection'"):
        open_data(tmp_path, size=16)


def test_full_run(tmp_path, command):
    rows = [*HEALTHY, *(row(i, "['mass']") for i in range(20, 24))]
    found = run_everything(command, release(tmp_path, rows, packed=True), tmp_path)
    assert found["split"] == "test" and (found["images"]["normal"], found["images"]["abnormal"]) == (1, 3)
    assert len((tmp_path / "run" / "splits.csv").read_text().splitlines()) == 17
