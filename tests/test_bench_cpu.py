"""The measurements of a CPU: what they count, against numbers computed another way; nothing here is timed."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))
try:
    import bfloat16
    import cases
    import cpu
    import growth
    import performance
    import rows
finally:
    sys.path.remove(str(BENCH))


@pytest.fixture
def smallest(monkeypatch):
    monkeypatch.setitem(cpu.CASES, "smallest", (cases.SMALLEST_MODEL, 2))
    monkeypatch.setattr(cpu, "ROUNDS", 1)
    config, batch = cpu.CASES["smallest"]
    return cpu.trainer_of("torch", config, cpu.CPU), cpu.images_of(batch, config, cpu.CPU) / 255


def test_operations_of_convolutions_are_pytorchs(smallest):
    with FlopCounterMode(display=False) as counter:
        cpu.cycle(*smallest)
    counts = counter.get_flop_counts()["Global"]
    expected = counts[torch.ops.aten.convolution] + counts[torch.ops.aten.convolution_backward]
    with cpu.Recorded() as recorded:
        cpu.cycle(*smallest)
    assert sum(count * cpu.operations_of(*call) for call, count in recorded.calls.items()) == expected > 0


def test_every_recorded_convolution_runs_alone(smallest):
    found = cpu.convolutions("smallest")
    assert found["convolutions_s"] > 0 and found["share"] > 0


def test_profiles_are_of_both_layouts(smallest, monkeypatch):
    found = cpu.profiles("smallest")
    assert set(found) == {"contiguous", "channels_last"}
    for layout in found.values():
        shares = [share for _, share in layout["operators"]]
        assert len(shares) == 10 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_exponent_of_a_power_is_its_power(power):
    assert growth.exponent([(x, 3 * x**power) for x in (16, 8, 4, 2)]) == pytest.approx(power)


def test_only_the_upper_half_is_fitted():
    assert growth.exponent([(1, 7), (2, 7), (3, 7), (4, 4), (8, 8), (16, 16)]) == pytest.approx(1)


def test_a_measured_point_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "SIZES", {"slots": (2, 4, 8)})
    path = tmp_path / "growth.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("size", "value", "seconds", "memory_mb"))
        writer.writerows(("slots", value, value / 10, 100) for value in (2, 4, 8))
    before = path.read_bytes()
    growth.main([str(path), "--only", "slots"])
    assert path.read_bytes() == before and path.with_suffix(".png").stat().st_size > 1000


def test_the_page_has_the_committed_figures():
    text = performance.PAGE.read_text(encoding="utf-8")
    assert performance.filled(text) == text, "write the tables with python bench/performance.py"


def test_trainings_in_bfloat16_are_the_committed_ones():
    assert (rows.RESULTS / "bfloat16.md").read_text(encoding="utf-8") == bfloat16.table()
    for *folders, score in bfloat16.PAIRS.values():
        runs = [bfloat16.histories(folder).values() for folder in folders]
        whole, half = ([lines[-1]["validation"][score] for lines in found] for found in runs)
        assert np.mean(half) > np.mean(whole) - np.std(whole, ddof=1)  # else `--precision auto` should not take it
