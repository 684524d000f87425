"""Memory read: similarity of each query to the slots of its own region, shrinkage, weighted sum."""

from typing import Any

import torch
from torch import Tensor

from . import eager
from .checks import Selection, Shrinkage, check_memory_read
from .dispatch import Function, Impl, device_reason, first_derivative_only, use_triton


def can_run(
    x: Tensor,
    bank: Tensor,
    top_k: int = 5,
    shrinkage: Shrinkage = "gumbel",
    filled: Tensor | None = None,
    values: Tensor | None = None,
) -> str | None:
    """Return None if the Triton kernels can run on these valid arguments of `memory_read`, else the reason why not."""
    reason = device_reason(x)
    if reason is not None:
        return reason
    from ..kernels.configurations import MAX_SLOTS, MAX_TOP_K
    from ..kernels.launch import PAIRS

    if shrinkage == "hard":
        return "shrinkage 'hard' has no kernel: its weights may be of any number of slots; use impl='torch' or 'auto'"
    if bank.device != x.device:
        return f"queries are on {x.device} and slots on {bank.device}: both should be on one device"
    if (x.dtype, bank.dtype) not in PAIRS:
        return (
            f"queries are {x.dtype} and slots {bank.dtype}: both should be of one floating-point type, "
            "or the queries of half precision and the slots float32"
        )
    if filled is not None and filled.device != x.device:
        return f"queries are on {x.device} and the number of filled slots on {filled.device}: move it there"
    if bank.shape[1] > MAX_SLOTS:
        return f"{bank.shape[1]} slots per region are more than {MAX_SLOTS}"
    if shrinkage == "gumbel" and top_k > MAX_TOP_K:
        return f"top_k = {top_k} is more than {MAX_TOP_K}"
    if values is not None:
        if values.dtype != bank.dtype or values.device != bank.device:
            return (
                f"values are {values.dtype} on {values.device}, slots {bank.dtype} on {bank.device}: both should agree"
            )
        if torch.is_grad_enabled() and any(t.requires_grad for t in (x, bank, values)):
            return "values other than the slots are for inference: their read has no backward"
    return None


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from ..kernels import memory_read as kernels

    return kernels.forward(*arguments)


def _backward(*arguments: Any) -> tuple[Tensor, Tensor]:
    from ..kernels import memory_read as kernels

    return kernels.backward(*arguments)


