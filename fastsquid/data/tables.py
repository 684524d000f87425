"""CSV files as any program writes them: encoding and separator are found in the file, never guessed."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..utils.files import require_regular
from ..utils.text import from_cell

_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_MARKS = (  # UTF-32 first: its mark begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_MOST_BYTES = 2**28  # of a text that is read as a whole
_MOST_TABLE_BYTES = 2**30  # of a table, unpacked; it is read line by line
_MOST_LINE = 2**24  # characters
_HEAD = 2**16  # bytes that hold the first line
_LABELS = {"normal": 0, "abnormal": 1, "": None}


def decode(content: bytes, errors: str | None = None) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    UTF-16 without the mark is recognized where every fourth letter or more has a zero byte on the same side.

    Args:
        content: of the file.
        errors: handler of bytes that are not text; None for strict, but in UTF-8 such bytes become surrogates, as in
            file names.

    Raises:
        ValueError: it is none of these.
    """
    mark, encoding = _encoding(content)
    if encoding == "utf-8" and 0 in content and errors is None:
        raise ValueError("zero bytes")
    return content[len(mark) :].decode(encoding, errors or _handler(encoding))


def _encoding(content: bytes) -> tuple[bytes, str]:
    """Return the byte order mark, or b"", and the encoding of a text that begins so."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return mark, encoding
    # Of text in UTF-16 most letters have a zero byte. A single one is damage.
    even, odd = (4 * half.count(0) > len(half) for half in (content[::2], content[1::2]))
    return b"", "utf-8" if even == odd else "utf-16-be" if even else "utf-16-le"


def _handler(encoding: str) -> str:
    return "surrogateescape" if encoding == "utf-8" else "strict"


def read_text(path: Path, kind: str = "text") -> str:
    """Return the text of a file (`decode`).

    Args:
        path: of the file.
        kind: what it should be, for the message.

    Raises:
        UserError: it cannot be read, or it is not text.
    """
    with _readable(path, kind):
        require_regular(path, _MOST_BYTES)
        return decode(path.read_bytes())


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Turn the errors of reading a text into one sentence."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as {kind} ({why}): give a readable file") from error
    except UserError:
        raise
    except ValueError:
        raise UserError(
            f"{path} cannot be read as {kind}, because it is neither UTF-8 nor UTF-16: save it as {kind} in UTF-8"
        ) from None


def read_table(path: Path, columns: Sequence[str], either: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV, or of one that gzip has packed (`.gz`). Rows without text and columns without a name are
    left out.

    The separator is the comma, semicolon or tab that gives the header these columns. Every row must have as many cells
    as the header.

    Args:
        path: of the file.
        columns: that it must have.
        either: names of which it must have one.

    Yields:
        (number of the line, {column: text}). The text is as written, without the apostrophe of `to_cell`.

    Raises:
        UserError: not text, no CSV, more than 1 GiB, a column that is missing or twice, a header that two separators
            split, or a row with another number of cells.
    """
    mark = _separator(path, _head(path), columns, either)
    reader = csv.reader(_lines(path, mark), delimiter=mark, strict=True)
    head = None
    try:
        for cells in reader:
            if not any(map(str.strip, cells)):
                continue
            if head is None:
                head = list(map(str.strip, cells))
                continue
            if len(cells) != len(head):
                raise UserError(
                    f"{path} has {len(cells)} cells in line {reader.line_num} and {len(head)} in its first line: "
                    "give every row one cell per column"
                )
            yield reader.line_num, {name: from_cell(cell) for name, cell in zip(head, cells) if name}
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV (line {reader.line_num}: {error})") from None


def column_names(path: Path) -> set[str]:
    """Return the names of a CSV's columns, whichever its separator is.

    Raises:
        UserError: it is not text.
    """
    text = _head(path)
    return {name for mark in _SEPARATORS for name in _header(text, mark)}


