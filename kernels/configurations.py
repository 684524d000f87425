"""Block sizes and numbers of programs of every kernel, by compute capability.

For another chip, add its blocks to BLOCKS here, and the chip with its memory limits to CHIPS of bench/resources.py.

A launcher takes the first block of a list that covers the size it is chosen by, else the last. Of several product
tiles that cover the queries, it takes the largest that still gives every multiprocessor a program.
"""

import functools
from typing import NamedTuple

import torch

Block = dict[str, int]  # constexpr arguments of a kernel by name, with num_warps and num_stages

# Sizes that the last block of a list must cover, on every chip.
MAX_SLOTS = 4096
MAX_TOP_K = 64
MAX_HEAD_DIM = 256


class Blocks(NamedTuple):
    """What the kernels are launched with on one kind of chip; each list goes from small to large sizes."""

    dots: list[Block]  # of `_dots`, chosen by the queries per region and the number of programs
    rows: list[Block]  # of `_select_gather` and `_softmax`, by the slots
    gather: list[Block]  # of `_select_gather`, beside one of `rows`, by the chosen slots
    score_gradient: list[Block]  # of `_score_gradient`, by the slots
    weighted_sum: list[Block]  # of `_weighted_sum`, by the queries per region and the number of programs
    bank_gradient: list[Block]  # of `_bank_gradient`, by the queries per region and the number of programs
    attention: list[Block]  # of the attention's `_forward` and `_backward`, by the head dimension
    attention_half: list[Block]  # the same for numbers of 16 bits
    multiprocessors: int  # a larger tile is taken where its programs are at least as many
    dots_programs: int  # that `_dots` aims at when it divides the sums over C
    dots_columns: int  # of C, the least that one program of `_dots` sums
    gather_programs: int  # that `_select_gather` aims at when it divides the columns of a row


