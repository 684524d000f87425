"""Images per second of `score` in one process, and on Ray with one and two actors.

    python bench/cluster.py bench/results/cluster.md

Trains a full-size run for a moment, because speed does not depend on the weights, and makes JPEGs of 1024 x
1024 pixels. Each case scores a short and a long folder: the difference gives the images per second, and the rest is the
time to start. Start no other work beside it.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fastsquid.archive.sources import to_items
from fastsquid.archive.stores import Place

XRAYS = Path(__file__).parent.parent / "tests" / "data" / "xrays"
CASES = {  # run, options of score, images of the short and the long folder
    "`fastsquid --fast`": ("fastsquid", ["--fast"], (300, 1500)),
    "`fastsquid`": ("fastsquid", [], (100, 500)),
}
WAYS = {"one process": [], "Ray, 1 actor": ["--ray", "--actors", "1"], "Ray, 2 actors": ["--ray", "--actors", "2"]}


def write_images(folder: Path, count: int) -> float:
    """Write X-rays with noise as JPEGs of 1024 x 1024 pixels; return their mean size in bytes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    xrays = [
        np.asarray(Image.open(path).convert("L").resize((1024, 1024))).astype(np.int16)
        for path in sorted(XRAYS.glob("**/*.jpeg"))
    ]
    noise = rng.integers(-4, 5, (1024, 1024))
    for i in range(count):
        pixels = xrays[i % len(xrays)] + np.roll(noise, i)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05}.jpeg", quality=90)
    return sum(path.stat().st_size for path in folder.iterdir()) / count


def seconds(*arguments: object) -> float:
    """Return how long a command of fastsquid takes."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "fastsquid", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def list_bytes(count: int = 500_000) -> float:
    """Return the bytes of memory per image of a list that the command holds, with names of 60 characters."""
    before = _memory()
    items = [(f"{i:060}", Place("s3://clinic", f"clinic/2026/{i:060}")) for i in range(count)]
    blocks = [to_items(items[start : start + 1000]) for start in range(0, count, 1000)]
    return (_memory() - before) / (count if blocks else 1)


def _memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?")
    options = parser.parse_args()
    lines, row_bytes = [], 0.0
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        size = write_images(here / "all", max(counts[1] for *_, counts in CASES.values()))
        for system in sorted({system for system, *_ in CASES.values()}):
            seconds("train", "--data", XRAYS, "--preset", system, "--epochs", 1, "--out", here / system)
        for title, (system, more, counts) in CASES.items():
            cells = []
            for way, how in WAYS.items():
                took = []
                for count in counts:
                    folder = here / str(count)
                    if not folder.exists():
                        folder.mkdir()
                        for path in sorted((here / "all").iterdir())[:count]:
                            os.link(path, folder / path.name)
                    out = here / f"{len(lines)}-{way}-{count}.parquet"
                    took.append(seconds("score", here / system, folder, "--out", out, *more, *how))
                    if how:
                        row_bytes = sum(path.stat().st_size for path in out.glob("*.parquet")) / count
                rate = (counts[1] - counts[0]) / (took[1] - took[0])
                cells += [f"{rate:.1f}", f"{took[0] - counts[0] / rate:.0f}"]
            lines.append(f"| {title} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    text = "\n".join(
        [
            "Images per second from file to row, and seconds to start. JPEGs of 1024 x 1024 pixels, "
            f"{size / 1000:.0f} kB each, in memory. {os.cpu_count()} cores, {platform.machine()}, no other work.",
            "",
            "| | " + " | ".join(f"{way}, images/s | start, s" for way in WAYS) + " |",
            "|---" + "|---:" * 2 * len(WAYS) + "|",
            *lines,
            "",
            f"Parquet: {row_bytes:.0f} bytes per row. List of images: {list_bytes():.0f} bytes of memory per image.",
        ]
    )
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n")


if __name__ == "__main__":
    main()
