"""Names and other text from outside: printed in one line, and as cells of a CSV that no spreadsheet computes."""

import re
import unicodedata
from collections.abc import Iterable

# Controls, invisible characters such as marks of direction, surrogates, separators of lines and paragraphs.
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
# What begins a formula in a spreadsheet, also in its full-width form (OWASP, "CSV Injection").
_FORMULA = "'* *[-=+@\uff1d\uff0b\uff0d\uff20]"
# A spreadsheet of another language splits at ";" or tab. Then a formula may begin inside of a cell, too.
_INSIDE = re.compile(f"(?<=[;\t\r\n])(?={_FORMULA})")
_GUARD_INSIDE = re.compile(f"(?<=[;\t\r\n])'(?={_FORMULA})")
_START = re.compile(f"{_FORMULA}|'* *[\t\r\n]")


def printable(text: object) -> str:
    r"""Return text in one line, with an escape in the place of every character that is not seen.

    Escaped are control characters, line breaks, and invisible characters such as marks of direction. A byte of a file
    name that is not UTF-8 is shown as a byte. Other text, spaces and backslashes included, stays as it is.

    Args:
        text: a string, path or error.

    >>> print(printable("a\nb\u202egnp.\udcff"))
    a\nb\u202egnp.\xff
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(_escaped(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in text)


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # by the error handler "surrogateescape"
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def to_cell(text: str) -> str:
    """Return text as a cell of a CSV, with an apostrophe before what a spreadsheet would take for a formula.

    `from_cell` returns the same text again. Almost all text, such as a usual file name, is its own cell.

    >>> to_cell("=1+1.png"), to_cell("'=1+1.png"), to_cell("a.png")
    ("'=1+1.png", "''=1+1.png", 'a.png')
    """
    cell = _INSIDE.sub("'", text)
    return f"'{cell}" if _START.match(cell) else cell


def from_cell(cell: str) -> str:
    """Return the text that `to_cell` made a cell of.

    >>> from_cell("'=1+1.png"), from_cell("'a'.png")
    ('=1+1.png', "'a'.png")
    """
    if "'" not in cell:  # almost every cell of a large table
        return cell
    if cell[:1] == "'" and _START.match(cell, 1):
        cell = cell[1:]
    return _GUARD_INSIDE.sub("", cell)


def join_names(names: Iterable[str]) -> str:
    r"""Return names, none of them empty, as one text with "|" between them. `split_names` returns them again.

    >>> join_names(["Edema", "Lung Opacity"]), join_names(["a|b", "c"])
    ('Edema|Lung Opacity', 'a\\|b|c')
    """
    return "|".join(re.sub(r"[\\|]", r"\\\g<0>", name) for name in names)


def split_names(text: str) -> tuple[str, ...]:
    """Return the names that `join_names` made a text of."""
    return tuple(re.sub(r"\\(.)", r"\1", name, flags=re.S) for name in re.findall(r"(?:[^\\|]|\\.)+", text, re.S))
