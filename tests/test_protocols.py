"""Splits of publications: counts, who is in which split, and that a run keeps its own."""

import json
import re

import pytest
from PIL import Image
from released import SMALLEST

from fastsquid import evaluate, train
from fastsquid.data import open_data
from fastsquid.data.protocols import PROTOCOLS
from fastsquid.errors import UserError
from fastsquid.runs.folder import read_run


@pytest.fixture(scope="module")
def zhanglab(tmp_path_factory):
    """Names as in Kaggle's version, whose `val` holds training images; two images of every second patient."""
    root = tmp_path_factory.mktemp("zhanglab")

    def write(folder, name):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), len(name) * 3 % 256).save(root / folder / name)

    for i in range(150):
        for image in range(1 + i % 2):
            write("train/NORMAL", f"IM-{115 + i:04}-000{image + 1}.jpeg")
            write("train/PNEUMONIA", f"person{i}_bacteria_{2 * i + image}.jpeg")
    for i in range(8):
        write("val/NORMAL", f"NORMAL2-IM-{1427 + i}-0001.jpeg")
        write("val/PNEUMONIA", f"person{1946 + i}_virus_{i}.jpeg")
        write("test/NORMAL", f"IM-000{i}-0001.jpeg")
        write("test/PNEUMONIA", f"person{i}_virus_{i}.jpeg")
    return root


def test_squid_zhanglab(zhanglab):
    data = open_data(zhanglab, 8, protocol="squid-zhanglab")
    assert {name: (len(split), int(split.labels.sum())) for name, split in data.items()} == {
        "train": (225 + 8 - 100, 0),
        "val": (200, 100),
        "test": (16, 8),
    }
    names = {name: set(split.names) for name, split in data.items()}
    assert names["test"] == {path.relative_to(zhanglab).as_posix() for path in zhanglab.glob("test/*/*")}
    assert all(name.startswith(("train/", "val/")) for name in names["train"] | names["val"])
    assert not names["train"] & names["val"]
    patients = {split: {re.split(r"-000|_", name)[0] for name in names[split]} for split in ("train", "val")}
    assert not patients["train"] & patients["val"]  # in either label
    again = open_data(zhanglab, 8, protocol="squid-zhanglab", seed=1)
    assert again["val"].names == data["val"].names
    assert [len(split) for split in open_data(zhanglab, 8).values()] == [225, 16, 16]  # without the protocol


def test_too_few_images(zhanglab, tmp_path):
    (tmp_path / "train" / "NORMAL").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "train" / "NORMAL" / "IM-0115-0001.jpeg")
    with pytest.raises(UserError, match="needs the folder .*test"):
        open_data(tmp_path, 8, protocol="squid-zhanglab")
    (tmp_path / "test").symlink_to(zhanglab / "test")
    with pytest.raises(UserError, match="has 1 of one kind"):
        open_data(tmp_path, 8, protocol="squid-zhanglab")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_data_of_another_source(name, tmp_path, refused):
    (tmp_path / "data").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "data" / "a.png")
    message = refused(train.main, "--data", tmp_path / "data", "--protocol", name, "--out", tmp_path / "run", *SMALLEST)
    assert f"--protocol {name} needs {PROTOCOLS[name].source} data" in message and "recognized as folder" in message
    assert not (tmp_path / "run").exists()


def test_no_such_protocol(tmp_path, refused):
    message = refused(train.main, "--protocol", "zhanglab", "--out", tmp_path / "run", *SMALLEST)
    assert "there is no protocol 'zhanglab': give one of squid-zhanglab" in message


def test_lists_of_another_version(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / f"{part}_COVIDx8A.txt").write_text("1 a.png normal cohen\n")
    with pytest.raises(UserError, match=r"needs a list of COVIDx 9A, .*train_COVIDx9A\.txt"):
        open_data(tmp_path, 8, protocol="simsid-covidx")


def test_validation_of_simsid_covidx_is_drawn(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / f"{part}_COVIDx9A.txt").write_text("1 a.png normal cohen\n")
    (tmp_path / "val.txt").write_text("1 a.png normal cohen\n")
    with pytest.raises(UserError, match=r"draws validation from the training list, but .*val\.txt is there"):
        open_data(tmp_path, 8, protocol="simsid-covidx")


@pytest.mark.parametrize("name", ["0004cfab-14fd-4e49-80ba-63a80b6bddd6", "0005e8e3701dfb1dd93d53e2ff537b6e"])
def test_medianomaly_rsna_is_not_vincxr(tmp_path, name):
    rows = {name.replace(name[-1], digit): int(digit > "3") for digit in "0123456789" if digit != name[-1]}
    for file in rows:
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("L", (4, 4), rows[file] * 9).save(tmp_path / "images" / f"{file}.png")
    healthy, abnormal = ([f"{file}.png" for file, label in rows.items() if label == of] for of in (0, 1))
    lists = {"train": {"0": healthy[1:]}, "test": {"0": healthy[:1], "1": abnormal}}
    (tmp_path / "data.json").write_text(json.dumps(lists))
    if "-" in name:
        data = open_data(tmp_path, 8, protocol="medianomaly-rsna")
        assert [len(split) for split in data.values()] == [len(healthy) - 1, 1 + len(abnormal)]
    else:
        with pytest.raises(UserError, match="needs MedIAnomaly's folder RSNA, but"):
            open_data(tmp_path, 8, protocol="medianomaly-rsna")


def test_a_run_keeps_its_protocol(zhanglab, tmp_path, command, refused):
    run = tmp_path / "run"
    arguments = ["--data", zhanglab, "--protocol", "squid-zhanglab", "--out", run, *SMALLEST]
    code, _, err = command(train.main, *arguments)
    assert code == 0, err
    assert read_run(run).protocol == "squid-zhanglab"
    code, out, err = command(evaluate.main, run, "--json", tmp_path / "e.json")
    assert code == 0 and json.loads((tmp_path / "e.json").read_text())["images"]["normal"] == 8, err
    assert "another split" in refused(evaluate.main, run, "--protocol", "simsid-covidx", "--overwrite")
    # The same folder, given again, is the run's own data, with the run's own split.
    assert command(evaluate.main, run, "--data", zhanglab, "--overwrite")[0] == 0
    assert len((run / "splits.csv").read_text().splitlines()) == 1 + 133 + 200 + 16
