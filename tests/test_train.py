"""The train command: what it leaves, the same bits twice, killed and resumed, bad input."""

import csv
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import XRAYS, files_of, rewrite_run, tiny
from forked_python import python
from PIL import Image
from safetensors.torch import load_file

from fastsquid import report, score, train
from fastsquid.config import preset
from fastsquid.data import open_data
from fastsquid.model.detector import Detector
from fastsquid.runs import checkpoint
from fastsquid.runs.data import open_training_data
from fastsquid.runs.folder import read_run
from fastsquid.runs.records import RunRecord
from fastsquid.runs.trained import load_run
from fastsquid.scoring.scores import score_images
from fastsquid.training import loop
from fastsquid.training.settings import read_settings

SCORES = preset("squid").scores

HERE = Path(__file__).parent


def test_what_a_run_leaves(unbroken):
    # The last detector's scores are written too where another is the best: test_scores_of_both_detectors.
    assert sorted(path.name for path in unbroken.iterdir() if not path.name.endswith("-last.csv")) == [
        "checkpoint-000002",
        "config.json",
        "curves.png",
        "gallery.png",
        "input-check.safetensors",
        "maps.safetensors",
        "metrics.jsonl",
        "scores-test.csv",
        "scores-val.csv",
        "summary.json",
        "train.lock",
    ]
    assert sorted(path.name for path in (unbroken / "checkpoint-000002").iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "optimizer.safetensors",
        "state.json",
        "training.safetensors",
    ]
    summary = json.loads((unbroken / "summary.json").read_text())
    assert (
        summary["epochs"] == 3
        and summary["seconds"] > 0
        and summary["split"] == "val"
        and summary["preset"] == "squid-small"
    )
    assert set(summary["scores"]) == set(SCORES)
    for metrics in summary["scores"].values():
        assert 0 <= metrics["auc"] <= 1
        assert (
            set(metrics["validation_threshold"])
            == set(metrics["test_threshold"])
            == {"threshold", "accuracy", "f1", "sensitivity", "specificity"}
        )
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3] and set(lines[0]["validation"]) == set(summary["scores"])
    aucs = [line["validation"]["discriminator"] for line in lines]
    assert summary["checkpoint"] == {
        "name": "best",
        "epoch": aucs.index(max(aucs)) + 1,
        "chosen_by": "validation AUC of discriminator",
    }
    for name in ("curves.png", "gallery.png"):
        with Image.open(unbroken / name) as picture:
            assert picture.size[0] > 400
    state = json.loads((unbroken / "checkpoint-000002" / "state.json").read_text())
    assert state["finished"] and state["best"]["calibration"]["discriminator"]["std"] > 0
    saved = load_file(unbroken / "checkpoint-000002" / "last.safetensors")
    # Two generator steps an epoch, of batches of 3 and 2.
    assert (
        saved["generator.inpaint.memory.pointer"] == 3 * (3 + 2) % 7 and saved["generator.inpaint.memory.filled"] == 7
    )


def test_the_same_seed_gives_the_same_bits(unbroken, tmp_path, command):
    assert command(train.main, *tiny(tmp_path / "again"))[0] == 0
    assert files_of(tmp_path / "again") == files_of(unbroken)
    assert command(train.main, *tiny(tmp_path / "other", "--seed", "1", "--epochs", "1"))[0] == 0
    other = load_file(checkpoint.latest_checkpoint(tmp_path / "other") / "last.safetensors")
    first = load_file(checkpoint.latest_checkpoint(unbroken) / "last.safetensors")
    assert any(not torch.equal(first[name], other[name]) for name in first)


# Each run is resumed and killed again at the next moment, which is counted from there.
MOMENTS = {
    "early": ["before-step:1", "after-step:2", "half-tensors:1", "half-tensors:4", "after-step:5", "report:1"],
    "in the second epoch": ["after-validation:2", "before-save:1", "half-tensors:5", "before-rename:1", "report:1"],
    "between files": ["half-replaced:2", "before-save:2", "half-replaced:6", "after-rename:2", "before-save:1"],
    "while one is removed": ["half-removed:1", "before-rename:2", "after-rename:1"],
}


