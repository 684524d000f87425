"""Curves of losses, validation AUC, ROC, precision and recall, for one or several seeds; and histograms of scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from ..config import SCORES
from .save import save_figure

GROUPS = {"training": "#777777", "normal": "#0072b2", "abnormal": "#d55e00", "unlabeled": "#009e73"}
# False positive rates and recalls at which curves of several runs are averaged. Rates are fractions that often equal a
# point of the grid. `ROUNDING` keeps rounding errors from deciding whether they do.
GRID = np.linspace(0, 1, 201)
ROUNDING = 1e-9


def draw_curves(history: list[dict[str, Any]], path: str | Path) -> None:
    """Draw losses, and validation AUC where there is one, by epoch.

    Args:
        history: the lines of metrics.jsonl, at least one.
        path: PNG to write.
    """
    labeled = any(line.get("validation") for line in history)
    figure = Figure(figsize=(11 if labeled else 6, 4))
    axes = figure.subplots(1, 2 if labeled else 1, squeeze=False)[0]
    epochs = [line["epoch"] for line in history]
    marker = "o" if len(epochs) == 1 else None
    for name in sorted({name for line in history for name in line["losses"]}):
        axes[0].plot(epochs, [line["losses"].get(name, np.nan) for line in history], label=name, marker=marker)
    axes[0].set(
        xlabel="epoch", ylabel="loss, unweighted (generator, discriminator: weighted sum)", yscale="log", title="Losses"
    )
    axes[0].yaxis.label.set_size(8)
    if labeled:
        for name in history[0]["validation"]:
            aucs = [line["validation"][name] for line in history]
            axes[1].plot(epochs, aucs, label=SCORES[name].label, color=SCORES[name].color, marker=marker)
        axes[1].axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
        axes[1].set(xlabel="epoch", ylabel="AUC", ylim=(0, 1.02), title="Validation AUC")
    for axis in axes:
        # Below the axes, where no line is.
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def roc_figure(
    labels: np.ndarray | torch.Tensor, scores: Mapping[str, np.ndarray], ranking: str, where: str = ""
) -> Figure:
    """Draw the ROC curve of every score, with its AUC. The curve of the ranking score is bold, the others are light.

    For several runs the curve is the mean of the true positive rates at each false positive rate (vertical averaging).
    A band shows plus and minus one sample standard deviation of the ranking score. All AUCs have mean and standard
    deviation.

    Args:
        labels: (N,) 0 normal, 1 abnormal, both present.
        scores: {name: (N,)} of one run or {name: (S, N)} of S runs, larger = more abnormal.
        ranking: name of the score that ranks the images.
        where: run and images of the scores, for the title.

    Returns:
        a matplotlib figure.
    """
    figure = Figure(figsize=(5.4, 5.4))
    axis = figure.subplots()
    for name in _ranking_first(scores, ranking):
        runs = [roc_curve(labels, row)[:2] for row in np.atleast_2d(scores[name])]
        style = _style(name, ranking, [auc(false, true) for false, true in runs])
        if len(runs) == 1:
            axis.plot(*runs[0], **style)
        else:
            _draw_mean(axis, GRID, [np.interp(GRID + ROUNDING, *run) for run in runs], style, name == ranking)
    axis.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":", label="chance: 0.500")
    axis.set(
        xlabel="false positive rate (1 - specificity)",
        ylabel="true positive rate (sensitivity)",
        xlim=(0, 1),
        ylim=(0, 1.02),
        aspect="equal",
    )
    _finish(axis, "ROC", "AUC", labels, scores, ranking, where)
    return figure


def precision_recall_figure(
    labels: np.ndarray | torch.Tensor, scores: Mapping[str, np.ndarray], ranking: str, where: str = ""
) -> Figure:
    """Draw the precision-recall curve of every score, with its average precision.

    A curve is a staircase: the precision at a recall is that of the highest threshold that reaches the recall. Several
    runs are averaged as in `roc_figure`.

    Args:
        labels, scores, ranking, where: as for `roc_figure`.

    Returns:
        a matplotlib figure.
    """
    figure = Figure(figsize=(5.4, 5.4))
    axis = figure.subplots()
    recalls = GRID[1:]  # at recall 0 there is no precision
    for name in _ranking_first(scores, ranking):
        rows = np.atleast_2d(scores[name])
        runs = [precision_recall_curve(labels, row)[:2] for row in rows]
        style = _style(name, ranking, [float(average_precision_score(labels, row)) for row in rows])
        if len(runs) == 1:
            axis.plot(*runs[0][::-1], **style, drawstyle="steps-post")
        else:
            ascending = [(precision[::-1], recall[::-1]) for precision, recall in runs]
            stairs = [precision[np.searchsorted(recall, recalls - ROUNDING)] for precision, recall in ascending]
            _draw_mean(axis, recalls, stairs, style, name == ranking)
    share = np.asarray(labels, dtype=float).mean()
    axis.axhline(share, color="gray", linewidth=0.8, linestyle=":", label=f"all called abnormal: {share:.3f}")
    axis.set(xlabel="recall (sensitivity)", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    _finish(axis, "Precision and recall", "average precision", labels, scores, ranking, where)
    return figure


def histogram_figure(scores: Mapping[str, Mapping[str, np.ndarray]], where: str = "") -> Figure:
    """Draw histograms of every score. The area of each group is 1; all groups of a score have the same bins.

    Args:
        scores: {name: {group: (N,)}}, groups of `GROUPS`, larger = more abnormal.
        where: run and images of the scores, for the title.

    Returns:
        a matplotlib figure with one panel per score.
    """
    rows = -(-len(scores) // 2)
    figure = Figure(figsize=(9.5, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flat
    for axis in axes[len(scores) :]:
        axis.remove()
    for axis, (name, groups) in zip(axes, scores.items()):
        # In float64: float32 has too few numbers between scores that are almost equal for so many edges.
        bins = np.histogram_bin_edges(np.concatenate(list(groups.values())).astype(np.float64), bins=40)
        for group, values in groups.items():
            # The outline stays visible where areas overlap.
            for style in ({"histtype": "stepfilled", "alpha": 0.25}, {"histtype": "step", "linewidth": 1.5}):
                label = f"{group} ({len(values)})" if style["histtype"] == "step" else None
                axis.hist(values, bins=bins, density=True, color=GROUPS[group], label=label, **style)
        axis.set(title=SCORES[name].label, xlabel="score (larger = more abnormal)", ylabel="density (area 1)")
        axis.title.set_size(10)
        axis.locator_params(axis="x", nbins=6)  # more labels of small numbers touch
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle("\n".join(filter(None, ["Anomaly scores by group of images", where])), fontsize=11)
    return figure


def _ranking_first(scores: Mapping[str, np.ndarray], ranking: str) -> list[str]:
    """Return the names of the scores, the ranking score first."""
    return [ranking, *(name for name in scores if name != ranking)]


def _style(name: str, ranking: str, areas: Sequence[float]) -> dict[str, Any]:
    """Return how a score's curve is drawn and named: bold and above the others if the score ranks the images."""
    label = f"{SCORES[name].label}: {mean_deviation(areas)}"
    bold = {"linewidth": 2.5, "zorder": 3} if name == ranking else {"linewidth": 1.0, "alpha": 0.5}
    return {"color": SCORES[name].color, "label": label, **bold}


