"""Neighbor attention's kernels: values and every gradient against the float64 reference."""

import functools

import pytest
import torch
from conftest import DEVICE
from kernel_checks import change_blocks, check_attention, close, gradients, largest_logit, randn, whole

from fastsquid.ops import neighbor_attention, reference
from fastsquid.ops.dispatch import ImplementationError

kernels = pytest.importorskip("fastsquid.kernels.neighbor_attention", exc_type=ImportError)
configurations = pytest.importorskip("fastsquid.kernels.configurations")

pytestmark = pytest.mark.usefixtures("poisoned")
f64, f32, bf16, f16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
SHAPES = [(1, 1, 2, 1, 1), (2, 2, 2, 2, 5), (1, 3, 5, 2, 31), (1, 4, 3, 1, 33), (2, 1, 3, 1, 64), (1, 3, 1, 1, 65)]


def attend(*arguments):
    return neighbor_attention(*arguments, impl="triton")


@pytest.mark.parametrize("border", ["pad", "mask"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, border):
    check_attention(*shape, border=border)


@pytest.mark.parametrize("border", ["pad", "mask"])
def test_smallest_attention(border):
    """For the compute sanitizer: unaligned, and aligned with blocks of a chip's own."""
    check_attention(2, 2, 3, 2, 5, f32, border)
    check_attention(2, 2, 3, 2, 16, f32, border)
    check_attention(2, 2, 3, 2, 16, bf16, border)


def test_one_patch_reads_only_padding():
    check_attention(2, 1, 1, 2, 5)
    q, k, v = (randn(1, 1, 1, 2, 5, seed=i) for i in range(3))
    assert not attend(q, k, v).any()
    with pytest.raises(ValueError, match="border='mask'"):
        attend(q, k, v, "mask")


@pytest.mark.parametrize("border", ["pad", "mask"])
def test_the_largest_grid(border, monkeypatch):
    if DEVICE == "cpu":  # the interpreter pays for every program, so it gets few
        change_blocks(monkeypatch, attention=[dict(BLOCK_P=256, BLOCK_D=32, UNROLL=8, num_warps=4)])
    check_attention(1, 32, 32, 1, 7, f32, border)


def test_the_largest_head():
    check_attention(1, 2, 2, 1, configurations.MAX_HEAD_DIM, f32)


@pytest.mark.parametrize("dtype", [f32, bf16, f16])
@pytest.mark.parametrize("border", ["pad", "mask"])
def test_every_dtype(dtype, border):
    check_attention(2, 2, 3, 2, 40, dtype, border)
    check_attention(2, 2, 3, 2, 48, dtype, border)  # aligned


@pytest.mark.parametrize("dtype", [f32, bf16, f16])
@pytest.mark.parametrize("border", ["pad", "mask"])
def test_the_blocks_of_an_h100(dtype, border, monkeypatch):
    """Fewer and more patches than one of its programs owns, with each of its blocks."""
    hopper = configurations.HOPPER
    change_blocks(monkeypatch, attention=hopper.attention, attention_half=hopper.attention_half)
    check_attention(1, 1, 3, 1, 32, dtype, border)
    check_attention(1, 3, 5, 1, 32, dtype, border)
    check_attention(1, 3, 3, 2, 64, dtype, border)
    check_attention(1, 2, 2, 1, 80, dtype, border)


def test_an_empty_batch():
    check_attention(0, 2, 2, 2, 5)


@pytest.mark.parametrize("border", ["pad", "mask"])
def test_extreme_logits(border):
    # Logits of thousands. They are exact, since the softmax would magnify their rounding, which differs among CPUs.
    check_attention(1, 3, 3, 1, 16, f32, border, draw=functools.partial(whole, scale=30.0))
    q = torch.full((1, 2, 2, 1, 4), -100.0, device=DEVICE)
    k, v = torch.full_like(q, 100.0), randn(1, 2, 2, 1, 4, dtype=f32)  # every logit -20,000
    torch.testing.assert_close(attend(q, k, v, border), reference.neighbor_attention(q, k, v, border))
    # The patch in the middle has no padding, so that nothing but logits far below 0 enters its softmax.
    for size in (1.0, 10.0, 100.0):
        q = torch.full((1, 3, 3, 1, 4), -size, device=DEVICE)
        k, v = 10 * size + whole(1, 3, 3, 1, 4, scale=16.0) / 16, randn(1, 3, 3, 1, 4, seed=1, dtype=f32)
        dout = randn(1, 3, 3, 1, 4, seed=2, dtype=f32)

        def run(attention, wide, inputs=(q, k, v), dout=dout):
            inputs = [t.to(wide, copy=True).requires_grad_() for t in inputs]
            return gradients(lambda *t: attention(*t, border), inputs, dout.to(wide))

        ours, truth = run(attend, f32), run(reference.neighbor_attention, f64)
        eager = run(reference.neighbor_attention, f32)
        # dq is a sum of nearly equal keys whose weights cancel.
        ds = v.abs().max().item() * dout.abs().max().item()
        terms = [0.0, ds * k.abs().max().item(), ds * size, 0.0]
        for name, *tensors, cancelled in zip(("out", "dq", "dk", "dv"), ours, truth, eager, terms):
            close(name, *tensors, cancelled, 0.0 if name == "out" else largest_logit(q, k))


@pytest.mark.parametrize("border", ["pad", "mask"])
def test_a_nan_reaches_its_neighbors_only(border):
    q, k, v = (randn(1, 1, 5, 1, 3, seed=i) for i in range(3))
    k[0, 0, 1] = torch.nan
    assert attend(q, k, v, border).isnan().any(-1).flatten().tolist() == [True, False, True, False, False]


def test_strided_inputs_are_not_copied(monkeypatch):
    def refuse(*_):
        raise AssertionError("copied")

    q = randn(3, 2, 2, 2, 5).transpose(0, 2)  # (B, H, W, heads, D) = (2, 2, 3, 2, 5) with images and columns exchanged
    k = randn(2, 2, 3, 2, 9, seed=1)[..., 2:7]
    v = randn(2, 3, 2, 2, 5, seed=2).transpose(1, 2)
    inputs, dout = [t.detach().requires_grad_() for t in (q, k, v)], randn(2, 2, 2, 3, 5, seed=3).transpose(2, 3)
    truth = gradients(reference.neighbor_attention, inputs, dout)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", refuse)
        ours = gradients(attend, inputs, dout)
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("far, count", [(2**31 + 64, 2), (2**30 + 32, 3)], ids=["a long stride", "short strides"])
def test_beyond_two_to_the_31_elements(far, count):
    """Where the stride itself needs more than 32 bits, and where only its multiple does."""
    size = ((count - 1) * far + 4096) * 2
    storage = torch.empty(0, dtype=bf16, device=DEVICE).set_(torch.UntypedStorage(size, device=DEVICE))
    q = storage.as_strided((count, 1, 2, 1, 16), (far, 32, 16, 16, 1))  # aligned
    q.copy_(randn(count, 1, 2, 1, 16, dtype=bf16))
    for tensor in (q, q.permute(1, 0, 2, 3, 4), q.permute(1, 2, 0, 3, 4), q.permute(1, 3, 2, 0, 4)):
        truth = reference.neighbor_attention(tensor.double(), tensor.double(), tensor.double())
        torch.testing.assert_close(attend(tensor, tensor, tensor).double(), truth, rtol=2e-2, atol=2e-2)
        dout = randn(*tensor.shape, seed=2, dtype=bf16)
        ours, exact = (
            gradients(f, [t.detach().requires_grad_() for _ in range(3)], dout.to(t))
            for f, t in ((attend, tensor), (reference.neighbor_attention, tensor.double()))
        )
        torch.testing.assert_close([t.double() for t in ours], exact, rtol=2e-2, atol=2e-2)


def test_only_needed_gradients_are_computed():
    q, k, v, dout = (randn(1, 2, 3, 2, 5, seed=i) for i in range(4))
    every = gradients(attend, [t.clone().requires_grad_() for t in (q, k, v)], dout)
    for wanted in (0, 1, 2):
        inputs = [t.clone().requires_grad_(i == wanted) for i, t in enumerate((q, k, v))]
        _, grad = gradients(attend, inputs, dout)
        assert torch.equal(grad, every[1 + wanted])
    out, lse = kernels.forward(q, k, v, True)
    dq, dk, dv = kernels.backward(dout, q, k, v, out, lse, True, False)
    assert dk.numel() == dv.numel() == 0 and torch.equal(dq, every[1])


def test_twice_the_same_bits():
    inputs, dout = (
        [randn(1, 3, 3, 2, 5, seed=i, dtype=f32).requires_grad_() for i in range(3)],
        randn(1, 3, 3, 2, 5, dtype=f32),
    )
    assert all(torch.equal(a, b) for a, b in zip(gradients(attend, inputs, dout), gradients(attend, inputs, dout)))


def test_differentiating_twice_is_refused():
    q, k, v = (randn(1, 2, 2, 1, 3, seed=i).requires_grad_() for i in range(3))
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(attend(q, k, v).sum(), q, create_graph=True)


def test_autocast_changes_nothing():
    inputs, dout = (
        [randn(1, 2, 2, 1, 3, seed=i, dtype=f32).requires_grad_() for i in range(3)],
        randn(1, 2, 2, 1, 3, dtype=f32),
    )
    plain = gradients(attend, inputs, dout)
    with torch.autocast(DEVICE, dtype=bf16):
        cast = gradients(attend, inputs, dout)
    assert all(torch.equal(a, b) and a.dtype == f32 for a, b in zip(plain, cast))


@pytest.mark.parametrize(
    "inputs, message",
    [
        ([randn(1, 2, 2, 1, 257)] * 3, "257 .* 256"),
        (
            [randn(1, 2, 2, 1, 3), randn(1, 2, 2, 1, 3).float(), randn(1, 2, 2, 1, 3)],
            "torch.float64, torch.float32 and torch.float64",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_run_says_why(inputs, message):
    with pytest.raises(ImplementationError, match=f"impl='triton'.*{message}"):
        attend(*inputs)
