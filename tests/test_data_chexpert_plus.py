"""CheXpert Plus in the form of its release."""

import json

import pytest
from released import listed, run_everything, write_image, write_table

from fastsquid import train
from fastsquid.data import known_source, open_data
from fastsquid.errors import UserError

HEADER = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,"
    "section_narrative,section_clinical_history,section_history,section_comparison,section_technique,"
    "section_procedure_comments,section_findings,section_impression,section_end_of_impression,section_summary,"
    "section_accession_number,age,sex,race,ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split"
).split(",")
FINDINGS = (
    "Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,"
    "Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices,No Finding"
).split(",")
CSV = "df_chexpert_plus_240401.csv"
REPORT = 'NARRATIVE:\nCHEST, 2 VIEWS: 1/2/2009\n FINDINGS: no "acute" disease , see "comment" \nIMPRESSION:\n1. None.\n'


def row(number, findings, part="train", view=("Frontal", "PA")):
    """A row of the CSV and one of the labels; None for no label."""
    path = f"{part}/patient{number:05d}/study1/view1_{view[0].lower()}.jpg"
    known = {"path_to_image": path, "frontal_lateral": view[0], "ap_pa": view[1], "split": part, "report": REPORT}
    labels = (
        {"path_to_image": path, **{name: findings.get(name) for name in FINDINGS}} if findings is not None else None
    )
    return {name: known.get(name, "") for name in HEADER}, labels


NORMAL, SICK = {"No Finding": 1.0}, {"Edema": 1.0, "Pneumonia": -1.0, "Fracture": 0.0}
ROWS = [
    *(row(i, NORMAL) for i in range(20)),
    *(row(i, SICK) for i in range(30, 40)),
    row(50, {"Edema": -1.0}),
    row(51, None),
    row(52, {"No Finding": 1.0}, view=("Frontal", "AP")),
    row(53, {"No Finding": 1.0}, view=("Lateral", "")),
    row(90, NORMAL, "valid"),
    row(91, {"Fracture": 1.0, "Edema": 1.0}, "valid"),
]


def release(root, rows=ROWS, images="PNG", labels="chexbert_labels", suffix=".png"):
    write_table(root / CSV, [one for one, _ in rows])
    (root / labels).mkdir(exist_ok=True)
    lines = [json.dumps(found) for _, found in rows if found]
    (root / labels / "report_fixed.json").write_text("\n".join(lines) + "\n")
    for one, _ in rows:
        path = root / images / one["path_to_image"]
        write_image(path.with_suffix(suffix), int(path.parts[-3][7:]))
    return root


@pytest.mark.parametrize(
    "images, labels, suffix",
    [
        ("PNG", "chexbert_labels", ".png"),
        ("PNG/PNG", ".", ".png"),
        (".", ".", ".png"),
        ("CheXpert-v1.0-small", "labels", ".jpg"),
    ],
)
def test_release(tmp_path, images, labels, suffix):
    data = open_data(release(tmp_path, ROWS, images, labels, suffix), size=16)
    assert known_source(tmp_path).name == "chexpert-plus"
    found = listed(data)
    assert [(name.split("valid/")[1], *rest) for name, *rest in found["val"]] == [
        (f"patient00090/study1/view1_frontal{suffix}", 0, "normal"),
        (f"patient00091/study1/view1_frontal{suffix}", 1, "abnormal"),
    ]
    assert [found for _, *found in found["test"]] == [[0, "normal"]] * 4 + [[1, "Edema"]] * 2
    assert len(data["train"]) == 16 and not data["train"].labels.any()
    names = [name for split in data.values() for name in split.names]
    assert len(set(names)) == len(names) and not any(
        f"patient000{i}" in name for name in names for i in (50, 51, 52, 53)
    )


def test_findings_of_one_section_are_not_enough(tmp_path, refused):
    path = release(tmp_path) / "chexbert_labels" / "report_fixed.json"
    path.rename(path.with_name("findings_fixed.json"))
    message = refused(train.main, "--data", tmp_path, "--out", tmp_path / "run", "--all-normal")
    assert "CheXpert Plus but report_fixed.json" in message


def test_missing_files(tmp_path):
    (release(tmp_path) / "PNG/train/patient00003/study1/view1_frontal.png").unlink()
    with pytest.raises(UserError, match="is CheXpert Plus but 1 of 24 listed images are missing, such as .*00003"):
        open_data(tmp_path, size=16)
    (tmp_path / CSV).unlink()
    with pytest.raises(UserError, match=f"is CheXpert Plus but {CSV} is missing"):
        open_data(tmp_path, size=16)


@pytest.mark.parametrize(
    "file, change, message",
    [
        (CSV, (",train\n", ",training\n"), f"{CSV} line 7: split is 'training'"),
        (CSV, ("ap_pa", "view"), "no column 'ap_pa'"),
        ("chexbert_labels/report_fixed.json", ("No Finding", "Nothing"), "line 1 has no 'No Finding'"),
        ("chexbert_labels/report_fixed.json", ('"No Finding": 1.0', '"No Finding": 2'), "line 1: No Finding is '2'"),
        ("chexbert_labels/report_fixed.json", ("patient00001", "patient00030"), "line 21: .* has other findings"),
        ("chexbert_labels/report_fixed.json", ("{", "["), "line 1 is no JSON object"),
        ("chexbert_labels/report_fixed.json", ("/study1/", "/study9/"), "has labels for none of the images"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, file, change, message):
    path = release(tmp_path) / file
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        open_data(tmp_path, size=16)


def test_full_run(tmp_path, command):
    found = run_everything(command, release(tmp_path), tmp_path)
    assert found["split"] == "test" and (found["images"]["normal"], found["images"]["abnormal"]) == (4, 2)