def _draw_mean(axis: Axes, x: np.ndarray, runs: Sequence[np.ndarray], style: dict[str, Any], band: bool) -> None:
    """Draw the mean of curves on the same x, with or without a band of plus and minus one standard deviation."""
    mean, deviation = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1)
    axis.plot(x, mean, **style)
    if band:
        axis.fill_between(x, mean - deviation, mean + deviation, color=style["color"], alpha=0.2, linewidth=0)


def mean_deviation(values: Sequence[float]) -> str:
    """Return the mean of AUCs as text; for several, with the sample standard deviation."""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def _finish(
    axis: Axes,
    what: str,
    measure: str,
    labels: np.ndarray | torch.Tensor,
    scores: Mapping[str, np.ndarray],
    ranking: str,
    where: str,
) -> None:
    """Add the title (the curve, its images and the meaning of the band) and a legend below the axes."""
    labels = np.asarray(labels)
    runs = len(np.atleast_2d(scores[ranking]))
    lines = [
        what + (f": mean of {runs} runs; band: ± one standard deviation" if runs > 1 else ""),
        where,
        f"{(labels == 0).sum()} normal and {(labels == 1).sum()} abnormal images",
    ]
    axis.set_title("\n".join(filter(None, lines)), fontsize=10)
    title = f"{measure} (bold: the score that ranks the images)"
    legend = axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), title=title, title_fontsize=8)
    legend.get_texts()[0].set_fontweight("bold")  # of the ranking score
    axis.grid(alpha=0.3)
