"""Which images a report is of: those of a folder, or the rows of a CSV of scores; and their labels."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.finding import find_files, log_skipped, no_images
from ..data.names import PATH_NAMES, Names
from ..data.sources.folder import folder_labels
from ..errors import UserError

_LABELS = {"0": 0, "normal": 0, "1": 1, "abnormal": 1, "": None}


@dataclass
class ReportImage:
    """One image of a report.

    Attributes:
        name: its path inside the folder, with "/", or a hash of its file.
        path: of the file; None where a CSV says that it could not be read.
        label: 0 normal, 1 abnormal, None unknown.
        score: from a CSV, or filled in by `examine_images`.
        error: why it could not be read, or "".
        unlike: as `Scorer.unlike_training` returns it, or None.
        age_outside: whether the patient's age is outside of the training patients' ages; None where unknown.
    """

    name: str
    path: Path | None
    label: int | None = None
    score: float | None = None
    error: str = ""
    unlike: float | None = None
    age_outside: bool | None = None


def folder_images(folder: str | Path, names: Names = PATH_NAMES) -> list[ReportImage]:
    """Return all images below a folder. Class folders label them, if NORMAL is among them.

    Args:
        folder: to search.
        names: how images are named.

    Raises:
        UserError: the folder cannot be listed or holds no images.
    """
    folder = Path(folder)
    found = find_files(folder)
    paths = found.images
    if not paths:
        raise no_images(folder, found)
    log_skipped([found], names)
    shown, _ = names.images_and_files([path.relative_to(folder).as_posix() for path in paths], paths)
    return list(map(ReportImage, shown, paths, folder_labels(folder, paths)))


def csv_images(path: str | Path, folder: str | Path, score: str, names: Names = PATH_NAMES) -> list[ReportImage]:
    """Return one image per row of a CSV that `fastsquid.score` or a training run wrote.

    Args:
        path: of the CSV, with the columns name and score, or the score's own name; label and error are read where they
            exist.
        folder: with the images.
        score: the name of the score.
        names: how the CSV names images.

    Raises:
        UserError: a CSV that is not of this kind, or an image that is not below the folder.
    """
    rows = _read_rows(path, ["name"], ("score", score))
    score = "score" if "score" in rows[0][1] else score
    known = {image.name: image for image in folder_images(folder, names)}
    images = []
    for line, row in rows:
        name = row["name"]
        if error := row.get("error"):
            images.append(ReportImage(name, None, error=readable_error(error)))
            continue
        if name not in known:
            raise UserError(
                f"{path} names an image in line {line} that {folder} does not have: give --images the folder "
                f"{names.csv_hint}"
            )
        image = known[name]
        try:
            image.score = float(row[score])
        except ValueError:
            image.score = np.nan
        if not np.isfinite(image.score):
            raise UserError(f"{path} has {row[score]!r} as {score} in line {line}: it should be a finite number")
        images.append(image)
    if "label" in rows[0][1]:
        for image, (line, row) in zip(images, rows):
            image.label = _label(path, line, row["label"])
    return images


def label_images(images: Sequence[ReportImage], path: str | Path) -> None:
    """Replace all labels by those of a CSV with the columns name and label. Images that it does not name get none.

    A label is 0 or normal, 1 or abnormal, in any case; or empty.

    Raises:
        UserError: a CSV that is not of this kind, or a row that names no image.
    """
    labels = {}
    for line, row in _read_rows(path, ["name", "label"]):
        labels[row["name"]] = _label(path, line, row["label"])
    unknown = set(labels) - {image.name for image in images}
    if unknown:
        raise UserError(
            f"{path} labels {min(unknown)}, which is not one of the images: its names should be like {images[0].name}"
        )
    for image in images:
        image.label = labels.get(image.name)


def readable_error(error: str) -> str:
    """Return the message of an `ImageError` without the path, because a report may be passed on."""
    reason = re.search(r"cannot be read as an image \(.*\)", error, re.S)
    return reason[0] if reason else "could not be read when it was scored"


def _label(path, line, text):
    if text.strip().lower() not in _LABELS:
        raise UserError(
            f"{path} has the label {text!r} in line {line}: it should be 0 or normal, 1 or abnormal, or empty"
        )
    return _LABELS[text.strip().lower()]


def _read_rows(path, columns, either=()):
    """Return [(line, {column: text})] of a CSV with these columns, one of `either`, one row, and each name once."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a CSV with the columns {', '.join([*columns, *either[:1]])}")
    rows, names = [], set()
    # As `files.replacing` writes it; utf-8-sig, since spreadsheets put a byte order mark in front.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            head = next(reader, [])
            if either and not set(either) & set(head):
                wanted = " or ".join(map(repr, either))
                raise UserError(
                    f"{path} should have a column {wanted}, but its columns are {', '.join(head) or 'none'}"
                )
            for column in (*columns, *[column for column in either if column in head][:1]):
                if head.count(column) != 1:
                    raise UserError(
                        f"{path} should have one column {column!r}, but its columns are {', '.join(head) or 'none'}"
                    )
            for cells in filter(None, reader):
                row = dict(zip(head, cells))
                if len(cells) != len(head):
                    raise UserError(
                        f"{path} has {len(cells)} cells in line {reader.line_num} and {len(head)} in its first line: "
                        "give every row one cell per column"
                    )
                if row["name"] in names:
                    raise UserError(f"{path} names {row['name']} twice (line {reader.line_num}): give each image once")
                names.add(row["name"])
                rows.append((reader.line_num, row))
        except csv.Error as error:
            raise UserError(f"{path} is not a CSV (line {reader.line_num}: {error})") from None
    if not rows:
        raise UserError(f"{path} has no rows: give one per image")
    return rows
