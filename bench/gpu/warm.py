"""Fills the compile cache, four configurations at a time: `python warm.py PHASE...`, the phases that follow.

A process per configuration takes the two kinds of step that are compiled; it is `python warm.py --one PRESET SELECTION
PRECISION`. A phase that finds nothing in the cache compiles for itself.
"""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from phase import DEVICE

from fastsquid.config import preset
from fastsquid.model import Detector
from fastsquid.steps import Steps
from fastsquid.training import Trainer

# What each phase compiles first; `published` is the rule that the published order of work can be compared by.
CONFIGURATIONS = {
    "step": [("simsid", "published", "bf16"), ("squid", "published", "bf16"), ("simsid", "published", "fp32")],
    **{name: [(name, "preset", "bf16")] for name in ("fastsquid", "simsid", "squid", "memae", "auto-encoder")},
}


def main(phases):
    """Exit code 1 if a configuration does not compile."""
    if DEVICE.type != "cuda":
        print("nothing is compiled without a GPU")
        return 0
    configurations = [each for phase in phases for each in CONFIGURATIONS.get(phase, ())]
    with ThreadPoolExecutor(4) as pool:
        return max(pool.map(one_process, configurations), default=0)


def one_process(configuration):
    """Compiles in a process of its own; prints a line."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, __file__, "--one", *configuration], capture_output=True, text=True)
    verdict = "compiled" if done.returncode == 0 else f"failed: {done.stderr[-1500:]}"
    print(f"{' '.join(configuration)}: {verdict}, {time.monotonic() - start:.0f} s", flush=True)
    return int(done.returncode != 0)


def compile_one(name, selection, precision):
    config = preset(name) if selection == "preset" else preset(name, selection=selection)
    trainer = Trainer(Detector(config).to(DEVICE).train(), True, precision)
    images = torch.randint(256, (2 * config.batch_size, 1, config.image_size, config.image_size), dtype=torch.uint8)
    steps = Steps(trainer, images.to(DEVICE))
    trainer.set_epoch(0)
    for step in steps.begin(0, 0):  # one with the generator's step, one without
        steps.run(*step)
    torch.cuda.synchronize()


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        compile_one(*sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:]))
