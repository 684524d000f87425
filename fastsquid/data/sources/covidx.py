"""COVIDx as released (Wang et al. 2020): text lists of `patient file label source` beside the image folders.

The split is that of SimSID, section 4.1. Validation is 200 normal, 100 pneumonia and 100 COVID-19 images of the
training list. The normal images of all other patients are for training. The test is the test list. Where there is a
list for val, it is the validation instead.

Which lists can be used: those with normal, pneumonia and COVID-19, up to COVIDx9A and CXR-3A. The others (COVIDx6, the
B lists, CXR-4) have only positive and negative. Their negative includes pneumonia, so they name no healthy images.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...utils.files import require_regular
from ..split import SPLITS, ReadOptions, Split, read_split
from ..tables import decode, read_text, whole_number

log = logging.getLogger(__name__)

VAL_COUNTS = {"normal": 200, "pneumonia": 100, "covid-19": 100}
BINARY = frozenset(("positive", "negative"))
LABELS = BINARY.union(VAL_COUNTS)


class _Row(NamedTuple):
    patient: str
    file: str
    label: str


def open_covidx(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read COVIDx's A lists: the label normal is 0, every other label 1. Labels in lower case are the classes.

    "val" is the list for val. If there is none, it is drawn from the training list and is the same at every call. If a
    class has too few images, a fifth of it is drawn. No patient is in both val and train.

    Args:
        root: Path of the folder with pairs such as train*.txt and train/, of train, val or test.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that have no images. Names are the
        files', unless `options.names` gives others.

    Raises:
        UserError: several lists for a split, a list without its folder, a malformed line, a list with positive and
            negative only, or no normal image to train on.
    """
    rows, folders = {}, {part: root / part for part in SPLITS}
    train, val, test = (_find_list(root, part) for part in SPLITS)
    if val and ("train" in options.splits or "val" in options.splits):
        rows["val"] = _read_list(val, options.names)
    if train and ("train" in options.splits or ("val" in options.splits and not val)):
        listed = _read_list(train, options.names)
        if val:
            rows["train"] = _healthy_others(listed, rows["val"])
        else:
            rows["train"], rows["val"] = _hold_out(listed)
            folders["val"] = folders["train"]
        if "train" in options.splits and not rows["train"]:
            raise UserError(f"{train} has no normal images to train on: it needs lines with the label normal")
    if test and "test" in options.splits:
        rows["test"] = _read_list(test, options.names)
        known = {row.patient for name in ("train", "val") for row in rows.get(name, ())}
        if shared := sum(row.patient in known for row in rows["test"]):
            log.warning(
                "%d of %d images of test are of patients who are also in train or val, by the lists of COVIDx: results "
                "on them are too good",
                shared,
                len(rows["test"]),
            )
    return {
        name: read_split(
            [folders[name] / row.file for row in rows[name]],
            [row.file for row in rows[name]],
            [int(row.label != "normal") for row in rows[name]],
            options,
            classes=[row.label for row in rows[name]],
        )
        for name in options.splits
        if rows.get(name)
    }


def is_covidx(root: Path) -> bool:
    """Return whether the folder has a list of COVIDx.

    It is named so, or it begins as one, or the image folder of the same name lies beside it and holds no class folders.
    """
    return any(
        "covidx" in path.name.lower() or _begins_as_list(path) or _is_flat(root / part)
        for part in SPLITS
        for path in root.glob(f"{part}*.txt")
    )


def _begins_as_list(path):
    """Return whether the first line of a file has a label of COVIDx before its last word."""
    try:
        require_regular(path)
        with open(path, "rb") as file:
            words = decode(file.readline(2**12), errors="replace").lower().split()
    except (OSError, UserError):
        return False
    return len(words) >= 4 and words[-2] in LABELS


def _is_flat(folder):
    return folder.is_dir() and not any(child.name.lower() == "normal" for child in folder.iterdir())


def _find_list(root, part):
    lists = sorted(root.glob(f"{part}*.txt"))
    if len(lists) > 1:
        names = " and ".join(path.name for path in lists)
        raise UserError(f"{root} has several {part} lists, {names}: keep one of them")
    if lists and not (root / part).is_dir():
        raise UserError(f"{root} has the list {lists[0].name} but no folder {part}: put its images there")
    return lists[0] if lists else None


def _hold_out(rows):
    """Split rows into (train, val)."""
    rng = np.random.default_rng(0)
    val = []
    for label, count in VAL_COUNTS.items():
        have = [row for row in rows if row.label == label]
        val += [have[i] for i in rng.permutation(len(have))[: min(count, len(have) // 5)]]
    return _healthy_others(rows, val), val


def _healthy_others(rows, val):
    """Return the normal rows of the patients that are not in val."""
    patients = {row.patient for row in val}
    return [row for row in rows if row.label == "normal" and row.patient not in patients]


def _read_list(path, names):
    rows: list[_Row] = []
    labels: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        if len(line.split()) < 4:
            shown = names.quote(line.strip())
            raise UserError(f"{path} line {number}: {shown} should be: patient file label source")
        patient, rest = line.split(maxsplit=1)
        file, label, _ = rest.rsplit(maxsplit=2)
        row = _Row(patient, file.strip().strip('"').replace("\\", "/"), label.lower())
        if _is_number(row.label):
            raise UserError(f"{path} line {number}: the label {label} should be normal, pneumonia or COVID-19")
        if labels.setdefault(row.file, row.label) != row.label:
            raise UserError(
                f"{path} line {number}: {names.quote(row.file)} has another label than in an earlier line: keep one"
            )
        rows.append(row)
    if {row.label for row in rows} & BINARY:
        raise UserError(
            f"{path} is a B list, whose negative includes pneumonia: use the A lists, with normal, pneumonia and "
            "COVID-19, such as train_COVIDx9A.txt or train_COVIDx_CXR-3A.txt (CXR-4 has none)"
        )
    return rows


def _is_number(label):
    """Return whether a label is a number, of which COVIDx does not say what it means."""
    try:
        whole_number(label)
    except ValueError:
        return False
    return True
