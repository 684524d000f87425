"""Rows of one file that several processes compute: each writes a part beside it, and the parts become the file.

A part is a line of JSON a row, `[index, ...]` by rising index. Its name has a hash of all that its rows depend on, so
that what a killed job has left is taken up by the next one that would compute the same, with any number of processes.
"""

import hashlib
import heapq
import json
from glob import escape
from itertools import zip_longest
from pathlib import Path
from uuid import uuid4

import numpy as np

from . import distributed
from .errors import UserError


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
    """The parts of `out`, of which all processes of a job write some.

    Args:
        out: path of the file.
        key: `digest` of what the rows depend on.
        count: how many rows there are to be.

    Raises:
        UserError: a part that is damaged, or processes that do not see the same.
    """

    def __init__(self, out, key, count):
        self.out, self.key, self.done = Path(out), key, np.zeros(count, bool)
        for part in self._own():
            self.done[[index for index, *_ in _rows(part)]] = True
        if len(set(distributed.gather((key, self.done.tobytes())))) > 1:
            raise UserError("the processes do not read the same images and run: give all machines the same folders")

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
        """All rows in order, without their index.

        Raises:
            UserError: a row is missing, or there twice.
        """
        merged = heapq.merge(*map(_rows, self._own()), key=lambda row: row[0])
        for index, row in zip_longest(range(len(self.done)), merged, fillvalue=[None]):
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
        return _parts(self.out, f"{self.key}.")


def _parts(out, key=""):
    return sorted(out.parent.glob(escape(f".{out.name}.{key}") + "*.part"))


def _rows(part):
    """Rows of a part, but a last one that a killed process has not written to its end."""
    with open(part, encoding="ascii") as file:
        for line in file:
            if line.endswith("\n"):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise UserError(f"{part} is damaged: remove it, and give the same command again") from None
