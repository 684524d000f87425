"""Scores of a small detector by torch.compile, in float32 and bfloat16."""

import stand_in  # noqa: F401
import torch

from fastsquid.config import preset
from fastsquid.model.detector import Detector

small = dict(image_size=40, width=4, levels=2, combine=1, skips=1, decoder_memory=1, grid=2, slots=7, heads=1)
detector = Detector(preset("simsid-small", **small)).to("cuda").eval()
images = torch.zeros(4, 1, 40, 40, device="cuda")
for half in (False, True):
    frozen = detector.frozen(half)
    scores, _ = torch.compile(frozen.scores)(images)
    assert all(values.shape == (4,) for values in scores.values())
    print("compiled")
