"""The reference operations, and the torch path beside them, against loops written from the definition; gradcheck."""

import itertools
import math

import pytest
import torch
from kernel_checks import check_attention, check_read, gradients, without_gradient

from fastsquid import ops
from fastsquid.ops import eager, reference


def read_on_the_torch_path(x, bank, *arguments, **options):
    """As the reference: the weights of every slot."""
    out, weights, indices = ops.memory_read(x, bank, *arguments, **options, impl="torch")
    if indices is not None:
        weights = torch.zeros(*x.shape[:2], bank.shape[1], dtype=weights.dtype).scatter_add(
            -1, indices.clamp_min(0), weights
        )
    return out, weights


def attend_on_the_torch_path(*arguments, **options):
    return ops.neighbor_attention(*arguments, **options, impl="torch")


@pytest.fixture(params=["reference", "torch"])
def memory_read(request):
    return {"reference": reference.memory_read, "torch": read_on_the_torch_path}[request.param]


@pytest.fixture(params=["reference", "torch"])
def neighbor_attention(request):
    return {"reference": reference.neighbor_attention, "torch": attend_on_the_torch_path}[request.param]


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def read_by_loop(x, bank, k, selection, shrinkage, threshold, filled=None):
    """method definition, one query at a time, plain Python."""
    batch, regions, dim = x.shape
    out = torch.zeros_like(x)
    weights = torch.zeros(batch, regions, bank.shape[1], dtype=x.dtype)
    for b, r in itertools.product(range(batch), range(regions)):
        slots = bank[r] if filled is None else bank[r, :filled]
        if len(slots) == 0:
            continue
        dots = [sum(p * q for p, q in zip(x[b, r].tolist(), slot)) for slot in slots.tolist()]
        if shrinkage == "hard":
            chosen = {n: d for n, d in enumerate(dots) if d > threshold}
        else:
            top = max(dots)
            chosen = {n: math.exp(d - top) for n, d in enumerate(dots)}
            if shrinkage == "gumbel" and selection == "exact":
                order = sorted(chosen, key=lambda n: (-dots[n], n))[:k]
                chosen = {n: chosen[n] for n in order}
            elif shrinkage == "gumbel":
                kth = sorted(chosen.values(), reverse=True)[k - 1] if k <= len(dots) else 0.0
                chosen = {n: p for n, p in chosen.items() if p > kth}
        total = sum(abs(p) for p in chosen.values())
        for n, p in chosen.items():
            weights[b, r, n] = p / total
            out[b, r] += p / total * slots[n]
    return out, weights


CASES = [
    ("exact", "gumbel", 1),
    ("exact", "gumbel", 5),
    ("exact", "gumbel", 7),
    ("published", "gumbel", 1),
    ("published", "gumbel", 5),
    ("exact", "hard", 5),
    ("exact", "none", 5),
]


@pytest.mark.parametrize("selection, shrinkage, k", CASES)
@pytest.mark.parametrize("filled", [None, 0, 1, 3, 6])
def test_memory_read_is_the_definition(memory_read, selection, shrinkage, k, filled):
    x, bank = randn(4, 3, 5), randn(3, 7, 5, seed=1)
    counter = None if filled is None else torch.tensor(filled)
    out, weights = memory_read(x, bank, k, selection, shrinkage, 0.1, counter)
    expected, expected_weights = read_by_loop(x, bank, k, selection, shrinkage, 0.1, filled)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_exact_keeps_k_slots_and_published_one_fewer(memory_read):
    x, bank = randn(6, 2, 5), randn(2, 9, 5, seed=1)
    assert ((memory_read(x, bank, 5)[1] > 0).sum(-1) == 5).all()
    assert ((memory_read(x, bank, 5, "published")[1] > 0).sum(-1) == 4).all()
    out, weights = memory_read(x, bank, 1, "published")
    assert not out.any() and not weights.any()


def test_ties_go_to_the_lowest_index(memory_read):
    bank = torch.ones(1, 6, 3, dtype=torch.float64)
    bank[0, 2] = 2  # one winner, five equals
    _, weights = memory_read(torch.ones(1, 1, 3, dtype=torch.float64), bank, 3)
    assert weights[0, 0].nonzero().flatten().tolist() == [0, 1, 2]
    _, weights = memory_read(torch.ones(1, 1, 3, dtype=torch.float64), bank, 3, "published")
    assert weights[0, 0].nonzero().flatten().tolist() == [2]


