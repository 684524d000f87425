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


def test_it_is_the_sum_of_standardized_scores():
    torch.manual_seed(0)
    detector = Detector(preset("fastsquid-small", width=4, slots=8, score="combined")).eval()
    healthy, others = torch.rand(300, 1, 64, 64), torch.rand(5, 1, 64, 64)
    standardize(detector, healthy)
    usual = score_images(detector, healthy[::2])  # at most 256 of them, evenly spread
    found = score_images(detector, others)
    expected = sum((found[name] - usual[name].mean()) / usual[name].std() for name in COMBINED)
    np.testing.assert_allclose(found["combined"], expected, rtol=1e-4, atol=1e-4)
    assert list(found) == [*SCORES, "combined"]


def test_where_it_is_not():
    assert "combined" not in preset("squid").scores
    assert "usual" not in Detector(preset("fastsquid-small", score="discriminator_image", width=4)).state_dict()
    with pytest.raises(ConfigError, match="score = combined is not one that this configuration gives"):
        preset("auto-encoder", score="combined")


def test_a_run_keeps_what_it_standardizes_by(run):
    detector, record, state, name = checkpoint.load_run(run)
    assert record["config"].score == "combined"
    images = open_data(XRAYS, 64)["train"].images
    usual = score_images(detector, images)
    for (mean, deviation), part in zip(detector.usual.tolist(), COMBINED):
        assert mean == pytest.approx(usual[part].mean(), abs=1e-4)
        assert deviation == pytest.approx(usual[part].std(), rel=1e-2)
    # The score of training images therefore has mean 0. Logits of a run of seconds hardly vary: rounding shows.
    assert state[name]["calibration"]["combined"]["mean"] == pytest.approx(0, abs=0.05)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all("combined" in line["validation"] for line in lines)
    summary = json.loads((run / "summary.json").read_text())
    assert {"combined", *SCORES} == set(summary["scores"])


def test_commands_give_it(run, tmp_path, command):
    out = tmp_path / "scores.csv"
    assert command(score.main, run, XRAYS / "val", "--out", out)[0] == 0
    rows = rows_of(out)
    detector, *_ = checkpoint.load_run(run)
    for row in rows:
        parts = [(float(row[part]) - m) / d for part, (m, d) in zip(COMBINED, detector.usual.tolist())]
        assert float(row["combined"]) == pytest.approx(sum(parts), rel=1e-3, abs=1e-3)
        assert row["calibrated"]
    scorer = fastsquid.load(run)
    paths = [XRAYS / "val" / row["name"] for row in rows]
    np.testing.assert_allclose(scorer.score(paths), [float(row["combined"]) for row in rows], rtol=1e-4, atol=1e-4)


def test_the_best_detector_has_its_own(run):
    """The tensors of the best epoch are saved with that epoch's mean and deviation."""
    latest = checkpoint.latest_checkpoint(run)
    state = checkpoint.read_state(latest, checkpoint.read_run(run)["config"])
    for name in ("best", "last"):
        tensors = checkpoint.read_tensors(latest, state, name)
        detector = Detector(checkpoint.read_run(run)["config"])
        detector.load_state_dict(tensors)
        images = to_unit(open_data(XRAYS, 64)["train"].images)
        found = score_images(detector, images)
        assert tensors["usual"][0, 0].item() == pytest.approx(found["discriminator"].mean(), abs=1e-4)
