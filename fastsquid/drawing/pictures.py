"""Figures of reconstructions, heat maps and the memory. They take arrays and return matplotlib figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..data.places import Places

_DEAD = "#d9d9d9"
_FRAME = "#e3342f"
# Okabe and Ito's colors without black, distinct in the common forms of color blindness.
_REGIONS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442")
MAPS = {
    "residual": "residual",
    "memory_distance": "memory distance",
    "discriminator": "discriminator\non reconstruction",
    "discriminator_image": "discriminator\non image",
    "combined": "discriminator\non both",
    "grad_cam": "Grad-CAM",
}
_MOST = 5  # standard deviations at the end of a map's color scale


class _Layer(NamedTuple):
    """One array of pictures, (N, H, W), and how it is drawn."""

    pictures: np.ndarray
    colors: str  # name of the color map
    norm: Normalize
    alpha: np.ndarray | None = None  # (N, H, W) in [0, 1]


_Column = tuple[str, list[_Layer]]  # heading and layers, the first one below


class _Bar(NamedTuple):
    """The color bar below a figure."""

    colors: str
    norm: Normalize
    label: str


def reconstruction_figure(
    images: np.ndarray, student: np.ndarray, teacher: np.ndarray | None, captions: Sequence[str], where: str = ""
) -> Figure:
    """Draw images, the reconstructions of teacher and student, and |input - student| (SQUID Figure 8).

    Args:
        images, student, teacher: (N, H, W) in [0, 1]; None for teacher leaves its column out.
        captions: N texts beside the rows.
        where: run and images, for the title.

    Returns:
        a matplotlib figure.
    """
    difference = np.abs(images - student)
    largest = max(float(np.quantile(difference, 0.995)), 1e-6)
    gray, inferno = ("gray", Normalize(0, 1)), ("inferno", Normalize(0, largest))
    columns = [
        ("input", [_Layer(images, *gray)]),
        *([] if teacher is None else [("teacher", [_Layer(teacher, *gray)])]),
        ("student", [_Layer(student, *gray)]),
        ("difference", [_Layer(difference, *inferno)]),
    ]
    return _picture_table(
        "Reconstructions", columns, captions, where, _Bar(*inferno, "|input - student|, gray values 0 to 1")
    )


def heat_figure(
    images: np.ndarray, student: np.ndarray, heat: np.ndarray, judged: str, captions: Sequence[str], where: str = ""
) -> Figure:
    """Draw images, their reconstructions, and the discriminator's heat map over the images (SimSID Figure 7).

    Args:
        images, student: (N, H, W) in [0, 1].
        heat: (N, H, W) in [0, 1], as `gradcam.grad_cam` returns it.
        judged: the input of the discriminator, "reconstruction" or "image".
        captions, where: as for `reconstruction_figure`.

    Returns:
        a matplotlib figure.
    """
    gray, inferno = ("gray", Normalize(0, 1)), ("inferno", Normalize(0, 1))
    columns = [
        ("input", [_Layer(images, *gray)]),
        ("student", [_Layer(student, *gray)]),
        # Where the map is low, the X-ray shows.
        ("Grad-CAM", [_Layer(images, *gray), _Layer(heat, *inferno, 0.7 * heat)]),
    ]
    title = f"Grad-CAM of the discriminator on the {judged}: where it sees what raises the score"
    return _picture_table(
        title,
        columns,
        captions,
        where,
        _Bar(*inferno, "share of the image's largest value (no color: nothing raises the score)"),
    )


def map_figure(
    images: np.ndarray,
    student: np.ndarray,
    maps: Mapping[str, np.ndarray],
    captions: Sequence[str],
    places: Sequence[Places] = (),
    where: str = "",
) -> Figure:
    """Draw images, their reconstructions, and each heat map over the images, with all maps on one scale.

    Args:
        images, student: (N, H, W) in [0, 1].
        maps: {name: (N, H, W)} in standard deviations, as `maps.anomaly_maps` returns them.
        captions, where: as for `reconstruction_figure`.
        places: what to frame as anomalous in each image; or none at all.

    Returns:
        a matplotlib figure.
    """
    gray, inferno = ("gray", Normalize(0, 1)), ("inferno", Normalize(0, _MOST))
    columns: list[_Column] = [
        ("input", [_Layer(images, *gray)]),
        ("reconstruction", [_Layer(student, *gray)]),
    ]
    for name, values in maps.items():
        values = values.clip(0, _MOST)
        columns.append((MAPS[name], [_Layer(images, *gray), _Layer(values, *inferno, 0.7 * values / _MOST)]))
    title = "Where images are abnormal" + " (anomalous places framed)" * any(map(is_framed, places))
    bar = _Bar(*inferno, "standard deviations above normal (no color: none)")
    return _picture_table(title, columns, captions, where, bar, places)


def tsne_figure(points: np.ndarray, regions: np.ndarray, slots: np.ndarray, grid: int, where: str = "") -> Figure:
    """Draw memory slots and patch features in the plane, colored by region (SQUID Figure 4).

    Args:
        points: (N, 2).
        regions: (N,), each point's region, counted row by row from 0; one region for all where the memory is global.
        slots: bool (N,), true for slots, false for features.
        grid: patches per side.
        where: run and images of the features, for the title.

    Returns:
        a matplotlib figure.
    """
    count = int(regions.max()) + 1
    colors = _region_colors(count)
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    axis = figure.subplots()
    for chosen, marker, size, alpha, width, edge in (
        (~slots, "o", 14, 0.6, 0, "face"),
        (slots, "^", 26, 0.9, 0.4, "black"),
    ):
        x, y = points[chosen].T
        color = colors[regions[chosen]]
        axis.scatter(x, y, c=color, marker=marker, s=size, alpha=alpha, linewidths=width, edgecolors=edge)
    axis.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
    key: dict[str, Any] = {"linestyle": "", "markerfacecolor": "#999999"}
    axis.legend(
        handles=[
            Line2D([], [], **key, marker="o", markeredgewidth=0, label=f"patch feature ({(~slots).sum()})"),
            Line2D([], [], **key, marker="^", markeredgecolor="black", label=f"memory slot ({slots.sum()})"),
        ],
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
    )
    if count > 1:
        _draw_region_key(axis.inset_axes((1.06, 0.36, 0.28, 0.36)), colors, grid)
    title = "Slots of the in-painting memory and patch features, t-SNE"
    axis.set_title("\n".join(filter(None, [title, where])), fontsize=11)
    return figure


def slot_figure(share: np.ndarray, usage: Mapping[str, np.ndarray], where: str = "") -> Figure:
    """Draw how often each slot of the memory is activated, by region, most active first.

    Args:
        share: (R, N), the share of queries that activate each (filled) slot, in [0, 1].
        usage: `dead` and `entropy`, (R,) each, as `SpaceAwareMemory.usage` returns them.
        where: run and images of the queries, for the title.

    Returns:
        a matplotlib figure.
    """
    regions, slots = share.shape
    ranked = np.sort(share, axis=1)[:, ::-1]
    smallest = min(ranked[ranked > 0].min(initial=1), 0.5)
    norm = LogNorm(smallest, 1)
    colors = colormaps["viridis"].with_extremes(bad=_DEAD)
    figure = Figure(figsize=(9, 2 + 0.28 * min(max(regions, 8), 36)), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(
        np.ma.masked_equal(ranked, 0), cmap=colors, norm=norm, aspect="auto", interpolation="nearest", rasterized=True
    )
    axis.set(xlabel="slots of the region, most active first", ylabel="region (patches row by row from 0)")
    figure.colorbar(drawn, label="share of queries that activate the slot", extend="neither", pad=0.02)
    axis.plot([], [], "s", color=_DEAD, label="dead: no query activates it")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.6 / figure.get_figheight()), frameon=False)
    if regions <= 36:  # else a line per region does not fit
        axis.set_yticks(range(regions))
        numbers = axis.secondary_yaxis("right")
        numbers.set_yticks(
            range(regions), [f"{d} dead, {e:.1f} nats" for d, e in zip(usage["dead"], usage["entropy"])], fontsize=8
        )
        numbers.tick_params(length=0)
    summary = (
        f"{int(np.sum(usage['dead']))} of {regions * slots} slots dead; mean entropy of the reads "
        f"{np.mean(usage['entropy']):.2f} nats (evenly used: {np.log(slots):.2f})"
    )
    axis.set_title("\n".join(filter(None, ["Use of the in-painting memory", where, summary])), fontsize=11)
    return figure


def _picture_table(
    title: str,
    columns: Sequence[_Column],
    captions: Sequence[str],
    where: str,
    bar: _Bar,
    places: Sequence[Places] = (),
) -> Figure:
    """Draw two blocks side by side, with one row per image and one column per kind of picture, and a color bar below.

    Args:
        title: first line of the figure's title.
        columns: heading and layers of each column.
        captions: N texts beside the rows.
        where: second line of the title.
        bar: the color bar.
        places: what to frame in each picture of a row; or none at all.
    """
    count = len(captions)
    rows, blocks = (-(-count // 2), 2) if count > 1 else (1, 1)
    width, side, margin = len(columns), 1.05, 1.15  # in inches: side of a picture, width of the captions
    figure = Figure(figsize=(blocks * (width * side + margin), rows * side + 1.45))
    across, down = figure.get_size_inches()
    for i in range(count):
        block, row = divmod(i, rows)
        for column, (heading, layers) in enumerate(columns):
            left = block * (width * side + margin) + margin + column * side
            bottom = down - 0.9 - (row + 1) * side
            axis = figure.add_axes((left / across, bottom / down, 0.96 * side / across, 0.96 * side / down))
            axis.set(xticks=[], yticks=[])
            for pictures, colors, norm, alpha in layers:
                shown = None if alpha is None else alpha[i]
                axis.imshow(pictures[i], cmap=colors, norm=norm, alpha=shown, interpolation="nearest")
            if places:
                frame_places(axis, places[i], layers[0][0].shape[-1], width=1.2)
            if row == 0:
                axis.set_title(heading, fontsize=8)
            if column == 0:
                axis.set_ylabel(captions[i], fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
    colors, norm, label = bar
    axis = figure.add_axes((0.3, 0.38 / down, 0.4, 0.1 / down))
    figure.colorbar(ScalarMappable(norm, colors), cax=axis, orientation="horizontal")
    axis.tick_params(labelsize=8)
    axis.set_xlabel(label, fontsize=8)
    figure.suptitle("\n".join(filter(None, [title, where])), fontsize=11, y=1 - 0.05 / down, va="top")
    return figure


def is_framed(places: Places) -> bool:
    """Return whether there is anything to frame."""
    return bool(places.boxes) or (places.drawn is not None and bool(places.drawn.any()))


def frame_places(axis: Axes, places: Places, size: int, width: float) -> None:
    """Frame places over a picture of `size` pixels per side. Lines have `width` points."""
    for box in places.boxes:
        corner = (box.left * size - 0.5, box.top * size - 0.5)
        across, down = (box.right - box.left) * size, (box.bottom - box.top) * size
        axis.add_patch(Rectangle(corner, across, down, fill=False, edgecolor=_FRAME, linewidth=width))
    if places.drawn is not None and places.drawn.any():
        # The outline of pixels: with a border, so that it closes at the picture's edge.
        inside = np.pad(places.drawn, 1).astype(float)
        line = np.arange(-1, size + 1)
        axis.contour(line, line, inside, [0.5], colors=_FRAME, linewidths=width)
        axis.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))


def _region_colors(count: int) -> np.ndarray:
    """Return colors of regions, (count, 4): a palette of distinct ones if it has enough, else a uniform color map."""
    if count <= len(_REGIONS):
        return np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1] for color in _REGIONS[:count]])
    return colormaps["viridis"](np.linspace(0, 1, count))


def _draw_region_key(axis: Axes, colors: np.ndarray, grid: int) -> None:
    """Draw the image's grid of patches, each in its region's color and with its number."""
    axis.imshow(colors.reshape(grid, grid, 4))
    axis.set(xticks=[], yticks=[])
    axis.set_title("region = patch of the image", fontsize=9)
    if grid > 8:  # the numbers would cover each other
        return
    for region, color in enumerate(colors):
        ink = "black" if color[:3] @ (0.299, 0.587, 0.114) > 0.5 else "white"
        axis.text(region % grid, region // grid, str(region), ha="center", va="center", color=ink, fontsize=9)
