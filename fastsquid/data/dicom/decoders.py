"""Processes that decode what only gdcm decodes. A decoder that dies is the error of one image, not of the program."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.spawn import get_executable
from pathlib import Path

from ...utils.threads import available_cores
from .tags import RejectedError

_SCRIPT = Path(__file__).with_name("gdcm_process.py")
_SECONDS = 60  # a frame of 30 million pixels takes 2


class _Decoder:
    """One process of gdcm_process.py.

    Not a `multiprocessing.Process`: the worker processes of a DataLoader may not start these.
    """

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                [os.fsdecode(get_executable() or sys.executable), str(_SCRIPT), *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # until the script reads it
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                start_new_session=True,  # so that its child can be killed with it
            )
            assert self._process.stdin and self._process.stdout
            self._requests, self._answers = self._process.stdin, self._process.stdout
            ready = self._answers.readline()
        except OSError:
            ready = b""
        if ready != b"ready\n":
            raise RejectedError(
                "the process that decodes it with gdcm does not start", "try `python -c 'import gdcm, pydicom.pixels'`"
            )

    def decode(self, request: dict[str, int | str], frame: bytes) -> bytes | None:
        """Return the decoded bytes, or None for a frame that is damaged, or that the child process died of.

        Raises:
            OSError, ValueError: the process has died, by the frame where it cannot fork, or by the limit of time.
        """
        watch = threading.Timer(_SECONDS, self._kill)
        watch.start()
        try:
            self._requests.write(json.dumps({**request, "length": len(frame)}).encode() + b"\n" + frame)
            self._requests.flush()
            while (taken := self._answers.readline()) == b"died\n":
                pass
            if taken != b"taken\n":
                raise OSError
            found = self._answers.readline()
            if found in (b"damaged\n", b"died\n"):
                return None
            decoded = self._answers.read(int(found))
            if len(decoded) < int(found):
                raise OSError
            return decoded
        finally:
            watch.cancel()

    def _kill(self) -> None:
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def lives(self) -> bool:
        """Return whether the process still runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process."""
        self._kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            try:
                pipe.close()
            except OSError:  # the rest of a request to a process that has died
                pass


class _Pool:
    """Decoder processes, at most one per core, which wait for the next image when they are done."""

    def __init__(self) -> None:
        self._lock, self._idle = threading.Lock(), list[_Decoder]()
        self._places = threading.BoundedSemaphore(available_cores())

    def decode(self, request: dict[str, int | str], frame: bytes) -> bytes | None:
        with self._places:
            decoder = self._take() or _Decoder()
            try:
                decoded = decoder.decode(request, frame)
            except BaseException as error:
                decoder.end()
                if isinstance(error, (OSError, ValueError)):
                    return None
                raise
            with self._lock:
                self._idle.append(decoder)
            return decoded

    def _take(self) -> _Decoder | None:
        """Return an idle decoder, or None. One that was killed meanwhile is no image's error."""
        with self._lock:
            while self._idle:
                decoder = self._idle.pop()
                if decoder.lives():
                    return decoder
                decoder.end()
        return None

    def end(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().end()


_pool = _Pool()


def _forget() -> None:
    """Leave the decoders of the process that this one is a fork of to that process."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: _pool.end())


def decode_by_gdcm(frame: bytes, syntax: str, rows: int, columns: int, bits: int) -> bytes | None:
    """Decode a frame of one gray value per pixel by gdcm, in another process. Any thread may call this.

    Args:
        frame: JPEG Lossless or JPEG-LS.
        syntax: UID of its transfer syntax.
        rows, columns, bits: as the frame's own header says.

    Returns:
        decoded values, of one byte for 8 bits or fewer, else of two, little endian; None where gdcm rejects the
        frame, dies of it, or needs more than a minute.

    Raises:
        RejectedError: no process can be started.
    """
    return _pool.decode({"syntax": syntax, "rows": rows, "columns": columns, "bits": bits}, frame)
