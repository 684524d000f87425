"""The rows of the papers' studies: ablations, sweeps, contamination and baselines."""

import re
from dataclasses import dataclass, field

from ..config import ABLATIONS, DIGITS, PRESETS, preset

SMALL_EPOCHS = 8  # of DigitAnatomy: at most two minutes a run on two cores


SMALL = {**DIGITS, "epochs": SMALL_EPOCHS}  # what the small scale sets in every system's preset, unless the row does


@dataclass(frozen=True)
class Row:
    """One configuration of a study.

    Attributes:
        system: the preset that it changes.
        name: of the row, one of its system's.
        changes: {field: value}.
        points: {field: value} of the curves that it is a point of.
    """

    system: str
    name: str
    changes: dict = field(default_factory=dict)
    points: dict = field(default_factory=dict)

    @property
    def slug(self):
        """Name of the row's folder."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.system} {self.name}".lower())

    def config(self, scale):
        """The row's `Config` at a scale, `full` or `small`."""
        if scale == "full":
            return preset(self.system, **self.changes)
        drawn = f"{self.system}-digits"  # a preset of its own for DigitAnatomy, where the system has one
        return preset(drawn if drawn in PRESETS else self.system, **{**SMALL, **self.changes})


# SQUID Figure 9; the small scale's image of 48 pixels has no grid of 4 or 8
SWEEP = {
    "full": {
        "grid": (1, 2, 4, 8),
        "slots": (50, 100, 200, 500, 1000),
        "top_k": (1, 5, 10, 25, 50),
        "shortcut": (0.5, 0.8, 0.9, 0.95, 1.0),
    },
    "small": {
        "grid": (1, 2, 3, 6),
        "slots": (20, 50, 100, 200, 500),
        "top_k": (1, 5, 10, 25, 50),
        "shortcut": (0.5, 0.8, 0.9, 0.95, 1.0),
    },
}


# SQUID Figure 10. The most first: data with too few abnormal images is refused before anything is trained.
CONTAMINATION = (0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


def _sweep(scale):
    """The base, which all curves share, and a row for every other value of each."""
    base = Row("squid", "base").config(scale)
    rows = [Row("squid", "base", {}, {name: getattr(base, name) for name in SWEEP[scale]})]
    for name, values in SWEEP[scale].items():
        others = (value for value in values if value != getattr(base, name))
        rows += [Row("squid", f"{name} {value:g}", {name: value}, {name: value}) for value in others]
    return rows


# The rows of every study at each scale.
_ABLATIONS = [
    Row(system, name, changes)
    for system, rows in ABLATIONS.items()
    for name, changes in {"Full": {}, **rows}.items()  # Table 2 of each paper
]


_CONTAMINATION = [
    Row(system, f"contamination {share:g}", {"contamination": share}, {"contamination": share})
    for system in ("squid", "fastsquid")
    for share in CONTAMINATION
]


_BASELINES = [Row(system, "Full") for system in ("squid", "simsid", "fastsquid", "memae", "auto-encoder")]


STUDIES = {
    "ablations": {"full": _ABLATIONS, "small": _ABLATIONS},
    "sweep": {"full": _sweep("full"), "small": _sweep("small")},
    "contamination": {"full": _CONTAMINATION, "small": _CONTAMINATION},
    "baselines": {"full": _BASELINES, "small": _BASELINES},
}