def test_one_huge_logit_underflows_the_others(memory_read):
    x, bank = torch.tensor([[[1.0]]]), torch.tensor([[[0.0], [1e4], [1.0], [2.0]]])
    out, weights = memory_read(x, bank, 3)
    assert torch.equal(weights, torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])) and out.item() == 1e4
    _, weights = memory_read(x, bank, 3, "published")  # the third largest is 0: fewer than two stay
    assert torch.equal(weights, torch.tensor([[[0.0, 1.0, 0.0, 0.0]]]))


def test_no_region_reads_another_ones_slots(memory_read):
    x, bank = randn(2, 3, 4), randn(3, 5, 4, seed=1)
    before = memory_read(x, bank)[0]
    bank[1] = 100
    after = memory_read(x, bank)[0]
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]]) and not torch.equal(before[:, 1], after[:, 1])


@pytest.mark.parametrize("selection", ["exact", "published"])
@pytest.mark.parametrize("filled", [None, 4, 0])
def test_straight_through_gradient_is_the_defined_one(memory_read, selection, filled):
    x, bank = randn(4, 3, 5).requires_grad_(), randn(3, 7, 5, seed=1).requires_grad_()
    counter = None if filled is None else torch.tensor(filled)
    out, h = memory_read(x, bank, 3, selection, filled=counter)
    dout = randn(*out.shape, seed=2)
    dx, dbank = torch.autograd.grad(out, (x, bank), dout)
    with torch.no_grad():
        dots = torch.einsum("brc,rnc->brn", x, bank)
        y = torch.zeros_like(dots)
        y[..., :filled] = dots[..., :filled].softmax(-1)
        dy = torch.einsum("brc,rnc->brn", dout, bank)
        ds = y * (dy - (y * dy).sum(-1, keepdim=True))
        expected_dx = torch.einsum("brn,rnc->brc", ds, bank)
        expected_dbank = torch.einsum("brn,brc->rnc", ds, x) + torch.einsum("brn,brc->rnc", h, dout)
    torch.testing.assert_close(dx, expected_dx)
    torch.testing.assert_close(dbank, expected_dbank)
    if filled is None:
        assert dx.abs().min() > 0


@pytest.mark.parametrize("shrinkage", ["hard", "none"])
def test_gradcheck_of_the_other_shrinkages(memory_read, shrinkage):
    x, bank = randn(2, 2, 3).requires_grad_(), randn(2, 4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: memory_read(a, b, 2, shrinkage=shrinkage), (x, bank))


