"""Neighbor attention on projected queries, keys and values: forward, backward and both, with both borders."""

import baselines
import pytest
import torch
from cases import GRID_SWEEP, GRIDS, LARGE_GRIDS, MODES, SMALLEST_GRIDS
from operations import AGREE, variants_of
from timing import input_sets

from fastsquid.ops import neighbor_attention
from fastsquid.ops.reference import are_neighbors

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
    itemsize = torch.finfo(dtype).bits // 8
    name = str(dtype).removeprefix("torch.")
    sets = input_sets(shape.bytes("forward", itemsize), device)

    def inputs(i):
        generator = torch.Generator(device).manual_seed(i)
        return torch.randn(3, *shape, device=device, generator=generator).to(dtype).unbind()

    def build(names):
        def ours(impl):
            return lambda q, k, v: neighbor_attention(q, k, v, border, impl=impl)

        def same_form(function):
            return lambda *tensors: function(*tensors).reshape(shape)

        near = are_neighbors(shape.H, shape.W, device)
        present = baselines.windows(torch.ones(1, shape.H, shape.W, 1, device=device))
        present = (present[:, None, None, :, 0] > 0).repeat(shape.B, 1, 1, 1)
        functions = {
            "published": same_form(baselines.neighbor_attention),
            "torch": ours("torch"),
            "compile": torch.compile(ours("torch"), fullgraph=True, dynamic=False),
            "triton": ours("triton"),
            "gathered-sdpa": same_form(lambda *t: baselines.gathered_attention(*t, present)),
            "dense-sdpa": same_form(lambda *t: baselines.dense_attention(*t, near)),
        }
        if "flex" in names:
            functions["flex"] = same_form(baselines.flex_attention(shape.H, shape.W, device))
        agree = AGREE if dtype == torch.float32 else 2.0**-6
        return variants_of({n: functions[n] for n in names}, inputs, sets, mode, agree)

    instruction = name if dtype != torch.float32 or device.type == "cpu" else "tf32"
    work = shape.bytes(mode, itemsize), 0, instruction  # eight products a patch: bytes bind
    compare(build, sets, work, dtype=name)
