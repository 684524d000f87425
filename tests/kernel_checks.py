"""What kernel tests share: inputs rounded to a dtype, and the comparison with the float64 reference.

The error of a kernel may be that of the reference run in the same low precision, plus a rounding budget: one unit in
the last place of the result's dtype (the interpreter truncates where a GPU rounds) and 64 of the accumulator's, both of
the largest element.
"""

import torch
from conftest import DEVICE

from fastsquid.ops import memory_read, neighbor_attention, reference


def randn(*shape, seed=0, dtype=torch.float64, scale=1.0):
    """Standard normal numbers times scale, rounded to dtype."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(
        DEVICE, dtype
    )


def close(name, ours, truth, eager, cancelled=0.0):
    """Asserts |ours - truth| <= |eager - truth| + budget, in the largest element; `cancelled` is the size of terms that
    cancel in the truth."""
    assert ours.shape == truth.shape, name
    if not truth.numel():
        return
    scale = max(truth.abs().max().item(), cancelled)
    wide = torch.promote_types(ours.dtype, torch.float32)
    budget = scale * (torch.finfo(ours.dtype).eps + 64 * torch.finfo(wide).eps) + 1e-30
    error = (ours.double() - truth).abs().max().item()  # NaN fails
    allowed = (eager.double() - truth).abs().max().item() + budget
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def gradients(function, inputs, dout):
    """Output of a function of several tensors, and the gradients of those that require them."""
    out = function(*inputs)
    wanted = [t for t in inputs if t.requires_grad]
    return [out.detach(), *torch.autograd.grad(out, wanted, dout)]


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, grad):
        return None


def without_gradient(x):
    """Zeros that depend on x and send nothing back: what made x is differentiated with no gradient of its output."""
    return _WithoutGradient.apply(x)


def check_read(
    B,
    R,
    N,
    C,
    k=5,
    dtype=torch.float64,
    bank_dtype=None,
    filled=None,
    seed=0,
    x=None,
    bank=None,
    cancelled=False,
    impl="triton",
    **options,
):
    """The kernels' (or another implementation's) read, dx and (of a matrix) dM against the reference in float64.

    With `cancelled`, gradients may be wrong by a rounding of the terms that cancel in them: a softmax that is flat or
    all at one slot has next to no gradient.
    """
    # Logits of size 1, so that several slots of a query matter.
    x = randn(B, R, C, seed=seed, dtype=dtype, scale=C**-0.5) if x is None else x
    bank = randn(R, N, C, seed=seed + 1, dtype=bank_dtype or dtype) if bank is None else bank
    dout = randn(B, R, C, seed=seed + 2, dtype=dtype)
    options |= dict(top_k=k, filled=None if filled is None else torch.tensor(filled, device=DEVICE))

    def run(read, wide):
        inputs = [t.to(wide) if wide else t.clone() for t in (x, bank)]
        for tensor in inputs[: 1 if filled is not None else 2]:
            tensor.requires_grad_()
        return gradients(lambda *a: read(*a, **options)[0], inputs, dout.to(inputs[0].dtype))

    ours = run(lambda *a, **o: memory_read(*a, **o, impl=impl), None)
    truth, eager = run(reference.memory_read, torch.float64), run(reference.memory_read, None)
    terms = [0.0, 0.0, 0.0]
    if cancelled:
        dy = dout.abs().max().item() * bank.abs().max().item()
        terms = [0.0, dy * bank.abs().max().item(), dy * x.abs().max().item()]
    for name, *tensors, size in zip(("out", "dx", "dM"), ours, truth, eager, terms):
        close(name, *tensors, size)


def check_attention(B, H, W, heads, D, dtype=torch.float64, border="pad", seed=0, scale=1.0, impl="triton"):
    """An implementation's attention, dq, dk and dv against the reference in float64; k and v are views of one."""
    q = randn(B, H, W, heads, D, seed=seed, dtype=dtype, scale=scale)
    k, v = randn(B, H, W, 2, heads, D, seed=seed + 1, dtype=dtype, scale=scale).unbind(3)
    dout = randn(B, H, W, heads, D, seed=seed + 2, dtype=dtype)

    def run(attention, wide):
        inputs = [(t.to(wide) if wide else t.detach()).requires_grad_() for t in (q, k, v)]
        return gradients(lambda *a: attention(*a, border), inputs, dout.to(inputs[0].dtype))

    ours = run(lambda *a: neighbor_attention(*a, impl=impl), None)
    truth, eager = run(reference.neighbor_attention, torch.float64), run(reference.neighbor_attention, None)
    for name, *tensors in zip(("out", "dq", "dk", "dv"), ours, truth, eager):
        close(name, *tensors)
