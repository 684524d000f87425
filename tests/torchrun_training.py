"""What a job of processes computes, or a process alone: written by each into a file of its own."""

from pathlib import Path

import torch

from fastsquid import SpaceAwareMemory
from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.training.epoch import Steps
from fastsquid.training.trainer import Trainer
from fastsquid.utils import distributed

SMALL = dict(image_size=64, width=2, slots=24, shift=0.0, zoom=0.0, lr=1e-3)
EXACT = dict(SMALL, shortcut=1.0, sync_batchnorm=True)
# Batches of 16 and a last one of 5, which two processes share as 3 and 2.
CASES = {
    "squid": preset("squid-small", batch_size=16, **EXACT),
    "simsid": preset("simsid-small", batch_size=16, **EXACT),
    "penalty": preset("squid-small", batch_size=16, gradient_penalty=0.1, generator_every=1, **EXACT),
}
IMAGES = 21


def train(config):
    """An epoch in float64: losses and gradients of every step, and the detector that it ends with."""
    torch.manual_seed(0)
    images = torch.rand(IMAGES, 1, 64, 64, dtype=torch.float64)
    trainer, found = Trainer(Detector(config).double()), []
    for batch, iteration, _ in Steps(trainer, images).begin(0, 0):
        losses = trainer.step(images[batch], iteration)
        found.append(
            {
                "losses": {name: distributed.mean(loss) for name, loss in losses.items()},
                "gradients": [p.grad.clone() for p in trainer.detector.parameters() if p.grad is not None],
            }
        )
    return {"steps": found, "state": trainer.detector.state_dict()}


def remember():
    """A queue of 7 that several batches are written into, one of them larger than it is and some shared unevenly."""
    generator = torch.Generator().manual_seed(0)
    memory = SpaceAwareMemory(3, 7, 4, kind="queue").train()
    for size in (4, 5, 2, 16, 3):
        memory(distributed.part(torch.randn(size, 3, 4, generator=generator)))
        memory.commit()
    return memory.state_dict()


def epoch():
    """Of two epochs the images of every step and the seed that it draws from."""
    steps = Steps(Trainer(Detector(preset("squid-small", batch_size=6, **SMALL))), torch.rand(25, 1, 64, 64))
    return [[(batch.tolist(), seed) for batch, _, seed in steps.begin(7, number)] for number in range(2)]


def apart():
    """A statistic that differs between processes, after a training pass of images that are all black."""
    layer = torch.nn.BatchNorm2d(1)
    network = distributed.parallel(layer)
    layer.running_mean.fill_(10.0 * distributed.rank())
    network(torch.zeros(2, 1, 2, 2))
    return layer.running_mean


def main(arguments):
    (folder,) = arguments
    result = {name: train(config) for name, config in CASES.items()}
    result |= {"queue": remember(), "epoch": epoch(), "apart": apart()}
    torch.save(result, Path(folder) / f"{distributed.rank()}-of-{distributed.world()}.pt")
