"""Which arithmetic may choose slots: the similarity in one tf32 product, in three, and in float32, against float64.

    python bench/precision.py     writes bench/results/precision.md

The operands' rounding is emulated on the CPU, as a matrix unit does it (to the nearest of 10 fraction bits); the sums
are float32. What a GPU's own sums add to it is not measured here: tests/test_memory_read.py asks there for the same.
"""

from pathlib import Path

import torch

from fastsquid.utils.files import replacing

REPORT = Path(__file__).parent / "results" / "precision.md"
K = 5
UNIT = torch.finfo(torch.float32).eps / 2  # what one rounding to float32 may change, relatively


def tf32(x):
    """Float32 numbers rounded to tf32's 10 fraction bits, ties away from zero."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def once(x, m):
    return tf32(x) @ tf32(m).T


def thrice(x, m):
    """Triton's `tf32x3`: each operand as the sum of two tf32 numbers, without the product of the two small ones."""
    x_large, m_large = tf32(x), tf32(m)
    x_small, m_small = tf32(x - x_large), tf32(m - m_large)
    return x_small @ m_large.T + x_large @ m_small.T + x_large @ m_large.T


ARITHMETIC = {"tf32": once, "tf32x3": thrice, "float32": lambda x, m: x @ m.T}


def inputs(generator, B=256, N=200, C=2048):
    """Queries (B, C) and slots (N, C) by name, float32."""

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    slots, common = randn(N, C), randn(C)
    near = slots[torch.randint(N, (B,), generator=generator)] / C**0.5
    ladder = slots[:1] * (1 + torch.arange(N)[:, None] * 2.0**-20)
    return {
        "random": (randn(B, C) / C**0.5, slots),
        "queries near a slot": (near + 0.1 * randn(B, C) / C**0.5, slots),
        "features after a ReLU": (randn(B, C).relu() / C**0.5, slots.relu()),
        "slots around a common one": ((common + 0.1 * randn(B, C)) / C**0.5, common + 1e-3 * slots),
        "slots 2^-20 apart": (randn(B, C) / C**0.5, ladder),
        "logits in the thousands": (100 * randn(B, C), slots),
    }


def compared(x, m, dots):
    """Against float64: the largest error of a dot, and of the queries that choose other slots, how many and by how
    much they are wrong (the largest difference of logits between a slot left out and one taken in its place)."""
    truth = x.double() @ m.double().T
    size = x.double().abs() @ m.double().abs().T
    error = ((dots.double() - truth).abs() / size).max() / UNIT
    best = truth.sort(stable=True, dim=-1, descending=True)
    chosen = dots.sort(stable=True, dim=-1, descending=True).indices[:, :K]
    wrong = best.values[:, K - 1] - truth.gather(1, chosen).amin(1)  # 0 where the same slots are chosen
    return error.item(), (wrong > 0).sum().item(), wrong.max().item(), (wrong / size.amax(1)).max().item() / UNIT


def main():
    lines = [
        "# Which arithmetic may choose slots",
        "",
        "Written by `python bench/precision.py`: 256 queries, 200 slots, C = 2048, the 5 largest dots, against",
        "float64. Unit: 2^-24 times the sum of |x·m|, what one rounding to float32 may change. Wrong by: how much",
        "larger the logit of a slot left out is than that of one taken in its place, at most; their probabilities",
        "differ by that much, relatively.",
        "",
        "| inputs | arithmetic | worst dot, in units | queries with other slots | wrong by | in units |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (x, m) in inputs(torch.Generator().manual_seed(0)).items():
        for arithmetic, product in ARITHMETIC.items():
            error, count, wrong, units = compared(x, m, product(x, m))
            lines.append(f"| {name} | {arithmetic} | {error:.3g} | {count} of {len(x)} | {wrong:.2g} | {units:.2g} |")
    print("\n".join(lines))
    with replacing(REPORT) as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
