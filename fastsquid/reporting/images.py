"""Which images a report is of: those of a folder, or the rows of a CSV of scores; and their labels."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.images import find_images
from ..data.names import Distinct, content_name
from ..data.sources.folder import folder_labels
from ..errors import UserError

_LABELS = {"0": 0, "normal": 0, "1": 1, "abnormal": 1, "": None}


@dataclass
class ReportImage:
    """One image of a report, and what is known of it before it is opened.

    Attributes:
        name: its path inside the folder, with "/", or a hash of what is in it.
        path: Path of the file; None where a CSV says that it could not be read.
        label: 0 normal, 1 abnormal, None unlabelled.
        score: what a CSV says, or None.
        error: why it could not be read, or "".
        unlike: how unlike the training images it is, as `Scorer.unlike_training` gives it, or None.
    """

    name: str
    path: Path | None
    label: int | None = None
    score: float | None = None
    error: str = ""
    unlike: float | None = None


def folder_images(folder, anonymous=False):
    """A list of `ReportImage` of all images below a folder, labelled by its class folders where NORMAL is among them.

    Args:
        anonymous: call them by what is in the files, as `score --anonymous` does.

    Raises:
        UserError: the folder cannot be listed or holds no images.
    """
    folder = Path(folder)
    paths = find_images(folder)
    if not paths:
        raise UserError(f"{folder} holds no images")
    names = [path.relative_to(folder).as_posix() for path in paths]
    if anonymous:
        names = list(map(Distinct(), map(content_name, paths)))
    return list(map(ReportImage, names, paths, folder_labels(folder, paths)))


def csv_images(path, folder, score, anonymous=False):
    """A list of `ReportImage`, one a row of a CSV that `fastsquid.score` or a training run wrote.

    Args:
        path: of the CSV, with the columns name and `score`; label and error where it has them.
        folder: with the images.
        anonymous: whether the CSV calls them by what is in them, and not by their paths inside the folder.
        score: the column that is read.

    Raises:
        UserError: a CSV that is not of this kind, or an image that is not below the folder.
    """
    rows = _read_rows(path, ["name", score])
    known = {image.name: image for image in folder_images(folder, anonymous)}
    images = []
    for line, row in rows:
        name = row["name"]
        if error := row.get("error"):
            images.append(ReportImage(name, None, error=readable_error(error)))
            continue
        if name not in known:
            what = "hashes of files of" if anonymous else "relative to, or --anonymous where they are hashes"
            raise UserError(
                f"{path} names an image in line {line} that {folder} does not have: give --images the folder that its "
                f"names are {what}"
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


def label_images(images, path):
    """Replaces all labels by those of a CSV with columns name and label; images that it does not name have none.

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
            f"{path} labels {min(unknown)}, which is none of the images: its names should be like {images[0].name}"
        )
    for image in images:
        image.label = labels.get(image.name)


def readable_error(error):
    """What `ImageError` says, without the path, which a report that is passed on should not hold."""
    reason = re.search(r"cannot be read as an image \(.*\)", error, re.S)
    return reason[0] if reason else "could not be read when it was scored"


def _label(path, line, text):
    if text.strip().lower() not in _LABELS:
        raise UserError(
            f"{path} has the label {text!r} in line {line}: it should be 0 or normal, 1 or abnormal, or empty"
        )
    return _LABELS[text.strip().lower()]


def _read_rows(path, columns):
    """[(line, {column: text})] of a CSV that has at least these columns and one row, each name once."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is no file: give a CSV with the columns {', '.join(columns)}")
    rows, names = [], set()
    # As `files.replacing` writes it; utf-8-sig, since spreadsheets put a byte order mark in front.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            head = next(reader, [])
            for column in columns:
                if head.count(column) != 1:
                    raise UserError(
                        f"{path} should have one column {column!r}, but its columns are {', '.join(head) or 'none'}"
                    )
            for cells in filter(None, reader):
                row = dict(zip(head, cells))
                if len(cells) != len(head):
                    raise UserError(
                        f"{path} has {len(cells)} cells in line {reader.line_num} and {len(head)} in its first line: "
                        "give every row a cell a column"
                    )
                if row["name"] in names:
                    raise UserError(f"{path} names {row['name']} twice (line {reader.line_num}): give each image once")
                names.add(row["name"])
                rows.append((reader.line_num, row))
        except csv.Error as error:
            raise UserError(f"{path} is no CSV (line {reader.line_num}: {error})") from None
    if not rows:
        raise UserError(f"{path} has no rows: give one for each image")
    return rows
