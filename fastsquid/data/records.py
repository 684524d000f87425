"""Tables in any of three formats: CSV, JSON lines and Parquet."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..utils.files import require_regular
from .tables import read_table, read_text

JSON_LINES = frozenset((".jsonl", ".ndjson"))
TABLE_SUFFIXES = JSON_LINES | {".csv", ".tsv", ".parquet"}


def read_records(path: Path, columns: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a table, by its suffix: CSV (`tables.read_table`), JSON lines, or Parquet.

    Args:
        path: of the file.
        columns: that every row must have.
        others: columns that rows may have. All that are in neither are ignored.

    Yields:
        (number of the line, or of the row in Parquet, counted from 1; {column: text}). A missing value is "".

    Raises:
        UserError: the file cannot be read in its format, pyarrow is missing, a column is, or a column's name differs
            from a known one in capital letters or blanks only.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = _read_parquet(path)
    elif suffix in JSON_LINES:
        rows = read_json_lines(path)
    else:
        rows = read_table(path, columns)
    known = (*columns, *others)
    for number, row in rows:
        for name in row:
            if name not in known and (meant := name.strip().lower().replace(" ", "_")) in known:
                raise UserError(f"{path} has the column {name!r}: call it {meant!r}, or something else if it is not")
        if missing := [name for name in columns if name not in row]:
            raise UserError(f"{path} row {number} has no {missing[0]!r}: give every row {', '.join(columns)}")
        where = f"{path} row {number}"
        yield number, {name: _text(value, f"{where}: {name}") for name, value in row.items() if name in known}


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file in JSON lines. Empty lines are left out.

    Yields:
        (number of the line, {name: value}).

    Raises:
        UserError: it is not text, or a line is no JSON object or has a name twice.
    """
    for number, line in enumerate(read_text(path, "JSON lines").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_distinct)
            if not isinstance(row, dict):
                raise ValueError
        except (ValueError, RecursionError):
            raise UserError(f'{path} line {number} is no JSON object: give one such as {{"path": "a.png"}}') from None
        yield number, row


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict.

    Raises:
        ValueError: a name is there twice.
    """
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def _read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    require_regular(path)
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f"{path} needs pyarrow: pip install '.[parquet]' in a checkout, or give a CSV") from None
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}): replace it, or give a CSV") from None


def _text(value: Any, where: str) -> str:
    if value is None or value != value:  # NaN stands for a missing number
        return ""
    if isinstance(value, (str, int, float)):
        return str(value)
    raise UserError(f"{where} is a {type(value).__name__}: give text or a number")
