"""CheXpert as released (Irvin et al. 2019): train.csv and valid.csv with a column for every finding.

The split is that of SimSID, section 4.1, of frontal PA views. The test is 250 normal and 250 abnormal images of the
training file, with at least 10 of every disease. The normal images of all other patients are for training.

Where the official test set lies beside the training files, it is the test instead. Its labels are `test_labels.csv` of
CheXlocalize (Saporta et al. 2022), or `groundtruth.csv` with a row per study. They have no column for PA or AP, so
the test has all frontal views.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..listed import require_files
from ..names import Names
from ..split import ReadOptions, Split, read_split
from ..tables import column_names, find_table, read_table
from .chexpert_labels import DISEASES, FINDINGS, read_findings

VIEW = ("Frontal/Lateral", "AP/PA")
COLUMNS = ("Path", *VIEW, *FINDINGS)
TEST_EACH, TEST_DISEASE = 250, 10
FIRST_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"
TRAIN, VALID, TESTS = "train.csv", ("valid.csv", "val_labels.csv"), ("test.csv", "test_labels.csv", "groundtruth.csv")
_IMAGES = "patient[0-9][0-9][0-9][0-9][0-9]/study[0-9]*/view[0-9]*_*.*"


class Row(NamedTuple):
    """One image of a CSV, by its path there."""

    path: str
    patient: str
    label: int
    diseases: tuple[str, ...]


def open_chexpert(root: Path, options: ReadOptions, official_test: bool = True) -> dict[str, Split]:
    """Read CheXpert's frontal PA images.

    Normal (0) is No Finding = 1; abnormal (1) is any of the 12 diseases = 1. Images with neither, which have only
    uncertain or blank findings, are left out. "test" comes from train.csv and is the same at every call. If there are
    too few images, it is a fifth of each class and of each disease. No patient is in both test and train. "val" is
    valid.csv.

    Args:
        root: Path of the folder with train.csv, or with the folder CheXpert-v1.0, CheXpert-v1.0-small or "CheXpert-v1.0
            batch 1 (validate & csv)" that has it; a Path column's leading folders may be absent below it. Or Path of
            the first batch, with the others beside it.
        options: `ReadOptions`.
        official_test: the official test set is the test, where it lies there. If false, it is never read.

    Returns:
        dict of split name to Split, without the splits that have no images. An image of one disease has its name as
        class, one of several `abnormal`. Its diseases are its findings. Names are the Path column's, or in folders of
        batches relative to `root`, unless `options.names` gives others.

    Raises:
        UserError: train.csv or images are missing, a column is missing, a value is no number, or there is no normal
            image to train on.
    """
    folders = _folders(root)
    train, valid, test = (_find(folders, names) for names in ((TRAIN,), VALID, TESTS if official_test else ()))
    if "train" in options.splits and train is None:
        raise UserError(
            f"{root} is CheXpert but {TRAIN} is missing: put it beside the images, or give the folder that has it. "
            "Images that you know to be healthy can be put into train/NORMAL"
        )
    rows: dict[str, list[Row]] = {}
    if test and "test" in options.splits:
        rows["test"] = _read_rows(test, folders, options.names)
    if train and ("train" in options.splits or "test" in options.splits and not test):
        read = _read_rows(train, folders, options.names)
        if test:
            rows["train"] = [row for row in read if not row.label]
        else:
            rows["train"], rows["test"] = hold_out(read)
        if "train" in options.splits and not rows["train"]:
            raise UserError(f"{train} has no normal images to train on: it needs frontal PA rows with No Finding = 1")
    if valid and "val" in options.splits:
        rows["val"] = _read_rows(valid, folders, options.names)
    files = {name: [_resolve(folders, row.path) for row in rows[name]] for name in options.splits if rows.get(name)}
    return open_rows(root, "CheXpert", rows, files, options)


def open_rows(
    root: Path,
    title: str,
    rows: dict[str, list[Row]],
    files: dict[str, list[Path]],
    options: ReadOptions,
) -> dict[str, Split]:
    """Read the images of rows.

    Args:
        root: folder of the data.
        title: of the data set.
        rows: {split: its rows}.
        files: {split: the files of its rows}, of the splits that are read.
        options: `ReadOptions`.

    Raises:
        UserError: files are missing, and unreadable ones are not to be skipped.
    """
    if not options.skip_unreadable:
        require_files(root, [file for paths in files.values() for file in paths], options.names, title)
    return {
        name: read_split(
            paths,
            [_name(root, row.path, path) for row, path in zip(rows[name], paths)],
            [row.label for row in rows[name]],
            options,
            classes=[_class(row) for row in rows[name]],
            findings=[row.diseases for row in rows[name]],
        )
        for name, paths in files.items()
    }


def _name(root: Path, written: str, file: Path) -> str:
    """Return a path as it is written in a CSV, or relative to the root where the file lies elsewhere."""
    inside = file.relative_to(root).as_posix() if file.is_relative_to(root) else written
    return written if written.endswith(inside) else inside


def is_chexpert(root: Path) -> bool:
    """Return whether a folder has a train.csv with columns that only CheXpert has, its official test set, or images
    that are named as CheXpert's."""
    folders = _folders(root)
    train, test = _find(folders, (TRAIN,)), _find(folders, TESTS)
    if train and not column_names(train).isdisjoint(COLUMNS[1:]) or test and column_names(test) >= set(FINDINGS):
        return True
    inside = [folder / part for folder in folders for part in (".", "train", "valid", "test")]
    return any(next(folder.glob(_IMAGES), None) is not None for folder in inside if folder.is_dir())


