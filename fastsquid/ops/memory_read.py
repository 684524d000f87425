"""Memory read: similarity to the slots of one's own region, shrinkage, weighted sum."""

from . import reference
from .dispatch import use_triton


def can_run(x, bank, shrinkage="gumbel"):
    """None if the Triton kernel can run on these inputs, else the reason why not."""
    return "this version of fastsquid has no Triton kernel for the memory read; use impl='torch' or 'auto'"


def memory_read(x, bank, top_k=5, selection="exact", shrinkage="gumbel", threshold=0.0025, filled=None, impl="auto"):
    """Region-restricted memory read; arguments and result as in `reference.memory_read`.

    Raises:
        ImplementationError: impl = `triton` where the kernel cannot run.
    """
    use_triton(impl, can_run(x, bank, shrinkage))
    return reference.memory_read(x, bank, top_k, selection, shrinkage, threshold, filled)
