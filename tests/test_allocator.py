"""A command keeps the memory of a tensor that it has freed; another program gives it back to the system."""

import platform
import subprocess
import sys

import pytest

CODE = """
import torch
from fastsquid.utils.cli import run_command
if {command}:
    try: run_command(lambda: None)
    except SystemExit: pass
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 2**-8  # pages of 4 KiB, in MiB
torch.ones(2**20)
before = resident()
torch.ones(2**24)  # 64 MiB, freed at once
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize("command, least, most", [(False, -8, 8), (True, 56, 72)])
def test_memory_of_a_freed_tensor(command, least, most):
    call = [sys.executable, "-c", CODE.format(command=command)]
    assert least <= float(subprocess.run(call, capture_output=True, check=True).stdout) <= most
