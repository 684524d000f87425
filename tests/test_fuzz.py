"""Sixty tries of tests/fuzz.py, of every format; by hand it makes thousands."""

import os
import subprocess
from pathlib import Path

import pytest
from forked_python import python

pytest.importorskip("pydicom")
pytest.importorskip("gdcm")
pytest.importorskip("webdataset")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sixty_tries(unbroken, tmp_path):
    command = [python(), Path(__file__).with_name("fuzz.py"), "--tries", 60, "--run", unbroken]
    done = subprocess.run(
        [*map(str, command), "--keep", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | 60 |" in done.stdout
