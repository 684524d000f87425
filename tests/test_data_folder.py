import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastsquid.data import ImageError, find_images, open_data, read_image
from fastsquid.errors import UserError

XRAYS = Path(__file__).parent / "data" / "xrays"


@pytest.fixture
def xrays(tmp_path):
    return Path(shutil.copytree(XRAYS, tmp_path / "xrays"))


def put(path, value=0):
    """A tiny image, grey everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)
    return path


def test_zhanglab_layout():
    splits = open_data(XRAYS, size=32)
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"].labels.tolist() == [0] * 8
    assert splits["val"].labels.tolist() == [0] * 3 + [1] * 3 and splits["val"].labels.dtype == torch.int64
    assert splits["test"].labels is None
    assert splits["test"].names == ["0000.jpeg", "0001.jpeg", "0002.jpeg", "0003.jpeg"]
    for name, split in splits.items():
        assert split.images.shape == (len(split), 1, 32, 32) and split.images.dtype == torch.uint8
        assert split.cells is None and split.kinds is None and split.skipped == 0
        for image, file in zip(split.images, split.names):
            np.testing.assert_array_equal(image[0].numpy(), read_image(XRAYS / name / file, 32))
    assert [name.split("/")[0] for name in splits["val"].names] == ["NORMAL"] * 3 + ["PNEUMONIA"] * 3


def test_train_opens_normal_only(xrays, monkeypatch):
    (xrays / "train" / "PNEUMONIA" / "corrupt.jpeg").write_bytes(b"corrupt")
    opened, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(Path(path)) or original(path))
    assert len(open_data(xrays, size=16, splits=("train",))["train"]) == 8
    assert sorted(opened) == find_images(xrays / "train" / "NORMAL")


def test_only_the_splits_asked_for_are_read(xrays):
    for path in [*find_images(xrays / "train"), *find_images(xrays / "test")]:
        path.write_bytes(b"corrupt")
    splits = open_data(xrays, size=16, splits=("val",))
    assert list(splits) == ["val"] and len(splits["val"]) == 6


def test_an_absent_split_is_absent(xrays):
    shutil.rmtree(xrays / "val")
    assert list(open_data(xrays, size=16)) == ["train", "test"]
    shutil.rmtree(xrays / "train")
    assert list(open_data(xrays, size=16)) == ["test"]


def test_normal_in_any_case_and_every_other_class_is_abnormal(tmp_path):
    for name in ["train/Normal/a.png", "test/normal/sub/a.png", "test/COVID/b.png", "test/TB/c.png"]:
        put(tmp_path / name)
    (tmp_path / "test" / "__MACOSX").mkdir()
    put(tmp_path / "test" / "__MACOSX" / "._a.png")
    splits = open_data(tmp_path, size=8)
    assert splits["train"].names == ["Normal/a.png"]
    assert dict(zip(splits["test"].names, splits["test"].labels.tolist())) == {
        "normal/sub/a.png": 0,
        "COVID/b.png": 1,
        "TB/c.png": 1,
    }


def test_class_folders_alone_are_a_labelled_test(xrays):
    splits = open_data(xrays / "val", size=16)
    assert list(splits) == ["test"] and splits["test"].labels.tolist() == [0] * 3 + [1] * 3
    assert open_data(xrays / "val", size=16, splits=("train",)) == {}


def test_images_alone_are_an_unlabelled_train(tmp_path):
    put(tmp_path / "b" / "2.png", 2)
    put(tmp_path / "a.png", 1)
    splits = open_data(str(tmp_path), size=8)
    assert list(splits) == ["train"]
    assert splits["train"].labels is None and splits["train"].names == ["a.png", "b/2.png"]
    assert splits["train"].images[:, 0, 0, 0].tolist() == [1, 2]
    assert open_data(tmp_path, size=8, splits=("test",)) == {}


def test_unreadable_files_raise_or_are_skipped_and_counted(xrays):
    bad = xrays / "val" / "NORMAL" / "IM-0211-0001.jpeg"
    bad.write_bytes(bad.read_bytes()[:2000])
    with pytest.raises(ImageError, match="IM-0211-0001.jpeg.*--skip-unreadable"):
        open_data(xrays, size=16)
    val = open_data(xrays, size=16, skip_unreadable=True)["val"]
    assert val.skipped == 1 and len(val) == len(val.images) == 5
    assert val.labels.tolist() == [0, 0, 1, 1, 1]
    assert "NORMAL/IM-0211-0001.jpeg" not in val.names
    np.testing.assert_array_equal(val.images[1, 0].numpy(), read_image(xrays / "val" / val.names[1], 16))


def test_nothing_readable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"corrupt")
    with pytest.raises(UserError, match="none of the 1 images could be read.*a.png"):
        open_data(tmp_path, size=8, skip_unreadable=True)


def test_missing_path(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist: give a folder"):
        open_data(tmp_path / "nowhere", size=8)


def test_file_instead_of_folder(tmp_path):
    with pytest.raises(UserError, match="a.png is a file: give a folder"):
        open_data(put(tmp_path / "a.png"), size=8)


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        open_data(tmp_path, size=8)


def test_empty_test_folder(xrays):
    shutil.rmtree(xrays / "test")
    (xrays / "test").mkdir()
    with pytest.raises(UserError, match="test holds no images"):
        open_data(xrays, size=8)


@pytest.mark.parametrize("name", ["train/PNEUMONIA/a.png", "train/a.png"])
def test_no_normal_images_to_train_on(tmp_path, name):
    put(tmp_path / name)
    with pytest.raises(UserError, match="train holds no normal images to train on: put them in .*NORMAL"):
        open_data(tmp_path, size=8)


def test_images_beside_class_folders(xrays):
    put(xrays / "val" / "loose.png")
    with pytest.raises(UserError, match="val holds images both in class folders and beside them, such as loose.png"):
        open_data(xrays, size=8)


def test_a_data_set_deeper_inside_is_not_taken_for_normal_images(xrays):
    with pytest.raises(UserError, match="deeper inside: give .*/xrays$"):
        open_data(xrays.parent, size=8)


def test_class_folders_may_be_links(xrays):
    for split, name in (("train", "NORMAL"), ("val", "NORMAL"), ("val", "PNEUMONIA")):
        target = xrays.parent / f"{split}-{name}"
        (xrays / split / name).rename(target)
        (xrays / split / name).symlink_to(target, target_is_directory=True)
    data = open_data(xrays, size=16)
    assert len(data["train"]) == 8 and data["val"].labels.tolist() == [0] * 3 + [1] * 3


def test_notes_beside_the_folders_do_not_make_it_covidx(xrays):
    (xrays / "train_notes.txt").write_text("taken in spring\n")
    assert len(open_data(xrays, size=16, splits=("train",))["train"]) == 8
