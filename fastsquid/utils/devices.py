"""The device that computes, its name and the memory of the process."""

import os
import re
import sys
from pathlib import Path

import torch

from ..errors import UserError
from . import distributed


def choose_device(name: str) -> torch.device:
    """Return the torch device that a name stands for.

    Args:
        name: `auto`, or a name that PyTorch knows, such as `cpu`, `cuda:1` or `mps`. `auto` is a GPU if there is one.

    Raises:
        UserError: the device does not exist or cannot be used here.
    """
    if distributed.world() > 1:
        name = distributed.device(name)
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # the device meta holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}): use cpu or auto"
        ) from None
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 natively: a GPU of 2020 or later, a CPU with AVX-512 BF16 or AMX.

    Other CPUs emulate it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB; 0 on Windows."""
    if sys.platform == "linux":  # its ru_maxrss begins at the peak of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^VmHWM:\s*(\d+) kB", status, re.M):
            return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the type of another device with the number of CPU cores."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({os.cpu_count()} cores)"
