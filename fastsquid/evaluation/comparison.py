"""Whether two groups of runs differ in AUC, over seeds and over images."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind_from_stats
from sklearn.metrics import roc_auc_score

from ..data.split import class_masks
from ..errors import UserError
from ..utils.text import join_names, printable
from .metrics import bootstrap_aucs, bootstrap_kinds, interval, kind_auc
from .summary import mean_and_std, mean_and_std_text

log = logging.getLogger(__name__)


@dataclass
class Scored:
    """One score of the reported split's images, by every run of a group.

    Attributes:
        folder: Path of the group or run.
        score: the score's name.
        split: the split's name.
        names, labels: of its images; a list of N, and int64 (N,).
        scores: float64 (runs, N).
        chosen_by: what chose the epoch, as `evaluate_run` names it; None for converted weights.
        findings: of its images, N tuples of abnormal classes; None where there are not two abnormal classes, or where
            an earlier version scored the images.
    """

    folder: Path
    score: str
    split: str
    names: list[str]
    labels: np.ndarray
    scores: np.ndarray
    chosen_by: str | None = None
    findings: list[tuple[str, ...]] | None = None

    def aucs(self) -> np.ndarray:
        """Return the AUC of every run on all images, float64 (runs,).

        scikit-learn computes it, as for a run's summary: another sum would round halves differently.
        """
        return np.array([roc_auc_score(self.labels, scores) for scores in self.scores])

    @property
    def epoch(self) -> str:
        """How the epoch was chosen, for people."""
        if self.chosen_by is None:
            return "converted weights"
        return "last" if self.chosen_by == "last epoch" else f"best {self.chosen_by}"


def compare(first: Scored, second: Scored, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Return the difference of two groups' mean AUCs, second minus first.

    Args:
        first, second: `Scored` of the same images.
        resamples, seed: of the bootstrap.

    Returns:
        dict: `difference`; `low` and `high` end of its 95 % bootstrap interval over images; and `t` and `p` of Welch's
        test over seeds. Each resample has the same images for both groups and all their seeds. `t` and `p` are None if
        a group has fewer than two seeds, or if the AUC is the same for every seed of both. `classes` is {abnormal
        class: {"images", "first" and "second" mean AUC, "difference", "low", "high"}}, empty where the classes of
        either are not known, or fewer than two.
    """
    aucs = bootstrap_aucs(first.labels, [*first.scores, *second.scores], resamples, seed)  # [runs of both, resamples]
    low, high = interval(aucs[len(first.scores) :].mean(0) - aucs[: len(first.scores)].mean(0))
    a, b = first.aucs(), second.aucs()
    result = {"difference": float(b.mean() - a.mean()), "low": low, "high": high, "t": None, "p": None}
    if min(len(a), len(b)) > 1 and (np.ptp(a) > 0 or np.ptp(b) > 0):
        # From means and deviations: from the AUCs themselves it would warn where one group's are all the same.
        test = ttest_ind_from_stats(b.mean(), b.std(ddof=1), len(b), a.mean(), a.std(ddof=1), len(a), equal_var=False)
        result.update(t=float(test.statistic), p=float(test.pvalue))
    return {**result, "classes": _compare_classes(first, second, resamples, seed)}


