"""What the memory read computes of rows of N dots: softmax, top-k with the gather, and the gradient of the dots.

Rows of N numbers are `pitch` numbers apart in memory, N rounded up, so that a load is 16 bytes wide.
"""

import triton
import triton.language as tl

from .products import _limit


@triton.jit
def _row_sum(partial_ptr, row, rows, pitch, splits, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    """A row's dots: its partial sums, always added in the same order."""
    n = tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_N,), partial_ptr.dtype.element_ty)
    for start in range(0, splits, BLOCK_S):
        for i in tl.static_range(BLOCK_S):  # unrolled: the loads are in flight together
            z = start + i
            part = partial_ptr + (z * rows + row) * pitch + n
            total += tl.load(part, mask=(n < pitch) & (z < splits), other=0.0)
    return total


@triton.jit
def _row_softmax(partial_ptr, row, rows, pitch, splits, limit, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    """Softmax of one query over the readable slots (zeros where there are none), with what it was made of:
    the dots, their largest, and the sum of the exponentials.
    """
    readable = tl.arange(0, BLOCK_N) < limit
    s = _row_sum(partial_ptr, row, rows, pitch, splits, BLOCK_N, BLOCK_S)
    s = tl.where(readable, s, float("-inf"))
    top = tl.where(limit > 0, tl.max(s, 0), 0.0)
    e = tl.where(readable, tl.exp(s - top), 0.0)
    total = tl.sum(e, 0)
    total = tl.where(total == 0, 1.0, total)
    return s, top, total, e / total


@triton.jit(do_not_specialize=["B", "R", "N", "splits", "k", "queue", "published", "keep"])
def _select_gather(
    partial_ptr,  # partial sums of the dots (S, B, R, pitch), as `_dots` stores them
    filled_ptr,  # number of slots that may be read, one int64; not read for a matrix
    values_ptr,  # rows that are summed (R, N, V), last dimension contiguous
    out_ptr,  # out: weighted sums (B, R, V)
    y_ptr,  # out: softmax (B, R, pitch), stored where `keep` is 1
    index_ptr,  # out: chosen slots (B, R, k), int64, -1 where the weight is 0
    weight_ptr,  # out: their weights (B, R, k)
    B,  # queries per region
    R,  # regions
    N,  # slots per region
    pitch,  # of rows of N numbers
    V,  # columns of values
    splits,  # S, the partial sums of each dot
    k,  # chosen slots per query
    chunk,  # of V, that one program sums; a multiple of BLOCK_C
    stride_vr,  # of values, per region
    stride_vn,  # of values, per slot
    queue,  # 1 for a queue, which reads filled_ptr; 0 for a matrix
    published,  # 1 for the published rule, 0 for the exact one
    keep,  # 1 to store the softmax
    BLOCK_N: tl.constexpr,  # at least N
    BLOCK_S: tl.constexpr,  # partial sums that are loaded together
    BLOCK_K: tl.constexpr,  # at least k
    BLOCK_C: tl.constexpr,  # columns per step
):
    """Softmax, top-k and the weighted sum of the k chosen rows of values.

    Grid: (B * R, chunks of V); each program computes one query's selection and one chunk of its columns. Every chunk's
    program repeats the selection, which reads a few numbers from the cache; the first one stores it.
    """
    ACC: tl.constexpr = partial_ptr.dtype.element_ty
    r = (tl.program_id(0) // B).to(tl.int64)  # queries of one region side by side: their slots stay in the cache
    rows = B.to(tl.int64) * R
    row = (tl.program_id(0) % B).to(tl.int64) * R + r
    n, slot = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    limit = _limit(filled_ptr, queue, N)
    s, top, sum_e, y = _row_softmax(partial_ptr, row, rows, pitch, splits, limit, BLOCK_N, BLOCK_S)
    # Exact: by the dots, whose order the probabilities keep except where these underflow or round to a tie.
    left = tl.where((published != 0) & (s > float("-inf")), y, s)
    index = tl.full((BLOCK_K,), 0, tl.int32)
    weight = tl.zeros((BLOCK_K,), ACC)
    kth = tl.zeros((), ACC)
    for j in range(k):
        # One reduction finds the value and its place, ties to the lowest index.
        best, i = tl.max(left, 0, return_indices=True, return_indices_tie_break_left=True)
        kth = tl.where(published != 0, best, tl.exp(best - top) / sum_e)
        kth = tl.where(best > float("-inf"), kth, 0.0)
        index = tl.where(slot == j, i, index)
        weight = tl.where(slot == j, kth, weight)
        left = tl.where(n == i, float("-inf"), left)
    weight = tl.where((published != 0) & (weight <= kth), 0.0, weight)
    total = tl.sum(weight, 0)
    weight = weight / tl.where(total < 1e-12, 1e-12, total)
    broken = tl.sum(y, 0)  # a NaN stays a NaN, though no comparison above finds it
    weight = tl.where(broken == broken, weight, broken)
    index = tl.where(weight > 0, index, -1).to(tl.int64)
    if tl.program_id(1) == 0:
        tl.store(y_ptr + row * pitch + n, y, mask=(n < pitch) & (keep != 0))
        tl.store(index_ptr + row * k + slot, index, mask=slot < k)
        tl.store(weight_ptr + row * k + slot, weight, mask=slot < k)
    chosen = values_ptr + r * stride_vr + index * stride_vn
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, V), BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        picked = tl.load(chosen[:, None] + c[None, :], mask=(index >= 0)[:, None] & (c < V)[None, :], other=0.0)
        out = tl.sum(picked.to(ACC) * weight[:, None], 0)  # [BK, BC] -> [BC]
        tl.store(out_ptr + row * V + c, out.to(out_ptr.dtype.element_ty), mask=c < V)


@triton.jit(do_not_specialize=["rows", "N", "splits", "queue"])
def _softmax(
    partial_ptr,  # partial sums of the dots (S, B, R, pitch)
    filled_ptr,  # number of slots that may be read, one int64; not read for a matrix
    y_ptr,  # out: softmax (B, R, pitch); may be the first of the partial sums
    rows,  # B * R
    N,  # slots per region
    pitch,  # of rows of N numbers
    splits,  # S, the partial sums of each dot
    queue,  # 1 for a queue, 0 for a matrix
    BLOCK_N: tl.constexpr,  # at least N
    BLOCK_S: tl.constexpr,  # partial sums that are loaded together
):
    """y = softmax of the dots.

    Grid: (B * R,); each program computes the row of one query.
    """
    row, n = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_N)
    limit = _limit(filled_ptr, queue, N)
    _, _, _, y = _row_softmax(partial_ptr, row, rows, pitch, splits, limit, BLOCK_N, BLOCK_S)
    tl.store(y_ptr + row * pitch + n, y, mask=n < pitch)


