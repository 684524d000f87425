"""Tags of DICOM datasets, read in distrust: what is malformed is refused by the tag's name, never with its value."""

import math
import re
from contextlib import contextmanager


class RefusedError(ValueError):
    """A DICOM file that is not read.

    Attributes:
        remedy: what would be right, the end of a sentence; the message is its "because".
    """

    def __init__(self, message, remedy="replace or remove it"):
        super().__init__(message)
        self.remedy = remedy


@contextmanager
def refusing(message):
    """Raises RefusedError in place of what pydicom raises, whose words may quote a tag."""
    try:
        yield
    except RefusedError:
        raise
    except Exception:  # damaged files make pydicom and its plug-ins raise almost anything
        raise RefusedError(message) from None


def values(dataset, name):
    """A tag's values as a list, which is empty where it has none."""
    with refusing(f"its {name} cannot be read"):
        found = dataset.get(name)
        if found is None or found == "":
            return []
        return [found] if isinstance(found, (str, bytes, int, float)) else list(found)


def text(dataset, name):
    """A tag's text, "" where it has none."""
    return "\\".join(map(str, values(dataset, name))).strip()


def code(dataset, name):
    """A tag's code (VR CS) in upper case, "" where it has none, "?" where it holds something else than a code."""
    found = text(dataset, name).upper()
    return found if re.fullmatch(r"[A-Z0-9 _\\]{0,64}", found) else "?"


def number(dataset, name, default=None):
    """A tag's first value as a float.

    Raises:
        RefusedError: it is no number, not finite, or not there where there is no `default`.
    """
    found = values(dataset, name)
    if not found and default is None:
        raise RefusedError(f"it has no {name}")
    with refusing(f"its {name} is no number"):
        result = float(found[0]) if found else float(default)
        if not math.isfinite(result):
            raise ValueError
    return result
