"""CheXpert as released (Irvin et al. 2019): train.csv and valid.csv with a column for every finding.

The split is that of SimSID, section 4.1, of frontal PA views. The test is 250 normal and 250 abnormal images of the
training file, with at least 10 of every disease. The normal images of all other patients are for training.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..split import ReadOptions, Split, read_split
from ..tables import column_names, read_table, whole_number

DISEASES = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
)
VIEW = ("Frontal/Lateral", "AP/PA")
COLUMNS = ("Path", *VIEW, "No Finding", *DISEASES)
TEST_EACH, TEST_DISEASE = 250, 10


class _Row(NamedTuple):
    path: str
    patient: str
    label: int
    diseases: tuple[str, ...]


def open_chexpert(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read CheXpert's frontal PA images.

    Normal (0) is No Finding = 1; abnormal (1) is any of the 12 diseases = 1. Images with neither, which have only
    uncertain or blank findings, are left out. "test" comes from train.csv and is the same at every call. If there are
    too few images, it is a fifth of each class and of each disease. No patient is in both test and train. "val" is
    valid.csv.

    Args:
        root: Path of the folder with train.csv; a Path column's leading folders may be absent below it.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that have no images. An image of one disease has its name as
        class, one of several `abnormal`. Names are the Path column's, unless `options.names` gives others.

    Raises:
        UserError: a missing column, a value that is no number, or no normal image to train on.
    """
    rows = {}
    if "train" in options.splits or "test" in options.splits:
        rows["train"], rows["test"] = _hold_out(_read_rows(root / "train.csv", options.names))
        if "train" in options.splits and not rows["train"]:
            raise UserError(
                f"{root / 'train.csv'} has no normal images to train on: it needs frontal PA rows with No Finding = 1"
            )
    if "val" in options.splits and (root / "valid.csv").is_file():
        rows["val"] = _read_rows(root / "valid.csv", options.names)
    return {
        name: read_split(
            [_resolve(root, row.path) for row in rows[name]],
            [row.path for row in rows[name]],
            [row.label for row in rows[name]],
            options,
            classes=[_class(row) for row in rows[name]],
        )
        for name in options.splits
        if rows.get(name)
    }


def is_chexpert(root: Path) -> bool:
    """Return whether the folder's train.csv has columns that only CheXpert has."""
    path = root / "train.csv"
    if not path.is_file():
        return False
    return not column_names(path).isdisjoint(COLUMNS[1:])


def _class(row):
    if not row.label:
        return "normal"
    return row.diseases[0] if len(row.diseases) == 1 else "abnormal"


def _hold_out(rows):
    """Split rows into (train, test)."""
    rng = np.random.default_rng(0)
    normal = [row for row in rows if not row.label]
    abnormal = [row for row in rows if row.label]
    abnormal = [abnormal[i] for i in rng.permutation(len(abnormal))]
    sick = []
    for disease in DISEASES:
        have = [row for row in abnormal if disease in row.diseases]
        sick = _fill(sick, have, min(TEST_DISEASE, len(have) // 5) - sum(disease in row.diseases for row in sick))
    sick = _fill(sick, abnormal, min(TEST_EACH, len(abnormal) // 5) - len(sick))
    test = [normal[i] for i in rng.permutation(len(normal))[: min(TEST_EACH, len(normal) // 5)]] + sick
    patients = {row.patient for row in test}
    return [row for row in normal if row.patient not in patients], test


def _fill(chosen, rows, count):
    """Add the first `count` rows that are not chosen yet."""
    already = set(chosen)
    return chosen + [row for row in rows if row not in already][: max(0, count)]


def _read_rows(path, names):
    """Read the frontal PA rows of a CSV that are clearly normal or abnormal."""
    kept: list[_Row] = []
    findings: dict[str, _Row] = {}
    for line, row in read_table(path, COLUMNS):
        if [row[name].strip().lower() for name in VIEW] != ["frontal", "pa"]:
            continue
        where = f"{path} line {line}"
        file = row["Path"].strip().replace("\\", "/")
        patient = re.search(r"patient\d+", file)
        if patient is None:
            raise UserError(f"{where}: Path {names.quote(file)} names no patient, such as patient00001")
        diseases = tuple(name for name in DISEASES if _number(row, name, where) == 1)
        if diseases or _number(row, "No Finding", where) == 1:
            found = _Row(file, patient[0], int(bool(diseases)), diseases)
            if findings.setdefault(file, found) != found:
                raise UserError(f"{where}: {names.quote(file)} has other findings than in an earlier line: keep one")
            kept.append(found)
    return kept


def _number(row, name, where):
    text = row[name].strip()
    try:
        number = whole_number(text or "0")
        if abs(number) > 1:
            raise ValueError
    except ValueError:
        raise UserError(f"{where}: {name} is {text!r}, it should be 1, 0, -1 or blank") from None
    return number


def _resolve(root, name):
    """Return the file as named, or without some leading folders. If there is none, return it as named, for errors."""
    parts = name.split("/")
    candidates = [root.joinpath(*parts[i:]) for i in range(len(parts))]
    return next((path for path in candidates if path.is_file()), root / name)
