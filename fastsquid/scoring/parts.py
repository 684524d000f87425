"""Rows of one file that several processes compute: each writes a part beside it, and the parts become the file.

A part is a line of JSON a row, `[index, ...]` by rising index. Its name has a hash of all that its rows depend on, so
that what a killed job has left is taken up by the next one that would compute the same, with any number of processes.
"""

import hashlib
import heapq
import json
import re
from contextlib import ExitStack, contextmanager
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from uuid import uuid4

import numpy as np

try:
    import fcntl
except ImportError:  # of Windows
    fcntl = None

from ..errors import UserError
from ..utils import distributed


def any_parts(out):
    """Whether a job that was to write `out` has left parts."""
    return bool(_parts(Path(out)))


def digest(settings, files):
    """What the rows of image files depend on, as 16 hex digits.

    Args:
        settings: JSON-able.
        files: [(name, Path or `ShardFile`)]; sizes and times of change count, contents are not read.
    """
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, path in files:
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "missing"
        found.update(f"{name}\0{path}\0{state}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:16]


class Parts:
    """The parts of `out`, of which all processes of a job write some. A context, in which no other job writes it.

    Args:
        out: path of the file.
        key: `digest` of what the rows depend on.
        count: how many rows there are to be.

    Raises:
        UserError: on entry: a part that is damaged, another job that writes the same file, or processes that do not see
            the same.
    """

    def __init__(self, out, key, count):
        self.out, self.key, self.done = Path(out), key, np.zeros(count, bool)

    def __enter__(self):
        with ExitStack() as held:
            if distributed.leads():
                held.enter_context(_locked(self.out))
            for part in self._own():
                self.done[[index for index, *_ in _rows(part, len(self.done))]] = True
            if len(set(distributed.gather((self.key, self.done.tobytes())))) > 1:
                raise UserError("the processes do not read the same images and run: give all machines the same folders")
            self._held = held.pop_all()
        return self

    def __exit__(self, *error):
        self._held.close()

    def share(self):
        """Indices of the rows that are missing and this process's to compute, a list."""
        # Neighbours stay together: they lie beside each other on the disk, and in shards.
        return np.array_split(np.flatnonzero(~self.done), distributed.world())[distributed.rank()].tolist()

    def write(self, indices, batches):
        """Appends the rows of `indices`, which come in batches, to a new part; what is written outlives the process."""
        indices = iter(indices)
        with open(self.out.with_name(f".{self.out.name}.{self.key}.{uuid4().hex}.part"), "x") as file:
            for batch in batches:
                file.writelines(json.dumps([next(indices), *row]) + "\n" for row in batch)
                file.flush()

    def rows(self):
        """All rows in order, without their index. One that is there twice is the same twice.

        Raises:
            UserError: a row is missing.
        """
        count = len(self.done)
        merged = heapq.merge(*(_rows(part, count) for part in self._own()), key=itemgetter(0))
        firsts = (next(same) for _, same in groupby(merged, key=itemgetter(0)))
        for index, row in zip_longest(range(count), firsts, fillvalue=[None]):
            if row[0] != index:
                raise UserError(
                    f"the parts of {self.out} do not fit together: remove the files .{self.out.name}.*.part"
                )
            yield row[1:]

    def remove(self):
        """Removes them, and what is left of other jobs that were to write the same file."""
        for part in _parts(self.out):
            part.unlink(missing_ok=True)

    def _own(self):
        return _parts(self.out, self.key)


def _parts(out, key="[0-9a-f]{16}"):
    name = re.compile(rf"\.{re.escape(out.name)}\.{key}\.[0-9a-f]{{32}}\.part")
    return sorted(path for path in out.parent.glob(".*.part") if name.fullmatch(path.name))


def _rows(part, count):
    """Rows of a part, but a last one that a killed process has not written to its end."""
    with open(part, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                try:
                    index, *cells = json.loads(line)
                    if index not in range(count):
                        raise ValueError
                except (TypeError, ValueError):
                    raise UserError(f"{part} is damaged: remove it, and give the same command again") from None
                yield [index, *cells]


@contextmanager
def _locked(out):
    """Keeps other jobs from writing `out` in this block; where the file system knows no locks nobody is kept."""
    path = out.with_name(f".{out.name}.lock")
    with open(path, "a") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another job is writing {out}: wait for its end, or give another --out") from None
        except OSError:
            pass
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
