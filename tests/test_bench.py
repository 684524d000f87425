"""The benchmarks: baselines compute what ours does, a check that can fail, rows in a CSV; nothing here is timed."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import XRAYS
from forked_python import python

from fastsquid import SpaceAwareMemory2d
from fastsquid.config import preset
from fastsquid.model.detector import Detector
from fastsquid.model.inpainting import InpaintingBlock
from fastsquid.ops import memory_read, neighbor_attention
from fastsquid.ops.reference import are_neighbors
from fastsquid.training.trainer import Trainer

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))
try:
    import baselines
    import operations
    import report
    import rows
    import timing
    import tokens
finally:
    sys.path.remove(str(BENCH))

CPU = torch.device("cpu")
SMALL = dict(image_size=64, width=4, slots=12, selection="published", shortcut=1.0)


def full(memory):
    """A queue that counts as full, of features."""
    if memory.kind == "queue":
        memory.bank.normal_(0, 0.3)
        memory.filled.fill_(memory.num_slots)


def test_memory_read():
    x, bank = torch.randn(5, 3, 20).double(), torch.randn(3, 9, 20).double()
    functions = {
        "published": lambda x, *bank: baselines.memory_read(x, bank, 4),
        "torch": lambda x, bank: memory_read(x, bank, 4, "published")[0],
    }
    operations.variants_of(functions, lambda i: [x.clone(), bank.clone()], 1, "both", 1e-12, a_region=["published"])


@pytest.mark.parametrize("height, width", [(2, 2), (3, 5)])
def test_attention(height, width):
    shape = (2, height, width, 2, 4)
    tensors = torch.randn(3, *shape).double()
    near = are_neighbors(height, width, CPU)
    present = baselines.windows(torch.ones(1, height, width, 1))[:, None, None, :, 0].repeat(2, 1, 1, 1) > 0
    for border, functions in {
        "pad": {"published": baselines.neighbor_attention},
        "mask": {
            "gathered": lambda *t: baselines.gathered_attention(*t, present),
            "dense": lambda *t: baselines.dense_attention(*t, near),
        },
    }.items():
        functions = {name: lambda *t, f=f: f(*t).reshape(shape) for name, f in functions.items()}
        functions["torch"] = lambda *t, border=border: neighbor_attention(*t, border)
        operations.variants_of(functions, lambda i: [t.clone() for t in tensors], 1, "both", agree=1e-12)


@pytest.mark.parametrize("system", ["squid", "simsid"])
def test_inpainting_block(system):
    block = InpaintingBlock(preset(system, heads=2, **SMALL)).double()
    full(block.memory)
    published = baselines.InpaintingBlock(block).double()
    x = torch.randn(2 * block.grid**2, 64, 64 // block.grid // 16, 64 // block.grid // 16).double()
    torch.testing.assert_close(published(x), block(x))
    for memory in (published, block.memory):
        before = block.memory.bank.clone()
        memory.commit()
        written, block.memory.bank.data = block.memory.bank.clone(), before
        if system == "squid":
            assert not torch.equal(written, before)
        memory.written = written
    torch.testing.assert_close(published.written, block.memory.written)


def test_decoder_memory():
    module = SpaceAwareMemory2d(4, (8, 8), 2, 9, scope="subwindow", selection="published").double()
    x = torch.randn(8, 4, 4, 4).double()
    torch.testing.assert_close(baselines.decoder_memory(x, module.memory.bank, 5), module.read_patches(x))


@pytest.mark.parametrize("system", ["squid", "simsid"])
def test_training_and_scores(system):
    """Losses and parameters after one iteration in the published order of work, and the scores of the two detectors."""
    config = preset(system, heads=2, **SMALL)
    images, detectors = torch.rand(3, 1, 64, 64).double(), []
    for trainer in (baselines.Trainer, Trainer):
        torch.manual_seed(0)
        detector = Detector(config).double().train()
        full(detector.generator.inpaint.memory)
        trainer = trainer(detector)
        losses = trainer.step(images, 0)
        detectors.append((detector, trainer, {name: float(loss) for name, loss in losses.items()}))
    (theirs, published, a), (ours, _, b) = detectors
    assert a == pytest.approx(b, rel=1e-9)
    with torch.no_grad():  # the baseline has trained slots and an attention of its own
        for memory, bank in zip(theirs.generator.student.memories, published.generator.banks):
            memory.memory.bank.copy_(torch.stack(list(bank)))
        theirs.generator.inpaint.memory.bank.copy_(torch.stack(list(published.generator.inpaint.bank)))
    for name in ("encoder.blocks.0.conv1.0.weight", "student.memories.0.memory.bank", "inpaint.memory.bank"):
        torch.testing.assert_close(theirs.generator.state_dict()[name], ours.generator.state_dict()[name])
    ours.load_state_dict(theirs.state_dict())
    mix, attention = ours.generator.inpaint.mix, published.generator.inpaint.attention
    with torch.no_grad():
        query, *key_value = attention.in_proj_weight.chunk(3)
        mix.query.weight.copy_(query), mix.key_value.weight.copy_(torch.cat(key_value))
        mix.query.bias.copy_(attention.in_proj_bias.chunk(3)[0])
        mix.value_bias.copy_(attention.in_proj_bias.chunk(3)[2])
        mix.output.load_state_dict(attention.out_proj.state_dict())
    published.generator.eval()
    theirs.discriminator.train()
    torch.testing.assert_close(
        baselines.scores(theirs, published.generator, images), ours.eval().scores(images)[0]["discriminator"]
    )


def test_a_difference_is_found():
    with pytest.raises(AssertionError, match="wrong.* tensor 0 "):
        operations.variants_of(
            {"right": lambda x: 2 * x, "wrong": lambda x: 2.001 * x}, lambda i: [torch.ones(3)], 1, "both"
        )


def reading(chosen):
    """A memory read of float32 tensors whose slots are given: mask (B, R, N) of those above the threshold."""

    def read(x, bank):
        y = torch.einsum("brc,rnc->brn", x, bank).softmax(-1)
        h = y.detach() * chosen
        h = h / h.sum(-1, keepdim=True) + (y - y.detach())
        return torch.einsum("brn,rnc->brc", h, bank)

    return read


def near_tie():
    """Queries and slots, float32, and the mask of the four slots above the fifth; in query 1 of region 0 the fourth and
    the fifth of them are half a unit apart."""
    generator = torch.Generator().manual_seed(0)
    x, bank = torch.randn(150, 2, 16, generator=generator), torch.randn(2, 30, 16, generator=generator)
    order = torch.einsum("c,nc->n", x[1, 0], bank[0]).argsort(descending=True)
    fourth, fifth = bank[0, order[3]], bank[0, order[4]]
    apart = (fifth - fourth) @ x[1, 0] / x[1, 0].square().sum()
    bank[0, order[4]] -= apart * x[1, 0]  # now of the fourth's logit, to rounding
    dots = torch.einsum("brc,rnc->brn", x.double(), bank.double())
    return x, bank, dots > dots.topk(5, dim=-1).values[..., -1:], order


def compare_reads(x, bank, **reads):
    functions = {name: reading(chosen) for name, chosen in reads.items()}
    operations.variants_of(functions, lambda i: [x.clone(), bank.clone()], 1, "both", near_ties=operations.NearTies)


def test_a_near_tie_may_be_decided_either_way():
    x, bank, right, order = near_tie()
    rows = operations.NearTies(x, bank).rows
    assert rows.nonzero().tolist() == [[1, 0]]
    other = right.clone()
    other[1, 0, order[3:5]] = ~other[1, 0, order[3:5]]
    assert right[1, 0].sum() == other[1, 0].sum() == 4
    compare_reads(x, bank, right=right, other=other)
    with pytest.raises(AssertionError, match="other.* tensor 0 "):  # what the near-tie is for
        functions = {"right": reading(right), "other": reading(other)}
        operations.variants_of(functions, lambda i: [x.clone(), bank.clone()], 1, "both")


def test_a_wrong_choice_of_slots_is_found():
    """In a query without a tie, and in one with a tie that reads a slot outside of it."""
    x, bank, right, order = near_tie()
    elsewhere, beside = right.clone(), right.clone()
    best = torch.einsum("c,nc->n", x[0, 1], bank[1]).argsort(descending=True)
    elsewhere[0, 1, best[3:5]] = ~elsewhere[0, 1, best[3:5]]
    with pytest.raises(AssertionError, match="wrong.* tensor 0 "):
        compare_reads(x, bank, right=right, wrong=elsewhere)
    beside[1, 0, order[[3, 4, 9]]] = torch.tensor([False, False, True])
    with pytest.raises(AssertionError, match="wrong.* query 1 .* region 0 "):
        compare_reads(x, bank, right=right, wrong=beside)


def test_many_near_ties_are_no_comparison():
    x, bank, right, _ = near_tie()
    bank[0, 1:] = bank[0, :1]
    with pytest.raises(AssertionError, match=r"\b150\b.* 300 "):
        compare_reads(x, bank, right=right)


def test_all_variants_of_a_round_are_measured_in_turn():
    calls = []
    variants = {n: timing.Variant(lambda i: i, lambda i, n=n: calls.append((n, i))) for n in "ab"}
    samples = timing.measure(variants, 2, CPU, quick=True)
    assert calls[2:] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert all(len(s.hidden) == 2 and s.memory is None for s in samples.values())


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments, folder=BENCH.parent, **environment):
    # It is no worker of this pytest, where this one is.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [python(), "-m", "pytest", BENCH, "-p", "no:cacheprovider", *map(str, arguments)],
        cwd=folder,
        env={**ours, **environment},
        capture_output=True,
        text=True,
    )


def test_without_the_option_it_says_how():
    result = run("-q")
    assert result.returncode == 0, result.stdout
    assert "pytest bench/ --benchmark" in result.stdout and "passed" not in result.stdout


def test_rows_go_to_a_new_file_and_replace_those_of_a_named_one(tmp_path):
    options = ["--benchmark", "--smallest", "-q", "-k", "test_queue_write and not compile and not triton"]
    result = run(*options, folder=tmp_path, FASTSQUID_COMMIT="abc-dirty")
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = tmp_path.rglob("*.csv")
    assert path.parent == tmp_path / "runs" / "bench" and path.stem.endswith("-0")
    assert str(path.relative_to(tmp_path)) in result.stdout
    first = read(path)

    result = run(*options, "--results", path, folder=tmp_path, FASTSQUID_COMMIT="abc-dirty")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = read(path)
    assert list(tmp_path.rglob("*.csv")) == [path] and rows != first
    assert {(row["group"], row["variant"]) for row in rows} == {
        ("queue write", variant) for variant in ("published", "torch")
    }
    assert len(rows) == 2 and all(row["commit"] == "abc" and row["clean"] == "False" for row in rows)
    assert all(float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"]) for row in rows)
    report.main([str(path)])
    assert "| queue write | B2-R2-N8-C16 | both | float32 |" in path.with_name(f"{path.stem}-table.md").read_text()


def test_a_new_file_has_the_next_number(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "NEW", tmp_path)
    for number in range(3):
        path = rows.new_file(CPU)
        assert path.parent == tmp_path and path.stem.endswith(f"-{number}")
        path.touch()


def test_the_report_fits_exponents(tmp_path):
    fields = ["group", "case", "variant", "mode", "dtype", "p50_ms", "gb_per_s", "gflop_per_s"]
    fields += ["copy_gb_per_s", "matrix_gflop_per_s", "device", "torch", "python", "threads", "commit", "date"]
    path = tmp_path / "chip.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="1")
        writer.writeheader()
        for n in (50, 100, 200, 400):
            row = dict(group="memory read", case=f"B16-R16-N{n}-C512", variant="torch", mode="both", dtype="float32")
            writer.writerow({**row, "p50_ms": 0.01 * n**1.5})
    rows = read(path)
    figure = report.sweeps(rows)
    assert [axis.get_legend().get_texts()[0].get_text() for axis in figure.axes] == ["torch: N^1.50"]
    report.main([str(path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "chip-roofline.png",
        "chip-sweeps.png",
        "chip-table.md",
        "chip.csv",
    ]


def test_the_report_needs_rows(tmp_path, refused):
    (tmp_path / "empty.csv").write_text("")
    assert f"{tmp_path / 'empty.csv'} " in refused(report.main, tmp_path / "empty.csv")
    assert f"{tmp_path / 'none.csv'} " in refused(report.main, tmp_path / "none.csv")


SHIPPED = str(BENCH.parent / "fastsquid" / "models" / "zhanglab")


def test_what_is_left_of_the_tokens(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tokens.py", str(XRAYS), str(tmp_path / "t.csv"), SHIPPED, SHIPPED])
    tokens.main()
    with open(tmp_path / "t.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert first == second and list(first) == tokens.FIELDS
    assert (first["preset"], first["pixels"], first["epochs"]) == ("fastsquid-small", "64", "12")
    assert 0 < float(first["dependence"]) < 1 < float(first["token_norm"]) and 0.8 < float(first["scale_low"]) < 0.9
