import numpy as np
import pytest

from fastsquid.errors import UserError
from fastsquid.metrics import at_threshold, best_threshold, evaluate, require_both_classes

LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 0])
SCORES = np.array([0.1, 0.2, 0.3, 0.25, 0.5, 0.6, 0.7, 0.4])


def test_auc_is_the_share_of_ordered_pairs():
    pairs = [(a > n) + 0.5 * (a == n) for a in SCORES[LABELS == 1] for n in SCORES[LABELS == 0]]
    assert evaluate(LABELS, SCORES)["auc"] == pytest.approx(np.mean(pairs))


def test_best_threshold_is_the_most_accurate_of_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = np.concatenate([[0, 1], rng.integers(0, 2, 20)])
        scores = rng.integers(0, 8, 22) / 8 + labels * rng.random() * 0.3
        threshold = best_threshold(labels, scores)
        ours = at_threshold(labels, scores, threshold)["accuracy"]
        assert ours == max(np.mean((scores >= t) == labels) for t in [*scores, scores.max() + 1])
    assert best_threshold(LABELS, SCORES) == pytest.approx(0.45)  # halfway between 0.4 and 0.5


def test_at_threshold():
    result = at_threshold(LABELS, SCORES, 0.35)
    assert result == {"threshold": 0.35, "accuracy": 0.75, "f1": 0.75, "sensitivity": 0.75, "specificity": 0.75}


def test_float32_scores_are_compared_exactly():
    above = np.nextafter(np.float32(1), np.float32(2))
    assert evaluate([0, 1], np.array([1, above], np.float32))["test_threshold"]["accuracy"] == 1
    assert evaluate([0, 0, 0, 1], np.array([2, 3, 4, 1], np.float32))["test_threshold"]["accuracy"] == 0.75


def test_a_hopeless_score_still_has_a_finite_threshold():
    threshold = best_threshold(np.array([0, 0, 0, 1]), np.array([2.0, 3.0, 4.0, 1.0]))
    assert np.isfinite(threshold)


def test_thresholds_have_their_own_names():
    result = evaluate(LABELS, SCORES, validation_threshold=0.35)
    assert result["validation_threshold"]["threshold"] == 0.35
    assert result["test_threshold"]["threshold"] == pytest.approx(0.45)
    assert evaluate(LABELS, SCORES)["validation_threshold"] is None


def test_auc_by_kind():
    kinds = ["normal", "normal", "normal", "a", "a", "b", "b", "normal"]
    result = evaluate(LABELS, SCORES, kinds=kinds)["auc_by_kind"]
    assert result == {"a": pytest.approx((0.5 + 1) / 2), "b": 1.0}


def test_one_class_is_refused_by_name():
    require_both_classes([0, 1], "x")
    with pytest.raises(UserError, match="the val split has no abnormal ones"):
        require_both_classes([0, 0], "the val split")
