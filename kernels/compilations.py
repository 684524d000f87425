"""Every kernel in every configuration that it can be launched with: dtypes, blocks, warps, stages.

The launchers choose among the same blocks. `bench/resources.py` compiles all of this for several chips.
"""

from typing import Any, NamedTuple

import torch

from . import memory_read, neighbor_attention
from .configurations import HOPPER, Blocks
from .launch import DTYPES, PAIRS, accumulator, precision

# What each pointer of the kernels points to: queries, slots, the accumulator's type, or 64-bit integers.
QUERIES = {"x_ptr", "out_ptr", "dout_ptr", "q_ptr", "k_ptr", "v_ptr", "dq_ptr", "dk_ptr", "dv_ptr"}
SLOTS = {"bank_ptr", "values_ptr", "dbank_ptr"}
ACCUMULATOR = {"partial_ptr", "y_ptr", "ds_ptr", "weight_ptr", "lse_ptr"}
INTEGERS = {"filled_ptr", "index_ptr"}


class Configuration(NamedTuple):
    """One compilation: dtypes by pointer name, constexpr arguments, and the compiler's options."""

    kernel: Any  # of triton.jit
    pointers: dict[str, torch.dtype]
    constants: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return f"{self.kernel.__module__.rsplit('.', 1)[-1]}.{self.kernel.__name__}"


def configurations(backend: str = "cuda", blocks: Blocks = HOPPER) -> list[Configuration]:
    """Return all `Configuration`s of a chip.

    Args:
        backend: `cuda` or `hip`.
        blocks: what the kernels are launched with there.
    """
    listed = []

    def add(kernel, queries, slots, *parts, **constants):
        pointers = {}
        for name in kernel.arg_names:
            for names, dtype in (
                (QUERIES, queries),
                (SLOTS, slots),
                (ACCUMULATOR, accumulator(slots)),
                (INTEGERS, torch.int64),
            ):
                if name in names:
                    pointers[name] = dtype
        merged = {name: value for part in parts for name, value in part.items()} | constants
        options = {name: merged.pop(name) for name in ("num_warps", "num_stages") if name in merged}
        listed.append(Configuration(kernel, pointers, merged, options))

    module = memory_read
    for queries, slots in PAIRS:
        products = dict(PRECISION=precision(backend))
        for tile in module.tiles(blocks.dots, slots):
            add(module._dots, queries, slots, tile, UPCAST=queries != slots, **products)
        for row in blocks.rows:
            for gather in blocks.gather:
                add(module._select_gather, queries, slots, row, gather)
        for tile in module.tiles(blocks.weighted_sum, slots):
            add(module._weighted_sum, queries, slots, tile, **products)
        for tile in module.tiles(blocks.bank_gradient, slots):
            add(module._bank_gradient, queries, slots, tile, **products)
    for dtype in (torch.float32, torch.float64):
        for row in blocks.rows:
            add(module._softmax, dtype, dtype, row)
            add(module._score_gradient, dtype, dtype, row)
    for dtype in DTYPES:
        for block in blocks.attention:
            for kernel in (neighbor_attention._forward, neighbor_attention._backward):
                # The scale, 1 / sqrt(D), is one number a model; any other compiles to the same instructions.
                add(kernel, dtype, dtype, block, SCALE=0.125)
    return listed
