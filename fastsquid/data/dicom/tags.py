"""Tags of DICOM datasets. A malformed tag is rejected by its name; its value is never quoted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

INSTALL = "pip install pydicom python-gdcm"


class RejectedError(ValueError):
    """A DICOM file that is not read; the message is the reason.

    Attributes:
        remedy: what to do about it.
    """

    def __init__(self, message: str, remedy: str = "replace or remove it") -> None:
        super().__init__(message)
        self.remedy = remedy


@contextmanager
def rejecting(message: str) -> Iterator[None]:
    """Raise RejectedError in place of any other exception: pydicom's messages may quote a tag."""
    try:
        yield
    except RejectedError:
        raise
    except Exception:  # damaged files make pydicom and its plug-ins raise almost anything
        raise RejectedError(message) from None


def values(dataset: Dataset, name: str) -> list[Any]:
    """Return a tag's values; the list is empty where it has none."""
    with rejecting(f"its {name} cannot be read"):
        found = dataset.get(name)
        if found is None or found == "":
            return []
        return [found] if isinstance(found, (str, bytes, int, float)) else list(found)


def text(dataset: Dataset, name: str) -> str:
    """Return a tag's text, "" where it has none."""
    return "\\".join(map(str, values(dataset, name))).strip()


def code(dataset: Dataset, name: str) -> str:
    """Return a tag's code (VR CS) in upper case; "" where it has none, "?" where its value is no code."""
    found = text(dataset, name).upper()
    return found if re.fullmatch(r"[A-Z0-9 _\\]{0,64}", found) else "?"


def number(dataset: Dataset, name: str, default: float | None = None) -> float:
    """Return a tag's first value that is not empty as a float, or `default` where it has none.

    Raises:
        RejectedError: the value is no number or not finite; or there is neither value nor `default`.
    """
    found = [value for value in values(dataset, name) if value not in (None, "")] or [default]
    if found[0] is None:
        raise RejectedError(f"it has no {name}")
    with rejecting(f"its {name} is no number"):
        return to_number(found[0])


def to_number(value: Any) -> float:
    """Return a tag's value as a finite float. A comma is taken as the decimal point, as some devices write it.

    Raises:
        ValueError: it is no number or not finite, or its comma may as well separate thousands (`2,048`).
    """
    if isinstance(value, str):
        if re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", value.strip()):
            raise ValueError
        value = value.replace(",", ".")
    result = float(value)
    if not math.isfinite(result):
        raise ValueError
    return result
