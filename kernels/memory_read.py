"""Region-restricted memory read and its backward (SQUID 3.2, SimSID 3.2); defined by fastsquid/ops/reference.py.

Shapes: queries x (B, R, C), bank M (R, N, C), k chosen slots. The queries of region r read
the slots of region r only. Every launch serves all regions.

Forward, two launches
    _dots           s = x.M^T. A batch of skinny products, whose cost is reading the bank. The papers' shapes have only
                    16 to 64 tiles of slots. Therefore S programs share each sum over C: partial sums (S, B, R, N).
    _select_gather  Adds the partial sums in a fixed order, takes the softmax y, the k largest by repeated maximum
                    (ties to the lowest index), their weights divided by their sum, and the weighted sum of the k rows.
                    For shrinkage `none`: _softmax, and _weighted_sum over all rows.
Backward, three launches and one for dM (straight-through: the weights' gradient is the softmax's)
    _dots           dy = dout.M^T, in partial sums again.
    _score_gradient ds = y * (dy - sum(y * dy)), in the place of the first partial sums.
    _weighted_sum   dx = ds.M
    _bank_gradient  dM = ds^T.x + h^T.dout, h being rebuilt from indices and weights. A row of dM is summed by one
                    program and stored once: no atomics anywhere, the same bits each time.

Memory beyond inputs and outputs: y, kept from forward to backward, and S partial sums, one (B, R, N) each, in the
accumulator's type; at most (S + 1) of them at a time. Indices and weights are (B, R, k). Without gradients y is not
stored.

The floor: each input read once and each result written once, at 4.3 TB/s (a copy on an H200), against the products
at 165 TFLOP/s, a third of the 494 that the H200's data sheet gives for tf32, since a float32 product takes three.
float32, rows per region x regions x slots x C. Forward reads M and x and writes out. Backward reads M, x and dout and
writes dx and dM. bench/cases.py and docs/kernels.md count the same bytes:

                                          forward                            backward
                                          bytes     us   products    us     bytes      us   products     us
    SQUID in-painting     16x4x200x2048    7.6 MB   1.8   0.05 GF    0.3    14.7 MB    3.4   0.16 GF     1.0
    SQUID decoder         64x4x200x4096   21.5 MB   5.0   0.42 GF    2.5    38.8 MB    9.0   1.26 GF     7.6
                          64x4x200x8192   43.0 MB  10.0   0.84 GF    5.1    77.6 MB   18.0   2.52 GF    15.3
    SimSID in-painting    16x16x100x512    4.3 MB   1.0   0.03 GF    0.2     8.1 MB    1.9   0.08 GF     0.5
    SimSID decoder       256x4x100x1024   10.0 MB   2.3   0.21 GF    1.3    15.9 MB    3.7   0.63 GF     3.8
                         256x4x100x2048   20.1 MB   4.7   0.42 GF    2.5    31.7 MB    7.4   1.26 GF     7.6
    large              256x64x1000x2048    793 MB   184     67 GF    408    1451 MB    337    201 GF    1220

Where this design spends more:
- Launches. At the papers' shapes each kernel's floor is below what starting a kernel costs the host; a forward is two
  launches and a backward four where one of each could do. A single forward kernel would need a barrier across the
  programs that share a region.
- y, which forward writes for backward: B * R * N numbers, 0.05 MB to 0.4 MB at the papers' shapes, 66 MB in the large
  case. Without gradients nothing is written.
- Partial sums. S * B * R * N numbers are written and read back, mostly in the cache: for SQUID's in-painting 0.4 MB
  (S = 8) to the bank's 6.6 MB, for its decoders 3.3 MB (S = 16) to 13 and 26 MB.
- The chosen rows are read again: k rows per query, 2.6 MB to 42 MB at the papers' shapes, from the cache, since the
  bank has just been read and fits in it. In the large case 671 MB; queries of one region run side by side, so that
  the region's 8 MB stay in the cache.
- Tensors read once for each tile of the other side: with 256 rows the bank is read twice, and the queries once for
  every 64 slots, from the cache.
- Backward reads M twice (dy and dx), once more than the floor.
- A fourth product in backward: h^T.dout over all slots, though only k per query are not zero, which needs no atomics.
- The rebuilding of h compares every slot of a tile with k indices per query: k * B * R * N * C / 32 comparisons.
None of these costs has been measured on a GPU yet.

Precision: sums in float32 (float64 for float64). Half-precision queries and slots are multiplied as they are, which is
exact, unless their types differ. float32 products are three tf32 products (`tf32x3`) on NVIDIA's matrix units and
plain float32 elsewhere, because a dot's absolute error becomes a weight's relative one and decides which slots are
chosen. bench/results/precision.md: over random and adversarial inputs three tf32 products err as float32 does (at most
5.7 against 5.5 units of 2^-24 sum |x.m|) and choose other slots than float64 only where the logits differ by less than
2 such units; one tf32 product errs by up to 1,600 and chooses otherwise up to 700 units apart.
"""

