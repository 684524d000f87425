"""Two training iterations, as many as the cycle has (two steps of D, one of G): batch 16 at 128 x 128."""

import dataclasses

import baselines
import pytest
import torch
from operations import require_close
from timing import Variant

from fastsquid.config import preset
from fastsquid.model import Detector
from fastsquid.training import Trainer

CASES = {
    "smallest": (preset("simsid", image_size=64, width=4, slots=8, heads=1, selection="published"), 2),
    "squid": (preset("squid", selection="published"), 16),
    "simsid": (preset("simsid", selection="published"), 16),
}
COMPILED = pytest.param("compile", marks=pytest.mark.large)


@pytest.mark.parametrize("variant", ["published", "torch", "triton", COMPILED])
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.smallest if case == "smallest" else ()) for case in CASES]
)
def test_training_iteration(compare, device, case, variant):
    config, batch = CASES[case]

    def build(names):
        images = torch.rand(batch, 1, config.image_size, config.image_size, device=device)
        variants, expected = {}, None
        for name in names:
            trainer = _trainer(name, config, device)
            found = _first_losses(name, config, device, images)
            expected = expected or found
            require_close(name, found, expected)

            def run(_, trainer=trainer):
                for iteration in range(config.generator_every):
                    trainer.step(images, iteration)

            variants[name] = Variant(lambda i: None, run)
        return variants

    compare(build, images=batch * config.generator_every)


def _trainer(name, config, device):
    torch.manual_seed(0)
    detector = Detector(config, "triton" if name == "triton" else "torch").to(device).train()
    if name == "published":
        return baselines.Trainer(detector)
    return Trainer(detector, compile=name == "compile")


def _first_losses(name, config, device, images):
    """Losses of one iteration without the masked shortcut, whose random numbers each order of work draws in its own
    order. A queue counts as full, as the published one does.
    """
    trainer = _trainer(name, dataclasses.replace(config, shortcut=1.0), device)
    memory = trainer.detector.generator.inpaint.memory
    if memory.kind == "queue":
        memory.bank.normal_(0, 0.1, generator=torch.Generator(device).manual_seed(1))
        memory.filled.fill_(memory.num_slots)
    losses = trainer.step(images, 0)
    return [torch.as_tensor(losses[key], dtype=torch.float64).cpu() for key in sorted(losses)]
