"""What image files are called where their paths are not to be known: by a hash of what is in them."""

import hashlib
from collections import Counter


def content_name(path):
    """The first 16 hex digits of the sha256 of a file's bytes, which whoever has the file can find again; "unreadable"
    where there are none to be had."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return "unreadable"


class Distinct:
    """Tells names that repeat apart: called with each in turn, it adds -2, -3 from the second time on."""

    def __init__(self):
        self._seen = Counter()

    def __call__(self, name):
        self._seen[name] += 1
        return name if self._seen[name] == 1 else f"{name}-{self._seen[name]}"
