"""Reading of mutated files as the commands read them, and what is a fault of it."""

import contextlib
import io
import json
import logging
import shutil
import traceback
from pathlib import Path

import numpy as np
import torch
from conftest import XRAYS

from fastsquid import evaluate, report, score, train
from fastsquid.data.decoding import decoded
from fastsquid.data.listing import list_files
from fastsquid.data.names import PATH_NAMES
from fastsquid.errors import UserError
from fastsquid.runs import checkpoint
from fastsquid.utils.cli import run_command
from fuzzing.mutations import mutate, mutate_document
from fuzzing.seeds import TRUTH

ENDS = ("read", "rejected")  # what may become of a file
ALIKE = 0.9  # correlation with the picture of a file that shows it
JSON = ("config.json", "state.json", "summary.json", "metrics.jsonl")
TENSORS = ("maps", "input-check", "best", "last", "training", "optimizer")


def outcome(kind, detail="", like=None):
    """Return what became of a try.

    Args:
        kind: `read`, `rejected`, `wrong` (read as another picture, or not all of it), or the name of a fault.
        detail: sentence or traceback.
        like: lowest correlation of the pictures that were read.
    """
    return {"kind": kind, "detail": detail[-3000:], "like": like}


def fault(detail):
    """Return the outcome of an exception that is being handled, or of a bad message."""
    return outcome("traceback" if "Traceback" in detail else "message", detail)


def rejection(message, name):
    """Return the outcome of a file that was rejected by this message, which should be one line that names it."""
    if "MemoryError" in message or "allocate" in message:
        return outcome("memory", message)
    if name not in message or not message.isprintable() or len(message) > 1000 or "Traceback" in message:
        return outcome("message", message)
    return outcome("rejected", message)


def read_file(path, count=1):
    """Read an image or a shard as `score` does.

    Args:
        path: of the file.
        count: number of images that were in it.
    """
    logging.getLogger("fastsquid").addHandler(logging.NullHandler())
    try:
        files = list_files([path], PATH_NAMES)
    except UserError as error:
        return rejection(str(error), path.name)
    found, likes = [], []
    for _, file in files:
        ((item,),) = decoded([(path.name, file)], 64, 1)
        found.append(rejection(item.error, path.name) if item.error else outcome("read"))
        if item.image is not None:
            likes.append(float(np.ptp(item.image) and np.corrcoef(item.image.ravel(), TRUTH.ravel())[0, 1]))
    if len(files) < count:
        return outcome("wrong", f"{len(files)} of {count} images")
    # The worst of the images stands for a shard.
    worst = max(found, key=lambda one: ("read", "rejected").index(one["kind"]) if one["kind"] in ENDS else 2)
    like = min(likes, default=None)
    if worst["kind"] in ENDS and like is not None and like < ALIKE:
        return outcome("wrong", like=like)
    return {**worst, "like": like}


def mutate_run(run, kind, random):
    """Change one file of a run folder.

    Returns:
        the file's Path, its new bytes, what was changed, and whether its own checksum was made right again.
    """
    names = [f"{name}.safetensors" for name in TENSORS] if kind == "safetensors" else JSON
    path = random.choice(
        sorted(path for name in names for path in [*run.glob(name), *run.glob(f"checkpoint-*/{name}")])
    )
    content = path.read_bytes()
    if kind == "safetensors":
        header = [(0, 8 + int.from_bytes(content[:8], "little"))]
        return path, *mutate(content, random, header, TRUTH.tobytes()), False
    if random.random() < 0.3:
        return path, *mutate(content, random, [(0, 300)], TRUTH.tobytes()), False
    if path.suffix == ".jsonl":
        lines = content.decode().splitlines()
        number = random.randrange(len(lines))
        lines[number], what = mutate_document(json.loads(lines[number]), random)
        return path, "\n".join([*lines, ""]).encode(), f"line {number + 1} {what}", False
    document = json.loads(content)
    if path.name != "state.json" or random.random() < 0.2:
        text, what = mutate_document(document, random)
        return path, text.encode(), what, False
    del document["state_sha256"]
    text, what = mutate_document(document, random)  # as somebody does who knows the format
    with contextlib.suppress(RecursionError, UserError):
        document = json.loads(text)
        text = json.dumps({**document, "state_sha256": checkpoint._digest(document)})
    return path, text.encode(), f"{what}, checksum too", True


def read_run(run, name, forged, random, expected):
    """Run a command on a changed run folder.

    Args:
        run: Path of the folder.
        name: of the changed file.
        forged: whether its checksum was made right again: then other scores are no fault.
        random: `random.Random`, which chooses the command.
        expected: CSV that `score` writes of the unchanged folder.
    """
    out = run.parent / "out"
    main, arguments = random.choice(commands(run, out))
    if main is train.main:
        (run / "summary.json").unlink()  # else the run is finished, and nothing is read
    code, errors = called(main, arguments)
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    if "Traceback" in errors:
        return fault(errors)
    if code == 2:
        message = lines[-1] if lines else ""
        if len(lines) != 1 or not message.startswith("error: "):
            return fault(errors)
        # The path of the data may change; that it does not exist is said without the run where --resume opens it.
        moved = name == "config.json" and "does not exist: give" in message
        return rejection(message, "" if moved else name if name.endswith("safetensors") else str(run))
    if code not in (None, 0, 1):
        return fault(f"exit code {code}\n{errors}")
    if main is score.main and not forged and out.read_bytes() != expected:
        return outcome("other scores", errors)
    return outcome("read")


def commands(run, out):
    """Return [(main, arguments)] of the commands that read a run folder."""
    images = XRAYS / "test"
    return [
        (score.main, [run, images, "--out", out]),
        (evaluate.main, [run, "--overwrite"]),
        (report.main, [run, images, "--out", out]),
        (train.main, ["--resume", run]),
    ]


def called(main, arguments):
    """Run a command as the shell would, and return its exit code and what it wrote to standard error."""
    torch.set_num_threads(1)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_command(lambda: main([str(argument) for argument in [*arguments, "--device", "cpu"]]))
        except SystemExit as end:
            code = end.code
        except BaseException:
            code, _ = 1, traceback.print_exc(file=errors)
    return code, errors.getvalue()


def expected_scores(run, folder):
    """Return the CSV that `score` writes of a run folder."""
    main, arguments = commands(run, folder / "expected.csv")[0]
    code, errors = called(main, arguments)
    if code:
        raise SystemExit(f"the unchanged run cannot be used: {errors}")
    return (folder / "expected.csv").read_bytes()


def copy_run(run, folder):
    """Return the Path of a copy of a run folder in a folder."""
    return Path(shutil.copytree(run, folder / "run"))
