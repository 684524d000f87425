"""The study command: its grids, a tiny study from end to end, and what is refused."""

import csv
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import XRAYS
from PIL import Image

from fastsquid import study
from fastsquid.config import ABLATIONS, DIGITS, PRESETS, preset
from fastsquid.data.sources import digits
from fastsquid.drawing.study import draw_study
from fastsquid.errors import DivergedError
from fastsquid.runs.group import finished_runs
from fastsquid.runs.records import Summary
from fastsquid.training import loop, start, study_folder
from fastsquid.training import study as grids
from fastsquid.training.study import STUDIES, SWEEP, Row

SCORES = preset("squid").scores


SCALES = ("full", "small")
ROWS = [
    Row("squid", "base", {}, {"grid": 3, "slots": 6, "top_k": 5, "shortcut": 0.95}),
    Row("squid", "slots 8", {"slots": 8, "decoder_scope": "global"}, {"slots": 8}),
]


# The grids


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_row_is_a_configuration_of_its_own(name, scale):
    rows = STUDIES[name][scale]
    configs = [row.config(scale) for row in rows]
    distinct = {replace(config, preset="", score="residual") for config in configs}
    assert len(distinct) == len({row.slug for row in rows}) == len(rows)
    for row, config in zip(rows, configs):
        digits = f"{row.system}-digits"
        assert config.preset == (digits if scale == "small" and digits in PRESETS else row.system)
        assert {field: getattr(config, field) for field in row.changes} == row.changes
        assert {field: getattr(config, field) for field in row.points} == row.points
        full = (128, preset(row.system).epochs)
        assert (config.image_size, config.epochs) == (full if scale == "full" else (48, grids.SMALL_EPOCHS))
        if scale == "small":
            assert all(getattr(config, f) == v for f, v in DIGITS.items() if f not in ("epochs", *row.changes))


@pytest.mark.parametrize("scale", SCALES)
def test_ablations_are_the_rows_of_both_papers_tables(scale):
    rows = [(row.system, row.name) for row in STUDIES["ablations"][scale]]
    assert rows == [(system, name) for system in ("squid", "simsid") for name in ("Full", *ABLATIONS[system])]
    assert [system for system, _ in rows] == ["squid"] * 9 + ["simsid"] * 11


@pytest.mark.parametrize("scale, base", [("full", (2, 200, 5, 0.95)), ("small", (3, 200, 5, 0.95))])
def test_the_sweeps_curves_share_one_base(scale, base):
    first, *others = STUDIES["sweep"][scale]
    assert first.points == dict(zip(SWEEP[scale], base)) and first.changes == {}
    assert all(row.points == row.changes and len(row.changes) == 1 for row in others)
    for name, values in SWEEP[scale].items():
        assert sorted(row.points[name] for row in STUDIES["sweep"][scale] if name in row.points) == list(values)


def test_contamination_and_baselines():
    rows = STUDIES["contamination"]["full"]
    for system in ("squid", "fastsquid"):
        shares = {row.config("full").contamination for row in rows if row.system == system}
        assert shares == {0, 0.1, 0.2, 0.3, 0.4, 0.5}
    papers = {"squid": "discriminator", "simsid": "discriminator", "memae": "residual", "auto-encoder": "residual"}
    papers |= {"cutpaste": "discriminator_image", "anatpaste": "discriminator_image"}
    for scale, ours in (("full", "combined"), ("small", "patch_residual")):
        scores = {row.system: row.config(scale).score for row in STUDIES["baselines"][scale]}
        assert scores == {**papers, "fastsquid": ours}
    (memae,) = (row.config("small") for row in STUDIES["baselines"]["small"] if row.system == "memae")
    assert (memae.slots, memae.memory_scope) == (2000, "global")


# A tiny study


