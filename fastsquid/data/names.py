"""Names for image files that do not show their paths. A name is a hash of the file's content."""

import hashlib
from collections import Counter

from .filetypes import ImageFile


def content_name(path: ImageFile) -> str:
    """Return the first 16 hex digits of the sha256 of a file's bytes; "unreadable" if it cannot be read.

    Whoever has the file can compute its name again.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "unreadable"


class Distinct:
    """Make repeated names distinct.

    >>> list(map(Distinct(), ["a", "b", "a", "a"]))
    ['a', 'b', 'a-2', 'a-3']
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def __call__(self, name: str) -> str:
        """Return the name, with -2, -3 and so on from the second time on."""
        self._seen[name] += 1
        return name if self._seen[name] == 1 else f"{name}-{self._seen[name]}"
