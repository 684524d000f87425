"""Whole models against numbers that the published code computed (width 4, 64 x 64, 20 slots), in float64; with the
operations in PyTorch and as Triton kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEVICE

from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.model.published import discriminator_state, generator_state
from fastsquid.ops.dispatch import HAS_TRITON
from fastsquid.training.losses import generator_loss

GOLDEN = Path(__file__).parent / "golden"
MODELS = {
    "squid_grid2": ("squid", dict(memory="queue")),
    "simsid_matrix_grid2": ("simsid", dict(memory="matrix")),
    "simsid_queue_grid2": ("simsid", dict(memory="queue")),
}


class Golden:
    """One file's numbers, and our model after the same training pass."""

    def __init__(self, name, impl):
        device = DEVICE if impl == "triton" else "cpu"
        arrays = np.load(GOLDEN / f"{name}.npz")
        self.arrays = {
            key: torch.from_numpy(arrays[key]).to(device, torch.float64 if arrays[key].dtype == np.float32 else None)
            for key in arrays.files
        }
        self.system, changes = MODELS[name]
        config = preset(f"{self.system}-published", width=4, image_size=64, slots=20, shortcut=1.0, **changes)
        self.detector = Detector(config, impl).double().to(device)
        state = self.ours("generator/")
        if config.memory == "queue":  # a published queue counts as full
            state |= {"inpaint.memory.pointer": torch.tensor(0), "inpaint.memory.filled": torch.tensor(20)}
        self.detector.generator.load_state_dict(state)
        self.detector.discriminator.load_state_dict(discriminator_state(self.part("discriminator/")))

        self.images = self.arrays["x"]
        self.detector.train()
        self.out = self.detector.generator(self.images, teacher=True)
        self.logits = self.detector.discriminator(self.out.student)
        self.loss, self.parts = generator_loss(config, self.images, self.out, self.logits)
        self.loss.backward()
        self.detector.generator.commit()

    def part(self, prefix):
        return {key[len(prefix) :]: value for key, value in self.arrays.items() if key.startswith(prefix)}

    def ours(self, prefix):
        return generator_state(self.part(prefix), self.system, levels=4)


RUNS = [(name, impl) for impl in ("torch", "triton") for name in MODELS]
# The kernels read a queue and a matrix; a second system with a queue shows little more of them.
RUNS[-1] = pytest.param(RUNS[-1], marks=pytest.mark.heavy)


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def golden(request):
    if "triton" in request.param and not HAS_TRITON:
        pytest.skip("needs Triton")
    return Golden(*request.param)


def close(ours, theirs, relative, absolute=0.0):
    bound = relative * theirs.abs().max().item() + absolute
    assert (ours.detach() - theirs).abs().max().item() <= bound


@pytest.mark.parametrize("name", ["recon", "teacher_recon", "dist_loss", "discriminator_logit", "generator_loss"])
def test_training_outputs(golden, name):
    ours = {
        "recon": golden.out.student,
        "teacher_recon": golden.out.teacher,
        "dist_loss": golden.parts["distillation"],
        "discriminator_logit": golden.logits[:, None],
        "generator_loss": golden.loss,
    }[name]
    theirs = golden.arrays[f"train/{name}"]
    assert ours.shape == theirs.shape
    close(ours, theirs, 1e-5)


def test_every_gradient(golden):
    theirs = golden.part("train/grad/")
    # The published key bias has a gradient of zero: that is why we have none.
    key_bias = theirs["inpaint_block.attention.in_proj_bias"].chunk(3)[1]
    assert key_bias.abs().max() <= 1e-9
    expected = generator_state(theirs, golden.system, levels=4)
    ours = {name: p.grad for name, p in golden.detector.generator.named_parameters()}
    assert set(expected) == set(ours)
    # Nor do we train the bias of a convolution before BatchNorm, which subtracts it again.
    untrained = {name for name, grad in ours.items() if grad is None}
    assert untrained and all(name.endswith(".bias") for name in untrained)
    for name in untrained:
        assert expected[name].abs().max() <= 1e-5 * expected[name.replace("bias", "weight")].abs().max(), name
        del ours[name]
    for name, grad in ours.items():
        assert grad.shape == expected[name].shape, name
        assert (grad - expected[name]).abs().max() <= 1e-3 * expected[name].abs().max() + 1e-9, name
    assert sum(grad.abs().max() > 1e-9 for grad in ours.values()) > 100


def test_banks_after_the_queue_write(golden):
    expected = generator_state(golden.part("after_step/"), golden.system, levels=4)["inpaint.memory.bank"]
    bank = golden.detector.generator.inpaint.memory.bank
    assert torch.equal(bank.detach().float(), expected.float())
    if golden.detector.config.memory == "queue":
        before = golden.ours("generator/")["inpaint.memory.bank"]
        assert not torch.equal(before, expected)
        assert golden.detector.generator.inpaint.memory.pointer == 3


def test_eval_after_the_pass(golden):
    golden.detector.eval()
    buffers = golden.part("eval/buffer/")
    buffers = generator_state({k: v for k, v in buffers.items() if "memMatrix" not in k}, golden.system, levels=4)
    ours = dict(golden.detector.generator.named_buffers())
    assert len(buffers) == 82  # mean and variance of 41 BatchNorms
    for name, theirs in buffers.items():
        close(ours[name].double(), theirs.double(), 1e-5)
    with torch.no_grad():
        student = golden.detector.generator(golden.images).student
        logits = golden.detector.discriminator(student, norm="image")
    close(student, golden.arrays["eval/recon"], 1e-5)
    close(logits[:, None], golden.arrays["eval/logit_batch_of_one"], 1e-5)
    # The same number one image at a time, and as the anomaly score.
    alone = torch.cat([golden.detector.discriminator(image[None], norm="image") for image in student])
    close(alone, logits, 1e-12)
    scores, _ = golden.detector.scores(golden.detector.from_range(golden.images))
    close(-scores["discriminator"], logits, 1e-9)