@pytest.fixture(scope="module")
def tiny():
    """Sixteen training images, two rows of tiny networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "COUNTS", {"train": (16, 0, 0, 0, 0), "val": (4, 1, 1, 1, 1), "test": (8, 2, 2, 2, 2)})
        patch.setattr(grids, "SMALL", {**grids.SMALL, "width": 2, "slots": 6, "epochs": 1})
        patch.setitem(STUDIES["sweep"], "small", ROWS)
        yield


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """A finished study; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("studies") / "done"
    assert study.main(["sweep", "--device", "cpu", "--out", str(folder)]) is None
    return folder


def lines_of(folder):
    with open(folder / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def check_figure(path):
    with Image.open(path) as image:
        assert min(image.size) > 200 and np.ptp(np.asarray(image.convert("L"))) == 255
    assert path.stat().st_size < 300_000


def test_the_csv_says_what_the_runs_do(done):
    assert sorted(path.name for path in done.iterdir()) == [
        *("squid-base", "squid-slots-8", "study.json", "sweep.csv", "sweep.png")
    ]
    lines = lines_of(done)
    assert list(lines[0]) == list(study_folder.COLUMNS)
    points = [("base", name, str(value)) for name, value in ROWS[0].points.items()] + [("slots 8", "slots", "8")]
    assert [(line["row"], line["parameter"], line["value"], line["score"]) for line in lines] == [
        (*point, score) for point in points for score in SCORES
    ]
    for line in lines:
        run = done / f"squid-{line['row'].replace(' ', '-')}" / "seed-0"
        summary = json.loads((run / "summary.json").read_text())
        assert float(line["auc"]) == summary["scores"][line["score"]]["auc"]
        assert line["ranks"] == str(int(line["score"] == "discriminator"))
        assert float(line["seconds"]) == summary["seconds"]
        assert [line[key] for key in ("system", "seed", "epochs", "checkpoint", "epoch", "split")] == [
            *("squid", "0", "1", "last", "1", "test")
        ]
        assert json.loads((run / "config.json").read_text())["config"]["slots"] == (6 if line["row"] == "base" else 8)
    assert list(finished_runs(done / "squid-base")) == [0], "a row is a group"
    check_figure(done / "sweep.png")


def test_a_finished_study_trains_nothing(done, tmp_path, command, monkeypatch):
    folder = shutil.copytree(done, tmp_path / "study")
    (folder / "sweep.csv").unlink()
    (folder / "sweep.png").unlink()
    monkeypatch.setattr(start, "train_run", None)
    code, out, _ = command(study.main, "sweep", "--out", folder)
    assert code == 0 and f"study folder: {folder}" in out
    assert re.search(r"^run 1 of 2: .*\bbase\b.* 0 .*\nrun 2 of 2: .*\bslots 8\b.* 0 .*\n", out, re.M)
    assert lines_of(folder) == lines_of(done) and (folder / "sweep.png").is_file()


def test_an_interrupted_study_goes_on(done, tmp_path, command, monkeypatch):
    """A signal in the second of two runs: the first is in the CSV, and the same command ends as an unbroken one."""
    monkeypatch.chdir(tmp_path)
    original, steps = loop.Trainer.step, []

    def step(self, images, iteration, eager=False, whole=None):
        steps.append(self.config.slots)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, images, iteration, eager, whole)

    monkeypatch.setattr(grids, "SMALL", {**grids.SMALL, "epochs": 2})  # an epoch is one step
    monkeypatch.setattr(loop.Trainer, "step", step)
    assert command(study.main, "sweep", "--device", "cpu")[0] == 130
    folder = Path("studies/sweep-small")
    assert steps == [6, 6, 8]
    assert {line["row"] for line in lines_of(folder)} == {"base"} and (folder / "sweep.png").is_file()
    code, out, _ = command(study.main, "sweep", "--device", "cpu")
    assert code == 0 and re.search(r"^run 1 of 2: .*\bbase\b.* 0 .* finished$", out, re.M)
    assert steps == [6, 6, 8, 8], "no step was repeated or left out"
    assert len(lines_of(folder)) == len(lines_of(done))


