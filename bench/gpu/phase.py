"""What the phases of bench/gpu.sh share: device, size, time left, and where files go."""

import os
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
# The smallest sizes once, on any machine, to see that everything runs.
SMALLEST = bool(os.environ.get("SMALLEST"))
OUT = Path(os.environ.get("OUT", "."))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def left():
    """Seconds until the driver stops this phase, whenever this process began; without the driver, plenty."""
    return float(os.environ.get("PHASE_END", "inf")) - time.time()


def data_folder():
    """The folder of X-rays: $DATA, and at the smallest size that of the tests; None without one."""
    given = os.environ.get("DATA") or (ROOT / "tests" / "data" / "xrays" if SMALLEST else None)
    return given and Path(given)
