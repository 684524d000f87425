"""The layout of MVTec AD and of anomalib."""

import shutil

import numpy as np
import pytest
from PIL import Image
from released import listed, run_everything, write_image

from fastsquid.data import known_source, open_data
from fastsquid.data.sources import source_of
from fastsquid.errors import UserError


def write_mask(path, *corner):
    """A mask of the shape of `write_image`, white right of and below a corner (row, column)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((20, 24), np.uint8)
    values[corner[0] :, corner[1] :] = 255
    Image.fromarray(values).save(path)


@pytest.fixture
def root(tmp_path):
    """train/good 000 to 005; test/good 000 to 002; test/crack and test/stain, with masks in both ways of naming."""
    for i in range(6):
        write_image(tmp_path / f"bottle/train/good/{i:03}.png", i)
    for i in range(3):
        write_image(tmp_path / f"bottle/test/good/{i:03}.png", 10 + i)
    for i in range(2):
        write_image(tmp_path / f"bottle/test/crack/{i:03}.png", 20 + i)
        write_mask(tmp_path / f"bottle/ground_truth/crack/{i:03}_mask.png", 10 * i, 12)
    write_image(tmp_path / "bottle/test/stain/000.png", 30)
    write_mask(tmp_path / "bottle/ground_truth/stain/000.png", 10, 0)
    (tmp_path / "bottle/license.txt").write_text("CC BY-NC-SA 4.0")
    return tmp_path / "bottle"


TEST = [(f"test/crack/00{i}.png", 1, "crack") for i in range(2)]
TEST += [(f"test/good/00{i}.png", 0, "normal") for i in range(3)] + [("test/stain/000.png", 1, "stain")]


def test_release(root):
    data = open_data(root, size=20)
    assert listed(data) == {"train": [(f"train/good/00{i}.png", 0, "normal") for i in range(6)], "test": TEST}
    places = dict(zip(data["test"].names, data["test"].places))
    assert not places["test/good/000.png"].mask(20).any()
    half = np.zeros((20, 20), bool)
    half[10:, 10:] = True
    np.testing.assert_array_equal(places["test/crack/001.png"].mask(20), half)
    np.testing.assert_array_equal(places["test/crack/000.png"].mask(20), half | half[::-1])
    np.testing.assert_array_equal(places["test/stain/000.png"].mask(20), half | half[:, ::-1])
    assert source_of(root).name == "mvtec" and known_source(root) is None  # nobody knows what the images show
    assert not any(split.drawn for split in data.values())


def test_without_masks_places_are_not_known(root):
    shutil.rmtree(root / "ground_truth")
    data = open_data(root, size=20)
    assert listed(data)["test"] == TEST and data["test"].places is None


def test_val_is_read_where_it_is(root):
    shutil.copytree(root / "test", root / "val")
    (root / "val/good/000.png").unlink()
    data = open_data(root, size=20)
    assert [len(split) for split in data.values()] == [6, 5, 6]
    assert data["val"].names[2] == "val/good/001.png" and data["val"].places[0].mask(20).any()


def test_abnormal_training_images_are_never_opened(root):
    (root / "train/crack").mkdir()
    (root / "train/crack/000.png").write_text("no image")
    assert len(open_data(root, size=20)["train"]) == 6


def test_evaluation_alone(root):
    shutil.rmtree(root / "train")
    assert listed(open_data(root, size=20, splits=("val", "test"))) == {"test": TEST}
    with pytest.raises(UserError, match="lists no healthy images to train on"):
        open_data(root, size=20)


def test_masks_beside_images_are_never_images(root):
    write_mask(root / "test/stain/000_mask.png", 0, 0)
    write_mask(root / "test/masks/000.png", 0, 0)
    assert listed(open_data(root, size=20))["test"] == TEST


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda root: (root / "train/good").rename(root / "train/fine"), "train has no folder good"),
        (lambda root: shutil.copytree(root / "train/good", root / "test/NORMAL"), "test has both good and NORMAL"),
        (lambda root: shutil.copy(root / "train/good/000.png", root / "train/a.png"), "a.png of .* is in no class"),
        (lambda root: shutil.copy(root / "train/good/000.png", root / "test/a.png"), "a.png of .* is in no class"),
        (
            lambda root: (root / "ground_truth/crack/001_mask.png").unlink(),
            "crack/001.png is abnormal but has no mask: add 'ground_truth/crack/001_mask.png'",
        ),
        (lambda root: write_mask(root / "ground_truth/crack/000.png", 0, 0), "are masks of one image"),
        (lambda root: (root / "ground_truth/stain/000.png").write_text("no"), "000.png cannot be read as a mask"),
    ],
)
def test_what_is_wrong_is_said(root, change, message):
    change(root)
    with pytest.raises(UserError, match=message):
        open_data(root, size=20, all_normal=False)


def test_folder_of_categories(root):
    with pytest.raises(UserError, match=f"deeper inside: give {root}"):
        open_data(root.parent, size=20, all_normal=False)


def test_full_run(root, command, tmp_path):
    found = run_everything(command, root, tmp_path)
    assert found["split"] == "test" and found["images"] == {"normal": 3, "abnormal": 3, "skipped": 0}
