"""A figure as a file: PNG, PDF or SVG."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..utils.files import replacing
from ..utils.text import printable

WIDTH = 1500  # pixels of a PNG at least, unless its bytes are limited
_DPI = 110
_VECTOR_DPI = 300  # of the pictures inside a PDF or SVG
# Without dates and random names the same figure has the same bytes. Journals want fonts of type 42 in a PDF.
_STYLE = {"svg.hashsalt": "fastsquid", "pdf.fonttype": 42}
_METADATA = {"png": None, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def drawable(text: str) -> str:
    """Return text from outside as a figure shows it: in one line, and a dollar sign begins no formula."""
    return printable(text).replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path, largest: int | None = None) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: to draw.
        path: of the file; its suffix is .png, .pdf or .svg.
        largest: bytes of a PNG at most; a lower resolution is used where that is enough to reach it. None for a PNG
            that is at least `WIDTH` pixels wide.
    """
    kind = Path(path).suffix[1:]
    if kind != "png":
        drawn = _draw(figure, kind, _VECTOR_DPI)
    elif largest is None:
        with _boxes():
            figure.draw_without_rendering()  # places everything; empty margins are then cut off
            inches = figure.get_tightbbox().width
        drawn = _draw(figure, kind, max(_DPI, 1.02 * WIDTH / inches))  # letters round to pixels
    else:
        for dpi in (_DPI, 100, 90, 72, 56):
            drawn = _draw(figure, kind, dpi)
            if len(drawn) <= largest:
                break
    with replacing(path, "wb") as file:
        file.write(drawn)


def _draw(figure: Figure, kind: str, dpi: float) -> bytes:
    """Return the bytes of a figure's file."""
    drawn = io.BytesIO()
    with rc_context(_STYLE), _boxes():
        figure.savefig(drawn, format=kind, dpi=dpi, bbox_inches="tight", metadata=_METADATA[kind])
    return drawn.getvalue()


@contextmanager
def _boxes() -> Iterator[None]:
    """Draw letters that the font does not have, as in names in Chinese, as boxes without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
