"""What is done with the images of an archive: read and decode, then score. Tables of Arrow in, tables of Arrow out."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa

from ..data.decoding import Decoded
from ..reporting.table import Scoring

_FLAGS = ("above_threshold", "age_outside_training")
DECODED = pa.schema(
    [
        ("name", pa.string()),
        ("pixels", pa.binary()),
        ("bits", pa.uint8()),
        ("age", pa.float64()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class BytesFile:
    """An `ImageFile` whose content is in memory.

    Attributes:
        name: its path, as messages show it.
        content: its bytes.
    """

    name: str
    content: bytes

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        return io.BytesIO(self.content)

    def read_bytes(self) -> bytes:
        return self.content

    def as_posix(self) -> str:
        return self.name

    def __str__(self) -> str:
        return self.name


def to_table(items: Iterable[Decoded]) -> pa.Table:
    """Return decoded images as a table with the schema `DECODED`: `pixels` holds a square, row by row."""
    columns: dict[str, list[Any]] = {name: [] for name in DECODED.names}
    for item in items:
        image = item.image
        columns["name"].append(as_text(str(item.name)))
        columns["pixels"].append(None if image is None else image.tobytes())
        columns["bits"].append(None if image is None else 8 * image.itemsize)
        columns["age"].append(item.age)
        columns["error"].append(as_text(item.error))
    return pa.table(columns, DECODED)


def from_table(table: pa.Table, size: int) -> list[Decoded]:
    """Return the images of a table that `to_table` made of squares of this size."""
    items = []
    for row in table.to_pylist():
        image = None
        if row["pixels"] is not None:
            image = np.frombuffer(row["pixels"], f"u{row['bits'] // 8}").reshape(size, size)
        items.append(Decoded(row["name"], image, None, row["age"], False, row["error"]))
    return items


def schema_of(scoring: Scoring) -> pa.Schema:
    """Return the schema of a run's scores: the columns of the CSV, with numbers and flags as such."""
    types = {"name": pa.string(), "error": pa.string(), **dict.fromkeys(_FLAGS, pa.bool_())}
    return pa.schema([(column, types.get(column, pa.float64())) for column in scoring.columns])


def score(scoring: Scoring, items: Sequence[Decoded]) -> pa.Table:
    """Score decoded images.

    Args:
        scoring: of the run; its batch size is the largest number of images that are scored at once.
        items: N decoded images.

    Returns:
        a table of N rows with `schema_of(scoring)`. A value that is not known, and an `error` that there is none, is
        null.
    """
    rows = []
    for start in range(0, len(items), scoring.batch_size):
        rows += scoring.rows(items[start : start + scoring.batch_size])
    schema = schema_of(scoring)
    columns = {column: [cell or None for cell in cells] for column, cells in zip(schema.names, zip(*rows))}
    for column in schema.names:
        cells = columns.setdefault(column, [])
        if column in _FLAGS:
            columns[column] = [None if cell is None else cell == "1" for cell in cells]
        elif schema.field(column).type == pa.float64():
            columns[column] = [None if cell is None else float(cell) for cell in cells]
    return pa.table(columns, schema)


def as_text(name: str) -> str:
    """Return a name that UTF-8 can hold: bytes that are none, as file names may have, become `\\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def digests(names: Iterable[str]) -> np.ndarray:
    """Return hashes of names, dtype S16, to compare many of them in little memory."""
    return np.array([hashlib.blake2b(name.encode(), digest_size=16).digest() for name in names], "S16")
