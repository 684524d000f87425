"""Attention of every patch to the eight around it, read in place, and its backward (SQUID 3.3, SimSID 3.3); defined
by fastsquid/ops/reference.py.

Shapes: q, k, v, out (B, H, W, heads, D); the log-sum-exp of the logits (B, H, W, heads). One program owns a few
patches and one head, and visits the eight neighbors in turn with a running maximum: scores stay in registers, and no
copy of a neighbor exists in memory. A neighbor outside the grid is a key of logit 0 and value 0 (`pad`), which adds
exp(0 - max) to the denominator, or of logit -inf (`mask`).

Backward, one launch: probabilities are recomputed from the log-sum-exp. The patches that a patch looks at are those
that look at it, so the program that owns a patch sums its dq, dk and dv over the same eight and stores each once: no
atomics, the same bits each time.

The floor: forward reads q, k, v and writes out, backward reads q, k, v, out, dout and writes dq, dk, dv, once each, at
4.3 TB/s (a copy on an H200). float32:

                            images, patches, heads x D    forward          backward
    SQUID                      16, 2 x 2,  8 x 256         2.1 MB, 0.5 us     4.2 MB, 1.0 us
    SimSID                     16, 4 x 4,  8 x 64          2.1 MB, 0.5 us     4.2 MB, 1.0 us
    large                     256, 8 x 8,  8 x 64          134 MB,  31 us     268 MB,  62 us

The arithmetic, 4 D operations per neighbor and head forward, is a tenth of that at 67 TFLOP/s and needs no matrix unit.

Where this design spends more:
- Launches: at the papers' shapes starting the kernel costs more than its floor.
- Neighbors are read up to eight times, of the cache: a patch's neighbors belong to the same program or to ones
  beside it. Backward reads eight neighbors' k, v and eight neighbors' q, dout, out: it computes each dout.out up to
  nine times rather than pay a launch for it.
- Instructions, not bytes, are the limit of the large case. So a chip with blocks of its own adds one number to a
  patch's address for each neighbor, and a thread loads 16 bytes also of 16-bit numbers. Unaligned inputs would spill.
docs/kernels.md has what was measured.

Precision: everything is computed in float32 (float64 for float64), with plain multiplications and additions.
"""

import torch
import triton
import triton.language as tl

from .configurations import attention_blocks
from .launch import accumulator, blocks_of, on_device, rows_contiguous

DQ, DKV = tl.constexpr(1), tl.constexpr(2)  # gradients that a backward launch makes, added up


