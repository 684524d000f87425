"""Every kernel in every configuration that it can be launched with: dtypes, blocks, warps, stages.

The launchers choose among the same blocks. `bench/resources.py` compiles all of this for several chips.
"""

from typing import Any, NamedTuple

import torch

from . import memory_read, neighbor_attention, products, rows
from .configurations import PORTABLE, Blocks, attention_blocks, with_warps
from .launch import DTYPES, PAIRS, accumulator, precision

# What each pointer of the kernels points to: queries, slots, the accumulator's type, 64-bit integers, or gradients of
# dots and weights beside them.
QUERIES = {"x_ptr", "out_ptr", "dout_ptr", "q_ptr", "k_ptr", "v_ptr", "dq_ptr", "dk_ptr", "dv_ptr"}
SLOTS = {"bank_ptr", "values_ptr", "dbank_ptr"}
ACCUMULATOR = {"partial_ptr", "y_ptr", "weight_ptr", "lse_ptr"}
INTEGERS = {"filled_ptr", "index_ptr"}
GRADIENTS = {"ds_ptr", "columns_ptr"}


class Configuration(NamedTuple):
    """One compilation: dtypes by pointer name, constexpr arguments, and the compiler's options."""

    kernel: Any  # of triton.jit
    pointers: dict[str, torch.dtype]
    constants: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return f"{self.kernel.__module__.rsplit('.', 1)[-1]}.{self.kernel.__name__}"


def configurations(backend: str = "cuda", blocks: Blocks = PORTABLE) -> list[Configuration]:
    """Return all `Configuration`s of a chip.

    Args:
        backend: `cuda` or `hip`.
        blocks: what the kernels are launched with there. float64 reads are launched with the portable ones only.
    """
    listed = []

    def add(kernel, queries, slots, *parts, pointers=(), **constants):
        types = {}
        for name in kernel.arg_names:
            for names, dtype in (
                (QUERIES, queries),
                (SLOTS, slots),
                (ACCUMULATOR, accumulator(slots)),
                (INTEGERS, torch.int64),
                (GRADIENTS, memory_read.gradient_dtype(slots)),
            ):
                if name in names:
                    types[name] = dtype
        merged = {name: value for part in parts for name, value in part.items()} | constants
        options = {name: merged.pop(name) for name in ("num_warps", "num_stages") if name in merged}
        listed.append(Configuration(kernel, types | dict(pointers), merged, options))

    tiles = memory_read.tiles
    dtypes = [dtype for dtype in DTYPES if dtype != torch.float64 or blocks == PORTABLE]
    for queries, slots in (pair for pair in PAIRS if pair[1] in dtypes):
        ours = dict(PRECISION=precision(backend))
        for tile in tiles(blocks.dots, slots):
            add(products._dots, queries, slots, tile, UPCAST=queries != slots, **ours)
        for row in with_warps(blocks.rows, slots):
            for gather in blocks.gather:
                add(rows._select_gather, queries, slots, row, gather)
        # The softmax, or ds; both have one type except with bfloat16 slots.
        for weight in dict.fromkeys((accumulator(slots), memory_read.gradient_dtype(slots))):
            upcast = weight != slots
            for tile in tiles(blocks.weighted_sum, slots, upcast or queries != slots):
                add(
                    products._weighted_sum, queries, slots, tile, pointers={"weight_ptr": weight}, UPCAST=upcast, **ours
                )
        upcast = memory_read.gradient_dtype(slots) != queries
        for tile in tiles(blocks.bank_gradient, slots, upcast):
            add(products._bank_gradient, queries, slots, tile, UPCAST=upcast, **ours)
    for dtype in (dtype for dtype in dtypes if dtype != torch.float16):  # as float32
        for row in (
            with_warps(blocks.rows, dtype) if dtype != torch.bfloat16 else ()
        ):  # the softmax has the accumulator's type
            add(rows._softmax, dtype, dtype, row)
        for block in blocks.score_gradient:
            add(rows._score_gradient, dtype, dtype, block)
    for dtype in dtypes:
        for block in attention_blocks(blocks, dtype):
            for kernel in (neighbor_attention._forward, neighbor_attention._backward):
                # The scale, 1 / sqrt(D), is one number a model; any other compiles to the same instructions.
                add(kernel, dtype, dtype, block, SCALE=0.125)
    return listed
