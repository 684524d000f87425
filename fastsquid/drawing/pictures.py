"""Pictures of what a detector does, arrays in and matplotlib figures out: reconstructions, heat maps, its memory."""

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

_DEAD = "#d9d9d9"
# Okabe and Ito's colours without black, told apart in the common forms of colour blindness.
_REGIONS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442")
MAPS = {
    "residual": "residual",
    "memory_distance": "memory distance",
    "discriminator": "D (drawn)",
    "discriminator_image": "D (image)",
    "combined": "D (both)",
    "grad_cam": "Grad-CAM",
}
_MOST = 5  # standard deviations that a map's colours reach


def reconstruction_figure(images, student, teacher, captions, where=""):
    """Images, what teacher and student draw for them, and the difference |input - student| (SQUID Figure 8).

    Args:
        images, student, teacher: (N, H, W) in [0, 1]; teacher None leaves its column out.
        captions: N texts beside the rows.
        where: what the images are, for the title.

    Returns:
        a matplotlib figure.
    """
    difference = np.abs(images - student)
    largest = max(float(np.quantile(difference, 0.995)), 1e-6)
    grey, inferno = ("gray", Normalize(0, 1)), ("inferno", Normalize(0, largest))
    columns = [
        ("input", [(images, *grey, None)]),
        *([] if teacher is None else [("teacher", [(teacher, *grey, None)])]),
        ("student", [(student, *grey, None)]),
        ("difference", [(difference, *inferno, None)]),
    ]
    return _picture_table(
        "Reconstructions", columns, captions, where, (*inferno, "|input - student|, grey values 0 to 1")
    )


def heat_figure(images, student, heat, judged, captions, where=""):
    """Images, their reconstructions, and the discriminator's heat map over the images (SimSID Figure 7).

    Args:
        images, student: (N, H, W) in [0, 1].
        heat: (N, H, W) in [0, 1], as `gradcam.grad_cam` gives it.
        judged: what the discriminator was shown, "reconstruction" or "image".
        captions, where: as `reconstruction_figure`.

    Returns:
        a matplotlib figure.
    """
    grey, inferno = ("gray", Normalize(0, 1)), ("inferno", Normalize(0, 1))
    columns = [
        ("input", [(images, *grey, None)]),
        ("student", [(student, *grey, None)]),
        ("Grad-CAM", [(images, *grey, None), (heat, *inferno, 0.7 * heat)]),  # what is cold stays an X-ray
    ]
    title = f"Grad-CAM of the discriminator on the {judged}: where it sees what raises the score"
    return _picture_table(
        title,
        columns,
        captions,
        where,
        (*inferno, "share of the image's largest value (no colour: nothing raises the score)"),
    )


def map_figure(images, student, maps, captions, cells=None, where=""):
    """Images, their reconstructions, and over the images each map of what is abnormal, all maps on one scale.

    Args:
        images, student: (N, H, W) in [0, 1].
        maps: {name: (N, H, W)} in standard deviations, as `maps.anomaly_maps` gives them.
        captions, where: as `reconstruction_figure`.
        cells: bool (N, G * G), the cells of a G x G grid to frame as anomalous, row by row; or None.

    Returns:
        a matplotlib figure.
    """
    grey, inferno = ("gray", Normalize(0, 1)), ("inferno", Normalize(0, _MOST))
    columns = [
        ("input", [(images, *grey, None)]),
        ("reconstruction", [(student, *grey, None)]),
    ]
    for name, values in maps.items():
        values = values.clip(0, _MOST)
        columns.append((MAPS[name], [(images, *grey, None), (values, *inferno, 0.7 * values / _MOST)]))
    title = "Where images are abnormal" + ("" if cells is None else " (anomalous cells framed)")
    bar = (*inferno, "standard deviations above normal (no colour: none)")
    return _picture_table(title, columns, captions, where, bar, cells)


