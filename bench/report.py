"""Draws what `pytest bench/ --benchmark` measured, from the CSV of one device.

    python bench/report.py runs/bench/DEVICE-0.csv

Beside the CSV, under its name: `-table.md`, every case's variants with the ratio to the published order of work;
`-sweeps.png`, time against each size with the exponent fitted to it; `-roofline.png`, reached rate against operations
per byte, under the limits measured in the same run. A picture without data is not drawn.
"""

import csv
import re
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from fastsquid.errors import UserError  # noqa: E402
from fastsquid.utils.cli import Parser, run_command  # noqa: E402
from fastsquid.utils.files import replacing  # noqa: E402

ORDER = "published torch torch-bf16 compile triton"
SIZES = {"memory read": ["B", "R", "N", "C"], "neighbor attention": ["B", "grid", "D"]}
BASE = {"memory read": dict(B=16, R=16, N=100, C=512), "neighbor attention": dict(B=16, grid=4, D=64)}


def main(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, metavar="CSV")
    path = parser.parse_args(arguments).results
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: measure with pytest bench/ --benchmark") from None
    if not rows or "p50_ms" not in rows[0]:
        raise UserError(f"{path} holds no benchmark rows: measure with pytest bench/ --benchmark")
    with replacing(path.with_name(f"{path.stem}-table.md")) as file:
        file.write(table(rows))
    for name, draw in (("sweeps", sweeps), ("roofline", roofline)):
        figure = draw(rows)
        if figure is not None:
            with replacing(path.with_name(f"{path.stem}-{name}.png"), "wb") as file:
                figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
            plt.close(figure)


def table(rows):
    """Markdown: one line per case and mode; milliseconds (median) of each variant, and published / variant."""
    first = rows[0]
    variants = sorted({row["variant"] for row in rows}, key=lambda name: (name not in ORDER, ORDER.find(name), name))
    lines = [
        f"# {first['device']}",
        "",
        "Written by `python bench/report.py` from the CSV of the same name: median milliseconds, in brackets how many "
        "times faster than the published order of work, which is float32 for models. Without a measurement there is "
        "no figure.",
        "",
        f"PyTorch {first['torch']}, Python {first['python']}, {first['threads']} threads; "
        f"commits {', '.join(sorted({row['commit'] for row in rows}))}; {max(row['date'] for row in rows)}.",
        "",
        "| what | case | mode | dtype | " + " | ".join(variants) + " |",
        "| --- | --- | --- | --- |" + " ---: |" * len(variants),
    ]
    cases = defaultdict(dict)
    for row in rows:
        cases[row["group"], row["case"], row["mode"], row["dtype"]][row["variant"]] = float(row["p50_ms"])
    for key, times in sorted(cases.items()):
        in_float32 = cases.get((key[0].removesuffix(" bfloat16"), *key[1:3], "float32"), {})
        published, cells = times.get("published", in_float32.get("published")), []
        for variant in variants:
            cell = f"{times[variant]:.4g}" if variant in times else ""
            if cell and published and variant != "published":
                cell += f" ({published / times[variant]:.2f}x)"
            cells.append(cell)
        lines.append("| " + " | ".join([*key, *cells]) + " |")
    return "\n".join(lines) + "\n"


def sizes(row):
    """The case's sizes by name, or None for a case that is not of a sweep."""
    numbers = {name: int(value) for name, value in re.findall(r"([BRNCD])(\d+)", row["case"])}
    grid = re.search(r"-(\d+)x(\d+)-", row["case"])
    if grid and grid[1] == grid[2]:
        numbers["grid"] = int(grid[1])
    return numbers


def sweeps(rows):
    """Time against each size, the others held; one axis a size, one line a variant."""
    panels = []
    for group, names in SIZES.items():
        mine = [row for row in rows if row["group"] == group and row["mode"] == "both" and row["dtype"] == "float32"]
        for name in names:
            rest = {other: value for other, value in BASE[group].items() if other != name}
            lines = defaultdict(list)
            for row in mine:
                numbers = sizes(row)
                if name in numbers and rest.items() <= numbers.items():
                    lines[row["variant"]].append((numbers[name], float(row["p50_ms"])))
            lines = {variant: sorted(points) for variant, points in lines.items() if len(points) >= 3}
            if lines:
                panels.append((group, name, lines))
    if not panels:
        return None
    columns = min(4, len(panels))
    figure, axes = plt.subplots(
        -(-len(panels) // columns), columns, squeeze=False, figsize=(4.2 * columns, 3.6 * -(-len(panels) // columns))
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (group, name, lines) in zip(axes.flat, panels):
        for variant, points in lines.items():
            x, y = np.array(points).T
            exponent = np.polyfit(np.log(x), np.log(y), 1)[0]
            axis.loglog(x, y, marker="o", markersize=3, label=f"{variant}: {name}^{exponent:.2f}")
        axis.set(title=f"{group}, forward and backward", xlabel=name, ylabel="ms")
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def roofline(rows):
    """Operations per second against operations per byte, and the limits of the machine."""
    points = [
        row for row in rows if row["gflop_per_s"] and float(row["gflop_per_s"]) > 0 and row["group"] == "memory read"
    ]
    if not points:
        return None
    figure, axis = plt.subplots(figsize=(7, 4.5))
    copy = float(points[0]["copy_gb_per_s"])
    intensity = np.geomspace(0.5, 500, 200)
    for dtype in sorted({row["dtype"] for row in points}):
        rate, label = float(next(row for row in points if row["dtype"] == dtype)["matrix_gflop_per_s"]), dtype
        if dtype == "float32" and "threads" not in points[0]["device"]:  # a GPU's rate is that of tf32
            rate, label = rate / 3, "float32 (three tf32 products)"
        axis.loglog(intensity, np.minimum(intensity * copy, rate), color="black", linewidth=1)
        axis.annotate(f"matrix rate, {label}", (500, rate), ha="right", va="bottom", fontsize=7)
    for variant in dict.fromkeys(row["variant"] for row in points):
        mine = [row for row in points if row["variant"] == variant]
        rate = np.array([float(row["gflop_per_s"]) for row in mine])
        density = rate / np.array([float(row["gb_per_s"]) for row in mine])
        axis.loglog(density, rate, "o", markersize=4, alpha=0.7, label=variant)
    axis.set(xlabel="operations per byte", ylabel="GFLOP/s", title=f"Memory read on {points[0]['device']}")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    run_command(main)
