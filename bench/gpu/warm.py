"""Fills the compile cache, four configurations at a time: `python warm.py PHASE...`, the phases that follow.

A process per configuration takes the two kinds of step that are compiled; it is `python warm.py --one PRESET SELECTION
PRECISION`. A phase that finds nothing in the cache compiles for itself.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from phase import DEVICE
from torch._dynamo.utils import counters

from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.training.epoch import Steps
from fastsquid.training.trainer import Trainer
from fastsquid.utils.cli import stop_compile_workers

# What each phase compiles first; `published` is the rule that the published order of work can be compared by.
CONFIGURATIONS = {
    "step": [
        ("simsid", "published", "bf16"),
        ("simsid", "preset", "bf16"),
        ("squid", "published", "bf16"),
        ("simsid", "published", "fp32"),
    ],
    **{name: [(name, "preset", "bf16")] for name in ("fastsquid", "simsid", "squid", "memae", "auto-encoder")},
}


AT_ONCE = 4


def main(phases):
    """Exit code 1 if a configuration does not compile; a signal ends all of them."""
    if DEVICE.type != "cuda":
        print("nothing is compiled without a GPU")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    waiting = [each for phase in phases for each in CONFIGURATIONS.get(phase, ())]
    running, failed = [], 0
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(Compilation(waiting.pop(0)))
            time.sleep(0.1)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                failed |= each.report()
        return failed
    finally:
        for each in running:
            each.process.kill()


class Compilation:
    """A configuration that compiles in a process of its own."""

    def __init__(self, configuration):
        self.configuration, self.start = configuration, time.monotonic()
        self.output = tempfile.NamedTemporaryFile("w+", errors="replace")
        command = [sys.executable, __file__, "--one", *configuration]
        environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": str(max(1, (os.cpu_count() or 1) // AT_ONCE))}
        self.process = subprocess.Popen(command, env=environment, stdout=self.output, stderr=subprocess.STDOUT)

    def report(self):
        """Prints a line; 1 if it failed."""
        lines = Path(self.output.name).read_text(errors="replace").splitlines()
        failed = int(self.process.returncode != 0)
        verdict = "\n".join(["failed", *lines[-20:]]) if failed else lines[-1]
        print(f"{' '.join(self.configuration)}: {time.monotonic() - self.start:.0f} s, {verdict}", flush=True)
        return failed


def compile_one(name, selection, precision):
    config = preset(name) if selection == "preset" else preset(name, selection=selection)
    trainer = Trainer(Detector(config).to(DEVICE).train(), True, precision)
    images = torch.randint(256, (2 * config.batch_size, 1, config.image_size, config.image_size), dtype=torch.uint8)
    steps = Steps(trainer, images.to(DEVICE))
    trainer.set_epoch(0)
    for step in steps.begin(0, 0):  # one with the generator's step, one without
        steps.run(*step)
    torch.cuda.synchronize()
    found = counters["inductor"]
    print(f"{found['fxgraph_cache_hit']} graphs from the cache, {found['fxgraph_cache_miss']} compiled")
    stop_compile_workers()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        compile_one(*sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:]))