def tsne_figure(points, regions, slots, grid, where=""):
    """Memory slots and patch features in the plane, coloured by region (SQUID Figure 4).

    Args:
        points: (N, 2).
        regions: (N,), each point's region, counted row by row from 0; one region for all where the memory is global.
        slots: bool (N,), slots and not features.
        grid: patches a side.
        where: what the features are of, for the title.

    Returns:
        a matplotlib figure.
    """
    count = int(regions.max()) + 1
    colors = _region_colors(count)
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    axis = figure.subplots()
    features = {"marker": "o", "s": 14, "alpha": 0.6, "linewidths": 0}
    remembered = {"marker": "^", "s": 26, "alpha": 0.9, "linewidths": 0.4, "edgecolors": "black"}
    for chosen, style in ((~slots, features), (slots, remembered)):
        axis.scatter(*points[chosen].T, c=colors[regions[chosen]], **style)
    axis.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
    key = {"linestyle": "", "markerfacecolor": "#999999"}
    axis.legend(
        handles=[
            Line2D([], [], marker="o", markeredgewidth=0, label=f"patch feature ({(~slots).sum()})", **key),
            Line2D([], [], marker="^", markeredgecolor="black", label=f"memory slot ({slots.sum()})", **key),
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


def slot_figure(share, usage, where=""):
    """How often each slot of the memory is activated, by region, most active first.

    Args:
        share: (R, N), the share of queries that activate each (filled) slot, in [0, 1].
        usage: `dead` and `entropy`, (R,) each, as `SpaceAwareMemory.usage` gives them.
        where: what the queries are of, for the title.

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
    if regions <= 36:  # else there is no room for a line a region
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


def _picture_table(title, columns, captions, where, bar, cells=None):
    """Two blocks side by side, a row an image and a column a kind of picture; and a colour bar below.

    Args:
        columns: [(heading, layers)], a layer (pictures (N, H, W), colour map, norm, alpha (N, H, W) or None).
        bar: colour map, norm and label of the colour bar.
        cells: bool (N, G * G), the cells of a G x G grid to frame in each of a row's pictures; or None.
    """
    count = len(captions)
    rows, blocks = (-(-count // 2), 2) if count > 1 else (1, 1)
    width, side, margin = len(columns), 1.05, 1.15  # inches of a picture, and of the captions
    figure = Figure(figsize=(blocks * (width * side + margin), rows * side + 1.3))
    across, down = figure.get_size_inches()
    for i in range(count):
        block, row = divmod(i, rows)
        for column, (heading, layers) in enumerate(columns):
            left = block * (width * side + margin) + margin + column * side
            bottom = down - 0.75 - (row + 1) * side
            axis = figure.add_axes((left / across, bottom / down, 0.96 * side / across, 0.96 * side / down))
            axis.set(xticks=[], yticks=[])
            for pictures, colors, norm, alpha in layers:
                shown = None if alpha is None else alpha[i]
                axis.imshow(pictures[i], cmap=colors, norm=norm, alpha=shown, interpolation="nearest")
            if cells is not None:
                _frame(axis, cells[i], layers[0][0].shape[-1])
            if row == 0:
                axis.set_title(heading, fontsize=9)
            if column == 0:
                axis.set_ylabel(captions[i], fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
    colors, norm, label = bar
    axis = figure.add_axes((0.3, 0.38 / down, 0.4, 0.1 / down))
    figure.colorbar(ScalarMappable(norm, colors), cax=axis, orientation="horizontal")
    axis.tick_params(labelsize=8)
    axis.set_xlabel(label, fontsize=8)
    figure.suptitle("\n".join(filter(None, [title, where])), fontsize=11, y=1 - 0.05 / down, va="top")
    return figure


def _frame(axis, cells, size):
    """Frames the cells (G * G,) of a G x G grid over a picture of so many pixels a side."""
    side = round(len(cells) ** 0.5)
    cell = size / side
    for index in np.flatnonzero(cells):
        corner = (index % side * cell - 0.5, index // side * cell - 0.5)
        axis.add_patch(Rectangle(corner, cell, cell, fill=False, edgecolor="#e3342f", linewidth=1.2))


def _region_colors(count):
    """(count, 4): a palette of distinct colours where it is long enough, else a map that is even to every eye."""
    if count <= len(_REGIONS):
        return np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1] for color in _REGIONS[:count]])
    return colormaps["viridis"](np.linspace(0, 1, count))


def _draw_region_key(axis, colors, grid):
    """The image's grid of patches, each in its region's colour and with its number."""
    axis.imshow(colors.reshape(grid, grid, 4))
    axis.set(xticks=[], yticks=[])
    axis.set_title("region = patch of the image", fontsize=9)
    if grid > 8:  # the numbers would cover each other
        return
    for region, color in enumerate(colors):
        ink = "black" if color[:3] @ (0.299, 0.587, 0.114) > 0.5 else "white"
        axis.text(region % grid, region // grid, str(region), ha="center", va="center", color=ink, fontsize=9)