import torch
import triton
import triton.language as tl

from .configurations import Block, blocks_on
from .launch import INTERPRETED, accumulator, backend, on_device, precision, rows_contiguous


@triton.jit
def _limit(filled_ptr, queue, N):
    """Slots that may be read: all of a matrix, the filled ones of a queue."""
    return tl.minimum(tl.load(filled_ptr, mask=queue != 0, other=N), N).to(tl.int32)


@triton.jit(do_not_specialize=["B", "R", "N", "queue"])
def _dots(
    x_ptr,  # queries x (B, R, C), last dimension contiguous
    bank_ptr,  # slots M (R, N, C), last dimension contiguous
    filled_ptr,  # number of slots that may be read, one int64; not read for a matrix
    partial_ptr,  # out: partial sums (S, B, R, N), in the accumulator's type
    B,  # queries per region
    R,  # regions
    N,  # slots per region
    C,  # numbers per query and slot
    chunk,  # of C, that one program sums; a multiple of BLOCK_C
    stride_xb,  # of x, per query
    stride_xr,  # of x, per region
    stride_mr,  # of M, per region
    stride_mn,  # of M, per slot
    queue,  # 1 for a queue, which reads filled_ptr; 0 for a matrix
    BLOCK_B: tl.constexpr,  # queries per program
    BLOCK_N: tl.constexpr,  # slots per program
    BLOCK_C: tl.constexpr,  # numbers per step
    UPCAST: tl.constexpr,  # convert both to the accumulator's type before they are multiplied
    PRECISION: tl.constexpr,  # of float32 products, `tf32x3` or `ieee`
):
    """partial[z, b, r, n] = sum of x[b, r, c] * bank[r, n, c] over the z-th chunk of c.

    Grid: (R * tiles of N * tiles of B, S); each program computes one tile of slots and queries for one chunk of C.
    """
    ACC: tl.constexpr = partial_ptr.dtype.element_ty
    # Query tiles are innermost: programs that read the same slots run side by side and share the cache.
    b_tiles, n_tiles = tl.cdiv(B, BLOCK_B), tl.cdiv(N, BLOCK_N)
    b = (tl.program_id(0) % b_tiles * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    n = tl.program_id(0) // b_tiles % n_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    r = (tl.program_id(0) // b_tiles // n_tiles).to(tl.int64)
    readable = n < _limit(filled_ptr, queue, N)
    x_rows = x_ptr + r * stride_xr + b * stride_xb
    slots = bank_ptr + r * stride_mr + n.to(tl.int64) * stride_mn
    acc = tl.zeros((BLOCK_N, BLOCK_B), ACC)
    z = tl.program_id(1)
    for start in range(z * chunk, tl.minimum(z * chunk + chunk, C), BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        m = tl.load(slots[:, None] + c[None, :], mask=readable[:, None] & (c < C)[None, :], other=0.0)  # [BN, BC]
        x = tl.load(x_rows[None, :] + c[:, None], mask=(b < B)[None, :] & (c < C)[:, None], other=0.0)  # [BC, BB]
        if UPCAST:
            m, x = m.to(ACC), x.to(ACC)
        acc = tl.dot(m, x, acc, input_precision=PRECISION, out_dtype=ACC)
    row = (z.to(tl.int64) * B + b) * R + r
    tl.store(partial_ptr + row[None, :] * N + n[:, None], acc, mask=(b < B)[None, :] & (n < N)[:, None])


@triton.jit
def _row_sum(partial_ptr, row, rows, N, splits, BLOCK_N: tl.constexpr):
    """A row's dots: its partial sums, always added in the same order."""
    n = tl.arange(0, BLOCK_N)
    total = tl.load(partial_ptr + row * N + n, mask=n < N, other=0.0)
    for z in range(1, splits):
        total += tl.load(partial_ptr + (z * rows + row) * N + n, mask=n < N, other=0.0)
    return total


@triton.jit
def _row_softmax(partial_ptr, row, rows, N, splits, limit, BLOCK_N: tl.constexpr):
    """Dots of one query, and its softmax over the readable slots (zeros where there are none)."""
    readable = tl.arange(0, BLOCK_N) < limit
    s = _row_sum(partial_ptr, row, rows, N, splits, BLOCK_N)
    s = tl.where(readable, s, float("-inf"))
    top = tl.max(s, 0)
    e = tl.where(readable, tl.exp(s - tl.where(limit > 0, top, 0.0)), 0.0)
    total = tl.sum(e, 0)
    return s, e / tl.where(total == 0, 1.0, total)


@triton.jit(do_not_specialize=["B", "R", "N", "splits", "k", "queue", "published", "keep"])
def _select_gather(
    partial_ptr,  # partial sums of the dots (S, B, R, N), as `_dots` stores them
    filled_ptr,  # number of slots that may be read, one int64; not read for a matrix
    values_ptr,  # rows that are summed (R, N, V), last dimension contiguous
    out_ptr,  # out: weighted sums (B, R, V)
    y_ptr,  # out: softmax (B, R, N), stored where `keep` is 1
    index_ptr,  # out: chosen slots (B, R, k), int64, -1 where the weight is 0
    weight_ptr,  # out: their weights (B, R, k)
    B,  # queries per region
    R,  # regions
    N,  # slots per region
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
    s, y = _row_softmax(partial_ptr, row, rows, N, splits, _limit(filled_ptr, queue, N), BLOCK_N)
    # Exact: by the dots, whose order the probabilities keep except where these underflow or round to a tie.
    left = tl.where((published != 0) & (s > float("-inf")), y, s)
    index = tl.full((BLOCK_K,), 0, tl.int64)
    weight = tl.zeros((BLOCK_K,), ACC)
    kth = tl.zeros((), ACC)
    for j in range(k):
        best = tl.max(left, 0)
        i = tl.min(tl.where(left == best, n, BLOCK_N), 0)  # ties to the lowest index
        kth = tl.sum(tl.where((n == i) & (left > float("-inf")), y, 0.0), 0)
        index = tl.where(slot == j, i, index)
        weight = tl.where(slot == j, kth, weight)
        left = tl.where(n == i, float("-inf"), left)
    weight = tl.where((published != 0) & (weight <= kth), 0.0, weight)
    total = tl.sum(weight, 0)
    weight = weight / tl.where(total < 1e-12, 1e-12, total)
    broken = tl.sum(y, 0)  # a NaN stays a NaN, though no comparison above finds it
    weight = tl.where(broken == broken, weight, broken)
    index = tl.where(weight > 0, index, -1)
    if tl.program_id(1) == 0:
        tl.store(y_ptr + row * N + n, y, mask=(n < N) & (keep != 0))
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
    partial_ptr,  # partial sums of the dots (S, B, R, N)
    filled_ptr,  # number of slots that may be read, one int64; not read for a matrix
    y_ptr,  # out: softmax (B, R, N); may be the first of the partial sums
    rows,  # B * R
    N,  # slots per region
    splits,  # S, the partial sums of each dot
    queue,  # 1 for a queue, 0 for a matrix
    BLOCK_N: tl.constexpr,  # at least N
):
    """y = softmax of the dots.

    Grid: (B * R,); each program computes the row of one query.
    """
    row, n = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_N)
    _, y = _row_softmax(partial_ptr, row, rows, N, splits, _limit(filled_ptr, queue, N), BLOCK_N)
    tl.store(y_ptr + row * N + n, y, mask=n < N)


@triton.jit(do_not_specialize=["rows", "N", "splits"])
def _score_gradient(
    partial_ptr,  # partial sums of dy (S, B, R, N); out: ds in the place of the first
    y_ptr,  # softmax (B, R, N)
    rows,  # B * R
    N,  # slots per region
    splits,  # S, the partial sums of each dy
    BLOCK_N: tl.constexpr,  # at least N
):
    """ds = y * (dy - sum(y * dy)), in the place of the first partial sum of dy.

    Grid: (B * R,); each program computes the row of one query.
    """
    row, n = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_N)
    y = tl.load(y_ptr + row * N + n, mask=n < N, other=0.0)
    dy = _row_sum(partial_ptr, row, rows, N, splits, BLOCK_N)
    tl.store(partial_ptr + row * N + n, y * (dy - tl.sum(y * dy, 0)), mask=n < N)


