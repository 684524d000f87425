"""The score and evaluate commands on a trained run."""

import errno
import json
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import rows_of
from forked_python import python
from PIL import Image

from fastsquid import evaluate, score, train
from fastsquid.api import Scorer
from fastsquid.config import preset
from fastsquid.data import decoding, read_image, to_unit
from fastsquid.model.networks import Discriminator
from fastsquid.reporting import table
from fastsquid.reporting.table import COLUMNS
from fastsquid.runs.trained import load_run
from fastsquid.training import loop

SCORES = preset("squid").scores

XRAYS = Path(__file__).parent / "data" / "xrays"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.main(
        [
            "--data",
            str(XRAYS),
            "--preset",
            "simsid-small",
            "--width",
            "4",
            "--slots",
            "8",
            "--batch-size",
            "3",
            "--epochs",
            "2",
            "--lr",
            "1e-3",
            "--device",
            "cpu",
            "--out",
            str(folder),
        ]
    )
    return folder


def test_one_row_an_image(run, tmp_path, command):
    out = tmp_path / "scores.csv"
    code, said, err = command(score.main, run, XRAYS / "test", "--out", out, "--all-scores")
    rows = rows_of(out)
    assert (code, err) == (0, "") and list(rows[0]) == [*COLUMNS, *SCORES]
    assert [row["name"] for row in rows] == ["0000.jpeg", "0001.jpeg", "0002.jpeg", "0003.jpeg"]
    # The same numbers one image at a time, straight from the detector.
    trained = load_run(run)
    detector, calibration = trained.detector, trained.calibration["discriminator"]
    threshold = trained.validation["discriminator"]["threshold"]
    header = said.splitlines()[0]
    assert "discriminator" in header and f"{threshold:.6g}" in header
    for row in rows:
        image = to_unit(torch.from_numpy(read_image(XRAYS / "test" / row["name"], 64))[None, None])
        alone, _ = detector.scores(image)
        for key in SCORES:
            assert float(row[key]) == pytest.approx(alone[key].item(), abs=1e-5)
        value = float(row["score"])
        assert row["score"] == row["discriminator"] and row["error"] == row["age_outside_training"] == ""
        expected = np.interp(value, calibration.quantiles, range(101))
        assert float(row["percentile"]) == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert row["above_threshold"] == str(int(value >= threshold))
    above = sum(row["above_threshold"] == "1" for row in rows)
    assert re.search(rf"^{above} of 4 images .*\bthreshold\b", said, re.M)


def test_only_the_ranking_score_is_computed(run, tmp_path, command):
    """Its columns are the first of the table of all scores, cell by cell."""
    some, every = tmp_path / "some.csv", tmp_path / "every.csv"
    assert command(score.main, run, XRAYS / "test", "--out", every, "--all-scores")[0] == 0
    counts = {"running": 0}

    def count(self, images, *arguments, **options):
        counts["running"] += "norm" not in options
        return original(self, images, *arguments, **options)

    original = Discriminator.forward
    with mock.patch.object(Discriminator, "forward", count):
        assert command(score.main, run, XRAYS / "test", "--out", some)[0] == 0
    assert counts["running"] == 0  # nobody has asked for the score of running statistics
    rows, expected = rows_of(some), rows_of(every)
    assert list(rows[0]) == list(COLUMNS) == list(expected[0])[: len(COLUMNS)]
    assert rows == [{name: row[name] for name in COLUMNS} for row in expected]


def test_packages_that_scoring_need_not_wait_for(run, tmp_path):
    """They are slow to import, which one image would wait for."""
    (image,) = sorted((XRAYS / "test").iterdir())[:1]
    code = (
        "import sys; from fastsquid import score; score.main(sys.argv[1:]); "
        "print({'scipy', 'sklearn', 'matplotlib', 'pydicom'} & set(sys.modules))"
    )
    call = [sys.executable, "-c", code, str(run), str(image), "--out", str(tmp_path / "scores.csv")]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_an_existing_table_is_kept(run, tmp_path, command, refused):
    out = tmp_path / "s.csv"
    out.write_text("old")
    with mock.patch("fastsquid.api.load", side_effect=AssertionError("the run was loaded")):
        said = refused(score.main, run, XRAYS / "test", "--out", out)
        assert f"{out} exists" in said and "--overwrite" in said and out.read_text() == "old"
    assert os.listdir(tmp_path) == ["s.csv"]
    assert command(score.main, run, XRAYS / "test", "--out", out, "--overwrite")[0] == 0
    assert len(rows_of(out)) == 4


