"""Images that a list names, with labels, patients and findings: what every source with a list returns."""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import UserError
from .dicom.kinds import Accept
from .dicom.patient import identity_of
from .dicom.patients import constant_identity, read_patients, reject_shared_patients
from .framing import Frame
from .names import PATH_NAMES, Names
from .places import Box, Places, box_in_square, read_mask
from .split import SPLITS, ReadOptions, Split, read_split

ROUNDING = 0.01  # of the side, by which a box may end outside of the image
# Of healthy patients, where a source does not say who is in which split.
SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Listed:
    """One image of a list.

    Attributes:
        file: Path.
        label: 0 healthy, 1 abnormal.
        patient: who it shows, by any name or hash that no other patient has; None if that is not known.
        findings: names of the diseases or signs in an abnormal image; empty if they are not named.
        boxes: where the findings are, in pixels; None if that is not known.
        box_size: width and height of the image that the boxes belong to; None for the file's own.
        mask: Path of an image of the abnormal pixels, or None.
    """

    file: Path
    label: int
    patient: str | bytes | None = None
    findings: tuple[str, ...] = ()
    boxes: tuple[Box, ...] | None = None
    box_size: tuple[float, float] | None = None
    mask: Path | None = None

    def places(self, frame: Frame, size: int, names: Names = PATH_NAMES) -> Places | None:
        """Return where the findings are in the square that shows a frame of the image; None if that is not known.

        Args:
            frame: what the square shows.
            size: side of the square in pixels, at which a mask is read.
            names: what messages call the mask's file.

        Raises:
            ImageError: as `places.read_mask`.
            UserError: a box is outside of the image.
        """
        if self.label and self.boxes is None and self.mask is None:
            return None
        width, height = self.box_size or (frame.width, frame.height)
        for box in self.boxes or ():
            if box.right > width * (1 + ROUNDING) or box.bottom > height * (1 + ROUNDING):
                raise UserError(
                    f"{names.file(self.file)} has {width:g} x {height:g} pixels, but a box to ({box.right:g}, "
                    f"{box.bottom:g}): give boxes in pixels of this file"
                )
        boxes = (box_in_square(box, frame, self.box_size) for box in self.boxes or ())
        drawn = self.mask and read_mask(self.mask, frame, size, names.file(self.mask))
        finding = self.findings[0] if len(self.findings) == 1 else ""
        return Places(tuple(box for box in boxes if box is not None), drawn, finding)

    @property
    def class_name(self) -> str:
        """`normal`, the finding's name if there is one only, or else `abnormal`."""
        if not self.label:
            return "normal"
        return self.findings[0] if len(self.findings) == 1 else "abnormal"


def open_listed(
    root: Path, rows: Mapping[str, Sequence[Listed]], options: ReadOptions, drawn: bool = False
) -> dict[str, Split]:
    """Read the images of a list.

    Args:
        root: folder of the data. Images are named by their paths relative to it, unless `options.names` gives others.
        rows: {split: its images}; of train only the healthy ones are read.
        options: `ReadOptions`.
        drawn: fastsquid drew the splits (`draw_splits`).

    Returns:
        dict of split name to Split, without the splits that have no images.

    Raises:
        UserError: an image is listed twice, a patient is in two splits, files are missing, or there is no healthy image
            to train on.
    """
    rows = {name: [row for row in rows.get(name, ()) if name != "train" or not row.label] for name in SPLITS}
    if "train" in options.splits and any(rows.values()) and not rows["train"]:
        raise UserError(f"{root} lists no healthy images to train on: it needs some outside of val and test")
    _reject_repeated(rows, options.names)
    _reject_shared(rows, options.names)
    if not options.skip_unreadable:
        require_files(root, [row.file for name in options.splits for row in rows[name]], options.names)
    _require_masks([row for name in options.splits for row in rows[name]], options.names)
    patients = {name: read_patients((row.file for row in mine), options.accept) for name, mine in rows.items()}
    _reject_listed(rows, patients, options.names)
    reject_shared_patients(
        {name: [(row.file, patient) for row, patient in zip(mine, patients[name])] for name, mine in rows.items()},
        options.names,
    )
    data = {}
    for name in options.splits:
        if mine := rows[name]:
            placed = any(row.label and (row.boxes is not None or row.mask is not None) for row in mine)
            ages = [patient and patient.age for patient in patients[name]]
            data[name] = read_split(
                [row.file for row in mine],
                [_relative(row.file, root) for row in mine],
                [row.label for row in mine],
                options,
                ages if any(patients[name]) else None,
                options.names.classes([row.class_name for row in mine], [row.label for row in mine]),
                [partial(row.places, size=options.size, names=options.names) for row in mine] if placed else None,
                [_findings(row, options.names) for row in mine],
            )
            data[name].drawn = drawn
    return data


