"""Runs the scripts of this folder on the stand-in for a GPU of `make nullcuda`; without it nothing is collected."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIBRARY = Path(sys.prefix) / "nullcuda" / "libcuda.so.1"
if not LIBRARY.is_file():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def on_gpu(tmp_path):
    """on_gpu(script, *arguments): runs a script in a process of its own; its standard output, and error after it."""

    def run(script, *arguments, code=0, cwd=tmp_path):
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
            cwd=cwd,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run
