"""The memory read's kernels: values and every gradient against the float64 reference, choices, memory, refusals."""

import functools
import re
from pathlib import Path

import pytest
import torch
from conftest import DEVICE
from kernel_checks import (
    assert_decided,
    change_blocks,
    check_read,
    dot_errors,
    gradients,
    randn,
    whole,
    without_gradient,
)

from fastsquid import SpaceAwareMemory
from fastsquid.ops import memory_read, reference
from fastsquid.ops.dispatch import ImplementationError

kernels = pytest.importorskip("fastsquid.kernels.memory_read", exc_type=ImportError)
configurations = pytest.importorskip("fastsquid.kernels.configurations")
launch = pytest.importorskip("fastsquid.kernels.launch")

pytestmark = pytest.mark.usefixtures("poisoned")
f64, f32, bf16, f16 = torch.float64, torch.float32, torch.bfloat16, torch.float16


def read(*arguments, **options):
    return memory_read(*arguments, **options, impl="triton")


# One row by one query to every block of the launchers, and one below and above each of their sizes.
SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 2, 10, 20, 3),
    (2, 3, 31, 63, 5),
    (2, 1, 32, 64, 8),
    (2, 1, 33, 65, 9),
    (17, 1, 65, 33, 5),  # the second tile of queries
    (65, 1, 63, 31, 5),  # the third
    (129, 1, 64, 32, 2),
    (2, 1, 256, 8, 4),
    (2, 1, 257, 8, 4),
    (1, 1, 1025, 3, 64),
    (2, 2, 20, 700, 5),  # the sum over C in two programs
    (1, 2, 7, 513, 7),  # as many chosen as there are slots
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape):
    check_read(*shape)


def test_rows_longer_than_a_program_gathers_at_once(monkeypatch):
    change_blocks(monkeypatch, dots_programs=1, gather_programs=2)
    check_read(2, 2, 10, 1100, 3)
    check_read(2, 2, 10, 1100, 3, shrinkage="none")


@pytest.mark.parametrize("multiprocessors, queries", [(1, 130), (10**6, 66)], ids=["largest tiles", "smallest tiles"])
@pytest.mark.parametrize("dtypes", [(f32, f32), (bf16, bf16), (bf16, f32), (f64, f64)], ids=str)
def test_the_blocks_of_an_h100(dtypes, multiprocessors, queries, monkeypatch):
    """More queries, slots and columns than one of its tiles holds, and fewer."""
    hopper = configurations.HOPPER._replace(multiprocessors=multiprocessors)
    change_blocks(monkeypatch, **hopper._asdict())
    check_read(queries, 1, 130, 144, 5, *dtypes)
    check_read(3, 2, 20, 65, 3, *dtypes)
    check_read(17, 1, 70, 33, 3, *dtypes, shrinkage="none")


def test_smallest_read():
    """For the compute sanitizer: every kernel, in seconds."""
    check_read(3, 2, 10, 20, 3, f32)
    check_read(3, 2, 10, 20, 3, f32, shrinkage="none")


def test_most_slots_and_most_chosen():
    check_read(1, 1, configurations.MAX_SLOTS, 2, configurations.MAX_TOP_K, f32)


@pytest.mark.parametrize("dtypes", [(f32, f32), (bf16, bf16), (f16, f16), (bf16, f32), (f16, f32)], ids=str)
@pytest.mark.parametrize("shape", [(3, 2, 33, 65, 5), (20, 1, 20, 520, 3)], ids=str)
def test_every_dtype(shape, dtypes):
    check_read(*shape, *dtypes)


@pytest.mark.parametrize("filled", [None, 0, 1, 2, 9, 10, 50])
@pytest.mark.parametrize("how", [dict(), dict(selection="published"), dict(shrinkage="none")], ids=str)
def test_rules_and_queues(how, filled):
    check_read(3, 2, 10, 20, 3, filled=filled, **how)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_published_rule(k):
    check_read(3, 2, 10, 20, k, f32, selection="published")
    x, bank = randn(3, 2, 20), randn(2, 10, 20)
    assert ((read(x, bank, k, "published")[2] >= 0).sum(-1) == k - 1).all()


@pytest.mark.parametrize("how", [dict(), dict(shrinkage="none")], ids=str)
def test_an_empty_batch(how):
    check_read(0, 2, 10, 20, 3, **how)


