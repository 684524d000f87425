"""Memory read: forward, backward and both."""

import pytest
import torch
from cases import LARGE_READS, MODES, READ_SWEEP, READS, SMALLEST_READS
from operations import MemoryRead

SHAPES = [
    *(pytest.param(shape, marks=pytest.mark.smallest, id=str(shape)) for shape in SMALLEST_READS),
    *(pytest.param(shape, id=str(shape)) for shape in READS),
    *(pytest.param(shape, marks=pytest.mark.large, id=str(shape)) for shape in LARGE_READS),
    *(pytest.param(shape, marks=[pytest.mark.large, pytest.mark.sweep], id=str(shape)) for shape in READ_SWEEP),
]


@pytest.mark.parametrize("variant", ["published", "torch", "compile", "triton"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_read(compare, device, shape, mode, variant):
    measure(compare, device, shape, mode, torch.float32)


@pytest.mark.parametrize("variant", ["torch", "triton"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [pytest.param(s, marks=pytest.mark.large, id=str(s)) for s in [*READS, *LARGE_READS]])
def test_memory_read_bfloat16(compare, device, shape, mode, variant):
    measure(compare, device, shape, mode, torch.bfloat16)


def measure(compare, device, shape, mode, dtype):
    case = MemoryRead(shape, mode, dtype, device)
    compare(case.build, case.sets, case.work, dtype=case.name)
