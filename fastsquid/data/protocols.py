"""Splits of publications by name, as far as they are published. docs/datasets.md says where they are not."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .finding import find_files
from .listed import Listed, open_listed
from .sources import Source
from .sources.chexpert import open_chexpert
from .split import ReadOptions, Split, split_folders

log = logging.getLogger(__name__)

VALIDATION = 100  # images of each label

# An image's patient in file names of the ZhangLab release, and of its third version.
_PATIENT = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+|(?:BACTERIA|VIRUS|NORMAL)-\d+)[-_]")
# The RSNA challenge names images by UUIDs, the VinBigData challenge by 32 digits without hyphens.
_RSNA = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Protocol:
    """How a publication split a data set.

    Attributes:
        source: name of the source whose data it needs, as in `sources.SOURCES`.
        publication: where the split is described, for messages.
        open: as `Source.open`; None if the source itself gives this split.
        require: function of the data's path that raises a UserError if the data is not what was published, or None.
    """

    source: str
    publication: str
    open: Callable[[Path, ReadOptions], dict[str, Split]] | None = None
    require: Callable[[Path], None] | None = None


def _open_zhanglab(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read ZhangLab as SQUID does: 100 healthy and 100 abnormal images of the official training set are for val.

    Kaggle's version has moved 16 training images into a folder `val`; they belong to the training set again. Which
    images SQUID took for validation is not published. They are drawn here, the same ones at every call, without
    separating images of a patient, as far as file names tell.

    Raises:
        UserError: a folder is missing, or has too few images.
    """
    folders = split_folders(root)
    missing = [name for name in ("train", "test") if name not in folders]
    if missing:
        raise UserError(f"--protocol squid-zhanglab needs the folder {root / missing[0]}: give the whole release")
    pool = [row for name in ("train", "val") if name in folders for row in _rows(folders[name])]
    val = [row for label in (0, 1) for row in _draw([row for row in pool if row.label == label], root)]
    chosen = {row.file for row in val}
    train = [row for row in pool if not row.label and row.file not in chosen]
    return open_listed(root, {"train": train, "val": val, "test": _rows(folders["test"])}, options, drawn=True)


def _rows(folder: Path) -> list[Listed]:
    """Return the images of a folder of class folders, without patients: those of train and test are numbered anew."""
    rows = []
    for path in find_files(folder).images:
        name = path.relative_to(folder).parts[0]
        label = int(name.lower() != "normal")
        rows.append(Listed(path, label, findings=(name,) if label else ()))
    return rows


def _draw(rows: Sequence[Listed], root: Path) -> list[Listed]:
    """Draw `VALIDATION` images, all of a patient or none."""
    if len(rows) < 2 * VALIDATION:
        raise UserError(
            f"--protocol squid-zhanglab validates on {VALIDATION} healthy and {VALIDATION} abnormal training images, "
            f"but {root} has {len(rows)} of one kind: give the whole release"
        )
    patients: dict[str, list[Listed]] = {}
    for row in rows:
        found = _PATIENT.match(row.file.name)
        patients.setdefault(found[1] if found else row.file.name, []).append(row)
    groups = [patients[name] for name in sorted(patients)]
    drawn: list[Listed] = []
    for i in np.random.default_rng(0).permutation(len(groups)):
        if len(drawn) + len(groups[i]) <= VALIDATION:
            drawn += groups[i]
    return sorted(drawn, key=lambda row: row.file.as_posix())


def _require_covidx9a(root: Path) -> None:
    for name in ("train_COVIDx9A.txt", "test_COVIDx9A.txt"):
        if not (root / name).is_file():
            raise UserError(f"--protocol simsid-covidx needs a list of COVIDx 9A, {root / name}: download it there")
    if found := sorted(root.glob("val*.txt")):
        raise UserError(
            f"--protocol simsid-covidx draws validation from the training list, but {found[0]} is there: move it away"
        )


def _require_rsna(root: Path) -> None:
    found = find_files(root).images
    if found and not _RSNA.fullmatch(found[0].stem):
        raise UserError(
            f"--protocol medianomaly-rsna needs MedIAnomaly's folder RSNA, but {root} has images of other names, such "
            f"as {found[0].name}: give that folder"
        )


PROTOCOLS = {
    "squid-zhanglab": Protocol("zhanglab", "Xiang et al., CVPR 2023, section 4", _open_zhanglab),
    "squid-chexpert": Protocol(
        "chexpert", "Xiang et al., CVPR 2023, section 4", partial(open_chexpert, official_test=False)
    ),
    "simsid-covidx": Protocol("covidx", "Xiang et al., TPAMI 2024, section 4.1", require=_require_covidx9a),
    "medianomaly-rsna": Protocol("medianomaly", "Cai et al., MedIAnomaly 2024", require=_require_rsna),
}


def protocol_opener(name: str, source: Source, root: Path | None) -> Callable[[Any, ReadOptions], dict[str, Split]]:
    """Return the function that opens data as a publication did, and log which publication it is.

    Args:
        name: one of `PROTOCOLS`.
        source: of the data.
        root: path of the data.

    Raises:
        UserError: there is no such protocol, or the data is not what it needs.
    """
    protocol = PROTOCOLS.get(name)
    if protocol is None:
        raise UserError(f"there is no protocol {name!r}: give one of {', '.join(PROTOCOLS)}")
    if source.name != protocol.source or root is None:
        raise UserError(
            f"--protocol {name} needs {protocol.source} data, but {root} is recognized as {source.name}: give the "
            "folder of the release, or leave --protocol out"
        )
    if protocol.require is not None:
        protocol.require(root)
    log.info("split as in %s (--protocol %s)", protocol.publication, name)
    return protocol.open or source.open
