"""What several tests share: running a command as the shell would, a tiny configuration, a trained run."""

import csv
import gc
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

# Tests that run beside each other (pytest -n) share the cores, and what they start does too: threads that wait for
# each other's core take many times as long. Before anything imports torch.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

import numpy as np
import pytest
import torch
from forked_python import python, train_in_float32

from fastsquid.config import ABLATIONS
from fastsquid.drawing import curves, gallery
from fastsquid.ops.dispatch import HAS_TRITON
from fastsquid.runs import checkpoint
from fastsquid.training import loop, results
from fastsquid.utils.cli import run_command

# What says whether this processor multiplies bfloat16. Nothing but test_devices.py asks it.
NATIVE = train_in_float32()
# Every row of both papers' ablation tables.
ROWS = [(system, row) for system, rows in ABLATIONS.items() for row in rows]
# Kernels are tested on the GPU where there is one, else on the CPU by Triton's interpreter.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports the kernels
    if HAS_TRITON:
        import quick_interpreter

        quick_interpreter.quicken()
XRAYS = Path(__file__).parent / "data" / "xrays"
# They begin, so that of several workers none waits for another at the end.
SLOWEST = [
    f"test_{name}.py" for name in "train gpu_script distributed compile resources export dicom_runs training".split()
]
# 8 training images in batches of 3, 3 and 2; a queue that wraps; averaged weights; validation AUC picks the best.
TINY = [
    "--data",
    XRAYS,
    "--preset",
    "squid-small",
    "--image-size",
    "64",
    "--width",
    "4",
    "--slots",
    "7",
    "--batch-size",
    "3",
    "--epochs",
    "3",
    "--lr",
    "1e-3",
    "--averaging",
    "0.5",
    "--device",
    "cpu",
]


def tiny(out, *more):
    return [*TINY, "--out", out, *more]


def chests(count, size=64):
    """Return textured bright bodies with two dark lungs, float (B, 1, H, H), and where the lungs are, bool (H, H)."""
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) / size * 2 - 1] * 2, indexing="ij")
    lungs = (((x.abs() - 0.42) / 0.22) ** 2 + ((y + 0.05) / 0.5) ** 2 < 1).numpy()
    body = torch.where(x.abs() < 0.85, 0.7, 0.1)
    image = torch.where(torch.as_tensor(lungs), 0.3, body)
    return (image * torch.empty(count, 1, size, size).uniform_(0.9, 1.1)), lungs


def run_example(heading, paths, **names):
    """Execute the Python block below a heading of docs/distributed.md.

    Args:
        heading: of the block.
        paths: {path on the page: path to put in its place}.
        names: what the block uses and does not define.
    """
    text = (Path(__file__).parent.parent / "docs" / "distributed.md").read_text(encoding="utf-8")
    block = re.search(rf"^### {heading}\n.*?^```python\n(.*?)^```$", text, re.S | re.M)[1]
    for path, instead in paths.items():
        assert block.count(f'"{path}"') == 1, path
        block = block.replace(f'"{path}"', repr(str(instead)))
    exec(compile(block, f"distributed.md, {heading}", "exec"), names)


def possible_aucs(normal, abnormal, rounding):
    """Return the lowest and the highest AUC of scores that were computed twice, in another order or batch.

    A pair counts as undecided where its scores are closer than `rounding` times the largest score.
    """
    normal, abnormal = np.ravel(normal).astype(np.float64), np.ravel(abnormal).astype(np.float64)
    above = abnormal[None] - normal[:, None]
    undecided = rounding * max(np.abs(normal).max(), np.abs(abnormal).max())
    return np.mean(above > undecided), np.mean(above >= -undecided)


def rows_of(path):
    """The rows of a CSV, dicts."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


_MEASURED = ("seconds", "first_step_seconds", "peak_memory_mb", "machine")


def files_of(run):
    """Bytes of everything that a run's latest checkpoint holds, and the metrics without their seconds."""
    latest = checkpoint.latest_checkpoint(run)
    found = {path.name: path.read_bytes() for path in latest.glob("*.safetensors")}
    state = json.loads((latest / "state.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for timed in (state, *lines):
        for name in (*_MEASURED, "state_sha256", "metrics_sha256", "number"):
            timed.pop(name, None)
    return {**found, "state": state, "metrics": lines}


def rewrite_run(run, change):
    """Change config.json and state.json of a run as an earlier version may have written them.

    `change` gets the documents of config.json and state.json and edits them. The checksums are then computed again.
    """
    path = checkpoint.latest_checkpoint(run) / "state.json"
    record, state = json.loads((run / "config.json").read_text()), json.loads(path.read_text())
    change(record, state)
    (run / "config.json").write_text(json.dumps(record))
    del state["state_sha256"]
    if "record" in state:
        state["record"] = checkpoint._lasting(run)
    path.write_text(json.dumps({**state, "state_sha256": checkpoint._digest(state)}))


def rewrite_config(run, **fields):
    """Change fields of a run's configuration, wherever it is written."""
    rewrite_run(run, lambda record, state: [config.update(fields) for config in (record["config"], state["config"])])


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """A run that nothing interrupted; a test that changes it takes a copy."""
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    subprocess.run([python(), "-m", "fastsquid.train", *map(str, tiny(run))], check=True, capture_output=True)
    return run


@pytest.fixture(scope="session")
def by_residual(unbroken, tmp_path_factory):
    """The same run as one that ranks by the residual, which tells its images apart; its discriminator hardly does."""
    run = shutil.copytree(unbroken, tmp_path_factory.mktemp("runs") / "by_residual")
    rewrite_config(run, score="residual")
    return run


def pytest_collection_finish():
    """Let Python's garbage collector, which a training calls, pass over what was imported."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


@pytest.fixture(scope="session", autouse=True)
def no_pictures():
    """Runs of this process draw no curves and gallery, which take longer than a tiny training; see `pictures`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw_gallery", lambda *arguments: None)
        patch.setattr(loop, "draw_curves", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def pictures():
    """Runs draw curves and gallery from here to the end of the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw_gallery", gallery.draw_gallery)
        patch.setattr(loop, "draw_curves", curves.draw_curves)
        yield


@pytest.fixture
def command(capsys):
    """Runs a command's main as the shell would: (exit code, standard output, standard error)."""

    def run(main, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            run_command(lambda: main([str(a) for a in arguments]))
        out, err = capsys.readouterr()
        return exit.value.code, out, err

    return run


@pytest.fixture
def refused(command):
    """Runs a command that must be refused: one sentence on standard error, exit code 2; returns the sentence."""

    def run(main, *arguments):
        code, _, err = command(main, *arguments)
        assert code == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1, err
        return err

    return run


@pytest.fixture
def poisoned(monkeypatch):
    """Every tensor that is allocated without a value holds NaN (or a wild integer): an unwritten element shows."""

    def poison(allocate):
        def allocated(*arguments, **options):
            tensor = allocate(*arguments, **options)
            return tensor.fill_(torch.nan if tensor.is_floating_point() else -(2**40))

        return allocated

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
