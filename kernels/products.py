"""The three products of the memory read: dots s = x.M^T, weighted sums h.M, and the bank's gradient ds^T.x + h^T.dout.

Rows of N numbers are `pitch` numbers apart in memory, N rounded up, so that a load is 16 bytes wide. Weighted sums and
the bank's gradient compute transposed tiles. Their larger operand goes from shared memory to registers, where a
float32 number is split for tf32; the smaller one, the weights, is split in shared memory.
"""

import triton
import triton.language as tl


@triton.jit
def _limit(filled_ptr, queue, N):
    """Slots that may be read: all of a matrix, the filled ones of a queue."""
    return tl.minimum(tl.load(filled_ptr, mask=queue != 0, other=N), N).to(tl.int32)


@triton.jit(do_not_specialize=["B", "R", "N", "queue"])
def _dots(
    x_ptr,  # queries x (B, R, C), last dimension contiguous
    bank_ptr,  # slots M (R, N, C), last dimension contiguous
    filled_ptr,  # number of slots that may be read, one int64; not read for a matrix
    partial_ptr,  # out: partial sums (S, B, R, pitch), in the accumulator's type; 0 from N on
    B,  # queries per region
    R,  # regions
    N,  # slots per region
    pitch,  # N, rounded up to whole loads
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
    tl.store(partial_ptr + row[None, :] * pitch + n[:, None], acc, mask=(b < B)[None, :] & (n < pitch)[:, None])


@triton.jit(do_not_specialize=["B", "R", "N", "queue"])
def _weighted_sum(
    weight_ptr,  # dense weights (B, R, pitch): the softmax, or ds
    values_ptr,  # rows that are summed (R, N, V), last dimension contiguous
    filled_ptr,  # number of slots that may be read, one int64; not read for a matrix
    out_ptr,  # out: weighted sums (B, R, V)
    B,  # queries per region
    R,  # regions
    N,  # slots per region
    pitch,  # of rows of N numbers
    V,  # columns of values
    stride_vr,  # of values, per region
    stride_vn,  # of values, per slot
    queue,  # 1 for a queue, which reads filled_ptr; 0 for a matrix
    BLOCK_B: tl.constexpr,  # queries per program
    BLOCK_N: tl.constexpr,  # slots per step
    BLOCK_C: tl.constexpr,  # columns per program
    UPCAST: tl.constexpr,  # convert both to the accumulator's type before they are multiplied
    PRECISION: tl.constexpr,  # of float32 products, `tf32x3` or `ieee`
):
    """out[b, r, c] = sum over n of weight[b, r, n] * values[r, n, c]: for shrinkage `none`, and for dx.

    Grid: (R * tiles of B, tiles of V); each program computes one tile of queries and columns, transposed: the larger
    operand, values, goes from shared memory to registers.
    """
    ACC: tl.constexpr = tl.float64 if weight_ptr.dtype.element_ty == tl.float64 else tl.float32
    b_tiles = tl.cdiv(B, BLOCK_B)
    b = (tl.program_id(0) % b_tiles * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    r = (tl.program_id(0) // b_tiles).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = b * R + r
    limit = _limit(filled_ptr, queue, N)
    acc = tl.zeros((BLOCK_C, BLOCK_B), ACC)
    for start in range(0, limit, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        weights = weight_ptr + row[None, :] * pitch + n[:, None]
        w = tl.load(weights, mask=(b < B)[None, :] & (n < pitch)[:, None], other=0.0)  # [BN, BB]
        slots = values_ptr + r * stride_vr + n.to(tl.int64)[None, :] * stride_vn + c[:, None]
        v = tl.load(slots, mask=(n < limit)[None, :] & (c < V)[:, None], other=0.0)  # [BC, BN]
        if UPCAST:
            v, w = v.to(ACC), w.to(ACC)
        acc = tl.dot(v, w, acc, input_precision=PRECISION, out_dtype=ACC)
    mask = (b < B)[None, :] & (c < V)[:, None]
    tl.store(out_ptr + row[None, :] * V + c[:, None], acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["B", "R", "N"])
def _bank_gradient(
    columns_ptr,  # ds and the weights h of all slots, transposed (R, N, 2, width)
    x_ptr,  # queries (B, R, C), last dimension contiguous
    dout_ptr,  # gradient of the result (B, R, C), last dimension contiguous
    dbank_ptr,  # out: dM (R, N, C)
    B,  # queries per region
    R,  # regions
    N,  # slots per region
    width,  # of columns of B numbers
    C,  # numbers per query and slot
    stride_xb,  # of x, per query
    stride_xr,  # of x, per region
    stride_db,  # of dout, per query
    stride_dr,  # of dout, per region
    BLOCK_B: tl.constexpr,  # queries per step
    BLOCK_N: tl.constexpr,  # slots per program
    BLOCK_C: tl.constexpr,  # columns per program
    UPCAST: tl.constexpr,  # convert both to the accumulator's type before they are multiplied
    PRECISION: tl.constexpr,  # of float32 products, `tf32x3` or `ieee`
):
    """dM[r, n, c] = sum over b of ds[b, r, n] * x[b, r, c] + h[b, r, n] * dout[b, r, c].

    Grid: (R * tiles of N, tiles of C); each program computes one tile of dM over all queries and stores it once: no
    atomics. One pipelined loop over 2 B rows: first ds and x, then h and dout. The tile is transposed, as in
    `_weighted_sum`. Each column of weights is contiguous, as the matrix units read the second operand.
    """
    ACC: tl.constexpr = tl.float64 if columns_ptr.dtype.element_ty == tl.float64 else tl.float32
    n_tiles = tl.cdiv(N, BLOCK_N)
    n = (tl.program_id(0) % n_tiles * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    r = (tl.program_id(0) // n_tiles).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    columns = columns_ptr + (r * N + n) * 2 * width
    acc = tl.zeros((BLOCK_C, BLOCK_N), ACC)
    steps = tl.cdiv(B, BLOCK_B)
    for step in range(2 * steps):
        second = step >= steps
        b = (step - tl.where(second, steps, 0)) * BLOCK_B + tl.arange(0, BLOCK_B)
        weights = columns[None, :] + tl.where(second, width, 0) + b[:, None]
        w = tl.load(weights, mask=(b < width)[:, None] & (n < N)[None, :], other=0.0)  # [BB, BN]
        queries = tl.where(second, dout_ptr + r * stride_dr, x_ptr + r * stride_xr)
        rows = queries + b.to(tl.int64)[None, :] * tl.where(second, stride_db, stride_xb) + c[:, None]
        x = tl.load(rows, mask=(b < B)[None, :] & (c < C)[:, None], other=0.0)  # [BC, BB]
        if UPCAST:
            x, w = x.to(ACC), w.to(ACC)
        acc = tl.dot(x, w, acc, input_precision=PRECISION, out_dtype=ACC)
    slot = dbank_ptr + (r * N + n)[None, :] * C + c[:, None]
    tl.store(slot, acc.to(dbank_ptr.dtype.element_ty), mask=(n < N)[None, :] & (c < C)[:, None])
