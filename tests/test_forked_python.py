"""The Python that tests start does what sys.executable does: arguments, streams, environment, exit codes, signals."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from forked_python import python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sys.executable is used elsewhere")
SHOW = "import os, sys\nprint(__name__, sys.argv, sys.path, os.getcwd(), ascii(os.environ['SEEN']), sys.stdin.read())"


def same(*arguments, **options):
    """Run both, assert that they end alike, and return exit code, output and errors."""
    forked, plain = (
        subprocess.run([program, *arguments], capture_output=True, **options) for program in (python(), sys.executable)
    )
    assert (forked.returncode, forked.stdout) == (plain.returncode, plain.stdout)
    assert forked.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]  # a traceback has more calls
    return plain.returncode, plain.stdout, plain.stderr


def test_it_has_imported_packages_and_nothing_of_fastsquid():
    code = "import sys; print([name for name in ('torch', 'fastsquid') if name in sys.modules])"
    script = {"PYTHON": python(), "PYTHONUNBUFFERED": "1", "PYTHONPATH": ""}  # as of bench/gpu.sh
    started_ray = {"PYTHONBREAKPOINT": "ray.util.rpdb._driver_set_trace"}
    for options, variables in (([], script), (["-u"], script), ([], started_ray)):
        environment = {**os.environ, **variables}
        done = subprocess.run([python(), *options, "-c", code], capture_output=True, env=environment)
        assert done.stdout == b"['torch']\n"


@pytest.mark.parametrize(
    "how", [["here/script.py"], ["-u", "here/script.py"], ["-m", "here.script"], ["-c", SHOW], ["-S", "-c", SHOW]]
)
def test_what_a_process_sees(tmp_path, how):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "script.py").write_text(SHOW)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'a'}:{tmp_path / 'b'}", "SEEN": "\udcfe"}
    code, out, _ = same(*how, "a b", "\udcff", input=b"text", cwd=tmp_path, env=environment)
    assert code == 0 and b"a b" in out and out.endswith(rb"'\udcfe' text" + b"\n")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "ascii:replace"])
def test_encodings(encoding):
    code = "import sys; print([(s.encoding, s.errors) for s in (sys.stdin, sys.stdout, sys.stderr)])"
    same("-c", code, env={**os.environ, "PYTHONIOENCODING": encoding})


@pytest.mark.parametrize("options, variable", [([], ""), ([], "1"), (["-u"], "")])
def test_output_is_buffered_or_not(options, variable):
    environment = {**os.environ, "PYTHONUNBUFFERED": variable}
    _, out, _ = same(*options, "-c", "import os; print('first', end=''); os._exit(0)", env=environment)
    assert out == (b"first" if options or variable else b"")


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "TRITON_INTERPRET", "PYTHONWARNINGS"])
def test_variables_that_are_read_at_the_start(variable):
    environment = {name: value for name, value in os.environ.items() if name != variable}
    if variable not in os.environ:
        environment[variable] = "error" if variable == "PYTHONWARNINGS" else "1"
    code = "import sys; print('torch' in sys.modules, sys.warnoptions)"
    same("-c", code, env=environment)


@pytest.mark.parametrize(
    "code, expected",
    [
        ("print('out'); sys.exit(7)", 7),
        ("sys.exit('why')", 1),
        ("1 / 0", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.abort()", -signal.SIGABRT),
        ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
    ],
)
def test_how_it_ends(code, expected):
    assert same("-c", f"import os, signal, sys\n{code}")[0] == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_arrive(number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        forked = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait() == -number and process.stdout.read() == b""  # which nobody holds any more
    with pytest.raises(ProcessLookupError):
        while True:
            os.kill(forked, 0)
            time.sleep(0.01)


def test_the_largest_file(tmp_path):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    write = "with open('large', 'wb') as file: file.write(bytes(501))"
    code, _, err = same("-c", write, cwd=tmp_path, preexec_fn=limited)
    assert code == 1 and b"OSError" in err
