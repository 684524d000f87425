"""Every operation in plain PyTorch: its definition, and the truth that kernels are tested against.

Scores, softmax and weights are computed in float32 at least, whatever the storage dtype, and under autocast too (but
call backward outside of autocast, as PyTorch requires). In inference mode on a CPU the memory read computes in float64.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import Border, Selection, Shrinkage, check_memory_read, check_neighbor_attention
from .dispatch import Function

# Offsets (row, column) of the eight neighbors, row-major; the center is not one of them.
NEIGHBORS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


class _StraightThrough(Function):
    """Use the shrunk weights forward, and treat them as the softmax backward (SQUID 3.2)."""

    @staticmethod
    def forward(ctx: Any, softmax: Tensor, shrunk: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return shrunk.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None


def memory_read(
    x: Tensor,
    bank: Tensor,
    top_k: int = 5,
    selection: Selection = "exact",
    shrinkage: Shrinkage = "gumbel",
    threshold: float = 0.0025,
    filled: Tensor | None = None,
    values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Read a memory: the queries of region r read the slots of region r only (SQUID 3.2, SimSID 3.2).

    `gumbel`: y = softmax(x.M^T), h = y on the selected slots and 0 elsewhere, divided by its sum; out = h.M. The
    gradient is straight-through: ds = y * (dy - sum(y * dy)) with dy = dout.M^T, and dM = ds^T.x + h^T.dout.
    `hard`: h = dots above `threshold`, divided by the sum of their absolute values, with the ordinary gradient.
    `none`: h = y.

    Args:
        x: queries (B, R, C), floating point.
        bank: slots (R, N, C).
        top_k: active slots per query, for `gumbel`.
        selection: `exact`, the top_k largest, ties to the lowest index; or `published`, the slots strictly above the
            top_k-th largest probability (top_k - 1 of them without ties; fewer with ties).
        shrinkage: `gumbel`, `hard` or `none`, as above.
        threshold: of `hard`.
        filled: None, or an integer scalar: only slots below it are read; with none filled the read is zero. The other
            slots must be finite all the same.
        values: None, or rows (R, N, V) that are summed in place of the slots.

    Returns:
        out (B, R, C), or (B, R, V) with values, in x's dtype, and the weights h (B, R, N) in float32 at least.

    Raises:
        ValueError, TypeError: as `check_memory_read`.
    """
    check_memory_read(x, bank, top_k, selection, shrinkage, filled, values)
    with torch.autocast(x.device.type, enabled=False):
        return _memory_read(x, bank, top_k, selection, shrinkage, threshold, filled, values)


def _memory_read(
    x: Tensor,
    bank: Tensor,
    top_k: int,
    selection: Selection,
    shrinkage: Shrinkage,
    threshold: float,
    filled: Tensor | None,
    values: Tensor | None,
) -> tuple[Tensor, Tensor]:
    dtype, wide = torch.promote_types(x.dtype, torch.float32), dots_dtype(x)
    queries, slots = x.to(wide), bank.to(wide)
    dots = torch.einsum("brc,rnc->brn", queries, slots)
    valid = None if filled is None else torch.arange(bank.shape[1], device=bank.device) < filled
    if shrinkage == "hard":
        kept = dots > threshold
        weights = dots * (kept if valid is None else kept & valid)
        weights = weights / weights.abs().sum(-1, keepdim=True).clamp_min(1e-12)
    else:
        if valid is not None:
            dots = dots.masked_fill(~valid, torch.finfo(wide).min)
        softmax = dots.softmax(-1)
        if valid is not None:
            softmax = softmax * valid  # all zero where nothing is filled
        weights = softmax
        if shrinkage == "gumbel":
            with torch.no_grad():
                # By the dots, not the probabilities: these tie where float32 underflows or rounds.
                kept = largest(dots, top_k) if selection == "exact" else _above(softmax, top_k)
                # A product, not a where: a NaN stays a NaN.
                shrunk = softmax * kept
                shrunk = shrunk / shrunk.sum(-1, keepdim=True).clamp_min(1e-12)
            weights = _StraightThrough.apply(softmax, shrunk)
    out = torch.einsum("brn,rnc->brc", weights, slots if values is None else values.to(wide))
    return out.to(x.dtype), weights.to(dtype)


def dots_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which queries x are compared with slots: float32 at least, float64 where a CPU scores images.

    The softmax turns the absolute error of a dot into the relative error of a weight, and a float32 matrix product
    rounds by batch size. More digits make the score of an image independent of its batch.
    """
    scoring = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
    return torch.float64 if scoring and x.device.type == "cpu" else torch.promote_types(x.dtype, torch.float32)


def largest(scores: Tensor, k: int) -> Tensor:
    """Return the mask of exactly k largest scores in the last dimension, ties to the lowest index."""
    kth = scores.topk(k, dim=-1).values[..., -1:]
    above, equal = scores > kth, scores == kth
    room = k - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def _above(probabilities: Tensor, k: int) -> Tensor:
    """Return the mask of the probabilities strictly above the k-th largest: the published rule."""
    return probabilities > probabilities.topk(k, dim=-1).values[..., -1:]


def neighbor_attention(q: Tensor, k: Tensor, v: Tensor, border: Border = "pad") -> Tensor:
    """Let each patch attend to its eight neighbors, without itself (SQUID 3.3, SimSID 3.3).

    Each patch outside the grid is one more key of logit 0 and value 0 (`pad`), or absent (`mask`). `pad` equals the
    published zero padding before a K/V projection with biases: the key bias cancels in the softmax, and the value bias
    is a constant that the caller adds to the result.

    Args:
        q, k, v: (B, H, W, heads, D), one projected query, key and value per patch.
        border: `pad` or `mask`.

    Returns:
        (B, H, W, heads, D) in q's dtype; logits are q.k / sqrt(D).

    Raises:
        ValueError, TypeError: as `check_neighbor_attention`.
    """
    check_neighbor_attention(q, k, v, border)
    with torch.autocast(q.device.type, enabled=False):
        return _neighbor_attention(q, k, v, border)


def _neighbor_attention(q: Tensor, k: Tensor, v: Tensor, border: Border) -> Tensor:
    height, width = q.shape[1:3]
    dtype = torch.promote_types(q.dtype, torch.float32)
    keys, values = _neighbors(k.to(dtype)), _neighbors(v.to(dtype))  # (B, H, W, 8, heads, D)
    logits = torch.einsum("bijhd,bijnhd->bijhn", q.to(dtype), keys) * q.shape[-1] ** -0.5
    if border == "mask":
        present = _neighbors(torch.ones(1, height, width, 1, 1, dtype=torch.bool, device=q.device))
        logits = logits.masked_fill(~present[..., 0].transpose(3, 4), -torch.inf)
    return torch.einsum("bijhn,bijnhd->bijhd", logits.softmax(-1), values).to(q.dtype)


def are_neighbors(height: int, width: int, device: torch.device) -> Tensor:
    """Return (P, P), true where the second patch of a grid, row-major, is one of the eight neighbors of the first."""
    places = torch.arange(height * width, device=device)
    rows, columns = places // width, places % width
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    return apart == 1


def _neighbors(x: Tensor) -> Tensor:
    """Return the eight neighbors of every patch, zeros outside the grid: (B, H, W, h, D) -> (B, H, W, 8, h, D)."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 0, 0, 1, 1, 1, 1))
    return torch.stack([padded[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width] for i, j in NEIGHBORS], dim=3)
