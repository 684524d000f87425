"""What every implementation requires of its arguments: one sentence per mistake.

Without these checks PyTorch would broadcast a wrong shape in silence, and an unknown name would stand for another.
"""

from typing import Literal, get_args

from torch import Tensor

Selection = Literal["exact", "published"]
Shrinkage = Literal["gumbel", "hard", "none"]
Border = Literal["pad", "mask"]


def check_memory_read(
    x: Tensor,
    bank: Tensor,
    top_k: int,
    selection: Selection,
    shrinkage: Shrinkage,
    filled: Tensor | None,
    values: Tensor | None,
) -> None:
    """Check the arguments of `reference.memory_read`, whose shapes and dtypes are stated there.

    Raises:
        ValueError: a shape, a number or a name is wrong.
        TypeError: a dtype is wrong, or `filled` is no tensor.
    """
    check_name("selection", selection, get_args(Selection))
    check_name("shrinkage", shrinkage, get_args(Shrinkage))
    if x.dim() != 3 or bank.dim() != 3 or bank.shape[0] != x.shape[1] or bank.shape[2] != x.shape[2]:
        raise ValueError(f"queries {tuple(x.shape)} and slots {tuple(bank.shape)} should be (B, R, C) and (R, N, C)")
    if values is not None and (values.dim() != 3 or values.shape[:2] != bank.shape[:2]):
        raise ValueError(f"values {tuple(values.shape)} should be (R, N, V), as many as slots {tuple(bank.shape)}")
    if not (x.is_floating_point() and bank.is_floating_point()):
        raise TypeError(f"queries are {x.dtype} and slots {bank.dtype}: both should be floating point")
    if shrinkage == "gumbel" and not 1 <= top_k <= bank.shape[1]:
        raise ValueError(f"top_k = {top_k} should be between 1 and the {bank.shape[1]} slots of a region")
    integer = isinstance(filled, Tensor) and not (filled.is_floating_point() or filled.is_complex())
    if filled is not None and not (integer and filled.numel() == 1):
        raise TypeError(f"filled = {filled} should be a tensor of one integer")


def check_neighbor_attention(q: Tensor, k: Tensor, v: Tensor, border: Border) -> None:
    """Check the arguments of `reference.neighbor_attention`, whose shapes and dtypes are stated there.

    Raises:
        ValueError: a shape or the border's name is wrong, or no patch has a neighbor and border is `mask`.
        TypeError: a dtype is wrong.
    """
    check_name("border", border, get_args(Border))
    if q.dim() != 5 or not q.shape == k.shape == v.shape:
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} should all be (B, H, W, heads, D)"
        )
    if not (q.is_floating_point() and k.is_floating_point() and v.is_floating_point()):
        raise TypeError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}: all should be floating point")
    if border == "mask" and q.shape[1] * q.shape[2] == 1:
        raise ValueError("border='mask' needs a grid of at least two patches: a 1 x 1 grid has no neighbors")


def check_name(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check that an argument has one of the allowed values.

    Raises:
        ValueError: it has another.
    """
    if value not in allowed:
        raise ValueError(f"{argument} = {value!r} is not one of {', '.join(allowed)}")
