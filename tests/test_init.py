"""Fine-tuning: a run that begins with another's weights, begun, killed, resumed, refused."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import XRAYS, files_of
from forked_python import python

import fastsquid
from fastsquid import train
from fastsquid.runs import checkpoint
from fastsquid.runs.folder import read_group, read_run
from fastsquid.runs.trained import load_run
from fastsquid.training import loop


@pytest.fixture
def first(unbroken, tmp_path):
    """The run whose weights others begin with; a test may take it away."""
    return shutil.copytree(unbroken, tmp_path / "first")


@pytest.fixture
def stop_at(monkeypatch):
    """Interrupts training at its N-th step, once."""

    def stop(number):
        original, steps = loop.Trainer.step, []

        def step(self, images, iteration, *rest):
            steps.append(1)
            if len(steps) == number:
                raise KeyboardInterrupt
            return original(self, images, iteration, *rest)

        monkeypatch.setattr(loop.Trainer, "step", step)

    return stop


def tuned(first, out, *more):
    options = ["--data", XRAYS / "val" / "NORMAL", "--epochs", 2, "--lr", 1e-4, "--select", "last", "--device", "cpu"]
    return ["--init", first, *options, "--out", out, *more]


def test_the_weights_are_the_first_runs(first, tmp_path, command, monkeypatch):
    begun = []

    def stop(run):
        begun.append(
            [{k: v.clone() for k, v in detector.state_dict().items()} for detector in (run.detector, run.evaluated)]
        )
        return False

    monkeypatch.setattr(loop.Run, "train", stop)
    assert command(train.main, *tuned(first, tmp_path / "run"))[0] == 130
    expected = load_run(first).detector.state_dict()
    for tensors in begun[0]:  # of the detector that trains, and of its average
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)

    ours, theirs = read_run(tmp_path / "run"), read_run(first)
    name = json.loads((first / "summary.json").read_text())["checkpoint"]["name"]
    digest = checkpoint.hashlib.sha256((checkpoint.latest_checkpoint(first) / f"{name}.safetensors").read_bytes())
    trained_on = {"images": 8, "source": "zhanglab"}
    assert ours.init == {
        "run": str(first),
        "checkpoint": name,
        "sha256": digest.hexdigest(),
        "trained_on": trained_on,
    }
    assert theirs.init is None and ours.data == str(XRAYS / "val" / "NORMAL")
    changed = {"epochs": 2, "lr": 1e-4, "select": "last"}
    assert ours.config.to_dict() == {**theirs.config.to_dict(), **changed}


def test_data_and_preset_are_the_first_runs(first, tmp_path, command, monkeypatch):
    monkeypatch.setattr(loop.Run, "train", lambda run: False)
    monkeypatch.chdir(tmp_path)
    assert command(train.main, "--init", first, "--device", "cpu")[0] == 130
    ours, theirs = read_run(Path("runs/squid-small-0")), read_run(first)
    assert (ours.data, ours.config) == (theirs.data, theirs.config)


def test_it_trains_on_and_resumes_to_the_same_bits(first, tmp_path, command, stop_at):
    whole, early, late = (tmp_path / name for name in ("whole", "early", "late"))
    assert command(train.main, *tuned(first, whole))[0] == 0
    run, begun = fastsquid.load(whole, device="cpu"), fastsquid.load(first, device="cpu")
    images = sorted((XRAYS / "val" / "NORMAL").iterdir())
    scores = run.score(images)
    assert (scores != begun.score(images)).all()
    usual = run.calibration["discriminator"]  # of its own training images
    assert (usual.mean, usual.std) == (pytest.approx(scores.mean(), abs=1e-5), pytest.approx(scores.std(), abs=1e-5))

    stop_at(1)  # before there is a checkpoint: it begins again
    assert command(train.main, *tuned(first, early))[0] == 130
    assert checkpoint.latest_checkpoint(early) is None
    assert command(train.main, "--resume", early)[0] == 0
    assert files_of(early) == files_of(whole)

    stop_at(2)  # in the second epoch, of one batch each: the first run is needed no more
    assert command(train.main, *tuned(first, late))[0] == 130
    shutil.rmtree(first)
    assert command(train.main, "--resume", late)[0] == 0
    assert files_of(late) == files_of(whole)


def test_a_group_begins_with_them(first, tmp_path, command, monkeypatch):
    monkeypatch.setattr(loop.Run, "train", lambda run: False)
    group = tmp_path / "group"
    assert command(train.main, *tuned(first, group, "--seeds", 0, 1))[0] == 130
    init = read_run(group / "seed-0").init
    assert init["run"] == str(first) and read_group(group).init == init
    assert command(train.main, "--resume", group)[0] == 130


def test_collected_it_names_no_path_of_the_machine(first, tmp_path):
    record = json.loads((first / "config.json").read_text())
    record["init"] = {"run": str(tmp_path / "before"), "checkpoint": "best", "sha256": "0" * 64}
    (first / "config.json").write_text(json.dumps(record))
    collect = Path(__file__).parent.parent / "bench" / "collect.py"
    subprocess.run([python(), collect, first, tmp_path / "kept"], check=True)
    kept = (tmp_path / "kept" / "config.json").read_text()
    assert json.loads(kept)["init"] == {**record["init"], "run": "before"} and str(tmp_path) not in kept


# What is refused


@pytest.mark.parametrize(
    "options, message",
    [
        (["--width", "8"], " width: "),
        (["--preset", "squid-small"], " width, slots, "),
        (["--distillation", "false"], " distillation: "),
        (["--init", "nowhere"], "nowhere "),
        (["--top-k", "8"], "top_k = 8 "),
    ],
)
def test_what_does_not_fit(first, tmp_path, refused, options, message):
    lines = tuned(first, tmp_path / "run", "--epochs", 3, "--lr", 1e-3, "--select", "auc", *options)
    assert message in refused(train.main, *lines)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_has_begun_already(first, refused):
    assert "--init" in refused(train.main, "--resume", first, "--init", first)


def test_weights_that_have_changed_since(first, tmp_path, command, refused, stop_at):
    run, record = tmp_path / "run", first / "config.json"
    stop_at(1)
    assert command(train.main, *tuned(first, run))[0] == 130
    other = json.loads((run / "config.json").read_text())
    other["init"]["sha256"] = "0" * 64
    (run / "config.json").write_text(json.dumps(other))
    assert re.search(rf"{first} .*\bweights\b", refused(train.main, "--resume", run))
    record.unlink()
    assert str(first) in refused(train.main, "--resume", run)
