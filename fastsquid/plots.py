"""Pictures: curves of a run, ROC and precision-recall, a gallery of reconstructions with their scores."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from .files import replacing

# Two of each pair of neighbouring colours stay apart in the common forms of colour blindness.
COLORS = {"discriminator": "#d55e00", "discriminator_running": "#e69f00", "residual": "#0072b2", "patch_residual": "#009e73"}
LABELS = {"discriminator": "discriminator (the papers' score)", "discriminator_running": "discriminator, running statistics",
          "residual": "residual", "patch_residual": "worst patch's residual"}


def _save(figure, path):
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
    axes[0].set(xlabel="epoch", ylabel="loss, unweighted (generator, discriminator: weighted sum)", yscale="log", title="Losses")
    axes[0].yaxis.label.set_size(8)
    axes[0].legend(fontsize=8)
    if labelled:
        for name, color in COLORS.items():
            axes[1].plot(epochs, [line["validation"][name] for line in history], label=LABELS[name], color=color, marker=marker)
        axes[1].axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axes[1].set(xlabel="epoch", ylabel="AUC", ylim=(0, 1.02), title="Validation AUC")
        axes[1].legend(fontsize=8, loc="lower right")
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    _save(figure, path)


def roc(labels, scores, path):
    """ROC curve of every score; `scores` is {name: (N,)}."""
    figure = Figure(figsize=(5, 5))
    axis = figure.subplots()
    for name, values in scores.items():
        false, true, _ = roc_curve(labels, values)
        axis.plot(false, true, color=COLORS[name], label=f"{LABELS[name]}: {auc(false, true):.3f}")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axis.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)",
             title="ROC, with AUC", aspect="equal")
    axis.legend(fontsize=8, loc="lower right")
    axis.grid(alpha=0.3)
    _save(figure, path)


def precision_recall(labels, scores, path):
    """Precision-recall curve of every score; `scores` is {name: (N,)}."""
    figure = Figure(figsize=(5, 5))
    axis = figure.subplots()
    for name, values in scores.items():
        precision, recall, _ = precision_recall_curve(labels, values)
        axis.plot(recall, precision, color=COLORS[name], label=LABELS[name], drawstyle="steps-post")
    axis.axhline(np.mean(labels), color="grey", linewidth=0.8, linestyle=":", label="all called abnormal")
    axis.set(xlabel="recall (sensitivity)", ylabel="precision", title="Precision and recall", xlim=(0, 1), ylim=(0, 1.02))
    axis.legend(fontsize=8, loc="lower left")
    axis.grid(alpha=0.3)
    _save(figure, path)


def gallery(images, reconstructions, titles, boxes, path):
    """Input, healthy reconstruction and their difference, a column an image.

    Args:
        images, reconstructions: (N, H, W) in [0, 1].
        titles: N texts, e.g. the kind and the score.
        boxes: None, or a bool array (N, cells) of the anomalous cells of a square grid, framed in the input.
    """
    count = len(images)
    figure = Figure(figsize=(1.75 * count, 5.9))
    grid = figure.subplots(3, count, squeeze=False)
    differences = np.abs(images - reconstructions)
    top = max(float(np.quantile(differences, 0.995)), 1e-6)
    for column in range(count):
        for row, (picture, options) in enumerate([(images, dict(cmap="gray", vmax=1)), (reconstructions, dict(cmap="gray", vmax=1)),
                                                  (differences, dict(cmap="inferno", vmax=top))]):
            grid[row, column].imshow(picture[column], vmin=0, interpolation="nearest", **options)
            grid[row, column].set(xticks=[], yticks=[])
        grid[0, column].set_title(titles[column], fontsize=8)
        if boxes is not None:
            side = round(boxes.shape[1] ** 0.5)
            cell = images.shape[-1] / side
            for index in np.flatnonzero(boxes[column]):
                corner = (index % side * cell - 0.5, index // side * cell - 0.5)
                grid[0, column].add_patch(Rectangle(corner, cell, cell, fill=False, edgecolor="#e3342f", linewidth=1.6))
    for row, name in enumerate(("input", "reconstruction", "difference")):
        grid[row, 0].set_ylabel(name, fontsize=9)
    figure.subplots_adjust(wspace=0.06, hspace=0.05)
    _save(figure, path)
