"""The host's side of the GPU path, on a stand-in for a GPU: see README.md beside this file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastsquid.config import ABLATIONS, PRESETS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIBRARY = Path(sys.prefix) / "nullcuda" / "libcuda.so.1"
XRAYS = ROOT / "tests" / "data" / "xrays"
FULL = [name for name in PRESETS if not name.endswith("-small") and "digits" not in name]


@pytest.fixture
def on_gpu(tmp_path):
    """on_gpu(script, *arguments): runs a script in a process of its own; its standard output, and error after it."""

    def run(script, *arguments):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {
            "LD_PRELOAD": str(LIBRARY),
            "LD_LIBRARY_PATH": str(LIBRARY.parent),
            "TRITON_LIBCUDA_PATH": str(LIBRARY.parent),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        }
        environment.setdefault("OMP_NUM_THREADS", "1")
        done = subprocess.run(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run


@pytest.mark.parametrize("name", PRESETS)
def test_eager(on_gpu, name):
    assert on_gpu("eager.py", name).count("trained, scored, saved and resumed") == 2


@pytest.mark.parametrize("name", PRESETS)
def test_captured(on_gpu, name):
    out = on_gpu("captured.py", name)
    assert out.count(" captured\n") == 3 and "refused" not in out


@pytest.mark.parametrize("system", ABLATIONS)
def test_captured_ablations(on_gpu, system):
    out = on_gpu("captured.py", system, "ablations")
    assert out.count(" captured\n") == 3 * len(ABLATIONS[system]) and "refused" not in out


@pytest.mark.parametrize("change", ["gradient_penalty=1.0", "ff_dropout=0.1", "averaging=0.9"])
def test_captured_options(on_gpu, change):
    assert on_gpu("captured.py", "squid", change).count(" captured\n") == 3


@pytest.mark.parametrize("name", FULL)
def test_compiled(on_gpu, name):
    found = json.loads(on_gpu("compiled.py", name, "bf16").splitlines()[0])
    # A graph for each kind of pass, and one of the loss: see tests/test_steps.py.
    assert 0 < found["graphs"] <= 5 and found["breaks"] == 0 and found["captured"] == found["kinds"]
    # Atomics add in an order that changes from run to run.
    assert found["kernels"] > 20 and found["atomics"] == 0


def test_compiled_scoring(on_gpu):
    assert on_gpu("compiled_scoring.py").count("compiled\n") == 2


def test_atomics_are_noticed(on_gpu):
    found = json.loads(on_gpu("upsample.py").splitlines()[0])
    assert found["interpolate"] > 0 and found["upsample"] == 0


@pytest.mark.parametrize("name", PRESETS)
def test_commands(on_gpu, tmp_path, name):
    """Training with validation, resuming and scoring, as a user would."""
    run, options = tmp_path / "run", ["--epochs", 6, "--compile", "off"]
    data = [] if "digits" in name else ["--data", XRAYS]
    out = on_gpu("command.py", "train", *data, "--preset", name, "--out", run, *options)
    assert f"run folder: {run}" in out
    next(run.glob("summary.json")).unlink()
    assert f"run folder: {run}" in on_gpu("command.py", "train", "--resume", run)
    on_gpu("command.py", "score", run, XRAYS / "test", "--out", tmp_path / "scores.csv")
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 5


def test_sixteen_bits(on_gpu, tmp_path):
    """Every DICOM file of more than 8 bits is one."""
    folder = tmp_path / "data" / "train" / "NORMAL"
    folder.mkdir(parents=True)
    for i in range(5):
        values = np.random.default_rng(i).integers(0, 65536, (64, 64), dtype=np.uint16)
        Image.fromarray(values).save(folder / f"{i}.png")
    arguments = ["--data", folder.parents[1], "--preset", "simsid-small", "--epochs", 3, "--compile", "off"]
    on_gpu("command.py", "train", *arguments, "--out", tmp_path / "run")


def test_a_checkout_that_is_not_installed(on_gpu, tmp_path):
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "fastsquid").symlink_to(ROOT / "fastsquid")
    assert "fastsquid is not installed" in on_gpu("not_installed.py", tmp_path / "checkout")
