import errno
import json
import os
from collections import Counter
from functools import partial
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image
from released import SMALLEST

from fastsquid import evaluate, train
from fastsquid.data import open_data
from fastsquid.data.sources.covidx import _hold_out, _Row
from fastsquid.errors import UserError


def release(folder, train, test=(), suffix="_COVIDx8A", val=()):
    """A small release: lists of (patient, label), a gray of the line's number in every image."""
    for part, rows in (("train", train), ("val", val), ("test", test)):
        if not rows:
            continue
        (folder / part).mkdir(exist_ok=True)
        lines = []
        for i, (patient, label) in enumerate(rows):
            file = f"{label} image {i}.png" if i % 2 else f"{i}.png"  # some names of the release have spaces
            Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / part / file)
            lines.append(f"{patient} {file} {label} cohen\n")
        (folder / f"{part}{suffix}.txt").write_text("".join(lines) + "\n")
    return folder


TRAIN = (
    [(f"n{i}", "normal") for i in range(20)]
    + [(f"p{i}", "pneumonia") for i in range(11)]
    + [(f"c{i}", "COVID-19") for i in range(5)]
)
TEST = [("t0", "Normal"), ("t1", "pneumonia"), ("t2", "COVID-19")]


@pytest.mark.parametrize("suffix", ["", "_COVIDx8A"])
def test_release(tmp_path, suffix):
    splits = open_data(release(tmp_path, TRAIN, TEST, suffix), size=8)
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"].labels.tolist() == [0] * 16
    assert splits["val"].labels.tolist() == [0] * 4 + [1] * 2 + [1]
    assert splits["test"].labels.tolist() == [0, 1, 1]
    assert splits["test"].classes == ["normal", "pneumonia", "covid-19"]
    assert splits["test"].names == ["0.png", "pneumonia image 1.png", "2.png"]
    for split in splits.values():  # every image is the one of its name
        assert split.images[:, 0, 0, 0].tolist() == [int(name.split()[-1][:-4]) for name in split.names]
    assert not set(splits["train"].names) & set(splits["val"].names)


def test_anonymous_names(tmp_path):
    open_test = partial(open_data, release(tmp_path, TRAIN, TEST), size=8, splits=("test",))
    files = [tmp_path / "test" / name for name in open_test()["test"].names]
    assert open_test(anonymous=True)["test"].names == [sha256(file.read_bytes()).hexdigest()[:16] for file in files]
    (tmp_path / "test_COVIDx8A.txt").write_text("doe file normal\n")
    with pytest.raises(UserError, match=r"test_COVIDx8A\.txt line 1\b.*patient file label source"):
        open_test(anonymous=True)


def test_paper_protocol():
    rows = [_Row(f"n{i // 2}", f"n{i}", "normal") for i in range(8000)]
    rows += [_Row(f"p{i}", f"p{i}", "pneumonia") for i in range(5000)]
    rows += [_Row(f"n{i}", f"c{i}", "covid-19") for i in range(500)]  # of patients who have normal images too
    train, val = _hold_out(rows)
    assert Counter(row.label for row in val) == {"normal": 200, "pneumonia": 100, "covid-19": 100}
    assert len(set(val)) == 400
    held = {row.patient for row in val}
    assert train == [row for row in rows if row.label == "normal" and row.patient not in held]
    assert _hold_out(rows)[1] == val


def test_only_the_splits_asked_for_are_read(tmp_path):
    release(tmp_path, TRAIN, TEST)
    for path in (tmp_path / "train").iterdir():
        path.write_bytes(b"corrupt")
    assert list(open_data(tmp_path, size=8, splits=("test",))) == ["test"]


def test_an_absent_list_is_an_absent_split(tmp_path):
    assert list(open_data(release(tmp_path, TRAIN), size=8)) == ["train", "val"]


def test_test_list_alone(tmp_path):
    assert list(open_data(release(tmp_path, [], TEST), size=8)) == ["test"]


def test_b_lists_are_refused(tmp_path):
    release(tmp_path, [("a", "positive"), ("b", "negative")])
    with pytest.raises(UserError, match=r"train_COVIDx8A\.txt .*pneumonia"):
        open_data(tmp_path, size=8)


# A line of test_COVIDx_CXR-3A.txt, and one in the form of the lists with positive and negative only.
NEWER = "419639-000025 MIDRC-RICORD-1C-419639-000025-50888-0.png COVID-19 ricord"
BINARY = "31 sub-S10880_ses-E18932_run-1.png negative bimcv"


