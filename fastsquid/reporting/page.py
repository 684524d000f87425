"""The page of a report: one HTML file that needs nothing else, pictures and all.

Pictures are one strip per image: X-ray, reconstruction and map in one WebP, decoded by the page when it comes into
view.
"""

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

SIDE = 256  # pixels of an X-ray's side, at most
DEVIATIONS = 5  # standard deviations that a map's colors reach
BUDGET = 4200  # bytes of a strip: in base64 and with its row of data under 6 kB, 30 MB for 5,000 images
QUALITIES = (95, 90, 85, 75, 60, 40, 20)


def strip(image: np.ndarray, reconstruction: np.ndarray, heatmap: np.ndarray) -> bytes:
    """Return the three pictures of an image side by side, as a WebP file of the highest quality within `BUDGET`.

    The strip is as high as the X-ray. The other two are at its top, at the model's size; so each of them has half of
    the width that the X-ray leaves. An image of noise, which does not fit at any quality, gets fewer pixels.

    Args:
        image: (L, L), uint8 or uint16, with L at least S.
        reconstruction: (S, S) in [0, 1].
        heatmap: (S, S) in standard deviations; clipped to 0 ... `DEVIATIONS`.

    Returns:
        bytes.
    """
    parts = (image / np.iinfo(image.dtype).max, reconstruction, heatmap.clip(0, DEVIATIONS) / DEVIATIONS)
    xray, *drawn = [Image.fromarray(np.rint(255 * part).astype(np.uint8)) for part in parts]
    side, small = min(SIDE, len(image)), min(SIDE, len(reconstruction))
    while True:
        row = Image.new("L", (side + 2 * small, side))
        row.paste(xray.resize((side, side), Image.Resampling.BILINEAR))
        for i, picture in enumerate(drawn):
            row.paste(picture.resize((small, small), Image.Resampling.BILINEAR), (side + i * small, 0))
        for quality in QUALITIES:
            file = io.BytesIO()
            row.save(file, "WEBP", quality=quality)
            if file.tell() <= BUDGET:
                return file.getvalue()
        side //= 2
        small = min(small, side)


def page(data: dict[str, Any], strips: Sequence[bytes]) -> str:
    """Return the report as HTML. It loads nothing from elsewhere, and its security policy forbids it.

    Args:
        data: a JSON value, which `report.js` shows.
        strips: `strip` of each image in the order of the data; b"" for one that could not be read.
    """
    template, style, script = (_part(f"report.{kind}") for kind in ("html", "css", "js"))
    parts = {
        "style": style,
        "style_hash": _sha256(style),
        "script": script,
        "script_hash": _sha256(script),
        # A file may be called </script>.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "strips": "\n".join(base64.b64encode(strip).decode() for strip in strips),
    }
    return re.sub(r"{{ (\w+) }}", lambda match: parts[match[1]], template)


def _part(name):
    return (files("fastsquid.reporting") / name).read_text(encoding="utf-8")


def _sha256(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
