"""CPU threads: by affinity, by a container's quota, by --threads; and idle threads that sleep."""

import os
import subprocess
import sys

import pytest
import torch

from fastsquid import evaluate
from fastsquid.errors import UserError
from fastsquid.utils import threads


def quota(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """An empty folder of control groups, on a machine of 64 cores."""
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "_own_groups", lambda: ["/jobs/mine"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    return tmp_path


def test_without_a_quota_the_affinity_counts(groups):
    assert threads.available_cores() == 64
    quota(groups, cpu__max="max 100000\n")
    assert threads.available_cores() == 64


@pytest.mark.parametrize("place", ["", "jobs", "jobs/mine"])
def test_the_smallest_quota_above_the_process_counts(groups, place):
    quota(groups / place, cpu__max="250000 100000\n")  # two and a half cores
    quota(groups / "jobs" / "other", cpu__max="100000 100000\n")
    assert threads.available_cores() == 3


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_quotas_of_the_first_version(groups, mounted):
    folder = groups / mounted / "jobs" / "mine"
    quota(folder, **{"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"})
    assert threads.available_cores() == 64
    quota(folder, **{"cpu__cfs_quota_us": "400000", "cpu__cfs_period_us": "100000"})
    assert threads.available_cores() == 4


def test_a_damaged_quota_is_none(groups):
    quota(groups, cpu__max="many")
    assert threads.available_cores() == 64


@pytest.fixture
def eight_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def test_a_command_uses_no_more_threads_than_cores(groups, eight_threads):
    quota(groups, cpu__max="300000 100000\n")
    with pytest.raises(UserError, match="nowhere"):
        evaluate.main(["nowhere"])
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("number", [1, 5])
def test_the_option_decides(groups, eight_threads, number):
    quota(groups, cpu__max="300000 100000\n")
    with pytest.raises(UserError, match="nowhere"):
        evaluate.main(["nowhere", "--threads", str(number)])
    assert torch.get_num_threads() == number


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_bad_numbers_of_threads(refused, text):
    assert "--threads" in refused(evaluate.main, "nowhere", f"--threads={text}")


def policy(code, **environment):
    """OMP_WAIT_POLICY and GOMP_SPINCOUNT at the end of a program."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code += f"\nimport os; print(*map(os.environ.get, {names}))"
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True)
    return done.stdout.splitlines()[-1]


COMMAND = "from fastsquid.utils.cli import run_command\ntry: run_command(lambda: None)\nexcept SystemExit: pass"


def test_idle_threads_of_a_command_sleep_soon():
    assert policy(COMMAND) == "PASSIVE 2000"
    assert policy(COMMAND, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE None"
    assert policy(COMMAND, GOMP_SPINCOUNT="7") == "PASSIVE 7"


def test_the_environment_of_a_program_stays():
    assert policy("import fastsquid.train, fastsquid.score, fastsquid.api") == "None None"
    assert policy(f"import torch\n{COMMAND}") == "None None"  # it is too late then
