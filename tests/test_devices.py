"""Which device multiplies bfloat16 natively."""

import sys
from pathlib import Path

import pytest
import torch

from fastsquid.utils.devices import multiplies_bfloat16

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the system names the CPU's instructions in /proc")
def test_a_cpu_with_instructions_for_it():
    instructions = set(Path("/proc/cpuinfo").read_text().split())
    assert multiplies_bfloat16(CPU) == bool(instructions & {"avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize("avx512, amx", [(False, False), (True, False), (False, True)])
def test_avx512_or_amx(monkeypatch, avx512, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert multiplies_bfloat16(CPU) == (avx512 or amx)


def test_other_devices_do_not():
    assert not multiplies_bfloat16(torch.device("mps"))
