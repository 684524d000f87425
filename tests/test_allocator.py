"""Freed memory that a command keeps: the next tensor of the same size gets pages that are there already."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from fastsquid.utils.cli import run_command
if {command}:
    try: run_command(lambda: None)
    except SystemExit: pass
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(4)][-1])  # the heap has grown by then
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_freed_tensor_is_not_mapped_again():
    def faults(command):
        call = [sys.executable, "-c", CODE.format(command=command)]
        return int(subprocess.run(call, capture_output=True, check=True).stdout)

    # With huge pages of 2 MiB, which the system may use, 64 MiB are 32 faults.
    assert faults(False) >= 32
    assert faults(True) < 10