def test_a_row_that_diverges_stops_no_other(done, tmp_path, refused, monkeypatch):
    folder = shutil.copytree(done, tmp_path / "study")
    for row in ("squid-base", "squid-slots-8"):
        shutil.rmtree(folder / row)

    def diverge(run_folder, run, *arguments):
        if run.config.slots == 6:
            raise DivergedError("the student loss is nan")
        return original(run_folder, run, *arguments)

    original = start.train_run
    monkeypatch.setattr(start, "train_run", diverge)
    message = refused(study.main, "sweep", "--device", "cpu", "--out", folder)
    assert "squid, base, seed 0" in message
    assert {line["row"] for line in lines_of(folder)} == {"slots 8"}
    assert (folder / "squid-slots-8" / "summary.json").is_file() and not (folder / "squid-base").exists()


def test_what_stops_a_study_says_how_to_go_on(done, tmp_path, command, monkeypatch):
    folder = shutil.copytree(done, tmp_path / "a study")
    shutil.rmtree(folder / "squid-slots-8")
    monkeypatch.setattr(start, "train_run", lambda *arguments: False)
    code, out, _ = command(study.main, "sweep", "--out", folder)
    assert code == 130 and f"python -m fastsquid.study sweep --out '{folder}'\n" in out


def test_figures_of_several_seeds_and_systems(tmp_path):
    """All four, of seeds that differ, and of a study that has just begun."""
    facts, last = {"epochs": 1, "seconds": 1}, {"name": "last", "epoch": 1}
    for name, scales in STUDIES.items():
        runs = []
        for row in scales["full"]:
            for seed in (0, 1):
                scores = {score: {"auc": 0.5 + 0.1 * seed} for score in row.config("full").scores}
                summary = Summary(row.system, seed, "test", None, scores, last, facts)
                runs.append(study_folder._lines(row, seed, summary, row.config("full").score))
        for part in (sum(runs, []), runs[0]):
            record = {"name": name, "scale": "full", "data": "/x/chest_xray", "seeds": [0, 1]}
            draw_study(record, part, tmp_path / f"{name}.png")
            check_figure(tmp_path / f"{name}.png")


# What is refused


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sweeps"], "'sweeps'"),
        (["sweep", "--scale", "full"], "--data"),
        (["sweep", "--data", XRAYS], "--scale full"),
        (["sweep", "--scale", "full", "--data", "nowhere"], "nowhere"),
        (["sweep", "--scale", "full", "--data", XRAYS / "test"], str(XRAYS / "test")),
        (["sweep", "--seeds", "0", "0"], "--seeds has 0 "),
        (["sweep", "--seeds", "-1"], "'-1'"),
    ],
)
def test_bad_arguments(tmp_path, refused, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(study.main, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["ablations"], "name .*sweep.*ablations"),
        (["sweep", "--scale", "full", "--data", XRAYS], "scale .*small.*full"),
        (["sweep", "--seeds", "0", "1"], "seeds .*0.* 0 1"),
    ],
)
def test_another_study_in_the_folder(done, refused, arguments, message):
    assert re.search(f"{done} .*{message}.*--out", refused(study.main, *arguments, "--out", done))


def test_a_folder_that_is_no_study_or_a_damaged_one(tmp_path, refused, done):
    assert str(tmp_path) in refused(study.main, "sweep", "--out", tmp_path)
    for text in ("{", "{}", "[]"):
        (tmp_path / "study.json").write_text(text)
        assert str(tmp_path / "study.json") in refused(study.main, "sweep", "--out", tmp_path)


def test_a_row_that_was_begun_otherwise(done, tmp_path, refused, monkeypatch):
    folder = shutil.copytree(done, tmp_path / "study")
    monkeypatch.setattr(grids, "SMALL", {**grids.SMALL, "lr": 0.01})
    assert str(folder / "squid-base") in refused(study.main, "sweep", "--out", folder)


def test_contamination_that_the_data_does_not_have_is_refused_before_training(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(loop.Trainer, "step", None)
    arguments = ("contamination", "--scale", "full", "--data", XRAYS, "--device", "cpu", "--out", tmp_path / "study")
    assert "4 abnormal" in refused(study.main, *arguments)
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["study.json"]
