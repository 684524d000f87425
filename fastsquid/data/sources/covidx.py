"""COVIDx as released (Wang et al. 2020): text lists of `patient file label source` beside the image folders.

The split is that of SimSID, section 4.1. Validation is 200 normal, 100 pneumonia and 100 COVID-19 images of the
training list. The normal images of all other patients are for training. The test is the test list.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..split import ReadOptions, Split, read_split
from ..tables import read_text, whole_number

VAL_COUNTS = {"normal": 200, "pneumonia": 100, "covid-19": 100}


class _Row(NamedTuple):
    patient: str
    file: str
    label: str


def open_covidx(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read COVIDx's A lists: the label normal is 0, every other label 1. Labels in lower case are the classes.

    "val" is drawn from the training list and is the same at every call. If a class has too few images, a fifth of it is
    drawn. No patient is in both val and train.

    Args:
        root: Path of the folder with train*.txt and train/, or test*.txt and test/, or both pairs.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that have no images. Names are the
        files', unless `options.names` gives others.

    Raises:
        UserError: several lists for a split, a malformed line, a B list (positive and negative only), or no normal
            image to train on.
    """
    rows, folders = {}, {"train": root / "train", "val": root / "train", "test": root / "test"}
    train, test = _find_list(root, "train"), _find_list(root, "test")
    if train and ("train" in options.splits or "val" in options.splits):
        rows["train"], rows["val"] = _hold_out(_read_list(train, options.names))
        if "train" in options.splits and not rows["train"]:
            raise UserError(f"{train} has no normal images to train on: it needs lines with the label normal")
    if test and "test" in options.splits:
        rows["test"] = _read_list(test, options.names)
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
    """Return whether the folder has a list beside the image folder of the same name, which holds no class folders."""
    return any(
        list(root.glob(f"{part}*.txt"))
        and (root / part).is_dir()
        and not any(child.name.lower() == "normal" for child in (root / part).iterdir())
        for part in ("train", "test")
    )


def _find_list(root, part):
    lists = sorted(root.glob(f"{part}*.txt"))
    if len(lists) > 1:
        names = " and ".join(path.name for path in lists)
        raise UserError(f"{root} has several {part} lists, {names}: keep one of them")
    return lists[0] if lists else None


def _hold_out(rows):
    """Split rows into (train, val)."""
    rng = np.random.default_rng(0)
    val = []
    for label, count in VAL_COUNTS.items():
        have = [row for row in rows if row.label == label]
        val += [have[i] for i in rng.permutation(len(have))[: min(count, len(have) // 5)]]
    patients = {row.patient for row in val}
    return [row for row in rows if row.label == "normal" and row.patient not in patients], val


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
    if {row.label for row in rows} & {"positive", "negative"}:
        raise UserError(
            f"{path} is a B list, whose negative includes pneumonia: "
            "use the A lists, with normal, pneumonia and COVID-19"
        )
    return rows


def _is_number(label):
    """Return whether a label is a number, of which COVIDx does not say what it means."""
    try:
        whole_number(label)
    except ValueError:
        return False
    return True
