"""PRESET: an eager epoch, scores, and a checkpoint that another trainer goes on from; in float32 and bfloat16."""

import sys
import tempfile
from pathlib import Path

import stand_in  # noqa: F401
import torch

from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.runs import checkpoint
from fastsquid.runs.records import CheckpointState
from fastsquid.training.epoch import Steps
from fastsquid.training.trainer import Trainer

config = preset(sys.argv[1])
images = torch.zeros(4 * config.batch_size + 1, 1, config.image_size, config.image_size, dtype=torch.uint8)
images = images.to("cuda")


def trainer(precision):
    made = Trainer(Detector(config).to("cuda").train(), precision=precision)
    optimizers = {"generator": made.generator_optimizer, "discriminator": made.discriminator_optimizer}
    return made, {name: optimizer for name, optimizer in optimizers.items() if optimizer is not None}


def train(trainer, epoch):
    steps = Steps(trainer, images)
    trainer.set_epoch(epoch)
    for step in steps.begin(0, epoch):
        steps.run(*step)
    steps.totals(5)


for precision in ("fp32", "bf16"):
    first, optimizers = trainer(precision)
    train(first, 0)
    scores, _ = first.evaluated.eval().frozen(precision == "bf16").scores(images[:8] / 255)
    assert all(values.shape == (8,) and values.is_cuda for values in scores.values())
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        state = CheckpointState(config.to_dict())
        checkpoint.save_checkpoint(folder, state, first.evaluated.state_dict(), optimizers)
        latest = checkpoint.latest_checkpoint(folder)
        state = checkpoint.read_state(latest, config)
        second, optimizers = trainer(precision)
        checkpoint.load_detector(second.evaluated, latest, state, "last")
        checkpoint.load_optimizers(optimizers, latest, state)
    train(second, 1)
    print(sys.argv[1], precision, "trained, scored, saved and resumed")
