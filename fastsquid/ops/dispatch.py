"""Which implementation runs: the one place that decides, and says why."""


class ImplementationError(ValueError):
    """An implementation that was asked for by name and cannot run here."""


def use_triton(impl, reason):
    """True if the Triton kernel is to run.

    Args:
        impl: `auto` (the kernel wherever it can run), `triton` or `torch`.
        reason: None if the kernel can run on this input, else the sentence that says why not.

    Raises:
        ImplementationError: `triton` where it cannot run. An explicit choice never falls back in silence.
        ValueError: an unknown impl.
    """
    if impl not in ("auto", "triton", "torch"):
        raise ValueError(f"impl = {impl!r} is not one of auto, triton, torch")
    if impl == "triton" and reason is not None:
        raise ImplementationError(f"impl='triton' cannot run: {reason}")
    return impl != "torch" and reason is None