@triton.jit(do_not_specialize=["B", "R", "N", "queue"])
def _weighted_sum(
    weight_ptr,  # dense weights (B, R, N): the softmax, or ds
    values_ptr,  # rows that are summed (R, N, V), last dimension contiguous
    filled_ptr,  # number of slots that may be read, one int64; not read for a matrix
    out_ptr,  # out: weighted sums (B, R, V)
    B,  # queries per region
    R,  # regions
    N,  # slots per region
    V,  # columns of values
    stride_vr,  # of values, per region
    stride_vn,  # of values, per slot
    queue,  # 1 for a queue, which reads filled_ptr; 0 for a matrix
    BLOCK_B: tl.constexpr,  # queries per program
    BLOCK_N: tl.constexpr,  # slots per step
    BLOCK_C: tl.constexpr,  # columns per program
    PRECISION: tl.constexpr,  # of float32 products, `tf32x3` or `ieee`
):
    """out[b, r, c] = sum over n of weight[b, r, n] * values[r, n, c]: for shrinkage `none`, and for dx.

    Grid: (R * tiles of B, tiles of V); each program computes one tile of queries and columns.
    """
    ACC: tl.constexpr = weight_ptr.dtype.element_ty
    b_tiles = tl.cdiv(B, BLOCK_B)
    b = (tl.program_id(0) % b_tiles * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    r = (tl.program_id(0) // b_tiles).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = b * R + r
    limit = _limit(filled_ptr, queue, N)
    acc = tl.zeros((BLOCK_B, BLOCK_C), ACC)
    for start in range(0, limit, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        readable = n < limit
        w = tl.load(weight_ptr + row[:, None] * N + n[None, :], mask=(b < B)[:, None] & readable[None, :], other=0.0)
        slots = values_ptr + r * stride_vr + n.to(tl.int64)[:, None] * stride_vn + c[None, :]
        v = tl.load(slots, mask=readable[:, None] & (c < V)[None, :], other=0.0)  # [BN, BC]
        acc = tl.dot(w, v.to(ACC), acc, input_precision=PRECISION, out_dtype=ACC)
    mask = (b < B)[:, None] & (c < V)[None, :]
    tl.store(out_ptr + row[:, None] * V + c[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["B", "R", "N", "k"])
def _bank_gradient(
    ds_ptr,  # gradient of the dots (B, R, N)
    y_ptr,  # softmax (B, R, N), read where k is 0
    index_ptr,  # chosen slots (B, R, k), int64, -1 for none
    weight_ptr,  # their weights (B, R, k)
    x_ptr,  # queries (B, R, C), last dimension contiguous
    dout_ptr,  # gradient of the result (B, R, C), last dimension contiguous
    dbank_ptr,  # out: dM (R, N, C)
    B,  # queries per region
    R,  # regions
    N,  # slots per region
    C,  # numbers per query and slot
    k,  # chosen slots per query; 0 for shrinkage `none`
    stride_xb,  # of x, per query
    stride_xr,  # of x, per region
    stride_db,  # of dout, per query
    stride_dr,  # of dout, per region
    BLOCK_B: tl.constexpr,  # queries per step
    BLOCK_N: tl.constexpr,  # slots per program
    BLOCK_C: tl.constexpr,  # columns per program
    PRECISION: tl.constexpr,  # of float32 products, `tf32x3` or `ieee`
):
    """dM[r, n, c] = sum over b of ds[b, r, n] * x[b, r, c] + h[b, r, n] * dout[b, r, c].

    Grid: (R * tiles of N, tiles of C); each program computes one tile of dM over all queries and stores it once: no
    atomics. h comes from the k indices and weights of each query; with k = 0 (shrinkage `none`) it is y.
    """
    ACC: tl.constexpr = ds_ptr.dtype.element_ty
    n_tiles = tl.cdiv(N, BLOCK_N)
    n = (tl.program_id(0) % n_tiles * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    r = (tl.program_id(0) // n_tiles).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    acc = tl.zeros((BLOCK_N, BLOCK_C), ACC)
    for start in range(0, B, BLOCK_B):
        b = (start + tl.arange(0, BLOCK_B)).to(tl.int64)
        row = b * R + r
        dense = row[None, :] * N + n[:, None]
        inside = (n < N)[:, None] & (b < B)[None, :]
        ds = tl.load(ds_ptr + dense, mask=inside, other=0.0)  # [BN, BB]
        h = tl.load(y_ptr + dense, mask=inside & (k == 0), other=0.0)
        for j in range(k):
            index = tl.load(index_ptr + row * k + j, mask=b < B, other=-1)
            weight = tl.load(weight_ptr + row * k + j, mask=b < B, other=0.0)
            h += tl.where(n[:, None] == index[None, :], weight[None, :], 0.0)
        tile = (b < B)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + b[:, None] * stride_xb + r * stride_xr + c[None, :], mask=tile, other=0.0)  # [BB, BC]
        dout = tl.load(dout_ptr + b[:, None] * stride_db + r * stride_dr + c[None, :], mask=tile, other=0.0)
        acc = tl.dot(ds, x.to(ACC), acc, input_precision=PRECISION, out_dtype=ACC)
        acc = tl.dot(h, dout.to(ACC), acc, input_precision=PRECISION, out_dtype=ACC)
    slot = dbank_ptr + (r * N + n)[:, None] * C + c[None, :]
    tl.store(slot, acc.to(dbank_ptr.dtype.element_ty), mask=(n < N)[:, None] & (c < C)[None, :])


def _fitting(blocks, name, size):
    """Return the first block whose `name` covers size, else the last."""
    return next((block for block in blocks if block[name] >= size), blocks[-1])


def tiles(blocks: list[Block], dtype: torch.dtype) -> list[Block]:
    """Return the blocks that serve a dtype: float64, which is for tests, keeps to the smallest."""
    return blocks[:1] if dtype == torch.float64 else blocks


def _tile(blocks, B, dtype):
    return _fitting(tiles(blocks, dtype), "BLOCK_B", B)


def splits(B: int, R: int, N: int, C: int, dtype: torch.dtype, device: torch.device) -> tuple[int, int]:
    """Return S, the programs among which each sum over the slot dimension C is divided, and their share of C.

    Args:
        B, R, N, C: sizes of the queries (B, R, C) and the bank (R, N, C).
        dtype: of the bank.
        device: where the kernel runs.
    """
    blocks = blocks_on(device)
    tile = _tile(blocks.dots, B, dtype)
    tiles = R * triton.cdiv(N, tile["BLOCK_N"]) * triton.cdiv(B, tile["BLOCK_B"])
    wanted = max(1, min(blocks.dots_programs // max(tiles, 1), C // blocks.dots_columns))
    chunk = triton.cdiv(triton.cdiv(max(C, 1), tile["BLOCK_C"]), wanted) * tile["BLOCK_C"]
    return max(1, triton.cdiv(C, chunk)), chunk


def _launch_dots(x, bank, filled, queue):
    """Partial sums (S, B, R, N) of x.M^T."""
    (B, R, C), N = x.shape, bank.shape[1]
    tile = _tile(blocks_on(x.device).dots, B, bank.dtype)
    S, chunk = splits(B, R, N, C, bank.dtype, x.device)
    partial = torch.empty(S, B, R, N, dtype=accumulator(bank.dtype), device=x.device)
    grid = (R * triton.cdiv(N, tile["BLOCK_N"]) * triton.cdiv(B, tile["BLOCK_B"]), S)
    if partial.numel():
        _dots[grid](
            x, bank, filled, partial, B, R, N, C, chunk, *x.stride()[:2], *bank.stride()[:2], queue,
            UPCAST=x.dtype != bank.dtype or (INTERPRETED and x.dtype == torch.bfloat16),
            PRECISION=precision(backend()), **tile,
        )  # fmt: skip
    return partial


def _launch_weighted_sum(weight, values, filled, queue, dtype):
    (B, R, N), V = weight.shape, values.shape[2]
    tile = _tile(blocks_on(weight.device).weighted_sum, B, values.dtype)
    out = torch.empty(B, R, V, dtype=dtype, device=weight.device)
    grid = (R * triton.cdiv(B, tile["BLOCK_B"]), triton.cdiv(V, tile["BLOCK_C"]))
    if out.numel():
        _weighted_sum[grid](
            weight, values, filled, out, B, R, N, V, *values.stride()[:2], queue,
            PRECISION=precision(backend()), **tile,
        )  # fmt: skip
    return out


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
        out (B, R, V) in x's dtype; the softmax y (B, R, N), empty unless kept; indices (B, R, k), int64, -1 where the
        weight is 0; weights (B, R, k).
    """
    x, bank, values = rows_contiguous(x), rows_contiguous(bank), rows_contiguous(values)
    (B, R, _), N, V = x.shape, bank.shape[1], values.shape[2]
    rows, blocks = B * R, blocks_on(x.device)
    row = _fitting(blocks.rows, "BLOCK_N", N)
    filled, queue = _queue(filled, x)
    with on_device(x):
        partial = _launch_dots(x, bank, filled, queue)
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
                _softmax[(rows,)](partial, filled, y, rows, N, S, queue, **row)
            return _launch_weighted_sum(y, values, filled, queue, x.dtype), y, index, weight
        out = torch.empty(B, R, V, dtype=x.dtype, device=x.device)
        gather = _fitting(blocks.gather, "BLOCK_K", k)
        # Enough programs to fill the chip; more would only repeat the selection.
        pieces = max(1, triton.cdiv(V, gather["BLOCK_C"]))
        chunk = triton.cdiv(pieces, max(1, min(pieces, blocks.gather_programs // max(rows, 1)))) * gather["BLOCK_C"]
        if rows:
            _select_gather[(rows, max(1, triton.cdiv(V, chunk)))](
                partial, filled, values, out, y, index, weight, B, R, N, V, S, k, chunk,
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
    (B, R, C), N = x.shape, bank.shape[1]
    filled, queue = _queue(filled, x)
    dx, dbank, blocks = x.new_empty(0), bank.new_empty(0), blocks_on(x.device)
    with on_device(x):
        partial = _launch_dots(dout, bank, filled, queue)
        ds = partial[0]
        if ds.numel():
            _score_gradient[(B * R,)](partial, y, B * R, N, partial.shape[0], **_fitting(blocks.rows, "BLOCK_N", N))
        if need_x:
            dx = _launch_weighted_sum(ds, bank, filled, queue, x.dtype)
        if need_bank:
            tile = _tile(blocks.bank_gradient, B, bank.dtype)
            dbank = torch.empty(R, N, C, dtype=bank.dtype, device=x.device)
            _bank_gradient[(R * triton.cdiv(N, tile["BLOCK_N"]), triton.cdiv(C, tile["BLOCK_C"]))](
                ds, y, index, weight, x, dout, dbank, B, R, N, C, index.shape[2],
                *x.stride()[:2], *dout.stride()[:2], PRECISION=precision(backend()), **tile,
            )  # fmt: skip
    return dx, dbank
