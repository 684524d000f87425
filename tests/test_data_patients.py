"""Patients in one split only, their ages, and images that are called by what is in their files."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from conftest import XRAYS

pydicom = pytest.importorskip("pydicom")
from dicom_files import data_set, put_raw, radiograph, raw, write  # noqa: E402

from fastsquid.data import find_images, open_data  # noqa: E402
from fastsquid.data.decoding import decoded  # noqa: E402
from fastsquid.data.dicom.patients import SHARED_BY_MANY, age_range, warn_of_ages  # noqa: E402
from fastsquid.data.dicom.read import read_patient  # noqa: E402
from fastsquid.errors import UserError  # noqa: E402


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return data_set(tmp_path_factory.mktemp("dicom") / "data")


@pytest.fixture
def data(written, tmp_path):
    """A data set of a patient a file that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "data"))


def change(path, **tags):
    dataset = pydicom.dcmread(path)
    dataset.update(tags)
    dataset.save_as(path)
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def of(data, split):
    return find_images(data / split)[0]


# Patients


@pytest.mark.parametrize("pair", [("train", "val"), ("train", "test"), ("val", "test")])
def test_a_patient_in_two_splits(data, pair, capsys):
    first, second = (change(of(data, split), PatientID=number) for split, number in zip(pair, ("Doe 17", " Doe 17 ")))
    for splits in (("train", "val", "test"), ("val", "test"), ("test",)):  # whatever is decoded
        with pytest.raises(UserError) as error:
            open_data(data, 32, splits=splits)
        said = str(error.value)
        assert re.search(rf"{first} of {pair[0]} and {second} of {pair[1]} .*\bPatientID\b", said)
        assert "Doe" not in said and "\n" not in said
        with pytest.raises(UserError) as error:
            open_data(data, 32, splits=splits, anonymous=True)
        said = str(error.value)
        assert f"{digest(first)} of {pair[0]} and {digest(second)} of {pair[1]} " in said and first.name not in said
    assert capsys.readouterr() == ("", "")


def test_several_images_of_a_patient_in_one_split(data):
    for path in find_images(data / "train"):
        change(path, PatientID="one")
    assert list(open_data(data, 32)) == ["train", "val", "test"]


def test_an_issuer_hides_no_patient(data):
    """One split's files may name it, and another's, which were exported otherwise, not."""
    change(of(data, "train"), PatientID="1", IssuerOfPatientID="A")
    change(of(data, "val"), PatientID="1")
    with pytest.raises(UserError, match="PatientID"):
        open_data(data, 32)


def test_files_without_a_patient_are_counted_and_not_one_patient(data, caplog):
    change(of(data, "train"), PatientID="")
    change(of(data, "val"), PatientID="  ")
    path = of(data, "test")
    dataset = pydicom.dcmread(path)
    del dataset.PatientID
    dataset.save_as(path)
    assert len(open_data(data, 32)) == 3
    (warning,) = caplog.messages
    assert "3 of 18" in warning and "PatientID" in warning and caplog.records[0].levelname == "WARNING"


@pytest.mark.parametrize("nobody", ["ANONYMOUS", "anonymized", "0", "000", "-", "xxx", "De-Identified", "N/A"])
def test_an_id_that_stands_for_nobody_is_none(data, caplog, nobody):
    for split in ("train", "val"):
        change(of(data, split), PatientID=nobody)
    assert read_patient(of(data, "train")).identity is None and len(open_data(data, 32)) == 3
    (warning,) = caplog.messages
    assert "2 of 18" in warning and nobody not in warning.replace("PatientID", "")


def test_an_id_that_most_files_share_stands_for_nobody(data, caplog):
    paths = find_images(data)
    for path in paths[: SHARED_BY_MANY - 1]:
        change(path, PatientID="Clinic 7")
    with pytest.raises(UserError, match="PatientID"):  # half of the files, but not enough of them
        open_data(data, 32)
    change(paths[SHARED_BY_MANY - 1], PatientID="Clinic 7")
    assert len(open_data(data, 32)) == 3
    (warning,) = caplog.messages
    assert f"{SHARED_BY_MANY} of 18" in warning and "Clinic" not in warning
    first, second = (change(of(data, split), PatientID="Doe 17") for split in ("train", "val"))
    with pytest.raises(UserError, match=rf"{first.name} .*{second.name} .*PatientID"):  # a patient beside it
        open_data(data, 32)


def test_an_id_that_all_files_share_stands_for_nobody(tmp_path, caplog):
    """However few they are: else no split could be made."""
    for name in ("train/NORMAL/a", "val/NORMAL/b", "val/PNEUMONIA/c"):
        write(tmp_path / f"{name}.dcm", radiograph(), 12, PatientID="Clinic 7")
    assert len(open_data(tmp_path, 32)) == 2
    (warning,) = caplog.messages
    assert "3 of 3" in warning and "Clinic" not in warning
    change(tmp_path / "val/PNEUMONIA/c.dcm", PatientID="Doe 17")
    with pytest.raises(UserError, match="PatientID"):
        open_data(tmp_path, 32)