@pytest.mark.parametrize("suffix", ["", "_COVIDx_CXR-3A"])
def test_official_val(tmp_path, suffix):
    val = [("n3", "normal"), ("v0", "normal"), ("v1", "pneumonia"), ("v2", "COVID-19")]
    splits = open_data(release(tmp_path, TRAIN, TEST, suffix, val), size=8)
    assert splits["val"].labels.tolist() == [0, 0, 1, 1] and splits["test"].labels.tolist() == [0, 1, 1]
    assert splits["val"].images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert splits["train"].images[:, 0, 0, 0].tolist() == [i for i in range(20) if i != 3]  # n3 is a patient of val
    assert splits["train"].labels.tolist() == [0] * 19
    (tmp_path / f"train{suffix}.txt").write_text("not read")
    assert list(open_data(tmp_path, size=8, splits=("val",))) == ["val"]


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_b_list_of_any_split_is_rejected(tmp_path, part):
    release(tmp_path, TRAIN, TEST, "", [("v", "normal")])
    (tmp_path / f"{part}.txt").write_text(BINARY + "\n")
    with pytest.raises(UserError, match=rf"{part}\.txt is a B list, .* \(CXR-4 has none\)"):
        open_data(tmp_path, size=8)


@pytest.mark.parametrize("name, line", [("train_COVIDx9A.txt", ""), ("train.txt", NEWER), ("val.txt", BINARY)])
def test_list_without_its_folder_is_no_plain_folder(tmp_path, name, line):
    """Else training would take the images beside the list as healthy, those with COVID-19 too."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "MIDRC-RICORD-1C-419639-000025-50888-0.png")
    (tmp_path / name).write_text(line)
    with pytest.raises(UserError, match=f"has the list {name} but no folder {name[:-4].split('_')[0]}"):
        open_data(tmp_path, size=8, all_normal=False)


def test_other_texts_are_no_lists(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "training notes.txt").write_text("these are X-rays of healthy people")
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\x81")
    assert open_data(tmp_path, size=8, all_normal=False)["train"].names == ["a.png"]


def test_full_run(tmp_path, command):
    """Without a report, whose images are in test/ as the lists name them."""
    root, run = tmp_path / "data", tmp_path / "run"
    root.mkdir()
    val = [("v0", "normal"), ("v1", "pneumonia"), ("v2", "COVID-19")]
    release(root, TRAIN, TEST, "_COVIDx9A", val)
    code, _, err = command(train.main, "--data", root, "--out", run, *SMALLEST)
    assert code == 0, err
    code, _, err = command(evaluate.main, run, "--json", tmp_path / "metrics.json")
    assert code == 0, err
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["split"] == "test" and found["images"] == {"normal": 1, "abnormal": 2, "skipped": 0}


def test_malformed_line(tmp_path):
    release(tmp_path, TRAIN)
    with open(tmp_path / "train_COVIDx8A.txt", "a") as file:
        file.write("patient file normal\n")
    with pytest.raises(UserError, match=rf"train_COVIDx8A\.txt line {len(TRAIN) + 2}\b.*'patient file normal'"):
        open_data(tmp_path, size=8)


def test_several_lists(tmp_path):
    release(tmp_path, TRAIN)
    (tmp_path / "train_COVIDx8B.txt").touch()
    with pytest.raises(UserError, match="train_COVIDx8A.txt and train_COVIDx8B.txt"):
        open_data(tmp_path, size=8)


def test_no_normal_images(tmp_path):
    with pytest.raises(UserError, match="train_COVIDx8A.txt .*normal"):
        open_data(release(tmp_path, [("p", "pneumonia")]), size=8)


def test_missing_image_is_named_and_can_be_skipped(tmp_path):
    release(tmp_path, TRAIN, TEST)
    (tmp_path / "test" / "2.png").unlink()
    with pytest.raises(UserError, match=rf"2\.png.*{os.strerror(errno.ENOENT)}"):
        open_data(tmp_path, size=8)
    test = open_data(tmp_path, size=8, skip_unreadable=True)["test"]
    assert test.skipped == 1 and test.labels.tolist() == [0, 1]


def test_binary_list(tmp_path):
    release(tmp_path, TRAIN)
    (tmp_path / "train_COVIDx8A.txt").write_bytes(b"\xff\xfe\x81")
    with pytest.raises(UserError, match="train_COVIDx8A.txt"):
        open_data(tmp_path, size=8)


def test_patients_of_test_in_other_splits_are_counted(tmp_path, caplog):
    root = release(tmp_path, TRAIN, [*TEST, ("n3", "normal"), ("p4", "pneumonia")])
    open_data(root, 8)
    (warning,) = [record.getMessage() for record in caplog.records if "of patients" in record.getMessage()]
    # n3 is in train or val; p4 is abnormal and was not drawn for val.
    assert warning.startswith("1 of 5 images of test")
    caplog.clear()
    open_data(release(tmp_path, TRAIN, TEST), 8)
    assert "of patients" not in caplog.text
