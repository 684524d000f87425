"""The student's memories in training: every sub-window of every patch, both levels of both systems."""

import baselines
import pytest
import torch
from operations import variants_of
from timing import input_sets

from fastsquid import SpaceAwareMemory2d

# patches (images x grid^2), channels, side of a patch's map, slots
CASES = {
    "smallest": (1, 2, 2, 4, 8),
    "squid level 1": (16, 2, 256, 8, 200),
    "squid level 2": (16, 2, 128, 16, 200),
    "simsid level 1": (16, 4, 256, 4, 100),
    "simsid level 2": (16, 4, 128, 8, 100),
}

COMPILED = pytest.param("compile", marks=pytest.mark.large)


@pytest.mark.parametrize("variant", ["published", "torch", COMPILED, "triton"])
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.smallest if case == "smallest" else ()) for case in CASES]
)
def test_decoder_memory(compare, device, case, variant):
    images, grid, channels, side, slots = CASES[case]
    shape = images * grid**2, channels, side, side
    sets = input_sets(4 * images * grid**2 * channels * side**2, device)

    def build(names):
        modules = {}
        for name in names:
            torch.manual_seed(0)
            impl = name if name == "triton" else "torch"
            options = dict(scope="subwindow", selection="published", impl=impl)
            modules[name] = SpaceAwareMemory2d(channels, (grid * side,) * 2, grid, slots, **options).to(device)
        parameters = {name: [module.memory.bank] for name, module in modules.items()}
        functions = {name: module.read_patches for name, module in modules.items()}
        if "published" in names:
            bank = baselines.slots_by_region(modules["published"].memory)
            parameters["published"] = list(bank)
            functions["published"] = lambda x: baselines.decoder_memory(x, bank, 5)
        if "compile" in names:
            functions["compile"] = torch.compile(functions["compile"], fullgraph=True, dynamic=False)

        def inputs(i):
            return [torch.randn(shape, device=device, generator=torch.Generator(device).manual_seed(i))]

        return variants_of(functions, inputs, sets, "both", parameters=parameters)

    compare(build, sets)
