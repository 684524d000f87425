"""How many CPU threads a command uses: never more than the cores that it may use."""

import math
import os
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, by its affinity and by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(CGROUPS, _own_groups()))))


def set_threads(number: int | None) -> None:
    """Set the number of PyTorch's threads.

    Args:
        number: of threads; None for PyTorch's own number, which is that of OMP_NUM_THREADS or of the machine's cores,
            but at most `available_cores`.
    """
    import torch

    torch.set_num_threads(number or min(torch.get_num_threads(), available_cores()))


def let_idle_threads_sleep() -> None:
    """Make OpenMP's idle threads sleep soon instead of spin, in a process that has not imported PyTorch yet.

    Spinning threads take the cores from other jobs of the machine, and then wait for each other. Threads that sleep at
    once are woken for every operation. GNU's OpenMP can be told to spin for a moment first. Only commands call this,
    because it sets environment variables. A policy that the user has set stays.

    Source: OpenMP 5.2, section 21.2.7 (OMP_WAIT_POLICY); manual of libgomp, GOMP_SPINCOUNT.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def _own_groups() -> list[str]:
    """Return the paths of this process's control groups, as Linux numbers them."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    return [line.split(":", 2)[2] for line in lines if line.count(":") >= 2]


def _quota(root: Path, groups: list[str]) -> float:
    """Return the smallest number of cores that the quotas of control groups allow; infinity without a quota.

    Args:
        root: where control groups are mounted, of version 2 or 1.
        groups: their paths. A container may see its own group at the root.
    """
    smallest = math.inf
    for top in (root, root / "cpu", root / "cpu,cpuacct"):
        for group in {"/", *groups}:
            folder = top / group.lstrip("/")
            for place in (folder, *folder.parents):
                smallest = min(smallest, _quota_of(place))
                if place == top:
                    break
    return smallest


def _quota_of(folder: Path) -> float:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such files, or "max"
        return math.inf
    return cores if cores > 0 else math.inf
