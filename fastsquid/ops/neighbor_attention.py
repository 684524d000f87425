"""Neighbor attention: each patch attends to the eight around it, read in place."""

from typing import Any

import torch
from torch import Tensor

from . import eager
from .checks import Border, check_neighbor_attention
from .dispatch import Function, Impl, device_reason, first_derivative_only, use_triton


def can_run(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Return None if the Triton kernels can run on these valid inputs, else the reason why not."""
    reason = device_reason(q)
    if reason is not None:
        return reason
    from ..kernels.configurations import MAX_HEAD_DIM
    from ..kernels.launch import DTYPES

    if not q.device == k.device == v.device:
        return f"q, k and v are on {q.device}, {k.device} and {v.device}: all should be on one device"
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        return f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}: all should be of one floating-point type"
    if q.shape[-1] > MAX_HEAD_DIM:
        return f"heads of size {q.shape[-1]} are larger than {MAX_HEAD_DIM}"
    return None


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    from ..kernels import neighbor_attention as kernels

    return kernels.forward(*arguments)


def _backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from ..kernels import neighbor_attention as kernels

    return kernels.backward(*arguments)


# Operators for torch.compile alone, as in memory_read.py.
_forward_op = torch.library.custom_op(
    "fastsquid::neighbor_attention",
    _forward,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, bool pad) -> (Tensor, Tensor)",
)
_backward_op = torch.library.custom_op(
    "fastsquid::neighbor_attention_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, bool need_q, bool need_kv)"
    " -> (Tensor, Tensor, Tensor)",
)


@_forward_op.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(  # pyright: ignore[reportUnusedFunction]
    q: Tensor, k: Tensor, v: Tensor, pad: bool
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.promote_types(q.dtype, torch.float32))


@_backward_op.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(  # pyright: ignore[reportUnusedFunction]
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, need_q: bool, need_kv: bool
) -> tuple[Tensor, ...]:
    return tuple(q.new_empty(q.shape if needed else (0,)) for needed in (need_q, need_kv, need_kv))


class _NeighborAttention(Function):
    """The kernels' attention; saves its inputs, its output, and one log-sum-exp per query and head."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, pad: bool
    ) -> tuple[Tensor, Tensor]:
        forward = _forward_op if torch.compiler.is_compiling() else _forward
        out, lse = forward(q, k, v, pad)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)  # else zeros are made for these
        return out, lse

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if dout is None:
            return (None,) * 4
        need_q, need_k, need_v = ctx.needs_input_grad[:3]
        backward = _backward_op if torch.compiler.is_compiling() else _backward
        dq, dk, dv = backward(dout, *ctx.saved_tensors, need_q, need_k or need_v)
        return dq if need_q else None, dk if need_k else None, dv if need_v else None, None


def neighbor_attention(q: Tensor, k: Tensor, v: Tensor, border: Border = "pad", impl: Impl = "auto") -> Tensor:
    """Let each patch of a grid attend to its eight neighbors, without itself (SQUID 3.3, SimSID 3.3).

    `reference.neighbor_attention` defines the result.

    Args:
        q, k, v: (B, H, W, heads, D), one projected query, key and value per patch.
        border: what a patch outside the grid is: `pad`, one more key of logit 0 and value 0; `mask`, absent.
        impl: `auto`, `triton` or `torch`.

    Returns:
        (B, H, W, heads, D) in q's dtype; logits are q.k / sqrt(D).

    Raises:
        ImplementationError: impl is `triton` and the kernels cannot run.
        ValueError, TypeError: as `checks.check_neighbor_attention`.

    Example:
        >>> import torch
        >>> from fastsquid.ops import neighbor_attention
        >>> q, k, v = torch.randn(3, 8, 4, 4, 2, 16).unbind()  # 8 images of 4 x 4 patches, 2 heads
        >>> neighbor_attention(q, k, v).shape
        torch.Size([8, 4, 4, 2, 16])
    """
    check_neighbor_attention(q, k, v, border)
    if not use_triton(impl, q, can_run, q, k, v):
        return eager.neighbor_attention(q, k, v, border)
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _NeighborAttention.apply(q, k, v, border == "pad")[0]
    forward = _forward_op if torch.compiler.is_compiling() else _forward
    return forward(q, k, v, border == "pad")[0]
