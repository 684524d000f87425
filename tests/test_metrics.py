import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fastsquid.errors import UserError
from fastsquid.evaluation.metrics import (
    at_threshold,
    best_threshold,
    bootstrap_auc,
    bootstrap_aucs,
    evaluate,
    require_both_classes,
    weighted_auc,
)

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
    classes = ["normal", "normal", "healthy", "a", "a", "b", "b", "normal"]
    result = evaluate(LABELS, SCORES, classes=classes)["auc_by_kind"]
    assert result == {"a": pytest.approx((0.5 + 1) / 2), "b": 1.0}
    one = ["normal" if label == 0 else "a" for label in LABELS]
    assert evaluate(LABELS, SCORES, classes=one) == evaluate(LABELS, SCORES)


def test_one_class_is_refused_by_name():
    require_both_classes([0, 1], "x")
    with pytest.raises(UserError, match="the val split .*abnormal"):
        require_both_classes([0, 0], "the val split")


def test_weighted_auc_is_scikit_learns_of_the_resample():
    rng = np.random.default_rng(0)
    for levels in (2, 5, 10_000):  # with many ties, some, and hardly any
        labels = np.concatenate([[0, 1], rng.integers(0, 2, 40)])
        scores = rng.integers(0, levels, 42) / 8 - 3
        weights = np.concatenate([np.ones((1, 42), np.int64), rng.integers(0, 3, (20, 42))])  # first each image once
        weights[:, :2] = 1
        expected = [roc_auc_score(labels.repeat(row), scores.repeat(row)) for row in weights]
        np.testing.assert_allclose(weighted_auc(labels, scores, weights), expected, rtol=0, atol=1e-14)


def test_bootstrap_interval_of_a_loop():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 120)
    scores = np.round(rng.normal(size=120) + labels, 1)
    aucs = []
    for _ in range(1000):
        abnormal, normal = (rng.choice(scores[labels == label], (labels == label).sum()) for label in (1, 0))
        aucs.append(np.mean((abnormal[:, None] > normal) + 0.5 * (abnormal[:, None] == normal)))
    low, high = bootstrap_auc(labels, scores)
    assert (low, high) == pytest.approx(np.percentile(aucs, [2.5, 97.5]), abs=0.015)
    assert (low, high) == bootstrap_auc(labels, scores) != bootstrap_auc(labels, scores, seed=1)
    both = bootstrap_aucs(labels, [scores, -scores], 250)
    assert both.shape == (2, 250)
    np.testing.assert_allclose(both.sum(0), 1, err_msg="a resample is the same images for every score")


def test_bootstrap_keeps_the_size_of_each_class():
    """One normal image is in every resample, so the AUC of each is a share of eleven abnormal ones, a tie half."""
    labels = np.array([0] + [1] * 11)
    shares = bootstrap_aucs(labels, [np.arange(12) % 7 - 2.5], 300)[0] * 22
    np.testing.assert_allclose(shares, shares.round(), atol=1e-12)
    assert bootstrap_auc(labels, np.arange(12)) == (1, 1)
    assert bootstrap_auc(labels, np.ones(12)) == (0.5, 0.5)
