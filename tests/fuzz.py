"""Mutated files of every format that fastsquid reads: `python tests/fuzz.py --tries 5000 --seed 0`.

Each try changes one good file and reads it in a process of its own, with limits of memory and time. The file must be
read or rejected in one sentence that names it. Everything else is a fault: the process dies, hangs or needs too much
memory; a traceback; several lines; and, for a format that has a checksum over its pixels, another picture.

A try depends on --seed and its number alone, so `--seed 0 --only 1234` repeats one; for run folders, with the same
--run. The program needs `os.fork`, so it runs on Linux and macOS.
"""

import argparse
import json
import os
import platform
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not survive a fork
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from conftest import tiny
from fuzzing import readers
from fuzzing.mutations import mutate
from fuzzing.seeds import seeds

from fastsquid import train
from fastsquid.data.images import read_image

SECONDS, MEGABYTES = 60, 2000
RUNS = ("safetensors", "json")


def forked(function, folder):
    """Start a function in a child process, which writes its outcome into a pipe.

    Returns:
        process id, and the reading end of the pipe.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        os.setsid()  # with what it starts, it is a group that can be ended at once
        output = os.open(folder / "output", os.O_RDWR | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        limit_memory()
        found = function()
        sys.stdout.flush()
        sys.stderr.flush()
        found["printed"] = os.pread(output, 3000, 0).decode(errors="replace")
    except MemoryError:
        found = readers.outcome("memory", traceback.format_exc())
    except BaseException:
        found = readers.fault(traceback.format_exc())
    os.write(writing, json.dumps(found).encode())
    os._exit(0)


def limit_memory():
    """Limit this process to `MEGABYTES` more than it has, where the system says how much that is."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        limit = int(statistics.read_text().split()[0]) * resource.getpagesize() + MEGABYTES * 10**6
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def finished(process, pipe, seconds=SECONDS):
    """Wait for a child and return its outcome; it is ended after so many seconds."""
    end, content = time.monotonic() + seconds, b""
    while select.select([pipe], [], [], max(0, end - time.monotonic()))[0]:
        if not (piece := os.read(pipe, 2**16)):
            break
        content += piece
    else:
        content = json.dumps(readers.outcome("time-out")).encode()
    os.close(pipe)
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has ended
        pass
    _, status = os.waitpid(process, 0)
    return json.loads(content) if content else readers.outcome("died", f"status {status}")


class Fuzzer:
    """Good files, and tries to read them changed.

    Args:
        folder: Path of an empty folder to work in.
        formats: names to try; empty for all.
        seed: of all tries.
        run: Path of a run folder to change, or None: one is trained.
    """

    def __init__(self, folder, formats, seed, run):
        (folder / "seeds").mkdir()
        self.folder, self.seed = folder, seed
        self.seeds = seeds(folder / "seeds")
        unknown = set(formats).difference(known := [*self.seeds, *RUNS])
        if unknown:
            raise SystemExit(f"error: --format {unknown.pop()} should be one of {', '.join(known)}")
        self.formats = formats or known
        self.run = run
        for name in set(self.formats).difference(RUNS, ["tar"]):
            for seed in self.seeds[name]:
                (path := folder / "seeds" / seed.name).write_bytes(seed.content)
                if readers.read_file(path)["kind"] != "read":
                    raise SystemExit(f"error: {name} is not read before it is changed: {read_image(path, 64)}")

    def prepare_run(self):
        """Train a run where none is given, and score it unchanged. In children: this process must have no threads."""
        if self.run is None:
            self.run = self.folder / "unchanged"
            outcome = finished(*forked(self._train, self.folder), seconds=600)
            if not (self.run / "summary.json").exists():
                raise SystemExit(f"error: the run to change cannot be trained: {outcome}")
        outcome = finished(*forked(self._score, self.folder))
        if outcome["kind"] != "read":
            raise SystemExit(f"error: the unchanged run cannot be scored: {outcome}")

    def _train(self):
        train.main([str(argument) for argument in tiny(self.run)])

    def _score(self):
        readers.expected_scores(self.run, self.folder)
        return readers.outcome("read")

    def start(self, number):
        """Start a try. Returns process id, pipe, and a dict about the try."""
        name = self.formats[number % len(self.formats)]
        random = Random(f"{self.seed} {name} {number}")
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        about = {"number": number, "format": name, "folder": folder, "kept": False, "checked": False}
        if name in RUNS:
            path, content, what, forged = readers.mutate_run(self.run, name, random)
            inside = path.relative_to(self.run)
            about |= {"what": f"{inside}: {what}", "file": inside.name, "content": content}

            def function():
                copy = readers.copy_run(self.run, folder)
                (copy / inside).write_bytes(content)
                expected = (self.folder / "expected.csv").read_bytes()
                return readers.read_run(copy, path.name, forged, random, expected)
        else:
            seed = random.choice(self.seeds[name])
            other = random.choice(self.seeds[random.choice(list(self.seeds))]).content
            content, what = mutate(seed.content, random, seed.header, other)
            repaired = seed.repair is not None and random.random() < 0.5
            if repaired:
                content, what = seed.repair(content), f"{what}, checksums too"
            kept = all(content[start:stop] == seed.content[start:stop] for start, stop in seed.header)
            about |= {"what": what, "file": seed.name, "content": content, "kept": kept}
            about["checked"] = seed.checked and not repaired
            (folder / seed.name).write_bytes(content)

            def function():
                return readers.read_file(folder / seed.name, 4 if name == "tar" else 1)

        return *forked(function, folder), about


