"""Phases that train: `python train.py PRESET`, three seeds beside each other on one device.

Each seed is a process of the training command: while one prepares, validates or writes, the others use the device.
What comes back is OUT/PRESET.tar.gz: configuration, metrics of every epoch, scores, summaries and curves; of seed 0
what t-SNE is drawn from; of `fastsquid` the discriminators; no other weights. The runs stay in $WORK/PRESET.

fastsquid trains its 12 epochs, every other preset as many of its own as the phase has time for. How long an epoch takes
is what phase `step` measured in this run, times the seeds, or the first epochs of all seeds, which are then given up.
"""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from collect import collect, keep
from phase import DEVICE, OUT, SMALLEST, data_folder, left
from safetensors.torch import save_file

from fastsquid.config import preset
from fastsquid.data import open_data
from fastsquid.drawing.papers import POINTS, read_memory
from fastsquid.runs.folder import is_finished, read_group
from fastsquid.runs.group import create_group
from fastsquid.runs.records import GroupRecord
from fastsquid.runs.trained import load_run
from fastsquid.training.results import report_group
from fastsquid.utils.files import replacing

EPOCHS = {"squid": 1000}  # which its authors advise
SMALL = dict(image_size=64, width=2, discriminator_width=4, epochs=2, batch_size=4)
OPTIONS = ["--device", "cpu"] if SMALLEST else []
# Seconds for what is no epoch: starting and compiling, then scores, maps, pictures and packing.
BEGIN, END = (4, 6) if SMALLEST else (35, 40)
PROBE, WARMING = 4, 2  # epochs that show how long one takes, and how many of them compile and capture
STOPPING = 12  # seconds for a seed that is stopped to save, and for packing
LARGEST = 16 * 2**20  # bytes of a file that comes back


def main(name):
    seeds = [int(seed) for seed in os.environ.get("SEEDS", "0 1 2").split()]
    if SMALLEST:
        seeds = seeds[:2] if name == "fastsquid" else seeds[:1]  # what two have shown
    config = preset(name, **(SMALL if SMALLEST else {}))
    work = Path(os.environ["WORK"]) / name
    if name != "fastsquid":
        most = config.epochs if SMALLEST else EPOCHS.get(name, config.epochs)
        seconds = measured_epoch(name, seeds) or probed_epoch(config, seeds, work.with_name(f"{name}-probe"))
        epochs = max(1, min(most, int((left() - BEGIN - END) / seconds)))
        print(f"{name}: {seconds:.2f} s for an epoch of {len(seeds)} seeds, so {epochs} of {most} epochs", flush=True)
        config = dataclasses.replace(config, epochs=epochs)
    processes = start(config, seeds, work)
    while any(process.poll() is None for process in processes) and left() > STOPPING:
        time.sleep(0.1)
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # it saves
    while any(process.poll() is None for process in processes) and left() > STOPPING / 2:
        time.sleep(0.1)
    kill(processes)
    for seed in seeds:
        lines = (work / f"{seed}.log").read_text(errors="replace").splitlines()
        print(f"{name}, seed {seed}: {lines[-1] if lines else 'no output'}")
        if not is_finished(work / f"seed-{seed}"):
            print("\n".join(lines[-15:]))
    finished = [seed for seed in seeds if is_finished(work / f"seed-{seed}")]
    if finished == seeds:
        report_group(work)
    pack(name, work, seeds, finished)
    return int(finished != seeds)


def measured_epoch(name, seeds):
    """Seconds for an epoch of all seeds after what phase `step` measured of one, or None: they share the device."""
    try:
        with open(OUT / "step.csv", newline="") as file:
            rows = [r for r in csv.DictReader(file) if (r["case"], r["variant"]) == (name, "command")]
    except FileNotFoundError:
        return None
    return len(seeds) * float(rows[0]["p50_ms"]) / 1e3 if rows else None


