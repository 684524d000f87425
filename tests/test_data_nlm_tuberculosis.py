"""The tuberculosis sets of Shenzhen and Montgomery County."""

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from released import listed, run_everything, write_image

from fastsquid.data import known_source, open_data
from fastsquid.errors import UserError


def write_mask(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24), 255, np.uint8)).save(path)


def release(folder, prefix):
    """20 healthy and 8 abnormal X-rays, with the texts beside them."""
    for i in range(1, 29):
        name = f"{prefix}_{i:04}_{int(i > 20)}"
        write_image(folder / "CXR_png" / f"{name}.png", i)
        (folder / "ClinicalReadings").mkdir(exist_ok=True)
        (folder / "ClinicalReadings" / f"{name}.txt").write_text(
            "male 45yrs\nnormal" if i <= 20 else "female 33yrs\nPTB"
        )
    (folder / "CXR_png/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    return folder


@pytest.fixture
def shenzhen(tmp_path):
    return release(tmp_path / "data/ChinaSet_AllFiles", "CHNCXR")


@pytest.fixture
def montgomery(tmp_path):
    folder = release(tmp_path / "data/MontgomerySet", "MCUCXR")
    for path in (folder / "CXR_png").glob("*.png"):
        write_mask(folder / "ManualMask/leftMask" / path.name)
        write_mask(folder / "ManualMask/rightMask" / path.name)
    (folder / "NLM-MontgomeryCXRSet-ReadMe.pdf").write_bytes(b"%PDF")
    return folder


@pytest.mark.parametrize("name", ["shenzhen", "montgomery"])
def test_release(name, request):
    root = request.getfixturevalue(name)
    data = open_data(root, size=16)
    rows = [row for split in listed(data).values() for row in split]
    assert len({name for name, _, _ in rows}) == 28 and all(name.startswith("CXR_png/") for name, _, _ in rows)
    for name, label, class_name in rows:
        assert label == int(name[-5]) and class_name == ("Tuberculosis" if label else "normal")
    labels = {name: Counter(split.labels.tolist()) for name, split in data.items()}
    assert labels == {"train": {0: 16}, "val": {0: 2, 1: 2}, "test": {0: 2, 1: 6}}
    assert all(split.drawn for split in data.values()) and data["test"].places is None
    assert known_source(root).name == "nlm-tuberculosis"
    inside = listed(open_data(root / "CXR_png", size=16))
    assert [row[1:] for row in inside["val"]] == [row[1:] for row in listed(data)["val"]]


def test_two_images_of_one_number_are_one_patient(shenzhen):
    for i in range(1, 21):
        write_image(shenzhen / f"CXR_png/CHNCXR_{i:04}_1.png", 100 + i)
    with pytest.raises(UserError, match="no healthy images to train on"):
        open_data(shenzhen, size=16)


def test_masks_beside_images_are_skipped(shenzhen):
    expected = listed(open_data(shenzhen, size=16))
    write_mask(shenzhen / "CXR_png/CHNCXR_0001_0_mask.png")
    write_mask(shenzhen / "mask/CHNCXR_0001_0_mask.png")
    write_mask(shenzhen / "CXR_png/segmented/1.png")
    assert listed(open_data(shenzhen, size=16)) == expected


@pytest.mark.parametrize("inside", ["ManualMask", "ManualMask/leftMask", "ManualMask/rightMask"])
def test_masks_are_never_x_rays(montgomery, inside):
    with pytest.raises(UserError, match=r"holds masks of lungs|CXR_png is missing"):
        open_data(montgomery / inside, size=16)


@pytest.mark.parametrize("gone", [["CXR_png"], ["CXR_png", "ClinicalReadings"], ["CXR_png", "ManualMask"]])
def test_missing_images(montgomery, gone):
    for name in gone:
        shutil.rmtree(montgomery / name)
    with pytest.raises(UserError, match="MontgomerySet is a tuberculosis set, but its folder CXR_png is missing"):
        open_data(montgomery, size=16)


def test_empty_folder_of_images(montgomery):
    for path in (montgomery / "CXR_png").glob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match="CXR_png holds no images"):
        open_data(montgomery, size=16)


@pytest.mark.parametrize("name", ["CHNCXR_0400.png", "CHNCXR_0400_2.png", "a.png"])
def test_other_names_are_rejected(shenzhen, name):
    write_image(shenzhen / "CXR_png" / name, 99)
    with pytest.raises(UserError, match=f"{name} is not named as"):
        open_data(shenzhen, size=16)


def test_folder_above(shenzhen, montgomery):
    """Without the texts nothing else says that not all X-rays are healthy."""
    for root in (shenzhen, montgomery):
        shutil.rmtree(root / "ClinicalReadings")
    with pytest.raises(UserError, match=f"deeper inside: give {shenzhen} or {montgomery}"):
        open_data(shenzhen.parent, size=16)


def test_full_run(shenzhen, command, tmp_path):
    found = run_everything(command, shenzhen, tmp_path)
    assert found["split"] == "test" and found["images"] == {"normal": 2, "abnormal": 6, "skipped": 0}
