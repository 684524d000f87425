"""PRESET [FIELD=VALUE...]: steps as CUDA graphs, without torch.compile; both precisions, and images of every dtype."""

import dataclasses
import sys

import stand_in
import torch

from fastsquid.config import ABLATIONS, Config, preset
from fastsquid.model.detector import Detector
from fastsquid.training.epoch import WARM_UP, Steps
from fastsquid.training.trainer import Trainer

stand_in.without_compiling()
name, *changes = sys.argv[1:]
if changes == ["ablations"]:
    cases = {row: fields for row, fields in ABLATIONS[name].items()}
else:
    types = {field.name: field.type for field in dataclasses.fields(Config)}
    fields = {field: types[field](value) for field, value in (change.split("=") for change in changes)}
    cases = {" ".join(changes) or "as it is": fields}

for label, fields in cases.items():
    config = preset(name, width=4, **fields)
    shape = 4 * config.batch_size + 1, 1, config.image_size, config.image_size
    for precision, dtype in (("fp32", torch.uint8), ("bf16", torch.uint16), ("bf16", torch.float32)):
        trainer = Trainer(Detector(config).to("cuda").train(), compile=True, precision=precision)
        steps = Steps(trainer, torch.zeros(shape, device="cuda").to(dtype))
        for epoch in range(WARM_UP + 1):  # cutpaste steps the generator once in each
            trainer.set_epoch(epoch)
            for step in steps.begin(0, epoch):
                steps.run(*step)
        graphs = {kind: captured.graph is not None for kind, captured in steps.graphs.items()}
        kinds = {step % config.generator_every == 0 for step in range(4)}
        assert graphs == dict.fromkeys(kinds, True), graphs
        print(name, label, precision, dtype, "captured", flush=True)
