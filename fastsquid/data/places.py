"""Where the findings of an image are: boxes and masks, carried from the file's pixels to the square."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from PIL import Image

from .framing import Frame
from .images import ImageError
from .opening import open_image, require_file, require_size, upright

ALIKE = 1.05  # ratio of the aspect ratios of a mask and its image


class Box(NamedTuple):
    """A rectangle around a finding.

    Attributes:
        finding: its name.
        left, top, right, bottom: edges in pixels of an image, or as shares of the square's side, in [0, 1].
    """

    finding: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Places:
    """Where the findings of one image are. An image without boxes and mask has none.

    Attributes:
        boxes: edges as shares of the square's side.
        drawn: np.bool (S, S), pixels that a mask file marks as abnormal; or None.
        drawn_finding: what they show, or "" where that is not known.
    """

    boxes: tuple[Box, ...] = ()
    drawn: np.ndarray | None = None
    drawn_finding: str = ""

    @property
    def findings(self) -> set[str]:
        """The names of the findings whose places are known."""
        drawn = {self.drawn_finding} if self.drawn is not None and self.drawn.any() else set()
        return ({box.finding for box in self.boxes} | drawn) - {""}

    def mask(self, size: int, finding: str | None = None) -> np.ndarray:
        """Return the abnormal pixels of the square: np.bool (size, size).

        A pixel belongs to a box if its center lies inside. A box that has no center inside gets the nearest pixel.

        Args:
            size: side of the square in pixels; that of `drawn`, if there is one.
            finding: only places of the finding of this name. None: all places.
        """
        result = np.zeros((size, size), bool)
        if self.drawn is not None and finding in (None, self.drawn_finding):
            result |= self.drawn
        for box in self.boxes:
            if finding in (None, box.finding):
                rows, columns = _pixels(box.top, box.bottom, size), _pixels(box.left, box.right, size)
                result[rows, columns] = True
        return result

    def outlines(self) -> tuple[Box, ...]:
        """Return the boxes, and one around each connected region of drawn pixels."""
        if self.drawn is None:
            return self.boxes
        size = len(self.drawn)
        from scipy import ndimage  # slow to import, and scoring does without it

        regions, _ = cast("tuple[np.ndarray, int]", ndimage.label(self.drawn, np.ones((3, 3))))
        around = (
            Box(self.drawn_finding, x.start / size, y.start / size, x.stop / size, y.stop / size)
            for y, x in ndimage.find_objects(regions)
        )
        return (*self.boxes, *around)


def _pixels(low: float, high: float, size: int) -> slice:
    first, last = int(np.ceil(low * size - 0.5)), int(np.ceil(high * size - 0.5))
    if last > first:
        return slice(first, last)
    nearest = min(int((low + high) / 2 * size), size - 1)
    return slice(nearest, nearest + 1)


def box_in_square(box: Box, frame: Frame, size: tuple[float, float] | None = None) -> Box | None:
    """Return a box of an image as a box of the square that was made of it; None if it is wholly cropped away.

    Args:
        box: edges in pixels.
        frame: what the square shows.
        size: width and height of the image that the pixels belong to; None for the file's own.
    """
    wide, high = size or (frame.width, frame.height)

    def place(value, whole, full, low, high):
        return min(max((value / whole * full - low) / (high - low), 0.0), 1.0)

    left, right = (place(x, wide, frame.width, frame.left, frame.right) for x in (box.left, box.right))
    top, bottom = (place(y, high, frame.height, frame.top, frame.bottom) for y in (box.top, box.bottom))
    return Box(box.finding, left, top, right, bottom) if left < right and top < bottom else None


def read_mask(path: Path, frame: Frame, size: int, title: object) -> np.ndarray:
    """Read a mask file, in which every value above 0 is abnormal, as the square shows it.

    Args:
        path: of an image of the same shape as the X-ray's, of any number of pixels.
        frame: what the square shows of the X-ray.
        size: side of the square.
        title: what messages call the file.

    Returns:
        np.bool (size, size): at least half of the pixel is abnormal.

    Raises:
        ImageError: the file is missing or no image, has an alpha channel or another aspect ratio, or marks no pixel.
    """
    try:
        require_file(path)
        with path.open("rb") as opened:
            require_size(opened)
            with open_image(opened) as image:
                if image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
                    raise ValueError("it has an alpha channel, so that it is not known what marks a pixel")
                shown = upright(image)
                # A palette's values are its indices, not its colors.
                values = np.asarray(shown.convert("L") if shown.mode in ("RGB", "CMYK", "YCbCr", "HSV") else shown) > 0
        wide, high = values.shape[1] / frame.width, values.shape[0] / frame.height
        if not 1 / ALIKE < wide / high < ALIKE:
            raise ValueError(f"it is of another shape than the image, which has {frame.width} x {frame.height} pixels")
        if not values.any():
            raise ValueError("it marks no pixel")
    except Exception as error:  # as in `images.read_with_patient`
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{title} cannot be read as a mask ({reason}): replace or remove it") from error
    area = (frame.left * wide, frame.top * high, frame.right * wide, frame.bottom * high)
    share = Image.fromarray(values.astype(np.float32)).resize((size, size), Image.Resampling.BOX, area)
    return np.asarray(share) >= 0.5
