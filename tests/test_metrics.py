import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fastsquid.data.split import class_masks
from fastsquid.errors import UserError
from fastsquid.evaluation.metrics import (
    at_threshold,
    best_threshold,
    bootstrap_auc,
    bootstrap_aucs,
    bootstrap_kinds,
    evaluate,
    evaluate_kinds,
    ranks_above,
    require_both_classes,
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
    """Normal images may share the class of abnormal ones; they stay on the normal side of every class."""
    classes = ["normal", "a", "healthy", "a", "a", "b", "b", "normal"]
    kinds = class_masks(LABELS.tolist(), [(name,) for name in classes])
    assert {name: np.flatnonzero(mask).tolist() for name, mask in kinds.items()} == {"a": [3, 4], "b": [5, 6]}
    result = evaluate(LABELS, SCORES, kinds=kinds)["auc_by_kind"]
    assert result == {"a": pytest.approx((0.5 + 1) / 2), "b": 1.0}
    one = class_masks(LABELS.tolist(), [("a",)] * 8)
    assert evaluate(LABELS, SCORES, kinds=one) == evaluate(LABELS, SCORES)
    assert evaluate_kinds(LABELS, SCORES, one) == evaluate_kinds(LABELS, SCORES, {}) == {}


def test_an_image_counts_for_each_of_its_findings():
    findings = [(), (), ("b",), ("b", "a"), ("a",), ("a", "b", "c"), (), ()]
    kinds = class_masks([*LABELS[:7].tolist(), None], findings)
    members = {name: np.flatnonzero(mask).tolist() for name, mask in kinds.items()}
    assert members == {"a": [3, 4, 5], "abnormal": [6], "b": [3, 5], "c": [5]} and list(kinds) == sorted(kinds)
    found = evaluate_kinds(LABELS, SCORES, kinds)
    assert list(found) == ["a", "abnormal", "b", "c"]
    for name, images in members.items():
        pairs = [(SCORES[i] > n) + 0.5 * (SCORES[i] == n) for i in images for n in SCORES[LABELS == 0]]
        assert found[name]["images"] == len(images) and found[name]["auc"] == pytest.approx(np.mean(pairs))
        assert 0 <= found[name]["low"] <= found[name]["auc"] <= found[name]["high"] <= 1
    assert (found["c"]["low"], found["c"]["high"]) == (1, 1)  # its only image has a higher score than all normal ones


def test_the_interval_of_a_class():
    """As if its images were the only abnormal ones: a loop over resamples, and `bootstrap_auc` of them alone."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], [60, 80])
    scores = np.round(rng.normal(size=140) + labels * np.linspace(0, 2, 140), 1)
    kinds = {"few": np.arange(140) >= 138, "most": labels * np.arange(140) % 3 > 0}
    found = evaluate_kinds(labels, scores, kinds)
    for name, mask in kinds.items():
        aucs, keep = [], mask | (labels == 0)
        for _ in range(2000):
            abnormal, normal = rng.choice(scores[mask], mask.sum()), rng.choice(scores[labels == 0], 60)
            aucs.append(np.mean((abnormal[:, None] > normal) + 0.5 * (abnormal[:, None] == normal)))
        ends = found[name]["low"], found[name]["high"]
        assert ends == pytest.approx(np.percentile(aucs, [2.5, 97.5]), abs=0.01)
        assert ends == pytest.approx(bootstrap_auc(labels[keep], scores[keep]), abs=0.01)
    # All abnormal images as one class have the AUCs of the whole, for every score.
    both = bootstrap_kinds(labels, [scores, -scores], {"all": labels == 1}, 250)["all"]
    np.testing.assert_array_equal(both, bootstrap_aucs(labels, [scores, -scores], 250))


def test_one_class_is_refused_by_name():
    require_both_classes([0, 1], "x")
    with pytest.raises(UserError, match="the val split .*abnormal"):
        require_both_classes([0, 0], "the val split")


def test_the_auc_of_ranks_is_scikit_learns_of_the_resample():
    rng = np.random.default_rng(0)
    for levels in (2, 5, 10_000):  # with many ties, some, and hardly any
        labels = np.concatenate([[0, 1], rng.integers(0, 2, 40)])
        scores = rng.integers(0, levels, 42) / 8 - 3
        weights = np.concatenate([np.ones((1, 42), np.int64), rng.integers(0, 3, (20, 42))])  # first each image once
        weights[:, :2] = 1
        expected = [roc_auc_score(labels.repeat(row), scores.repeat(row)) for row in weights]
        normal, abnormal = (weights[:, labels == label] for label in (0, 1))
        aucs = (abnormal * ranks_above(labels, scores, normal)).sum(1) / (2 * normal.sum(1) * abnormal.sum(1))
        np.testing.assert_allclose(aucs, expected, rtol=0, atol=1e-14)


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
