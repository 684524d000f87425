"""The device that computes, and what it is."""

import os
import sys

import torch

from ..errors import UserError
from . import distributed


def choose_device(name: str) -> torch.device:
    """Return the device of a name, or raise a UserError that says why it cannot be used."""
    if distributed.world() > 1:
        name = distributed.device(name)
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}): use cpu or auto"
        ) from None
    return device


def peak_memory_mb():
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({os.cpu_count()} cores)"
