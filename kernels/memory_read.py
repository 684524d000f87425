"""Region-restricted memory read and its backward (SQUID 3.2, SimSID 3.2); defined by fastsquid/ops/reference.py.

Shapes: queries x (B, R, C), bank M (R, N, C), k chosen slots. The queries of region r read
the slots of region r only. Every launch serves all regions.

Forward, two launches
    _dots           s = x.M^T. The papers' shapes have only 4 to 32 tiles of slots. Therefore S programs share each sum
                    over C: partial sums (S, B, R, pitch).
    _select_gather  Adds the partial sums in a fixed order, takes the softmax y, the k largest by repeated maximum
                    (ties to the lowest index), their weights divided by their sum, and the weighted sum of the k rows.
                    For shrinkage `none`: _softmax, and _weighted_sum over all rows.
Backward, three launches and one for dM (straight-through: the weights' gradient is the softmax's)
    _dots           dy = dout.M^T, in partial sums again.
    _score_gradient ds = y * (dy - sum(y * dy)): as rows, and for dM as columns beside the dense weights h.
    _weighted_sum   dx = ds.M
    _bank_gradient  dM = ds^T.x + h^T.dout, one loop over 2 B rows. A row of dM is summed by one program and stored
                    once: no atomics anywhere, the same bits each time.

Memory beyond inputs and outputs: y, kept from forward to backward; S partial sums, one (B, R, N) each; for dM ds and h
as columns, two of that size. Rows and columns are N and B, rounded up to 16, numbers apart. Without gradients y is not
stored.

Precision: sums in float32 (float64 for float64). Half-precision queries and slots are multiplied as they are, which is
exact, unless their types differ. With bfloat16 slots, ds and h are rounded to bfloat16 before they are multiplied; with
float16 they stay float32, because float16 would lose small gradients. float32 products are three tf32 products
(`tf32x3`) on NVIDIA's matrix units and plain float32 elsewhere, because a dot's absolute error becomes a weight's
relative one and decides which slots are chosen (bench/results/precision.md).

docs/kernels.md counts bytes and products, explains each loop, and has the measurements.
"""

import math

import torch
import triton

from .configurations import Block, Blocks, with_warps
from .launch import INTERPRETED, accumulator, backend, blocks_of, on_device, precision, rows_contiguous
from .products import _bank_gradient, _dots, _weighted_sum
from .rows import _score_gradient, _select_gather, _softmax


def _fitting(blocks, name, size):
    """Return the first block whose `name` covers size, else the last."""
    return next((block for block in blocks if block[name] >= size), blocks[-1])


def tiles(blocks: list[Block], dtype: torch.dtype, mixed: bool = False) -> list[Block]:
    """Return the tiles of a product that serve a dtype.

    Args:
        blocks: from small to large.
        dtype: of the slots. float64, which is for tests, keeps to the smallest tile.
        mixed: operands and result are not all of one dtype. Conversions take registers: not the largest tile.
    """
    if dtype == torch.float64:
        return blocks[:1]
    return blocks[:-1] if mixed and len(blocks) > 1 else blocks


def _tile(blocks, B, programs, grid):
    """Return the tile of a product: of those that cover B, the largest with enough programs to fill the chip.

    Args:
        blocks: from small to large.
        B: queries per region.
        programs: that fill the chip.
        grid: function of a tile, its number of programs.
    """
    covering = _fitting(blocks, "BLOCK_B", B)["BLOCK_B"]
    blocks = [block for block in blocks if block["BLOCK_B"] == covering]
    return next((block for block in reversed(blocks) if grid(block) >= programs), blocks[0])


def pitch(N: int) -> int:
    """Return how far apart rows of N numbers are in memory: N rounded up, so that every load is 16 bytes wide."""
    return triton.cdiv(N, 16) * 16


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of ds and h, which are multiplied with slots or queries of a dtype.

    bfloat16 for bfloat16, the accumulator's for all others: float16 would lose small gradients.
    """
    return dtype if dtype == torch.bfloat16 else accumulator(dtype)


def _upcast(a, b):
    """Return whether two operands are widened before they are multiplied; numpy's products know no bfloat16."""
    return a.dtype != b.dtype or (INTERPRETED and a.dtype == torch.bfloat16)


