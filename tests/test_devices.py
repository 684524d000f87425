"""Which device multiplies bfloat16 natively, and what training takes then."""

import sys
from pathlib import Path

import pytest
import torch

from fastsquid.training.start import Speed, _choose_speed
from fastsquid.utils.devices import multiplies_bfloat16

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the system names the CPU's instructions in /proc")
def test_a_cpu_with_instructions_for_it():
    instructions = set(Path("/proc/cpuinfo").read_text().split())
    assert multiplies_bfloat16(CPU) == bool(instructions & {"avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize("avx512, amx, expected", [(0, 0, "fp32"), (1, 0, "bf16"), (0, 1, "bf16")])
def test_training_takes_it_where_it_is_native(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    assert _choose_speed(Speed(), CPU) == (False, expected)
    assert _choose_speed(Speed(precision="fp32"), CPU) == (False, "fp32")
    assert _choose_speed(Speed(precision="bf16"), CPU) == (False, "bf16")


def test_other_devices_train_in_float32():
    assert not multiplies_bfloat16(torch.device("mps"))
