"""Scoring a batch of tensors: what the score command does between decoding and writing."""

import baselines
import pytest
import torch
from cases import SMALLEST_MODEL
from operations import AGREE, require_close
from timing import Variant

from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.utils.devices import multiplies_bfloat16

CASES = {
    "smallest": (SMALLEST_MODEL, 2),
    "squid 16": (preset("squid", selection="published"), 16),
    "simsid 16": (preset("simsid", selection="published"), 16),
    "simsid 1024": (preset("simsid", selection="published"), 1024),
}
MARKS = {"smallest": pytest.mark.smallest, "simsid 1024": pytest.mark.large}


@pytest.mark.parametrize("variant", ["published", "torch", "triton"])
@pytest.mark.parametrize("case", [pytest.param(case, marks=MARKS.get(case, ())) for case in CASES])
def test_scoring(compare, device, case, variant):
    measure(compare, device, case, "float32")


@pytest.mark.parametrize("variant", ["torch", "triton"])
@pytest.mark.parametrize("case", [pytest.param(case, marks=MARKS.get(case, ())) for case in CASES])
def test_scoring_bfloat16(compare, device, case, variant):
    if case.endswith(" 16") and not multiplies_bfloat16(device):
        pytest.skip("the CPU emulates bfloat16")
    measure(compare, device, case, "bfloat16")


def measure(compare, device, case, dtype):
    config, batch = CASES[case]

    def build(names):
        size = config.image_size
        images = torch.rand(batch, 1, size, size, device=device)
        # In float32 rounding alone makes small logits differ.
        few, expected = images[:2].double(), None
        for name in names:
            found = scoring(name, config, device, torch.float64)(few)
            expected = found if expected is None else expected
            require_close(name, [found], [expected], AGREE)
        runs = {name: scoring(name, config, device, torch.float32, dtype == "bfloat16") for name in names}
        if dtype == "bfloat16":
            expected = scoring(names[0], config, device, torch.float32)(images)
            for name, run in runs.items():
                require_close(name, [run(images)], [expected], 0.05)
        return {name: Variant(lambda i: None, lambda _, run=run: run(images)) for name, run in runs.items()}

    compare(build, images=batch, dtype=dtype)


def scoring(name, config, device, dtype, half=False):
    """A function that scores images of a dtype by an order of work; all have the same weights."""
    torch.manual_seed(0)
    detector = Detector(config, name if name == "triton" else "torch")
    memory = detector.generator.inpaint.memory
    if memory.kind == "queue":
        memory.bank.normal_(0, 0.1)
        memory.filled.fill_(memory.num_slots)
    detector = detector.to(device, dtype).eval()
    if name == "published":
        generator = baselines.Generator(detector.generator).eval()
        detector.discriminator.train()
        return lambda images: baselines.scores(detector, generator, images)
    frozen = detector.frozen(half)
    return lambda images: frozen.scores(images)[0]["discriminator"]
