"""Which implementation runs, and the reasons why one cannot."""

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import DEVICE

from fastsquid.ops import dispatch, memory_read, neighbor_attention
from fastsquid.ops.dispatch import HAS_TRITON, ImplementationError, device_reason, use_triton


def test_auto_goes_by_the_device():
    x = torch.ones(1, device=DEVICE)

    def can():
        return None

    def cannot():
        return "a reason"

    assert use_triton("auto", x, can) == (DEVICE == "cuda")
    assert not use_triton("auto", x, cannot) and not use_triton("torch", x, None)  # which is not asked
    assert use_triton("triton", x, can)
    with pytest.raises(ImplementationError, match="^impl='triton' .*a reason$"):
        use_triton("triton", x, cannot)
    with pytest.raises(ValueError, match="impl = 'cuda'"):
        use_triton("cuda", x, can)


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_a_device_that_triton_does_not_know():
    assert "device 'meta'" in device_reason(torch.ones(1, device="meta"))


OPERATIONS = {
    "memory_read": lambda: memory_read(torch.ones(1, 1, 2), torch.ones(1, 6, 2), impl="triton"),
    "neighbor_attention": lambda: neighbor_attention(*[torch.ones(1, 2, 2, 1, 1)] * 3, impl="triton"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_triton(operation, monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(dispatch, "NO_TRITON", dispatch._without_triton())
    monkeypatch.setattr(dispatch, "NO_KERNELS", dispatch._without_kernels())
    with pytest.raises(ImplementationError, match="pip install triton"):
        OPERATIONS[operation]()


BARE_CLONE = """
import logging, sys
import torch
from fastsquid.ops import dispatch, memory_read

assert dispatch.HAS_TRITON and "pip install -e ." in dispatch.NO_KERNELS
x, bank = torch.ones(1, 1, 2), torch.ones(1, 6, 2)
try:
    memory_read(x, bank, impl="triton")
except dispatch.ImplementationError as error:
    assert dispatch.NO_KERNELS in str(error)

class OnGpu:  # what `auto` asks of a tensor
    is_cuda = True

logged = []
handler = logging.Handler()
handler.emit = logged.append
logging.getLogger("fastsquid").addHandler(handler)
for _ in range(2):
    assert not dispatch.use_triton("auto", OnGpu(), dispatch.device_reason, OnGpu())
(record,) = logged
assert record.levelname == "WARNING" and dispatch.NO_KERNELS in record.getMessage()
"""


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_a_checkout_that_is_not_installed(tmp_path):
    """`kernels/` lies beside `fastsquid/` there, and `fastsquid.kernels` cannot be imported."""
    (tmp_path / "fastsquid").symlink_to(Path(dispatch.__file__).parents[1])
    # -S and a path of our own: without the editable installation that puts fastsquid.kernels in place.
    code = f"import sys; sys.path += {[str(tmp_path), *site.getsitepackages()]!r}\n{BARE_CLONE}"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=tmp_path)


def test_a_triton_that_is_too_old(monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(dispatch.importlib.metadata, "version", lambda name: "3.3.1")
    assert "3.3.1" in dispatch._without_triton()


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_on_a_cpu_outside_the_interpreter():
    code = """
import torch
from fastsquid import SpaceAwareMemory
SpaceAwareMemory(2, 8, 4)(torch.ones(1, 2, 4))  # auto
SpaceAwareMemory(2, 8, 4, impl="triton")(torch.ones(1, 2, 4))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1].startswith("fastsquid.ops.dispatch.ImplementationError: impl='triton'")


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
@pytest.mark.filterwarnings("default")
def test_operators_keep_their_promises():
    """What torch.compile is told of the launchers: schemas, fake results, no hidden writes."""
    check = {"test_utils": ("test_schema", "test_faketensor")}
    x, bank = torch.randn(3, 2, 20, device=DEVICE), torch.randn(2, 10, 20, device=DEVICE)
    filled = torch.tensor(4, device=DEVICE)
    for k, keep, queue in ((3, True, None), (3, False, filled), (0, True, filled)):
        arguments = (x, bank, bank, queue, k, False, keep)
        torch.library.opcheck(torch.ops.fastsquid.memory_read, arguments, **check)
        if keep:
            out, y, index, weight = torch.ops.fastsquid.memory_read(*arguments)
            torch.library.opcheck(
                torch.ops.fastsquid.memory_read_backward,
                (out, x, bank, queue, y, index, weight, True, queue is None),
                **check,
            )
    q, k, v = torch.randn(3, 1, 2, 3, 2, 5, device=DEVICE)
    torch.library.opcheck(torch.ops.fastsquid.neighbor_attention, (q, k, v, True), **check)
    out, lse = torch.ops.fastsquid.neighbor_attention(q, k, v, True)
    arguments = (out, q, k, v, out, lse, True, False)
    torch.library.opcheck(torch.ops.fastsquid.neighbor_attention_backward, arguments, **check)
