"""The exposed field of a radiograph: what is left without collimation, padding and a scanner's frame."""

from typing import NamedTuple

import numpy as np

ALIKE = 0.08  # of the image's gray range: how far a border's pixels are from its level
MOSTLY = 0.8  # share of a line's pixels at the level: the search continues, past text
WHOLLY = 0.97  # share of a line's pixels at the level: the line can be the last one of a border
# Of the gray range: a further border has nearly the first one's level, as air has, or clearly another, as a line has.
NEAR, APART = 0.16, 0.24
LARGEST = 1 / 3  # of the side: nothing wider counts as a border; RULE says so in words
LINES = 16  # that are searched at once
ROUNDS = 4  # a border may lie in a frame and end in a line; the last round finds nothing more
# The same rule in words, for programs that use an exported model.
RULE = (
    f"Before resizing, crop each side by its uniform border. Go inward line by line while at least {MOSTLY:.0%} of a "
    f"line's pixels differ from the median of the outermost line by at most {ALIKE:.0%} of the gray range (1st to 99th "
    f"percentile). The border ends with the last line that has at least {WHOLLY:.0%} of such pixels. Repeat on what is "
    f"left, at most {ROUNDS} times. There a border's median differs from the first one's on that side by at most "
    f"{NEAR:.0%} or at least {APART:.0%} of the range. Crop nothing where a side would lose more than a third."
)


class Frame(NamedTuple):
    """What a square shows of a file's image.

    Attributes:
        width, height: of the whole image in pixels.
        left, top, right, bottom: the part that was resized to the square, in pixels.
    """

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int


def exposed_field(values: np.ndarray) -> tuple[int, int, int, int]:
    """Find the part of a radiograph that was exposed, without a uniform border.

    `RULE` states the algorithm. A text marker does not end the search. A border may lie in a frame, or end in a thin
    line, or have air behind it, so the search is repeated. A gradual change of brightness is not one border after the
    other. An image that is uniform, or half black, stays whole.

    Air beside a patient that is as black as a border counts as one. Next to a border the two cannot be distinguished,
    and an image should be framed alike with and without a border.

    Args:
        values: (H, W) gray values of any integer or float dtype, all finite; H and W at least 1.

    Returns:
        top, bottom, left, right: the field is `values[top:bottom, left:right]`.

    >>> import numpy as np
    >>> exposed_field(np.pad(np.arange(64 * 64).reshape(64, 64) % 7, (8, 0)))
    (8, 72, 8, 72)
    """
    height, width = values.shape
    top, bottom, left, right = 0, height, 0, width
    levels: list[float | None] = [None] * 4
    for _ in range(ROUNDS):
        before = top, bottom, left, right
        field = values[top:bottom, left:right]
        step = 1 + min(field.shape) // 512  # enough for percentiles
        low, high = np.percentile(field[::step, ::step], (1, 99))
        # A little more, so that rounding decides nothing: the same image as floats or in 16 bits has the same field.
        contrast = (high - low) * (1 + 1e-5)
        above, levels[0] = _border(field, contrast, levels[0])
        below, levels[1] = _border(field[::-1], contrast, levels[1])
        top, bottom = top + above, bottom - below
        if max(top, height - bottom) > LARGEST * height:
            return 0, height, 0, width
        field = values[top:bottom, left:right].T
        ahead, levels[2] = _border(field, contrast, levels[2])
        behind, levels[3] = _border(field[::-1], contrast, levels[3])
        left, right = left + ahead, right - behind
        if max(left, width - right) > LARGEST * width:
            return 0, height, 0, width
        if (top, bottom, left, right) == before:
            break
    return top, bottom, left, right


def _border(lines, contrast, first):
    """Return how many lines are a border, and the first border's level on this side (None without a border).

    Args:
        lines: (N, M), the outermost line first.
        contrast: the image's gray range.
        first: level of the first border on this side, or None.
    """
    lines = lines[: len(lines) // 3 + 1]  # one line more than a border may have
    level = np.median(lines[0].astype(np.float32))
    if first is not None and NEAR * contrast < abs(level - first) < APART * contrast:
        return 0, first
    width = 0
    for start in range(0, len(lines), LINES):  # most images have no border: the first few lines end the search
        few = lines[start : start + LINES].astype(np.float32)
        share = (np.abs(few - level) <= ALIKE * contrast).mean(1)
        ends = np.flatnonzero(share < MOSTLY)
        wholly = np.flatnonzero(share[: ends[0] if len(ends) else None] >= WHOLLY)
        if len(wholly):
            width = start + int(wholly[-1]) + 1
        if len(ends):
            break
    return width, level if width and first is None else first
