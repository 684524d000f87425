"""`python bench/threads.py DATA CSV`: what threads cost on a machine that another job shares.

Times an epoch of `fastsquid-small`, and `export --verify` of its run, alone and beside one busy process per core
(`--others 0 1` beside none and one): with idle threads that spin, that sleep at once, that sleep soon (what commands
set), and with one thread. `--settings soon` measures one of them. `--times 3` takes the median of three.
"""

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rows import device_name

from fastsquid.utils.threads import available_cores

SETTINGS = {
    "spin": {"OMP_WAIT_POLICY": "ACTIVE"},
    "unset": {},  # as in a Python program of the user
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "soon": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"},
    "one thread": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
}
BUSY = "while True: pass"
# Without the command, which would set the policy itself.
MAIN = "import sys, torch; from fastsquid import {0}; sys.exit({0}.main(sys.argv[1:]))"


def run(command, environment, *arguments):
    """Seconds of a command."""
    chosen = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    ours = {name: value for name, value in os.environ.items() if name not in chosen}
    start = time.perf_counter()
    call = [sys.executable, "-c", MAIN.format(command), *map(str, arguments)]
    subprocess.run(call, env=ours | environment, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(environment, data, folder):
    """Seconds of an epoch, and of an export with its comparison."""
    options = ["--preset", "fastsquid-small", "--epochs", "1", "--device", "cpu", "--compile", "off"]
    run("train", environment, "--data", data, "--out", folder / "run", *options)
    (line,) = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    export = run("export", environment, folder / "run", "--to", "pt2", "--out", folder / "file.pt2", "--verify")
    return json.loads(line)["seconds"], export


@contextlib.contextmanager
def busy(number):
    """As many processes that compute for nobody."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of X-rays")
    parser.add_argument("out", type=Path)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--others", type=int, nargs="+", default=[0, available_cores()], help="busy processes")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()

    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("other processes", "threads", "epoch, s", "export --verify, s", "cores", "device", "torch"))
        for others in options.others:
            for name in options.settings:
                environment = SETTINGS[name]
                with busy(others), tempfile.TemporaryDirectory() as folder:
                    found = [measure(environment, options.data, Path(folder) / str(i)) for i in range(options.times)]
                seconds = [f"{median(each):.1f}" for each in zip(*found)]
                writer.writerow(
                    (
                        others,
                        name,
                        *seconds,
                        available_cores(),
                        device_name(torch.device("cpu")).rsplit(" ", 2)[0],
                        torch.__version__,
                    )
                )
                file.flush()
                print(others, name, *seconds, flush=True)


if __name__ == "__main__":
    main()
