"""A few whole messages, word for word. All other tests look for what a message names, not for its words."""

import os
import shutil
import stat

import numpy as np
import pytest
from conftest import XRAYS

from fastsquid import evaluate, export, report, score, train
from fastsquid.config import ConfigError, preset
from fastsquid.data import open_data, read_image
from fastsquid.data.images import ImageError
from fastsquid.errors import CheckpointError, DivergedError, UserError
from fastsquid.estimator import AnomalyDetector
from fastsquid.runs.folder import new_folder, read_run
from fastsquid.utils import files


def _image(folder):
    (folder / "a.png").write_text("no image")
    read_image(folder / "a.png", 16)


MESSAGES = {
    "a setting that does not fit another": (
        lambda folder: preset("squid", top_k=201),
        ConfigError,
        "top_k = 201 is more than slots = 200: use top_k <= 200",
    ),
    "an unknown setting": (
        lambda folder: preset("squid", slot=3),
        ConfigError,
        "unknown config field 'slot': did you mean slots?",
    ),
    "no image": (
        _image,
        ImageError,
        "{folder}/a.png cannot be read as an image (the file is no image): replace or remove it",
    ),
    "an empty folder": (
        lambda folder: open_data(folder, 16),
        UserError,
        "{folder} holds no images: put some there, as .png, .jpeg, .tif, .dcm or the like",
    ),
    "no run folder": (
        read_run,
        CheckpointError,
        "{folder} is not a run folder: it has no config.json; give the folder that fastsquid.train wrote",
    ),
    "an array of another shape": (
        lambda folder: AnomalyDetector().fit(np.zeros((8, 4096))),
        UserError,
        "X has the shape (8, 4096): give images as (n, H, W), a single one as X[None]",
    ),
}


@pytest.mark.parametrize("raises, kind, message", MESSAGES.values(), ids=MESSAGES)
def test_messages(tmp_path, raises, kind, message):
    with pytest.raises(UserError) as error:
        raises(tmp_path)
    assert type(error.value) is kind and str(error.value) == message.format(folder=tmp_path)


def test_messages_of_commands(tmp_path, refused):
    """Commands print an error in one line and exit with code 2."""
    assert refused(train.main, "--slot", "3") == "error: unknown argument --slot: did you mean --slots?\n"
    assert refused(score.main, tmp_path, "nowhere", "--out", tmp_path) == (
        f"error: {tmp_path} is a folder: give the name of a file to write\n"
    )


def test_every_error_of_a_user_is_a_value_error():
    for kind in (UserError, DivergedError, CheckpointError, ConfigError, ImageError):
        assert issubclass(kind, UserError) and issubclass(kind, ValueError)


def test_a_file_of_a_run_is_not_replaced(by_residual, tmp_path, refused):
    """Also with --overwrite: every later command reads it."""
    run = shutil.copytree(by_residual, tmp_path / "run")
    (weights,) = run.glob("checkpoint-*/last.safetensors")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for main, arguments in (
        (score.main, (run, XRAYS / "val", "--out", run / "scores-val.csv")),
        (score.main, (run, XRAYS / "val", "--out", weights)),
        (report.main, (run, XRAYS / "val", "--out", run / "config.json")),
        (export.main, (run, "--to", "onnx", "--out", run / "summary.json")),
        (evaluate.main, (run, "--json", run / "metrics.jsonl", "--out", tmp_path / "pictures")),
    ):
        assert "is a file of a run, which needs it: name another output" in refused(main, *arguments, "--overwrite")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_an_image_is_not_replaced_by_its_score(by_residual, tmp_path, refused):
    image = tmp_path / "a.jpeg"
    shutil.copy(XRAYS / "test" / "0000.jpeg", image)
    for given in (image, tmp_path):
        said = refused(score.main, by_residual, given, "--out", image, "--overwrite")
        assert said == f"error: {image} is one of the files to read: name another output\n"
    assert image.read_bytes() == (XRAYS / "test" / "0000.jpeg").read_bytes()


def test_score_takes_no_list(by_residual, tmp_path, refused):
    table = tmp_path / "list.csv"
    table.write_text("path,label\na.png,0\n")
    assert f"{table} is a list" in refused(score.main, by_residual, table, "--out", tmp_path / "scores.csv")
    assert not (tmp_path / "scores.csv").exists()


def test_an_error_names_the_output(tmp_path, monkeypatch):
    """And not the temporary file that becomes it."""

    def closed(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "_open", closed)
    monkeypatch.setattr(os, "rename", closed)
    with pytest.raises(PermissionError) as error, files.replacing(tmp_path / "a.csv"):
        pass
    assert error.value.filename == str(tmp_path / "a.csv")
    with pytest.raises(PermissionError) as error, new_folder(tmp_path / "run") as folder:
        folder.mkdir()
    assert error.value.filename == str(tmp_path / "run") and not list(tmp_path.iterdir())


def test_a_device_or_a_pipe_is_not_replaced(tmp_path, refused):
    """/dev/null would be a file for the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    said = refused(score.main, "run", XRAYS, "--out", tmp_path / "pipe", "--overwrite")
    assert f"{tmp_path / 'pipe'} is not a regular file" in said and stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