def find_table(folder: Path, name: str) -> Path | None:
    """Return the CSV of a name in a folder, as it is or packed with `.gz`; None if there is none."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _open(path: Path) -> Any:
    require_regular(path, _MOST_TABLE_BYTES)
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _head(path: Path) -> str:
    """Return the beginning of a CSV."""
    with _readable(path, "a CSV"), _open(path) as file:
        content = file.read(_HEAD)
        mark, encoding = _encoding(content)
        if encoding == "utf-8" and 0 in content:
            raise ValueError("zero bytes")
        decoder = codecs.getincrementaldecoder(encoding)(_handler(encoding))
        return decoder.decode(content[len(mark) :], final=len(content) < _HEAD)


def _lines(path: Path, mark: str) -> Iterator[str]:
    """Yield the lines of a CSV, without blanks beside quotes."""
    beside = _beside_quotes(mark)
    with _readable(path, "a CSV"), _open(path) as file:
        start, encoding = _encoding(file.read(_HEAD))
        file.seek(len(start))
        text = io.TextIOWrapper(file, encoding, _handler(encoding), newline="")
        size, row, quotes = 0, [], 0
        while line := text.readline(_MOST_LINE):
            size += len(line)
            if len(line) == _MOST_LINE or size > _MOST_TABLE_BYTES:
                what = f"a line of {_MOST_LINE}" if len(line) == _MOST_LINE else f"more than {_MOST_TABLE_BYTES}"
                raise UserError(f"{path} has {what} characters: give a smaller CSV")
            if encoding == "utf-8" and "\0" in line:
                raise ValueError("zero bytes")
            row.append(line)
            quotes += line.count('"')
            if quotes % 2 == 0:  # else a cell goes on in the next line
                yield from _without_blanks(row, beside) if any(' "' in one or '" ' in one for one in row) else row
                row, quotes = [], 0
        yield from _without_blanks(row, beside)


def _without_blanks(row: list[str], beside: re.Pattern) -> Iterator[str]:
    return io.StringIO(beside.sub(r"\1\2", "".join(row)), newline="")


def _header(text: str, mark: str) -> list[str]:
    """Return the cells of the first line with text; none if the separator does not go with its quotes."""
    try:
        lines = (list(map(str.strip, cells)) for cells in _reader(text.lstrip()[:_HEAD], mark))
        return next(filter(any, lines), [])
    except csv.Error:
        return []


def _reader(text: str, mark: str) -> Any:
    """Return a csv.reader that rejects text beside quotes; blanks beside them do not count."""
    return csv.reader(_without_blanks([text], _beside_quotes(mark)), delimiter=mark, strict=True)


def _beside_quotes(mark: str) -> re.Pattern:
    """Return the pattern of a cell in quotes with the blanks beside it; groups 1 and 2 are all but the blanks."""
    return re.compile(rf'(^|[{mark}\r\n]) *("[^"]*(?:""[^"]*)*") *(?=[{mark}\r\n]|$)')


def _separator(path: Path, text: str, columns: Sequence[str], either: Sequence[str]) -> str:
    """Return the separator of a CSV (`read_table`)."""
    heads = {mark: _header(text, mark) for mark in _SEPARATORS}
    fits = [
        mark
        for mark, head in heads.items()
        if set(columns) <= set(head) and (not either or not set(either).isdisjoint(head))
    ]
    splits = fits or [mark for mark, head in heads.items() if len(head) > 1]
    if len(splits) > 1:
        marks = " and by ".join(_SEPARATORS[mark] for mark in splits)
        raise UserError(f"{path} has a first line that can be split by {marks}: use one separator, or put quotes")
    mark = splits[0] if splits else ","
    head = heads[mark]
    named = ", ".join(filter(None, head)) or "none"
    if not fits:
        missing = [column for column in columns if column not in head]
        wanted = repr(missing[0]) if missing else " or ".join(map(repr, either))
        raise UserError(
            f"{path} has no column {wanted}, but its columns are {named}: give a CSV with the columns "
            f"{', '.join([*columns, *either[:1]])}"
        )
    if twice := [name for name in head if name and head.count(name) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice, its columns are {named}: keep one of the two")
    return mark


def find_name(text: str, known: Collection[str]) -> str | None:
    r"""Return the name that a cell stands for: as it is, or without blanks, or as a Windows path.

    Args:
        text: of the cell, such as ` val\NORMAL\1.png`.
        known: names, with "/".

    Returns:
        one of `known`, or None.
    """
    plain = text.strip().replace("\\", "/")
    written = (text, text.strip(), plain, plain.removeprefix("./"))
    return next((name for name in written if name in known), None)


def whole_number(text: str) -> int:
    """Return a whole number, written as `1`, `1.0`, or `True` and `False` in any case.

    Raises:
        ValueError: it is something else.
    """
    text = text.strip().lower()
    if text in ("true", "false"):
        return int(text == "true")
    if not (found := re.fullmatch(r"([+-]?[0-9]{1,18})(?:\.0*)?", text)):
        raise ValueError(text)
    return int(found[1])


def read_label(text: str) -> int | None:
    """Return 0 for normal, 1 for abnormal, None for an empty cell.

    Args:
        text: 0 or normal, 1 or abnormal, as words in any case, or as `whole_number` takes it.

    Raises:
        ValueError: it is something else.
    """
    word = text.strip().lower()
    if word in _LABELS:
        return _LABELS[word]
    number = whole_number(text)
    if number not in (0, 1):
        raise ValueError(text)
    return number


def read_number(text: str) -> float:
    """Return a decimal number with a point, or NaN or infinity.

    Raises:
        ValueError: it is none, or it has a comma or an underscore, which may stand for another number.
    """
    if "_" in text:
        raise ValueError(text)
    return float(text)