def _dots_tile(B, R, N, dtype, blocks):
    def grid(tile):
        return R * triton.cdiv(N, tile["BLOCK_N"]) * triton.cdiv(B, tile["BLOCK_B"])

    tile = _tile(tiles(blocks.dots, dtype), B, blocks.multiprocessors, grid)
    return tile, grid(tile)


def splits(C: int, tile: Block, programs: int, blocks: Blocks) -> tuple[int, int]:
    """Return S, the programs among which each sum over the slot dimension C is divided, and their share of C.

    Args:
        C: numbers per query and slot.
        tile: of `_dots`.
        programs: tiles of queries and slots.
        blocks: of the chip.
    """
    wanted = max(1, min(blocks.dots_programs // max(programs, 1), C // blocks.dots_columns))
    chunk = triton.cdiv(triton.cdiv(max(C, 1), tile["BLOCK_C"]), wanted) * tile["BLOCK_C"]
    return max(1, triton.cdiv(C, chunk)), chunk


def _launch_dots(x, bank, filled, queue, blocks):
    """Partial sums (S, B, R, pitch) of x.M^T."""
    (B, R, C), N = x.shape, bank.shape[1]
    tile, programs = _dots_tile(B, R, N, bank.dtype, blocks)
    S, chunk = splits(C, tile, programs, blocks)
    partial = torch.empty(S, B, R, pitch(N), dtype=accumulator(bank.dtype), device=x.device)
    if partial.numel():
        _dots[programs, S](
            x, bank, filled, partial, B, R, N, pitch(N), C, chunk, *x.stride()[:2], *bank.stride()[:2], queue,
            UPCAST=_upcast(x, bank), PRECISION=precision(backend()), **tile,
        )  # fmt: skip
    return partial


def _launch_weighted_sum(weight, values, filled, queue, dtype, blocks):
    (B, R, width), N, V = weight.shape, values.shape[1], values.shape[2]
    upcast = _upcast(weight, values)

    def grid(tile):
        return R * triton.cdiv(B, tile["BLOCK_B"]), triton.cdiv(V, tile["BLOCK_C"])

    allowed = tiles(blocks.weighted_sum, values.dtype, upcast or dtype != values.dtype)
    tile = _tile(allowed, B, blocks.multiprocessors, lambda tile: math.prod(grid(tile)))
    out = torch.empty(B, R, V, dtype=dtype, device=weight.device)
    if out.numel():
        _weighted_sum[grid(tile)](
            weight, values, filled, out, B, R, N, width, V, *values.stride()[:2], queue,
            UPCAST=upcast, PRECISION=precision(backend()), **tile,
        )  # fmt: skip
    return out


def _launch_bank_gradient(columns, x, dout, bank, blocks):
    (B, R, C), N, width = x.shape, bank.shape[1], columns.shape[3]
    upcast = _upcast(columns, x)

    def grid(tile):
        return R * triton.cdiv(N, tile["BLOCK_N"]), triton.cdiv(C, tile["BLOCK_C"])

    allowed = tiles(blocks.bank_gradient, bank.dtype, upcast)
    tile = _tile(allowed, B, blocks.multiprocessors, lambda tile: math.prod(grid(tile)))
    dbank = torch.empty(R, N, C, dtype=bank.dtype, device=x.device)
    if dbank.numel():
        _bank_gradient[grid(tile)](
            columns, x, dout, dbank, B, R, N, width, C, *x.stride()[:2], *dout.stride()[:2],
            UPCAST=upcast, PRECISION=precision(backend()), **tile,
        )  # fmt: skip
    return dbank


def _queue(filled, x):
    """The pointer and the flag that stand for `filled` in a launch; a matrix's pointer is never read."""
    return (torch.empty(0, dtype=torch.int64, device=x.device), 0) if filled is None else (filled, 1)


def forward(
    x: torch.Tensor,
    bank: torch.Tensor,
    values: torch.Tensor,
    filled: torch.Tensor | None,
    k: int,
    published: bool,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read with k chosen slots, or with all of them (k = 0: shrinkage `none`).

    Args:
        x: queries (B, R, C).
        bank: slots (R, N, C), of x's dtype or float32.
        values: (R, N, V), of the bank's dtype: what is summed; the bank itself, or what was folded from it.
        filled: None, or the number of slots that may be read, int64 scalar.
        k: chosen slots per query, at most min(N, MAX_TOP_K); 0 for all.
        published: the published rule instead of the exact one.
        keep: return the softmax, which the backward needs; always so with k = 0.

    Returns:
        out (B, R, V) in x's dtype; the softmax y (B, R, pitch), zero from N on, empty unless kept; indices (B, R, k),
        int64, -1 where the weight is 0; weights (B, R, k).
    """
    x, bank, values = rows_contiguous(x), rows_contiguous(bank), rows_contiguous(values)
    (B, R, _), N, V = x.shape, bank.shape[1], values.shape[2]
    rows, blocks = B * R, blocks_of(x, bank, values)
    row = _fitting(with_warps(blocks.rows, bank.dtype), "BLOCK_N", N)
    filled, queue = _queue(filled, x)
    with on_device(x):
        partial = _launch_dots(x, bank, filled, queue, blocks)
        S = partial.shape[0]
        y = (
            partial[0]
            if k == 0 and S == 1
            else torch.empty_like(partial[0])
            if keep or k == 0
            else partial.new_empty(0)
        )
        index = torch.empty(B, R, k, dtype=torch.int64, device=x.device)
        weight = torch.empty(B, R, k, dtype=partial.dtype, device=x.device)
        if k == 0:
            if rows:
                _softmax[(rows,)](partial, filled, y, rows, N, pitch(N), S, queue, **row)
            return _launch_weighted_sum(y, values, filled, queue, x.dtype, blocks), y, index, weight
        out = torch.empty(B, R, V, dtype=x.dtype, device=x.device)
        gather = _fitting(blocks.gather, "BLOCK_K", k)
        # Enough programs to fill the chip; more would only repeat the selection.
        pieces = max(1, triton.cdiv(V, gather["BLOCK_C"]))
        chunk = triton.cdiv(pieces, max(1, min(pieces, blocks.gather_programs // max(rows, 1)))) * gather["BLOCK_C"]
        if rows:
            _select_gather[(rows, max(1, triton.cdiv(V, chunk)))](
                partial, filled, values, out, y, index, weight, B, R, N, pitch(N), V, S, k, chunk,
                *values.stride()[:2], queue, int(published), int(keep), **row, **gather,
            )  # fmt: skip
    return out, y, index, weight


def backward(
    dout: torch.Tensor,
    x: torch.Tensor,
    bank: torch.Tensor,
    filled: torch.Tensor | None,
    y: torch.Tensor,
    index: torch.Tensor | None,
    weight: torch.Tensor | None,
    need_x: bool,
    need_bank: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of the queries and of the bank.

    Args:
        dout: gradient of the result (B, R, C).
        x, bank, filled: as given to `forward`.
        y, index, weight: as `forward` returned them with keep; index and weight are not read unless need_bank.
        need_x, need_bank: compute this gradient.

    Returns:
        dx (B, R, C) in x's dtype and dM (R, N, C) in the bank's; empty where not needed.
    """
    dout, x, bank = rows_contiguous(dout), rows_contiguous(x), rows_contiguous(bank)
    (B, R, _), N = x.shape, bank.shape[1]
    filled, queue = _queue(filled, x)
    dx, dbank, blocks = x.new_empty(0), bank.new_empty(0), blocks_of(dout, x, bank)
    with on_device(x):
        partial = _launch_dots(dout, bank, filled, queue, blocks)
        dtype = gradient_dtype(bank.dtype)
        ds = partial[0] if partial.dtype == dtype else torch.empty_like(partial[0], dtype=dtype)
        columns = torch.empty((R, N, 2, pitch(B)) if need_bank else (0,), dtype=dtype, device=x.device)
        if not need_bank:  # a kernel cannot take None where it loads
            index, weight = torch.empty(B, R, 0, dtype=torch.int64, device=x.device), partial.new_empty(B, R, 0)
        if ds.numel():
            block = _fitting(blocks.score_gradient, "BLOCK_N", N)
            _score_gradient[(R * triton.cdiv(pitch(B), block["BLOCK_B"]),)](
                partial, y, index, weight, ds, columns, B, R, N, pitch(N), pitch(B), partial.shape[0],
                index.shape[2], int(need_bank), **block,
            )  # fmt: skip
        if need_x:
            dx = _launch_weighted_sum(ds, bank, filled, queue, x.dtype, blocks)
        if need_bank:
            dbank = _launch_bank_gradient(columns, x, dout, bank, blocks)
    return dx, dbank