def test_fast_and_all_scores(run, tmp_path, refused):
    said = refused(score.main, run, XRAYS, "--fast", "--all-scores", "--out", tmp_path / "s.csv")
    assert "--fast" in said and "--all-scores" in said and not list(tmp_path.iterdir())


def test_batch_size_does_not_matter(run, tmp_path, command):
    for size in (1, 3, 64):
        out = tmp_path / f"{size}.csv"
        assert command(score.main, run, XRAYS, "--out", out, "--batch-size", size, "--all-scores")[0] == 0
    one, three, all_of_them = (rows_of(tmp_path / f"{size}.csv") for size in (1, 3, 64))
    assert len(one) == 20 and len({row["name"] for row in one}) == 20
    for rows in (three, all_of_them):
        for a, b in zip(one, rows):
            assert a["name"] == b["name"] and all(abs(float(a[key]) - float(b[key])) <= 1e-5 for key in SCORES)


def test_several_arguments_keep_their_paths(run, tmp_path, command):
    image = XRAYS / "test" / "0000.jpeg"
    assert command(score.main, run, XRAYS / "val", image, "--out", tmp_path / "s.csv")[0] == 0
    names = [row["name"] for row in rows_of(tmp_path / "s.csv")]
    assert len(names) == 7 and all(Path(name).exists() for name in names) and names[-1] == image.as_posix()


