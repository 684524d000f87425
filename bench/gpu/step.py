"""Phase `step`: a training cycle and an epoch in the published order of work and in ours, simsid first.

A cycle is two iterations: two steps of the discriminator, one of the generator. Beside the time: launches by the host
and kernels on the device (PyTorch's profiler), and the most memory allocated from the first cycle on, weights and
optimizer included. `command` is an epoch as the training command runs it, with validation.
"""

import dataclasses
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from iterations import CASES, EPOCH, VALIDATION, Training, images_of, random_data, require_equal_losses
from phase import DEVICE, OUT, SMALLEST, left
from rows import Results
from timing import Samples, Variant, measure
from torch.profiler import ProfilerActivity, profile

from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.runs.folder import create_run
from fastsquid.runs.records import RunRecord
from fastsquid.training.loop import Run
from fastsquid.utils.cli import stop_compile_workers

GPU = DEVICE.type == "cuda"
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
SETTLED = 5  # cycles until every kind of step is captured
EXTRA = ["launches", "device_kernels", "first_cycle_s"]
COMPILATION = 25  # seconds that must be left to begin with another one


def main():
    results = Results(DEVICE, OUT / "step.csv", SMALLEST, EXTRA)
    print(f"{'':16} {'case':8} {'variant':12} {'ms':>10} {'launches':>9} {'kernels':>8} {'MB':>8} {'first, s':>9}")
    if SMALLEST:
        system("smallest", ["published", "torch"], results)
        command("smallest", CASES["smallest"][0], results, 6, 4)
        return 0
    names = ["published", "triton", "compile-bf16"]
    parts = {
        "simsid": lambda: system("simsid", names, results),
        # The phases that train compute from it how many epochs fit.
        "the training command": lambda: command("simsid", preset("simsid"), results, EPOCH, VALIDATION),
        "squid": lambda: system("squid", names, results),
        "simsid compiled in float32": lambda: system("simsid", ["compile"], results),
    }
    failed = 0
    for name, measure_part in parts.items():
        if left() < COMPILATION:
            print(f"{name}: no time left")
            continue
        try:
            measure_part()
        except Exception as error:  # one part says nothing of the next
            failed = 1
            print(f"{name} FAILED: {type(error).__name__}: {error}", flush=True)
    return failed


def system(case, names, results):
    """Rows of a system: the cycle of every order of work, in turn, then an epoch of each."""
    config, batch = CASES[case]
    images = images_of(3 * batch if SMALLEST else EPOCH, config, DEVICE)
    eager = [name for name in names if not name.startswith("compile")]
    require_equal_losses(eager, config, DEVICE, images[:batch])
    torch._dynamo.reset()  # else the systems would count as recompilations of one another
    gc.collect()
    trainings, notes, memory = {}, {}, {}
    for name in names:
        before = start_of_memory()
        start = time.perf_counter()
        trainings[name] = Training(name, config, DEVICE, images, batch)
        trainings[name].cycle()
        wait()
        notes[name] = {"first_cycle_s": time.perf_counter() - start}
        for _ in range(0 if SMALLEST else SETTLED):
            trainings[name].cycle()
        memory[name] = peak_memory(before)
        launches, kernels = counted(trainings[name].cycle)
        notes[name] |= {"launches": launches, "device_kernels": kernels}
    cycles = {name: Variant(lambda i: None, lambda _, t=t: t.cycle()) for name, t in trainings.items()}
    for name, samples in measure(cycles, 1, DEVICE, SMALLEST, 0.5).items():
        samples = samples._replace(memory=memory[name])
        row(results, "training cycle", case, name, samples, batch * config.generator_every, notes[name])
    for name, training in trainings.items():
        if name.startswith("compile"):  # the last batch, of another size, is a step of another kind
            training.epoch()
        seconds = [timed(training.epoch) for _ in range(1 if name == "published" or SMALLEST else 3)]
        row(results, "training epoch", case, name, Samples(seconds, seconds, None), len(images), {})


def command(case, config, results, images, validation):
    """An epoch of the training command, from the second one on."""
    torch._dynamo.reset()
    config = dataclasses.replace(config, epochs=2 if SMALLEST else 4)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "run"
        create_run(folder, RunRecord(config, data=None, seed=0, fingerprint=""))
        torch.manual_seed(0)
        detector, data = Detector(config).to(DEVICE), random_data(config, images, validation)
        run = Run(folder, detector, data, 0, GPU, "bf16" if GPU else "fp32")
        run._finish = run._report = lambda: None  # what a run leaves at its end is no part of an epoch
        before = start_of_memory()
        run.train()
        ends = [json.loads(line)["seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        seconds = [b - a for a, b in zip(ends, ends[1:])]
    row(results, "training epoch", case, "command", Samples(seconds, seconds, peak_memory(before)), images, {})


def row(results, group, case, name, samples, images, notes):
    dtype = "bfloat16" if GPU and (name.endswith("bf16") or name == "command") else "float32"
    row = results.add((group, case, name, "both", dtype), samples, images=images, **notes)
    cells = [f"{row['p50_ms']:10.2f}", f"{row.get('launches', '')!s:>9}", f"{row.get('device_kernels', '')!s:>8}"]
    for key, width in (("peak_memory_mb", 8), ("first_cycle_s", 9)):
        cells.append(f"{row[key]:{width}.1f}" if key in row else " " * width)
    print(f"{group:16} {case:8} {name:12} " + " ".join(cells), flush=True)


def timed(call):
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def counted(call):
    """Launches by the host and kernels on the device of one call; empty where the profiler sees no device."""
    if not GPU:
        return "", ""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        call()
        wait()
    events = found.events()
    kernels = sum(event.device_type == torch.autograd.DeviceType.CUDA for event in events)
    launches = sum(event.name.startswith(LAUNCHES) for event in events)
    return (launches, kernels) if kernels else ("", "")


def wait():
    if GPU:
        torch.cuda.synchronize()


def start_of_memory():
    if not GPU:
        return None
    wait()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_memory(before):
    return None if before is None else torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    code = main()
    stop_compile_workers()
    sys.exit(code)
