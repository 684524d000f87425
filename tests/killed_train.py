"""Runs fastsquid.train in this process and kills it with SIGKILL at the moment named first.

    python killed_train.py MOMENT ARGUMENTS...

A MOMENT is PLACE:N, the N-th time (from 1) that the place is reached.
"""

import os
import shutil
import signal
import sys

from fastsquid import checkpoint, loop, plots, train
from fastsquid.cli import run_command
from fastsquid.training import Trainer

place, number = sys.argv[1].split(":")
reached = 0


def here(name):
    """Dies if this is the moment."""
    global reached
    if name == place:
        reached += 1
        if reached == int(number):
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


loop.SAVE_SECONDS = float(os.environ.get("SAVE_SECONDS", 0))  # 0: a checkpoint after every epoch
checkpoint._write_tensors = half_written
around(Trainer, "step", before="before-step", after="after-step")
around(loop, "validate", after="after-validation")
around(plots, "curves", before="report")
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
run_command(lambda: train.main(sys.argv[2:]))
