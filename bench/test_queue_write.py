"""The queue's write of one batch, wrapping round its end: SQUID's in-painting memory and larger ones."""

import baselines
import pytest
import torch
from cases import SQUID, Read
from timing import Variant

from fastsquid import SpaceAwareMemory

SHAPES = [
    pytest.param(Read(2, 2, 8, 16), marks=pytest.mark.smallest, id="smallest"),
    pytest.param(SQUID[0], id=str(SQUID[0])),
    *(
        pytest.param(s, marks=pytest.mark.large, id=str(s))
        for s in (Read(16, 64, 1000, 2048), Read(256, 16, 1000, 512))
    ),
]


@pytest.mark.parametrize("variant", ["published", "torch"])
@pytest.mark.parametrize("shape", SHAPES)
def test_queue_write(compare, device, shape, variant):
    first = shape.N - shape.B // 2  # wraps

    def build(names):
        rows = torch.randn(shape.B, shape.R, shape.C, device=device)
        memory = SpaceAwareMemory(shape.R, shape.N, shape.C, kind="queue").to(device)
        bank = memory.bank.clone()

        def commit(rows):
            memory._noted = rows
            memory.commit()

        def prepare(i):
            memory.pointer.fill_(first)
            return rows

        variants = {
            "published": Variant(prepare, lambda rows: baselines.queue_write(bank, first, rows)),
            "torch": Variant(prepare, commit),
        }
        for variant in variants.values():
            variant.run(variant.prepare(0))
        assert torch.equal(bank, memory.bank)
        return {name: variants[name] for name in names}

    nbytes = 2 * shape.B * shape.R * shape.C * 4  # rows read, slots written
    # One set: every call is to begin at the same slot.
    compare(build, 1, (nbytes, 0, "float32" if device.type == "cpu" else "tf32"))