def draw_splits(rows: Iterable[Listed], keep: Mapping[str, Sequence[Listed]] | None = None) -> dict[str, list[Listed]]:
    """Draw splits by patient, the same ones at every call for the same images.

    A patient with an abnormal image counts as abnormal. Of the healthy patients 80 % are for train, 10 % for val and
    10 % for test. Of the abnormal patients, half are for test. The other half are for val, but no more than val has
    healthy ones, so that validation stays short; the rest is also for test.

    Args:
        rows: images; those without a patient count as a patient each.
        keep: {split: images that are in it already}; only the other splits of `SPLITS`, one at least, are drawn. The
            shares are then scaled, so that their sum is 1.

    Returns:
        {split: images}.
    """
    keep = keep or {}
    wanted = [name for name in SPLITS if name not in keep]
    patients: dict[object, list[Listed]] = {}
    for row in sorted(rows, key=lambda row: row.file.as_posix()):
        patients.setdefault(row.patient if row.patient is not None else row.file, []).append(row)
    rng = np.random.default_rng(0)
    groups = list(patients.values())
    groups = [groups[i] for i in rng.permutation(len(groups))]
    healthy = [group for group in groups if not any(row.label for row in group)]
    abnormal = [group for group in groups if any(row.label for row in group)]
    shares = {name: SHARES[name] / sum(SHARES[name] for name in wanted) for name in wanted}
    chosen: dict[str, list[list[Listed]]] = {}
    left = healthy
    for name in wanted[1:]:
        count = max(round(shares[name] * len(healthy)), min(1, len(left) - 1))
        chosen[name], left = left[:count], left[count:]
    chosen[wanted[0]] = left
    if "val" in wanted:
        count = min(len(abnormal) // 2 if "test" in wanted else len(abnormal), len(chosen["val"]))
        chosen["val"], abnormal = chosen["val"] + abnormal[:count], abnormal[count:]
    if "test" in wanted:
        chosen["test"] = chosen["test"] + abnormal
    result = {name: list(keep.get(name, ())) for name in SPLITS}
    for name, mine in chosen.items():
        result[name] = sorted((row for group in mine for row in group), key=lambda row: row.file.as_posix())
    return result


def with_patients(rows: Sequence[Listed], others: Sequence[Listed], accept: Accept) -> list[Listed]:
    """Return images of which DICOM files have their patient, where the list names none.

    It is the one that the list names for another image with the same PatientID, or else the hash of PatientID.

    Args:
        rows: images.
        others: further images of the list.
        accept: as `read_dicom` takes it.
    """
    every = [*rows, *others]
    patients = read_patients((row.file for row in every), accept)
    constant = constant_identity([patient for patient in patients if patient is not None])
    identities = [None if patient is None or patient.identity == constant else patient.identity for patient in patients]
    named = {identity_of(row.patient): row.patient for row in every if isinstance(row.patient, str)}
    named |= {identity: row.patient for row, identity in zip(every, identities) if row.patient is not None}
    return [
        row if row.patient is not None or identity is None else replace(row, patient=named.get(identity, identity))
        for row, identity in zip(rows, identities)
    ]


def require_files(root: Path, files: Sequence[Path], names: Names, title: str = "") -> None:
    """Reject a data set of which some files are missing.

    Args:
        root: folder of the data.
        files: that are to be read.
        names: what messages call files.
        title: of the data set.

    Raises:
        UserError: says how many are missing, and names the first one.
    """
    missing = [file for file in files if not os.path.exists(file)]
    if missing:
        raise UserError(
            f"{root} is {f'{title} but' if title else 'incomplete:'} {len(missing)} of {len(files)} listed images are "
            f"missing, such as {names.quote(_relative(missing[0], root))} ({os.strerror(errno.ENOENT)}). Download or "
            "unpack them, or give --skip-unreadable to go on without them"
        )


def _findings(row: Listed, names: Names) -> tuple[str, ...]:
    """Return an image's findings, each once, by what `names` calls them."""
    return tuple(dict.fromkeys(names.classes(row.findings, [row.label] * len(row.findings))))


def _require_masks(rows, names):
    missing = [row.mask for row in rows if row.mask is not None and not os.path.exists(row.mask)]
    if missing:
        raise UserError(
            f"{len(missing)} listed masks are missing, such as {names.quote(str(missing[0]))}: put them there, or list "
            "their images without a mask"
        )


def _reject_repeated(rows, names):
    found = set()
    for mine in rows.values():
        for row in mine:
            file = os.path.realpath(row.file)  # it may be written in several ways
            if file in found:
                raise UserError(f"{names.quote(str(row.file))} is listed twice: keep one of its rows")
            found.add(file)


def _reject_shared(rows, names):
    first: dict[str, tuple[str, Path]] = {}
    for name, mine in rows.items():
        for row in mine:
            if row.patient is None:
                continue
            other, file = first.setdefault(row.patient, (name, row.file))
            if other != name:
                raise UserError(
                    f"{names.quote(str(file))} of {other} and {names.quote(str(row.file))} of {name} are of the same "
                    "patient: put all images of a patient into one split"
                )


def _reject_listed(rows, patients, names):
    """Reject a patient that the list names in one split, and PatientID in another."""
    named = {
        identity_of(row.patient): (name, row.file)
        for name, mine in rows.items()
        for row in mine
        if isinstance(row.patient, str)
    }
    for name, mine in rows.items():
        for row, patient in zip(mine, patients[name]):
            if row.patient is not None or patient is None or patient.identity is None:
                continue
            other, file = named.get(patient.identity, (name, None))
            if other != name:
                raise UserError(
                    f"{names.quote(str(file))} of {other} and {names.quote(str(row.file))} of {name} are of the same "
                    "patient, by the list and by PatientID: put all images of a patient into one split"
                )


def _relative(path, root):
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
