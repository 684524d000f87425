"""How time is taken: variants in turn, inputs that no cache holds, and the machine's own limits in the same run."""

import ctypes
import functools
import statistics
import sys
import time
from typing import NamedTuple

import torch

from fastsquid.utils.allocator import MMAP_THRESHOLD, TOP_PAD, TRIM_THRESHOLD, keep_freed_memory
from fastsquid.utils.devices import multiplies_bfloat16


class Variant(NamedTuple):
    """`run(prepare(i))` is one call on the i-th set of inputs; only `run` is timed."""

    prepare: callable
    run: callable


class Samples(NamedTuple):
    """Seconds of every call; `hidden` by device events with the launches queued ahead (on a CPU the same as
    `unhidden`), `unhidden` as a user waits for it; bytes allocated beyond what was there before, or None."""

    hidden: list
    unhidden: list
    memory: int | None


class Ceilings(NamedTuple):
    """What this machine reaches: bytes per second of a copy (read and written), and operations per second by dtype."""

    copy: float
    matrix: dict


def measure(variants, sets, device, quick=False, seconds=1):
    """Times variants (by name) in turn, each over all `sets` of inputs in a round.

    Three rounds at least, and more where a call is fast: about `seconds` of each variant.

    Returns:
        {name: Samples}
    """
    on_device = _on_gpu if device.type == "cuda" else _on_cpu

    def take(name, sets):
        _set_allocator(name)
        return on_device(variants[name], sets)

    memory = {}
    for name, variant in variants.items():
        _set_allocator(name)
        memory[name] = _peak(variant, device)  # the first call compiles
    if not quick:  # caches and clocks settle
        for name in variants:
            if take(name, 1)[1][0] < 1:
                take(name, sets)
    samples = {name: ([], []) for name in variants}
    rounds, done = 1, 0
    while done < rounds:
        for name in variants:
            hidden, unhidden = take(name, sets)
            samples[name][0].extend(hidden)
            samples[name][1].extend(unhidden)
        done += 1
        if done == 1 and not quick:
            slowest = max(sum(unhidden) for _, unhidden in samples.values())
            rounds = max(3, min(30, int(seconds / slowest)))
    return {name: Samples(*samples[name], memory[name]) for name in variants}


def _set_allocator(name):
    """Ours have glibc's malloc as commands set it. The published order of work has it as it is in a process of its own:
    blocks over 32 MiB are mapped anew, and over 64 MiB of free memory go back to the system (mallopt(3))."""
    if name != "published":
        keep_freed_memory()
    elif sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(MMAP_THRESHOLD, 2**25)
        mallopt(TRIM_THRESHOLD, 2**26)
        mallopt(TOP_PAD, 2**17)


def quantiles(seconds):
    """20th, 50th and 80th percentile."""
    if len(seconds) == 1:
        return seconds * 3
    fifths = statistics.quantiles(seconds, n=10, method="inclusive")
    return fifths[1], fifths[4], fifths[7]


def input_sets(nbytes, device):
    """How many sets of inputs of `nbytes` make the caches forget: three times L2 on a GPU; on a CPU five, in each turn
    of a variant, so that what it measures is not the first call after another variant's."""
    if device.type != "cuda":
        return 5
    return max(1, min(64, -(-3 * torch.cuda.get_device_properties(device).L2_cache_size // max(1, nbytes))))


def _on_cpu(variant, sets):
    seconds = []
    for state in [variant.prepare(i) for i in range(sets)]:
        start = time.perf_counter()
        variant.run(state)
        seconds.append(time.perf_counter() - start)
    return seconds, seconds


def _on_gpu(variant, sets):
    unhidden, launching = [], []
    for state in [variant.prepare(i) for i in range(sets)]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        variant.run(state)
        launching.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        unhidden.append(time.perf_counter() - start)
    events = []
    # The device sleeps while the host queues a call's launches, so that the events see none of the waiting for them.
    # At most 50 ms: a variant that waits for the device itself, as the published training does, cannot be hidden.
    cycles = int(min(0.05, 2 * statistics.median(launching) + 20e-6) * 2e9)
    for state in [variant.prepare(i) for i in range(sets)]:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        torch.cuda._sleep(cycles)
        start.record()
        variant.run(state)
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events], unhidden


def _peak(variant, device):
    variant.run(variant.prepare(0))
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    variant.run(variant.prepare(0))
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(device) - before


@functools.cache
def ceilings(device, quick=False):
    """Copy bandwidth over 2 GiB (a CPU: 256 MiB) and matrix rates at 8192 (2048), the median of ten; `tf32` is what
    float32 products are made of on a GPU. A CPU that emulates bfloat16, minutes long, has no rate for it."""
    gpu = device.type == "cuda"
    size = 2**20 if quick else 2**31 if gpu else 2**28
    source = torch.empty(size // 4, device=device).uniform_()
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / _median(lambda: target.copy_(source), device)
    side = 256 if quick else 8192 if gpu else 2048
    allowed = torch.backends.cuda.matmul.allow_tf32
    matrix = {}
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        dtypes = {"tf32" if gpu else "float32": torch.float32}
        if quick or multiplies_bfloat16(device):
            dtypes["bfloat16"] = torch.bfloat16
        for name, dtype in dtypes.items():
            a, b = torch.randn(2, side, side, device=device).to(dtype)
            matrix[name] = 2 * side**3 / _median(lambda a=a, b=b: a @ b, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return Ceilings(copy, matrix)


def _median(call, device):
    variant = Variant(lambda i: None, lambda _: call())
    take = _on_gpu if device.type == "cuda" else _on_cpu
    take(variant, 2)
    return statistics.median(take(variant, 10)[0])