@triton.jit
def _place(patches, H, W, BLOCK_P: tl.constexpr):
    """The patches of this program: flat index, image, row and column."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    return p, p // (H * W), p // W % H, p % W


@triton.jit
def _step(n):
    """Row and column offset of the n-th of the eight neighbors, row-major."""
    cell = n + (n > 3)
    return cell // 3 - 1, cell % 3 - 1


@triton.jit
def _tile(ptr, b, i, j, stride_b, stride_i, stride_j, d, mask, ACC: tl.constexpr):
    """Features (BLOCK_P, BLOCK_D) of patches (b, i, j), zero where the mask is false."""
    row = b.to(tl.int64) * stride_b + i.to(tl.int64) * stride_i + j.to(tl.int64) * stride_j
    return tl.load(ptr + row[:, None] + d[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def _near_tile(ptr, b, i, j, di, dj, stride_b, stride_i, stride_j, d, mask, ACC: tl.constexpr, UNROLL: tl.constexpr):
    """Features of the patches (di, dj) away from (b, i, j).

    Unrolled, their distance is one number for all patches, and a patch's own address is computed once for all eight.
    """
    if UNROLL == 8:
        ptr += (di * stride_i).to(tl.int64) + dj * stride_j
        return _tile(ptr, b, i, j, stride_b, stride_i, stride_j, d, mask, ACC)
    else:
        return _tile(ptr, b, i + di, j + dj, stride_b, stride_i, stride_j, d, mask, ACC)


@triton.jit(do_not_specialize=["patches", "H", "W", "pad"])
def _forward(
    q_ptr,  # queries (B, H, W, heads, D), last dimension contiguous, as in keys and values
    k_ptr,  # keys, of the same shape
    v_ptr,  # values, of the same shape
    out_ptr,  # out: attended values, contiguous, of the same shape
    lse_ptr,  # out: log-sum-exp of the logits (B, H, W, heads), in the accumulator's type
    patches,  # B * H * W
    H,  # rows of the grid of patches
    W,  # its columns
    D,  # head dimension
    pad,  # 1: a neighbor outside the grid has logit 0 and value 0; 0: it is absent
    stride_qb,  # of q, per image
    stride_qi,  # of q, per row
    stride_qj,  # of q, per column
    stride_qh,  # of q, per head
    stride_kb,  # of k, per image
    stride_ki,  # of k, per row
    stride_kj,  # of k, per column
    stride_kh,  # of k, per head
    stride_vb,  # of v, per image
    stride_vi,  # of v, per row
    stride_vj,  # of v, per column
    stride_vh,  # of v, per head
    BLOCK_P: tl.constexpr,  # patches per program
    BLOCK_D: tl.constexpr,  # at least D
    UNROLL: tl.constexpr,  # 8: one offset per neighbor for all patches; 1: each patch computes its neighbors' addresses
    SCALE: tl.constexpr,  # of the logits, 1 / sqrt(D)
):
    """out = softmax of q.k * SCALE over the eight neighbors, times v.

    Grid: (tiles of B * H * W, heads); each program computes a few patches of one head.
    """
    ACC: tl.constexpr = lse_ptr.dtype.element_ty
    p, b, i, j = _place(patches, H, W, BLOCK_P)
    h, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    q_ptr, k_ptr, v_ptr = q_ptr + h * stride_qh, k_ptr + h * stride_kh, v_ptr + h * stride_vh
    d = tl.arange(0, BLOCK_D)
    own, inner = p < patches, (d < D)[None, :]
    q = _tile(q_ptr, b, i, j, stride_qb, stride_qi, stride_qj, d, own[:, None] & inner, ACC)
    outside = tl.where(pad != 0, 0.0, float("-inf"))  # the logit of a neighbor that is not there
    top = tl.full((BLOCK_P,), float("-inf"), ACC)
    total = tl.zeros((BLOCK_P,), ACC)
    acc = tl.zeros((BLOCK_P, BLOCK_D), ACC)
    for n in tl.range(8, loop_unroll_factor=UNROLL):
        di, dj = _step(n)
        ni, nj = i + di, j + dj
        near = own & (ni >= 0) & (ni < H) & (nj >= 0) & (nj < W)
        mask = near[:, None] & inner
        k = _near_tile(k_ptr, b, i, j, di, dj, stride_kb, stride_ki, stride_kj, d, mask, ACC, UNROLL)
        v = _near_tile(v_ptr, b, i, j, di, dj, stride_vb, stride_vi, stride_vj, d, mask, ACC, UNROLL)
        logit = tl.where(near, tl.sum(q * k, 1) * SCALE, outside)
        new = tl.maximum(top, logit)
        safe = tl.where(new == float("-inf"), 0.0, new)  # nothing seen yet
        shrink, e = tl.exp(top - safe), tl.exp(logit - safe)
        acc = acc * shrink[:, None] + v * e[:, None]
        total = total * shrink + e
        top = new
    total = tl.where(own, total, 1.0)
    out = acc / total[:, None]
    row = p.to(tl.int64) * heads + h
    tl.store(out_ptr + row[:, None] * D + d[None, :], out.to(out_ptr.dtype.element_ty), mask=own[:, None] & inner)
    tl.store(lse_ptr + row, top + tl.log(total), mask=own)


@triton.jit(do_not_specialize=["patches", "H", "W", "parts"])
def _backward(
    q_ptr,  # queries (B, H, W, heads, D), last dimension contiguous, as in keys, values and dout
    k_ptr,  # keys, of the same shape
    v_ptr,  # values, of the same shape
    out_ptr,  # the forward's result, contiguous, of the same shape
    lse_ptr,  # the forward's log-sum-exp (B, H, W, heads)
    dout_ptr,  # gradient of the result (B, H, W, heads, D)
    dq_ptr,  # out: gradient of the queries, contiguous, stored where parts has DQ
    dk_ptr,  # out: gradient of the keys, contiguous, stored where parts has DKV
    dv_ptr,  # out: gradient of the values, likewise
    patches,  # B * H * W
    H,  # rows of the grid of patches
    W,  # its columns
    D,  # head dimension
    parts,  # DQ, DKV or their sum: the gradients to compute
    stride_qb,  # of q, per image
    stride_qi,  # of q, per row
    stride_qj,  # of q, per column
    stride_qh,  # of q, per head
    stride_kb,  # of k, per image
    stride_ki,  # of k, per row
    stride_kj,  # of k, per column
    stride_kh,  # of k, per head
    stride_vb,  # of v, per image
    stride_vi,  # of v, per row
    stride_vj,  # of v, per column
    stride_vh,  # of v, per head
    stride_ob,  # of dout, per image
    stride_oi,  # of dout, per row
    stride_oj,  # of dout, per column
    stride_oh,  # of dout, per head
    BLOCK_P: tl.constexpr,  # patches per program
    BLOCK_D: tl.constexpr,  # at least D
    UNROLL: tl.constexpr,  # 8: one offset per neighbor for all patches; 1: each patch computes its neighbors' addresses
    SCALE: tl.constexpr,  # of the logits, 1 / sqrt(D)
):
    """dq of the patches from the neighbors they look at, dk and dv from the neighbors that look at them.

    Both are the same eight patches. p = exp(logit - lse); ds = p * (dout.v - dout.out).

    Grid: (tiles of B * H * W, heads); each program computes a few patches of one head.
    """
    ACC: tl.constexpr = lse_ptr.dtype.element_ty
    p, b, i, j = _place(patches, H, W, BLOCK_P)
    h, heads = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    q_ptr, k_ptr, v_ptr = q_ptr + h * stride_qh, k_ptr + h * stride_kh, v_ptr + h * stride_vh
    dout_ptr += h * stride_oh
    d = tl.arange(0, BLOCK_D)
    own, inner = p < patches, (d < D)[None, :]
    mask = own[:, None] & inner
    row = p.to(tl.int64) * heads + h
    if parts & DQ != 0:
        q = _tile(q_ptr, b, i, j, stride_qb, stride_qi, stride_qj, d, mask, ACC)
        dout = _tile(dout_ptr, b, i, j, stride_ob, stride_oi, stride_oj, d, mask, ACC)
        out = tl.load(out_ptr + row[:, None] * D + d[None, :], mask=mask, other=0.0).to(ACC)
        lse = tl.load(lse_ptr + row, mask=own, other=0.0)
        delta = tl.sum(dout * out, 1)
        dq = tl.zeros((BLOCK_P, BLOCK_D), ACC)
        for n in tl.range(8, loop_unroll_factor=UNROLL):
            di, dj = _step(n)
            ni, nj = i + di, j + dj
            near = own & (ni >= 0) & (ni < H) & (nj >= 0) & (nj < W)
            there = near[:, None] & inner
            k = _near_tile(k_ptr, b, i, j, di, dj, stride_kb, stride_ki, stride_kj, d, there, ACC, UNROLL)
            v = _near_tile(v_ptr, b, i, j, di, dj, stride_vb, stride_vi, stride_vj, d, there, ACC, UNROLL)
            weight = tl.exp(tl.where(near, tl.sum(q * k, 1) * SCALE - lse, float("-inf")))
            ds = weight * (tl.sum(dout * v, 1) - delta) * SCALE
            dq += ds[:, None] * k
        tl.store(dq_ptr + row[:, None] * D + d[None, :], dq.to(dq_ptr.dtype.element_ty), mask=mask)
    if parts & DKV != 0:
        k = _tile(k_ptr, b, i, j, stride_kb, stride_ki, stride_kj, d, mask, ACC)
        v = _tile(v_ptr, b, i, j, stride_vb, stride_vi, stride_vj, d, mask, ACC)
        dk = tl.zeros((BLOCK_P, BLOCK_D), ACC)
        dv = tl.zeros((BLOCK_P, BLOCK_D), ACC)
        for n in tl.range(8, loop_unroll_factor=UNROLL):
            di, dj = _step(n)
            ni, nj = i + di, j + dj
            near = own & (ni >= 0) & (ni < H) & (nj >= 0) & (nj < W)
            there = near[:, None] & inner
            away = ((di * W + dj) * heads).to(tl.int64)  # in rows of lse and out
            q = _near_tile(q_ptr, b, i, j, di, dj, stride_qb, stride_qi, stride_qj, d, there, ACC, UNROLL)
            dout = _near_tile(dout_ptr, b, i, j, di, dj, stride_ob, stride_oi, stride_oj, d, there, ACC, UNROLL)
            out = tl.load(out_ptr + away * D + row[:, None] * D + d[None, :], mask=there, other=0.0).to(ACC)
            lse = tl.load(lse_ptr + away + row, mask=near, other=0.0)
            weight = tl.exp(tl.where(near, tl.sum(q * k, 1) * SCALE - lse, float("-inf")))
            ds = weight * tl.sum(dout * (v - out), 1) * SCALE
            dk += ds[:, None] * q
            dv += weight[:, None] * dout
        tl.store(dk_ptr + row[:, None] * D + d[None, :], dk.to(dk_ptr.dtype.element_ty), mask=mask)
        tl.store(dv_ptr + row[:, None] * D + d[None, :], dv.to(dv_ptr.dtype.element_ty), mask=mask)


def _launch(*tensors):
    """Grid and blocks for queries and other tensors (B, H, W, heads, D)."""
    B, H, W, heads, D = tensors[0].shape
    listed = attention_blocks(blocks_of(*tensors), tensors[0].dtype)
    blocks = next(blocks for blocks in listed if blocks["BLOCK_D"] >= D)
    return (triton.cdiv(B * H * W, blocks["BLOCK_P"]), heads), blocks


def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pad: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the attention of every patch to its neighbors.

    Args:
        q, k, v: (B, H, W, heads, D) of one dtype, D at most MAX_HEAD_DIM.
        pad: neighbors outside the grid are keys of logit 0 and value 0; else they are absent.

    Returns:
        out (B, H, W, heads, D) in q's dtype, and the log-sum-exp of the logits (B, H, W, heads).
    """
    q, k, v = map(rows_contiguous, (q, k, v))
    B, H, W, heads, D = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=accumulator(q.dtype), device=q.device)
    grid, blocks = _launch(q, k, v)
    with on_device(q):
        if out.numel():
            _forward[grid](
                q, k, v, out, lse, B * H * W, H, W, D, int(pad),
                *q.stride()[:4], *k.stride()[:4], *v.stride()[:4], SCALE=D**-0.5, **blocks,
            )  # fmt: skip
    return out, lse


def backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    need_q: bool,
    need_kv: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of the queries, the keys and the values.

    Args:
        dout: gradient of the result (B, H, W, heads, D).
        q, k, v: as given to `forward`.
        out, lse: as `forward` returned them.
        need_q, need_kv: compute the gradient of the queries; those of keys and values.

    Returns:
        dq, dk, dv, each (B, H, W, heads, D) in q's dtype; empty where not needed.
    """
    dout, q, k, v = map(rows_contiguous, (dout, q, k, v))
    B, H, W, heads, D = q.shape
    dq, dk, dv = (out.new_empty(out.shape if needed else (0,)) for needed in (need_q, need_kv, need_kv))
    grid, blocks = _launch(q, k, v, dout)
    with on_device(q):
        if out.numel():
            _backward[grid](
                q, k, v, out, lse, dout, dq, dk, dv,
                B * H * W, H, W, D, need_q * DQ.value + need_kv * DKV.value,
                *q.stride()[:4], *k.stride()[:4], *v.stride()[:4], *dout.stride()[:4], SCALE=D**-0.5, **blocks,
            )  # fmt: skip
    return dq, dk, dv