def test_gumbel_with_every_slot_active_is_a_softmax(memory_read):
    x, bank = randn(2, 2, 3).requires_grad_(), randn(2, 4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: memory_read(a, b, 4), (x, bank))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_storage_computes_in_float32(memory_read, dtype):
    x, bank = randn(4, 3, 16).to(dtype), randn(3, 20, 16, seed=1).to(dtype)
    out, weights = memory_read(x, bank)
    expected, expected_weights = memory_read(x.double(), bank.double())
    assert out.dtype == dtype and weights.dtype == torch.float32
    torch.testing.assert_close(weights.double(), expected_weights, rtol=0, atol=2e-6)
    torch.testing.assert_close(out.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_a_score_does_not_depend_on_its_batch(memory_read):
    """Dots of a hundred, whose rounding in float32 the softmax shows; in inference mode nothing shows."""
    x, bank = (randn(64, 4, 4096) * 0.5).float(), randn(4, 50, 4096, seed=1).float()
    truth = memory_read(x.double(), bank.double())[0]
    # What is left to round, in any order: five weights, five products and their sum, half an eps each.
    allowed = 11 * torch.finfo(torch.float32).eps / 2 * bank.abs().max()
    # Dots in float32 show on every CPU: the last bit of the largest ones alone changes a result by 5e-6.
    assert (memory_read(x, bank)[0] - truth).abs().max() > allowed
    with torch.inference_mode():
        for n in (64, 7, 1):
            out = torch.cat([memory_read(part, bank)[0] for part in x.split(n)])
            assert (out - truth).abs().max() <= allowed


def test_autocast_leaves_scores_in_float32(memory_read, neighbor_attention):
    x, bank = randn(4, 3, 16).float(), randn(3, 20, 16, seed=1).float()
    q, k, v = (randn(1, 2, 2, 2, 4, seed=s).float() for s in range(3))
    expected = memory_read(x, bank), neighbor_attention(q, k, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, weights = memory_read(x, bank)
        attended = neighbor_attention(q, k, v)
    assert (
        torch.equal(weights, expected[0][1]) and torch.equal(out, expected[0][0]) and torch.equal(attended, expected[1])
    )


def test_nan_is_not_swallowed(memory_read):
    x = torch.full((1, 1, 2), torch.nan)
    for shrinkage in ("gumbel", "none"):
        assert memory_read(x, torch.ones(1, 6, 2), shrinkage=shrinkage)[0].isnan().all()


def test_an_empty_batch_is_an_empty_read(memory_read):
    assert memory_read(torch.empty(0, 2, 3), torch.ones(2, 6, 3))[0].shape == (0, 2, 3)


GRIDS = [(1, 1), (1, 2), (2, 2), (3, 3), (2, 5), (4, 4)]


def attend_by_loop(q, k, v, border):
    batch, height, width, heads, dim = q.shape
    out = torch.zeros_like(q)
    for b, i, j, h in itertools.product(range(batch), range(height), range(width), range(heads)):
        logits, values = [], []
        for di, dj in itertools.product((-1, 0, 1), repeat=2):
            inside = 0 <= i + di < height and 0 <= j + dj < width
            if (di, dj) == (0, 0) or (not inside and border == "mask"):
                continue
            logits.append(
                q[b, i, j, h] @ k[b, i + di, j + dj, h] / math.sqrt(dim) if inside else torch.tensor(0.0, dtype=q.dtype)
            )
            values.append(v[b, i + di, j + dj, h] if inside else torch.zeros(dim, dtype=q.dtype))
        out[b, i, j, h] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return out


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("border", ["pad", "mask"])
def test_neighbor_attention_is_the_definition(neighbor_attention, grid, border):
    if grid == (1, 1) and border == "mask":
        with pytest.raises(ValueError, match="border='mask'"):
            neighbor_attention(*[randn(1, 1, 1, 1, 1)] * 3, border="mask")
        return
    q, k, v = (randn(2, *grid, 2, 3, seed=s) for s in range(3))
    torch.testing.assert_close(neighbor_attention(q, k, v, border), attend_by_loop(q, k, v, border))


@pytest.mark.parametrize("border", ["pad", "mask"])
def test_neighbor_attention_gradcheck(neighbor_attention, border):
    inputs = [randn(1, 2, 3, 2, 2, seed=s).requires_grad_() for s in range(3)]
    assert torch.autograd.gradcheck(lambda q, k, v: neighbor_attention(q, k, v, border), inputs)


def test_pad_is_the_published_zero_padding_before_a_biased_projection(neighbor_attention):
    """nn.MultiheadAttention on copies of the eight zero-padded neighbors, as the published code does it."""
    heads, dim, height, width = 2, 6, 2, 3
    attention = torch.nn.MultiheadAttention(dim, heads, batch_first=True, dtype=torch.float64)
    torch.nn.init.normal_(attention.in_proj_bias, generator=torch.Generator().manual_seed(3))
    z, m = randn(1, height, width, dim), randn(1, height, width, dim, seed=1)
    padded = torch.nn.functional.pad(m, (0, 0, 1, 1, 1, 1))
    copies = torch.stack(
        [
            padded[0, i : i + 3, j : j + 3].reshape(9, dim)[[0, 1, 2, 3, 5, 6, 7, 8]]
            for i in range(height)
            for j in range(width)
        ]
    )
    expected, _ = attention(z.reshape(-1, 1, dim), copies, copies)
    wq, wk, wv = attention.in_proj_weight.chunk(3)
    bq, _, bv = attention.in_proj_bias.chunk(3)
    q, k, v = ((t @ w.T).unflatten(-1, (heads, -1)) for t, w in ((z, wq), (m, wk), (m, wv)))
    ours = attention.out_proj(neighbor_attention(q + bq.view(heads, -1), k, v).flatten(-2) + bv)
    torch.testing.assert_close(ours.reshape(-1, 1, dim), expected)


f64, f32, bf16, f16 = torch.float64, torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 2, 10, 20, 3), (17, 1, 65, 33, 5), (1, 2, 7, 513, 7)], ids=str)
@pytest.mark.parametrize("how", [dict(), dict(selection="published"), dict(filled=2), dict(filled=0)], ids=str)
def test_the_torch_path_reads_as_the_reference(shape, how):
    check_read(*shape, impl="torch", **how)


