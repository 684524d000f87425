"""A lock on a file. The operating system releases it when the process ends, however it ends."""

import errno
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError

log = logging.getLogger(__name__)
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_AT = 2**20  # Windows lets nobody read a locked byte: lock one that lies behind the text


@contextmanager
def locked(path: str | Path, what: str) -> Iterator[None]:
    """Hold a lock while the block runs.

    The file names the process that holds the lock. It stays, empty.

    Args:
        path: of the file, which is made if it does not exist. Nothing else may be stored in it.
        what: the sentence that says what the other process does, such as "runs/0 is trained by another process".

    Raises:
        UserError: another process holds the lock.

    Source: POSIX fcntl, F_SETLK: a child process does not inherit the lock, so none outlives the process.
    """
    # O_NOFOLLOW: a link in a run folder from elsewhere must not make us write into another file.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in _HELD:
                raise UserError(f"{what} ({_holder(descriptor)}): wait until it has ended, or stop it") from None
            log.warning("%s cannot be locked (%s): start only one process on this folder", path, error.strerror)
        os.ftruncate(descriptor, 0)  # what a killed process left
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)  # releases the lock


def _lock(descriptor: int) -> None:
    """Lock a file without waiting, or raise an OSError."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _AT, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(descriptor: int) -> str:
    """Return the text that the process that holds the lock has written."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 200).decode(errors="replace") or "which has just begun"
