"""Progress bars for work that may take long."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from . import distributed

T = TypeVar("T")


def bar(things: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """Show a progress bar on a terminal, if the work takes longer than a second; at its end the bar disappears.

    Args:
        things: to go through.
        what: the work, in front of the bar.
        total: number of things, where `len` does not give it.

    Returns:
        the things. Only rank 0 shows a bar.
    """
    shown = sys.stderr.isatty() and distributed.leads()
    return tqdm(things, what, total=total, leave=False, delay=1.0, disable=not shown)