def probed_epoch(config, seeds, work):
    """Seconds for an epoch of all seeds beside each other; what the slowest of them takes once it is warm."""
    processes = start(dataclasses.replace(config, epochs=1000), seeds, work)

    def ends(seed):
        path = work / f"seed-{seed}" / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["seconds"] for line in lines[:PROBE] if line.endswith("}")]

    while left() > END:
        if all(len(ends(seed)) == PROBE for seed in seeds):
            break
        if any(process.poll() is not None for process in processes):
            kill(processes)
            sys.exit(f"error: a seed of {config.preset} ended: {(work / '0.log').read_text(errors='replace')[-1500:]}")
        time.sleep(0.1)
    kill(processes)
    times = [ends(seed) for seed in seeds]
    if min(map(len, times)) < PROBE:
        sys.exit(f"error: {PROBE} epochs of {config.preset} have not ended in time")
    shutil.rmtree(work)
    return max((end[-1] - end[WARMING - 1]) / (PROBE - WARMING) for end in times)


def start(config, seeds, work):
    """A process for each seed of a new group; its output goes to SEED.log."""
    work.parent.mkdir(parents=True, exist_ok=True)
    create_group(work, GroupRecord(config, str(data_folder().resolve()), seeds))
    processes = []
    for seed in seeds:
        command = [sys.executable, "-m", "fastsquid.train", "--resume", work, "--only", seed, *OPTIONS]
        with open(work / f"{seed}.log", "w") as log:
            processes.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT))
    return processes


def kill(processes):
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def pack(name, work, seeds, finished):
    """Write OUT/NAME.tar.gz: first what is small, so that it is there, then again with tensors."""
    packed = work.with_name(f"{name}-packed")
    shutil.rmtree(packed, ignore_errors=True)
    if finished:
        collect(work, packed, more=["curves.png"])
    for seed in set(seeds) - set(finished):  # metrics up to where it was stopped
        if (work / f"seed-{seed}").is_dir():
            keep(work / f"seed-{seed}", packed / f"seed-{seed}-unfinished")
    packed.mkdir(exist_ok=True)
    write_archive(name, packed)
    try:
        added = [path for seed in finished for path in add_tensors(name, work, seed, seed == seeds[0], packed)]
        if added and write_archive(name, packed) > LARGEST:
            print(f"WARNING: {name}.tar.gz is over {LARGEST / 2**20:.0f} MiB, so it comes without {added[0].name}")
            for path in added:
                path.unlink()
            write_archive(name, packed)
    except Exception as error:  # the small files are packed already
        print(f"WARNING: {name}.tar.gz holds no tensors: {type(error).__name__}: {error}")
    size = (OUT / f"{name}.tar.gz").stat().st_size
    print(f"{OUT / name}.tar.gz: {size / 2**20:.1f} MiB, seeds {finished} of {seeds} finished")


def write_archive(name, packed):
    """Pack a folder, and return the bytes of the archive."""
    path = OUT / f"{name}.tar.gz"
    with replacing(path, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(packed, name)
    return path.stat().st_size


def add_tensors(name, work, seed, first, packed):
    """Add the discriminator of `fastsquid`, or what t-SNE needs of the first seed of another preset; return paths."""
    if name != "fastsquid" and not first:
        return []
    detector = load_run(work / f"seed-{seed}", device=DEVICE).detector
    if name == "fastsquid":
        path = packed / f"seed-{seed}" / "discriminator.safetensors"
        save_file({key: value.cpu().contiguous() for key, value in detector.discriminator.state_dict().items()}, path)
        return [path]
    if detector.generator.inpaint is None:
        return []
    path = packed / f"seed-{seed}" / "memory.npz"
    save_memory(detector, read_group(work), path)
    return [path]


def save_memory(detector, group, path):
    """Save what t-SNE is drawn from, at most POINTS of each: slots (R, N, C), validation queries (M, R, C)."""
    data = open_data(group.data, detector.config.image_size, 0, crop=detector.config.crop)
    images = data["val" if "val" in data else "train"].images
    memory = detector.generator.inpaint.memory
    slots = memory.bank.detach()[:, : int(memory.filled) if memory.kind == "queue" else None].float().cpu().numpy()
    regions = len(slots)
    images = images[:: max(1, len(images) * regions // POINTS)]  # evenly over normal and abnormal ones
    queries = read_memory(detector, images)
    slots = slots[:, :: -(-slots.shape[1] * regions // POINTS)]
    queries = queries[:: -(-len(queries) * regions // POINTS)]
    np.savez_compressed(path, slots=slots, queries=queries, grid=detector.config.grid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
