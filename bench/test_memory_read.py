"""Memory read: forward, backward and both."""

import baselines
import pytest
import torch
from cases import LARGE_READS, MODES, READ_SWEEP, READS, SMALLEST_READS
from operations import AGREE, variants_of
from timing import input_sets

from fastsquid.ops import memory_read

TOP_K = 5
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
    itemsize = torch.finfo(dtype).bits // 8
    name = str(dtype).removeprefix("torch.")
    sets = input_sets(shape.bytes("forward", itemsize), device)

    def inputs(i):
        generator = torch.Generator(device).manual_seed(i)
        x = torch.randn(shape.B, shape.R, shape.C, device=device, generator=generator)
        bank = torch.randn(shape.R, shape.N, shape.C, device=device, generator=generator)
        return x.to(dtype), (bank * shape.C**-0.5).to(dtype)

    def build(names):
        def ours(impl):
            return lambda x, bank: memory_read(x, bank, TOP_K, "published", impl=impl)[0]

        functions = {
            "published": lambda x, *bank: baselines.memory_read(x, bank, TOP_K),
            "torch": ours("torch"),
            "compile": torch.compile(ours("torch"), fullgraph=True, dynamic=False),
            "triton": ours("triton"),
        }
        # bfloat16 gradients are rounded where each variant's own sums end
        agree = AGREE if dtype == torch.float32 else 2.0**-6
        return variants_of({n: functions[n] for n in names}, inputs, sets, mode, agree, a_region=["published"])

    instruction = name if dtype != torch.float32 or device.type == "cpu" else "tf32"
    work = shape.bytes(mode, itemsize), shape.operations(mode), instruction
    compare(build, sets, work, dtype=name)
