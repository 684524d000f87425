"""Figures of studies: dots a row, or AUC against a parameter; of several seeds the mean, from lowest to highest."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..config import SCORES
from .png import save_figure

LARGEST = 300_000  # bytes of a PNG
NAMES = {
    "squid": "SQUID",
    "simsid": "SimSID",
    "fastsquid": "fastsquid",
    "memae": "MemAE",
    "auto-encoder": "auto-encoder",
}
PARAMETERS = {
    "grid": "patches a side",
    "slots": "slots a region",
    "top_k": "active slots a query (top-k)",
    "shortcut": "probability of the in-painted feature",
}
TITLES = {
    "ablations": "Ablations",
    "sweep": "SQUID's hyper-parameters",
    "contamination": "Abnormal images among the training images",
    "baselines": "Baselines",
}


def draw_study(record, lines, path):
    """Draws a study as far as it has got.

    Args:
        record: dict of the study's `name`, `scale`, `data` (None is DigitAnatomy) and `seeds`.
        lines: dicts by the columns of its CSV, at least one.
        path: PNG to write.
    """
    draw = {"sweep": _sweep, "contamination": _contamination}.get(record["name"], _dots)
    figure = draw(lines)
    data = "DigitAnatomy" if record["data"] is None else Path(record["data"]).name
    seeds = len({line["seed"] for line in lines})
    spread = f"; mean of {seeds} seeds, bars from lowest to highest" if seeds > 1 else ""
    figure.suptitle(
        f"{TITLES[record['name']]}\nAUC on the {lines[0]['split']} images of {data}, {record['scale']} scale{spread}",
        fontsize=11,
    )
    present = {line["score"] for line in lines}
    own = {line["score"] for line in lines if line["ranks"]}
    # Of systems that differ in it, the legend leaves open which score is whose.
    handles = [_handle(score, own == {score}) for score in SCORES if score in present]
    handles.append(Line2D([], [], linestyle="", label="large and filled: the score that the system ranks by"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    save_figure(figure, path, LARGEST)


def _dots(lines):
    """A panel a system and a line a row, or, where each system has but one, a panel with a line a system."""
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
            # One above the other within the row, since scores are often the same.
            for score, offset in zip(scores, np.linspace(-0.28, 0.28, len(scores))):
                mean, low, high = _spread(scores[score])
                style = _style(score, score == _own_score(mine))
                axis.errorbar(mean, y + offset, xerr=[[mean - low], [high - mean]], linestyle="", **style)
            if y % 2:
                axis.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", linewidth=0, zorder=0)
        axis.set_yticks(range(len(rows)), [row if title else NAMES[system] for system, row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(title, fontsize=10, loc="left")
        axis.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axis.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel("AUC (dotted: chance)")
    return figure


def _sweep(lines):
    """A panel a parameter; values at equal distances, the base's one shaded."""
    figure = Figure(figsize=(9.5, 7.4), layout="constrained")
    for axis, (parameter, label) in zip(figure.subplots(2, 2, sharey=True).flat, PARAMETERS.items()):
        curve = [line for line in lines if line["parameter"] == parameter]
        if not curve:  # as yet
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


def _contamination(lines):
    """A panel a system; from all training images normal on the left to fewer on the right."""
    systems = list(dict.fromkeys(line["system"] for line in lines))
    values = sorted({line["value"] for line in lines})
    figure = Figure(figsize=(4.75 * max(2, len(systems)), 4.8), layout="constrained")
    for axis, system in zip(figure.subplots(1, len(systems), sharey=True, squeeze=False)[0], systems):
        _draw_curves(axis, [line for line in lines if line["system"] == system], values)
        axis.set_xticks(range(len(values)), [f"{100 * (1 - value):.0f}" for value in values])
        axis.set_xlabel("normal training images, %")
        axis.set_title(NAMES[system], fontsize=10)
    return figure


def _draw_curves(axis, lines, values):
    """AUC of every score of one system against the place of its value among `values`."""
    for score in _by_score(lines):
        points = {}
        for line in lines:
            if line["score"] == score:
                points.setdefault(values.index(line["value"]), []).append(line["auc"])
        places = sorted(points)
        mean, low, high = np.transpose([_spread(points[place]) for place in places])
        own = score == _own_score(lines)
        bars = np.stack([mean - low, high - mean])
        axis.errorbar(places, mean, yerr=bars, linewidth=2.2 if own else 1.1, **_style(score, own))
    axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    if axis.get_subplotspec().is_first_col():
        axis.set_ylabel("AUC (dotted: chance)")
    axis.grid(alpha=0.3)


def _by_score(lines):
    """{score: its AUCs}, in the order of the legend."""
    present = [score for score in SCORES if any(line["score"] == score for line in lines)]
    return {score: [line["auc"] for line in lines if line["score"] == score] for score in present}


def _spread(aucs):
    return float(np.mean(aucs)), min(aucs), max(aucs)


def _own_score(lines):
    """The score that the system of these lines ranks by; no row changes it."""
    return next(line["score"] for line in lines if line["ranks"])


def _style(score, own):
    """The score of the configuration is filled, larger, and above the others."""
    return {
        "color": SCORES[score].color,
        "marker": "o",
        "markersize": 8 if own else 5.5,
        "markerfacecolor": SCORES[score].color if own else "white",
        "elinewidth": 1.2,
        "zorder": 3 if own else 2,
    }


def _handle(score, own):
    style = {key: value for key, value in _style(score, own).items() if key not in ("elinewidth", "zorder")}
    return Line2D([], [], linestyle="", label=SCORES[score].label, **style)
