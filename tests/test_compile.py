"""torch.compile: one graph of the memory, the in-painting block and both whole detectors, few graphs for all batch
sizes, the same numbers; with the operations on either path."""

import pytest
import torch
from conftest import DEVICE
from torch._dynamo.testing import CompileCounterWithBackend

from fastsquid import SpaceAwareMemory
from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.model.inpainting import InpaintingBlock, NeighborTransformer
from fastsquid.ops.dispatch import HAS_TRITON

# torch.compile warns while it traces
pytestmark = pytest.mark.filterwarnings("default")
# As few layers as a whole detector can have: tracing takes seconds for each graph.
SMALL = dict(
    image_size=40, width=4, levels=2, slots=7, grid=2, heads=1, decoder_memory=1, skips=1, combine=1, shortcut=1.0
)
SYSTEMS = {"squid": preset("squid-small", **SMALL), "simsid": preset("simsid-small", **SMALL)}
IMPLS = ["torch", pytest.param("triton", marks=pytest.mark.skipif(not HAS_TRITON, reason="needs Triton"))]
# Without a GPU the kernels are traced in the memory and the block alone: a whole detector takes half a minute more.
ON_A_GPU = ["torch", pytest.param("triton", marks=pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU"))]
# A last batch of 1, others smaller and larger; the interpreter, which pays for every program, gets smaller ones.
BATCHES = {"torch": (16, 1, 8, 3, 2, 5), "triton": (3, 1, 2) if DEVICE == "cpu" else (16, 1, 8, 3, 2, 5)}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def differentiated(module, leaf, out):
    """Gradients by name."""
    inputs = {"input": leaf, **{name: p for name, p in module.named_parameters() if p.requires_grad}}
    gradients = torch.autograd.grad(out.square().sum(), list(inputs.values()), allow_unused=True)
    return dict(zip(inputs, gradients, strict=True))


def check(module, inputs, train, impl, call=None):
    """Compiled against eager, output and gradient, over batch sizes; returns the number of graphs."""
    # Traced, and differentiated ahead of time where there are gradients, but not compiled to C++, which takes a minute.
    counter = CompileCounterWithBackend("aot_eager" if train else "eager")
    call = call or module
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for batch in BATCHES[impl]:
        x = inputs(batch)
        with torch.set_grad_enabled(train):
            results = []
            for function in (call, compiled):
                leaf = x.clone().requires_grad_(train)
                out = function(leaf)
                results.append({"output": out.detach(), **(differentiated(module, leaf, out) if train else {})})
        torch.testing.assert_close(*results, rtol=1e-7, atol=1e-9)
    return counter.frame_count


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", ["matrix", "queue"])
def test_memory(kind, train, impl):
    memory = SpaceAwareMemory(3, 10, 8, 3, kind, impl=impl).double().to(DEVICE)
    if kind == "queue":
        memory(torch.randn(7, 3, 8, device=DEVICE, dtype=torch.float64))
        memory.commit()
    assert (
        check(memory.train(train), lambda b: torch.randn(b, 3, 8, device=DEVICE, dtype=torch.float64), train, impl) <= 3
    )


@pytest.mark.parametrize("impl", IMPLS)
def test_attention_in_training(impl):
    layer = NeighborTransformer(6, 2, "pad", 0.0, impl).double().to(DEVICE)

    def inputs(batch):
        return torch.randn(batch, 2, 3, 6, device=DEVICE, dtype=torch.float64)

    assert check(layer, inputs, True, impl, lambda x: layer(x, x)) <= 3


@pytest.mark.parametrize(
    "impl, train",
    [
        pytest.param("triton", False, marks=IMPLS[1].marks),
        *(pytest.param(impl, True, marks=ON_A_GPU[1].marks) for impl in ("torch", "triton")),
    ],
)
def test_block(train, impl):
    config = SYSTEMS["simsid"]
    block = InpaintingBlock(config, impl).double().to(DEVICE).train(train)
    shape = config.channels, config.feature_size, config.feature_size
    assert (
        check(block, lambda b: torch.randn(b * config.patches, *shape, device=DEVICE, dtype=torch.float64), train, impl)
        <= 3
    )


# Training of squid is traced in test_training.py too, with one batch size; scoring of the two differs little.
ON_A_CPU_ONE = ["simsid", pytest.param("squid", marks=ON_A_GPU[1].marks)]


@pytest.mark.heavy
@pytest.mark.parametrize("impl", ON_A_GPU)
@pytest.mark.parametrize("system", ON_A_CPU_ONE)
def test_whole_detectors_train(system, impl):
    detector = Detector(SYSTEMS[system], impl).double().to(DEVICE)

    def networks(x):
        out = detector.generator(x, teacher=True)
        return torch.cat([out.student.flatten(), out.teacher.flatten(), detector.discriminator(out.student)])

    assert check(detector, images, True, impl, networks) <= 3


@pytest.mark.heavy
@pytest.mark.parametrize("impl", ON_A_GPU)
@pytest.mark.parametrize("system", ON_A_CPU_ONE)
def test_whole_detectors_score(system, impl):
    detector = Detector(SYSTEMS[system], impl).double().to(DEVICE).frozen()

    def scores(x):
        scores, reconstruction = detector.scores(x)
        return torch.cat([*scores.values(), reconstruction.flatten()])

    assert check(detector, images, False, impl, scores) <= 3


def images(batch):
    return torch.rand(batch, 1, SMALL["image_size"], SMALL["image_size"], device=DEVICE, dtype=torch.float64)
