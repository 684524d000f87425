"""What every launcher needs: the device, the accumulator, the precision of float32 products."""

import contextlib

import torch
import triton

from .configurations import Blocks, blocks_on

INTERPRETED = triton.knobs.runtime.interpret  # as @triton.jit found it when the kernels were imported
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Dtypes of queries and slots that go together: the same, or slots of more digits.
PAIRS = [(dtype, dtype) for dtype in DTYPES] + [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the type of sums: float32 for everything up to float32, float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def precision(backend: str) -> str:
    """Return how float32 products are made: three tf32 products on NVIDIA's matrix units, plain float32 on AMD's.

    Both keep float32's accuracy. One tf32 product would not: memory_read.py has the figures.

    Args:
        backend: `cuda` or `hip`.
    """
    return "ieee" if backend == "hip" else "tf32x3"


def backend() -> str:
    """Return the backend that PyTorch was built for, `cuda` or `hip`."""
    return "hip" if torch.version.hip else "cuda"


def rows_contiguous(x: torch.Tensor) -> torch.Tensor:
    """Return x itself where its last dimension is contiguous, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def is_aligned(*tensors: torch.Tensor) -> bool:
    """Return whether all rows begin at multiples of 16 bytes and are multiples of 16 numbers long and apart."""
    return all(
        x.data_ptr() % 16 == 0 and x.shape[-1] % 16 == 0 and all(stride % 16 == 0 for stride in x.stride()[:-1])
        for x in tensors
    )


def blocks_of(*tensors: torch.Tensor) -> Blocks:
    """Return the blocks of the chip that tensors are on: the portable ones where rows are not aligned, or float64."""
    aligned = is_aligned(*tensors) and tensors[-1].dtype != torch.float64
    return blocks_on(tensors[0].device, aligned)


def on_device(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """Return the context in which kernels are launched on x's device."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