def tried(fuzzer, numbers, jobs):
    """Yield (about, outcome) of tries; at most `jobs` of them run at the same time."""
    running = []
    numbers = iter(numbers)
    while True:
        while len(running) < jobs and (number := next(numbers, None)) is not None:
            running.append(fuzzer.start(number))
        if not running:
            return
        process, pipe, about = running.pop(0)
        outcome = finished(process, pipe)
        shutil.rmtree(about["folder"], ignore_errors=True)
        printed = outcome.get("printed") if about["format"] != "tiff" else None  # libtiff prints what is damaged
        if printed and outcome["kind"] in (*readers.ENDS, "wrong"):
            outcome = readers.outcome("printed", printed)
        if outcome["kind"] == "wrong" and about["checked"] and about["kept"]:
            outcome["kind"] = "other picture"
        yield about, outcome


NOTE = """\
wrong: read as another picture (correlation below 0.9), or not all images of a shard. It is a fault where the format
has a checksum over its pixels that was not computed again: png, and tiff with deflate. Other formats cannot tell."""
PACKAGES = ("numpy", "pillow", "pydicom", "python-gdcm", "safetensors", "torch", "webdataset")
COLUMNS = ("tries", "read", "rejected", "wrong, header kept", "wrong, header changed", "faults")


def table(counts):
    """Return the table of outcomes by format, as Markdown."""
    lines = [f"| format | {' | '.join(COLUMNS)} |", "|---" + "|---:" * len(COLUMNS) + "|"]
    total = sum(counts.values(), Counter())
    for name, found in (*counts.items(), ("all", total)):
        lines.append(f"| {name} | {' | '.join(str(found[column]) for column in COLUMNS)} |")
    return "\n".join(lines)


def main():
    """Fuzz, print a table, and return 1 if there was a fault."""
    parser = argparse.ArgumentParser(description="Read mutated files of every format; see the top of this file.")
    parser.add_argument("--tries", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat one try")
    parser.add_argument("--format", action="append", default=[], help="of the files to try; may be given again")
    parser.add_argument("--jobs", type=int, default=1, help="tries at the same time")
    parser.add_argument("--run", type=Path, help="trained run folder to change copies of; default: train a tiny one")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where files of faults are kept")
    parser.add_argument("--keep-wrong", action="store_true", help="also keep files that are read as another picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = range(options.tries) if options.only is None else [options.only]
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), options.format, options.seed, options.run)
        if any(fuzzer.formats[number % len(fuzzer.formats)] in RUNS for number in numbers):
            fuzzer.prepare_run()
        counts = {name: Counter() for name in fuzzer.formats}
        for about, outcome in tried(fuzzer, numbers, options.jobs):
            kind = outcome["kind"]
            wrong = f"wrong, header {'kept' if about['kept'] else 'changed'}"
            column = {"read": "read", "rejected": "rejected", "wrong": wrong}.get(kind, "faults")
            counts[about["format"]].update(["tries", column])
            if column == "faults" or options.only is not None or (column == wrong and options.keep_wrong):
                formats = "".join(f' --format "{name}"' for name in options.format)
                print(f"\n--seed {options.seed} --only {about['number']}{formats}: {about['format']}, {about['what']}")
                like = "" if outcome["like"] is None else f" correlation {outcome['like']:.2f}"
                print(f"{kind}: {outcome['detail']}{like}", flush=True)
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{options.seed}-{about['number']}-{about['file']}").write_bytes(about["content"])
            if sys.stderr.isatty():
                print(f"\r{about['number'] + 1} of {len(numbers)}", end="", file=sys.stderr)
    print(f"\n{table({name: found for name, found in counts.items() if found})}\n\n{NOTE}")
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"Python {platform.python_version()}, {platform.system()}, {versions}")
    return int(any(found["faults"] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
