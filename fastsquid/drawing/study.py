"""Figures of studies: dots per row, or AUC against a parameter. Several seeds give a mean and a bar of their range."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..config import SCORES
from .save import drawable, save_figure

LARGEST = 300_000  # bytes of a PNG

Line = dict[str, Any]  # a line of a study's CSV by its columns

NAMES = {
    "squid": "SQUID",
    "simsid": "SimSID",
    "fastsquid": "fastsquid",
    "memae": "MemAE",
    "auto-encoder": "auto-encoder",
    "cutpaste": "CutPaste",
    "anatpaste": "AnatPaste",
}
PARAMETERS = {
    "grid": "patches per side",
    "slots": "slots per region",
    "top_k": "active slots per query (top-k)",
    "shortcut": "probability of the in-painted feature",
}
TITLES = {
    "ablations": "Ablations",
    "sweep": "SQUID's hyper-parameters",
    "contamination": "Abnormal images among the training images",
    "baselines": "Baselines",
}


def draw_study(record: dict[str, Any], lines: list[Line], path: str | Path) -> None:
    """Draw the finished runs of a study.

    Args:
        record: `name`, `scale`, `data` (None is DigitAnatomy) and `seeds` of the study.
        lines: of its CSV, at least one.
        path: PNG to write.
    """
    draw = {"sweep": _sweep, "contamination": _contamination}.get(record["name"], _dots)
    figure = draw(lines)
    data = "DigitAnatomy" if record["data"] is None else drawable(Path(record["data"]).name)
    seeds = len({line["seed"] for line in lines})
    spread = f"; mean of {seeds} seeds, bars from lowest to highest" if seeds > 1 else ""
    figure.suptitle(
        f"{TITLES[record['name']]}\nAUC on the {lines[0]['split']} images of {data}, {record['scale']} scale{spread}",
        fontsize=11,
    )
    present = {line["score"] for line in lines}
    own = {line["score"] for line in lines if line["ranks"]}
    # If systems rank by different scores, no score of the legend is filled.
    handles = [_handle(score, own == {score}) for score in SCORES if score in present]
    handles.append(Line2D([], [], linestyle="", label="large and filled: the score that the system ranks by"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save_figure(figure, path, LARGEST)


def _dots(lines: list[Line]) -> Figure:
    """Draw one panel per system and one line per row; if each system has one row, one panel with a line per system."""
    order = list(dict.fromkeys((line["system"], line["row"]) for line in lines))
    systems = list(dict.fromkeys(system for system, _ in order))
    if len(systems) == len(order):
        panels = {"": order}
    else:
        panels = {NAMES[system]: [row for row in order if row[0] == system] for system in systems}
    heights = [len(rows) for rows in panels.values()]
    figure = Figure(figsize=(9, 1.9 + 0.42 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, rows) in zip(axes, panels.items()):
        for y, row in enumerate(rows):
            mine = [line for line in lines if (line["system"], line["row"]) == row]
            scores = _by_score(mine)
            # Offset within the row, because scores are often equal.
            for score, offset in zip(scores, np.linspace(-0.28, 0.28, len(scores))):
                mean, low, high = _mean_and_range(scores[score])
                style = _style(score, score == _own_score(mine))
                axis.errorbar(mean, y + offset, xerr=[[mean - low], [high - mean]], linestyle="", **style)
            if y % 2:
                axis.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
        axis.set_yticks(range(len(rows)), [row if title else NAMES[system] for system, row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(title, fontsize=10, loc="left")
        axis.axvline(0.5, color="gray", linewidth=0.8, linestyle=":")
        axis.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel("AUC (dotted: chance)")
    return figure


def _sweep(lines: list[Line]) -> Figure:
    """Draw one panel per parameter, with values at equal distances and the base's value shaded."""
    figure = Figure(figsize=(9.5, 7.4), layout="constrained")
    for axis, (parameter, label) in zip(figure.subplots(2, 2, sharey=True).flat, PARAMETERS.items()):
        curve = [line for line in lines if line["parameter"] == parameter]
        if not curve:  # no run of it has finished
            axis.remove()
            continue
        values = sorted({line["value"] for line in curve})
        base = {line["value"] for line in curve if line["row"] == "base"}
        for value in base:
            axis.axvspan(values.index(value) - 0.25, values.index(value) + 0.25, color="#eeeeee", linewidth=0, zorder=0)
        _draw_curves(axis, curve, values)
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axis.set_xlim(-0.5, len(values) - 0.5)
        axis.set_xlabel(label + " (shaded: the base)")
    return figure


def _contamination(lines: list[Line]) -> Figure:
    """Draw one panel per system, from all training images normal on the left to fewer on the right."""
    systems = list(dict.fromkeys(line["system"] for line in lines))
    values = sorted({line["value"] for line in lines})
    figure = Figure(figsize=(4.75 * max(2, len(systems)), 4.8), layout="constrained")
    for axis, system in zip(figure.subplots(1, len(systems), sharey=True, squeeze=False)[0], systems):
        _draw_curves(axis, [line for line in lines if line["system"] == system], values)
        axis.set_xticks(range(len(values)), [f"{100 * (1 - value):.0f}" for value in values])
        axis.set_xlabel("normal training images, %")
        axis.set_title(NAMES[system], fontsize=10)
    return figure


def _draw_curves(axis: Axes, lines: list[Line], values: list[Any]) -> None:
    """Draw the AUC of every score of one system against the position of the parameter's value in `values`."""
    for score in _by_score(lines):
        points: dict[int, list[float]] = {}
        for line in lines:
            if line["score"] == score:
                points.setdefault(values.index(line["value"]), []).append(line["auc"])
        places = sorted(points)
        mean, low, high = np.transpose([_mean_and_range(points[place]) for place in places])
        own = score == _own_score(lines)
        bars = np.stack([mean - low, high - mean])
        axis.errorbar(places, mean, yerr=bars, linewidth=2.2 if own else 1.1, **_style(score, own))
    axis.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
    place = axis.get_subplotspec()
    if place is not None and place.is_first_col():
        axis.set_ylabel("AUC (dotted: chance)")
    axis.grid(alpha=0.3)


def _by_score(lines: list[Line]) -> dict[str, list[float]]:
    """Return {score: its AUCs}, in the order of the legend."""
    present = [score for score in SCORES if any(line["score"] == score for line in lines)]
    return {score: [line["auc"] for line in lines if line["score"] == score] for score in present}


def _mean_and_range(aucs: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean, the lowest and the highest AUC."""
    return float(np.mean(aucs)), min(aucs), max(aucs)


def _own_score(lines: list[Line]) -> str:
    """Return the score that the system of these lines ranks by. No row changes it."""
    return next(line["score"] for line in lines if line["ranks"])


def _style(score: str, own: bool) -> dict[str, Any]:
    """Return a score's style. The score that the configuration ranks by is filled, larger, and above the others."""
    return {
        "color": SCORES[score].color,
        "marker": "o",
        "markersize": 8 if own else 5.5,
        "markerfacecolor": SCORES[score].color if own else "white",
        "elinewidth": 1.2,
        "zorder": 3 if own else 2,
    }


def _handle(score: str, own: bool) -> Line2D:
    """Return a score's entry of the legend."""
    style = {key: value for key, value in _style(score, own).items() if key not in ("elinewidth", "zorder")}
    return Line2D([], [], linestyle="", label=SCORES[score].label, **style)
