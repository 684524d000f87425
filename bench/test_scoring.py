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
        images = torch.rand(batch, 1, config.image_size, config.image_size, device=device)
        variants, expected = {}, None
        for name in names:
            torch.manual_seed(0)
            detector = Detector(config, name if name == "triton" else "torch").to(device)
            memory = detector.generator.inpaint.memory
            if memory.kind == "queue":
                memory.bank.normal_(0, 0.1)
                memory.filled.fill_(memory.num_slots)
            detector.eval()
            frozen = detector.frozen(half=dtype == "bfloat16")
            if name == "published":
                generator = baselines.Generator(detector.generator).eval()
                detector.discriminator.train()

                def run(_, detector=detector, generator=generator):
                    return baselines.scores(detector, generator, images)

            else:

                def run(_, detector=frozen):
                    return detector.scores(images)[0]["discriminator"]

            found = run(None)
            expected = found if expected is None else expected
            require_close(name, [found], [expected], AGREE if dtype == "float32" else 0.05)
            variants[name] = Variant(lambda i: None, run)
        return variants

    compare(build, images=batch, dtype=dtype)
