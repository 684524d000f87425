"""What is measured: shapes of the papers (batch 16, 128 x 128) and sweeps around them, and what each must cost.

`bytes` reads every input and writes every result once; `operations` counts a multiplication and an addition as two.
Forward writes the output; backward reads inputs and the output's gradient and writes the inputs' gradients. The
attention's backward also reads the output.
"""

from typing import NamedTuple

from fastsquid.config import preset


class Read(NamedTuple):
    """Memory read: B rows per region, R regions, N slots, C features, of `itemsize` bytes."""

    B: int
    R: int
    N: int
    C: int

    def __str__(self):
        return f"B{self.B}-R{self.R}-N{self.N}-C{self.C}"

    def bytes(self, mode, itemsize):
        rows, bank = self.B * self.R * self.C * itemsize, self.R * self.N * self.C * itemsize
        forward, backward = 2 * rows + bank, 3 * rows + 2 * bank  # x, M, out; x, M, dout, dx, dM
        return {"forward": forward, "backward": backward, "both": forward + backward}[mode]

    def operations(self, mode):
        product = 2 * self.B * self.R * self.N * self.C
        # s; dy, dx, dM of the scores. The value path touches k rows per query.
        return {"forward": 1, "backward": 3, "both": 4}[mode] * product


class Grid(NamedTuple):
    """Neighbor attention: B images of H x W patches, `heads` heads of D features."""

    B: int
    H: int
    W: int
    heads: int
    D: int

    def __str__(self):
        return f"B{self.B}-{self.H}x{self.W}-h{self.heads}-D{self.D}"

    def bytes(self, mode, itemsize):
        tensor = self.B * self.H * self.W * self.heads * self.D * itemsize
        # q, k, v, out; q, k, v, out, dout, dq, dk, dv
        return {"forward": 4, "backward": 8, "both": 12}[mode] * tensor


MODES = ["forward", "backward", "both"]
# The papers' memory reads: in-painting and the two decoder levels of each system.
SQUID = [Read(16, 4, 200, 2048), Read(64, 4, 200, 4096), Read(64, 4, 200, 8192)]
SIMSID = [Read(16, 16, 100, 512), Read(256, 4, 100, 1024), Read(256, 4, 100, 2048)]
READS = SQUID + SIMSID
LARGE_READS = [Read(16, 64, 1000, 2048), Read(256, 64, 1000, 2048)]
READ_SWEEP = [
    *(Read(b, 16, 100, 512) for b in (1, 4, 64, 256, 1024)),
    *(Read(16, 16, n, 512) for n in (25, 50, 200, 400, 1000, 4000)),
    *(Read(16, 16, 100, c) for c in (64, 128, 256, 1024, 2048, 4096)),
    *(Read(16, r, 100, 512) for r in (1, 4, 64, 256)),
]
GRIDS = [Grid(16, 2, 2, 8, 256), Grid(16, 4, 4, 8, 64)]
LARGE_GRIDS = [Grid(256, 8, 8, 8, 64)]
GRID_SWEEP = [
    *(Grid(16, g, g, 8, 64) for g in (1, 2, 8, 16, 32)),
    *(Grid(b, 4, 4, 8, 64) for b in (1, 64, 256, 1024)),
    *(Grid(16, 4, 4, 8, d) for d in (16, 32, 128, 256)),
]
# For a dry run of everything where there is no time for more.
SMALLEST_READS, SMALLEST_GRIDS = [Read(2, 2, 8, 16)], [Grid(1, 2, 2, 1, 16)]
SMALLEST_MODEL = preset("simsid", image_size=64, width=4, slots=8, heads=1, selection="published")

# Bytes per second of memory, and operations per second of float32 products on the matrix units, where three tf32
# products make one: measured on an H200 (bench/results/h200), data sheets for the others, MI300X with plain float32.
CHIPS = {
    "A100": (2.0e12, 156e12 / 3),
    "H100": (3.35e12, 494e12 / 3),
    "H200, measured": (4.28e12, 412e12 / 3),
    "B200": (8.0e12, 1100e12 / 3),
    "MI300X": (5.3e12, 163e12),
}


def floor(shape, mode, chip, itemsize=4):
    """Seconds that a shape must take on a chip: its bytes or its operations, whichever take longer."""
    copy, rate = CHIPS[chip]
    return max(shape.bytes(mode, itemsize) / copy, shape.operations(mode) / rate)
