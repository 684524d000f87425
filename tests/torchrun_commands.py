"""Commands one after the other in every process of a job; in the second process something happens.

    torchrun --nproc-per-node=2 torchrun_commands.py EVENT:NUMBER COMMANDS

COMMANDS is a JSON list of [train|compute, argument, ...]. At the NUMBER-th training step, counted from 1 over all
commands, the second process is killed (EVENT `kill`) or hears Ctrl-C, alone (`interrupt`); never at 0, nor where
torchrun has started again. Runs draw no pictures, which take longer than the training.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from unittest import mock

import torch

from fastsquid import SpaceAwareMemory, train
from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.training import loop, results
from fastsquid.training.epoch import Steps
from fastsquid.training.trainer import Trainer
from fastsquid.utils import distributed
from fastsquid.utils.cli import run_command

# Batches of 16 and a last one of 5, which two processes share as 3 and 2.
EXACT = dict(image_size=64, width=2, slots=24, shift=0.0, zoom=0.0, lr=1e-3, shortcut=1.0, batch_size=16)
CASES = {
    "squid": preset("squid-small", **EXACT),
    "simsid": preset("simsid-small", **EXACT),
    # Both batches are written into the queue, which is smaller than the first.
    "penalty": preset("squid-small", **{**EXACT, "slots": 7, "gradient_penalty": 0.1, "generator_every": 1}),
}


def epoch(config):
    """An epoch in float64: losses and gradients of every step, and the detector that it ends with."""
    torch.manual_seed(0)
    images = torch.rand(21, 1, 64, 64, dtype=torch.float64)
    trainer, found = Trainer(Detector(config).double()), []
    batches = Steps(trainer, images).begin(0, 0)
    for layer in trainer.detector.modules():  # BatchNorm would normalize by a process's own images
        layer.training = not isinstance(layer, torch.nn.BatchNorm2d)
    for batch, iteration, _ in batches:
        losses = trainer.step(images[distributed.part(batch)], iteration, whole=len(batch))
        gradients = [p.grad.clone() for p in trainer.detector.parameters() if p.grad is not None]
        found.append(({name: distributed.mean(loss) for name, loss in losses.items()}, gradients))
    return {"steps": found, "state": trainer.detector.state_dict()}


@mock.patch("torch.distributed.all_gather_object", None)  # steps pickle nothing
def compute(arguments):
    found = {name: epoch(config) for name, config in CASES.items()}
    torch.save({**found, "uneven": uneven_queue()}, f"{arguments[0]}/{distributed.rank()}.pt")


def uneven_queue():
    """A queue that only the first process has queries for; all of them commit."""
    memory = SpaceAwareMemory(1, 8, 4, kind="queue")
    if not distributed.rank():
        memory(torch.arange(12.0).view(3, 1, 4))
    memory.commit()
    memory.commit()  # and one that no process has queries for
    return memory.state_dict()


def hang_up():
    """End all connections, as the system does for a process that is killed, and wait until the others have heard.

    Otherwise torchrun might end them before they do.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    time.sleep(5)


def watched(*arguments, step=Trainer.step, **options):
    global left
    left -= 1
    if left == 0 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        if event == "kill":
            hang_up()
        os.kill(os.getpid(), signal.SIGKILL if event == "kill" else signal.SIGINT)
    return step(*arguments, **options)


def run():
    mains = {"train": train.main, "compute": compute}
    return [mains[name](arguments) for name, *arguments in json.loads(sys.argv[2])][-1]


if __name__ == "__main__":
    event, number = sys.argv[1].split(":")
    left = int(number)
    loop.SAVE_SECONDS = 0  # a checkpoint after every epoch
    loop.STOP_STEPS = 2
    loop.draw_curves = results.draw_gallery = lambda *_: None
    Trainer.step = watched
    run_command(run)
