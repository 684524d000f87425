"""Every kernel in every configuration fits its chips: compiled here, with no GPU, and as the committed report says."""

import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from fastsquid.kernels import memory_read, neighbor_attention  # noqa: E402
from fastsquid.kernels.compilations import configurations  # noqa: E402
from fastsquid.kernels.launch import DTYPES, PAIRS, backend  # noqa: E402

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def resources(monkeypatch):
    """bench/resources.py as a module."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("resources")


@pytest.fixture
def compiling(tmp_path):
    """Runs Python with Triton's compiler in the place of its interpreter, and nothing compiled before."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(BENCH)}

    def run(*arguments):
        return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.heavy)], ids=["some", "all"])
def test_configurations_fit_an_h100(compiling, resources, every):
    """Aligned, and every other one unaligned where it is launched so; the report has both, for all chips."""
    if f"triton: {triton.__version__}\n" not in resources.REPORT.read_text(encoding="utf-8"):
        pytest.skip("another compiler than the report's may need a register more")
    code = f"""
import json
from resources import attempt, failures, jobs_of
jobs = set(jobs_of("sm_90"))
chosen = [(chip, n, True) if n % 2 or (chip, n, False) not in jobs else (chip, n, False) for chip, n, _ in jobs if _]
print(json.dumps([failures(attempt(job), "sm_90") for job in sorted(chosen)[::{every}]]))
"""
    result = compiling("-c", code)
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout)
    assert len(outcomes) == -(-len(resources.listed("sm_90")) // every) and not any(outcomes), outcomes


@pytest.mark.parametrize("spills", [0, 4])
def test_check_says_what_fails(resources, monkeypatch, capsys, spills):
    found = resources.Resources(registers=255, spills=spills, shared=1024)
    monkeypatch.setattr(resources, "attempt_all", lambda chips: {(chip, 0, True): found for chip in chips})
    monkeypatch.setattr(resources, "INTERPRETED", False)
    monkeypatch.setattr(sys, "argv", ["resources.py", "--check", "--chip", "sm_90"])
    with pytest.raises(SystemExit) as exit:
        resources.main()
    assert bool(exit.value.code) == bool(spills) == ("aligned: spills 4" in capsys.readouterr().out)


def test_a_report_of_some_chips_is_an_error(resources, monkeypatch, capsys):
    monkeypatch.setattr(resources, "attempt_all", None)
    monkeypatch.setattr(sys, "argv", ["resources.py", "--chip", "sm_90"])
    with pytest.raises(SystemExit) as exit:
        resources.main()
    assert exit.value.code == 2 and "--chip needs --check" in capsys.readouterr().err


def test_spills_and_too_much_memory_are_found(compiling):
    """In real compilations: with few registers allowed, and with blocks that are too large."""
    code = """
import json
from resources import CHIPS, configurations, failures, measure

def found(chip, blocks, **options):
    config = configurations(CHIPS[chip].target.backend)[0]
    config = config._replace(constants=config.constants | blocks, options=config.options | options)
    return failures(measure(config, chip, True), chip)

large = dict(BLOCK_N=128, BLOCK_C=64)
print(json.dumps([
    found("sm_90", {}, maxnreg=32), found("sm_90", large, num_stages=8),
    found("gfx942", {}, waves_per_eu=8, num_warps=1), found("gfx942", large, num_stages=8),
]))
"""
    result = compiling("-c", code)
    assert result.returncode == 0, result.stderr
    for number, found in enumerate(json.loads(result.stdout)):
        assert any(("spills", "shared memory")[number % 2] in phrase for phrase in found), (number, found)


def test_failures(resources):
    fits = resources.Resources(registers=255, spills=0, shared=64 * 1024)
    for chip, (_, shared, tensor) in resources.CHIPS.items():
        assert resources.failures(fits._replace(shared=shared, tensor=tensor), chip) == []
        assert resources.failures(fits._replace(spills=4), chip) == ["spills 4"]
        assert "shared" in resources.failures(fits._replace(shared=shared + 1), chip)[0]
        assert "tensor" in resources.failures(fits._replace(tensor=tensor + 1), chip)[0]
        (failure,) = resources.failures("ValueError: no", chip)
        assert failure.endswith("ValueError: no")


def test_report_is_of_these_kernels(resources):
    text = resources.REPORT.read_text(encoding="utf-8")
    again = "bench/results/resources.md is stale: run python bench/resources.py"
    assert re.search("^kernels: (.*)$", text, re.M)[1] == resources.fingerprint(), again
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    summary = {row[0]: dict(zip(rows[0], row)) for row in rows if row[0] in resources.CHIPS}
    assert list(summary) == list(resources.CHIPS), again
    assert sum(" / " in row[-1] for row in rows) == len(resources.listed(list(resources.CHIPS)[-1])), again
    for chip, row in summary.items():
        count = len(resources.jobs_of(chip))
        assert row["compiled"] == f"{count} of {count}" and row["spills"] == "0", f"{chip}: {row}"
    head = next(row for row in rows if row[0] == "kernel")
    loops = [dict(zip(head, row)) for row in rows if row[0].split(".")[0] in ("products", "rows", "neighbor_attention")]
    assert all(int(loop["programs a multiprocessor"]) > 0 for loop in loops), again
    # Every product has a pipelined loop of matrix instructions.
    products = [loop for loop in loops if loop["kernel"].startswith("products.")]
    assert len(products) > 20 and all(int(loop["products"]) > 0 < int(loop["copies"]) for loop in products), again


@pytest.mark.parametrize("capability", [None, (9, 0)])
def test_launches_are_the_listed_configurations(resources, monkeypatch, capability):
    """All of them and no others, over shapes around every border between two blocks; odd C is unaligned."""
    monkeypatch.setattr(memory_read, "INTERPRETED", False)  # launches as on a GPU
    memory_shapes = itertools.product(
        (0, 1, 15, 16, 17, 32, 33, 64, 65, 128, 129, 300),
        (1, 5, 64, 65, 256, 257, 1024, 1025, 4096),
        (1, 48, 2048),
        (0, 1, 8, 9, 64),
        PAIRS,
    )
    neighbor_shapes = itertools.product((0, 1, 16, 300), (1, 2, 4), (1, 8, 31, 32, 33, 64, 65, 256), DTYPES)
    with resources.recorded_launches(capability) as launches:
        for B, N, C, k, (queries, slots) in memory_shapes:
            x = torch.empty(B, 8, C, dtype=queries, device="meta")
            bank = torch.empty(8, N, C, dtype=slots, device="meta")
            out, *kept = memory_read.forward(x, bank, bank, None, min(k, N), False, True)
            memory_read.backward(out, x, bank, None, *kept, True, True)
            memory_read.backward(out, x, bank, None, kept[0], None, None, True, False)  # of a queue, or a fixed bank
        for B, G, D, dtype in neighbor_shapes:
            q = torch.empty(B, G, G, 8, D, dtype=dtype, device="meta")
            out, lse = neighbor_attention.forward(q, q, q, True)
            neighbor_attention.backward(out, q, q, q, out, lse, True, True)
    expected = resources.listed("sm_90") if capability else configurations(backend())
    assert {resources.key(launch.configuration) for launch in launches} == set(map(resources.key, expected))
