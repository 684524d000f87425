"""The in-painting block in training: both systems at their own grid, batch 16 at 128 x 128."""

import baselines
import pytest
import torch
from cases import SMALLEST_MODEL
from operations import variants_of
from timing import input_sets

from fastsquid.config import preset
from fastsquid.model.inpainting import InpaintingBlock

CASES = {
    "smallest": (SMALLEST_MODEL, 2),
    "squid 2x2": (preset("squid", selection="published", shortcut=1.0), 16),
    "simsid 4x4": (preset("simsid", selection="published"), 16),
}

COMPILED = pytest.param("compile", marks=pytest.mark.large)


@pytest.mark.parametrize("variant", ["published", "torch", COMPILED, "triton"])
@pytest.mark.parametrize("mode", ["forward", "both"])
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.smallest if case == "smallest" else ()) for case in CASES]
)
def test_inpainting_block(compare, device, case, mode, variant):
    config, batch = CASES[case]
    shape = batch * config.patches, config.channels, config.feature_size, config.feature_size
    sets = input_sets(4 * batch * config.patches * config.channels * config.feature_size**2, device)

    def build(names):
        blocks = {}
        for name in names:
            torch.manual_seed(0)
            block = InpaintingBlock(config, name if name == "triton" else "torch").to(device)
            if config.memory == "queue":
                block.memory.bank.normal_(0, 0.1)
                block.memory.filled.fill_(config.slots)
            blocks[name] = block
        functions, parameters = {}, {}
        for name, block in blocks.items():
            if name == "published":
                published = functions[name] = baselines.InpaintingBlock(block).to(device)
                slots, attention = published.bank, published.attention
                projections = [attention.in_proj_weight, *attention.out_proj.parameters()]
            else:
                functions[name] = torch.compile(block, fullgraph=True, dynamic=False) if name == "compile" else block
                slots, mix = [block.memory.bank], block.mix
                projections = [mix.query.weight, mix.key_value.weight, *mix.output.parameters()]
            rest = [block.reduce, block.mix.norm1, block.mix.norm2, block.mix.ff, block.expand]
            # The biases of the projections are left out: the published one has one more, without effect.
            parameters[name] = [*projections, *(p for module in rest for p in module.parameters())]
            if config.memory == "matrix":
                parameters[name] += slots

        def inputs(i):
            return [torch.randn(shape, device=device, generator=torch.Generator(device).manual_seed(i))]

        return variants_of(functions, inputs, sets, mode, parameters=parameters)

    compare(build, sets)
