"""Commands one after the other in every process of a job; in the second process something happens.

    torchrun --nproc-per-node=2 torchrun_commands.py EVENT:NUMBER COMMANDS

COMMANDS is a JSON list of [train|compute, argument, ...], `compute` being torchrun_training.py. At the NUMBER-th
training step, counted from 1 over all commands, the second process is killed (EVENT `kill`) or hears
Ctrl-C, alone (`interrupt`); never at 0, nor where torchrun has started again. Runs draw no pictures, which take longer
than the training.
"""

import json
import os
import signal
import sys

import torchrun_training

from fastsquid import train
from fastsquid.training import loop, results
from fastsquid.training.trainer import Trainer
from fastsquid.utils.cli import run_command

event, number = sys.argv[1].split(":")
loop.SAVE_SECONDS = 0  # a checkpoint after every epoch
loop.draw_curves = results.draw_gallery = lambda *_: None
done = 0


def watched(original):
    def wrapper(*arguments):
        global done
        done += 1
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if done == int(number) and first and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL if event == "kill" else signal.SIGINT)
        return original(*arguments)

    return wrapper


Trainer.step = watched(Trainer.step)
modules = {"train": train, "compute": torchrun_training}


def main():
    codes = [modules[name].main(arguments) for name, *arguments in json.loads(sys.argv[2])]
    return codes[-1]


run_command(main)
