"""Neighbor attention: each patch attends to the eight around it, read in place."""

from . import reference
from .dispatch import use_triton


def can_run(q):
    """None if the Triton kernel can run on this input, else the reason why not."""
    return "this version of fastsquid has no Triton kernel for neighbor attention; use impl='torch' or 'auto'"


def neighbor_attention(q, k, v, border="pad", impl="auto"):
    """Centre-less 3x3 attention over a grid of patches; arguments and result as in `reference.neighbor_attention`.

    Raises:
        ImplementationError: impl = `triton` where the kernel cannot run.
    """
    use_triton(impl, can_run(q))
    return reference.neighbor_attention(q, k, v, border)
