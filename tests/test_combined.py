"""The score `combined`: the sum of standardized scores, in training, in run folders, and through every command."""

import json

import numpy as np
import pytest
import torch
from conftest import XRAYS, rows_of, tiny

import fastsquid
from fastsquid import checkpoint, score, train
from fastsquid.config import COMBINED, SCORES, ConfigError, preset
from fastsquid.data import open_data, to_unit
from fastsquid.evaluation import score_images, standardize
from fastsquid.model import Detector

pytestmark = pytest.mark.usefixtures("no_pictures")
OPTIONS = ("--score", "combined", "--averaging", "0.5")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs; its scores, the average's, are combined."""
    folder = tmp_path_factory.mktemp("combined") / "run"
    train.main([str(argument) for argument in tiny(folder, *OPTIONS)])
    return folder


def test_without_cells_it_is_the_sum_of_standardized_logits():
    torch.manual_seed(0)
    detector = Detector(preset("simsid-small", width=4, slots=8, score="combined")).eval()
    healthy, others = torch.rand(300, 1, 64, 64), torch.rand(5, 1, 64, 64)
    standardize(detector, healthy)
    usual = score_images(detector, healthy[::2])  # at most 256 of them, evenly spread
    found = score_images(detector, others)
    expected = sum((found[name] - usual[name].mean()) / usual[name].std() for name in COMBINED)
    np.testing.assert_allclose(found["combined"], expected, rtol=1e-3, atol=1e-3)
    assert list(found) == [*SCORES, "combined"]


def test_cells_are_standardized_one_by_one():
    torch.manual_seed(0)
    detector = Detector(preset("fastsquid-small", width=4, slots=8)).eval()
    healthy = torch.rand(40, 1, 64, 64)
    standardize(detector, healthy)
    with torch.no_grad():
        unusual = detector.unusual(detector.judge_cells(healthy))
    for name in COMBINED:
        deviation, mean = torch.std_mean(unusual[name], 0, correction=0)
        torch.testing.assert_close(mean, torch.zeros(4, 4), atol=1e-3, rtol=0)
        torch.testing.assert_close(deviation, torch.ones(4, 4), atol=1e-3, rtol=0)


def test_where_it_is_not():
    assert "combined" not in preset("squid").scores
    assert "usual" not in Detector(preset("simsid-small", width=4)).state_dict()
    with pytest.raises(ConfigError, match="score = combined is not one that this configuration gives"):
        preset("auto-encoder", score="combined")


def test_a_run_keeps_what_it_standardizes_by(run):
    """The saved detector, last and best, has the moments of its own cells on the training images."""
    config, latest = checkpoint.read_run(run)["config"], checkpoint.latest_checkpoint(run)
    assert config.score == "combined"
    state = checkpoint.read_state(latest, config)
    images = to_unit(open_data(XRAYS, 64)["train"].images)
    for name in ("best", "last"):
        detector = Detector(config).eval()
        checkpoint.load_detector(detector, latest, state, name)
        with torch.no_grad():
            cells = detector.judge_cells(images)
        for (mean, deviation), part in zip(detector.usual, COMBINED):
            torch.testing.assert_close(mean, cells[part].mean(0), atol=1e-4, rtol=0)
            torch.testing.assert_close(deviation, cells[part].std(0, correction=0), rtol=0.02, atol=1e-7)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all("combined" in line["validation"] for line in lines)
    summary = json.loads((run / "summary.json").read_text())
    assert {"combined", *SCORES} == set(summary["scores"])


def test_commands_give_it(run, tmp_path, command):
    out = tmp_path / "scores.csv"
    assert command(score.main, run, XRAYS / "val", "--out", out)[0] == 0
    rows = rows_of(out)
    usual = checkpoint.load_run(run)[0].usual.flatten(1).tolist()
    for row in rows:
        parts = [(float(row[part]) - mean) / deviation for part, (mean, deviation) in zip(COMBINED, usual)]
        assert float(row["combined"]) == pytest.approx(sum(parts), rel=1e-3, abs=1e-2)
        assert row["calibrated"]
    scorer = fastsquid.load(run)
    paths = [XRAYS / "val" / row["name"] for row in rows]
    np.testing.assert_allclose(scorer.score(paths), [float(row["combined"]) for row in rows], rtol=1e-3, atol=1e-2)
