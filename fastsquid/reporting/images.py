"""Which images a report is of: those of a folder, or the rows of a CSV of scores; and their labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.filetypes import ImageFile
from ..data.finding import find_files, log_skipped, no_images
from ..data.names import PATH_NAMES, Names
from ..data.places import Box
from ..data.sources import source_of
from ..data.sources.folder import folder_labels
from ..data.sources.own_list import is_list
from ..data.split import Split
from ..data.tables import column_names, find_name, read_label, read_number, read_table
from ..errors import UserError
from ..runs.folder import FINDINGS
from ..utils.text import printable, split_names


@dataclass
class ReportImage:
    """One image of a report.

    Attributes:
        name: its path inside the folder, with "/", or a hash of its file.
        path: of the file; None where a CSV says that it could not be read.
        label: 0 normal, 1 abnormal, None unknown.
        findings: names of the abnormal classes of the image, as far as they are known.
        score: from a CSV, or filled in by `examine_images`.
        error: why it could not be read, or "".
        unlike: as `Scorer.unlike_training` returns it, or None.
        places: boxes around its findings, as shares of the square's side.
        age_outside: whether the patient's age is outside of the training patients' ages; None where unknown.
    """

    name: str
    path: ImageFile | None
    label: int | None = None
    findings: tuple[str, ...] = ()
    score: float | None = None
    error: str = ""
    unlike: float | None = None
    age_outside: bool | None = None
    places: tuple[Box, ...] = ()


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
    labels, folders = folder_labels(folder, paths)
    classes = names.classes(folders, [label or 0 for label in labels])
    findings = [(name,) if label else () for name, label in zip(classes, labels)]
    return list(map(ReportImage, shown, paths, labels, findings))


def is_data_set(path: Path) -> bool:
    """Return whether a path is a list of images, or a data set that says itself which images are in which split."""
    if path.is_file():
        return is_list(path) and (path.suffix.lower() not in (".csv", ".tsv") or "path" in column_names(path))
    return source_of(path).name not in ("digits", "zhanglab", "folder")


def split_images(split: Split, names: Names = PATH_NAMES) -> list[ReportImage]:
    """Return the images of a split of a data set, with labels, findings and places.

    Args:
        split: that was read from files.
        names: how images are named.
    """
    assert split.files is not None
    labels = [None] * len(split) if split.labels is None else split.labels.tolist()
    findings = split.abnormal_findings() or [()] * len(split)
    images = list(map(ReportImage, split.names, split.files, labels, findings))
    for index, image in enumerate(images):
        boxes = split.shown_places(index).outlines()
        shown = names.classes([box.finding for box in boxes], [1] * len(boxes))
        image.places = tuple(box._replace(finding=finding) for box, finding in zip(boxes, shown))
    return images


def csv_images(path: str | Path, folder: str | Path, score: str, names: Names = PATH_NAMES) -> list[ReportImage]:
    """Return one image per row of a CSV that `fastsquid.score` or a training run wrote.

    Args:
        path: of the CSV, with the columns name and score, or the score's own name; label, findings and error are read
            where they exist.
        folder: with the images.
        score: the name of the score.
        names: how the CSV names images.

    Raises:
        UserError: a CSV that is not of this kind, or an image that is not below the folder.
    """
    rows = _read_rows(path, ["name"], ("score", score))
    score = "score" if "score" in rows[0][1] else score
    known = {image.name: image for image in folder_images(folder, names)}
    images, seen = [], set()
    for line, row in rows:
        name = find_name(row["name"], known) or row["name"]
        _require_new(path, line, name, seen)
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
            image.score = read_number(row[score])
        except ValueError:
            image.score = np.nan
        if not np.isfinite(image.score):
            raise UserError(f"{path} has {row[score]!r} as {score} in line {line}: it should be a finite number")
        images.append(image)
    if "label" in rows[0][1]:
        for image, (line, row) in zip(images, rows):
            image.label = _label(path, line, row["label"])
    if FINDINGS in rows[0][1]:
        for image, (_, row) in zip(images, rows):
            image.findings = split_names(row[FINDINGS])
    return images


def label_images(images: Sequence[ReportImage], path: str | Path) -> None:
    """Replace all labels by those of a CSV with the columns name and label. Images that it does not name get none.

    A label is as `read_label` takes it. Findings are dropped, because they belong to the other labels.

    Raises:
        UserError: a CSV that is not of this kind, or a row that names no image.
    """
    known, seen, labels = {image.name for image in images}, set(), {}
    for line, row in _read_rows(path, ["name", "label"]):
        name = find_name(row["name"], known)
        if name is None:
            raise UserError(
                f"{path} labels {row['name']} in line {line}, which is not one of the images: its names should be like "
                f"{images[0].name}"
            )
        _require_new(path, line, name, seen)
        labels[name] = _label(path, line, row["label"])
    for image in images:
        image.label, image.findings = labels.get(image.name), ()


def readable_error(error: str) -> str:
    """Return the message of an `ImageError` without the path, because a report may be passed on."""
    reason = re.search(r"cannot be read as an image \(.*\)", error, re.S)
    return printable(reason[0]) if reason else "could not be read when it was scored"


def _label(path: str | Path, line: int, text: str) -> int | None:
    try:
        return read_label(text)
    except ValueError:
        raise UserError(
            f"{path} has the label {text!r} in line {line}: it should be 0 or normal, 1 or abnormal, or empty"
        ) from None


def _require_new(path: str | Path, line: int, name: str, seen: set[str]) -> None:
    """Add a name to those of earlier rows, or raise a UserError if it is one of them."""
    if name in seen:
        raise UserError(f"{path} names {name} twice (line {line}): give each image once")
    seen.add(name)


def _read_rows(path: str | Path, columns: list[str], either: tuple[str, ...] = ()) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a table (`read_table`), at least one."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a CSV with the columns {', '.join([*columns, *either[:1]])}")
    rows = list(read_table(path, columns, either))
    if not rows:
        raise UserError(f"{path} has no rows: give one per image")
    return rows
