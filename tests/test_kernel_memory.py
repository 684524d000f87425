"""What the kernels hold in memory, saved and allocated, beyond inputs, outputs and gradients; with no kernel run."""

import importlib
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastsquid.ops import reference

kernels = pytest.importorskip("fastsquid.kernels.memory_read", exc_type=ImportError)

from fastsquid.kernels.configurations import blocks_on  # noqa: E402
from fastsquid.ops.memory_read import _MemoryRead  # noqa: E402
from fastsquid.ops.neighbor_attention import _NeighborAttention  # noqa: E402

# Rows a region, regions, slots, slot dimension
SMALL, LARGE = (16, 16, 100, 512), (256, 64, 1000, 2048)


class CountingAllocator(TorchDispatchMode):
    """Bytes of the tensors that are made inside: at most at a time, and of the largest."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive = {}
        self.most = self.largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.alive = {key: kept for key, kept in self.alive.items() if not kept[0].expired()}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        sizes = [size for _, size in self.alive.values()]
        self.most, self.largest = max(self.most, sum(sizes)), max(self.largest, *sizes, 0)
        return result


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "bench")
    with importlib.import_module("resources").recorded_launches() as launches:
        yield launches


def beyond(function, *inputs):
    """Most bytes alive in forward and backward, less the output's and the gradients'; and the largest tensor."""
    dout = torch.empty_like(inputs[0])
    allocator = CountingAllocator(dout, *inputs)
    with allocator:
        out = function(*inputs)
        gradients = torch.autograd.grad(out, [t for t in inputs if t.requires_grad], dout)
    return allocator.most - out.nbytes - sum(g.nbytes for g in gradients), allocator.largest


def partial_sums(B, R, N, C):
    """S: in how many parts `_dots` sums over C."""
    blocks = blocks_on(torch.device("meta"))
    return kernels.splits(C, *kernels._dots_tile(B, R, N, torch.float32, blocks), blocks)[0]


def memory_inputs(shape, matrix):
    B, R, N, C = shape
    return (
        torch.empty(B, R, C, device="meta", requires_grad=True),
        torch.empty(R, N, C, device="meta", requires_grad=matrix),
    )


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("how", [dict(k=5), dict(k=0)], ids=["gumbel", "none"])
def test_matrix_takes_these_tensors_and_no_others(shape, how, nothing_runs):
    """The softmax, the partial sums, ds and h as columns, indices and weights: a third of plain autograd at most."""
    inputs = memory_inputs(shape, matrix=True)
    ours, _ = beyond(lambda x, bank: _MemoryRead.apply(x, bank, None, how["k"], False)[0], *inputs)
    assert {"_dots", "_score_gradient", "_bank_gradient"} <= {
        launch.configuration.kernel.__name__ for launch in nothing_runs
    }
    B, R, N, C = shape
    S = partial_sums(B, R, N, C)
    row, column = B * R * kernels.pitch(N) * 4, R * N * 2 * kernels.pitch(B) * 4
    assert 0 < ours <= (S + 1) * row + column + B * R * how["k"] * (8 + 4)
    shrinkage = "gumbel" if how["k"] else "none"
    # Without its autocast, which knows no device `meta`.
    plain, _ = beyond(lambda *a: reference._memory_read(*a, 5, "exact", shrinkage, 0, None, None)[0], *inputs)
    assert 3 * ours <= plain


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
def test_queue_takes_its_partial_sums(shape):
    B, R, N, C = shape
    inputs, filled = memory_inputs(shape, matrix=False), torch.empty((), dtype=torch.int64, device="meta")
    ours, _ = beyond(lambda x, bank: _MemoryRead.apply(x, bank, filled, 5, False)[0], *inputs)
    S = partial_sums(B, R, N, C)
    assert 0 < ours <= (S + 2) * B * R * N * 4


def test_inference_takes_no_softmax():
    (B, R, N, C), (x, bank) = SMALL, memory_inputs(SMALL, matrix=False)
    x = x.detach()
    allocator = CountingAllocator(x, bank)
    with allocator:
        out, y, index, weight = kernels.forward(x, bank, bank, None, 5, False, False)
    S = partial_sums(B, R, N, C)
    assert allocator.most <= S * B * R * kernels.pitch(N) * 4 + out.nbytes + B * R * 5 * 12


@pytest.mark.parametrize("shape", [(16, 2, 2, 8, 256), (16, 4, 4, 8, 64), (256, 8, 8, 8, 256)], ids=str)
def test_attention_takes_a_number_a_query_and_head(shape):
    inputs = [torch.empty(shape, device="meta", requires_grad=True) for _ in range(3)]
    ours, largest = beyond(lambda *a: _NeighborAttention.apply(*a, True)[0], *inputs)
    assert ours == inputs[0].nbytes // shape[-1]  # the log-sum-exp
    assert largest == inputs[0].nbytes  # no copy of neighbours
    assert (
        beyond(lambda *a: reference._neighbor_attention(*a, "pad"), *inputs)[1] >= 8 * largest
    )  # which this test would have seen
