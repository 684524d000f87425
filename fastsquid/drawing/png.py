"""A figure as a PNG file."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from ..utils.files import replacing


def save_figure(figure: Figure, path: str | Path, largest: int | None = None) -> None:
    """Write a PNG file, whole or not at all.

    Args:
        figure: to draw.
        path: of the file.
        largest: bytes of the file at most; a lower resolution is used where that is enough to reach it.
    """
    for dpi in (110, 100, 90, 72, 56):
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
        if largest is None or drawn.tell() <= largest:
            break
    with replacing(path, "wb") as file:
        file.write(drawn.getbuffer())
