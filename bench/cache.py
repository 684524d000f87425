"""Images per second and memory of reading a data set: decoded, and from a cache.

    python bench/cache.py bench/results/cache.md --images 2000

Makes PNGs of 1024 x 1024 pixels in a temporary folder, as NIH ChestX-ray14 has them, and reads each set in a process of
its own.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from fastsquid.data import open_data

SIZE = 128


def write_images(folder: Path, count: int) -> int:
    """Write smooth images with noise, whose PNGs are about as large as those of X-rays; return their bytes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16)).astype(np.uint8)).resize((1024, 1024))
        pixels = np.asarray(coarse) // 2 + rng.integers(0, 6, (1024, 1024))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return sum(path.stat().st_size for path in folder.iterdir())


def read(folder: str, cache: str | None) -> dict[str, float]:
    """Read a folder; return seconds, and what its images added to memory that belongs to no file, in MB."""
    before = _anonymous()
    start = time.perf_counter()
    images = open_data(folder, SIZE, cache=cache)["train"].images
    seconds = time.perf_counter() - start
    total = sum(int(batch.long().sum()) for batch in images.split(256))  # every pixel is looked at, as in an epoch
    return {"seconds": seconds, "megabytes": _anonymous() - before, "sum": total, "peak": _status("VmHWM")}


def _anonymous() -> float:
    return _status("RssAnon")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(name + ":"))


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--read", nargs=2, metavar=("FOLDER", "CACHE"), help="used by itself")
    options = parser.parse_args()
    if options.read:
        folder, cache = options.read
        print(json.dumps(read(folder, cache or None)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, cache = Path(temporary, "images"), str(Path(temporary, "cache"))
        size = write_images(folder, options.images)
        rows, sums = [], set()
        for title, where in (("decoded", ""), ("decoded and cached", cache), ("from the cache", cache)):
            command = [sys.executable, __file__, "--read", str(folder), where]
            found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            sums.add(found["sum"])
            speed, memory = options.images / found["seconds"], 1000 * found["megabytes"] / options.images
            rows.append(f"| {title} | {speed:,.0f} | {memory:.1f} |")
        assert len(sums) == 1, "the cache holds other pixels"
    lines = [
        f"{options.images} PNGs of 1024 x 1024 pixels, {size / options.images / 1000:.0f} kB each, read at {SIZE} x "
        f"{SIZE} ({SIZE**2 / 1000:.1f} kB). {platform.machine()}, files in the system's memory.",
        "",
        "| | images/s | kB of memory per image |",
        "|---|---:|---:|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        Path(options.out).write_text(text)


if __name__ == "__main__":
    main()
