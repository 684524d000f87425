"""What the benchmarks of single operations share: inputs, the three modes, and the check before anything is timed."""

import torch
from timing import Variant

# Below this the result is the same for a user; above it, something else is computed.
AGREE = 1e-4


def variants_of(functions, inputs, sets, mode, agree=AGREE, parameters=None, a_region=()):
    """{name: Variant} of functions of the tensors that inputs(i) gives, i < sets, in a mode: forward, backward or both.

    Gradients are those of all inputs, and of a function's own `parameters` ({name: list}), which hold the same numbers
    in every function. Outputs and every gradient are compared first: within `agree` of the largest element. The
    functions named in `a_region` take the second of two inputs as one tensor a region, as the published parameters are.
    """
    given = [[t.requires_grad_() for t in inputs(i)] for i in range(sets)]
    leaves = {name: given for name in functions}
    for name in set(a_region) & set(functions):
        leaves[name] = [[x, *(t.detach().clone().requires_grad_() for t in bank)] for x, bank in given]
    parameters = parameters or dict.fromkeys(functions, [])
    upstream = []  # gradients of the output, by set

    def both(name, i):
        out = functions[name](*leaves[name][i])
        if not upstream:
            upstream.extend(torch.randn_like(out) for _ in range(sets))
        return [out.detach(), *torch.autograd.grad(out, [*leaves[name][i], *parameters[name]], upstream[i])]

    expected = None
    for name in functions:
        out, *found = [t.flatten() for t in both(name, 0)]
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
