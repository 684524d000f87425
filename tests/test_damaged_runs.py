"""Damaged and changed run folders are read right or rejected in one sentence: no traceback, no silent difference."""

import json
import os
import random
import shutil
import subprocess
from functools import cache

import pytest
import torch
from conftest import XRAYS, rewrite_run
from forked_python import python
from safetensors.torch import load_file, save_file

from fastsquid import evaluate, report, score, train
from fastsquid.config import Config
from fastsquid.errors import UserError
from fastsquid.runs import checkpoint
from fastsquid.runs.folder import read_run, read_summary
from fastsquid.runs.input_check import read_check
from fastsquid.runs.trained import load_run
from fastsquid.training import loop
from fastsquid.training.trainer import Trainer

VALUES = (True, None, "best", [], 1e30, -1, float("nan"), 10**400, {"": []})
FUZZ = int(os.environ.get("FASTSQUID_FUZZ", 12))  # commands on damaged runs; more than 12 tries every change too
NESTED = b'{"a":' * 100_000


@pytest.fixture
def run(unbroken, tmp_path):
    return shutil.copytree(unbroken, tmp_path / "run")


def fields_of(document, depth=0):
    """Yield the path of every field, as a tuple; of nested objects down to four levels."""
    for name, value in document.items():
        yield (name,)
        if isinstance(value, dict) and depth < 3:
            yield from ((name, *rest) for rest in fields_of(value, depth + 1))


def changed(document, path, values):
    """Return a copy of a document whose field has another value, or is missing if there is none."""
    copy = json.loads(json.dumps(document))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    if values:
        inner[path[-1]] = values[0]
    return copy


@cache
def mutations(folder):
    """Return [(file, what, content)] for a run folder: every field changed and deleted, and junk."""
    found = []
    state = next(folder.glob("checkpoint-*/state.json"))
    for file in (folder / "config.json", state, folder / "summary.json"):
        document = json.loads(file.read_text())
        document.pop("state_sha256", None)
        for path in fields_of(document):
            for values in (*((value,) for value in VALUES), ()):
                content = changed(document, path, values)
                if file == state:  # as somebody would who knows the format
                    content["state_sha256"] = checkpoint._digest(content)
                found.append((file, f"{'.'.join(path)} {values}", json.dumps(content).encode()))
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    for path in fields_of(json.loads(lines[1])):
        for values in (*((value,) for value in VALUES), ()):
            line = json.dumps(changed(json.loads(lines[1]), path, values))
            found.append((metrics, f"{'.'.join(path)} {values}", "\n".join([lines[0], line, *lines[2:], ""]).encode()))
    for file in (folder / "config.json", state, metrics, folder / "summary.json", folder / "maps.safetensors"):
        for junk in (
            b"",
            b"\xff\xfe\x00",
            b"[]",
            b"null",
            NESTED,
            file.read_bytes() + b"\x80\xff",
            file.read_bytes()[:-9],
        ):
            found.append((file, f"junk {junk[:9]!r}", junk))
    return [(file.relative_to(folder), what, content) for file, what, content in found]


def test_changed_field_is_read_or_rejected(unbroken, run):
    """Without the commands, which take longer: everything that they read but the weights."""
    record = read_run(unbroken)
    resumed = loop.Run.__new__(loop.Run)
    every = mutations(unbroken)
    for file, what, content in random.Random(0).sample(every, 500 if FUZZ == 12 else len(every)):
        (run / file).write_bytes(content)
        try:
            found = read_run(run)
            resumed.folder = run
            resumed.state = checkpoint.read_state(checkpoint.latest_checkpoint(run), found.config)
            resumed._read_history()
            checkpoint.read_maps(run, resumed.state.sha256["best"])
            read_summary(run)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error).replace(str(run), "")) < 1000, what
            assert str(run) in str(error), (what, str(error))
        except Exception as error:
            raise AssertionError((str(file), what)) from error
        else:
            assert (found.seed, found.config, found.anonymous) == (record.seed, record.config, record.anonymous), what
        shutil.copyfile(unbroken / file, run / file)


def draw(number, seed=0):
    return random.Random(seed).sample(range(10_000), number)


@pytest.mark.parametrize("number", draw(FUZZ))
def test_commands_end_with_a_sentence(unbroken, run, number, command, tmp_path):
    every = mutations(unbroken)
    file, what, content = every[number % len(every)]
    (run / file).write_bytes(content)
    images = XRAYS / "test"
    main, arguments = [
        (score.main, [run, images, "--out", tmp_path / "scores.csv"]),
        (evaluate.main, [run]),
        (report.main, [run, images, "--out", tmp_path / "report.html"]),
        (train.main, ["--resume", run]),
    ][number % 4]
    code, _, err = command(main, *arguments)
    assert code in (0, 1, 2) and "Traceback" not in err, (str(file), what)


