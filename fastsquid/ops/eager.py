"""The torch path: what runs where no kernel can, the same numbers as `reference` with less work.

The reference is written to be read. Here a memory read touches only the chosen slots for its values and writes no
intermediate of the bank's size. The attention on a grid of a few patches is one dense product instead of eight copies
of every neighbor.
"""

# PyTorch has no types for `embedding_bag` and `pad`.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .checks import Border, Selection, Shrinkage
from .dispatch import Function

# Up to this many patches a dense product of all with all takes less time than copies of eight neighbors.
MAX_DENSE_PATCHES = 256


def memory_read(
    x: Tensor,
    bank: Tensor,
    top_k: int,
    selection: Selection,
    shrinkage: Shrinkage,
    threshold: float,
    filled: Tensor | None,
    values: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return what `ops.memory_read` returns; arguments as there."""
    # torch.compile fuses the definition by itself, and follows no Function into a second derivative.
    definition = shrinkage != "gumbel" or torch.compiler.is_compiling()
    if definition or (values is not None and _needs_graph(x, bank, values)):
        out, weights = reference.memory_read(x, bank, top_k, selection, shrinkage, threshold, filled, values)
        if shrinkage != "gumbel":
            return out, weights if shrinkage == "hard" else weights.detach(), None
        weights, indices = weights.detach().topk(top_k)
    else:
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            queries, slots = x.to(dtype), bank.to(dtype)
            if _needs_graph(x, bank):
                out, weights, indices = _Read.apply(queries, slots, filled, top_k, selection)
            else:
                chosen = _choose(queries, slots, filled, top_k, selection, reference.dots_dtype(x))[1:]
                out = _gather(slots if values is None else values.to(dtype), *chosen)
                weights, indices = (t.transpose(0, 1) for t in chosen)
            out = out.to(x.dtype)
    return out, weights, indices.masked_fill(~(weights > 0), -1)


def _needs_graph(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _choose(
    x: Tensor, bank: Tensor, filled: Tensor | None, k: int, selection: Selection, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the softmax (R, B, N), and weights and indices of the chosen slots (R, B, k).

    Regions come first, as in the matrix products.
    """
    dots = torch.bmm(x.transpose(0, 1).to(dtype), bank.transpose(1, 2).to(dtype))
    valid = None if filled is None else torch.arange(bank.shape[1], device=bank.device) < filled
    if valid is not None:
        dots = dots.masked_fill(~valid, torch.finfo(dtype).min)
    y = dots.softmax(-1)
    if valid is not None:
        y = y * valid
    if selection == "exact":
        index = dots.masked_fill(~reference.largest(dots, k), -torch.inf).topk(k).indices
        weight = y.gather(-1, index)
    else:
        weight, index = y.topk(k)
        weight = weight * (weight > weight[..., -1:])  # a product: a NaN stays a NaN
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-12)
    return y.to(x.dtype), weight.to(x.dtype), index


def _gather(values: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """Return the weighted sums of the chosen rows of values (R, N, V): (B, R, V)."""
    R, N, V = values.shape
    B = index.shape[1]
    rows = index + torch.arange(0, R * N, N, device=index.device).view(R, 1, 1)
    rows, weight = (t.transpose(0, 1).reshape(-1, t.shape[-1]) for t in (rows, weight))
    out = F.embedding_bag(rows, values.reshape(R * N, V), mode="sum", per_sample_weights=weight)
    return out.view(B, R, V)


class _Read(Function):
    """The read with the gradient of `reference.memory_read` by its formulas; a second derivative is the reference's."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, bank: Tensor, filled: Tensor | None, k: int, selection: Selection
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, weight, index = _choose(x, bank, filled, k, selection, x.dtype)
        ctx.save_for_backward(x, bank, filled, y, weight, index)
        ctx.k, ctx.selection = k, selection
        weights, indices = weight.transpose(0, 1), index.transpose(0, 1)
        ctx.mark_non_differentiable(weights, indices)
        ctx.set_materialize_grads(False)
        return _gather(bank, weight, index), weights, indices

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if dout is None:
            return (None,) * 5
        x, bank, filled, y, weight, index = ctx.saved_tensors
        need_x, need_bank = ctx.needs_input_grad[:2]
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled():  # create_graph=True
                out = reference.memory_read(x, bank, ctx.k, ctx.selection, filled=filled)[0]
                needed = [t for t, need in ((x, need_x), (bank, need_bank)) if need]
                found = list(torch.autograd.grad(out, needed, [dout], create_graph=True))
                return found.pop(0) if need_x else None, found.pop(0) if need_bank else None, None, None, None
            xt, dt = x.transpose(0, 1), dout.transpose(0, 1)
            dy = torch.bmm(dt, bank.transpose(1, 2))
            ds = torch._softmax_backward_data(dy, y, -1, y.dtype)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            dx = torch.bmm(ds, bank).transpose(0, 1) if need_x else None
            dbank = None
            if need_bank:
                h = torch.zeros_like(y).scatter_(-1, index, weight)
                dbank = torch.bmm(ds.transpose(1, 2), xt).baddbmm_(h.transpose(1, 2), dt)
        return dx, dbank, None, None, None


def neighbor_attention(q: Tensor, k: Tensor, v: Tensor, border: Border) -> Tensor:
    """Return what `reference.neighbor_attention` returns; arguments as there.

    One difference: on a small grid a value that is not finite reaches the whole grid of its image.
    """
    height, width = q.shape[1:3]
    if height * width > MAX_DENSE_PATCHES:
        return reference.neighbor_attention(q, k, v, border)
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(q.dtype, torch.float32)
        keys, values, queries = (t.to(dtype).flatten(1, 2).transpose(1, 2) for t in (k, v, q))  # (B, heads, P, D)
        near = reference.are_neighbors(height, width, q.device)
        # One more key of logit 0, as often as neighbors are absent; a value of 0 is no value.
        absent = (8 - near.sum(1, keepdim=True)) * (border == "pad")
        count = torch.cat([near, absent], dim=1)
        logits = F.pad(queries @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5, (0, 1))
        logits = logits.masked_fill(count == 0, -torch.inf) + count.clamp_min(1).to(dtype).log()
        attended = logits.softmax(-1)[..., :-1] @ values
        return attended.transpose(1, 2).unflatten(1, (height, width)).to(q.dtype)