@pytest.fixture(scope="module")
def kill(tmp_path_factory):
    """Trains, saving every so many seconds (0: every epoch), until it is killed at a moment."""
    log = tmp_path_factory.mktemp("killed") / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, HERE / "killed_train.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )

    def kill(arguments, moment, save_seconds=0):
        print(json.dumps([moment, save_seconds, *map(str, arguments)]), file=process.stdin, flush=True)
        assert process.stdout.readline() == f"{-signal.SIGKILL:d}\n", log.read_text()

    yield kill
    process.communicate()


@pytest.mark.parametrize("moments", MOMENTS.values(), ids=MOMENTS)
def test_killed_and_resumed_ends_in_the_same_bits(unbroken, tmp_path, moments, command, kill):
    run = tmp_path / "run"
    for number, moment in enumerate(moments):
        kill(["--resume", run] if number else tiny(run), moment)
        assert not (run / "gallery.png").exists()
    assert command(train.main, "--resume", run)[0] == 0
    assert files_of(run) == files_of(unbroken)
    # Nothing is left of what the killed process had begun.
    left, expected = ([re.sub("-0.*", "", path.name) for path in folder.iterdir()] for folder in (run, unbroken))
    assert sorted(left) == sorted(set(expected) - {"curves.png", "gallery.png"})


def test_a_killed_run_repeats_what_came_after_its_checkpoint(unbroken, tmp_path, command, kill):
    run = tmp_path / "run"
    kill(tiny(run), "after-step:8", save_seconds=1000)
    state = json.loads((checkpoint.latest_checkpoint(run) / "state.json").read_text())
    assert state["epoch"] == 1 and len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert command(train.main, "--resume", run)[0] == 0
    assert files_of(run) == files_of(unbroken)


