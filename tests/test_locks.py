"""Two trainings never write to one run folder: the second is rejected, and a killed one leaves no lock."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import tiny

from fastsquid import train
from fastsquid.errors import UserError
from fastsquid.runs.folder import LOCK
from fastsquid.utils.locks import locked

HOLD = """
import os, sys
from fastsquid.utils.locks import locked
with locked(sys.argv[1], "busy"):
    if hasattr(os, "fork") and os.fork() == 0:  # a child that outlives its parent
        os.close(1)
        sys.stdin.read()
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Start a process that holds a lock until the test kills it or ends."""
    started = []

    def begin(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def half(unbroken, tmp_path):
    """A run whose report is missing."""
    run = shutil.copytree(unbroken, tmp_path / "run")
    (run / "summary.json").unlink()
    return run


def test_a_second_training_is_rejected_and_a_killed_one_leaves_no_lock(half, hold, refused, command):
    process = hold(half / LOCK)
    before = sorted(half.rglob("*"))
    message = refused(train.main, "--resume", half)
    assert str(half) in message and f"process {process.pid} " in message
    assert sorted(half.rglob("*")) == before
    process.kill()
    process.wait()
    assert command(train.main, "--resume", half)[0] == 0


@pytest.mark.parametrize("only", [[], ["--only", "1"]])
def test_a_group_names_the_seed_that_another_process_trains(tmp_path, hold, refused, command, only):
    group = tmp_path / "group"
    assert command(train.main, *tiny(group, "--epochs", "1", "--seeds", "0", "1", "--only", "1"))[0] == 0
    (group / "seed-1" / "summary.json").unlink()
    process = hold(group / "seed-1" / LOCK)
    message = refused(train.main, "--resume", group, *only)
    assert "seed-1" in message and f"process {process.pid} " in message
    assert not (group / "seed-0").exists(), "seed 0 was trained first"


def test_a_seed_that_another_process_began_meanwhile(tmp_path, refused, monkeypatch):
    from fastsquid.training import start

    group = tmp_path / "group"
    monkeypatch.setattr(start, "create_group", lambda folder, record: (folder / "seed-0").mkdir(parents=True))
    assert "another process has begun" in refused(train.main, *tiny(group, "--epochs", "1", "--seeds", "0"))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_is_not_written_through(half, refused):
    (half / LOCK).unlink()
    target = half.parent / "mine"
    target.write_text(json.dumps("mine"))
    (half / LOCK).symlink_to(target)
    assert LOCK in refused(train.main, "--resume", half)
    assert target.read_text() == '"mine"'


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    from fastsquid.utils import locks

    def fail(descriptor):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "_lock", fail)
    with locked(tmp_path / "lock", "busy"):
        pass
    assert "No locks available" in caplog.text


def test_a_lock_is_free_after_an_error(tmp_path, hold):
    with pytest.raises(ValueError), locked(tmp_path / "lock", "busy"):
        raise ValueError
    hold(tmp_path / "lock")
    with pytest.raises(UserError, match="busy"), locked(tmp_path / "lock", "busy"):
        pass
