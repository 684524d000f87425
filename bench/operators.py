"""What a forward and backward of the memory read are made of on this CPU: `python bench/operators.py > FILE.md`."""

import platform

import torch
from cases import SIMSID
from torch.profiler import ProfilerActivity, profile

from fastsquid.ops import memory_read

PRODUCTS = ("aten::bmm", "aten::baddbmm_")
SETS, ROUNDS = 5, 40  # as the benchmark: inputs in turn, so that none is in a core's own cache


def main():
    shape = SIMSID[0]
    torch.manual_seed(0)
    print(f"# Memory read {shape}, forward and backward\n")
    about = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
    print(f"Written by `python bench/operators.py`: {about}; microseconds a call, with the profiler's own share.\n")
    torch.zeros(31 * 2**18)  # as timing.measure
    sets = []
    for _ in range(SETS):
        x, bank = torch.randn(shape.B, shape.R, shape.C), torch.randn(shape.R, shape.N, shape.C) * shape.C**-0.5
        sets.append(([x.requires_grad_(), bank.requires_grad_()], torch.randn_like(x)))

    def call(leaves, dout):
        torch.autograd.grad(memory_read(*leaves, 5, "published", impl="torch")[0], leaves, dout)

    for leaves, dout in sets * 2:
        call(leaves, dout)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for leaves, dout in sets * ROUNDS:
            call(leaves, dout)
    events, calls = found.key_averages(), SETS * ROUNDS
    total = sum(event.self_cpu_time_total for event in events) / calls
    products = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS) / calls
    print(f"{total:.0f} microseconds, of which matrix products {products:.0f} ({100 * products / total:.0f} %)\n")
    print("| operator | calls | microseconds |\n| --- | ---: | ---: |")
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:10]:
        print(f"| `{event.key}` | {event.count / calls:.0f} | {event.self_cpu_time_total / calls:.0f} |")


if __name__ == "__main__":
    main()
