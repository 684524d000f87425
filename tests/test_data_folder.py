import inspect
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastsquid.config import Config, preset
from fastsquid.data import IMAGE_SUFFIXES, ImageError, filetypes, find_images, finding, open_data, read_image
from fastsquid.data.finding import find_files, log_skipped
from fastsquid.data.listing import list_files
from fastsquid.data.names import PATH_NAMES, HashNames
from fastsquid.errors import UserError
from fastsquid.evaluation.summary import evaluate_run, run_table
from fastsquid.runs.data import open_run_data
from fastsquid.runs.records import RunRecord

XRAYS = Path(__file__).parent / "data" / "xrays"


@pytest.fixture
def xrays(tmp_path):
    return Path(shutil.copytree(XRAYS, tmp_path / "xrays"))


def put(path, value=0):
    """A tiny image, gray everywhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)
    return path


def test_the_size_is_the_configurations_unless_told():
    assert inspect.signature(open_data).parameters["size"].default == Config.image_size


def test_zhanglab_layout():
    splits = open_data(XRAYS, size=32)
    assert list(splits) == ["train", "val", "test"]
    assert splits["train"].labels.tolist() == [0] * 8
    assert splits["val"].labels.tolist() == [0] * 3 + [1] * 3 and splits["val"].labels.dtype == torch.int64
    assert splits["test"].labels is None
    assert splits["test"].names == ["0000.jpeg", "0001.jpeg", "0002.jpeg", "0003.jpeg"]
    for name, split in splits.items():
        assert split.images.shape == (len(split), 1, 32, 32) and split.images.dtype == torch.uint8
        assert split.cells is None and split.skipped == 0
        for image, file in zip(split.images, split.names):
            np.testing.assert_array_equal(image[0].numpy(), read_image(XRAYS / name / file, 32))
    assert splits["val"].classes == [name.split("/")[0] for name in splits["val"].names]
    assert splits["val"].classes == ["NORMAL"] * 3 + ["PNEUMONIA"] * 3 and splits["test"].classes is None
    assert splits["train"].classes == ["NORMAL"] * 8
    assert open_data(XRAYS, size=32, anonymous=True)["val"].classes == ["normal"] * 3 + ["abnormal"] * 3


def test_train_opens_normal_only(xrays, monkeypatch):
    (xrays / "train" / "PNEUMONIA" / "corrupt.jpeg").write_bytes(b"corrupt")
    opened, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file, **_: opened.append(Path(file.name)) or original(file))
    assert len(open_data(xrays, size=16, splits=("train",))["train"]) == 8
    assert sorted(opened) == find_images(xrays / "train" / "NORMAL")


@pytest.fixture
def ill(xrays):
    """Eight normal training images, and three and two of two abnormal classes; each file has a gray of its own."""
    shutil.rmtree(xrays / "train")
    for i in range(8):
        put(xrays / "train" / "Normal" / f"{i}.png", i)
    for i in range(3):
        put(xrays / "train" / "PNEUMONIA" / "sub" / f"{i}.png", 100 + i)
    for i in range(2):
        put(xrays / "train" / "COVID" / f"{i}.png", 200 + i)
    return xrays


def test_auc_by_class_of_several_class_folders(tmp_path):
    for name, values in {"BACTERIA": (7, 8), "NORMAL": (1, 2), "VIRUS": (0, 9)}.items():
        for i in values:
            put(tmp_path / "test" / name / f"{i}.png", i)
    (tmp_path / "test" / "NORMAL" / "0.png").write_bytes(b"corrupt")
    data = open_data(tmp_path, size=8, skip_unreadable=True)
    assert data["test"].classes == ["BACTERIA"] * 2 + ["NORMAL"] * 2 + ["VIRUS"] * 2
    assert data["test"].abnormal_classes == ["BACTERIA", "VIRUS"]
    scores = {"test": {"residual": data["test"].images[:, 0, 0, 0].numpy()}}

    def evaluated():
        return evaluate_run(data, scores, preset("squid", score="residual"), "last", 1, None)

    assert evaluated()["scores"]["residual"]["auc_by_kind"] == {"BACTERIA": 1.0, "VIRUS": 0.5}
    lines = run_table(evaluated()).splitlines()
    assert evaluated()["by_class"] == {
        "score": "residual",
        "classes": {
            "BACTERIA": {"images": 2, "auc": 1.0, "low": 1.0, "high": 1.0},
            "VIRUS": {"images": 2, "auc": 0.5, "low": 0.0, "high": 1.0},
        },
    }
    assert [line.split() for line in lines[-4:-1]] == [
        ["AUC", "by", "class", "images", "residual"],
        ["BACTERIA", "2", "1.000", "[1.000,", "1.000]"],
        ["VIRUS", "2", "0.500", "[0.000,", "1.000]"],
    ]
    (tmp_path / "test" / "VIRUS").rename(tmp_path / "VIRUS")
    data = open_data(tmp_path, size=8, skip_unreadable=True)
    scores = {"test": {"residual": data["test"].images[:, 0, 0, 0].numpy()}}
    assert "auc_by_kind" not in evaluated()["scores"]["residual"] and evaluated()["by_class"] is None
    assert len(run_table(evaluated()).splitlines()) == len(lines) - 5


@pytest.mark.parametrize("share, abnormal", [(0.1, 1), (0.25, 2), (0.5, 4), (0.6, 5)])
def test_contamination_replaces_a_share_of_the_training_images(ill, monkeypatch, share, abnormal):
    opened, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda file, **_: opened.append(Path(file.name)) or original(file))
    train = open_data(ill, size=8, splits=("train",), contamination=share)["train"]
    assert len(train) == len(set(train.names)) == len(train.images) == 8
    assert train.labels.tolist() == [0] * (8 - abnormal) + [1] * abnormal and train.labels.dtype == torch.int64
    assert train.classes == [name.split("/")[0] for name in train.names]
    assert [name != "Normal" for name in train.classes] == train.labels.bool().tolist()
    assert sorted(opened) == sorted(ill / "train" / name for name in train.names), "no other is decoded"
    first = {"Normal": 0, "PNEUMONIA": 100, "COVID": 200}
    grays = [first[name.split("/")[0]] + int(Path(name).stem) for name in train.names]
    assert train.images[:, 0, 0, 0].tolist() == grays


def test_contamination_is_the_seeds_and_grows(ill):
    def names(seed, share):
        train = open_data(ill, size=8, seed=seed, splits=("train",), contamination=share)["train"]
        return train.names[: -train.labels.sum()], train.names[-train.labels.sum() :]

    assert names(0, 0.5) == names(0, 0.5)
    drawn = [names(seed, 0.5) for seed in range(4)]
    for part in (0, 1):
        assert len({tuple(split[part]) for split in drawn}) > 1
    less, more = names(0, 0.25), names(0, 0.5)
    assert set(more[0]) < set(less[0]) and set(less[1]) < set(more[1])
    assert len(open_data(ill, size=8, seed=-1, splits=("train",), contamination=0.5)["train"]) == 8


def test_contamination_leaves_validation_and_test_alone(ill):
    clean, contaminated = (open_data(ill, size=16, contamination=share) for share in (0, 0.5))
    for name in ("val", "test"):
        assert contaminated[name].names == clean[name].names
        assert torch.equal(contaminated[name].images, clean[name].images)
    assert contaminated["val"].labels.tolist() == [0] * 3 + [1] * 3 and contaminated["test"].labels is None


def test_without_contamination_abnormal_training_images_are_not_touched(ill):
    for path in find_images(ill / "train" / "PNEUMONIA") + find_images(ill / "train" / "COVID"):
        path.write_bytes(b"corrupt")
    train = open_data(ill, size=8, contamination=0.0)["train"]
    assert train.labels.tolist() == [0] * 8 and train.images[:, 0, 0, 0].tolist() == list(range(8))
    with pytest.raises(ImageError, match="--skip-unreadable"):
        open_data(ill, size=8, contamination=0.5)


def test_too_few_abnormal_images_to_contaminate_with(ill):
    numbers = "0.7 .* 8 .* 6 .*train .* 5 .* contamination <= 0.62"
    with pytest.raises(UserError, match=numbers):
        open_data(ill, size=8, contamination=0.7)
    for name in ("PNEUMONIA", "COVID"):
        shutil.rmtree(ill / "train" / name)
    with pytest.raises(UserError, match=" 4 .* 0 .* contamination <= 0$"):
        open_data(ill, size=8, contamination=0.5)


def test_contamination_of_a_source_without_abnormal_training_images(xrays, tmp_path):
    put(tmp_path / "plain" / "a.png")
    put(tmp_path / "covidx" / "train" / "a.png")
    (tmp_path / "covidx" / "train.txt").write_text("1 a.png COVID-19 cohen\n")
    put(tmp_path / "chexpert" / "train" / "a.png")
    (tmp_path / "chexpert" / "train.csv").write_text("Path,Pneumonia\n")
    for root in (tmp_path / "plain", tmp_path / "covidx", tmp_path / "chexpert", xrays / "val"):
        with pytest.raises(UserError, match=f"contamination = 0.1 .*{root.name}"):
            open_data(root, size=8, contamination=0.1)


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


def test_class_folders_alone_are_a_labeled_test(xrays):
    splits = open_data(xrays / "val", size=16)
    assert list(splits) == ["test"] and splits["test"].labels.tolist() == [0] * 3 + [1] * 3
    assert open_data(xrays / "val", size=16, splits=("train",)) == {}


def test_images_alone_are_an_unlabeled_train(tmp_path):
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
    with pytest.raises(UserError, match=" 1 .*a.png"):
        open_data(tmp_path, size=8, skip_unreadable=True)


def test_missing_path(tmp_path):
    with pytest.raises(UserError, match="/nowhere .*DigitAnatomy"):
        open_data(tmp_path / "nowhere", size=8)


def test_file_instead_of_folder(tmp_path):
    with pytest.raises(UserError, match=r"/a\.png .*DigitAnatomy"):
        open_data(put(tmp_path / "a.png"), size=8)


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path} .*\.png"):
        open_data(tmp_path, size=8)


def test_empty_test_folder(xrays):
    shutil.rmtree(xrays / "test")
    (xrays / "test").mkdir()
    with pytest.raises(UserError, match=rf"{xrays / 'test'} .*\.png"):
        open_data(xrays, size=8)


@pytest.mark.parametrize("name", ["train/PNEUMONIA/a.png", "train/a.png"])
def test_no_normal_images_to_train_on(tmp_path, name):
    put(tmp_path / name)
    with pytest.raises(UserError, match="train .*train/NORMAL"):
        open_data(tmp_path, size=8)


def test_images_beside_class_folders(xrays):
    put(xrays / "val" / "loose.png")
    with pytest.raises(UserError, match="val .*loose.png"):
        open_data(xrays, size=8)


def test_a_data_set_deeper_inside_is_not_taken_for_normal_images(xrays):
    with pytest.raises(UserError, match="/xrays$"):
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


# Other names of splits, masks, and files that are no images


@pytest.mark.parametrize("names", [("Train", "VAL", "Testing"), ("training", "valid", "TEST"), ("TRAIN", "Validation")])
def test_split_folders_by_other_names(xrays, names):
    expected = open_data(xrays, size=16)
    for split, name in zip(("train", "val", "test"), names):
        (xrays / split).rename(xrays / f"{split}.moved")
        (xrays / f"{split}.moved").rename(xrays / name)
    data = open_data(xrays, size=16)
    assert list(data) == list(expected) == ["train", "val", "test"]
    for split in data:
        assert data[split].names == expected[split].names and torch.equal(data[split].images, expected[split].images)
        assert data[split].classes == expected[split].classes


def test_two_folders_of_one_split(xrays):
    shutil.copytree(xrays / "val", xrays / "Valid")
    with pytest.raises(UserError, match=r"\bval\b.*\bValid\b.*\bval\b"):
        open_data(xrays, size=16)


def test_a_data_set_of_other_names_deeper_inside(tmp_path):
    put(tmp_path / "release" / "Training" / "a.png")
    with pytest.raises(UserError, match="/release$"):
        open_data(tmp_path, size=8)


def test_every_suffix_is_one_of_pillows(tmp_path):
    extensions = Image.registered_extensions()
    assert all(extensions[suffix] in Image.OPEN for suffix in IMAGE_SUFFIXES)
    for suffix in IMAGE_SUFFIXES:
        Image.fromarray(np.full((16, 16), 7, np.uint8)).save(tmp_path / f"a{suffix.upper()}", extensions[suffix])
    assert open_data(tmp_path, size=8)["train"].images.unique().tolist() == [7]


def opened(root, **options):
    return open_run_data(RunRecord(preset("fastsquid-small"), None, 0), str(root), **options)


def messages(caplog):
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_masks_are_no_x_rays(tmp_path, caplog):
    caplog.set_level("INFO")
    names = ["images/a.png", "masks/a.png", "Lung Mask/left/a.png", "ManualMask/a.png", "Segmentations/a.png"]
    for name in [*names, "labels/a.png", "images/a_mask.png", "images/b_mask.png"]:
        put(tmp_path / name)
    assert opened(tmp_path)["train"].names == ["images/a.png", "images/b_mask.png"]
    ((level, text),) = messages(caplog)
    assert level == "WARNING" and " 6 " in text and f"{tmp_path}/" in text
    assert open_data(tmp_path / "masks", size=8)["train"].names == ["a.png"], "asked for by name"
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(UserError, match=r"\b5\b"):
        open_data(tmp_path, size=8)


def test_masks_are_no_class(tmp_path, caplog):
    for name in ["val/NORMAL/images/a.png", "val/NORMAL/masks/a.png", "val/COVID/b.png", "val/Masks/b.png"]:
        put(tmp_path / name)
    val = opened(tmp_path)["val"]
    assert dict(zip(val.names, val.labels.tolist())) == {"NORMAL/images/a.png": 0, "COVID/b.png": 1}
    assert [" 2 " in text for _, text in messages(caplog)] == [True]
    put(tmp_path / "train" / "NORMAL" / "images" / "a.png")
    put(tmp_path / "train" / "NORMAL" / "masks" / "a.png")
    assert open_data(tmp_path, size=8, splits=("train",))["train"].names == ["NORMAL/images/a.png"]


def test_files_that_are_no_images_are_counted_by_suffix(xrays, caplog):
    caplog.set_level("INFO")
    for name in ["train/NORMAL/a.txt", "train/NORMAL/b.TXT", "val/NORMAL/c.csv", "val/d", "train/PNEUMONIA/e.txt"]:
        (xrays / name).write_text("no image")
    (xrays / "val" / ".hidden").write_text("")
    opened(xrays)
    ((level, text),) = messages(caplog)
    assert level == "INFO" and " 4 " in text and "2 .txt" in text and "1 .csv" in text and "1 without" in text
    caplog.clear()
    opened(xrays, splits=("test",))
    opened(xrays, uncropped=True)
    assert not messages(caplog), "images that are opened again are not counted again"
    caplog.clear()
    assert len(list_files([xrays / "val"], PATH_NAMES)) == 6
    assert [(level, " 2 " in text) for level, text in messages(caplog)] == [("INFO", True)]


# Plain folders whose images are not known to be healthy


def rejected(root, **options):
    with pytest.raises(UserError, match="--all-normal") as error:
        open_data(root, size=8, all_normal=False, **options)
    assert len(open_data(root, size=8)["train"]), "only where it is asked"
    return str(error.value)


LABEL_FILES = {
    "Data_Entry.csv": "Image Index,Finding Labels,Follow-up #\n00000001_000.png,Cardiomegaly,0\n",
    "train.csv": "image_id,class_name,x_min\n1,Aortic enlargement,3\n",
    "detailed_class_info.csv": "patientId,class\n1,Normal\n",
    "labels.csv": "",
    "chest_metadata.tsv": "x\ty\n",
    "list.csv": "a.png,1\nb.png,0\n",
    "export.csv": "id;image;sex\n1;A;F\n",
    "table.csv": "a.png|Pneumonia\n",
    "readings.xlsx": "",
    "annotations.json": "{}",
    "instances.json": '{"images": [], "categories": [{"id": 1}]}',
    "a.txt": "0 0.5 0.5 0.1 0.1\n",
    "A.xml": "<object/>",
    "ground_truth.npy": "",
    "ImageLabels.parquet": "",
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_a_label_file_beside_or_below_the_images(tmp_path, name):
    put(tmp_path / "data" / "scans" / "a.png")
    for folder in ("data", "data/scans"):
        path = tmp_path / folder / name
        path.write_text(LABEL_FILES[name])
        said = rejected(tmp_path / "data")
        assert repr(path.relative_to(tmp_path / "data").as_posix()) in said and str(tmp_path / "data") in said
        assert name not in (hidden := rejected(tmp_path / "data", anonymous=True)) and "--anonymous" in hidden
        path.unlink()


@pytest.mark.parametrize("name", ["Data_Entry.csv", "labels.csv", "list.csv", "annotations.json", "truth.xlsx"])
def test_a_label_file_above_the_images(tmp_path, name):
    put(tmp_path / "release" / "images_01" / "images" / "a.png")
    path = tmp_path / "release" / name
    path.write_text(LABEL_FILES.get(name, ""))
    for folder in ("images_01", "images_01/images"):
        assert str(path) in rejected(tmp_path / "release" / folder)
    (tmp_path / "release" / "images_01").rename(tmp_path / "release" / "Normal")
    for folder in ("Normal", "Normal/images"):
        assert open_data(tmp_path / "release" / folder, size=8, all_normal=False)


def test_a_spreadsheet_above_is_looked_into(tmp_path):
    put(tmp_path / "scans" / "a.png")
    for texts, is_label in ((["Rent", "Food"], False), (["Patient", "Diagnosis"], True), (["nr", "A"], True)):
        with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as archive:
            archive.writestr("xl/sharedStrings.xml", "".join(f"<si><t>{text}</t></si>" for text in texts))
        if is_label:
            assert "book.xlsx" in rejected(tmp_path / "scans")
        else:
            assert open_data(tmp_path / "scans", size=8, all_normal=False)


def test_json_above_names_the_images(tmp_path):
    put(tmp_path / "scans" / "A.png")
    for name in ("A.png", "scans/a.png"):
        (tmp_path / "list.json").write_text(json.dumps({"categories": [], "images": [name]}))
        assert "list.json" in rejected(tmp_path / "scans")
    (tmp_path / "list.json").write_text('{"categories": ["keyboard"], "name": "an extension"}')
    assert open_data(tmp_path / "scans", size=8, all_normal=False)


def test_what_is_no_label_file(tmp_path):
    """What fastsquid writes, and what people leave beside images."""
    results = Path(__file__).parent.parent / "bench" / "results"
    root = tmp_path / "mine"
    put(root / "a.png")
    shutil.copytree(results / "zhanglab" / "small" / "fastsquid" / "seed-0", root / "run")
    shutil.copytree(results / "digits" / "fastsquid", root / "group")
    shutil.copy(results / "studies" / "small" / "ablations.csv", root)
    (root / "scores.csv").write_text("name,score,percentile,above_threshold\na.png,0.1,3,0\n")
    for name in ("README.md", "README_labels.txt", "LICENSE", "notes.txt", "Thumbs.db", ".labels.csv", "sizes.csv"):
        (root / name).write_text("file,bytes\nz.png,3\n")
    (tmp_path / "settings.json").write_text('{"window": 3}')
    (tmp_path / "b.txt").write_text("")
    assert open_data(root, size=8, all_normal=False)["train"].names == ["a.png"]


@pytest.mark.parametrize(
    "classes",
    [
        ["COVID", "Viral Pneumonia"],
        ["sanos", "enfermos"],
        ["gesund1", "krank2"],
        ["0", "1"],
        ["class_1", "class_2"],
        ["images/healthy", "images/sick"],
        ["pneumonia"],
        ["nodules"],
        ["positive"],
        ["positive_xrays", "negative_xrays"],
        ["good images", "bad images"],
    ],
)
def test_class_folders_none_of_them_normal(tmp_path, classes):
    for name in classes:
        put(tmp_path / "data" / name / "a.png")
    said = rejected(tmp_path / "data")
    assert all(repr(Path(name).name) in said for name in classes)
    hidden = rejected(tmp_path / "data", anonymous=True)
    assert not any(repr(Path(name).name) in hidden for name in classes)
    (tmp_path / "labels.csv").write_text("")
    said = rejected(tmp_path / "data")
    assert "labels.csv" in said and all(repr(Path(name).name) in said for name in classes)


@pytest.mark.parametrize(
    "folders",
    [
        ["2023-01", "2023-02"],
        ["patient1", "patient2"],
        ["3fa9", "b22e"],
        ["images"],
        ["frontal", "PA"],
        ["PA images", "AP images"],
        ["PA view", "AP view"],
        ["images_a", "images_b"],
        ["raw images", "cropped images"],
        ["adult_male", "adult_female"],
    ],
)
def test_other_folders_are_no_classes(tmp_path, folders):
    for name in folders:
        put(tmp_path / "data" / name / "a.png")
    assert len(open_data(tmp_path / "data", size=8, all_normal=False)["train"]) == len(folders)


def test_a_folder_of_one_disease(tmp_path):
    put(tmp_path / "PNEUMONIA" / "a.png")
    assert "'PNEUMONIA'" in rejected(tmp_path / "PNEUMONIA")


def test_layouts_with_normal_are_known_to_be_healthy(xrays):
    (xrays / "labels.csv").write_text("image,label\n")
    assert list(open_data(xrays, size=8, all_normal=False)) == ["train", "val", "test"]


def test_a_folder_beside_a_public_data_set(tmp_path):
    """Only folders inside of a public data set, or just above one, are parts of it. Closed folders say nothing."""
    for name in ("CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg", "labels/report_fixed.json"):
        put(tmp_path / name) if name.endswith("jpg") else (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "report_fixed.json").write_text("{}")
    for i in range(3):
        put(tmp_path / "mine" / f"{i}.png")
    assert len(open_data(tmp_path / "mine", size=8, all_normal=False)["train"]) == 3
    (tmp_path / "nih" / "images_001" / "images").mkdir(parents=True)
    put(tmp_path / "nih" / "images_001" / "images" / "00000001_000.png")
    with pytest.raises(UserError, match="is one .nih."):
        open_data(tmp_path / "nih" / "images_001" / "images", size=8, all_normal=False)
    for name in ("val", "valid"):
        (tmp_path / name).mkdir()  # two folders of one split, above
    assert len(open_data(tmp_path / "mine", size=8, all_normal=False)["train"]) == 3


def test_links_to_folders_are_counted(tmp_path, xrays, caplog):
    """They are not followed: a link may lead back."""
    folder = shutil.copytree(xrays / "val" / "NORMAL", tmp_path / "clinic" / "monday").parent
    (folder / "study").symlink_to(xrays / "val" / "PNEUMONIA", target_is_directory=True)
    found = find_files(folder)
    assert len(found.images) == 3 and found.links == [folder / "study"]
    log_skipped([found], PATH_NAMES)
    assert "did not follow 1 link to a folder" in caplog.text
    shutil.rmtree(folder / "monday")
    with pytest.raises(UserError, match=r"links to folders are not followed \(1 here\)"):
        list_files([folder], PATH_NAMES)


@pytest.mark.parametrize("names", [PATH_NAMES, HashNames()])
def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch, names):
    """A hidden path stays hidden."""
    inner = tmp_path / "Doe^John"

    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", str(inner)))
        return iter(())

    monkeypatch.setattr(finding.os, "walk", walk)
    with pytest.raises(UserError, match=f"cannot list .*{tmp_path}.*Permission denied") as caught:
        find_files(tmp_path, names=names)
    assert ("Doe" in str(caught.value)) == (names is PATH_NAMES)


def test_a_file_without_suffix_that_may_not_be_read(tmp_path, monkeypatch):
    """It may be DICOM: it is not taken for a file that is no image."""

    def forbidden(path):
        raise PermissionError

    (tmp_path / "IM1").touch()
    monkeypatch.setattr(filetypes, "is_dicom", forbidden)
    assert filetypes.is_image(tmp_path / "IM1")


def test_skipped_files_have_a_reason(xrays, caplog):
    for name in ("IM-0211-0001.jpeg", "IM-0213-0001.jpeg"):
        (xrays / "val" / "NORMAL" / name).write_bytes(b"")
    assert open_data(xrays, size=16, skip_unreadable=True)["val"].skipped == 2
    assert re.search("the first of 2 files that are left out: .*IM-0211-0001.jpeg.*empty", caplog.text)
