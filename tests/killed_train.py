"""Runs fastsquid.train again and again, each time in a fork that SIGKILL ends at a moment.

A line of standard input is JSON, [MOMENT, SECONDS, ARGUMENT...]: where to die, how often to save, what to train. A
MOMENT is PLACE:N, the N-th time (from 1) that the place is reached. Each line is answered by the fork's exit code.
One process imports everything once, which takes longer than a tiny training.
"""

import json
import os
import shutil
import signal
import sys
from functools import partial

from fastsquid import train
from fastsquid.runs import checkpoint
from fastsquid.training import loop
from fastsquid.training.trainer import Trainer
from fastsquid.utils.cli import run_command

place, left = "", 0


def here(name):
    """Dies if this is the moment."""
    global left
    if name == place:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)


def around(owner, attribute, before=None, after=None):
    original = getattr(owner, attribute)

    def wrapper(*arguments, **options):
        if before:
            here(before)
        result = original(*arguments, **options)
        if after:
            here(after)
        return result

    setattr(owner, attribute, wrapper)


def half_written(path, tensors, original=checkpoint._write_tensors):
    """Writes half of the file, and dies; else the whole."""
    digest = original(path, tensors)
    if place == "half-tensors":
        size = path.stat().st_size
        os.truncate(path, size // 2)
        here("half-tensors")
        return original(path, tensors)
    return digest


checkpoint._write_tensors = half_written
around(Trainer, "step", before="before-step", after="after-step")
around(loop, "validate", after="after-validation")
around(loop, "draw_curves", before="report")
around(os, "replace", before="half-replaced")  # of a file whose temporary is whole
around(checkpoint, "save_checkpoint", before="before-save")
around(os, "rename", before="before-rename", after="after-rename")
original_rmtree = shutil.rmtree


def half_removed(path, *arguments, **options):
    """Removes one file of an old checkpoint, and dies; else the whole."""
    if place == "half-removed" and os.path.isdir(path):
        os.remove(os.path.join(path, sorted(os.listdir(path))[0]))
        here("half-removed")
    original_rmtree(path, *arguments, **options)


shutil.rmtree = half_removed

for line in sys.stdin:
    moment, loop.SAVE_SECONDS, *arguments = json.loads(line)
    place, number = moment.split(":")
    left = int(number)
    if not (process := os.fork()):
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # which is for answers
        run_command(partial(train.main, arguments))
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
