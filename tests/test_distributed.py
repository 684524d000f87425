"""Several processes, started by torchrun: the same training as in one, none of them lost for good, one CSV."""

import csv
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchrun_training
from conftest import files_of, tiny
from forked_python import python

from fastsquid import train
from fastsquid.config import preset
from fastsquid.errors import UserError
from fastsquid.model.detector import Detector
from fastsquid.runs import checkpoint
from fastsquid.training import start
from fastsquid.training.trainer import Trainer
from fastsquid.utils import distributed
from fastsquid.utils.distributed import BatchNorm2d

SCORES = preset("squid").scores

HERE = Path(__file__).parent
EPOCHS = ("--epochs", "2")


def torchrun(*arguments, restarts=0):
    """A job of two processes, which start again as often when one has died."""
    options = ["--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    return subprocess.run(
        [python(), "-m", "torch.distributed.run", *options, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
        timeout=600,
    )


def commands(event, *lines, restarts=0):
    arguments = json.dumps([[*map(str, line)] for line in lines])
    return torchrun(HERE / "torchrun_commands.py", event, arguments, restarts=restarts)


def said(result):
    """What our own processes wrote to standard error: lines that begin with `error: `."""
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A job's folder and what it said: it trained a run whose second process heard Ctrl-C in its fourth step, resumed
    it, trained another, did torchrun_training.py, and ended with a run that is refused."""
    folder = tmp_path_factory.mktemp("job")
    result = commands(
        "interrupt:4",
        ("train", *tiny(folder / "stopped", *EPOCHS)),
        ("train", "--resume", folder / "stopped"),
        ("train", *tiny(folder / "unbroken", *EPOCHS)),
        ("compute", folder),
        ("train", *tiny(folder / "refused", "--batch-size", "1")),
    )
    return folder, result


# Training: what one process computes


@pytest.fixture(scope="module")
def computed(job):
    """What a process alone computes, and both processes of a job."""
    folder, result = job
    assert (folder / "1-of-2.pt").exists(), result.stderr
    torchrun_training.main([folder])
    return [torch.load(folder / f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2")]


@pytest.mark.parametrize("case", torchrun_training.CASES)
def test_losses_and_gradients_are_those_of_one_process(computed, case):
    """With synchronised BatchNorm, no augmentation and no shortcut, also where the processes' parts are of 3 and 2."""
    alone, *ranks = (result[case] for result in computed)
    assert len(alone["steps"]) == 2
    for rank in ranks:
        for expected, found in zip(alone["steps"], rank["steps"], strict=True):
            assert expected["losses"].keys() == found["losses"].keys()
            for name, loss in expected["losses"].items():
                assert abs(loss - found["losses"][name]) < 1e-10, name
            for theirs, ours in zip(expected["gradients"], found["gradients"], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        for name, value in alone["state"].items():  # queue, running statistics, weights
            torch.testing.assert_close(rank["state"][name], value, rtol=0, atol=1e-8, msg=name)


def test_the_queue_of_two_processes_is_that_of_one_row_for_row(computed):
    alone, *ranks = (result["queue"] for result in computed)
    assert alone["filled"] == 7 and len(set(alone["bank"][0, :, 0].tolist())) == 7
    for rank in ranks:
        assert all(torch.equal(rank[name], value) for name, value in alone.items())
    # And in a training: the first of its two generator steps wrote 16 rows.
    alone, *ranks = (result["squid"]["state"] for result in computed)
    rows = alone["generator.inpaint.memory.bank"][:, :16]
    assert torch.cdist(rows, rows).add(torch.eye(16)).min() > 1e-6, "rows could be confused"
    for rank in ranks:
        torch.testing.assert_close(rank["generator.inpaint.memory.bank"][:, :16], rows, rtol=0, atol=1e-10)
        assert rank["generator.inpaint.memory.pointer"] == alone["generator.inpaint.memory.pointer"] == 16


def test_an_epoch_over_two_processes_repeats_no_image(computed):
    alone, first, second = (result["epoch"] for result in computed)
    assert alone[0] != alone[1]
    for expected, *shares in zip(alone, first, second):
        assert [len(batch) for batch, _ in expected] == [6, 6, 6, 6, 1]
        # The same batches, each in two parts; a last one of a single image is left out.
        assert [mine + theirs for (mine, _), (theirs, _) in zip(*shares)] == [batch for batch, _ in expected[:4]]
        images = [image for share in shares for batch, _ in share for image in batch]
        assert len(images) == len(set(images)) == 24
        assert all(len(batch) == 3 for share in shares for batch, _ in share)
        seeds = [seed for share in shares for _, seed in share]
        assert len(set(seeds)) == 8, "each process draws for itself"


def test_buffers_are_not_broadcast(computed):
    assert [result["apart"].item() for result in computed] == [0, 0, 9]


def test_batchnorm_of_one_process_is_pytorchs(monkeypatch):
    """Its formulas, its running statistics and half precision; sums over processes are tested above."""
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: None)
    theirs, ours = torch.nn.BatchNorm2d(3), BatchNorm2d(3)
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    for batch in (torch.randn(4, 3, 5, 5) * 3 + 100, torch.rand(1, 3, 2, 2)):
        torch.testing.assert_close(ours(batch), theirs(batch), rtol=1e-4, atol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    assert ours(torch.rand(2, 3, 2, 2).bfloat16()).dtype == torch.bfloat16
    assert torch.equal(ours.eval()(batch), ours(batch)), "no statistics of a batch in eval mode"


# Training: runs


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run whose second process was killed in its fifth step, in the second epoch."""
    run = tmp_path_factory.mktemp("killed") / "run"
    return run, commands("kill:5", ("train", *tiny(run, *EPOCHS)))


def test_a_signal_to_one_process_stops_all_of_them(job):
    folder, result = job
    assert result.stdout.count(f"torchrun ... -m fastsquid.train --resume {folder / 'stopped'}\n") == 1
    resumed, unbroken = files_of(folder / "stopped"), files_of(folder / "unbroken")
    assert {**resumed, "state": None} == {**unbroken, "state": None}
    assert json.loads((folder / "unbroken" / "summary.json").read_text())["processes"] == 2


def test_what_is_said_is_said_once(job):
    folder, result = job
    assert result.stdout.count("epoch 2/2") == 2 and result.stdout.count("run folder: ") == 2  # of two runs
    (error,) = said(result)
    assert result.returncode == 1 and "2 processes" in error and "1 images" in error and "--batch-size" in error
    assert not (folder / "refused").exists()


def test_a_killed_worker_ends_the_job_and_resuming_goes_on(killed, job, tmp_path, command):
    run, result = killed
    assert result.returncode == 1
    (error,) = said(result)
    assert f"torchrun ... -m fastsquid.train --resume {run}" in error
    assert json.loads((checkpoint.latest_checkpoint(run) / "state.json").read_text())["epoch"] == 1
    assert not (run / "summary.json").exists()
    alone = shutil.copytree(run, tmp_path / "alone")
    assert command(train.main, "--resume", alone)[0] == 0, "one process goes on where two were"
    assert json.loads((alone / "summary.json").read_text())["processes"] == 1
    result = commands("kill:0", ("train", "--resume", run))
    assert result.returncode == 0, result.stderr
    assert files_of(run) == files_of(job[0] / "unbroken")


@pytest.mark.parametrize(
    "name, gpus, expected",
    [
        ("auto", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 2, "cuda:1"),
        ("cuda", 2, "cuda:1"),
        ("cuda", 1, "2 processes .* 1 GPU.* --device cpu"),
        ("cuda:0", 2, "device 'cuda:0'"),
        ("mps", 0, "device 'mps'"),
    ],
)
def test_each_process_takes_its_own_device(monkeypatch, name, gpus, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "local_processes", lambda: 2)
    if " " not in expected:
        assert distributed.device(name) == expected
    else:
        with pytest.raises(UserError, match=expected):
            distributed.device(name)


def test_several_processes_compile_nothing(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    gpu = SimpleNamespace(type="cuda")
    monkeypatch.setattr(start, "HAS_TRITON", True)
    assert start._choose_speed(start.Speed(compile="auto", precision="fp32"), gpu) == (False, "fp32")
    with pytest.raises(UserError, match="--compile"):
        start._choose_speed(start.Speed(compile="on", precision="fp32"), gpu)


def test_processes_end_with_torchrun(job, tmp_path):
    """Killed, it cannot tell them; going on, they would write beside the job that takes up their work."""
    lines = json.dumps([["train", *map(str, tiny(tmp_path / "run", "--epochs", "1000"))]])
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        + [str(HERE / "torchrun_commands.py"), "kill:0", lines],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
        text=True,
    )
    assert next(line for line in process.stdout if line.startswith("epoch 1/1000"))
    process.kill()
    out, error = process.communicate(timeout=60)  # which ends when no process holds the pipe any more
    assert f"--resume {tmp_path / 'run'}" in out + error
    state = json.loads((checkpoint.latest_checkpoint(tmp_path / "run") / "state.json").read_text())
    assert state["epoch"] < 900


# What docs/distributed.md says


def page():
    return (HERE.parent / "docs" / "distributed.md").read_text(encoding="utf-8")


@functools.cache
def gradients(system):
    """Parameters of both networks, and the bytes of gradients of two iterations."""
    detector = Detector(preset(system))
    sizes = [sum(p.numel() for p in network.parameters()) for network in (detector.generator, detector.discriminator)]
    return detector, sizes, 4 * (sizes[0] + 2 * sizes[1])


@pytest.mark.parametrize("system", ["squid", "simsid"])
def test_what_is_sent_is_counted(system, monkeypatch):
    detector, sizes, sent = gradients(system)
    trainer, config = Trainer(detector.train()), detector.config
    monkeypatch.setattr(torch.optim.Adam, "step", lambda optimizer: None)
    for layer in detector.modules():
        if type(layer) is torch.nn.BatchNorm2d:
            layer.__class__ = BatchNorm2d
    sums = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: sums.append(4 * values.numel()))
    for iteration in range(2):  # a batch of one has the statistics of any
        trainer.step(torch.rand(1, 1, config.image_size, config.image_size), iteration)
    rows = 4 * config.batch_size * config.patches * config.token_dim if config.memory == "queue" else 0
    cells = [f"{size:,}" for size in sizes] + [f"{sent / 1e6:.1f}", f"{rows / 1e6:.1f}", f"{sum(sums) / 1e6:.2f}"]
    assert f"| `{system}` | {' | '.join(cells)} | {len(sums)} |\n" in page()


@pytest.mark.parametrize("system", ["squid", "simsid"])
def test_where_it_stops_paying_is_computed(system):
    with open(HERE.parent / "bench" / "results" / "amd-epyc-2-threads.csv", newline="") as file:
        measured = {
            (row["group"], row["case"], row["variant"]): float(row["p50_ms"]) / 1e3 for row in csv.DictReader(file)
        }
    seconds = measured["training iteration", system, "torch"]
    for speed in (1, 10, 100):
        least = 2 * gradients(system)[2] / (speed * 1e9 / 8)
        line = f"| `{system}` | {seconds:.2f} | {speed} Gbit/s | {least:.2f} | {seconds / least:.1f}x |\n"
        assert line in page(), line
    rate = 16 / measured["scoring", "squid 16", "torch"]
    line = f"| CPU, tensor to score, `squid` | {rate:.1f} | two threads | {2 * 1e7 / rate / 3600:.0f} core-hours |\n"
    assert line in page(), line
