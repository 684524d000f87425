"""The score `combined`: the sum of standardized scores, in training, in run folders, and through every command."""

import json

import numpy as np
import pytest
import torch
from conftest import XRAYS, rows_of, tiny

import fastsquid
from fastsquid import score, train
from fastsquid.config import COMBINED, SCORES, ConfigError, preset
from fastsquid.data import open_data, to_unit
from fastsquid.model.detector import Detector
from fastsquid.runs import checkpoint
from fastsquid.runs.folder import read_run
from fastsquid.runs.trained import load_run
from fastsquid.scoring.scores import score_images, standardize

OPTIONS = ("--score", "combined", "--averaging", "0.5")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs; its scores, the average's, are combined."""
    folder = tmp_path_factory.mktemp("combined") / "run"
    train.main([str(argument) for argument in tiny(folder, *OPTIONS)])
    return folder


@pytest.mark.parametrize("name", ["simsid-small", "fastsquid-small"])
def test_it_is_the_sum_of_standardized_scores(name):
    torch.manual_seed(0)
    detector = Detector(preset(name, width=4, slots=8, score="combined")).eval()
    healthy, others = torch.rand(300, 1, 64, 64), torch.rand(5, 1, 64, 64)
    standardize(detector, healthy)
    usual = score_images(detector, healthy[::2])  # at most 256 of them, evenly spread
    found = score_images(detector, others)
    expected = sum((found[name] - usual[name].mean()) / usual[name].std() for name in COMBINED)
    np.testing.assert_allclose(found["combined"], expected, rtol=1e-3, atol=1e-3)
    assert list(found)[-1] == "combined"


def test_where_it_is_not():
    assert "combined" not in preset("squid").scores
    assert "usual" not in Detector(preset("simsid-small", width=4)).state_dict()
    with pytest.raises(ConfigError, match="score = combined .* residual"):
        preset("auto-encoder", score="combined")


def test_a_run_keeps_what_it_standardizes_by(run):
    """The saved detector, last and best, has the moments of its own scores on the training images."""
    config, latest = read_run(run).config, checkpoint.latest_checkpoint(run)
    assert config.score == "combined"
    state = checkpoint.read_state(latest, config)
    images = to_unit(open_data(XRAYS, 64)["train"].images)
    for name in ("best", "last"):
        detector = Detector(config).eval()
        checkpoint.load_detector(detector, latest, state, name)
        scores = score_images(detector, images)
        for (mean, deviation), part in zip(detector.usual.tolist(), COMBINED):
            assert mean == pytest.approx(scores[part].mean(), abs=1e-4)
            assert deviation == pytest.approx(scores[part].std(), rel=0.02)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all("combined" in line["validation"] for line in lines)
    summary = json.loads((run / "summary.json").read_text())
    assert set(SCORES) == set(summary["scores"])


def test_commands_give_it(run, tmp_path, command):
    out = tmp_path / "scores.csv"
    assert command(score.main, run, XRAYS / "val", "--out", out, "--all-scores")[0] == 0
    rows = rows_of(out)
    usual = load_run(run).detector.usual.tolist()
    for row in rows:
        parts = [(float(row[part]) - mean) / deviation for part, (mean, deviation) in zip(COMBINED, usual)]
        assert float(row["combined"]) == pytest.approx(sum(parts), rel=1e-3, abs=1e-2)
        assert row["score"] == row["combined"]
    scorer = fastsquid.load(run)
    paths = [XRAYS / "val" / row["name"] for row in rows]
    np.testing.assert_allclose(scorer.score(paths), [float(row["combined"]) for row in rows], rtol=1e-3, atol=1e-2)
