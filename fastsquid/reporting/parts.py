"""Rows of one file that several processes compute. Each writes a part beside the file; the parts become the file.

A part has one line of JSON per row, `[index, ...]`, by rising index. Its name holds a hash of everything that its rows
depend on. So the next job that computes the same rows uses what a killed job has left, with any number of processes.
"""

import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from ..errors import UserError
from ..utils import distributed


def any_parts(out: str | Path) -> bool:
    """Return whether an earlier job has left parts of the file `out`."""
    return bool(_parts(Path(out)))


def digest(settings: Any, files: Iterable[tuple[str, Any]]) -> str:
    """Return a hash of everything that the rows of image files depend on, 16 hex digits.

    Args:
        settings: a JSON value.
        files: [(name, Path or `ShardFile`)]. Their sizes and times of change count; their contents are not read.
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
    """The parts of one file. Each process of a job writes some of them. In its context, no other job writes the file.

    Args:
        out: path of the file.
        key: `digest` of the rows.
        count: number of rows of the file.

    Raises:
        UserError: on entry: a part is damaged, another job writes the same file, or the processes read different
            images.
    """

    def __init__(self, out: str | Path, key: str, count: int):
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

    def share(self) -> list[int]:
        """Return the indices of the missing rows that this process computes."""
        # Consecutive rows: their files lie beside each other on the disk, and in shards.
        return np.array_split(np.flatnonzero(~self.done), distributed.world())[distributed.rank()].tolist()

    def write(self, indices: Iterable[int], batches: Iterable[Iterable[Sequence[str]]]) -> None:
        """Write the rows of `indices`, which come in batches, to a new part. Written rows survive a killed process."""
        indices = iter(indices)
        with open(self.out.with_name(f".{self.out.name}.{self.key}.{uuid4().hex}.part"), "x") as file:
            for batch in batches:
                file.writelines(json.dumps([next(indices), *row]) + "\n" for row in batch)
                file.flush()

    def rows(self) -> Iterator[list[str]]:
        """Yield all rows in order, without their index. A row that is in two parts is the same in both.

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

    def remove(self) -> None:
        """Remove all parts of the file, also those of other jobs."""
        for part in _parts(self.out):
            part.unlink(missing_ok=True)

    def _own(self):
        return _parts(self.out, self.key)


def _parts(out, key="[0-9a-f]{16}"):
    name = re.compile(rf"\.{re.escape(out.name)}\.{key}\.[0-9a-f]{{32}}\.part")
    return sorted(path for path in out.parent.glob(".*.part") if name.fullmatch(path.name))


def _rows(part, count):
    """Yield the rows of a part, without an incomplete last row of a killed process."""
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
    """Lock `out` against other jobs in this block, where the file system supports locks."""
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
