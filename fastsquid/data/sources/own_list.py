"""A list of one's own: a CSV, JSON lines or Parquet file with a row per image, or per finding of an image."""

import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ...errors import UserError
from ..listed import Listed, draw_splits, open_listed, with_patients
from ..names import Names
from ..places import Box
from ..records import TABLE_SUFFIXES, read_records
from ..split import SPLITS, ReadOptions, Split, split_of
from ..tables import read_label, read_number, whole_number

log = logging.getLogger(__name__)

COLUMNS = ("path", "label")
BOX = ("x_min", "y_min", "x_max", "y_max")
OTHERS = ("split", "patient", "class", *BOX, "mask")
HEALTHY = frozenset(("normal", "healthy", "no finding"))


def is_list(path: Path | None) -> bool:
    """Return whether a path is a file that is named as a table."""
    return path is not None and path.suffix.lower() in TABLE_SUFFIXES and path.is_file()


def open_list(path: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the images of a list.

    Columns: `path`, relative to the list's folder or absolute. `label`: 0, `normal`, `healthy` or `no finding`; 1 or
    `abnormal`; any other word is the name of an abnormal class. The others may be absent, or empty in a row:

    - `split`: train, val or test, or a name that folders of splits may have (`split.split_of`). Images without a split
      get one of those that no image has, drawn by patient (`listed.draw_splits`). Of train only healthy images are
      read.
    - `patient`: who the image shows; of a DICOM file without one, PatientID. No patient may be in two splits.
    - `class`: a finding's name. An image may have several rows, one for each finding.
    - `x_min`, `y_min`, `x_max`, `y_max`: a box around the finding in pixels of the image as viewers show it (turned as
      its EXIF says). If only some findings of an image have boxes, its places count as unknown.
    - `mask`: path of an image in which values above 0 mark abnormal pixels.

    Args:
        path: of the list.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that have no images.

    Raises:
        UserError: a column or a value is missing or invalid, rows of an image contradict each other, all splits are
            named but some images have none; or as `listed.open_listed` raises it.
    """
    images: dict[str, tuple[str, Listed]] = {}  # by the real path: an image may be written in several ways
    for number, row in read_records(path, COLUMNS, OTHERS):
        where = f"{path} row {number}"
        split, image = _read_row(path, {name: text.strip() for name, text in row.items()}, where, options.names)
        file = os.path.realpath(image.file)
        if file in images:
            split, image = _join(images[file], (split, image), where, options.names)
        images[file] = split, image
    given: dict[str, list[Listed]] = {}
    for split, image in images.values():
        given.setdefault(split, []).append(_known_places(image))
    if not images:
        raise UserError(f"{path} lists no images: give a row per image")
    without = given.pop("", [])
    if without and len(given) == len(SPLITS):
        raise UserError(
            f"{path} gives {len(without)} images no split, such as {options.names.quote(str(without[0].file))}, but "
            "others are in train, val and test: name a split for all of them"
        )
    _log_classes(images.values(), options)
    if without:
        known = [image for images in given.values() for image in images]
        given = draw_splits(with_patients(without, known, options.accept), given)
    return open_listed(path.parent, given, options, drawn=bool(without))


def _read_row(path: Path, row: dict[str, str], where: str, names: Names) -> tuple[str, Listed]:
    """Return the split, or "", and the image of one row."""
    if not row["path"]:
        raise UserError(f"{where} has no path: give that of an image")
    word = row["label"].lower()
    try:
        label = 0 if word in HEALTHY else read_label(row["label"])
    except ValueError:
        label = 1
        if _is_number(word):
            raise UserError(f"{where}: label is {row['label']!r}, it should be 0, 1 or a name") from None
    if label is None:
        raise UserError(f"{where} has no label: give 0 or 1, or remove the row")
    named = "" if word in HEALTHY | {"abnormal"} or _is_number(word) else row["label"]
    finding = row.get("class", "") or named
    if not label and finding.lower() not in HEALTHY | {""}:
        raise UserError(f"{where} has a label for healthy but the class {finding!r}: correct one of them")
    if label and finding.lower() in HEALTHY:
        raise UserError(f"{where} has a label for abnormal but the class {finding!r}: correct one of them")
    split = row.get("split", "")
    if split and (split := split_of(Path(split)) or "") not in SPLITS:
        raise UserError(f"{where}: split is {row['split']!r}, it should be train, val, test or empty")
    box = _read_box(row, finding if label else "", where)
    if box and not label:
        raise UserError(f"{where} has a label for healthy but a box: correct one of them")
    mask = row.get("mask", "")
    if mask and not label:
        raise UserError(f"{where} has a label for healthy but a mask: correct one of them")
    return split, Listed(
        _resolve(path, row["path"]),
        label,
        _patient(row.get("patient", "")),
        (finding,) if finding and label else (),
        (box,) if box else None,
        None,
        _resolve(path, mask) if mask else None,
    )


def _read_box(row: dict[str, str], finding: str, where: str) -> Box | None:
    given = [name for name in BOX if row.get(name)]
    if not given:
        return None
    if len(given) < len(BOX):
        raise UserError(f"{where} has {', '.join(given)} but not all of {', '.join(BOX)}: give all four, or none")
    try:
        left, top, right, bottom = (read_number(row[name]) for name in BOX)
        if not (0 <= left < right < float("inf") and 0 <= top < bottom < float("inf")):
            raise ValueError
    except ValueError:
        edges = ", ".join(row[name] for name in BOX)
        raise UserError(f"{where}: the box {edges} is none: give pixels, x_min < x_max and y_min < y_max") from None
    return Box(finding, left, top, right, bottom)


def _join(first: tuple[str, Listed], second: tuple[str, Listed], where: str, names: Names) -> tuple[str, Listed]:
    """Return the image of two rows."""
    (split, one), (other, two) = first, second
    if (split, one.label, one.patient) != (other, two.label, two.patient):
        raise UserError(
            f"{where}: {names.quote(str(one.file))} has another label, split or patient than in an earlier row: "
            "keep one"
        )
    if one.mask != two.mask:
        raise UserError(f"{where}: {names.quote(str(one.file))} has another mask than in an earlier row: keep one")
    findings = tuple(dict.fromkeys(one.findings + two.findings))
    boxes = None if one.boxes is None and two.boxes is None else (*(one.boxes or ()), *(two.boxes or ()))
    return split, Listed(one.file, one.label, one.patient, findings, boxes, None, one.mask)


def _patient(text: str) -> str | None:
    """Return who a row is of. Numbers are compared as such: `7`, `07` and `7.0` are one patient, as spreadsheets do."""
    try:
        return str(whole_number(text))
    except ValueError:
        return text or None


def _known_places(image: Listed) -> Listed:
    """Return an image without boxes if one of its findings has none: that finding's place would count as normal."""
    if image.boxes is None or set(image.findings) <= {box.finding for box in image.boxes}:
        return image
    return replace(image, boxes=None)


def _resolve(path: Path, name: str) -> Path:
    """Return the file that a list names; a Windows path only if there is no file of that very name."""
    file = path.parent / name
    return file if os.path.exists(file) or "\\" not in name else path.parent / name.replace("\\", "/")


def _is_number(word: str) -> bool:
    try:
        whole_number(word)
    except ValueError:
        try:
            read_number(word)
        except ValueError:
            return False
    return True


def _log_classes(images, options) -> None:
    """Log the classes, so that a misspelled one is seen."""
    classes = Counter(image.class_name for _, image in images)
    if options.names.classes(list(classes), [1] * len(classes)) == list(classes):
        log.info("listed: %s", ", ".join(f"{count} {name}" for name, count in classes.most_common()))