@pytest.mark.parametrize("dtypes", [(f32, f32), (bf16, bf16), (f16, f16), (bf16, f32), (f16, f32)], ids=str)
def test_every_dtype_on_the_torch_path(dtypes):
    check_read(3, 2, 33, 65, 5, *dtypes, impl="torch")
    check_attention(2, 2, 3, 2, 40, dtypes[0], impl="torch")


@pytest.mark.parametrize("border", ["pad", "mask"])
@pytest.mark.parametrize("grid", [(1, 2), (4, 3), (16, 16), (16, 17)])  # the last is too large for a dense product
def test_the_torch_path_attends_as_the_reference(grid, border, monkeypatch):
    asked = []
    plain = reference.neighbor_attention
    monkeypatch.setattr(reference, "neighbor_attention", lambda *a: asked.append(a) or plain(*a))
    check_attention(1, *grid, 2, 5, border=border, impl="torch")
    assert len(asked) == 2 + (grid[0] * grid[1] > eager.MAX_DENSE_PATCHES)


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_gradients_of_what_needs_them_under_autocast_and_twice(needed):
    """The torch path has the reference's first and second derivatives."""
    results = []
    for read in (reference.memory_read, read_on_the_torch_path):
        x, bank, dout = (t.requires_grad_(need) for t, need in zip(inputs(), (*needed, True)))
        wanted = [t for t in (x, bank) if t.requires_grad]
        with torch.autocast("cpu", dtype=bf16):
            out = read(x.square(), bank, 3)[0]
            first = torch.autograd.grad(out, wanted, dout, create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in first)
        results.append([out, *first, *torch.autograd.grad(penalty, [*wanted, dout])])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("cast_backward", [False, True])
def test_autocast_changes_no_gradient_of_the_torch_path(cast_backward):
    leaves = [t.float().requires_grad_() for t in inputs()[:2]]
    dout = inputs()[2].float()
    results = []
    for cast in (False, True):
        with torch.autocast("cpu", dtype=bf16, enabled=cast):
            out = read_on_the_torch_path(*leaves, 3)[0]
        with torch.autocast("cpu", dtype=bf16, enabled=cast and cast_backward):
            results.append([out, *torch.autograd.grad(out, leaves, dout)])
    assert all(torch.equal(a, b) and a.dtype == f32 for a, b in zip(*results))


def test_a_patch_that_is_not_finite_reaches_its_neighbors_only():
    q, k, v = (randn(1, 4, 4, 1, 3, seed=seed) for seed in range(3))
    k[0, 0, 0] = torch.nan
    for attend in (reference.neighbor_attention, attend_on_the_torch_path):
        broken = attend(q, k, v).isnan().flatten(3).any(-1)[0]
        assert broken.nonzero().tolist() == [[0, 1], [1, 0], [1, 1]]


def inputs():
    return randn(4, 2, 6), randn(2, 9, 6, seed=1), randn(4, 2, 6, seed=2)


def test_values_in_the_place_of_slots_keep_their_gradient():
    x, bank, _ = inputs()
    leaves = [x, bank, randn(2, 9, 4, seed=3)]
    dout = randn(4, 2, 4, seed=4)
    results = [
        gradients(
            lambda x, bank, values, read=read: read(x, bank, 3, values=values)[0],
            [t.detach().clone().requires_grad_() for t in leaves],
            dout,
        )
        for read in (reference.memory_read, read_on_the_torch_path)
    ]
    torch.testing.assert_close(results[1], results[0])
    with torch.no_grad():
        torch.testing.assert_close(read_on_the_torch_path(x, bank, 3, values=leaves[2])[0], results[0][0])


