"""Which implementation runs: the one place that decides, and says why."""

import functools
import importlib.metadata
import importlib.util
import warnings

import torch
from torch.autograd.function import once_differentiable


def _without_triton():
    """Why there is no Triton to run kernels with, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; on Linux, pip install 'fastsquid[triton]' brings it"
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # PyTorch's nightly builds have names of their own
        return None
    if tuple(map(int, version.split(".")[:2])) < (3, 6):
        return f"Triton {version} is too old: 3.6 or newer is needed"
    return None


def _without_kernels():
    """Why the Triton kernels cannot be imported, or None."""
    if NO_TRITON or importlib.util.find_spec("fastsquid.kernels") is not None:
        return NO_TRITON
    return (
        "fastsquid is not installed, so that its folder kernels/ is not known as fastsquid.kernels; "
        "pip install -e . in the checkout installs it"
    )


NO_TRITON = _without_triton()
HAS_TRITON = NO_TRITON is None
NO_KERNELS = _without_kernels()


class ImplementationError(ValueError):
    """An implementation that was asked for by name and cannot run here."""


def device_reason(x):
    """None if Triton kernels can run where the tensor x is, else the reason why not."""
    if NO_KERNELS:
        return NO_KERNELS
    if x.is_cuda:
        return None
    if x.device.type == "cpu":
        from ..kernels.launch import INTERPRETED

        if INTERPRETED:
            return None
    return (
        f"the tensor is on the device '{x.device.type}' and Triton's kernels run on a GPU; on a CPU only in Triton's "
        "interpreter, with TRITON_INTERPRET=1 set before Python starts"
    )


def use_triton(impl, x, can_run, *arguments):
    """True if the Triton kernel is to run.

    Args:
        impl: `auto` (the kernel wherever it can run on a GPU), `triton` or `torch`.
        x: the input whose device decides.
        can_run, arguments: called where it matters; None if the kernel can run on them, else a sentence saying why not.

    Raises:
        ImplementationError: `triton` where it cannot run. An explicit choice never falls back in silence.
        ValueError: an unknown impl.
    """
    if impl not in ("auto", "triton", "torch"):
        raise ValueError(f"impl = {impl!r} is not one of auto, triton, torch")
    if impl == "torch" or (impl == "auto" and not x.is_cuda):
        return False
    reason = can_run(*arguments)
    if impl == "triton" and reason is not None:
        raise ImplementationError(f"impl='triton' cannot run: {reason}")
    if reason is not None and reason == NO_KERNELS and not torch.compiler.is_compiling():
        _warn_without_kernels()
    return reason is None


@functools.cache
def _warn_without_kernels():
    """Say once per process why a GPU is used without the Triton kernels."""
    warnings.warn(f"the Triton kernels are not used, which is slower: {NO_KERNELS}", stacklevel=2)


def first_derivative_only(backward):
    """once_differentiable for a Function's backward, that also speaks where it would be silent.

    By itself it notices a second differentiation only through `dout`: with create_graph=True and a loss linear in the
    output, what depends on the inputs would be taken as constant.
    """
    once = once_differentiable(backward)

    @functools.wraps(backward)
    def checked(ctx, *grads):
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            raise RuntimeError(
                "the Triton kernels have a first derivative only and the backward was asked for a graph of itself "
                "(create_graph=True): use impl='torch' for second derivatives"
            )
        return once(ctx, *grads)

    return checked