PORTABLE_ATTENTION = [
    dict(BLOCK_P=4, BLOCK_D=32, UNROLL=1, num_warps=1),
    dict(BLOCK_P=2, BLOCK_D=64, UNROLL=1, num_warps=1),
    dict(BLOCK_P=1, BLOCK_D=256, UNROLL=1, num_warps=1),
]
# For chips of which nothing was measured, and with little shared memory: 64 KiB a program at most.
PORTABLE = Blocks(
    dots=[
        dict(BLOCK_B=16, BLOCK_N=32, BLOCK_C=64, num_warps=4, num_stages=2),
        dict(BLOCK_B=64, BLOCK_N=64, BLOCK_C=32, num_warps=8, num_stages=3),
    ],
    rows=[
        dict(BLOCK_N=256, BLOCK_S=8, num_warps=2),
        dict(BLOCK_N=1024, BLOCK_S=4, num_warps=2),
        dict(BLOCK_N=4096, BLOCK_S=1, num_warps=16),
    ],
    # 16 bytes for each thread of two warps: the chosen rows of a column are then added within a thread.
    gather=[dict(BLOCK_K=8, BLOCK_C=512), dict(BLOCK_K=64, BLOCK_C=16)],
    score_gradient=[
        dict(BLOCK_B=1, BLOCK_N=256, BLOCK_S=8, num_warps=4),
        dict(BLOCK_B=1, BLOCK_N=1024, BLOCK_S=4, num_warps=4),
        dict(BLOCK_B=1, BLOCK_N=4096, BLOCK_S=1, num_warps=16),
    ],
    weighted_sum=[
        dict(BLOCK_B=16, BLOCK_N=16, BLOCK_C=64, num_warps=4, num_stages=3),
        dict(BLOCK_B=64, BLOCK_N=32, BLOCK_C=64, num_warps=4, num_stages=3),
    ],
    bank_gradient=[
        dict(BLOCK_B=16, BLOCK_N=32, BLOCK_C=64, num_warps=4, num_stages=3),
        dict(BLOCK_B=32, BLOCK_N=64, BLOCK_C=64, num_warps=4, num_stages=3),
    ],
    attention=PORTABLE_ATTENTION,
    attention_half=PORTABLE_ATTENTION,
    multiprocessors=132,
    dots_programs=264,
    dots_columns=128,
    gather_programs=1056,
)
# Measured on an H200, unless said otherwise: bench/results/h200. 132 multiprocessors, so 264 programs are two for each.
HOPPER = PORTABLE._replace(
    dots=[
        dict(BLOCK_B=16, BLOCK_N=64, BLOCK_C=64, num_warps=4, num_stages=3),
        dict(BLOCK_B=16, BLOCK_N=128, BLOCK_C=64, num_warps=4, num_stages=3),
        dict(BLOCK_B=64, BLOCK_N=64, BLOCK_C=64, num_warps=4, num_stages=3),
        dict(BLOCK_B=64, BLOCK_N=128, BLOCK_C=64, num_warps=8, num_stages=3),
    ],
    score_gradient=[
        dict(BLOCK_B=1, BLOCK_N=256, BLOCK_S=8, num_warps=4),
        dict(BLOCK_B=8, BLOCK_N=1024, BLOCK_S=2, num_warps=4),
        dict(BLOCK_B=2, BLOCK_N=4096, BLOCK_S=1, num_warps=16),
    ],
    weighted_sum=[
        dict(BLOCK_B=16, BLOCK_N=64, BLOCK_C=64, num_warps=4, num_stages=3),
        dict(BLOCK_B=64, BLOCK_N=32, BLOCK_C=128, num_warps=4, num_stages=3),
        dict(BLOCK_B=128, BLOCK_N=64, BLOCK_C=128, num_warps=8, num_stages=3),
    ],
    bank_gradient=[
        dict(BLOCK_B=16, BLOCK_N=64, BLOCK_C=64, num_warps=4, num_stages=3),
        dict(BLOCK_B=32, BLOCK_N=64, BLOCK_C=64, num_warps=4, num_stages=3),
        dict(BLOCK_B=32, BLOCK_N=128, BLOCK_C=128, num_warps=8, num_stages=3),
    ],
    # Not measured: 16 bytes or more for each thread of a warp, and all eight neighbors unrolled.
    attention=[block | {"UNROLL": 8} for block in PORTABLE_ATTENTION],
    attention_half=[
        dict(BLOCK_P=8, BLOCK_D=32, UNROLL=8, num_warps=1),
        dict(BLOCK_P=4, BLOCK_D=64, UNROLL=8, num_warps=1),
        dict(BLOCK_P=1, BLOCK_D=256, UNROLL=8, num_warps=1),
    ],
)

# By compute capability; None stands for any other chip, an AMD one and Triton's interpreter.
BLOCKS = {
    None: PORTABLE,
    (9, 0): HOPPER,  # H100, H200
    (10, 0): HOPPER,  # B200: compiled for it, not measured there
}


def blocks_for(capability: tuple[int, int] | None) -> Blocks:
    """Return the blocks of a compute capability (major, minor), or of none."""
    return BLOCKS.get(capability, BLOCKS[None])


def blocks_on(device: torch.device, aligned: bool = True) -> Blocks:
    """Return the blocks of the chip that a device is.

    Args:
        device: where the kernel runs.
        aligned: rows begin at multiples of 16 bytes and are multiples of 16 numbers apart. Where they are not, loads
            take more registers, and the portable blocks are taken.
    """
    return blocks_for(_capability(device) if aligned else None)


def attention_blocks(blocks: Blocks, dtype: torch.dtype) -> list[Block]:
    """Return the attention's blocks for a dtype."""
    return blocks.attention_half if dtype.itemsize == 2 else with_warps(blocks.attention, dtype)


def with_warps(blocks: list[Block], dtype: torch.dtype) -> list[Block]:
    """Return blocks for a dtype: more warps for float64, whose numbers take two registers."""
    if dtype != torch.float64:
        return blocks
    return [block | {"num_warps": min(4 * block["num_warps"], 16)} for block in blocks]


@functools.cache
def _capability(device: torch.device) -> tuple[int, int] | None:
    if device.type != "cuda" or torch.version.hip:
        return None
    return torch.cuda.get_device_capability(device)