def test_the_choice_is_what_it_says():
    """Indices and weights, against the softmax itself."""
    x, bank = randn(6, 3, 20, dtype=f32), randn(3, 40, 20, seed=1, dtype=f32)
    assert_decided(x, bank, range(8), f32)  # the order of the seven, too
    out, weights, indices = read(x, bank, 7)
    softmax = torch.einsum("brc,rnc->brn", x.double(), bank.double()).softmax(-1)
    best = softmax.sort(-1, descending=True)
    assert torch.equal(indices, best.indices[..., :7])
    expected = softmax.gather(-1, indices)
    torch.testing.assert_close(weights.double(), expected / expected.sum(-1, keepdim=True), rtol=1e-5, atol=0)
    rows = bank[torch.arange(3, device=DEVICE)[:, None], indices]  # (B, R, k, C)
    torch.testing.assert_close(out, torch.einsum("brk,brkc->brc", weights, rows))


@pytest.mark.parametrize("inputs", ["random", "slots around a common one", "slots 2^-20 apart"])
def test_the_choice_is_that_of_the_kernels_own_dots(inputs):
    """Inputs of bench/precision.py, where rounding decides: the dots are right to rounding, and they alone decide.

    With one tf32 product for each float32 one, the dots would be wrong by twice what is allowed here.
    """
    k, common = 5, randn(512)
    x, bank = {
        "random": (randn(24, 1, 512), randn(1, 60, 512, seed=1)),
        "slots around a common one": (common + 0.1 * randn(24, 1, 512), common + 1e-3 * randn(1, 60, 512, seed=1)),
        "slots 2^-20 apart": (
            randn(24, 1, 512),
            randn(1, 1, 512, seed=1) * (1 + torch.arange(60, device=DEVICE)[:, None] * 2.0**-20),
        ),
    }[inputs]
    x, bank = (x * 512**-0.5).float(), bank.float()
    indices = read(x, bank, k)[2]
    blocks = launch.blocks_of(x, bank)
    own = functools.reduce(torch.add, kernels._launch_dots(x, bank, *kernels._queue(None, x), blocks))[
        ..., : bank.shape[1]
    ]
    assert torch.equal(indices, own.sort(dim=-1, descending=True, stable=True).indices[..., :k])
    dots = torch.einsum("brc,rnc->brn", x.double(), bank.double())
    assert ((own - dots).abs().amax(-1) <= dot_errors(x, bank, f32)).all()


def chosen(x, bank, k, **options):
    x, bank = torch.tensor(x, dtype=f32, device=DEVICE), torch.tensor(bank, dtype=f32, device=DEVICE)
    out, weights, indices = read(x[None, None, None], bank[None, :, None], k, **options)
    return out.item(), weights.flatten().tolist(), indices.flatten().tolist()


def test_ties_go_to_the_lowest_index():
    assert chosen(1.0, [2.0] * 9, 3)[2] == [0, 1, 2]
    assert chosen(1.0, [1.0, 3.0, 2.0, 2.0, 2.0], 3)[2] == [1, 2, 3]
    # The published rule keeps what is strictly above the k-th: of equal ones nothing.
    assert chosen(1.0, [2.0] * 9, 3, selection="published") == (0.0, [0.0] * 3, [-1] * 3)
    assert chosen(1.0, [1.0, 3.0, 2.0, 2.0, 2.0], 3, selection="published")[2] == [1, -1, -1]


def test_extreme_logits():
    # One huge logit: the others underflow to probability 0, and are not active.
    assert chosen(100.0, [-90.0, 90.0, 0.0, 1.0], 3) == (90.0, [1.0, 0.0, 0.0], [1, -1, -1])
    assert chosen(-100.0, [-90.0, 90.0, 0.0, 1.0], 2)[2] == [0, -1]
    # Logits so low that exp of them alone would underflow.
    _, weights, indices = chosen(-1.0, [200.0, 201.0, 202.0], 2)
    assert indices == [0, 1] and abs(sum(weights) - 1) < 1e-6
    check_read(3, 2, 33, 20, 3, f32, x=randn(3, 2, 20, dtype=f32, scale=1e-4), cancelled=True)
    # Whole numbers: a rounding of a logit in the thousands would be a percent of a weight, and equal logits would not
    # be equal on every CPU.
    check_read(3, 2, 33, 20, 3, f32, x=whole(3, 2, 20, scale=1000.0), bank=whole(2, 33, 20, seed=1), cancelled=True)
    x, equal = whole(3, 2, 20), torch.ones(2, 12, 20, device=DEVICE, dtype=f32)
    check_read(3, 2, 12, 20, 3, f32, x=x, bank=equal, cancelled=True)
    check_read(3, 2, 12, 20, 3, f32, x=x, bank=equal, selection="published", cancelled=True)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's word for it in the interpreter
