"""What training shows: data and settings before it, a line now and then, an estimate, and the line of an epoch."""

import functools
import logging
import re
import sys

import pytest
import torch
from conftest import XRAYS, tiny

from fastsquid import train
from fastsquid.config import preset
from fastsquid.data.split import Split
from fastsquid.model.detector import Detector
from fastsquid.training import announce, progress
from fastsquid.training.announce import describe_data, describe_settings
from fastsquid.training.epoch import Steps
from fastsquid.training.loop import _epoch_line
from fastsquid.training.progress import Progress, duration
from fastsquid.training.trainer import Trainer


class Clock:
    """Stands for `time`: every step of a training takes some seconds."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Short:
    """Stands for `Steps` on a CPU."""

    sums = torch.zeros(1)
    per_epoch = 100

    def loss_so_far(self):
        return 0.5


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def shown(caplog, clock, seconds, epochs=2, iteration=0):
    """Lines of a training whose steps take so many seconds each."""
    caplog.set_level(logging.INFO, "fastsquid")
    caplog.clear()
    watched = Progress(Short(), epochs)
    for epoch in range(epochs):
        for _ in watched.epoch(iter([None] * (Short.per_epoch - iteration)), epoch, iteration):
            clock.now += seconds
        clock.now += 500  # validation
    return caplog.messages


def test_a_line_at_least_every_thirty_seconds(caplog, clock):
    lines = [line for line in shown(caplog, clock, 7) if "step" in line]
    assert [tuple(map(int, re.findall(r"\d+", line))) for line in lines][:2] == [(1, 2, 6, 100), (1, 2, 11, 100)]
    assert len(lines) == 2 * 19
    assert not [line for line in shown(caplog, clock, 0.01) if "step" in line]


def test_a_resumed_epoch_counts_from_where_it_was(caplog, clock):
    lines = [line for line in shown(caplog, clock, 31, iteration=90) if "step" in line]
    assert "step 92 of 100" in lines[0] and "step 100 of 100" in lines[8]


def test_an_estimate_once_and_not_over_validation(caplog, clock):
    (line,) = [line for line in shown(caplog, clock, 1) if "about" in line]
    assert line.startswith("about 100 s per epoch") or line.startswith("about 2 min per epoch")
    (line,) = [line for line in shown(caplog, clock, 0.02, epochs=9) if "about" in line] or [""]
    assert not line, "an epoch of two seconds needs no estimate"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_has_a_bar_with_the_loss_of_this_epoch(caplog, clock, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(progress, "tqdm", functools.partial(progress.tqdm, mininterval=0))
    lines = shown(caplog, clock, 31, epochs=1)
    assert any("step" in line for line in lines) is not terminal
    assert ("loss=0.5" in capsys.readouterr().err) is terminal


def test_the_loss_so_far_is_the_mean_of_this_epoch():
    torch.manual_seed(0)
    detector = Detector(preset("squid-small", width=4, slots=7, batch_size=2))
    steps = Steps(Trainer(detector), torch.randint(0, 255, (6, 1, 64, 64), dtype=torch.uint8))
    assert steps.loss_so_far() is None
    for done, _ in enumerate(steps.epoch(0, 0), 1):
        sums, counts = steps.totals(done)
        assert steps.loss_so_far() == pytest.approx(sums["generator"] / counts["generator"])


@pytest.mark.parametrize(
    "seconds, text", [(0.42, "0.4 s"), (12.4, "12 s"), (99, "99 s"), (200, "3 min"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def split(labels, classes=None):
    count = len(labels)
    tensor = None if labels[0] is None else torch.tensor(labels)
    return Split(torch.zeros(count, 1, 4, 4, dtype=torch.uint8), tensor, list(map(str, range(count))), classes=classes)


def test_the_images_of_every_split():
    data = {
        "train": split([0] * 5),
        "val": split([0, 0, 1], ["NORMAL", "NORMAL", "VIRUS"]),
        "test": split([None] * 7),
    }
    lines = describe_data("/some/where", data).splitlines()
    assert "/some/where" in lines[0] and "DigitAnatomy" in describe_data(None, data)
    assert re.search(r"train +5 .*healthy$", lines[1])
    assert re.search(r"val +3 .*: 2 NORMAL, 1 VIRUS$", lines[2])
    assert re.search(r"test +7 .*unlabeled$", lines[3])
    assert len(lines) == 4 and len(describe_data(None, {**data, "val": data["test"]}).splitlines()) == 5
    assert "2 of them" in describe_data("x", {"train": split([0, 0, 1, 1])})
    assert "2 normal, 1 abnormal" in describe_data("x", {"val": split([0, 1, 0])})


def test_the_settings_of_a_run():
    text = describe_settings(preset("fastsquid-small", epochs=7), 3, torch.device("cpu"), "bf16", False)
    assert (
        "fastsquid-small (--preset fastsquid " in text
        and ", seed 3" in text
        and "64 x 64" in text
        and "7 epochs" in text
    )
    assert "device: cpu (" in text and f", threads: {torch.get_num_threads()}, precision bf16" in text
    assert "compiled" not in text
    assert describe_settings(preset("squid"), 0, torch.device("cpu"), "fp32", True).endswith("compiled")


@pytest.mark.parametrize(
    "name, device, hinted",
    [
        ("simsid", "cpu", "simsid-small"),
        ("simsid", "cuda", None),
        ("simsid-small", "cpu", "simsid"),
        ("simsid-small", "cuda", "simsid"),
        ("simsid-published", "cpu", None),
        ("digits", "cpu", None),
    ],
)
def test_the_other_size_is_named(name, device, hinted, monkeypatch):
    monkeypatch.setattr(announce, "device_name", str)
    text = describe_settings(preset(name), 0, torch.device(device), "fp32", False)
    assert re.findall(r"--preset (\S+)", text) == ([hinted] if hinted else [])


def test_the_line_of_an_epoch_tells_losses_from_aucs():
    line = {"epoch": 3, "losses": {"generator": 1.0, "student": 0.5, "discriminator": 0.25}}
    assert _epoch_line(line, 4.2, 9, "residual", False) == "epoch 3/9, 4.2 s; loss: discriminator 0.25, student 0.5"
    line["validation"] = {"residual": 0.75, "patch_residual": 0.5, "combined": 1.0}
    text = _epoch_line(line, 4.2, 9, "combined", True)
    assert text.endswith("validation AUC: combined 1.000, residual 0.750, patch_residual 0.500 (best so far)")


def test_training_says_what_it_is_of(command, tmp_path):
    code, out, _ = command(train.main, *tiny(tmp_path / "run"))
    assert code == 0
    lines = out.splitlines()
    assert str(XRAYS) in lines[0] and lines.index(next(line for line in lines if line.startswith("epoch 1/3"))) > 4
    seconds = [float(re.match(r"epoch \d/3, ([\d.]+) s", line)[1]) for line in lines if line.startswith("epoch ")]
    assert len(seconds) == 3
