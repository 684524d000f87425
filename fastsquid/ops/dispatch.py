"""Which implementation runs: the one place that decides, and says why."""

import functools
import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable  # pyright: ignore[reportUnknownVariableType]

from .checks import check_name

Impl = Literal["auto", "triton", "torch"]

if TYPE_CHECKING:

    class Function(torch.autograd.Function):
        """`torch.autograd.Function` with a typed `apply`."""

        @classmethod
        def apply(cls, *arguments: Any) -> Any: ...

else:
    Function = torch.autograd.Function


def _without_triton() -> str | None:
    """Return why there is no Triton to run kernels with, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; on Linux: pip install triton"
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # PyTorch's nightly builds have names of their own
        return None
    if tuple(map(int, version.split(".")[:2])) < (3, 6):
        return f"Triton {version} is too old: 3.6 or newer is needed"
    return None


def _without_kernels() -> str | None:
    """Return why the Triton kernels cannot be imported, or None."""
    if NO_TRITON or importlib.util.find_spec("fastsquid.kernels") is not None:
        return NO_TRITON
    return (
        "fastsquid is not installed, so that fastsquid.kernels cannot be imported; "
        "pip install -e . in the checkout installs it"
    )


NO_TRITON = _without_triton()
HAS_TRITON = NO_TRITON is None
NO_KERNELS = _without_kernels()


class ImplementationError(ValueError):
    """The implementation that was asked for by name cannot run here."""


def device_reason(x: Tensor) -> str | None:
    """Return None if Triton kernels can run where the tensor x is, else the reason why not."""
    if NO_KERNELS:
        return NO_KERNELS
    if x.is_cuda:
        return None
    if x.device.type == "cpu":
        from ..kernels.launch import INTERPRETED  # pyright: ignore[reportUnknownVariableType]

        if INTERPRETED:
            return None
    return (
        f"the tensor is on the device '{x.device.type}' and Triton's kernels run on a GPU. A CPU runs them only in "
        "Triton's interpreter: set TRITON_INTERPRET=1 before Python starts"
    )


def use_triton(impl: Impl, x: Tensor, can_run: Callable[..., str | None], *arguments: Any) -> bool:
    """Return whether the Triton kernel is to run.

    Args:
        impl: `auto` (the kernel wherever it can run on a GPU), `triton` or `torch`.
        x: the input whose device decides.
        can_run: function of the arguments that returns None if the kernel can run on them, else the reason why not. It
            is called only where the answer matters.
        *arguments: of `can_run`.

    Raises:
        ImplementationError: impl is `triton` and the kernel cannot run. An explicit choice never falls back in silence.
        ValueError: an unknown impl.
    """
    check_name("impl", impl, get_args(Impl))
    if impl == "torch" or (impl == "auto" and not x.is_cuda):
        return False
    reason = can_run(*arguments)
    if impl == "triton" and reason is not None:
        raise ImplementationError(f"impl='triton' cannot run: {reason}")
    if reason is not None and reason == NO_KERNELS and not torch.compiler.is_compiling():
        _warn_without_kernels()
    return reason is None


@functools.cache
def _warn_without_kernels() -> None:
    """Warn once per process why a GPU is used without the Triton kernels."""
    logging.getLogger(__name__).warning("the Triton kernels are not used, which is slower: %s", NO_KERNELS)


def first_derivative_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the backward of a Function so that a second differentiation raises an error.

    `once_differentiable` alone notices a second differentiation only through `dout`. With create_graph=True and a loss
    that is linear in the output, it would silently treat the inputs as constant.
    """
    once: Callable[..., Any] = once_differentiable(backward)

    @functools.wraps(backward)
    def checked(ctx: Any, *grads: Tensor | None) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True
            raise RuntimeError(
                "the Triton kernels have a first derivative only, and the backward was called with create_graph=True: "
                "use impl='torch' for second derivatives"
            )
        return once(ctx, *grads)

    return checked