@pytest.mark.parametrize("how", [dict(), dict(selection="published"), dict(shrinkage="none")], ids=str)
def test_a_nan_stays_a_nan(how):
    x, bank = randn(3, 1, 4, dtype=f32), randn(1, 6, 4, seed=1, dtype=f32)
    x[1, 0, 2] = torch.nan
    out = read(x, bank, 3, **how)[0]
    assert out[1].isnan().all() and not out[[0, 2]].isnan().any()


def test_only_filled_slots_are_read():
    x, bank = randn(3, 2, 70), randn(2, 40, 70, seed=1)
    bank[:, 9:] = torch.nan
    filled = torch.tensor(9, device=DEVICE)
    for how in (dict(), dict(selection="published"), dict(shrinkage="none")):
        ours = gradients(
            lambda t, how=how: read(t, bank, 4, filled=filled, **how)[0],
            [x.clone().requires_grad_()],
            torch.ones_like(x),
        )
        truth = gradients(
            lambda t, how=how: reference.memory_read(t, bank[:, :9], 4, **how)[0],
            [x.clone().requires_grad_()],
            torch.ones_like(x),
        )
        torch.testing.assert_close(ours, truth)


def test_strided_inputs_are_not_copied(monkeypatch):
    def refuse(*_):
        raise AssertionError("copied")

    x = randn(2, 4, 20).transpose(0, 1)  # (B, R, C) of a (R, B, C) tensor
    bank = randn(10, 2, 33, seed=1).transpose(0, 1)[:, :, 5:25]
    dout = randn(2, 4, 20, seed=2).transpose(0, 1)
    inputs = [t.detach().requires_grad_() for t in (x, bank)]
    truth = gradients(lambda *a: reference.memory_read(*a, 3)[0], inputs, dout)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "contiguous", refuse)
        ours = gradients(lambda *a: read(*a, 3)[0], inputs, dout)
    torch.testing.assert_close(ours, truth)
    # Any other stride is copied and works too.
    columns = randn(4, 20, 2).transpose(1, 2)
    torch.testing.assert_close(read(columns, bank, 3)[0], reference.memory_read(columns, bank, 3)[0])


@pytest.mark.parametrize("far, count", [(2**31 + 64, 2), (2**30 + 32, 3)], ids=["a long stride", "short strides"])
def test_beyond_two_to_the_31_elements(far, count):
    """Addresses, not values: where the stride itself needs more than 32 bits, and where only its multiple does."""
    size = ((count - 1) * far + 4096) * 2
    storage = torch.empty(0, dtype=bf16, device=DEVICE).set_(torch.UntypedStorage(size, device=DEVICE))
    x = storage.as_strided((count, 1, 20), (far, 20, 1))
    bank = storage[1024:].as_strided((count, 3, 20), (far, 20, 1))
    x.copy_(randn(count, 1, 20, dtype=bf16))
    bank.copy_(randn(count, 3, 20, seed=1, dtype=bf16))
    regions = x.transpose(0, 1)  # the region's stride is the far one
    column = bank.transpose(0, 1)[:1]  # the slot's is
    for queries, slots in ((x, bank[:1]), (regions, bank), (x, column)):
        truth = reference.memory_read(queries.double(), slots.double(), 2)[0]
        torch.testing.assert_close(read(queries, slots, 2)[0].double(), truth, rtol=2e-2, atol=2e-2)
        dout = randn(*queries.shape, seed=2, dtype=bf16)
        ours, exact = (
            gradients(lambda *t, f=f: f(*t, 2)[0], [t.detach().requires_grad_() for t in tensors], dout.to(tensors[0]))
            for f, tensors in ((read, (queries, slots)), (reference.memory_read, (queries.double(), slots.double())))
        )
        torch.testing.assert_close([t.double() for t in ours], exact, rtol=2e-2, atol=2e-2)


def test_values_are_read_in_the_place_of_slots():
    x, bank, values = randn(3, 2, 20), randn(2, 10, 20, seed=1), randn(2, 10, 47, seed=2)
    for how in (dict(), dict(selection="published"), dict(shrinkage="none")):
        ours, truth = (
            read(x, bank, 3, values=values, **how)[0],
            reference.memory_read(x, bank, 3, values=values, **how)[0],
        )
        assert ours.shape == (3, 2, 47)
        torch.testing.assert_close(ours, truth)
    with pytest.raises(ImplementationError, match="values"):
        read(x.requires_grad_(), bank, 3, values=values)


