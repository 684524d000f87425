"""A Python that begins with what takes seconds to import: most of a short process's time, of which tests start many.

`python()` is the path of a program to run in the place of sys.executable. A server, one for each process of pytest, has
imported other people's packages, nothing of fastsquid, and forks for each call: a process of its own with the caller's
arguments, environment, folder, standard streams and signals. What a fork cannot have (options of Python, variables that
are read when Python or a package begins) is run by sys.executable. So is a test of imports.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from pathlib import Path

PACKAGES = "torch torch._dynamo torch.distributed scipy.stats sklearn.metrics matplotlib.figure pydicom pytest".split()
# Variables that are followed. Where other ones of these differ from this process's, sys.executable runs.
# PYTHON is for bench/gpu.sh. Ray sets PYTHONBREAKPOINT in a process that starts it.
FOLLOWED = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONBREAKPOINT", "PYTHON"}
READ_AT_THE_START = ("PYTHON", "LC_", "LANG", "OMP_", "MKL_", "OPENBLAS_", "TRITON_INTERPRET", "MPL")


def train_in_float32():
    """Let every CPU look like one without bfloat16, so that tests train in the same numbers on all of them.

    Returns:
        {name in torch.cpu: what was there}.
    """
    import torch.cpu

    names = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
    before = {name: getattr(torch.cpu, name) for name in names}
    for name in names:
        setattr(torch.cpu, name, lambda: False)
    return before


@functools.cache
def python():
    """Path of a program that does what sys.executable does, sooner; where there is no such way, sys.executable."""
    if sys.platform != "linux":
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="python-"))
    client = folder / "python"
    client.write_text(f"#!{sys.executable} -IS\n{Path(__file__).with_name('forked_client.py').read_text()}")
    client.chmod(0o755)
    # It ends with its standard input, which this process holds.
    command = [sys.executable, __file__, folder / "socket"]
    environment = {name: value for name, value in os.environ.items() if name not in FOLLOWED}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)  # of a kind: none can be sought in
    server = subprocess.Popen(command, env=environment, **streams)
    assert server.stdout.readline() == b"ready\n", server.stderr.read()

    owner = os.getpid()

    def end():
        if os.getpid() == owner:  # and no fork of it
            server.communicate()
            shutil.rmtree(folder)

    atexit.register(end)
    return str(client)


def serve(path):
    """Fork for each connection, until standard input ends; return the connection in the fork, else None."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(100)
    print("ready", flush=True)
    while True:
        if sys.stdin.buffer in select.select([listener, sys.stdin.buffer], [], [])[0]:
            return None
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            return connection
        connection.close()
        with contextlib.suppress(ChildProcessError):  # those that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def begin(connection):
    """Fork the process that was asked for, and return its request there; here, watch it and end with it."""
    request, streams, _, _ = socket.recv_fds(connection, 2**20, 3)
    process = os.fork()
    if not process:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.setsid()
        return json.loads(request)
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        if select.select([connection], [], [], 0.01)[0]:
            number = connection.recv(1)
            os.kill(process, number[0] if number else signal.SIGKILL)
            if not number:
                os._exit(0)


def become(arguments, environment, folder, limit):
    """Be what Python would be that is started with these."""
    program, *arguments = arguments
    unbuffered = arguments[0] == "-u"  # as torchrun starts its processes
    first, *rest = arguments[unbuffered:]
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(limit))
    different = {name for name, _ in environment.items() ^ os.environ.items() if name.startswith(READ_AT_THE_START)}
    if (first.startswith("-") and first not in ("-c", "-m")) or different - FOLLOWED:
        os.execve(sys.executable, [sys.executable, *arguments], environment)
    sys.executable = program
    os.environ.clear()
    os.environ.update(environment)
    if paths := environment.get("PYTHONPATH"):
        sys.path[:0] = paths.split(os.pathsep)
    if unbuffered or environment.get("PYTHONUNBUFFERED"):
        for name in ("stdout", "stderr"):  # without the layer that keeps bytes back
            stream = getattr(sys, name)
            raw = io.FileIO(stream.fileno(), "w", closefd=False)
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, stream.errors, write_through=True))
    if chosen := environment.get("PYTHONIOENCODING"):
        encoding, _, errors = chosen.partition(":")
        for stream in (sys.stdin, sys.stdout):
            stream.reconfigure(encoding=encoding, errors=errors or "strict")
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")
    if first == "-m":
        sys.argv = rest
        sys.path.insert(0, folder)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    else:
        sys.argv = [first, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(first)))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    sys.path.remove(os.path.dirname(__file__))
    for package in PACKAGES:
        importlib.import_module(package)
    train_in_float32()
    gc.freeze()
    if connection := serve(sys.argv[1]):
        become(*begin(connection))