def test_many_files_of_a_patient_in_one_split_are_the_patients(data, caplog):
    for i in range(12):
        shutil.copy(of(data, "train"), data / "train" / "NORMAL" / f"copy{i}.dcm")
    assert len(open_data(data, 32)["train"]) == 20 and not caplog.messages


def test_a_file_that_is_not_read_shares_no_patient(data):
    """A lateral view beside the frontal one, left out of both data and check."""
    change(of(data, "train"), PatientID="one", ViewPosition="LL")
    change(of(data, "test"), PatientID="one")
    with pytest.raises(UserError, match=rf"{of(data, 'train')} .*lateral.*\bLL\b"):
        open_data(data, 32)
    assert open_data(data, 32, skip_unreadable=True)["train"].skipped == 1


def test_a_list_without_patients_is_drawn_by_patient_id(tmp_path):
    """Two files of each patient. Where the list names a patient, it counts, also for their other files."""
    lines = ["path,label,patient"]
    for i in range(40):
        write(tmp_path / f"{i}.dcm", radiograph()[::8, ::8] + i, 12, PatientID=f"patient {i // 2}")
        lines.append(f"{i}.dcm,{int(i >= 32)},{'mine' if i in (0, 3) else ''}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    data = open_data(tmp_path / "list.csv", 16)
    drawn = {name: {int(Path(file).stem) for file in split.names} for name, split in data.items()}
    assert all(drawn.values()) and sum(map(len, drawn.values())) == 40
    for mine in drawn.values():
        assert {i ^ 1 for i in mine} == mine  # both files of a patient
        assert {0, 1, 2, 3} <= mine or not {0, 1, 2, 3} & mine


def test_plain_images_are_opened_once_and_dicom_files_decoded_once(data, monkeypatch):
    shutil.copy(of(XRAYS, "train"), data / "train" / "NORMAL")
    opened, whole, original, read = [], [], Path.open, pydicom.dcmread

    def note_open(path, *more, **options):
        opened.append(path)
        return original(path, *more, **options)

    def note_read(file, stop_before_pixels=False):
        if not stop_before_pixels:
            whole.append(Path(file.name))
        return read(file, stop_before_pixels=stop_before_pixels)

    monkeypatch.setattr(Path, "open", note_open)
    monkeypatch.setattr(pydicom, "dcmread", note_read)
    train = open_data(data, 32, splits=("train",))["train"]
    dicom_files = sorted((data / "train").rglob("*.dcm"))
    assert len(train) == 9 and sum(path.suffix == ".jpeg" for path in opened) == 1
    assert sorted(whole) == dicom_files

    # Where no split needs the patients first, as in `score` and `report`, one opening gives pixels and age.
    opened.clear()
    batches = list(decoded([(path.name, path) for path in dicom_files], 32, 64))
    assert sorted(opened) == dicom_files and all(item.image is not None for batch in batches for item in batch)


# Ages


@pytest.mark.parametrize(
    "text, years",
    [(b"003Y", 3), (b"018M", 1.5), (b"010W", 70 / 365.25), (b"021D", 21 / 365.25), (b"102Y", 102), (b"000D", 0)],
)
def test_ages_in_years(tmp_path, text, years):
    path = put_raw(write(tmp_path / "x.dcm", radiograph(), 12), raw("PatientAge", "AS", text))
    assert read_patient(path).age == pytest.approx(years)


@pytest.mark.parametrize("text", [b"", b"3Y", b"young", b"003", b"03.5Y", b"-03Y", b"51", b"000Y", b"148Y", b"999Y"])
def test_ages_that_are_none(tmp_path, text):
    path = put_raw(write(tmp_path / "x.dcm", radiograph(), 12), raw("PatientAge", "AS", text))
    assert read_patient(path).age is None and read_patient(path).identity


@pytest.mark.parametrize(
    "tags, years",
    [
        (dict(PatientBirthDate="19480503", StudyDate="20240101"), 75.66),
        (dict(PatientBirthDate="20231231", AcquisitionDate="20240101"), 1 / 365.25),
        (dict(PatientBirthDate="19480503", StudyDate="20240101", PatientAge="003Y"), 3),
        (dict(PatientBirthDate="19480503"), None),
        (dict(PatientBirthDate="19000101", StudyDate="20240101"), None),
        (dict(PatientBirthDate="20240102", StudyDate="20240101"), None),
    ],
)
def test_an_age_by_the_date_of_birth(tmp_path, tags, years):
    found = read_patient(write(tmp_path / "x.dcm", radiograph(), 12, **tags)).age
    assert found is None if years is None else found == pytest.approx(years, abs=0.01)


def test_a_date_of_birth_that_is_none(tmp_path):
    path = write(tmp_path / "x.dcm", radiograph(), 12, StudyDate="20240101")
    assert read_patient(put_raw(path, raw("PatientBirthDate", "DA", b"Doe"))).age is None


def test_numbers_are_one_patient_without_zeros_before_them(tmp_path):
    ids = ["7", "0007", "70", "A7", "A07"]
    one, two, *others = (
        read_patient(write(tmp_path / f"{i}.dcm", radiograph(), 12, PatientID=name)).identity
        for i, name in enumerate(ids)
    )
    assert one == two and len({one, *others}) == 4


def test_a_patient_of_a_list_and_of_a_tag(tmp_path):
    """A row without patient has that of PatientID, which another row may name."""
    for i, patient in enumerate(["p9", "p8", "0012", "p7"]):
        write(tmp_path / f"{i}.dcm", radiograph(), 12, PatientID=patient)
    rows = ["0.dcm,0,train,p8", "1.dcm,0,val,", "2.dcm,0,train,", "3.dcm,1,val,"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split,patient", *rows]))
    with pytest.raises(UserError, match="0.dcm' of train and .*1.dcm' of val are of the same patient"):
        open_data(tmp_path / "list.csv", 32)
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split,patient", *rows[:1], *rows[2:]]))
    assert set(open_data(tmp_path / "list.csv", 32)) == {"train", "val"}
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split,patient", *rows[2:], "0.dcm,1,val,12"]))
    with pytest.raises(UserError, match="are of the same patient"):
        open_data(tmp_path / "list.csv", 32)


@pytest.mark.parametrize(
    "text, malformed",
    [(b"51", True), (b"3Y", True), (b"old", True), (b"", False), (b"051Y", False), (b"999Y", False)],
)
def test_malformed_ages_are_counted(data, caplog, text, malformed):
    for split in ("train", "test"):
        put_raw(of(data, split), raw("PatientAge", "AS", text))
    assert len(open_data(data, 32)) == 3
    paths = [(path.name, path) for path in find_images(data)]
    assert len(list(decoded(paths, 32, 64))) == 1
    assert len(caplog.messages) == 2 * malformed
    assert all("2 of 18" in said and "malformed PatientAge" in said for said in caplog.messages)


def test_what_has_no_patient(tmp_path):
    assert read_patient(of(XRAYS, "train")) is None and read_patient(tmp_path / "nowhere") is None
    (tmp_path / "x.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"nonsense")
    assert read_patient(tmp_path / "x.dcm") is None


def test_ages_of_a_split_are_those_of_its_images(data):
    (data / "train" / "NORMAL" / "a.dcm").write_bytes(b"")  # before the others
    shutil.copy(of(XRAYS, "train"), data / "train" / "NORMAL" / "b.jpeg")
    train = open_data(data, 32, skip_unreadable=True, splits=("train",))["train"]
    ages = [float(pydicom.dcmread(path).PatientAge[:3]) for path in sorted((data / "train").rglob("IM*"))]
    assert dict(zip(train.names, train.ages))["NORMAL/b.jpeg"] is None
    assert [age for age in train.ages if age is not None] == ages and age_range(train.ages) == [3, 5]
    assert age_range([None]) is None and age_range([]) is None


def test_a_warning_of_ages(caplog):
    warning = warn_of_ages([3.0, 71.25, 5.0, None, 2.99], [3, 70])
    assert "2 of 5" in warning and "3 to 70 years" in warning and caplog.messages == [warning]
    assert warn_of_ages([3.0, 70.0, None], [3, 70]) == warn_of_ages([1.0], None) == ""
    assert caplog.messages == [warning]


# Names


def test_anonymous_names(data):
    twin = shutil.copy(of(data, "test"), data / "test" / "NORMAL" / "twin.dcm")
    for name, split in open_data(data, 32, anonymous=True).items():
        hashes = [digest(path) for path in find_images(data / name)]
        if name == "test":
            hashes[hashes.index(digest(twin), 1)] += "-2"
        assert split.names == hashes and len(set(hashes)) == len(hashes)
    shutil.copy(twin, data / "test" / "NORMAL" / "third.dcm")
    assert [name[16:] for name in open_data(data, 32, anonymous=True)["test"].names[:4]] == ["", "", "-2", "-3"]


def test_messages_of_anonymous_files(data, monkeypatch):
    victim = change(of(data, "val"), BodyPartExamined="KNEE")
    named = rf"^{digest(victim)} .*\bKNEE\b.*--skip-unreadable$"
    with pytest.raises(UserError, match=named):
        open_data(data, 32, anonymous=True)
    for path in find_images(data / "val"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=f"6 .* {hashlib.sha256().hexdigest()[:16]}\\b"):
        open_data(data, 32, skip_unreadable=True, anonymous=True)
    shutil.copy(of(data, "test"), data / "test" / "loose.dcm")
    with pytest.raises(UserError, match=rf"{data / 'test'} .*\b{digest(data / 'test' / 'loose.dcm')}\b"):
        open_data(data, 32, splits=("test",), anonymous=True)
    monkeypatch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied")))
    names = open_data(data, 32, splits=("train",), anonymous=True)["train"].names
    assert names[:2] == ["unreadable", "unreadable-2"]
