"""Phase `kernels`: both operations at the papers' shapes, milliseconds and percent of the floor measured in this run.

Forward, and forward with backward. Variants of a case agree before they are timed, and are timed in turn; the rows of a
case are written when it is measured. What matters most comes first.
"""

import itertools
import sys

import torch
from cases import GRIDS, LARGE_GRIDS, LARGE_READS, READS, SIMSID, SMALLEST_GRIDS, SMALLEST_READS, SQUID, Read
from operations import MemoryRead, NeighborAttention
from phase import DEVICE, OUT, SMALLEST, left
from rows import Results
from timing import measure

from fastsquid.utils.cli import stop_compile_workers

SECONDS = 0.1  # of measuring, for each variant of a case
# A compilation takes as long as many measurements. The attention's PyTorch path is left out: PyTorch 2.11 cannot
# compile it for a GPU ("Abs(ModularIndexing(...)) is not comparable").
COMPILED = [SIMSID[0], SQUID[0]]


def main():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    results = Results(DEVICE, OUT / "kernels.csv", SMALLEST)
    if SMALLEST:
        order = [SMALLEST_READS + SMALLEST_GRIDS]
    else:
        order = [LARGE_READS + LARGE_GRIDS, READS + GRIDS]  # most targets are of large shapes
    failed = 0
    print(
        f"{'operation':20} {'case':24} {'mode':8} {'dtype':9} {'variant':10} {'ms':>9} {'floor ms':>9} {'% of it':>8}"
    )
    cases = [
        (shape, dtype, mode, *variant)
        for shapes, dtype in itertools.product(order, (torch.float32, torch.bfloat16))
        for shape, mode in itertools.product(shapes, ("both", "forward"))
        for variant in variants(shape, dtype)
    ]
    cases.sort(key=lambda case: "flex" in case[3])  # compiled for longer than all others are measured
    for shape, dtype, mode, names, options in cases:
        operation = MemoryRead if isinstance(shape, Read) else NeighborAttention
        case = operation(shape, mode, dtype, DEVICE, **options)
        try:
            one_case(results, case, names)
        except Exception as error:  # one case says nothing of the next
            failed += 1
            what = f"{operation.__name__} {shape} {mode} {case.name} {names[-1]}"
            print(f"{what} FAILED: {type(error).__name__}: {error}")
    print(f"{len(results.rows)} rows, {failed} cases failed, {left():.0f} s left")
    return int(failed > 0)


def variants(shape, dtype):
    """(variants that are compared with one another and measured in turn, options of the case)."""
    names = ["published", "torch", "triton"] if dtype == torch.float32 else ["torch", "triton"]
    if shape in COMPILED and dtype == torch.float32 and not SMALLEST:
        names.append("compile")
    others = ["gathered-sdpa", "dense-sdpa", "flex"] if shape in LARGE_GRIDS else []
    # PyTorch's own attentions know absent neighbors, not padded ones.
    return [(names, {}), *((["triton", other], {"border": "mask"}) for other in others)]


def one_case(results, case, names):
    masked = " mask" if getattr(case, "border", "pad") == "mask" else ""
    group = "memory read" if isinstance(case, MemoryRead) else "neighbor attention"
    sets = 1 if SMALLEST else case.sets
    for name, samples in measure(case.build(names), sets, DEVICE, SMALLEST, SECONDS).items():
        row = results.add((group, f"{case.shape}{masked}", name, case.mode, case.name), samples, case.work)
        print(
            f"{group:20} {row['case']:24} {case.mode:8} {case.name:9} {name:10} "
            f"{row['p50_ms']:9.4f} {row['floor_ms']:9.4f} {row['percent_of_floor']:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    code = main()
    stop_compile_workers()
    sys.exit(code)
