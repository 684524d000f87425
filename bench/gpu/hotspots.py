"""Phase `hotspots`: which device kernels a training cycle and scoring spend their time in, the longest first.

A cycle is that of bench/gpu/step.py, as the training command runs it; a frozen detector scores one large batch.
Without a GPU the operators of the CPU are listed. Writes hotspots.txt.
"""

import sys
import time

import torch
from cases import SMALLEST_MODEL
from iterations import Training, images_of
from phase import DEVICE, OUT, SMALLEST, left
from rows import about
from torch.profiler import ProfilerActivity, profile

from fastsquid.config import preset
from fastsquid.data import to_unit
from fastsquid.model.detector import Detector
from fastsquid.utils.cli import stop_compile_workers

GPU = DEVICE.type == "cuda"
SETTLED = 5  # cycles until every kind of step is captured
LISTED = 40
ENOUGH = 20  # seconds that must be left to begin with another part


def main():
    presets = {"smallest": SMALLEST_MODEL} if SMALLEST else {name: preset(name) for name in ("simsid", "fastsquid")}
    parts = [(part, name, config) for part in (score, train) for name, config in presets.items()]
    with open(OUT / "hotspots.txt", "w", encoding="utf-8") as file:
        print(*(f"{name}: {value}" for name, value in about(DEVICE).items()), sep="\n", file=file)
        for part, name, config in parts:
            if left() < ENOUGH and not SMALLEST:
                print(f"{part.__name__} {name}: no time left")
                continue
            seconds, lines = part(config)
            title = f"{part.__name__} {name}: {1e3 * seconds:.2f} ms"
            print(title, flush=True)
            print("", title, *lines, sep="\n", file=file, flush=True)
    return 0


def train(config):
    """Seconds of a training cycle, and its kernels."""
    torch.compiler.reset()
    name = "compile-bf16" if GPU else "torch"
    training = Training(name, config, DEVICE, images_of(4 * config.batch_size, config, DEVICE), config.batch_size)
    return profiled(training.cycle, 1 if SMALLEST else SETTLED)


def score(config):
    """Seconds of scoring a batch, and its kernels."""
    detector = Detector(config).to(DEVICE).frozen(half=GPU)
    images = to_unit(images_of(2 if SMALLEST else 1024, config, DEVICE))
    return profiled(lambda: detector.scores(images), 1 if SMALLEST else 3)


def profiled(call, warm_up):
    """Seconds of a call, and a line for each of the kernels that take longest: microseconds, how often, name."""
    for _ in range(warm_up):
        call()
    start = time.perf_counter()
    call()
    if GPU:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if GPU else [])]) as found:
        call()
        if GPU:
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA if GPU else torch.autograd.DeviceType.CPU
    events = [event for event in found.key_averages() if event.device_type == kind]

    def time_of(event):
        return event.self_device_time_total if GPU else event.self_cpu_time_total

    events.sort(key=time_of, reverse=True)
    head = f"{sum(map(time_of, events)):9.0f} us in {sum(event.count for event in events)} kernels"
    return seconds, [head, *(f"{time_of(e):9.0f} us {e.count:5}x {e.key[:120]}" for e in events[:LISTED])]


if __name__ == "__main__":
    code = main()
    stop_compile_workers()
    sys.exit(code)
