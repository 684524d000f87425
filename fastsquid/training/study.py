"""The rows of the studies of both papers: ablations, sweeps, contamination and baselines."""

import re
from dataclasses import dataclass, field
from typing import Any

from ..config import ABLATIONS, DIGITS, PRESETS, Config, preset

SMALL_EPOCHS = 8  # of DigitAnatomy: at most two minutes per run on two cores
# What the small scale sets in every system's preset, unless the row sets it.
SMALL = {**DIGITS, "epochs": SMALL_EPOCHS}


@dataclass(frozen=True)
class Row:
    """One configuration of a study.

    Attributes:
        system: the preset that the row changes.
        name: of the row, unique within its system.
        changes: {field of `Config`: value}.
        points: {field: value}, the curves that the row has a point on, and where.
    """

    system: str
    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    points: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """Name of the row's folder."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.system} {self.name}".lower())

    def config(self, scale: str) -> Config:
        """Return the row's configuration at a scale, `full` or `small`."""
        if scale == "full":
            return preset(self.system, **self.changes)
        drawn = f"{self.system}-digits"  # some systems have their own preset for DigitAnatomy
        return preset(drawn if drawn in PRESETS else self.system, **{**SMALL, **self.changes})


# SQUID Figure 9. At the small scale an image has 48 pixels per side, which a grid of 4 or 8 does not fit.
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


# SQUID Figure 10. The largest share comes first: data with too few abnormal images is rejected before any training.
CONTAMINATION = (0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


def _sweep(scale: str) -> list[Row]:
    """Return the base, a point of all curves, and a row for every other value of each curve."""
    base = Row("squid", "base").config(scale)
    rows = [Row("squid", "base", {}, {name: getattr(base, name) for name in SWEEP[scale]})]
    for name, values in SWEEP[scale].items():
        others = (value for value in values if value != getattr(base, name))
        rows += [Row("squid", f"{name} {value:g}", {name: value}, {name: value}) for value in others]
    return rows


# Table 2 of each paper.
_ABLATIONS = [
    Row(system, name, changes) for system, rows in ABLATIONS.items() for name, changes in {"Full": {}, **rows}.items()
]


_CONTAMINATION = [
    Row(system, f"contamination {share:g}", {"contamination": share}, {"contamination": share})
    for system in ("squid", "fastsquid")
    for share in CONTAMINATION
]


_BASELINES = [
    Row(system, "Full") for system in ("squid", "simsid", "fastsquid", "memae", "auto-encoder", "cutpaste", "anatpaste")
]


# The rows of every study at each scale.
STUDIES = {
    "ablations": {"full": _ABLATIONS, "small": _ABLATIONS},
    "sweep": {"full": _sweep("full"), "small": _sweep("small")},
    "contamination": {"full": _CONTAMINATION, "small": _CONTAMINATION},
    "baselines": {"full": _BASELINES, "small": _BASELINES},
}