def test_twice_the_same_bits():
    """Nothing is added in an order that changes; also where deterministic algorithms are demanded."""
    for file in Path(kernels.__file__).parent.glob("*.py"):
        assert not re.search(r"tl\.atomic", file.read_text())
    inputs = [randn(20, 2, 600, dtype=f32).requires_grad_(), randn(2, 30, 600, seed=1, dtype=f32).requires_grad_()]
    dout = randn(20, 2, 600, seed=2, dtype=f32)
    once = gradients(lambda *a: read(*a, 3)[0], inputs, dout)
    torch.use_deterministic_algorithms(True)
    try:
        again = gradients(lambda *a: read(*a, 3)[0], inputs, dout)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(once, again))


def test_without_gradients_nothing_is_kept(monkeypatch):
    x, bank = randn(3, 2, 20), randn(2, 10, 20, seed=1).requires_grad_()
    expected = read(x, bank, 3)[0]
    assert expected.requires_grad
    with torch.no_grad():
        out = read(x, bank, 3)[0]
    assert torch.equal(out, expected) and not out.requires_grad
    kept = []
    forward = kernels.forward

    def noted(*arguments):
        results = forward(*arguments)
        kept.append(results[1].numel())
        return results

    monkeypatch.setattr(kernels, "forward", noted)
    read(x, bank, 3)
    with torch.no_grad():
        read(x, bank, 3)
    assert kept == [3 * 2 * kernels.pitch(10), 0]


def test_only_needed_gradients_are_computed(monkeypatch):
    x, bank, dout = randn(3, 2, 20), randn(2, 10, 20, seed=1), randn(3, 2, 20, seed=2)
    both = gradients(lambda *a: read(*a, 3)[0], [x.clone().requires_grad_(), bank.clone().requires_grad_()], dout)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_bank_gradient", None)
        out, dx = gradients(lambda *a: read(*a, 3)[0], [x.clone().requires_grad_(), bank], dout)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_weighted_sum", None)
        _, dbank = gradients(lambda *a: read(*a, 3)[0], [x, bank.clone().requires_grad_()], dout)
    assert torch.equal(dx, both[1]) and torch.equal(dbank, both[2])


def test_differentiating_twice_is_refused():
    x, bank = randn(3, 2, 20).requires_grad_(), randn(2, 10, 20, seed=1)
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(read(x, bank, 3)[0].sum(), x, create_graph=True)


def test_an_output_that_nobody_uses():
    x = randn(3, 2, 20).requires_grad_()
    unused = read(x, randn(2, 10, 20, seed=1), 3)[0]
    (without_gradient(unused) + x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_autocast_changes_nothing():
    inputs = [randn(3, 2, 20, dtype=f32).requires_grad_(), randn(2, 10, 20, seed=1, dtype=f32).requires_grad_()]
    dout = randn(3, 2, 20, seed=2, dtype=f32)
    plain = gradients(lambda *a: read(*a, 3)[0], inputs, dout)
    with torch.autocast(DEVICE, dtype=bf16):
        cast = gradients(lambda *a: read(*a, 3)[0], inputs, dout)
    assert all(torch.equal(a, b) and a.dtype == f32 for a, b in zip(plain, cast))


@pytest.mark.parametrize("kind", ["matrix", "queue"])
@pytest.mark.parametrize("how", [dict(), dict(selection="published"), dict(shrinkage="none")], ids=str)
def test_the_module_answers_as_on_the_torch_path(kind, how):
    memories = [
        SpaceAwareMemory(2, 7, 20, 3, kind, impl=impl, **how).double().to(DEVICE) for impl in ("triton", "torch")
    ]
    memories[1].load_state_dict(memories[0].state_dict())
    for step in range(3):
        x, answers = randn(4, 2, 20, seed=step), []
        for memory in memories:
            memory.train()
            answers.append([t.detach() for t in memory(x, return_weights=True, return_indices=True)])
            memory.commit()
        torch.testing.assert_close(*answers)
    assert torch.equal(memories[0].reads, memories[1].reads) and memories[0].reads.any()
    torch.testing.assert_close(memories[0].usage(), memories[1].usage())


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((randn(1, 1, 2), randn(1, 6, 2)), dict(shrinkage="hard"), "'hard'"),
        ((randn(1, 1, 2), randn(1, 4097, 2)), dict(), "4097 .* 4096"),
        ((randn(1, 1, 2), randn(1, 70, 2)), dict(top_k=65), "top_k = 65 .* 64"),
        ((randn(1, 1, 2), randn(1, 6, 2).float()), dict(), "torch.float64 .* torch.float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_run_says_why(arguments, options, message):
    with pytest.raises(ImplementationError, match=f"impl='triton'.*{message}") as error:
        read(*arguments, **options)
    assert "\n" not in str(error.value)
