"""PRESET PRECISION: compiled and captured training over four epochs; prints what there was to compile."""

import json
import os
import sys
from pathlib import Path

import stand_in  # noqa: F401
import torch
from torch._dynamo.utils import counters

from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.training.epoch import WARM_UP, Steps
from fastsquid.training.trainer import Trainer

name, precision = sys.argv[1:]
config = preset(name)
trainer = Trainer(Detector(config).to("cuda").train(), compile=True, precision=precision)
shape = 4 * config.batch_size + 9, 1, config.image_size, config.image_size
steps = Steps(trainer, torch.zeros(shape, dtype=torch.uint8, device="cuda"))
for epoch in range(WARM_UP + 1):  # cutpaste steps the generator once in each
    trainer.set_epoch(epoch)
    for step in steps.begin(0, epoch):
        steps.run(*step)
    trainer.evaluated.eval().frozen().scores(torch.zeros(2, *shape[1:], device="cuda"))
code = [path.read_text() for path in Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.py")]
result = {
    "graphs": counters["stats"]["unique_graphs"],
    "breaks": len(counters["graph_break"]),
    "captured": sum(captured.graph is not None for captured in steps.graphs.values()),
    "kinds": len({step % config.generator_every == 0 for step in range(4)}),
    "kernels": sum("@triton.jit" in text for text in code),
    "atomics": sum("tl.atomic_add" in text for text in code),
}
print(json.dumps(result))
