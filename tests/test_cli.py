"""What every command does besides its own work."""

import subprocess
import sys
from types import SimpleNamespace

from fastsquid.utils.cli import stop_compile_workers


def test_workers_that_do_not_end_are_killed(monkeypatch):
    """PyTorch asks its pool of compile workers to end, and waits for five minutes."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pool = SimpleNamespace(process=process)
    compiler = SimpleNamespace(_pool_set=[pool, SimpleNamespace()], shutdown_compile_workers=lambda: process.wait(300))
    monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", compiler)
    stop_compile_workers(0.1)
    assert process.returncode < 0


def test_workers_that_end_are_waited_for(monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    compiler = SimpleNamespace(
        _pool_set=[SimpleNamespace(process=process)], shutdown_compile_workers=lambda: process.wait(300)
    )
    monkeypatch.setitem(sys.modules, "torch._inductor.async_compile", compiler)
    stop_compile_workers(60)
    assert process.returncode == 0


def test_pytorch_has_what_is_used():
    code = "import torch._inductor.async_compile as c; assert c._pool_set is not None and c.shutdown_compile_workers"
    subprocess.run([sys.executable, "-c", code], check=True)
