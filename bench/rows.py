"""The rows of a measurement's CSV: what is measured, on which machine and commit, and where the file is."""

import csv
import datetime
import functools
import os
import platform
import re
import subprocess
from pathlib import Path

import torch
from timing import ceilings, quantiles

from fastsquid.ops.dispatch import HAS_TRITON
from fastsquid.utils.files import replacing

RESULTS = Path(__file__).parent / "results"
NEW = Path("runs/bench")  # below the working directory; what is in RESULTS is committed
KEY = ["group", "case", "variant", "mode", "dtype"]
FIGURES = ["samples", "p20_ms", "p50_ms", "p80_ms", "unhidden_p50_ms", "gb_per_s", "gflop_per_s", "floor_ms"]
FIGURES += ["percent_of_floor", "images_per_s", "peak_memory_mb", "copy_gb_per_s", "matrix_gflop_per_s"]
ABOUT = ["device", "threads", "python", "torch", "triton", "commit", "clean", "date"]


def device_name(device):
    """What the rows call a device; a CPU's name ends with its threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def about(device):
    """The columns that every row has: device, versions, commit, date."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        **_commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def new_file(device):
    """The next free CSV for a device: runs/bench/DEVICE-0.csv, -1 and so on."""
    name, number = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-"), 0
    while (path := NEW / f"{name}-{number}.csv").exists():
        number += 1
    return path


class Results:
    """Rows of this run, put in the place of those that an earlier run left in the CSV.

    Args:
        device: what is measured.
        path: of the CSV.
        quick: the machine's ceilings are measured at small sizes only.
        extra: names of further columns.
    """

    def __init__(self, device, path, quick=False, extra=()):
        self.device, self.quick, self.extra = device, quick, extra
        self.about, self.rows, self.path = about(device), {}, path

    def add(self, key, samples, work=None, images=None, **extra):
        """Puts a row in the CSV and returns it.

        Args:
            key: values of the columns in KEY.
            samples: `timing.Samples`.
            work: (bytes, operations, the instruction that does them) or None.
            images: handled by one call, or None.
            extra: values of the further columns.
        """
        low, middle, high = quantiles(samples.hidden)
        row = dict(zip(KEY, key), samples=len(samples.hidden), **self.about)
        row |= {"p20_ms": 1e3 * low, "p50_ms": 1e3 * middle, "p80_ms": 1e3 * high}
        row["unhidden_p50_ms"] = 1e3 * quantiles(samples.unhidden)[1]
        if work:
            nbytes, operations, instruction = work
            limits = ceilings(self.device, self.quick)
            row |= {"gb_per_s": nbytes / middle / 1e9, "gflop_per_s": operations / middle / 1e9}
            row |= {"copy_gb_per_s": limits.copy / 1e9}
            if rate := limits.matrix.get(instruction):
                products = 3 if instruction == "tf32" and key[-1] == "float32" else 1  # tf32 x 3
                floor = max(nbytes / limits.copy, products * operations / rate)
                row |= {"floor_ms": 1e3 * floor, "percent_of_floor": 100 * floor / middle}
                row |= {"matrix_gflop_per_s": rate / 1e9}
        if images:
            row["images_per_s"] = images / middle
        if samples.memory is not None:
            row["peak_memory_mb"] = samples.memory / 2**20
        row |= extra
        self.rows[key] = {name: f"{v:.5g}" if isinstance(v, float) else v for name, v in row.items()}
        self._write()  # at once: what is stopped keeps what it has measured
        return row

    def _write(self):
        rows = {}
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = {tuple(row[name] for name in KEY): row for row in csv.DictReader(file)}
        rows.update(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            writer = csv.DictWriter(file, [*KEY, *FIGURES, *self.extra, *ABOUT], restval="")
            writer.writeheader()
            writer.writerows(rows[key] for key in sorted(rows))


def _cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name} {torch.get_num_threads()} threads"


def _triton_version():
    if not HAS_TRITON:
        return ""
    import triton

    return triton.__version__


@functools.cache
def _commit():
    """The commit measured, FASTSQUID_COMMIT where git is absent, and whether the files are as it has them."""
    given = os.environ.get("FASTSQUID_COMMIT")
    if given:
        return {"commit": given.removesuffix("-dirty"), "clean": not given.endswith("-dirty")}
    try:
        git = ["git", "-C", str(RESULTS.parent)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--", ":/", ":!/bench/results"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "clean": ""}
    return {"commit": commit.stdout.strip(), "clean": not status.stdout.strip()}
