"""What a forward and backward of the memory read are made of on this CPU: `python bench/operators.py > FILE.md`."""

import platform

import baselines
import torch
from cases import SIMSID
from torch.profiler import ProfilerActivity, profile

from fastsquid.ops import memory_read

PRODUCTS = ("aten::bmm", "aten::baddbmm_", "aten::mm", "aten::addmm")
SETS, ROUNDS = 5, 40  # as the benchmark: inputs in turn, so that none is in a core's own cache


def main():
    shape = SIMSID[0]
    torch.manual_seed(0)
    variants = {
        "published": lambda x, *slots: baselines.memory_read(x, slots, 5),
        "torch": lambda x, bank: memory_read(x, bank, 5, "published", impl="torch")[0],
    }
    print(f"# Memory read {shape}, forward and backward\n")
    about = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    print(f"Written by `python bench/operators.py`: {about}; microseconds a call, with the profiler's own share.\n")
    torch.zeros(31 * 2**18)  # as timing.measure
    for name, read in variants.items():
        sets = []
        for _ in range(SETS):
            x, bank = torch.randn(shape.B, shape.R, shape.C), torch.randn(shape.R, shape.N, shape.C) * shape.C**-0.5
            slots = bank.unbind() if name == "published" else (bank,)
            leaves = [t.clone().requires_grad_() for t in (x, *slots)]
            sets.append((leaves, torch.randn_like(x)))

        def call(leaves, dout, read=read):
            torch.autograd.grad(read(*leaves), leaves, dout)

        for leaves, dout in sets * 2:
            call(leaves, dout)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for leaves, dout in sets * ROUNDS:
                call(leaves, dout)
        events = found.key_averages()
        calls = SETS * ROUNDS
        total = sum(event.self_cpu_time_total for event in events) / calls
        products = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS) / calls
        print(f"## {name}: {total:.0f}, of which matrix products {products:.0f} ({100 * products / total:.0f} %)\n")
        print("| operator | calls | microseconds |\n| --- | ---: | ---: |")
        for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:8]:
            print(f"| `{event.key}` | {event.count / calls:.0f} | {event.self_cpu_time_total / calls:.0f} |")
        print()


if __name__ == "__main__":
    main()
