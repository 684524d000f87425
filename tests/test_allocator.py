"""A command keeps the memory of a tensor that it has freed; another program gives it back to the system."""

import os
import platform
import subprocess
import sys

import pytest

from fastsquid.utils import allocator

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
torch.ones(2**22)  # 16 MiB, freed at once
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(
    "command, settings, kept",
    [(False, {}, False), (True, {}, True), (True, {"MALLOC_MMAP_THRESHOLD_": "1048576"}, False)],
)
def test_memory_of_a_freed_tensor(command, settings, kept):
    environment = {name: value for name, value in os.environ.items() if name not in allocator.SETTINGS} | settings
    call = [sys.executable, "-c", CODE.format(command=command)]
    done = subprocess.run(call, capture_output=True, check=True, env=environment)
    assert float(done.stdout) == pytest.approx(16 * kept, abs=4)
