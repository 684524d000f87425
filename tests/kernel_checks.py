"""What kernel tests share: inputs rounded to a dtype, and the comparison with the float64 reference.

The error of a kernel may be that of the reference run in the same low precision, plus a rounding budget: one unit in
the last place of the result's dtype (the interpreter truncates where a GPU rounds) and 64 of the accumulator's, both of
the largest element.

The interpreter's dots are numpy's, so their last bits depend on the CPU and on the BLAS build. No input may leave a
choice of slots to these bits: `assert_decided` rejects inputs that do. Where slots should tie, or where the softmax
magnifies a dot's last bits, inputs come from `whole`: the dots of small whole numbers are exact in any order.
"""

import torch
from conftest import DEVICE

from fastsquid.ops import memory_read, neighbor_attention, reference


def randn(*shape, seed=0, dtype=torch.float64, scale=1.0):
    """Standard normal numbers times scale, rounded to dtype."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(
        DEVICE, dtype
    )


def whole(*shape, seed=0, dtype=torch.float32, scale=4.0):
    """Whole numbers, normally distributed with standard deviation `scale`."""
    return randn(*shape, seed=seed, scale=scale).round().to(dtype)


def change_blocks(patch, **changes):
    """Launch kernels with other blocks or numbers of programs, on whatever chip; patch: a MonkeyPatch."""
    from fastsquid.kernels import configurations

    for capability, blocks in configurations.BLOCKS.items():
        patch.setitem(configurations.BLOCKS, capability, blocks._replace(**changes))


def dot_errors(x, bank, dtype):
    """Return by how much a sum in dtype of C products x.m may be wrong, in whatever order they are added: (B, R).

    Each addition costs one unit, half an eps of the sum of |x.m|. Where each float32 is split for three tf32 products,
    8 more units cover what is left out.
    """
    sizes = torch.einsum("brc,rnc->brn", x.double().abs(), bank.double().abs()).amax(-1)
    return (x.shape[-1] + 8) * torch.finfo(dtype).eps / 2 * sizes


def assert_decided(x, bank, places, dtype):
    """Assert that rounding in dtype cannot change which slots are the largest ones.

    Equal dots are decided too, by their index, where every sum is a whole number that dtype holds.

    Args:
        x: queries (B, R, C).
        bank: the readable slots (R, N, C).
        places: for each n of them, the n largest slots must not depend on rounding.
        dtype: in which the kernel adds.
    """
    errors, eps = dot_errors(x, bank, dtype), torch.finfo(dtype).eps
    x, bank = x.double(), bank.double()
    exact = (x == x.round()).all() and (bank == bank.round()).all() and (errors < 0.5).all()
    dots = torch.einsum("brc,rnc->brn", x, bank).sort(-1, descending=True).values
    for n in places:
        if 0 < n < bank.shape[1] and not exact:
            # Both dots may be wrong. The published rule compares their probabilities, a few roundings later.
            enough = dots[..., n - 1] - dots[..., n] > 2 * errors + 8 * eps
            assert enough.all(), f"rounding decides which {n} slots are the largest: choose other inputs"


def close(name, ours, truth, eager, cancelled=0.0, logit=0.0):
    """Asserts |ours - truth| <= |eager - truth| + budget, in the largest element.

    Args:
        name: of the tensor, for the message.
        ours, truth, eager: the kernel's tensor, the float64 reference's, and the reference's in the kernel's dtype.
        cancelled: size of the terms that cancel in the truth.
        logit: of a gradient whose softmax is rebuilt as exp(logit - lse), the largest logit. lse is stored in the
            accumulator's type, and its rounding is the relative error of the weights.
    """
    assert ours.shape == truth.shape, name
    if not truth.numel():
        return
    scale = max(truth.abs().max().item(), cancelled)
    wide = torch.promote_types(ours.dtype, torch.float32)
    budget = scale * (torch.finfo(ours.dtype).eps + (64 + logit / 2) * torch.finfo(wide).eps) + 1e-30
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
    if options.get("shrinkage", "gumbel") == "gumbel":
        chosen = k - (options.get("selection") == "published")
        if filled != 0 and B:
            assert_decided(x, bank[:, :filled], [chosen], torch.promote_types(dtype, torch.float32))
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
    elif bank.dtype == torch.bfloat16:
        terms = [0.0, *rounded_terms(x.double(), bank.double(), dout.double(), **options)]
    for name, *tensors, size in zip(("out", "dx", "dM"), ours, truth, eager, terms):
        close(name, *tensors, size)


def rounded_terms(x, bank, dout, filled, **options):
    """Largest sums of |terms| in an element of dx and of dM, whose first factors are rounded to bfloat16: ds and h."""
    readable = torch.arange(bank.shape[1], device=DEVICE) < (bank.shape[1] if filled is None else filled)
    y = torch.einsum("brc,rnc->brn", x, bank).masked_fill(~readable, float("-inf")).softmax(-1)
    dy = torch.einsum("brc,rnc->brn", dout, bank)
    ds = (y * (dy - (y * dy).sum(-1, keepdim=True))).abs()
    h = reference.memory_read(x, bank, filled=filled, **options)[1]
    dx = torch.einsum("brn,rnc->brc", ds, bank.abs())
    dbank = torch.einsum("brn,brc->rnc", ds, x.abs()) + torch.einsum("brn,brc->rnc", h, dout.abs())
    return dx.max().item(), dbank.max().item()


def largest_logit(q, k):
    """An upper bound of |q.k| / sqrt(D) over the heads of q and k (B, H, W, heads, D)."""
    if not q.numel():
        return 0.0
    return (q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max()).item() * q.shape[-1] ** -0.5


def check_attention(B, H, W, heads, D, dtype=torch.float64, border="pad", seed=0, draw=randn, impl="triton"):
    """An implementation's attention, dq, dk and dv against the reference in float64; k and v are views of one."""
    q = draw(B, H, W, heads, D, seed=seed, dtype=dtype)
    k, v = draw(B, H, W, 2, heads, D, seed=seed + 1, dtype=dtype).unbind(3)
    dout = randn(B, H, W, heads, D, seed=seed + 2, dtype=dtype)

    def run(attention, wide):
        inputs = [(t.to(wide) if wide else t.detach()).requires_grad_() for t in (q, k, v)]
        return gradients(lambda *a: attention(*a, border), inputs, dout.to(inputs[0].dtype))

    ours = run(lambda *a: neighbor_attention(*a, impl=impl), None)
    truth, eager = run(reference.neighbor_attention, torch.float64), run(reference.neighbor_attention, None)
    logit = largest_logit(q, k)
    for name, *tensors in zip(("out", "dq", "dk", "dv"), ours, truth, eager):
        close(name, *tensors, logit=0.0 if name == "out" else logit)
