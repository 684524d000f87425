"""Phase `facts`: device, driver, versions, and what the machine can do: copy bandwidth and matrix rates."""

import json
import os
import subprocess

import numpy
import torch
from phase import DEVICE, OUT, SMALLEST
from rows import about
from timing import ceilings

from fastsquid.utils.files import write_json


def main():
    facts = {**about(DEVICE), "numpy": numpy.__version__, "cuda": torch.version.cuda, "driver": driver()}
    facts["cores"] = os.cpu_count()
    if DEVICE.type == "cuda":
        properties = torch.cuda.get_device_properties(DEVICE)
        facts |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": properties.L2_cache_size // 2**20,
            "cudnn": torch.backends.cudnn.version(),
        }
    limits = ceilings(DEVICE, SMALLEST)
    facts["copy_gb_per_s"] = round(limits.copy / 1e9, 1)
    facts["matrix_gflop_per_s"] = {name: round(rate / 1e9) for name, rate in limits.matrix.items()}
    write_json(OUT / "facts.json", facts)
    print(json.dumps(facts, indent=1))


def driver():
    """The driver's version, or None."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    main()