def _folders(root: Path) -> list[Path]:
    """Return the folders that may have a release's files: the root, and CheXpert's folders in it or beside it."""
    inside = sorted(path for path in root.glob("CheXpert*") if path.is_dir())
    whole = root.resolve()
    beside = sorted(whole.parent.glob("CheXpert-v1.0 batch *")) if whole.name == FIRST_BATCH else []
    return [root, *inside, *(path for path in beside if path != whole and path.is_dir())]


def _find(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the first table of these names."""
    found = (find_table(folder, name) for folder in folders for name in names)
    return next((path for path in found if path), None)


def _class(row):
    if not row.label:
        return "normal"
    return row.diseases[0] if len(row.diseases) == 1 else "abnormal"


def hold_out(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
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


def _read_rows(path: Path, folders: Sequence[Path], names: Names) -> list[Row]:
    """Read the frontal rows of a CSV that are clearly normal or abnormal; only PA where it says so.

    The files of the official test and validation sets of CheXlocalize have no columns for the view; there the file's
    name says whether it is frontal. A row of a study stands for all of its frontal images.
    """
    kept: list[Row] = []
    findings: dict[str, Row] = {}
    columns = column_names(path)
    viewed = path.name.startswith(("train.csv", "valid.csv")) or not columns.isdisjoint(VIEW)
    key = "Study" if "Study" in columns and "Path" not in columns else "Path"
    for line, row in read_table(path, (key, *(VIEW if viewed else ()), *FINDINGS)):
        if viewed and [row[name].strip().lower() for name in VIEW] != ["frontal", "pa"]:
            continue
        where = f"{path} line {line}"
        given = row[key].strip().replace("\\", "/")
        patient = patient_of(given, where, names)
        label, diseases = read_findings(row, where)
        if label is None:
            continue
        for file in _study_images(folders, given) if key == "Study" else (given,):
            if not viewed and "_frontal" not in file:
                continue
            found = Row(file, patient, label, diseases)
            if findings.setdefault(file, found) != found:
                raise UserError(f"{where}: {names.quote(file)} has other findings than in an earlier line: keep one")
            kept.append(found)
    return kept


def patient_of(file: str, where: str, names: Names) -> str:
    """Return the folder of the patient in a path."""
    patient = re.search(r"patient\d+", file)
    if patient is None:
        raise UserError(f"{where}: Path {names.quote(file)} names no patient, such as patient00001")
    return patient[0]


def _study_images(folders: Sequence[Path], study: str) -> Iterator[str]:
    """Yield the images of a study, or one that is missing."""
    folder = _resolve(folders, study)
    found = sorted(path.name for path in folder.glob("view*_frontal.*"))
    return (f"{study}/{name}" for name in found or ["view1_frontal.jpg"])


def _resolve(folders: Sequence[Path], name: str) -> Path:
    """Return the file as named, or without some leading folders. If there is none, return it as named, for errors."""
    parts = name.split("/")
    candidates = (folder.joinpath(*parts[i:]) for folder in folders for i in range(len(parts)))
    return next((path for path in candidates if path.exists()), folders[0] / name)