def test_sixteen_bit_images_score_like_eight_bit_ones(run, tmp_path, command):
    folder = tmp_path / "images"
    folder.mkdir()
    with Image.open(XRAYS / "test" / "0000.jpeg") as image:
        grey = np.asarray(image.convert("L"))
    Image.fromarray(grey).save(folder / "eight.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "sixteen.png")
    assert command(score.main, run, folder, "--out", tmp_path / "s.csv", "--all-scores")[0] == 0
    eight, sixteen = rows_of(tmp_path / "s.csv")
    assert float(eight["residual"]) == pytest.approx(float(sixteen["residual"]), rel=1e-2)


def test_an_unreadable_image_is_a_row_and_exit_code_1(run, tmp_path, command):
    folder = shutil.copytree(XRAYS / "test", tmp_path / "images")
    (folder / "0001.jpeg").write_bytes(b"")
    (folder / "0002.jpeg").write_bytes((folder / "0002.jpeg").read_bytes()[:3000])
    code, _, err = command(score.main, run, folder, "--out", tmp_path / "s.csv")
    rows = rows_of(tmp_path / "s.csv")
    assert code == 1 and "2 of 4 images" in err
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert all(bool(row["error"]) != bool(row["score"]) for row in rows) and "0001.jpeg" in rows[1]["error"]


def test_nothing_is_written_of_a_refused_call(run, tmp_path, refused):
    out = tmp_path / "out" / "s.csv"
    out.parent.mkdir()
    (tmp_path / "empty").mkdir()
    assert "nowhere " in refused(score.main, run, "nowhere", "--out", out)
    assert "/empty " in refused(score.main, run, tmp_path / "empty", "--out", out)
    assert f"{tmp_path} " in refused(score.main, tmp_path, XRAYS, "--out", out)
    assert re.search("--ou:? .*--out", refused(score.main, run, XRAYS, "--ou", out))
    assert re.search("--batch-size 0 .* 1$", refused(score.main, run, XRAYS, "--out", out, "--batch-size", 0).strip())
    assert f"{out.parent} " in refused(score.main, run, XRAYS, "--out", out.parent)
    assert not list(out.parent.iterdir())
    assert str(tmp_path / "missing") in refused(score.main, run, XRAYS, "--out", tmp_path / "missing" / "s.csv")


def test_a_name_that_is_not_utf_8(run, tmp_path, command):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(XRAYS / "test" / "0000.jpeg", os.fsencode(folder) + b"/caf\xe9.jpeg")
    assert command(score.main, run, folder, "--out", tmp_path / "s.csv")[0] == 0
    assert b"\ncaf\xe9.jpeg," in (tmp_path / "s.csv").read_bytes()


def test_worker_processes_change_nothing(run, tmp_path, command, monkeypatch):
    folder = shutil.copytree(XRAYS / "test", tmp_path / "images")
    (folder / "0001.jpeg").write_bytes(b"")
    shutil.copy(folder / "0000.jpeg", os.fsencode(folder) + b"/caf\xe9.jpeg")
    here = command(score.main, run, folder, "--out", tmp_path / "here.csv", "--batch-size", 2)
    monkeypatch.setattr(decoding, "MAX_WITHOUT_WORKERS", 0)
    monkeypatch.setattr(decoding, "read_with_patient", None)  # of this process, where nothing is decoded
    there = command(score.main, run, folder, "--out", tmp_path / "there.csv", "--batch-size", 2)
    assert here[0] == there[0] == 1 and "1 of 5 images" in there[2]
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_a_worker_that_is_killed(run, tmp_path, refused, monkeypatch):
    def score_batch(*arguments):
        for process in multiprocessing.active_children():
            process.kill()
        return original(*arguments)

    original = table.score_batch
    monkeypatch.setattr(table, "score_batch", score_batch)
    monkeypatch.setattr(decoding, "MAX_WITHOUT_WORKERS", 0)
    error = refused(score.main, run, XRAYS, "--out", tmp_path / "s.csv", "--batch-size", 1)
    assert re.search("decodes .*--batch-size", error) and not list(tmp_path.iterdir())


def test_an_interrupt_with_workers(run, tmp_path):
    # As the terminal does: Ctrl-C goes to every process of the group.
    code = """if True:
        import os, signal, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
        from fastsquid import score
        from fastsquid.reporting import table
        from fastsquid.utils import cli
        from fastsquid.data import decoding
        decoding.MAX_WITHOUT_WORKERS = 0
        table.score_batch = lambda *_: (os.killpg(0, signal.SIGINT), time.sleep(60))
        cli.run_command(score.main)
    """
    result = subprocess.run(
        [python(), "-c", code, run, XRAYS, "--out", tmp_path / "s.csv", "--batch-size", "1"],
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert result.returncode == 130 and re.fullmatch("error: .+\n", result.stderr) and not list(tmp_path.iterdir())


def test_the_speed(run, tmp_path, command):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "empty.png").touch()
    code, out, _ = command(score.main, run, folder, "--out", tmp_path / "s.csv")
    assert code == 2 and re.fullmatch(f"0 of 1 images .*{tmp_path / 's.csv'}", out.splitlines()[1])
    shutil.copy(XRAYS / "test" / "0000.jpeg", folder)
    _, out, _ = command(score.main, run, folder, "--out", tmp_path / "s.csv", "--overwrite")
    line = (
        r"1 of 2 images scored: .*s.csv \(([\d.]+) images/s from file to row, ([\d.]+) images/s from tensor to score\)"
    )
    whole, scoring = map(float, re.fullmatch(line, out.splitlines()[1]).groups())
    assert 0 < whole <= scoring


def test_fast_scores_are_those_of_the_image(run, tmp_path, command):
    out, full = tmp_path / "fast.csv", tmp_path / "full.csv"
    with mock.patch("fastsquid.model.networks.Generator.forward", side_effect=AssertionError("the generator ran")):
        assert command(score.main, run, XRAYS, "--out", out, "--fast")[0] == 0
    assert command(score.main, run, XRAYS, "--out", full, "--all-scores")[0] == 0
    fast = rows_of(out)
    assert list(fast[0]) == list(COLUMNS)
    for one, other in zip(fast, rows_of(full), strict=True):
        assert one["name"] == other["name"]
        assert float(one["score"]) == pytest.approx(float(other["discriminator_image"]), abs=1e-5)


def test_half_precision(run, tmp_path, command):
    for precision in ("fp32", "bf16"):
        out = tmp_path / f"{precision}.csv"
        assert command(score.main, run, XRAYS, "--out", out, "--precision", precision, "--all-scores")[0] == 0
    for full, half in zip(rows_of(tmp_path / "fp32.csv"), rows_of(tmp_path / "bf16.csv")):
        assert full["name"] == half["name"] and full["residual"] != half["residual"]
        for name in SCORES:  # measured: within 0.5 %
            assert float(half[name]) == pytest.approx(float(full[name]), rel=0.02)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone(run, tmp_path, unbuffered):
    process = subprocess.Popen(
        [python(), "-m", "fastsquid.score", run, XRAYS / "test", "--out", tmp_path / "s.csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1 and len(rows_of(tmp_path / "s.csv")) == 4


def test_a_full_disk_keeps_the_old_scores(run, tmp_path):
    out = tmp_path / "s.csv"
    out.write_text("old")
    result = subprocess.run(
        [python(), "-m", "fastsquid.score", run, XRAYS, "--out", out, "--overwrite"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
    )
    assert result.returncode == 2 and re.fullmatch(f"error: {out}: .*{os.strerror(errno.EFBIG)}.*\n", result.stderr)
    assert out.read_text() == "old" and os.listdir(tmp_path) == ["s.csv"]


def test_scores_that_are_not_finite_are_errors(run, tmp_path, command, monkeypatch):
    original = Scorer.scores

    def scores(self, *arguments, **options):
        found = original(self, *arguments, **options)
        found["residual"][1] = np.nan
        return found

    monkeypatch.setattr(Scorer, "scores", scores)
    code, out, err = command(score.main, run, XRAYS / "test", "--out", tmp_path / "s.csv", "--all-scores")
    assert code == 1 and "3 of 4 images" in out
    rows = rows_of(tmp_path / "s.csv")
    assert [bool(row["error"]) for row in rows] == [False, True, False, False]
    assert re.search(r"\b0001\.jpeg\b.*\bfinite\b", rows[1]["error"])
    assert not any(rows[1][name] for name in (*SCORES, "score", "percentile", "above_threshold"))


def test_a_missing_folder_is_named(run, tmp_path, refused):
    said = refused(score.main, run, XRAYS / "test", "--out", tmp_path / "none" / "s.csv")
    assert f"{tmp_path}/none/s.csv " in said


def test_evaluate(run, tmp_path, command):
    code, out, _ = command(evaluate.main, run, "--json", tmp_path / "e.json", "--out", tmp_path / "pictures")
    assert code == 0 and re.search(r"^val\b.* 3 .* 3 .*\bbest checkpoint\b", out, re.M)
    result = json.loads((tmp_path / "e.json").read_text())
    summary = json.loads((run / "summary.json").read_text())
    assert result["scores"] == summary["scores"] and result["split"] == summary["split"] == "val"
    assert tuple(result["scores"]) == SCORES
    assert sorted(os.listdir(tmp_path / "pictures")) == ["precision_recall.png", "roc.png"]
    code, out, _ = command(evaluate.main, run, "--checkpoint", "last", "--out", tmp_path / "pictures", "--overwrite")
    assert code == 0 and re.search(r"\blast checkpoint\b.* 2\b", out)


def test_evaluate_of_other_data_keeps_the_validation_threshold(run, tmp_path, command):
    code, _, _ = command(
        evaluate.main, run, "--data", XRAYS / "train", "--json", tmp_path / "e.json", "--out", tmp_path
    )
    assert code == 0
    result, summary = json.loads((tmp_path / "e.json").read_text()), json.loads((run / "summary.json").read_text())
    assert result["split"] == "test" and result["images"] == {"normal": 8, "abnormal": 2, "skipped": 0}
    for name in SCORES:
        thresholds = [r["scores"][name]["validation_threshold"]["threshold"] for r in (result, summary)]
        assert thresholds[0] == thresholds[1]


def test_evaluate_of_an_unreadable_image(run, tmp_path, command, refused):
    data = shutil.copytree(XRAYS, tmp_path / "data")
    next((data / "val" / "NORMAL").iterdir()).write_bytes(b"")
    assert "--skip-unreadable" in refused(evaluate.main, run, "--data", data, "--out", tmp_path)
    code, out, _ = command(
        evaluate.main, run, "--data", data, "--skip-unreadable", "--out", tmp_path, "--json", tmp_path / "e.json"
    )
    assert code == 0 and json.loads((tmp_path / "e.json").read_text())["images"] == {
        "normal": 2,
        "abnormal": 3,
        "skipped": 1,
    }


def test_evaluate_refuses(run, tmp_path, refused):
    assert re.search(
        f"{XRAYS / 'test'} .*labeled", refused(evaluate.main, run, "--data", XRAYS / "test", "--out", tmp_path)
    )
    only = shutil.copytree(XRAYS / "val" / "NORMAL", tmp_path / "data" / "test" / "NORMAL").parent.parent
    error = refused(evaluate.main, run, "--data", only, "--out", tmp_path / "pictures")
    assert re.search(r"\btest split\b.*\babnormal\b", error)
    assert not (tmp_path / "pictures").exists()
    assert "nowhere" in refused(evaluate.main, run, "--data", "nowhere")


def test_an_unfinished_run_says_what_is_missing(tmp_path, command, monkeypatch, refused):
    folder = tmp_path / "run"
    arguments = [
        "--data",
        XRAYS / "train" / "NORMAL",
        "--preset",
        "simsid-small",
        "--width",
        "4",
        "--slots",
        "8",
        "--epochs",
        "2",
        "--out",
        folder,
    ]

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Run, "_finish", stop)
    assert command(train.main, *arguments)[0] == 130
    assert "--checkpoint last" in refused(score.main, folder, XRAYS / "test", "--checkpoint", "best")
    code, _, err = command(score.main, folder, XRAYS / "test", "--out", tmp_path / "s.csv")
    assert code == 0 and "percentile" in err and "above_threshold" in err and f"--resume {folder}" in err
    for row in rows_of(tmp_path / "s.csv"):
        assert row["percentile"] == row["above_threshold"] == "" and row["score"]
    shutil.rmtree(next(folder.glob("checkpoint-*")))
    assert f"--resume {folder}\n" in refused(score.main, folder, XRAYS / "test")