def _compare_classes(first: Scored, second: Scored, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    if first.findings is None or second.findings is None:
        return {}
    labels, runs = first.labels, len(first.scores)
    masks, result = class_masks(labels.tolist(), first.findings), {}
    if len(masks) < 2:
        return {}
    for name, aucs in bootstrap_kinds(labels, [*first.scores, *second.scores], masks, resamples, seed).items():
        low, high = interval(aucs[runs:].mean(0) - aucs[:runs].mean(0))
        a, b = (
            float(np.mean([kind_auc(labels, scores, masks[name]) for scores in one.scores])) for one in (first, second)
        )
        ends = {"difference": b - a, "low": low, "high": high}
        result[name] = {"images": int(masks[name].sum()), "first": a, "second": b, **ends}
    return result


def comparison_table(first: Scored, second: Scored, result: dict[str, Any]) -> str:
    """Return what `compare` found as a table for people, and one sentence on it."""
    normal, abnormal = ((first.labels == label).sum() for label in (0, 1))
    scores = " and ".join(dict.fromkeys((first.score, second.score)))
    difference = "second minus first"
    folders = printable(first.folder), printable(second.folder)
    width = max(map(len, (difference, *folders)))
    rule = max(len(first.epoch), len(second.epoch))
    several = max(len(first.scores), len(second.scores)) > 1
    lines = [
        f"{first.split} split: {normal} normal, {abnormal} abnormal; AUC of {scores}",
        "",
        f"{'':{width}}   {'epoch':{rule}} {'seeds':>6}   {'AUC':>15}"
        + "   mean ± sample standard deviation over seeds" * several,
    ]
    for folder, group in zip(folders, (first, second)):
        cell = mean_and_std_text(mean_and_std(group.aucs()), 15)
        lines.append(f"{folder:{width}}   {group.epoch:{rule}} {len(group.scores):>6}   {cell}")
    lines.append(
        f"{difference:{width}}   {'':{rule}} {'':6}   {result['difference']:>+15.3f}   "
        f"95 % bootstrap interval over images [{result['low']:+.3f}, {result['high']:+.3f}]"
    )
    if result["p"] is not None:
        lines.append(f"Welch's t-test over seeds: t = {result['t']:.2f}, p = {result['p']:.2g}")
    elif min(len(first.scores), len(second.scores)) < 2:
        lines.append("Welch's t-test over seeds: not defined, since it needs two seeds or more in each group")
    else:
        lines.append("Welch's t-test over seeds: not defined, since the AUC is the same for every seed of both groups")
    lines += _class_lines(first, second, result["classes"])
    return "\n".join([*lines, "", conclusion(*folders, result)])


def _class_lines(first: Scored, second: Scored, classes: dict[str, dict[str, Any]]) -> list[str]:
    """Return the AUC of every class by both groups, or a line that says why it is not known."""
    if not classes:
        unknown = [str(one.folder) for one in (first, second) if one.findings is None]
        if len(unknown) != 1:
            return []
        return [f"AUC by class: not known, since an earlier version wrote the scores of {printable(unknown[0])}"]
    width = max(12, *(len(printable(name)) for name in classes))
    head = f"{'AUC by class':{width}} {'images':>6}   {'first':>6}   {'second':>6}"
    lines = ["", f"{head}   second minus first [95 % interval]"]
    for name, found in classes.items():
        lines.append(
            f"{printable(name):{width}} {found['images']:>6}   {found['first']:6.3f}   {found['second']:6.3f}   "
            f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
        )
    return lines


def conclusion(first: str | Path, second: str | Path, result: dict[str, Any]) -> str:
    """Return one sentence on the groups of two folders. It says of the second what the sign of the difference says.

    Args:
        first, second: folders.
        result: of `compare`.
    """
    images = result["low"] > 1e-9 or result["high"] < -1e-9  # means of the same AUCs may differ by rounding
    seeds = result["p"] is not None and result["p"] < 0.05
    if not images and not seeds:
        return f"No difference between {first} and {second} is shown."
    comparison = "higher" if result["difference"] > 0 else "lower"
    found = f"{second} has a {comparison} AUC than {first} by {abs(result['difference']):.3f}: "
    if images and seeds:
        return found + "more than the choice of images or that of seeds explains."
    if seeds:
        return found + "more than the choice of seeds explains, but other images might show none."
    if result["p"] is None:
        return found + "more than the choice of images explains; what other seeds would show is not known."
    return found + "more than the choice of images explains, but other seeds might show none."


def warn_of_epochs(first: Scored, second: Scored) -> None:
    """Warn if the groups chose their epochs by different rules, or by the split that is reported."""
    rules = [group.chosen_by.partition(" AUC")[0] for group in (first, second) if group.chosen_by]
    if len(set(rules)) > 1:
        log.warning(
            "the groups chose their epochs by different rules: to compare last with last, train %s with --select last",
            " and ".join(str(group.folder) for group in (first, second) if group.epoch != "last"),
        )
    if first.split == "val" and "validation" in rules:
        favored = (str(group.folder) for group in (first, second) if group.epoch.startswith("best validation"))
        log.warning("the reported val split also chose the epoch of %s, which raises the AUC", " and ".join(favored))


def require_same_images(first: Scored, second: Scored) -> None:
    """Raise a UserError unless both have the same images, in the same order, with the same labels and findings."""
    if first.split != second.split:
        what = f"the {first.split} split in one, the {second.split} split in the other"
    elif len(first.names) != len(second.names):
        what = f"{len(first.names)} and {len(second.names)} of the {first.split} split"
    else:
        rows = zip(zip(first.names, first.labels.tolist()), zip(second.names, second.labels.tolist()))
        different = next((pair for pair in rows if pair[0] != pair[1]), None)
        if different is not None:
            (name, label), (other, other_label) = different
            what = f"{name!r} with label {label} in one is {other!r} with label {other_label} in the other"
        elif first.findings is None or second.findings is None or first.findings == second.findings:
            return
        else:
            pairs = zip(first.names, first.findings, second.findings)
            name, one, other = next(row for row in pairs if row[1] != row[2])
            what = f"{name!r} has the findings {join_names(one)!r} in one and {join_names(other)!r} in the other"
    raise UserError(
        f"{first.folder} and {second.folder} did not score the same images ({what}): compare runs of the same data"
    )
