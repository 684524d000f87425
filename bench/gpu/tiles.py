"""Times the memory read's kernels with other blocks than the launcher's, to choose those of a chip.

    python bench/gpu/tiles.py CSV

Each kernel of kernels/products.py alone, and the whole forward and backward with other blocks of kernels/rows.py, at
shapes of bench/cases.py. The fastest come first in each line that is printed; the CSV has all. With SMALLEST=1 it tries
two blocks at the smallest size.
"""

import csv
import itertools
import os
import statistics
import sys
from unittest import mock

import torch
from cases import LARGE_READS, SIMSID, SMALLEST_READS, SQUID
from phase import DEVICE, SMALLEST
from rows import about
from timing import Variant, measure

from fastsquid.kernels import memory_read as kernels
from fastsquid.kernels.configurations import blocks_on
from fastsquid.utils.files import replacing

SHAPES = SMALLEST_READS if SMALLEST else [SQUID[0], SQUID[2], SIMSID[0], SIMSID[2], *LARGE_READS]
SECONDS = 0.02  # of measuring, for each block
TOP_K = 5


def tiles(B, N, C, warps, stages):
    return [
        dict(BLOCK_B=b, BLOCK_N=n, BLOCK_C=c, num_warps=w, num_stages=s)
        for b, n, c, w, s in itertools.product(B, N, C, warps, stages)
    ]


def candidates(B):
    """{field of `Blocks`: blocks to try} for B queries per region."""
    queries = [16] if B <= 16 else [64, 128]
    found = {
        "dots": tiles(queries, [32, 64, 128], [32, 64], [4, 8], [3, 4]),
        "weighted_sum": tiles(queries, [32, 64], [64, 128], [4, 8], [3]),
        "bank_gradient": tiles([16] if B <= 16 else [32, 64], [64, 128], [64, 128], [4, 8], [3]),
        "rows": [dict(BLOCK_N=4096, BLOCK_S=s, num_warps=w) for s, w in itertools.product([1, 4, 8, 16], [1, 2, 4])],
        "gather": [dict(BLOCK_K=8, BLOCK_C=c) for c in (256, 512, 1024)],
        "score_gradient": [
            dict(BLOCK_B=b, BLOCK_N=4096, BLOCK_S=s, num_warps=w)
            for b, s, w in itertools.product([1, 4, 8, 16], [1, 8], [1, 4, 8])
        ],
    }
    return {field: blocks[:2] for field, blocks in found.items()} if SMALLEST else found


def calls(shape, dtype):
    """{field of `Blocks`: function of blocks that launches the kernels they are for}."""
    B, R, N, C = shape
    x, dout = torch.randn(2, B, R, C, device=DEVICE).to(dtype)
    bank = (torch.randn(R, N, C, device=DEVICE) * C**-0.5).to(dtype)
    filled, queue = kernels._queue(None, x)
    narrow = kernels.gradient_dtype(dtype)
    ds = torch.randn(B, R, kernels.pitch(N), device=DEVICE).to(narrow)
    columns = torch.randn(R, N, 2, kernels.pitch(B), device=DEVICE).to(narrow)
    kept = kernels.forward(x, bank, bank, None, min(TOP_K, N), False, True)[1:]

    def with_blocks(function):
        def call(blocks):
            with mock.patch.object(kernels, "blocks_of", lambda *tensors: blocks):
                return function()

        return call

    forward = with_blocks(lambda: kernels.forward(x, bank, bank, None, min(TOP_K, N), False, True))
    backward = with_blocks(lambda: kernels.backward(dout, x, bank, None, *kept, True, True))
    return {
        "dots": lambda blocks: kernels._launch_dots(x, bank, filled, queue, blocks),
        "weighted_sum": lambda blocks: kernels._launch_weighted_sum(ds, bank, filled, queue, dtype, blocks),
        "bank_gradient": lambda blocks: kernels._launch_bank_gradient(columns, x, dout, bank, blocks),
        "rows": forward,
        "gather": forward,
        "score_gradient": backward,
    }


def fitted(block, N):
    """The block with the smallest BLOCK_N for N slots, where it says 4096."""
    return block | {"BLOCK_N": max(16, 1 << (N - 1).bit_length())} if block.get("BLOCK_N") == 4096 else block


def microseconds(call, field, block):
    """Median time of a call with one block, or None where it does not fit the chip."""
    blocks, sets = blocks_on(DEVICE)._replace(**{field: [block]}), 1 if SMALLEST else 3
    try:
        found = measure({"": Variant(lambda i: None, lambda _: call(blocks))}, sets, DEVICE, SMALLEST, SECONDS)
    except Exception as error:  # too much shared memory, or too few registers
        print(f"{field} {block}: {type(error).__name__}: {error}")
        return None
    return 1e6 * statistics.median(found[""].hidden)


def main(path):
    rows = []
    for shape, dtype in itertools.product(SHAPES, (torch.float32, torch.bfloat16)):
        for field, call in calls(shape, dtype).items():
            found = []
            for block in (fitted(block, shape.N) for block in candidates(shape.B)[field]):
                time = microseconds(call, field, block)
                if time is not None:
                    found.append((time, " ".join(f"{name.removeprefix('BLOCK_')}={n}" for name, n in block.items())))
            name = str(dtype).removeprefix("torch.")
            rows += [
                dict(blocks=text, of=field, shape=str(shape), dtype=name, us=f"{time:.2f}") for time, text in found
            ]
            best = "; ".join(f"{time:.1f} us {text}" for time, text in sorted(found)[:3])
            print(f"{field:16} {shape!s:24} {name:9} {best}", flush=True)
    with replacing(path) as file:
        writer = csv.DictWriter(file, ["of", "shape", "dtype", "blocks", "us", *about(DEVICE)])
        writer.writeheader()
        writer.writerows(row | about(DEVICE) for row in rows)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("error: give the CSV to write", file=sys.stderr)
        sys.exit(2)
    os.makedirs(os.path.dirname(sys.argv[1]) or ".", exist_ok=True)
    sys.exit(main(sys.argv[1]))
