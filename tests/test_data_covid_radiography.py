"""The COVID-19 Radiography Database."""

import re
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from released import listed, run_everything, write_image

from fastsquid import train
from fastsquid.data import known_source, open_data
from fastsquid.errors import UserError

# Of the release: the images of Viral Pneumonia are named with a blank.
COUNTS = {"COVID": 4, "Lung_Opacity": 3, "Normal": 20, "Viral Pneumonia": 3}


def write_mask(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24), 255, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "COVID-19_Radiography_Dataset"
    for k, (name, count) in enumerate(COUNTS.items()):
        for i in range(1, count + 1):
            write_image(folder / name / f"images/{name}-{i}.png", 30 * k + i)
            write_mask(folder / name / f"masks/{name}-{i}.png")
        (folder / f"{name}.metadata.xlsx").write_bytes(b"PK")
    (folder / "README.md.txt").write_text("COVID-19 CHEST X-RAY DATABASE")
    return folder


def test_release(root):
    data = open_data(root, size=16)
    rows = [row for split in listed(data).values() for row in split]
    assert len({name for name, _, _ in rows}) == 30 and all("/images/" in name for name, _, _ in rows)
    for name, label, class_name in rows:
        folder = name.split("/")[0]
        assert (label, class_name) == ((0, "normal") if folder == "Normal" else (1, folder))
    labels = {name: Counter(split.labels.tolist()) for name, split in data.items()}
    assert labels == {"train": {0: 16}, "val": {0: 2, 1: 2}, "test": {0: 2, 1: 8}}
    assert all(split.drawn for split in data.values()) and data["test"].places is None
    assert known_source(root).name == "covid-radiography"


def test_first_release(tmp_path):
    for k, (name, count) in enumerate({"COVID-19": 4, "NORMAL": 20, "Viral Pneumonia": 4}.items()):
        for i in range(1, count + 1):
            write_image(tmp_path / name / f"{name} ({i}).png", 30 * k + i)
        (tmp_path / f"{name}.metadata.xlsx").write_bytes(b"PK")
    data = open_data(tmp_path, size=16)
    assert [len(split) for split in data.values()] == [16, 4, 8]
    assert {name.split("/")[0] for name in data["train"].names} == {"NORMAL"}
    assert set(data["test"].classes) == {"normal", "COVID-19", "Viral Pneumonia"}


def test_without_spreadsheets(root):
    expected = listed(open_data(root, size=16))
    for path in root.glob("*.xlsx"):
        path.unlink()
    assert listed(open_data(root, size=16)) == expected


@pytest.mark.parametrize("name", COUNTS)
def test_missing_folder(root, name):
    shutil.rmtree(root / name)
    with pytest.raises(UserError, match=f"its folder {name} is missing"):
        open_data(root, size=16)


def test_missing_healthy_images_without_spreadsheets(root):
    for path in root.glob("*.xlsx"):
        path.unlink()
    shutil.rmtree(root / "Normal")
    with pytest.raises(UserError, match="its folder Normal is missing"):
        open_data(root, size=16)


def test_masks_are_no_images(root):
    shutil.rmtree(root / "Normal/images")
    with pytest.raises(UserError, match="Normal holds no images but 20 in folders that are named as masks"):
        open_data(root, size=16)


def test_folder_above(root):
    with pytest.raises(UserError, match=f"deeper inside: give {re.escape(str(root))}"):
        open_data(root.parent, size=16)


def test_flat_images_without_spreadsheets_are_not_taken_as_healthy(root, refused):
    for name in COUNTS:
        shutil.rmtree(root / name / "masks")
        for path in (root / name / "images").iterdir():
            path.rename(root / name / path.name)
        (root / name / "images").rmdir()
        (root / f"{name}.metadata.xlsx").unlink()
    assert list(open_data(root, size=16)) == ["test"]
    shutil.rmtree(root / "Normal")
    assert "not known which images" in refused(train.main, "--data", root, "--out", root / "run")


def test_full_run(root, command, tmp_path):
    found = run_everything(command, root, tmp_path)
    assert found["split"] == "test" and found["images"] == {"normal": 2, "abnormal": 8, "skipped": 0}
