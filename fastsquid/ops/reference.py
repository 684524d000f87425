"""Every operation in plain PyTorch: the definition, the CPU path, and the truth that kernels are tested against.

Scores, softmax and weights are computed in float32 at least, whatever the storage dtype, and under autocast too (but
PyTorch wants backward called outside it); the memory read in float64 in inference mode on a CPU.
"""

import torch
import torch.nn.functional as F

# Offsets (row, column) of the eight neighbours, row-major; the centre is not one of them.
NEIGHBORS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


class _StraightThrough(torch.autograd.Function):
    """Forward uses the shrunk weights, backward treats them as the softmax (SQUID 3.2)."""

    @staticmethod
    def forward(ctx, softmax, shrunk):
        return shrunk.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def memory_read(x, bank, top_k=5, selection="exact", shrinkage="gumbel", threshold=0.0025, filled=None, values=None):
    """Region-restricted memory read: region r's queries read region r's slots only (SQUID 3.2, SimSID 3.2).

    `gumbel`: y = softmax(x.M^T), h = y on the selected slots and 0 elsewhere, divided by its sum; out = h.M. The
    gradient is straight-through: ds = y * (dy - sum(y * dy)) with dy = dout.M^T, and dM = ds^T.x + h^T.dout.
    `hard`: h = dots above `threshold`, divided by the sum of their absolute values, with the ordinary gradient.
    `none`: h = y.

    Args:
        x: queries (B, R, C), floating point.
        bank: slots (R, N, C).
        top_k: active slots a query, for `gumbel`.
        selection: `exact`, the top_k largest, ties to the lowest index; or `published`, the slots strictly above the
            top_k-th largest probability (top_k - 1 of them without ties; fewer with ties).
        filled: None, or an integer tensor (): only slots below it are read; with none filled the read is zero.
        values: None, or (R, N, V): what is summed in the place of the slots.

    Returns:
        out (B, R, C), or (B, R, V) with values, in x's dtype, and the weights h (B, R, N) in float32 at least.
    """
    with torch.autocast(x.device.type, enabled=False):
        return _memory_read(x, bank, top_k, selection, shrinkage, threshold, filled, values)


def _memory_read(x, bank, top_k, selection, shrinkage, threshold, filled, values):
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


def dots_dtype(x):
    """In which dtype queries x are compared with slots: float32 at least, float64 where a CPU scores images.

    The softmax turns a dot's absolute error into a weight's relative one, and a float32 matrix product rounds by
    batch size: more digits make a score independent of the batch it is made in.
    """
    scoring = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
    return torch.float64 if scoring and x.device.type == "cpu" else torch.promote_types(x.dtype, torch.float32)


def largest(scores, k):
    """Mask of exactly k largest scores in the last dimension, ties to the lowest index."""
    kth = scores.topk(k, dim=-1).values[..., -1:]
    above, equal = scores > kth, scores == kth
    room = k - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def _above(probabilities, k):
    """Mask of the probabilities strictly above the k-th largest: the published rule."""
    return probabilities > probabilities.topk(k, dim=-1).values[..., -1:]


def neighbor_attention(q, k, v, border="pad"):
    """Attention of each patch to its eight neighbours, without itself (SQUID 3.3, SimSID 3.3).

    Patches outside the grid are one more key of logit 0 and value 0 each (`pad`), or absent (`mask`). That is the
    published zero padding before a K/V projection with biases: its key bias cancels in the softmax, and its value
    bias is a constant that the caller adds to the result.

    Args:
        q, k, v: (B, H, W, heads, D), one projected query, key and value a patch.

    Returns:
        (B, H, W, heads, D) in q's dtype; logits are q.k / sqrt(D).

    Raises:
        ValueError: `mask` on a 1 x 1 grid, where no neighbour exists.
    """
    check_border(q, border)
    with torch.autocast(q.device.type, enabled=False):
        return _neighbor_attention(q, k, v, border)


def check_border(q, border):
    """Raises ValueError for `mask` where no patch has a neighbour."""
    if border == "mask" and q.shape[1] * q.shape[2] == 1:
        raise ValueError("border='mask' needs a grid of at least two patches: a 1 x 1 grid has no neighbours")


def _neighbor_attention(q, k, v, border):
    height, width = q.shape[1:3]
    dtype = torch.promote_types(q.dtype, torch.float32)
    keys, values = _neighbors(k.to(dtype)), _neighbors(v.to(dtype))  # (B, H, W, 8, heads, D)
    logits = torch.einsum("bijhd,bijnhd->bijhn", q.to(dtype), keys) * q.shape[-1] ** -0.5
    if border == "mask":
        present = _neighbors(torch.ones(1, height, width, 1, 1, dtype=torch.bool, device=q.device))
        logits = logits.masked_fill(~present[..., 0].transpose(3, 4), -torch.inf)
    return torch.einsum("bijhn,bijnhd->bijhd", logits.softmax(-1), values).to(q.dtype)


def are_neighbors(height, width, device):
    """(P, P), true where the second patch of a grid, row-major, is one of the first one's eight neighbours."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    return apart == 1


def _neighbors(x):
    """The eight neighbours of every patch, zeros outside the grid: (B, H, W, h, D) -> (B, H, W, 8, h, D)."""
    height, width = x.shape[1:3]
    padded = F.pad(x, (0, 0, 0, 0, 1, 1, 1, 1))
    return torch.stack([padded[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width] for i, j in NEIGHBORS], dim=3)
