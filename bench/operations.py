"""What the benchmarks of single operations share: inputs, the three modes, and the check before anything is timed."""

import itertools

import baselines
import torch
from timing import Variant, input_sets

from fastsquid.ops import memory_read, neighbor_attention
from fastsquid.ops.reference import are_neighbors

# Below this the result is the same for a user; above it, something else is computed.
AGREE = 1e-4
# bfloat16 gradients are rounded where each variant's own sums end.
AGREE_HALF = 2.0**-6
TOP_K = 5
# Two logits closer than this tie: either may be chosen. In units of 2^-24 times the sum of |x * m|, as in
# bench/results/precision.md, where float32 and three tf32 products are at most 5.7 units off: two of them, 12.
TIE = 12
# More near-ties than this share of the queries, and a comparison would say little.
MOST_TIES = 0.01


def variants_of(functions, inputs, sets, mode, agree=AGREE, parameters=None, a_region=(), near_ties=None):
    """{name: Variant} of functions of the tensors that inputs(i) gives, i < sets, in a mode: forward, backward or both.

    Gradients are those of all inputs, and of a function's own `parameters` ({name: list}), which hold the same numbers
    in every function. Outputs and every gradient are compared first: within `agree` of the largest element. The
    functions named in `a_region` take the second of two inputs as one tensor per region, as the published
    parameters are.

    near_ties(*inputs) gives the `NearTies` of a choice that rounding decides. In the comparison such a row gets no
    upstream gradient, and its output must be that of one of the choices that rounding allows.
    """
    given = [[t.requires_grad_() for t in inputs(i)] for i in range(sets)]
    leaves = {name: given for name in functions}
    for name in set(a_region) & set(functions):
        leaves[name] = [[x, *(t.detach().clone().requires_grad_() for t in bank)] for x, bank in given]
    parameters = parameters or dict.fromkeys(functions, [])
    upstream = []  # gradients of the output, by set

    def both(name, i, undecided=None):
        out = functions[name](*leaves[name][i])
        if not upstream:
            upstream.extend(torch.randn_like(out) for _ in range(sets))
        dout = upstream[i] if undecided is None else upstream[i].masked_fill(undecided[..., None], 0)
        return [out.detach(), *torch.autograd.grad(out, [*leaves[name][i], *parameters[name]], dout)]

    ties = near_ties(*(t.detach() for t in given[0])) if near_ties else None
    expected = None
    for name in functions:
        out, *found = both(name, 0, ties and ties.rows)
        if ties:
            require_allowed(name, out, ties, agree)
            out = out.masked_fill(ties.rows[..., None], 0)
        out, *found = [t.flatten() for t in (out, *found)]
        own = found[len(leaves[name][0]) :]
        found = found[: len(leaves[name][0])]
        if name in a_region:
            found = [found[0], torch.cat(found[1:])]
        # One function's matrix may be another's two.
        found = [out, *found, torch.cat([torch.zeros(0, device=out.device), *own])]
        expected = expected or found
        require_close(name, found, expected, agree)
    if mode == "forward":
        return {n: Variant(lambda i, n=n: leaves[n][i], lambda tensors, f=f: f(*tensors)) for n, f in functions.items()}
    if mode == "both":
        return {n: Variant(lambda i: i, lambda i, n=n: both(n, i)) for n in functions}
    return {
        n: Variant(
            lambda i, n=n, f=f: (f(*leaves[n][i]), [*leaves[n][i], *parameters[n]], upstream[i]),
            lambda state: torch.autograd.grad(*state),
        )
        for n, f in functions.items()
    }


