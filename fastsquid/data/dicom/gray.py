"""The gray of each stored value of a DICOM image on a display (PS3.3, C.11.1 and C.11.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .tags import RejectedError, code, number, rejecting, to_number, values

if TYPE_CHECKING:
    from pydicom import Dataset


def tone_curve(dataset: Dataset, bits: int) -> np.ndarray:
    """Return the gray of every value that an image can store, as a table for its pixels.

    First the modality LUT or rescale is applied, then the VOI LUT or else the first window. MONOCHROME1 is inverted at
    the end. Without VOI LUT and window the whole range is shown; the image's own extremes decide nothing. The padding
    value, which fills what is outside of the collimator, is black.

    Args:
        dataset: a pydicom Dataset of a gray image.
        bits: of a stored value.

    Returns:
        float64 (2**bits,) in [0, 1], of stored values in ascending order; bright is dense.

    Raises:
        RejectedError: a table, a window or a number is invalid, or tags contradict each other.

    Source: DICOM PS3.3, sections C.11.1 (modality) and C.11.2 (VOI).
    """
    photometric = code(dataset, "PhotometricInterpretation")
    if photometric == "MONOCHROME2" and code(dataset, "PresentationLUTShape") == "INVERSE":
        raise RejectedError("it is MONOCHROME2 with PresentationLUTShape INVERSE, which contradict each other")
    lowest = -(2 ** (bits - 1)) if number(dataset, "PixelRepresentation") else 0
    stored = np.arange(lowest, lowest + 2**bits)
    gray = _shown(dataset, *_modality(dataset, stored)).clip(0, 1)
    if photometric == "MONOCHROME1":
        gray = 1 - gray
    if padding := padding_range(dataset):
        gray[(padding[0] <= stored) & (stored <= padding[1])] = 0
    return gray


def padding_range(dataset: Dataset) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that stand for padding; None where no value does.

    Many devices write the tag as unsigned where pixels are signed, or the reverse. PixelRepresentation decides.

    Raises:
        RejectedError: the value is no number.

    Source: DICOM PS3.3, section C.7.5.1.1.2.
    """
    if not values(dataset, "PixelPaddingValue"):
        return None
    signed = bool(number(dataset, "PixelRepresentation"))
    first = _word(number(dataset, "PixelPaddingValue"), signed)
    limit = _word(number(dataset, "PixelPaddingRangeLimit", default=first), signed)
    return min(first, limit), max(first, limit)


def _word(value, signed):
    """Return a number of 16 bits as signed or unsigned, whichever way it was written."""
    word = int(value) & 0xFFFF
    return word - 0x10000 if signed and word & 0x8000 else word


def _modality(dataset, stored):
    """Return what stored values stand for, and the lowest and highest value possible."""
    if values(dataset, "ModalityLUTSequence"):
        mapped, top = _look_up(dataset, "ModalityLUTSequence", stored)
        return mapped, 0, top
    slope, intercept = number(dataset, "RescaleSlope", default=1), number(dataset, "RescaleIntercept", default=0)
    if not slope:
        raise RejectedError("its RescaleSlope is 0")
    with np.errstate(over="ignore", invalid="ignore"):
        mapped = stored * slope + intercept
        spread = mapped.max() - mapped.min()
    if not np.isfinite(spread) or not spread:
        raise RejectedError("its RescaleSlope and RescaleIntercept map its values to one number or to infinity")
    return mapped, mapped.min(), mapped.max()


def _shown(dataset, mapped, low, high):
    """Return gray values, 0 black and 1 white, not yet clipped."""
    if values(dataset, "VOILUTSequence"):
        mapped, top = _look_up(dataset, "VOILUTSequence", mapped)
        return mapped / top
    window = _window(dataset)
    if window is None:
        return (mapped - low) / (high - low)
    center, width = window
    function = code(dataset, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise RejectedError(f"its VOILUTFunction is {function}, where LINEAR, LINEAR_EXACT and SIGMOID are known")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise RejectedError(f"its WindowWidth is {width:g}, too small for a window")
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (mapped - center) / width)) / 2  # 1 / (1 + exp(-4 (x - c) / w)), without overflow
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return (mapped - (center - width / 2)) / max(width, 1e-9)  # a width of 1 is a step


def _window(dataset):
    """Return center and width of the first window that has both as numbers; None where no window is given."""
    pairs = zip(values(dataset, "WindowCenter"), values(dataset, "WindowWidth"))
    pairs = [pair for pair in pairs if all(value not in (None, "") for value in pair)]
    for pair in pairs:
        try:
            return to_number(pair[0]), to_number(pair[1])
        except (TypeError, ValueError):
            continue
    # Of windows without a valid one, the first names its fault.
    return (number(dataset, "WindowCenter"), number(dataset, "WindowWidth")) if pairs else None


def _look_up(dataset, name, inputs):
    """Look inputs up in a sequence's first table; return its entries, and the highest entry possible.

    Some devices (Agfa CR) declare 16 bits for entries of 12. So the highest entry possible has as many bits as the
    highest entry of the table, if these are fewer than declared.
    """
    with rejecting(f"its {name} is damaged"):
        item = dataset[name][0]
        count, first, bits = (int(value) & 0xFFFF for value in item.LUTDescriptor)
        count = count or 2**16  # 0 stands for 65536, which 16 bits cannot hold
        first = _first_input(first, count, inputs)
        words = item.LUTData
        if isinstance(words, bytes):
            words = np.frombuffer(words, "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2")
        words = np.atleast_1d(words).astype("<u2")
        # Entries of 8 bits are two to a word, though not every device packs them.
        table = (words if len(words) >= count else words.view(np.uint8))[:count]
        if len(table) < count or not 8 <= bits <= 16 or table.max() >= 2**bits:
            raise ValueError
    used = max(8, int(table.max()).bit_length())
    return table[np.rint(inputs - first).clip(0, count - 1).astype(int)].astype(np.float64), 2**used - 1


def _first_input(word, count, inputs):
    """Return the input of a table's first entry, from a word whose sign many files declare wrongly.

    It is the one, signed or unsigned, of which the table covers more of the inputs; in doubt the unsigned one.
    """

    def covered(first):
        return min(first + count - 1, inputs.max()) - max(first, inputs.min())

    return max((word, word - 0x10000) if word & 0x8000 else (word,), key=covered)
