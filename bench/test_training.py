"""Training: two iterations, as many as the cycle has (two steps of D, one of G), batch 16 at 128 x 128; an epoch of
ZhangLab's size; a whole run of 200 epochs.

`compile` and `compile-bf16` are what the training command runs on a GPU: compiled networks, every step one CUDA graph,
augmentation within it. The published order of work gets its images as they are, and PyTorch's own settings, which round
a convolution's inputs to TF32 on a GPU; so do all others here.
"""

import dataclasses

import baselines
import pytest
import torch
from cases import SMALLEST_MODEL
from operations import AGREE, require_close
from timing import Samples, Variant

from fastsquid.checkpoint import create_run
from fastsquid.config import preset
from fastsquid.data import Split
from fastsquid.loop import Run
from fastsquid.model import Detector
from fastsquid.steps import Steps
from fastsquid.training import Trainer

CASES = {
    "smallest": (SMALLEST_MODEL, 2),
    "squid": (preset("squid", selection="published"), 16),
    "simsid": (preset("simsid", selection="published"), 16),
}
EPOCH, VALIDATION = 1241, 200  # ZhangLab's normal training images, and the validation split
SMALLEST = pytest.param("smallest", marks=pytest.mark.smallest)
COMPILED = [pytest.param(name, marks=pytest.mark.large) for name in ("compile", "compile-bf16")]


@pytest.fixture
def default_precision():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("variant", ["published", "torch", "triton", *COMPILED])
@pytest.mark.parametrize("case", [SMALLEST, "squid", "simsid"])
def test_training_iteration(compare, device, default_precision, case, variant):
    config, batch = CASES[case]

    def build(names):
        images = _images(batch, config, device)
        require_equal_losses(names, config, device, images)
        return {name: Variant(lambda i: None, _cycle(name, config, device, images)) for name in names}

    compare(build, images=batch * config.generator_every)


@pytest.mark.large
@pytest.mark.parametrize("variant", ["published", "compile", "compile-bf16"])
def test_training_epoch(compare, device, default_precision, variant):
    config, batch = CASES["simsid"]

    def build(names):
        images = _images(EPOCH, config, device)
        return {name: Variant(lambda i: None, _epoch(name, config, device, images, batch)) for name in names}

    compare(build, images=EPOCH)


@pytest.mark.parametrize(
    "case, epochs",
    [pytest.param("smallest", 2, marks=pytest.mark.smallest), pytest.param("simsid", 200, marks=pytest.mark.large)],
)
@pytest.mark.parametrize("variant", ["command"])
def test_training_run(record, device, tmp_path, default_precision, case, epochs, variant):
    """The training command, bf16, with validation in each epoch; without the first step. The steps of other kinds (D
    alone, the last batch) compile and are captured later, within the time."""
    config = dataclasses.replace(CASES[case][0], epochs=epochs)
    images, validation = (16, 8) if case == "smallest" else (EPOCH, VALIDATION)
    labels = torch.arange(validation) % 2
    names = [str(i) for i in range(max(images, validation))]
    data = {
        "train": Split(_images(images, config, "cpu"), None, names[:images]),
        "val": Split(_images(validation, config, "cpu"), labels, names[:validation]),
    }
    torch.manual_seed(0)
    folder = tmp_path / "run"
    create_run(folder, config, data=None, seed=0, skip_unreadable=False, fingerprint="")
    run = Run(folder, Detector(config).to(device), data, 0, compile=device.type == "cuda", precision="bf16")
    assert run.train()  # to its end
    seconds = run.state["seconds"] - run.state["first_step_seconds"]
    record(Samples([seconds], [seconds], None), images=images * epochs, dtype="bfloat16")


def _images(count, config, device):
    generator = torch.Generator().manual_seed(0)
    shape = count, 1, config.image_size, config.image_size
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)


def _trainer(name, config, device):
    torch.manual_seed(0)
    if name == "published":
        return baselines.Trainer(Detector(config, "torch").to(device).train())
    impl = name if name in ("torch", "triton") else "auto"
    precision = "bf16" if name.endswith("bf16") else "fp32"
    return Trainer(Detector(config, impl).to(device).train(), name.startswith("compile"), precision)


def _cycle(name, config, device, images):
    trainer = _trainer(name, config, device)
    if name.startswith("compile"):
        steps, everything = Steps(trainer, images), torch.arange(len(images), device=device)
        return lambda _: [steps.run(everything, i, i) for i in range(config.generator_every)]
    floats = images / 255
    return lambda _: [trainer.step(floats, i) for i in range(config.generator_every)]


def _epoch(name, config, device, images, batch):
    trainer = _trainer(name, config, device)
    batches = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(device).split(batch)
    if name == "published":
        return lambda _: [trainer.step(images[rows] / 255, i) for i, rows in enumerate(batches)]
    steps = Steps(trainer, images)
    return lambda _: [steps.run(rows, i, i) for i, rows in enumerate(batches)]


def require_equal_losses(names, config, device, images):
    """Losses of one iteration, with float32 products, without augmentation and without the masked shortcut, whose
    random numbers each order of work draws in its own order. A queue counts as full, as the published one does.
    """
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    expected = None
    for name in names:
        trainer = _trainer(name, dataclasses.replace(config, shortcut=1.0), device)
        memory = trainer.detector.generator.inpaint.memory
        if memory.kind == "queue":
            memory.bank.normal_(0, 0.1, generator=torch.Generator(device).manual_seed(1))
            memory.filled.fill_(memory.num_slots)
        losses = trainer.step(images / 255, 0)
        found = [torch.as_tensor(losses[key], dtype=torch.float64).cpu() for key in sorted(losses)]
        expected = expected or found
        require_close(name, found, expected, 0.05 if name.endswith("bf16") else AGREE)
    torch.backends.cudnn.allow_tf32 = tf32