def test_killed_from_outside_twice(unbroken, tmp_path, command):
    run = tmp_path / "run"
    arguments = [python(), "-m", "fastsquid.train"]
    for more, wait in ((tiny(run), 0.0), (["--resume", run], 0.3)):
        process = subprocess.Popen(
            [*arguments, *map(str, more)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert next(line for line in process.stdout if line.startswith("epoch "))  # one is over
        time.sleep(wait)
        process.kill()
        process.communicate()
    assert command(train.main, "--resume", run)[0] == 0
    assert files_of(run) == files_of(unbroken)


def test_ctrl_c_saves_and_says_how_to_go_on(unbroken, tmp_path, command, monkeypatch):
    run = tmp_path / "run"
    original, steps = loop.Trainer.step, []

    def step(self, images, iteration, *rest):
        steps.append(iteration)
        if len(steps) == 5:  # the second of the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, images, iteration, *rest)

    monkeypatch.setattr(loop.Trainer, "step", step)
    code, out, _ = command(train.main, *tiny(run))
    assert code == 130 and f"python -m fastsquid.train --resume {run}" in out
    state = json.loads((checkpoint.latest_checkpoint(run) / "state.json").read_text())
    assert (state["epoch"], state["iteration"]) == (1, 2)
    code, out, _ = command(train.main, "--resume", run)
    assert code == 0 and len(steps) == 9, "no step was repeated or left out"
    resumed, expected = files_of(run), files_of(unbroken)
    assert {**resumed, "state": None} == {**expected, "state": None}


@pytest.mark.parametrize("work, call", [("validate", 3), ("calibrate", 1)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_step(work, call, number, unbroken, tmp_path, command, monkeypatch):
    """During the last validation, and during calibration: training is saved, the run is not finished."""
    run = tmp_path / "run"
    original, calls = getattr(loop, work), []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(loop, work, interrupted)
    code, out, _ = command(train.main, *tiny(run))
    assert code == 130 and f"python -m fastsquid.train --resume {run}" in out
    state = json.loads((checkpoint.latest_checkpoint(run) / "state.json").read_text())
    assert (state["epoch"], state["finished"]) == (3, False) and not (run / "summary.json").exists()
    assert command(train.main, "--resume", run)[0] == 0
    resumed, expected = files_of(run), files_of(unbroken)
    assert {**resumed, "state": None} == {**expected, "state": None}


@pytest.mark.parametrize("how", ["the compiler dies", "a second Ctrl-C"])
def test_ctrl_c_in_the_midst_of_a_step(how, unbroken, tmp_path, command, monkeypatch):
    """While torch.compile compiles: no traceback, nothing of half a step is saved, and the run can be resumed."""
    run = tmp_path / "run"
    original, steps = loop.Trainer.step, []

    def step(self, images, iteration, *rest):
        steps.append(iteration)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
            if how == "the compiler dies":  # of the same signal, which a terminal sends to the whole process group
                raise RuntimeError("CppCompileError: C++ compile error\n\nCommand: g++")
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, images, iteration, *rest)

    monkeypatch.setattr(loop.Trainer, "step", step)
    code, out, err = command(train.main, *tiny(run))
    assert code == 130 and f"python -m fastsquid.train --resume {run}" in out
    assert re.fullmatch("warning: .*CppCompileError: .*\n" if how == "the compiler dies" else "", err)
    before = checkpoint.latest_checkpoint(run)
    assert before is None or json.loads((before / "state.json").read_text())["iteration"] == 0
    assert command(train.main, "--resume", run)[0] == 0
    assert files_of(run) == files_of(unbroken)


def test_a_step_that_fails_by_itself(tmp_path, monkeypatch):
    """Without a signal an error is an error."""

    def step(self, *arguments):
        raise RuntimeError("CppCompileError: C++ compile error")

    monkeypatch.setattr(loop.Trainer, "step", step)
    with pytest.raises(RuntimeError, match="CppCompileError"):
        train.main([str(a) for a in tiny(tmp_path / "run")])


def test_a_run_is_frozen_once_per_epoch_and_calibrated_at_its_end(tmp_path, command, monkeypatch):
    """Freezing copies the detector, and calibration scores every training image."""
    frozen, calibrated = [], []
    freeze, calibrate = Detector.frozen, loop.calibrate

    def counted(self, half=False):
        copy = freeze(self, half)
        frozen.append(copy is not self)
        return copy

    monkeypatch.setattr(Detector, "frozen", counted)
    monkeypatch.setattr(loop, "calibrate", lambda *arguments: calibrated.append(1) or calibrate(*arguments))
    code, _, _ = command(train.main, *tiny(tmp_path / "run", "--monitor", "true", "--epochs", 4))
    assert code == 0
    state = json.loads((checkpoint.latest_checkpoint(tmp_path / "run") / "state.json").read_text())
    best_is_last = state["best"]["epoch"] == 4
    assert len(calibrated) == (1 if best_is_last else 2)
    # Once more for each calibration, for the report, and for the scores of a last detector that is not the best.
    assert sum(frozen) == 4 + len(calibrated) + 1 + (not best_is_last)
    assert state["best"]["calibration"]["discriminator"]["quantiles"] and state["last"]["calibration"]


def test_resuming_a_finished_run_reports_again(unbroken, tmp_path, command, monkeypatch):
    """On another machine too: the summary still says what trained the run."""
    monkeypatch.setattr(loop, "device_name", lambda device: "another")
    run = shutil.copytree(unbroken, tmp_path / "run")
    before = files_of(run)
    (run / "summary.json").unlink()
    assert command(train.main, "--resume", run)[0] == 0
    assert files_of(run) == before
    assert json.loads((run / "summary.json").read_text()) == json.loads((unbroken / "summary.json").read_text())


def test_scores_of_both_detectors(tmp_path, command, monkeypatch):
    """Where the best detector is not the last, the scores of both on every image are written."""
    run, original, epochs = tmp_path / "run", loop.validate, []

    def validate(*arguments):
        epochs.append(1)
        result = original(*arguments)
        return {**result, "discriminator": {**result["discriminator"], "auc": 1 / len(epochs)}}

    monkeypatch.setattr(loop, "validate", validate)
    assert command(train.main, *tiny(run, "--epochs", "2"))[0] == 0
    written = {path.name for path in run.glob("scores*")}
    assert written == {"scores-val.csv", "scores-test.csv", "scores-val-last.csv", "scores-test-last.csv"}
    data = open_data(XRAYS, 64, splits=("val", "test"))
    for name in written:
        detector = load_run(run, "last" if "last" in name else "best").detector
        split = data["val" if "val" in name else "test"]
        scores = score_images(detector, split.images)
        with open(run / name, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows] == split.names
        assert [row["label"] for row in rows] == ([*"000111"] if "val" in name else [""] * 4)
        for column, values in scores.items():
            np.testing.assert_allclose([float(row[column]) for row in rows], values, rtol=1e-6)


def test_digits_without_arguments(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/digits-0").mkdir(parents=True)
    code, out, _ = command(train.main, "--width", "2", "--slots", "8", "--epochs", "1", "--device", "cpu")
    assert (
        code == 0
        and re.search(r"^test\b.* 200 .* 200 .*\blast checkpoint\b", out, re.M)
        and "run folder: runs/digits-1" in out
    )
    assert set(json.loads(Path("runs/digits-1/summary.json").read_text())["scores"]["residual"]["auc_by_kind"]) == {
        "missing",
        "swapped",
        "flipped",
        "zero",
    }


def test_sixteen_bit_images_train(tmp_path, command):
    folder = tmp_path / "deep"
    folder.mkdir()
    for path in (XRAYS / "train" / "NORMAL").iterdir():
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257 + 3).save(
                folder / f"{path.stem}.png"
            )
    assert command(train.main, *tiny(tmp_path / "run", "--data", folder, "--epochs", "1"))[0] == 0


def test_an_x_ray_preset_without_data_takes_the_digits():
    data, _ = open_training_data(RunRecord(preset("auto-encoder-small"), None, 0))
    assert {name: len(split) for name, split in data.items()} == {"train": 1000, "val": 200, "test": 400}
    assert data["train"].images.shape[2:] == (64, 64)


def test_an_unlabeled_folder_trains(tmp_path, command):
    code, out, _ = command(train.main, *tiny(tmp_path / "run", "--data", XRAYS / "train" / "NORMAL", "--epochs", "1"))
    assert code == 0, out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["split"] is None and summary["scores"] == {} and summary["checkpoint"]["name"] == "last"
    before, _, after = out.partition("preset: ")
    assert re.search(r"\bNo AUC\b.*\bval or test\b", before) and re.search(r"\blabeled val\b.*--data", after)
    out = command(score.main, tmp_path / "run", XRAYS / "val", "--out", tmp_path / "scores.csv")[1]
    assert re.search(r"threshold: .*\btraining images\b", out) and re.search(r"\blabeled val\b.*--data", out)
    for folder, unmeasured in (("test", True), ("val", False)):  # the labels of val/NORMAL and val/PNEUMONIA measure it
        report.main([str(word) for word in (tmp_path / "run", XRAYS / folder, "--out", tmp_path / f"{folder}.html")])
        page = (tmp_path / f"{folder}.html").read_text(encoding="utf-8")
        assert bool(re.search(r"\blabeled val\b.*--data", page)) == unmeasured


# Bad input


@pytest.fixture
def data(tmp_path):
    """A copy of the X-rays that a test may damage."""
    return shutil.copytree(XRAYS, tmp_path / "data")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--preset", "squids"], r"'squids'.* squid\b"),
        (["--slot", "3"], r"--slot\b.* --slots\b"),
        (["--slots", "many"], "--slots"),
        (["--top-k", "500"], "top_k <= 200"),
        (["--image-size", "50"], "image_size = 50"),
        (["--memory", "queu"], r"memory = 'queu' .* queue\?"),
        (["--distillation", "perhaps"], "distillation"),
        (["--data", "nowhere"], "nowhere"),
        (["--device", "cuda:77"], "'cuda:77'"),
        (["--device", "gpu"], "'gpu'"),
        (["--resume", "nowhere"], "nowhere"),
        (["--resume", ""], "--resume is empty"),
        (["--data", ""], "--data"),
        (["--seed", "-1"], "'-1'"),
        (["--seed", str(2**64)], str(2**64)),
        (["--impl", "triton", "--device", "cpu", "--shrinkage", "hard"], "impl='triton'"),
    ],
)
def test_bad_arguments(tmp_path, refused, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refused(train.main, *arguments))
    assert not list(tmp_path.iterdir())


def test_resume_takes_no_other_options(unbroken, refused):
    assert "--lr" in refused(train.main, "--resume", unbroken, "--lr", "1")


def test_images_that_are_not_known_to_be_healthy(tmp_path, refused, command):
    """A plain folder with a label file is rejected before anything is written; --all-normal is recorded and kept."""
    images = shutil.copytree(XRAYS / "train" / "NORMAL", tmp_path / "release" / "images")
    (tmp_path / "release" / "labels.csv").write_text("image,label\n")
    arguments = tiny(tmp_path / "run", "--data", images, "--epochs", "1")
    said = refused(train.main, *arguments)
    assert str(tmp_path / "release" / "labels.csv") in said and "--all-normal" in said
    assert str(images) in refused(train.main, *arguments, "--seeds", "0", "1")
    assert not (tmp_path / "run").exists()

    assert command(train.main, *arguments, "--all-normal", "--seeds", "0", "1", "--only", "1")[0] == 0
    path = tmp_path / "run" / "seed-1" / "config.json"
    record = json.loads(path.read_text())
    assert record["all_normal"] is True and json.loads((tmp_path / "run" / "group.json").read_text())["all_normal"]
    assert command(train.main, "--resume", tmp_path / "run", "--only", "0")[0] == 0
    begun = ("--init", tmp_path / "run" / "seed-1", "--epochs", "1", "--device", "cpu")
    assert command(train.main, *begun, "--out", tmp_path / "next")[0] == 0
    assert "--all-normal" in refused(train.main, *begun, "--data", images, "--out", tmp_path / "other")
    assert read_settings(path).all_normal is True
    # A run of an earlier version has no such field. It is not asked again.
    alone = shutil.copytree(path.parent, tmp_path / "alone")
    rewrite_run(alone, lambda record, _: record.pop("all_normal"))
    (alone / "summary.json").unlink()
    code, out, _ = command(train.main, "--resume", alone)
    assert code == 0 and (alone / "summary.json").exists() and read_run(alone).all_normal is False


def test_the_same_image_in_two_splits_is_reported(tmp_path, data, command):
    shutil.copy(next((data / "train" / "NORMAL").iterdir()), data / "val" / "NORMAL" / "copy.jpeg")
    code, _, err = command(train.main, *tiny(tmp_path / "run", "--data", data, "--epochs", "1"))
    assert code == 0 and re.search(r"^warning: 1 of 7 .*\bval\b.*\btrain\b.*\bcopy\.jpeg\b", err, re.M)


def test_an_empty_folder(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(train.main, "--data", tmp_path / "empty", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_normal_images(tmp_path, data, refused):
    shutil.rmtree(data / "train" / "NORMAL")
    assert "NORMAL" in refused(train.main, *tiny(tmp_path / "run", "--data", data))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["text", "truncated", "empty", "bomb"])
def test_an_unreadable_image_stops_training_or_is_skipped(tmp_path, data, refused, command, damage, monkeypatch):
    victim = sorted((data / "train" / "NORMAL").iterdir())[3]
    content = victim.read_bytes()
    if damage == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 224 * 224)
        Image.new("L", (225, 225)).save(victim, "jpeg")
    else:
        victim.write_bytes({"text": b"no image", "truncated": content[: len(content) // 2], "empty": b""}[damage])
    sentence = refused(train.main, *tiny(tmp_path / "run", "--data", data))
    assert str(victim) in sentence and "--skip-unreadable" in sentence and not (tmp_path / "run").exists()
    code, _, err = command(train.main, *tiny(tmp_path / "run", "--data", data, "--epochs", "1", "--skip-unreadable"))
    assert code == 0 and "skipped 1 " in err


def test_a_run_folder_that_exists(unbroken, refused):
    before = files_of(unbroken)
    assert str(unbroken) in refused(train.main, *tiny(unbroken))
    assert files_of(unbroken) == before


def test_other_training_images_than_the_run_began_with(tmp_path, data, command, refused, monkeypatch):
    run = tmp_path / "run"
    assert command(train.main, *tiny(run, "--data", data, "--epochs", "1"))[0] == 0
    sorted((data / "train" / "NORMAL").iterdir())[0].unlink()
    assert str(data) in refused(train.main, "--resume", run)


def test_validation_of_one_class(tmp_path, data, refused):
    shutil.rmtree(data / "val" / "PNEUMONIA")
    assert "AUC" in refused(train.main, *tiny(tmp_path / "run", "--data", data))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite(tmp_path, refused, monkeypatch):
    """A weight is lost in the second epoch; the run names the step and keeps the first epoch's checkpoint."""
    run, original, steps = tmp_path / "run", loop.Trainer.step, []

    def step(self, images, iteration, *rest):
        steps.append(iteration)
        if len(steps) == 5:
            with torch.no_grad():
                self.detector.generator.student.output.weight.fill_(torch.nan)
        return original(self, images, iteration, *rest)

    monkeypatch.setattr(loop.Trainer, "step", step)
    message = refused(train.main, *tiny(run))
    kept = checkpoint.latest_checkpoint(run)
    assert "step 2 of epoch 2" in message and str(kept) in message
    saved = load_file(kept / "last.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())


@pytest.mark.parametrize("images", [XRAYS, XRAYS / "train" / "NORMAL"])
def test_a_last_step_that_breaks_the_detector(tmp_path, refused, monkeypatch, images):
    """All losses were finite, yet the detector is not: it is neither saved nor called good."""
    run, original, steps = tmp_path / "run", loop.Trainer.step, []

    def step(self, *arguments):
        losses = original(self, *arguments)
        steps.append(1)
        if len(steps) == 6:  # the last of the second epoch
            with torch.no_grad():
                self.detector.generator.student.output.weight.fill_(torch.nan)
        return losses

    monkeypatch.setattr(loop.Trainer, "step", step)
    message = refused(train.main, *tiny(run, "--data", images))
    assert "step 3 of epoch 2" in message and str(checkpoint.latest_checkpoint(run)) in message
    saved = load_file(checkpoint.latest_checkpoint(run) / "last.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_a_learning_rate_that_explodes(tmp_path, refused):
    for lr in ("10", "1e30"):
        message = refused(train.main, *tiny(tmp_path / lr, "--lr", lr, "--epochs", "5", "--batch-size", "16"))
        assert re.search(r"\bstep \d+ of epoch \d+\b.*--lr\b", message)


def full_disk(limit):
    """What a process gets that cannot write a file beyond `limit` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_a_full_disk(unbroken, tmp_path, command, kill):
    """The checkpoint does not fit any more: one sentence, and what was saved before stays and can be resumed."""
    run = tmp_path / "run"
    kill(tiny(run), "before-step:5")
    before = checkpoint.latest_checkpoint(run)
    full = subprocess.run(
        [python(), "-m", "fastsquid.train", "--resume", run],
        capture_output=True,
        text=True,
        preexec_fn=full_disk(100_000),
    )
    assert full.returncode == 2 and full.stderr.count("\n") == 1, full.stderr
    assert os.strerror(errno.EFBIG) in full.stderr
    assert checkpoint.latest_checkpoint(run) == before and not list(run.glob(".*"))
    assert command(train.main, "--resume", run)[0] == 0
    assert files_of(run) == files_of(unbroken)


def test_every_field_is_an_option():
    options, changes = train._parse(
        ["--top-k", "3", "--top_k", "4", "--stop-gradient", "false", "--lr", "2e-4", "--memory", "matrix"]
    )
    assert changes == dict(top_k=4, stop_gradient=False, lr=2e-4, memory="matrix")
    config = preset("squid", **changes)
    assert config.top_k == 4 and np.isclose(config.lr, 2e-4)
