"""`python bench/growth.py CSV`: how time and memory of training and scoring grow with each size.

A point is a process of its own, so that its peak memory is its own: two training steps of the base configuration with
one size changed, or `score --fast` of a folder with so many image files. Beside the CSV, under its name, `.png` shows
both with the exponent fitted to the upper half of the points. A point that is in the CSV is not measured again.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter  # noqa: E402
from rows import about  # noqa: E402

from fastsquid.utils.cli import Parser, run_command  # noqa: E402
from fastsquid.utils.devices import peak_memory_mb  # noqa: E402
from fastsquid.utils.files import replacing  # noqa: E402

BASE = dict(batch_size=8, image_size=128, width=16, slots=100, grid=4)
SIZES = {
    "batch_size": (2, 4, 8, 16, 32),
    "image_size": (64, 128, 192, 256, 320),
    "slots": (50, 100, 200, 400, 800, 1600, 3200),
    "grid": (1, 2, 4, 8),
    "images": (1000, 10000, 100000),
}
SHOWN = {"batch_size": "images per batch", "image_size": "side of an image, pixels", "slots": "slots per region"}
SHOWN |= {"grid": "patches per side", "images": "image files scored"}


def train(size, value):
    """Seconds of two training steps, as many as generator and discriminator take in turn, and MiB beyond the start."""
    import torch

    from fastsquid.config import preset
    from fastsquid.model.detector import Detector
    from fastsquid.training.trainer import Trainer
    from fastsquid.utils.allocator import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    config = preset("simsid", **{**BASE, size: value})
    before = peak_memory_mb()
    trainer = Trainer(Detector(config).train())
    images = torch.rand(config.batch_size, 1, config.image_size, config.image_size)
    seconds = []
    for _ in range(4):  # the first one settles memory
        start = time.perf_counter()
        for iteration in range(config.generator_every):
            trainer.step(images, iteration)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:]), peak_memory_mb() - before


def score(count):
    """Seconds of `score --fast` of so many files in this process, and its peak memory in MiB."""
    from PIL import Image

    from fastsquid.score import main as score_files
    from fastsquid.utils.allocator import keep_freed_memory

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        call = ["-m", "fastsquid.train", "--preset", "fastsquid-digits", "--epochs", "1", "--device", "cpu"]
        subprocess.run([sys.executable, *call, "--out", folder / "run"], check=True, capture_output=True)
        (folder / "images").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
        for number in range(count):
            source = folder / f"{number // 10000}.png"  # a file may have some 65,000 links
            if not source.exists():
                Image.fromarray(pixels).save(source)
            (folder / "images" / f"{number}.png").hardlink_to(source)
        start = time.perf_counter()
        score_files([str(folder / "run"), str(folder / "images"), "--fast", "--out", str(folder / "scores.csv")])
        seconds = time.perf_counter() - start
    return seconds, peak_memory_mb()


def exponent(points):
    """The slope of log y over log x in the upper half of points [(x, y)], three at least."""
    upper = sorted(points)[-max(3, len(points) // 2) :]
    x, y = np.log(np.array(upper, float)).T
    return float(np.polyfit(x, y, 1)[0])


def figure(rows):
    """Time above, memory below, a column for each size."""
    drawn, axes = plt.subplots(2, len(SIZES), figsize=(3.4 * len(SIZES), 6), squeeze=False)
    for column, size in zip(axes.T, SIZES):
        mine = [row for row in rows if row["size"] == size]
        for axis, name, label in zip(column, ("seconds", "memory_mb"), ("seconds", "peak memory, MiB")):
            points = [(float(row["value"]), float(row[name])) for row in mine]
            if len(points) >= 3:
                axis.loglog(*zip(*points), marker="o", color="#0072b2")
                axis.set_xticks([x for x, _ in points], [f"{x:g}" for x, _ in points], rotation=45)
                axis.set_xticks([], minor=True)
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter(NullFormatter())
                axis.set_title(f"grows with power {exponent(points):.2f}", fontsize=9)
            axis.set(xlabel=SHOWN[size], ylabel=label)
            axis.grid(alpha=0.3)
    drawn.tight_layout()
    return drawn


def main(arguments=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, metavar="CSV")
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--point", nargs=2, metavar=("SIZE", "VALUE"), help="measure one point and print it")
    options = parser.parse_args(arguments)
    if options.point:
        size, value = options.point[0], int(options.point[1])
        print(json.dumps(score(value) if size == "images" else train(size, value)))
        return
    import torch

    facts, rows = about(torch.device("cpu")), []
    if options.results.exists():
        with open(options.results, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    for size, values in SIZES.items():
        for value in values if size in options.only else ():
            if any(row["size"] == size and row["value"] == str(value) for row in rows):
                continue
            call = [sys.executable, __file__, str(options.results), "--point", size, str(value)]
            done = subprocess.run(call, check=True, capture_output=True, text=True)
            seconds, memory = json.loads(done.stdout.splitlines()[-1])
            rows.append({"size": size, "value": str(value), "seconds": f"{seconds:.4g}", "memory_mb": f"{memory:.0f}"})
            rows[-1].update({name: str(fact) for name, fact in facts.items()})
            print(rows[-1], flush=True)
            with replacing(options.results) as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
    with replacing(options.results.with_suffix(".png"), "wb") as file:
        figure(rows).savefig(file, format="png", dpi=90)


if __name__ == "__main__":
    run_command(main)
