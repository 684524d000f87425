"""Training: two iterations, as many as the cycle has (two steps of D, one of G), batch 16 at 128 x 128; an epoch of
ZhangLab's size; a whole run of 200 epochs.

`torch`, or `torch-bf16` where it multiplies bfloat16, is what the training command runs on a CPU. `compile` and
`compile-bf16` are what it runs on a GPU: compiled networks, every step one CUDA graph, augmentation within it. The
published order of work gets its images as they are, and PyTorch's own settings, which round a convolution's inputs to
TF32 on a GPU; so do all others here.
"""

import dataclasses

import pytest
import torch
from iterations import CASES, EPOCH, VALIDATION, Training, images_of, random_data, require_equal_losses
from timing import Samples, Variant

from fastsquid.model.detector import Detector
from fastsquid.runs.folder import create_run
from fastsquid.runs.records import RunRecord
from fastsquid.training.loop import Run

SMALLEST = pytest.param("smallest", marks=pytest.mark.smallest)
COMPILED = [pytest.param(name, marks=pytest.mark.large) for name in ("compile", "compile-bf16")]


@pytest.fixture
def default_precision():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("variant", ["published", "torch", "torch-bf16", "triton", *COMPILED])
@pytest.mark.parametrize("case", [SMALLEST, "squid", "simsid"])
def test_training_iteration(compare, device, default_precision, case, variant):
    config, batch = CASES[case]

    def build(names):
        images = images_of(batch, config, device)
        require_equal_losses(names, config, device, images)
        trainings = {name: Training(name, config, device, images, batch) for name in names}
        return {name: Variant(lambda i: None, lambda _, t=t: t.cycle()) for name, t in trainings.items()}

    compare(build, images=batch * config.generator_every)


@pytest.mark.large
@pytest.mark.parametrize("variant", ["published", "compile", "compile-bf16"])
def test_training_epoch(compare, device, default_precision, variant):
    config, batch = CASES["simsid"]

    def build(names):
        images = images_of(EPOCH, config, device)
        trainings = {name: Training(name, config, device, images, batch) for name in names}
        return {name: Variant(lambda i: None, lambda _, t=t: t.epoch()) for name, t in trainings.items()}

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
    data = random_data(config, images, validation)
    torch.manual_seed(0)
    folder = tmp_path / "run"
    create_run(folder, RunRecord(config, data=None, seed=0, fingerprint=""))
    run = Run(folder, Detector(config).to(device), data, 0, compile=device.type == "cuda", precision="bf16")
    assert run.train()  # to its end
    seconds = run.state.seconds - run.state.first_step_seconds
    record(Samples([seconds], [seconds], None), images=images * epochs, dtype="bfloat16")
