"""The device that a command chooses, whether it multiplies bfloat16 natively, and the memory of a process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import NATIVE

from fastsquid.errors import UserError
from fastsquid.training.start import Speed, _choose_speed
from fastsquid.utils.devices import choose_device, multiplies_bfloat16, peak_memory_mb

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the system names the CPU's instructions in /proc")
def test_a_cpu_with_instructions_for_it(monkeypatch):
    for name, function in NATIVE.items():
        monkeypatch.setattr(torch.cpu, name, function)
    instructions = set(Path("/proc/cpuinfo").read_text().split())
    assert multiplies_bfloat16(CPU) == bool(instructions & {"avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize("avx512, amx", [(False, False), (True, False), (False, True)])
def test_avx512_or_amx(monkeypatch, avx512, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert multiplies_bfloat16(CPU) == (avx512 or amx)


def test_a_device_without_values_is_refused():
    with pytest.raises(UserError, match="'meta' cannot be used here"):
        choose_device("meta")


def test_other_devices_do_not():
    assert not multiplies_bfloat16(torch.device("mps"))


@pytest.mark.parametrize("native", [False, True])
def test_training_takes_bfloat16_where_it_is_native(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert _choose_speed(Speed(), CPU) == (False, "bf16" if native else "fp32")
    for precision in ("fp32", "bf16"):  # a choice of the user's holds
        assert _choose_speed(Speed(precision=precision), CPU) == (False, precision)


def test_peak_memory_is_what_was_resident():
    before = peak_memory_mb()
    size = int(before) + 64  # more than this process has had
    torch.ones(size * 2**18)
    assert size < peak_memory_mb() < before + size + 64


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage counts the process that starts it too")
def test_peak_memory_is_of_this_process_alone():
    """Also where the process that starts it has had more."""
    code = "from fastsquid.utils.devices import peak_memory_mb; print(peak_memory_mb())"
    large = torch.ones(2**28)  # 1 GB
    alone = float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert 50 < alone < 900 < 4 * len(large) / 2**20 < peak_memory_mb()