@pytest.mark.parametrize("change", [lambda t: t.fill_(torch.nan), lambda t: t.add_(1e-3)])
@pytest.mark.parametrize("name", ["maps.safetensors", "input-check.safetensors"])
def test_changed_maps_and_input_check(run, refused, tmp_path, name, change):
    from safetensors import safe_open

    path = run / name
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    tensors = load_file(path)
    change(next(iter(tensors.values())))
    save_file(tensors, path, facts)
    message = refused(report.main, run, XRAYS / "test", "--out", tmp_path / "report.html")
    assert name in message and "damaged" in message


def test_any_flipped_byte_of_maps_is_noticed(unbroken, run):
    digest = load_run(unbroken).weights
    path, intact = run / "maps.safetensors", checkpoint.read_maps(unbroken, digest)
    content, rng = path.read_bytes(), random.Random(0)
    for _ in range(200):
        place = rng.randrange(1000) if rng.random() < 0.5 else rng.randrange(len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            maps = checkpoint.read_maps(run, digest)
        except UserError:
            continue
        assert maps is not None and all(
            torch.equal(a, b) for kind in intact for a, b in zip(intact[kind], maps[kind], strict=True)
        ), place


def test_files_of_earlier_versions_have_no_checksums(unbroken, run, command):
    """And are read as before."""
    rewrite_run(run, lambda _, state: [state.pop(name) for name in ("metrics_sha256", "number", "record")])
    digest = load_run(unbroken).weights
    maps = load_file(run / "maps.safetensors")
    save_file(maps, run / "maps.safetensors", {"detector": digest})
    save_file(load_file(run / "input-check.safetensors"), run / "input-check.safetensors")
    assert checkpoint.read_maps(run, digest) is not None and read_check(run) is not None
    assert command(train.main, "--resume", run)[0] == 0
    assert "sha256" not in load_file(run / "maps.safetensors")


@pytest.mark.parametrize("name, value", [("seed", 5), ("anonymous", True), ("fingerprint", "0"), ("all_normal", True)])
def test_a_changed_record(run, refused, name, value):
    path = run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    for main, arguments in ((train.main, ["--resume", run]), (score.main, [run, XRAYS])):
        message = refused(main, *arguments)
        assert str(path) in message and name in message


def test_the_path_of_the_data_may_change(unbroken, run):
    path = run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": "elsewhere"}))
    assert load_run(run).weights == load_run(unbroken).weights


def test_the_data_of_a_run_is_gone(run, refused):
    path = run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data": "elsewhere"}))
    message = refused(evaluate.main, run)
    assert str(run) in message and "elsewhere" in message and "--data" in message


def test_changed_metrics(run, refused):
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 7'))
    assert "metrics.jsonl" in refused(train.main, "--resume", run)
    path.unlink()
    assert "metrics.jsonl" in refused(train.main, "--resume", run)


def test_a_second_and_a_half_checkpoint(run, refused):
    latest = checkpoint.latest_checkpoint(run)
    second = shutil.copytree(latest, run / "checkpoint-000099")
    assert "checkpoint-000099" in refused(train.main, "--resume", run)
    (second / "state.json").unlink()
    assert "checkpoint-000099" in refused(train.main, "--resume", run)
    shutil.rmtree(second)
    half = shutil.copytree(latest, run / "checkpoint-000001")  # as a killed process leaves it
    (half / "state.json").unlink()
    (run / "checkpoint-mine").mkdir()
    assert checkpoint.latest_checkpoint(run) == latest


def test_a_folder_of_the_user_is_not_removed(run):
    mine = shutil.copytree(checkpoint.latest_checkpoint(run), run / "my-checkpoint-2")
    state = checkpoint.read_state(checkpoint.latest_checkpoint(run), read_run(run).config)
    checkpoint.save_checkpoint(run, state, {}, {})
    assert mine.is_dir() and len(list(run.glob("checkpoint-*"))) == 1


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device")
@pytest.mark.parametrize(
    "name", ["best.safetensors", "state.json", "../maps.safetensors", "../input-check.safetensors"]
)
def test_a_link_to_an_endless_file(run, name):
    path = checkpoint.latest_checkpoint(run) / name
    path.unlink()
    path.symlink_to("/dev/zero")
    code = """if True:
        import resource, sys
        from fastsquid import report
        from fastsquid.utils.cli import run_command

        resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
        run_command(lambda: report.main(sys.argv[1:]))
    """
    arguments = [run, XRAYS / "test", "--out", run / "report.html"]
    done = subprocess.run([python(), "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert path.name in done.stderr


@pytest.mark.parametrize("changes", [{"levels": 10**9}, {"width": 10**12}, {"image_size": 2**40, "heads": 7}])
def test_sizes_beyond_measure(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        Config(**changes)


def test_a_resumed_run_is_checked_before_its_detector_is_built(run, refused, monkeypatch):
    path = run / "config.json"
    document = json.loads(path.read_text())
    document["config"]["width"] = 2**29
    path.write_text(json.dumps(document))
    monkeypatch.setattr(Trainer, "__init__", None)
    assert "width" in refused(train.main, "--resume", run)
