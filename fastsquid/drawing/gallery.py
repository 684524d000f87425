"""The gallery: a few images, their reconstructions, and the difference."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..config import SCORES, Config
from ..data.images import to_unit
from ..data.split import Split
from ..model.detector import Detector
from ..scoring.scores import Calibration
from .png import save_figure


def draw_gallery(detector: Detector, split: Split, calibration: dict[str, Calibration], path: str | Path) -> None:
    """Draw eight images of a split with their scores, in standard deviations from the normal training images.

    Args:
        detector: it is put in eval mode.
        split: its images are chosen as by `choose_images`.
        calibration: {score: mean and standard deviation of normal images}.
        path: PNG to write.
    """
    chosen = torch.as_tensor(choose_images(split))
    images = to_unit(split.images[chosen])
    scores, reconstructions = detector.eval().scores(images.to(next(detector.parameters()).device))
    assert reconstructions is not None
    titles = []
    for row, index in enumerate(chosen.tolist()):
        lines = [split.caption(index)]
        for short, name in _shown(detector.config):
            deviations = (scores[name][row].item() - calibration[name].mean) / max(calibration[name].std, 1e-12)
            lines.append(f"{short} {deviations:+.1f}")
        titles.append("\n".join(filter(None, lines)))
    cells = None if split.cells is None else split.cells[chosen].numpy()
    _draw(images[:, 0].numpy(), reconstructions[:, 0].cpu().numpy(), titles, cells, path)


def _shown(config: Config) -> list[tuple[str, str]]:
    """Return (short, full) names of scores: the one that ranks, and both residuals."""
    names = {config.score, "residual", "patch_residual"}
    return [(score.short, name) for name, score in SCORES.items() if name in names]


def choose_images(split: Split) -> np.ndarray:
    """Return indices of at most eight images to show, evenly spaced, int64 (N,).

    A labeled split gives four normal and four abnormal images, the latter evenly over the abnormal classes.
    """
    if split.labels is None:
        return spread(np.arange(len(split)), 8)
    labels = split.labels.numpy()
    normal, abnormal = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    if names := split.abnormal_classes:
        # A normal image may have the class of an abnormal one.
        classes = np.where(labels == 1, np.asarray(split.classes, dtype=str), "")
        each = -(-4 // len(names))
        abnormal = np.concatenate([spread(np.flatnonzero(classes == name), each) for name in names])
    return np.concatenate([spread(normal, 4), spread(abnormal, 4)])


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the indices (N,), evenly spaced; a single one comes from the middle."""
    count = min(count, len(indices))
    return indices[[(2 * i + 1) * len(indices) // (2 * count) for i in range(count)]]


def _draw(
    images: np.ndarray, reconstructions: np.ndarray, titles: list[str], cells: np.ndarray | None, path: str | Path
) -> None:
    """Draw input, reconstruction and difference, one column per image, with anomalous cells framed.

    Args:
        images, reconstructions: (N, H, W) in [0, 1].
        titles: N texts above the columns.
        cells: bool (N, G * G), the anomalous cells of a G x G grid; or None.
        path: PNG to write.
    """
    count = len(images)
    figure = Figure(figsize=(1.75 * count, 5.9))
    grid = figure.subplots(3, count, squeeze=False)
    differences = np.abs(images - reconstructions)
    largest = max(float(np.quantile(differences, 0.995)), 1e-6)
    rows = [
        ("input", images, "gray", 1.0),
        ("reconstruction", reconstructions, "gray", 1.0),
        ("difference", differences, "inferno", largest),
    ]
    for row, (name, pictures, colors, top) in enumerate(rows):
        grid[row, 0].set_ylabel(name, fontsize=9)
        for column in range(count):
            grid[row, column].imshow(pictures[column], vmin=0, vmax=top, cmap=colors, interpolation="nearest")
            grid[row, column].set(xticks=[], yticks=[])
    for column in range(count):
        grid[0, column].set_title(titles[column], fontsize=8)
        if cells is not None:
            side = round(cells.shape[1] ** 0.5)
            cell = images.shape[-1] / side
            for index in np.flatnonzero(cells[column]):
                corner = (index % side * cell - 0.5, index // side * cell - 0.5)
                grid[0, column].add_patch(Rectangle(corner, cell, cell, fill=False, edgecolor="#e3342f", linewidth=1.6))
    figure.subplots_adjust(wspace=0.06, hspace=0.05)
    save_figure(figure, path)
