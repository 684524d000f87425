"""Thresholds that a run offers for its scores. None is a medical decision."""

from collections.abc import Mapping
from typing import NamedTuple

from .scores import Calibration

# What is said of a run that had no labeled images to measure its scores on.
UNMEASURED = (
    "No labeled images have measured how well this run separates healthy from sick images. Add a labeled val folder "
    "(NORMAL and other classes), then run evaluate with --data."
)


class Threshold(NamedTuple):
    """A score from which on images count as above.

    Attributes:
        value: the score.
        what: how it was chosen, for people.
    """

    value: float
    what: str


def offered_thresholds(
    name: str, validation: Mapping[str, Mapping[str, float]] | None, calibration: Mapping[str, Calibration] | None
) -> list[Threshold]:
    """Return the thresholds that a run offers; the first is the one to begin with.

    Args:
        name: of the score.
        validation: {score: {"auc", "threshold"}} on labeled validation images, or None.
        calibration: {score: `Calibration`}, or None.
    """
    found: list[Threshold] = []
    if validation:
        found.append(Threshold(validation[name]["threshold"], "most accurate on the run's validation images"))
    if calibration:
        usual = calibration[name]
        if usual.quantiles:
            found.append(Threshold(usual.quantiles[95], "95th percentile of normal validation images"))
        which = "normal images" if usual.quantiles else "the training images, all taken as normal"
        found.append(Threshold(usual.mean + 2 * usual.std, f"mean + 2 standard deviations of {which}"))
    return found
