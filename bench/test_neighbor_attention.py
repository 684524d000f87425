"""Neighbor attention on projected queries, keys and values: forward, backward and both, with both borders."""

import pytest
import torch
from cases import GRID_SWEEP, GRIDS, LARGE_GRIDS, MODES, SMALLEST_GRIDS
from operations import NeighborAttention

SHAPES = [
    *(pytest.param(shape, marks=pytest.mark.smallest, id=str(shape)) for shape in SMALLEST_GRIDS),
    *(pytest.param(shape, id=str(shape)) for shape in GRIDS),
    *(pytest.param(shape, marks=pytest.mark.large, id=str(shape)) for shape in LARGE_GRIDS),
    *(pytest.param(shape, marks=[pytest.mark.large, pytest.mark.sweep], id=str(shape)) for shape in GRID_SWEEP),
]
MASKED = [
    pytest.param(shape, marks=pytest.mark.smallest if shape in SMALLEST_GRIDS else pytest.mark.large, id=str(shape))
    for shape in SMALLEST_GRIDS + LARGE_GRIDS
]


@pytest.mark.parametrize("variant", ["published", "torch", "compile", "triton"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_neighbor_attention(compare, device, shape, mode, variant):
    measure(compare, device, shape, mode, torch.float32, "pad")


@pytest.mark.parametrize("variant", ["gathered-sdpa", "dense-sdpa", "flex", "torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", MASKED)
def test_neighbor_attention_mask(compare, device, shape, mode, dtype, variant):
    measure(compare, device, shape, mode, dtype, "mask")


def measure(compare, device, shape, mode, dtype, border):
    case = NeighborAttention(shape, mode, dtype, device, border)
    compare(case.build, case.sets, case.work, dtype=case.name)