def require_close(name, found, expected, agree=AGREE):
    """Raises AssertionError unless every tensor is within `agree` of the expected one's largest element."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if b.numel():
            apart, largest = (a.double() - b.double()).abs().max().item(), b.double().abs().max().item()
            assert apart <= agree * largest, f"{name}: tensor {i} is off by {apart:.3g}, its largest is {largest:.3g}"


class NearTies:
    """The queries whose choice of slots rounding decides, and what each may read.

    Args:
        x: queries (B, R, C).
        bank: slots (R, N, C).

    Attributes:
        rows: bool (B, R), true where a logit left out is within `TIE` of one taken.
        allowed: {(b, r): outputs (n, C), float64, of the n choices that rounding allows}.

    Raises:
        AssertionError: more than `MOST_TIES` of the queries tie.
    """

    def __init__(self, x, bank, top_k=TOP_K):
        x, bank = x.double(), bank.double()
        dots = torch.einsum("brc,rnc->brn", x, bank)
        tie = TIE * 2.0**-24 * torch.einsum("brc,rnc->brn", x.abs(), bank.abs()).amax(-1)
        best = dots.topk(top_k, dim=-1).values  # the rule `published` takes those above the last of these
        self.rows = best[..., -2] - best[..., -1] <= tie
        ties = self.rows.sum().item()
        assert ties <= max(1, MOST_TIES * self.rows.numel()), f"{ties} of {self.rows.numel()} queries tie"
        self.allowed = {}
        for b, r in self.rows.nonzero().tolist():
            edge = best[b, r, -1]
            certain = (dots[b, r] > edge + 2 * tie[b, r]).nonzero().flatten().tolist()
            maybe = ((dots[b, r] - edge).abs() <= 2 * tie[b, r]).nonzero().flatten().tolist()
            # Strictly above: of equal ones none is taken.
            room = top_k - 1 - len(certain)
            choices = [certain + list(c) for n in range(room + 1) for c in itertools.combinations(maybe, n)]
            softmax = dots[b, r].softmax(-1)
            self.allowed[b, r] = torch.stack([softmax[c] @ bank[r, c] / softmax[c].sum() for c in choices if c])


def require_allowed(name, out, ties, agree=AGREE):
    """Raises AssertionError unless every undecided row of out (B, R, C) is that of a choice that rounding allows."""
    largest = out.double().abs().max()
    for (b, r), allowed in ties.allowed.items():
        apart = (allowed - out[b, r].double()).abs().amax(-1).min().item()
        assert apart <= agree * largest, f"{name}: query {b} of region {r} reads none of the slots that tie"


class Case:
    """An operation on one shape: `build(names)` gives {name: Variant}, `sets` and `work` are what is said of it.

    Args:
        shape: a `Read` or a `Grid` of `cases`.
        mode: forward, backward or both.
        dtype: of the inputs.
    """

    def __init__(self, shape, mode, dtype, device):
        self.shape, self.mode, self.dtype, self.device = shape, mode, dtype, device
        self.name = str(dtype).removeprefix("torch.")
        self.agree = AGREE if dtype == torch.float32 else AGREE_HALF
        itemsize = torch.finfo(dtype).bits // 8
        self.sets = input_sets(shape.bytes("forward", itemsize), device)
        instruction = self.name if dtype != torch.float32 or device.type == "cpu" else "tf32"
        self.work = shape.bytes(mode, itemsize), self.operations(), instruction


class MemoryRead(Case):
    """The memory read, rule `published`: `published`, `torch`, `compile`, `triton`."""

    def operations(self):
        return self.shape.operations(self.mode)

    def inputs(self, i):
        B, R, N, C = self.shape
        generator = torch.Generator(self.device).manual_seed(i)
        x = torch.randn(B, R, C, device=self.device, generator=generator)
        bank = torch.randn(R, N, C, device=self.device, generator=generator)
        return x.to(self.dtype), (bank * C**-0.5).to(self.dtype)

    def build(self, names):
        def ours(impl):
            return lambda x, bank: memory_read(x, bank, TOP_K, "published", impl=impl)[0]

        functions = {
            "published": lambda x, *bank: baselines.memory_read(x, bank, TOP_K),
            "torch": ours("torch"),
            "compile": torch.compile(ours("torch"), fullgraph=True, dynamic=False),
            "triton": ours("triton"),
        }
        return variants_of(
            {name: functions[name] for name in names},
            self.inputs,
            self.sets,
            self.mode,
            self.agree,
            a_region=["published"],
            near_ties=NearTies,
        )


class NeighborAttention(Case):
    """The neighbor attention: `published`, `torch`, `compile`, `triton`, and PyTorch's own routines."""

    def __init__(self, shape, mode, dtype, device, border="pad"):
        self.border = border
        super().__init__(shape, mode, dtype, device)

    def operations(self):
        return 0  # eight products a patch: bytes bind

    def inputs(self, i):
        generator = torch.Generator(self.device).manual_seed(i)
        return torch.randn(3, *self.shape, device=self.device, generator=generator).to(self.dtype).unbind()

    def build(self, names):
        shape, border = self.shape, self.border

        def ours(impl):
            return lambda q, k, v: neighbor_attention(q, k, v, border, impl=impl)

        def same_form(function):
            return lambda *tensors: function(*tensors).reshape(shape)

        near = are_neighbors(shape.H, shape.W, self.device)
        present = baselines.windows(torch.ones(1, shape.H, shape.W, 1, device=self.device))
        present = (present[:, None, None, :, 0] > 0).repeat(shape.B, 1, 1, 1)
        functions = {
            "published": same_form(baselines.neighbor_attention),
            "torch": ours("torch"),
            "compile": torch.compile(ours("torch"), fullgraph=True, dynamic=False),
            "triton": ours("triton"),
            "gathered-sdpa": same_form(lambda *t: baselines.gathered_attention(*t, present)),
            "dense-sdpa": same_form(lambda *t: baselines.dense_attention(*t, near)),
        }
        if "flex" in names:
            functions["flex"] = same_form(baselines.flex_attention(shape.H, shape.W, self.device))
        return variants_of({n: functions[n] for n in names}, self.inputs, self.sets, self.mode, self.agree)
