"""The gallery: a few images, their reconstructions, and the difference."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from ..config import SCORES, Config
from ..data.images import select_images, to_unit
from ..data.places import Places
from ..data.split import Split
from ..model.detector import Detector
from ..scoring.scores import Calibration
from ..utils.text import printable
from .pictures import frame_places, is_framed
from .save import drawable, save_figure


def draw_gallery(detector: Detector, split: Split, calibration: dict[str, Calibration], path: str | Path) -> None:
    """Draw eight images of a split with their scores, in standard deviations from the normal training images.

    Args:
        detector: it is put in eval mode.
        split: its images are chosen as by `choose_images`.
        calibration: {score: mean and standard deviation of normal images}.
        path: PNG to write.
    """
    chosen = torch.as_tensor(choose_images(split))
    images = to_unit(select_images(split.images, chosen))
    scores, reconstructions = detector.eval().scores(images.to(next(detector.parameters()).device))
    assert reconstructions is not None
    deviations = {}
    for name in _shown(detector.config):
        mean, std = calibration[name].mean, max(calibration[name].std, 1e-12)
        deviations[name] = (scores[name].double().cpu().numpy() - mean) / std
    captions = [drawable(split.caption(index)) for index in chosen.tolist()]
    places = [split.shown_places(i) for i in chosen.tolist()]
    drawn = reconstructions[:, 0].cpu().numpy()
    save_figure(_figure(images[:, 0].numpy(), drawn, captions, deviations, detector.config.score, places), path)


def _shown(config: Config) -> list[str]:
    """Return the names of the scores above the pictures: the one that ranks, then both residuals."""
    return list(dict.fromkeys((config.score, "residual", "patch_residual")))


def caption_or_name(split: Split, index: int) -> str:
    """Return what an image is, or the end of its file's name where it is unlabeled, for a figure."""
    return drawable(split.caption(index) or printable(Path(split.names[index]).name)[-18:])


def choose_images(split: Split) -> np.ndarray:
    """Return indices of at most eight images to show, evenly spaced, int64 (N,).

    A labeled split gives four normal and four abnormal images, the latter evenly over the abnormal classes.
    """
    if split.labels is None:
        return spread(np.arange(len(split)), 8)
    labels = split.labels.numpy()
    normal, abnormal = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    if masks := split.abnormal_masks():
        each = -(-4 // len(masks))
        chosen = np.concatenate([spread(np.flatnonzero(mask), each) for mask in masks.values()])
        abnormal = np.array(list(dict.fromkeys(chosen.tolist())))  # an image may be of several classes
    return np.concatenate([spread(normal, 4), spread(abnormal, 4)])


def spread(indices: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the indices (N,), evenly spaced; a single one comes from the middle."""
    count = min(count, len(indices))
    return indices[[(2 * i + 1) * len(indices) // (2 * count) for i in range(count)]]


def _figure(
    images: np.ndarray,
    reconstructions: np.ndarray,
    captions: list[str],
    deviations: dict[str, np.ndarray],
    ranking: str,
    places: Sequence[Places],
) -> Figure:
    """Draw input, reconstruction and difference, one column per image, its scores above, known places framed.

    Args:
        images, reconstructions: (N, H, W) in [0, 1].
        captions: N texts above the columns; they may be empty.
        deviations: {score: (N,)} in standard deviations of normal images.
        ranking: the score among them that ranks the images.
        places: N `Places`, which are framed in the images.
    """
    count = len(images)
    figure = Figure(figsize=(1.75 * count, 5.9))
    grid = figure.subplots(3, count, squeeze=False)
    figure.subplots_adjust(wspace=0.06, hspace=0.05)
    differences = np.abs(images - reconstructions)
    largest = max(float(np.quantile(differences, 0.995)), 1e-6)
    rows = [
        ("input", images, "gray", 1.0),
        ("reconstruction", reconstructions, "gray", 1.0),
        ("difference", differences, "inferno", largest),
    ]
    for row, (name, pictures, colors, top) in enumerate(rows):
        grid[row, 0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
        for column in range(count):
            shown = grid[row, column].imshow(pictures[column], vmin=0, vmax=top, cmap=colors, interpolation="nearest")
            grid[row, column].set(xticks=[], yticks=[])
    bar = figure.colorbar(shown, cax=grid[-1, -1].inset_axes((1.05, 0, 0.06, 1)), extend="max")
    bar.set_label("|input - reconstruction|,\ngray values 0 to 1", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    for column in range(count):
        # One line above the other, the names of the scores at the left: a table on top of the pictures.
        lines = [(name, f"{values[column]:+.1f}") for name, values in reversed(deviations.items())]
        for line, (name, text) in enumerate([*lines, ("", captions[column])]):
            style = {"fontsize": 8, "fontweight": "bold" if name == ranking else "normal", "va": "bottom"}
            place = {"xycoords": "axes fraction", "textcoords": "offset points"}
            grid[0, column].annotate(text, (0.5, 1), (0, 4 + 12 * line), ha="center", **place, **style)
            if name and column == 0:
                label = SCORES[name].label
                grid[0, 0].annotate(label, (0, 1), (-4, 4 + 12 * line), ha="right", **place, **style)
        frame_places(grid[0, column], places[column], images.shape[-1], width=1.6)
    notes = [
        "Numbers: standard deviations of a score above its mean over normal training images. Larger is more abnormal; "
        "the bold score ranks the images.",
        "The residual is the mean squared difference over the image; the worst patch's residual, over the patch where "
        "it is largest." + " Anomalous places are framed in red." * any(map(is_framed, places)),
    ]
    figure.text(0.125, 0.085, "\n".join(notes), fontsize=8, va="top")
    return figure