def test_strided_inputs_on_the_torch_path():
    x, bank = randn(2, 20, 4).permute(2, 0, 1), randn(10, 2, 33, seed=1).transpose(0, 1)[:, :, 5:25]
    dout = randn(2, 4, 20, seed=2).transpose(0, 1)
    leaves = [t.detach().requires_grad_() for t in (x, bank)]
    truth, ours = (
        gradients(lambda *a, read=read: read(*a, 3)[0], leaves, dout)
        for read in (reference.memory_read, read_on_the_torch_path)
    )
    torch.testing.assert_close(ours, truth)


def test_an_output_of_the_torch_path_that_nobody_uses():
    x = randn(3, 2, 20).requires_grad_()
    unused = ops.memory_read(x, randn(2, 10, 20, seed=1), 3, impl="torch")[0]
    (without_gradient(unused) + x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_the_torch_path_makes_no_copies_of_the_bank():
    """Forward and backward hold one tensor of the bank's size: its gradient."""
    B, R, N, C = 4, 3, 50, 64
    x, bank = randn(B, R, C).requires_grad_(), randn(R, N, C, seed=1).requires_grad_()
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            made = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in results_of(result)}
            known = {t.untyped_storage().data_ptr() for t in results_of(arguments)}
            sizes.extend(size for pointer, size in made.items() if pointer not in known and size >= bank.nbytes)
            return result

    def results_of(tree):
        return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]

    with Sizes():
        torch.autograd.grad(ops.memory_read(x, bank, 5, impl="torch")[0].sum(), [x, bank])
    assert len(sizes) == 1


# Wrong arguments, which PyTorch alone would broadcast, round or take for others


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(selection="exakt"), ValueError, "selection = 'exakt' .*published"),
        (dict(shrinkage="softmax"), ValueError, "shrinkage = 'softmax' .*gumbel"),
        (dict(x=randn(4, 1, 5)), ValueError, r"\(4, 1, 5\) .*\(3, 7, 5\)"),
        (dict(bank=randn(1, 7, 5), shrinkage="none"), ValueError, r"\(4, 3, 5\) .*\(1, 7, 5\)"),
        (dict(x=randn(4, 3, 6)), ValueError, r"\(4, 3, 6\) .*\(3, 7, 5\)"),
        (dict(values=randn(3, 6, 2)), ValueError, r"\(3, 6, 2\) .*\(3, 7, 5\)"),
        (dict(x=torch.ones(4, 3, 5, dtype=torch.int64)), TypeError, "torch.int64"),
        (dict(top_k=0), ValueError, "top_k = 0 .* 7 "),
        (dict(top_k=8), ValueError, "top_k = 8 .* 7 "),
        (dict(filled=5), TypeError, "filled = 5 "),
        (dict(filled=torch.tensor([3, 4])), TypeError, "filled = "),
    ],
    ids=str,
)
@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
def test_memory_read_names_a_wrong_argument(impl, change, error, message):
    arguments = dict(x=randn(4, 3, 5), bank=randn(3, 7, 5, seed=1)) | change
    with pytest.raises(error, match=message):
        if impl == "reference":
            reference.memory_read(**arguments)
        else:
            ops.memory_read(**arguments, impl=impl)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(border="zeros"), ValueError, "border = 'zeros' .*pad, mask"),
        (dict(k=randn(1, 3, 2, 2, 4), v=randn(1, 3, 2, 2, 4)), ValueError, r"k \(1, 3, 2, 2, 4\)"),
        (dict(q=randn(3, 2, 2, 4)), ValueError, r"q \(3, 2, 2, 4\)"),
        (dict(v=torch.ones(2, 3, 2, 2, 4, dtype=torch.int32)), TypeError, "torch.int32"),
    ],
    ids=str,
)
@pytest.mark.parametrize("impl", ["reference", "torch", "triton"])
def test_neighbor_attention_names_a_wrong_argument(impl, change, error, message):
    arguments = {name: randn(2, 3, 2, 2, 4) for name in "qkv"} | change
    with pytest.raises(error, match=message):
        if impl == "reference":
            reference.neighbor_attention(**arguments)
        else:
            ops.neighbor_attention(**arguments, impl=impl)
