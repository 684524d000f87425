"""RSNA and VinCXR as MedIAnomaly and DDAD split them."""

import json
import uuid
from collections import Counter

import pytest
from released import listed, run_everything, write_image

from fastsquid.data import known_source, open_data
from fastsquid.data.sources import source_of
from fastsquid.errors import UserError


def release(root, folder="images", unlabeled=True):
    """6 healthy images to train on, 20 and 6 unlabeled, 3 healthy and 4 abnormal test images; RSNA's names."""
    names = [f"{uuid.UUID(int=i)}.png" for i in range(39)]
    for i, name in enumerate(names):
        write_image(root / folder / name, i)
    train = {"0": names[:6]} | ({"unlabeled": {"0": names[6:26], "1": names[26:32]}} if unlabeled else {})
    content = {"train": train, "test": {"0": names[32:35], "1": names[35:]}}
    (root / "data.json").write_text(json.dumps(content))
    return names


@pytest.fixture
def root(tmp_path):
    return tmp_path / "RSNA"


@pytest.mark.parametrize("folder", ["images", "train_png_512"])
def test_release(root, folder):
    names = [f"{folder}/{name}" for name in release(root, folder)]
    data = open_data(root, size=16)
    assert listed(data)["train"] == [(name, 0, "normal") for name in names[:6]]
    expected = [(name, 0, "normal") for name in names[32:35]] + [(name, 1, "abnormal") for name in names[35:]]
    assert listed(data)["test"] == expected and data["test"].places is None
    val = dict(zip(data["val"].names, data["val"].labels.tolist()))
    assert Counter(val.values()) == {0: 2, 1: 2}
    assert all(name in (names[26:32] if label else names[6:26]) for name, label in val.items())
    assert all(split.drawn for split in data.values()) and known_source(root).name == "medianomaly"


def test_without_unlabeled_there_is_no_val(root):
    release(root, unlabeled=False)
    data = open_data(root, size=16)
    assert {name: len(split) for name, split in data.items()} == {"train": 6, "test": 7}
    assert not any(split.drawn for split in data.values())


def test_unlabeled_images_that_are_not_drawn_are_never_opened(root):
    names = release(root)
    drawn = set(open_data(root, size=16, splits=("val",))["val"].names)
    for name in names[6:32]:
        if f"images/{name}" not in drawn:
            (root / "images" / name).write_text("no image")
    assert len(open_data(root, size=16)["train"]) == 6


@pytest.mark.parametrize("folder, name", [("images", "RSNA"), ("images", "VinCXR"), ("train_png_512", "other")])
def test_missing_list(tmp_path, folder, name):
    release(tmp_path / name, folder)
    (tmp_path / name / "data.json").unlink()
    with pytest.raises(UserError, match="has a folder of images but no data.json"):
        open_data(tmp_path / name, size=16, all_normal=False)


def test_missing_images(root):
    names = release(root)
    (root / "images" / names[0]).unlink()
    with pytest.raises(UserError, match=f"1 of 17 listed images are missing, such as 'images/{names[0]}'"):
        open_data(root, size=16)
    (root / "images").rename(root / "pictures")
    with pytest.raises(UserError, match="has data.json but no folder images or train_png_512"):
        open_data(root, size=16)


def test_what_are_no_chest_x_rays(tmp_path):
    release(tmp_path / "BrainTumor")
    with pytest.raises(UserError, match="is MedIAnomaly's BrainTumor, no chest X-rays: give RSNA or VinCXR"):
        open_data(tmp_path / "BrainTumor", size=16)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: content["train"].pop("0"), r'no list of names at \["train"\]\["0"\]'),
        (lambda content: content.pop("test"), r'no list of names at \["test"\]\["0"\]'),
        (lambda content: content["test"].update({"1": {}}), r'no list of names at \["test"\]\["1"\]'),
        (lambda content: content["test"]["1"].append(5), r'no list of names at \["test"\]\["1"\]'),
        (lambda content: content["train"]["unlabeled"].pop("1"), r'\["train"\]\["unlabeled"\]\["1"\]'),
        (lambda content: content["train"]["0"].append(content["test"]["1"][0]), "lists '.*' twice"),
        (lambda content: content["train"]["0"].append(content["train"]["unlabeled"]["1"][0]), "lists '.*' twice"),
        (lambda content: content["train"].update({"0": []}), "lists no healthy images to train on"),
    ],
)
def test_what_is_wrong_is_said(root, change, message):
    release(root)
    content = json.loads((root / "data.json").read_text())
    change(content)
    (root / "data.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_data(root, size=16)


def test_damaged_list(root):
    release(root)
    path = root / "data.json"
    for content in (path.read_text()[:-5], ""):
        path.write_text(content)
        with pytest.raises(UserError, match="data.json cannot be read as JSON"):
            open_data(root, size=16, all_normal=False)


def test_a_folder_of_any_name(tmp_path):
    release(tmp_path / "mine")
    assert source_of(tmp_path / "mine").name == "medianomaly"


def test_other_json_is_not_recognized(tmp_path):
    for content in ('{"train": "a.png"}', '{"0": []}', "[]", ""):
        (tmp_path / "data.json").write_text(content)
        assert source_of(tmp_path).name == "folder"


def test_full_run(root, command, tmp_path):
    release(root)
    found = run_everything(command, root, tmp_path)
    assert found["split"] == "test" and found["images"] == {"normal": 3, "abnormal": 4, "skipped": 0}
