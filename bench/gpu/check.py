"""Phase `check`: the tests that need a GPU, and beside them memcheck on the smallest kernels.

Writes check.md; exit code 1 if anything failed. racecheck is left out: it reports the races of Triton's own reductions.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from phase import DEVICE, OUT, ROOT, SMALLEST, left
from rows import about

from fastsquid.utils.files import replacing

KERNELS = ["tests/test_memory_read.py", "tests/test_neighbor_attention.py"]
MODELS = ["tests/test_golden.py", "tests/test_inpainting.py", "tests/test_dispatch.py"]
# PyTorch's own path of whole models needs no GPU to be tested, except where torch.compile makes it.
ON_THE_GPU = "not (torch and ({}))".format(" or ".join(Path(path).stem for path in MODELS))
TESTS = ["tests/test_gpu.py", *MODELS, "tests/test_compile.py", *KERNELS]
# Warnings of this machine's versions are no failures here. Tests that are heavy on a CPU run too.
PYTEST = [
    sys.executable,
    *"-m pytest -p no:cacheprovider -p no:benchmark -p tracebacks -W default -v --tb=short -m".split(),
    "",
]
WORD = "(?P<verdict>PASSED|FAILED|ERROR|SKIPPED|XFAIL)"
LINES = [  # of pytest -v, with pytest-xdist and without
    re.compile(rf"^\[gw\d+\] (?:\[ *\d+%\] )?{WORD} (?P<file>tests/\S+?)::"),
    re.compile(rf"^(?P<file>tests/\S+?)::.*? {WORD}\b"),
]
PROGRESS = re.compile(r"^(\[gw\d+\].* )?tests/\S+?::")  # what pytest -v prints between failures
RESERVE = 10  # seconds to write what is known
SHOWN = 600  # lines of a check that failed
UNSUPPORTED = "Device not supported"  # as compute-sanitizer says on some virtual machines


def main():
    commands = {
        # One by one, so that what compiles is spread over the workers.
        "tests": [*PYTEST, "-n", "8", "--maxschedchunk", "1", *TESTS, "-k", ON_THE_GPU],
    }
    if SMALLEST:
        commands["tests"] = [*PYTEST, "tests/test_gpu.py", KERNELS[1], "-k", "smallest or sixteen"]
    if shutil.which("compute-sanitizer") and DEVICE.type == "cuda":
        # PyTorch's own calls of the driver may fail and be handled; what the kernels do is the matter here.
        sanitizer = ["compute-sanitizer", "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "1"]
        commands["memcheck"] = [*sanitizer, *PYTEST, "-k", "smallest", *KERNELS]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the driver's: not without ending them
    machine = about(DEVICE)  # before the tests, beside which it takes seconds
    checks = {name: Check(name, command) for name, command in commands.items()}
    try:
        while any([check.running() for check in checks.values()]) and left() > RESERVE:
            time.sleep(0.2)
    finally:
        for check in checks.values():
            check.end()
        text = report(machine, checks)
        with replacing(OUT / "check.md") as file:
            file.write(text)
        print(text)
    return int(any(check.failed for check in checks.values()))


class Check:
    """A command that runs beside the others, and what became of it."""

    def __init__(self, name, command):
        self.name, self.start, self.seconds = name, time.monotonic(), None
        self.output = tempfile.NamedTemporaryFile("w+", errors="replace")
        environment = dict(os.environ)
        # In the tests' own processes: eight of them would start sixteen workers each, and may wait for them at exit.
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
        if name == "memcheck":  # else tensors share allocations, and steps out of one go unseen
            environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def running(self):
        if self.process.poll() is not None and self.seconds is None:
            self.seconds = time.monotonic() - self.start
        return self.seconds is None

    def end(self):
        """Stops it if it still runs, and reads its output; pytest may first say what failed."""
        self.timed_out = self.running()
        if self.timed_out:
            os.kill(self.process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(RESERVE / 2)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.seconds = time.monotonic() - self.start
        self.text = Path(self.output.name).read_text(errors="replace")
        refused = self.name == "memcheck" and UNSUPPORTED in self.text
        self.failed = self.process.returncode != 0 and not refused
        self.verdict = "timed out" if self.timed_out else "failed" if self.failed else "passed"
        if refused:
            self.verdict = "not run: compute-sanitizer does not support this device"


def report(machine, checks):
    lines = ["# The tests on a GPU", "", "Written by `bench/gpu.sh`.", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "| check | verdict | seconds |", "| --- | --- | ---: |"]
    lines += [f"| {check.name} | {check.verdict} | {check.seconds:.0f} |" for check in checks.values()]
    if "memcheck" not in checks:
        lines += ["| memcheck | not run: compute-sanitizer is not on the PATH, or there is no GPU | |"]
    lines += ["", "| file | passed | failed | skipped |", "| --- | ---: | ---: | ---: |"]
    for file, counts in counted(checks["tests"].text).items():
        failed = counts["FAILED"] + counts["ERROR"]
        lines += [f"| {file} | {counts['PASSED']} | {failed} | {counts['SKIPPED'] + counts['XFAIL']} |"]
    for check in checks.values():
        if check.failed:
            output = [line for line in check.text.splitlines() if not PROGRESS.match(line)]
            first = next((i for i, line in enumerate(output) if line.startswith("== ")), max(0, len(output) - 120))
            lines += ["", f"## {check.name}: its failures", "", "```", *output[first : first + SHOWN], "```"]
    return "\n".join(lines) + "\n"


def counted(output):
    """{test file: Counter of verdicts} of pytest's lines, with and without pytest-xdist."""
    files = {}
    for line in output.splitlines():
        for pattern in LINES:
            if found := pattern.search(line):
                files.setdefault(found["file"], Counter())[found["verdict"]] += 1
    return dict(sorted(files.items()))


if __name__ == "__main__":
    sys.exit(main())
