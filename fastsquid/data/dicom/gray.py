"""The grey that each stored value of a DICOM image is to be shown as (PS3.3, C.11.1 and C.11.2)."""

import numpy as np

from .tags import RefusedError, code, number, refusing, values


def tone_curve(dataset):
    """The grey of every value that an image can store, so that its pixels have only to look theirs up.

    Modality LUT or rescale, then VOI LUT or else the first window, then MONOCHROME1 inverted. Without either of VOI LUT
    and window the whole range is shown; the image's own extremes decide nothing. Pixels of the padding value, which
    fills what is outside of the collimator, are black.

    Args:
        dataset: a pydicom Dataset of a grey image.

    Returns:
        float64 (2**BitsStored,) in [0, 1], of stored values in ascending order; bright is dense.

    Raises:
        RefusedError: a table, a window or a number that makes no sense.
    """
    bits = int(number(dataset, "BitsStored"))
    lowest = -(2 ** (bits - 1)) if number(dataset, "PixelRepresentation") else 0
    stored = np.arange(lowest, lowest + 2**bits)
    grey = _shown(dataset, *_modality(dataset, stored)).clip(0, 1)
    if code(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        grey = 1 - grey
    if values(dataset, "PixelPaddingValue"):
        ends = [number(dataset, "PixelPaddingValue")]
        ends.append(number(dataset, "PixelPaddingRangeLimit", default=ends[0]))
        grey[(min(ends) <= stored) & (stored <= max(ends))] = 0
    return grey


def _modality(dataset, stored):
    """What stored values stand for, and the lowest and highest that they can."""
    if values(dataset, "ModalityLUTSequence"):
        mapped, top = _look_up(dataset, "ModalityLUTSequence", stored)
        return mapped, 0, top
    slope, intercept = number(dataset, "RescaleSlope", default=1), number(dataset, "RescaleIntercept", default=0)
    if not slope:
        raise RefusedError("its RescaleSlope is 0")
    mapped = stored * slope + intercept
    return mapped, mapped.min(), mapped.max()


def _shown(dataset, mapped, low, high):
    """Grey values, 0 black and 1 white, not yet clipped."""
    if values(dataset, "VOILUTSequence"):
        mapped, top = _look_up(dataset, "VOILUTSequence", mapped)
        return mapped / top
    if not values(dataset, "WindowCenter") or not values(dataset, "WindowWidth"):
        return (mapped - low) / (high - low)
    center, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    function = code(dataset, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise RefusedError(f"its VOILUTFunction is {function}, where LINEAR, LINEAR_EXACT and SIGMOID are known")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise RefusedError(f"its WindowWidth is {width:g}, too small for any window")
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (mapped - center) / width)) / 2  # 1 / (1 + exp(-4 (x - c) / w)), without overflow
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    return (mapped - (center - width / 2)) / max(width, 1e-9)  # a width of 1 is a step


def _look_up(dataset, name, inputs):
    """The entries of a sequence's first table that inputs lead to, and the highest entry that it could have."""
    with refusing(f"its {name} is damaged"):
        item = dataset[name][0]
        count, first, bits = map(int, item.LUTDescriptor)
        count = count or 2**16  # which 16 bits cannot say
        words = item.LUTData
        if isinstance(words, bytes):
            words = np.frombuffer(words, "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2")
        words = np.atleast_1d(words).astype("<u2")
        # Entries of 8 bits are two to a word, though not every device packs them.
        table = (words if len(words) >= count else words.view(np.uint8))[:count]
        if len(table) < count or not 8 <= bits <= 16 or table.max() >= 2**bits:
            raise ValueError
    return table[np.rint(inputs - first).clip(0, count - 1).astype(int)].astype(np.float64), 2**bits - 1