@triton.jit(do_not_specialize=["B", "R", "N", "splits", "k", "dense"])
def _score_gradient(
    partial_ptr,  # partial sums of dy (S, B, R, pitch)
    y_ptr,  # softmax (B, R, pitch)
    index_ptr,  # chosen slots (B, R, k), int64, -1 for none
    weight_ptr,  # their weights (B, R, k)
    ds_ptr,  # out: gradient of the dots (B, R, pitch); may be the first of the partial sums
    columns_ptr,  # out: ds and the weights h of all slots, transposed (R, N, 2, width), stored where `dense` is 1
    B,  # queries per region
    R,  # regions
    N,  # slots per region
    pitch,  # of rows of N numbers
    width,  # of columns of B numbers: B, rounded up
    splits,  # S, the partial sums of each dy
    k,  # chosen slots per query; 0 for shrinkage `none`, whose weights are y
    dense,  # 1 to store the columns
    BLOCK_B: tl.constexpr,  # queries per program
    BLOCK_N: tl.constexpr,  # at least N
    BLOCK_S: tl.constexpr,  # partial sums that are loaded together
):
    """ds = y * (dy - sum(y * dy)), as rows for `_weighted_sum`, and as columns with the weights for `_bank_gradient`.

    Grid: (R * tiles of width,); each program computes the rows of a few queries of one region. Columns are zero from B
    on.
    """
    b_tiles = tl.cdiv(width, BLOCK_B)
    b = (tl.program_id(0) % b_tiles * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    r = (tl.program_id(0) // b_tiles).to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    row = b * R + r
    inside = (b < B)[:, None] & (n < pitch)[None, :]
    y = tl.load(y_ptr + row[:, None] * pitch + n[None, :], mask=inside, other=0.0)
    dy = tl.zeros((BLOCK_B, BLOCK_N), partial_ptr.dtype.element_ty)
    for start in range(0, splits, BLOCK_S):
        for i in tl.static_range(BLOCK_S):
            z = start + i
            part = partial_ptr + (z * B.to(tl.int64) * R + row)[:, None] * pitch + n[None, :]
            dy += tl.load(part, mask=inside & (z < splits), other=0.0)
    ds = y * (dy - tl.sum(y * dy, 1)[:, None])
    tl.store(ds_ptr + row[:, None] * pitch + n[None, :], ds.to(ds_ptr.dtype.element_ty), mask=inside)
    if dense != 0:
        h = tl.where(k == 0, y, 0.0)
        for j in range(k):
            index = tl.load(index_ptr + row * k + j, mask=b < B, other=-1)
            weight = tl.load(weight_ptr + row * k + j, mask=b < B, other=0.0)
            h += tl.where(n[None, :] == index[:, None], weight[:, None], 0.0)
        column = columns_ptr + (r * N + n)[None, :] * 2 * width + b[:, None]
        inside = (b < width)[:, None] & (n < N)[None, :]
        tl.store(column, ds.to(columns_ptr.dtype.element_ty), mask=inside)
        tl.store(column + width, h.to(columns_ptr.dtype.element_ty), mask=inside)