# torch.compile sees each launcher as one operator: else the choice of a launch by batch size would guard the graph.
# Elsewhere the launcher is called directly, because the dispatch of an operator would double its cost.
_forward_op = torch.library.custom_op(
    "fastsquid::memory_read",
    _forward,
    mutates_args=(),
    schema="(Tensor x, Tensor bank, Tensor values, Tensor? filled, int k, bool published, bool keep)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
_backward_op = torch.library.custom_op(
    "fastsquid::memory_read_backward",
    _backward,
    mutates_args=(),
    schema="(Tensor dout, Tensor x, Tensor bank, Tensor? filled, Tensor y, Tensor? index, Tensor? weight, "
    "bool need_x, bool need_bank) -> (Tensor, Tensor)",
)


@_forward_op.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(  # pyright: ignore[reportUnusedFunction]
    x: Tensor, bank: Tensor, values: Tensor, filled: Tensor | None, k: int, published: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from ..kernels.memory_read import pitch

    B, R, N = *x.shape[:2], bank.shape[1]
    accumulator = torch.promote_types(bank.dtype, torch.float32)
    return (
        x.new_empty(B, R, values.shape[2]),
        x.new_empty((B, R, pitch(N)) if keep or k == 0 else (0,), dtype=accumulator),
        x.new_empty(B, R, k, dtype=torch.int64),
        x.new_empty(B, R, k, dtype=accumulator),
    )


@_backward_op.register_fake  # pyright: ignore[reportUnknownMemberType]
def _(  # pyright: ignore[reportUnusedFunction]
    dout: Tensor,
    x: Tensor,
    bank: Tensor,
    filled: Tensor | None,
    y: Tensor,
    index: Tensor | None,
    weight: Tensor | None,
    need_x: bool,
    need_bank: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if need_x else (0,)), bank.new_empty(bank.shape if need_bank else (0,))


class _MemoryRead(Function):
    """The kernels' read, with the straight-through gradient of the method and the reference.

    Autocast changes no operation in here: queries of any dtype are read with float32 sums.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, bank: Tensor, filled: Tensor | None, k: int, published: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        forward = _forward_op if torch.compiler.is_compiling() else _forward
        out, y, index, weight = forward(x, bank, bank, filled, k, published, True)
        sparse = (index, weight) if ctx.needs_input_grad[1] else (None, None)  # only dM reads them
        ctx.save_for_backward(x, bank, filled, y, *sparse)
        ctx.mark_non_differentiable(y, index, weight)
        ctx.set_materialize_grads(False)  # else zeros are made for these
        return out, y, index, weight

    @staticmethod
    @first_derivative_only
    def backward(ctx: Any, dout: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if dout is None:
            return (None,) * 5
        need_x, need_bank = ctx.needs_input_grad[:2]
        backward = _backward_op if torch.compiler.is_compiling() else _backward
        dx, dbank = backward(dout, *ctx.saved_tensors, need_x, need_bank)
        return dx if need_x else None, dbank if need_bank else None, None, None, None


def memory_read(
    x: Tensor,
    bank: Tensor,
    top_k: int = 5,
    selection: Selection = "exact",
    shrinkage: Shrinkage = "gumbel",
    threshold: float = 0.0025,
    filled: Tensor | None = None,
    values: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Read a memory: the queries of region r read the slots of region r only (SQUID 3.2, SimSID 3.2).

    `reference.memory_read` defines the result.

    Args:
        x: queries (B, R, C), floating point.
        bank: slots (R, N, C).
        top_k, selection, shrinkage, threshold, filled: as `reference.memory_read`.
        values: None, or rows (R, N, V) that are summed in place of the slots, for inference.
        impl: `auto`, `triton` or `torch`.

    Returns:
        out: (B, R, C), or (B, R, V) with values, in x's dtype.
        weights: in float32 at least, of the chosen slots (B, R, top_k), largest first. For the shrinkages `none` and
            `hard` of every slot (B, R, N). Only `hard` gives them a gradient.
        indices: of the chosen slots (B, R, top_k), int64, -1 where the weight is 0; None for `none` and `hard`.

    Raises:
        ImplementationError: impl is `triton` and the kernels cannot run.
        ValueError, TypeError: as `checks.check_memory_read`.

    Example:
        >>> import torch
        >>> from fastsquid.ops import memory_read
        >>> queries = torch.randn(8, 4, 32)  # 8 images, 4 regions
        >>> bank = torch.randn(4, 100, 32, requires_grad=True)  # 100 slots per region
        >>> out, weights, indices = memory_read(queries, bank, top_k=5)
        >>> out.shape, weights.shape, indices.shape
        (torch.Size([8, 4, 32]), torch.Size([8, 4, 5]), torch.Size([8, 4, 5]))
        >>> out.sum().backward()
        >>> bank.grad.shape
        torch.Size([4, 100, 32])
    """
    check_memory_read(x, bank, top_k, selection, shrinkage, filled, values)
    if use_triton(impl, x, can_run, x, bank, top_k, shrinkage, filled, values):
        k, published = (top_k if shrinkage == "gumbel" else 0), selection == "published"
        if torch.is_grad_enabled() and (x.requires_grad or bank.requires_grad):
            out, y, index, weight = _MemoryRead.apply(x, bank, filled, k, published)
        else:
            forward = _forward_op if torch.compiler.is_compiling() else _forward
            out, y, index, weight = forward(x, bank, bank if values is None else values, filled, k, published, False)
        return (out, weight, index) if k else (out, y[..., : bank.shape[1]], None)
    return eager.memory_read(x, bank, top_k, selection, shrinkage, threshold, filled, values)
