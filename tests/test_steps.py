"""Training steps: every kind of image, graphs that torch.compile makes, and no tensor that the host reads."""

import contextlib
import functools
from unittest import mock

import pytest
import torch
from conftest import DEVICE, ROWS
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from fastsquid.config import ABLATIONS, PRESETS, preset
from fastsquid.data import to_unit
from fastsquid.model.detector import Detector
from fastsquid.ops import memory_read, neighbor_attention
from fastsquid.ops.dispatch import HAS_TRITON
from fastsquid.training.epoch import Steps
from fastsquid.training.trainer import Trainer

SMALL = dict(width=2, slots=8, heads=1, image_size=64)
# Tracing takes seconds for each graph.
FEW_LAYERS = dict(SMALL, width=4, image_size=40, levels=2, combine=1, skips=1, decoder_memory=1, grid=2)


def steps_of(config, images, **options):
    torch.manual_seed(0)
    return Steps(Trainer(Detector(config).to(images.device).train(), **options), images)


class Operations(TorchDispatchMode):
    """Notes every operation that reads a tensor of one dtype."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype, self.seen = dtype, set()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if any(isinstance(a, torch.Tensor) and a.dtype == self.dtype for a in arguments):
            self.seen.add(operation.overloadpacket._qualified_op_name)
        return operation(*arguments, **(options or {}))


# CUDA has little more than these for uint16; bench/gpu.sh and `make nullcuda` run the real ones.
HARMLESS = {f"aten::{name}" for name in ("_to_copy", "view", "clone", "copy_", "detach", "slice", "split", "alias")}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_images_of_every_dtype(dtype):
    """What a step is trained on is `to_unit` of the batch, whatever dtype data/ gives."""
    config = preset("simsid-small", **SMALL, batch_size=3, shift=0.0, zoom=0.0)
    values = torch.rand(8, 1, 64, 64, device=DEVICE)
    if not dtype.is_floating_point:
        # The largest values too, which a signed view has as negative numbers.
        values = (values * torch.iinfo(dtype).max).round().to(torch.int32)
        values[0] = torch.iinfo(dtype).max
    images = values.to(dtype)
    steps, seen = steps_of(config, images), []
    steps.trainer.step = lambda batch, iteration, eager, whole: seen.append(batch) or {}
    calls = steps.begin(0, 0)
    with Operations(torch.uint16) as operations:
        for call in calls:
            steps.run(*call)
    order = torch.cat([batch for batch, _, _ in calls]).cpu()
    torch.testing.assert_close(torch.cat(seen), to_unit(images.cpu()[order]).to(DEVICE), rtol=0, atol=0)
    assert operations.seen <= HARMLESS, "CUDA may not have these operations for uint16"


@pytest.mark.filterwarnings("default")  # torch.compile warns while it traces
@pytest.mark.parametrize("name, precision", [("simsid", "fp32"), ("squid", "bf16"), ("fastsquid", "bf16")])
def test_few_graphs_are_compiled(name, precision, monkeypatch):
    """Two epochs with a smaller last batch and a validation between them need one graph per kind of pass."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    config = preset(name, **FEW_LAYERS, batch_size=4)
    steps = steps_of(config, torch.rand(18, 1, 40, 40, device=DEVICE), compile=True, precision=precision)
    detector = steps.trainer.detector
    for epoch in range(2):
        for call in steps.begin(0, epoch):
            steps.run(*call)
        detector.eval().frozen().scores(torch.rand(2, 1, 40, 40, device=DEVICE))
    # The generator with gradients and teacher, and without either; the discriminator with gradients of its input and
    # without; and the generator's loss.
    assert counters["stats"]["unique_graphs"] == 5
    assert not counters["graph_break"]
    torch._dynamo.reset()


def test_a_last_batch_is_not_compiled(monkeypatch):
    """A batch size that occurs once per epoch is not worth a minute of compilation; a run of one batch is."""
    seen = []

    def noted(function, **_):
        def call(*given, **options):
            seen.append(len(next(each for each in given if torch.is_tensor(each))))
            return function(*given, **options)

        return call

    monkeypatch.setattr(torch, "compile", noted)
    config = preset("simsid-small", **SMALL, batch_size=4)
    for count, sizes in ((9, {4}), (3, {3})):
        seen.clear()
        steps = steps_of(config, torch.rand(count, 1, 64, 64), compile=True)
        for call in steps.begin(0, 0):
            steps.run(*call)
        assert set(seen) == sizes


CASES = {name: (name, {}) for name in PRESETS}
CASES |= {
    "gradient penalty": ("simsid", dict(gradient_penalty=1.0)),
    "spectral norm": ("squid", dict(spectral_norm=True)),
}
ABLATED = {f"{system} {row}": (system, ABLATIONS[system][row]) for system, row in ROWS}


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.heavy) for case in ABLATED)])
def test_the_host_reads_nothing(case, monkeypatch):
    """An epoch on the meta device, whose tensors have no values: whatever needs one raises."""
    from fastsquid.kernels import memory_read as kernels

    name, changes = (CASES | ABLATED)[case]
    config = preset(name, **changes)
    launched = []
    for operation in (memory_read, neighbor_attention):
        module = operation.__globals__
        monkeypatch.setitem(module, "device_reason", lambda x: None)
    monkeypatch.setattr(torch, "autocast", lambda *a, **o: contextlib.nullcontext())  # it knows no meta device

    def launch(kernel, grid):
        return lambda *arguments, **options: launched.append(kernel)

    impl = "torch" if config.shrinkage == "hard" else "triton"
    with mock.patch.object(type(kernels._dots), "__getitem__", launch):
        with torch.device("meta"):
            detector = Detector(config, impl).train()
        images = torch.zeros(config.batch_size + 1, 1, config.image_size, config.image_size, dtype=torch.uint8)
        steps = Steps(Trainer(detector), images.to("meta"))
        calls = steps.begin(0, 0)
        assert [(len(batch), i) for batch, i, _ in calls] == [(config.batch_size, 0), (1, 1)]  # with and without G
        for call in calls:
            steps.run(*call)
    assert bool(launched) == (impl == "triton" and any("memory" in n for n, _ in detector.named_modules()))


def test_a_host_read_is_noticed():
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(1, device="meta").item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        if torch.ones(1, device="meta") > 0:
            pass
