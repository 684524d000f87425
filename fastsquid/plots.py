"""Curves: a run's losses and validation AUC, ROC, precision and recall."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from .files import replacing

# Two of each pair of neighbouring colours stay apart in the common forms of colour blindness.
COLORS = {
    "discriminator": "#d55e00",
    "discriminator_running": "#e69f00",
    "residual": "#0072b2",
    "patch_residual": "#009e73",
}
LABELS = {
    "discriminator": "discriminator (the papers' score)",
    "discriminator_running": "discriminator, running statistics",
    "residual": "residual",
    "patch_residual": "worst patch's residual",
}


def save_figure(figure, path):
    """Writes a PNG, whole or not at all."""
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110, bbox_inches="tight")


def curves(history, path):
    """Losses, and validation AUC where there is one, by epoch; `history` is the list of lines of metrics.jsonl."""
    labelled = any(line.get("validation") for line in history)
    figure = Figure(figsize=(11 if labelled else 6, 4))
    axes = figure.subplots(1, 2 if labelled else 1, squeeze=False)[0]
    epochs = [line["epoch"] for line in history]
    marker = "o" if len(epochs) == 1 else None
    for name in sorted({name for line in history for name in line["losses"]}):
        axes[0].plot(epochs, [line["losses"].get(name, np.nan) for line in history], label=name, marker=marker)
    axes[0].set(
        xlabel="epoch", ylabel="loss, unweighted (generator, discriminator: weighted sum)", yscale="log", title="Losses"
    )
    axes[0].yaxis.label.set_size(8)
    axes[0].legend(fontsize=8)
    if labelled:
        for name, color in COLORS.items():
            axes[1].plot(
                epochs, [line["validation"][name] for line in history], label=LABELS[name], color=color, marker=marker
            )
        axes[1].axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axes[1].set(xlabel="epoch", ylabel="AUC", ylim=(0, 1.02), title="Validation AUC")
        axes[1].legend(fontsize=8, loc="lower right")
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def roc(labels, scores, path):
    """ROC curve of every score; `scores` is {name: (N,)}."""
    figure = Figure(figsize=(5, 5))
    axis = figure.subplots()
    for name, values in scores.items():
        false, true, _ = roc_curve(labels, values)
        axis.plot(false, true, color=COLORS[name], label=f"{LABELS[name]}: {auc(false, true):.3f}")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axis.set(
        xlabel="false positive rate (1 - specificity)",
        ylabel="true positive rate (sensitivity)",
        title="ROC, with AUC",
        aspect="equal",
    )
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(alpha=0.3)
    save_figure(figure, path)


def precision_recall(labels, scores, path):
    """Precision-recall curve of every score; `scores` is {name: (N,)}."""
    figure = Figure(figsize=(5, 5))
    axis = figure.subplots()
    for name, values in scores.items():
        precision, recall, _ = precision_recall_curve(labels, values)
        axis.plot(recall, precision, color=COLORS[name], label=LABELS[name], drawstyle="steps-post")
    axis.axhline(np.asarray(labels).mean(), color="grey", linewidth=0.8, linestyle=":", label="all called abnormal")
    axis.set(
        xlabel="recall (sensitivity)", ylabel="precision", title="Precision and recall", xlim=(0, 1), ylim=(0, 1.02)
    )
    axis.legend(fontsize=8, loc="lower left")
    axis.grid(alpha=0.3)
    save_figure(figure, path)
