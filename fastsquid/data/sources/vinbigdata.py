"""VinBigData's challenge on Kaggle (Nguyen et al. 2022): train.csv with the boxes of each radiologist, and train/.

It is the training part of VinDr-CXR with 14 findings. Healthy, abnormal, left out and boxes: as in `vindr`. The splits
are drawn, because the release has no labels of test/. All views are PA. Patients are not known: no file names them.
"""

import logging
import re
from pathlib import Path

from ...errors import UserError
from ..listed import Listed, draw_splits, open_listed
from ..places import Box
from ..split import ReadOptions, Split
from ..tables import column_names, read_table, whole_number
from .vindr import EDGES, HEALTHY, agree, read_box, warn_of_disagreement

log = logging.getLogger(__name__)

CLASSES = (  # by their class_id
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", HEALTHY),
)
COLUMNS = ("image_id", "class_name", "class_id", "rad_id", *EDGES)
SIZES = "train_meta.csv"
_SIZE_COLUMNS = ("image_id", "dim0", "dim1")
_SUFFIXES = (".dicom", ".png", ".jpg")
_IMAGE = re.compile(r"[0-9a-f]{32}\.dicom")


def is_vinbigdata(root: Path) -> bool:
    """Return whether a folder has the release's table, or the table of sizes, or its DICOM files in train/."""
    for name, columns in (("train.csv", COLUMNS[:4]), (SIZES, _SIZE_COLUMNS)):
        if (root / name).is_file() and column_names(root / name) >= set(columns):
            return True
    # VinDr's other data sets have such files too, with tables beside the folder.
    found = any(_IMAGE.fullmatch(path.name) for path in (root / "train").glob("*.dicom"))
    return found and next(root.glob("*.csv"), None) is None


def open_vinbigdata(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the labeled images of VinBigData's challenge.

    Boxes are in pixels of the DICOM files. For copies as PNG or JPEG, the size of the DICOM files must be known: from
    the columns `width` and `height` of train.csv, or from `dim0` (height) and `dim1` (width) of train_meta.csv.

    Args:
        root: folder of train.csv and train/.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split.

    Raises:
        UserError: the table or the folder is missing, or the table is invalid; or as `listed.open_listed` raises it.
    """
    for name in ("train.csv", "train"):
        if not (root / name).exists():
            raise UserError(
                f"{root} is of VinBigData's challenge, or of VinDr-CXR without its folder annotations, but {name} is "
                "missing: download it from https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection and "
                "put it there"
            )
    readers, sizes = _read_readers(root / "train.csv")
    sizes |= _read_sizes(root / SIZES)
    files = {path.stem: path for suffix in reversed(_SUFFIXES) for path in (root / "train").glob(f"*{suffix}")}
    rows, unplaced = [], 0
    for image, mine in readers.items():
        label, findings = agree([frozenset(written) for written in mine.values()])
        if label is None:
            continue
        file = files.get(image, root / "train" / f"{image}{_SUFFIXES[0]}")
        boxes = tuple(box for written in mine.values() for name in findings for box in written.get(name, ()))
        size = None if file.suffix == _SUFFIXES[0] else sizes.get(image)
        known = bool(boxes) and (file.suffix == _SUFFIXES[0] or size is not None)
        unplaced += bool(boxes) and not known
        rows.append(Listed(file, label, findings=findings, boxes=boxes if known else None, box_size=size))
    warn_of_disagreement(len(readers) - len(rows), len(readers))
    if unplaced:
        log.warning(
            "the boxes of %d images are not used, because the size of the DICOM files is not known: put %s into %s",
            unplaced,
            SIZES,
            root,
        )
    return open_listed(root, draw_splits(rows), options, drawn=True)


def _read_readers(path: Path) -> tuple[dict[str, dict[str, dict[str, list[Box]]]], dict[str, tuple[float, float]]]:
    """Return {image: {radiologist: {what is written: its boxes}}}, and {image: width and height} as far as known."""
    readers: dict[str, dict[str, dict[str, list[Box]]]] = {}
    sizes = {}
    for line, row in read_table(path, COLUMNS):
        where = f"{path} line {line}"
        image, reader, name = (row[column].strip() for column in ("image_id", "rad_id", "class_name"))
        if not image or not reader:
            raise UserError(f"{where} lacks image_id or rad_id: download it again")
        if name not in CLASSES or row["class_id"].strip() != str(CLASSES.index(name)):
            raise UserError(
                f"{where}: class_name {name!r} and class_id {row['class_id']!r} are not of one class, such as "
                f"{HEALTHY!r} and '{CLASSES.index(HEALTHY)}': download it again"
            )
        boxes = readers.setdefault(image, {}).setdefault(reader, {}).setdefault(name, [])
        if name != HEALTHY:
            boxes.append(read_box(row, name, where))
        if "width" in row and "height" in row:
            sizes[image] = _read_size(row, "width", "height", where)
    return readers, sizes


def _read_sizes(path: Path) -> dict[str, tuple[float, float]]:
    """Return {image: width and height}; none if there is no such file."""
    if not path.is_file():
        return {}
    rows = read_table(path, _SIZE_COLUMNS)
    return {row["image_id"].strip(): _read_size(row, "dim1", "dim0", f"{path} line {line}") for line, row in rows}


def _read_size(row: dict[str, str], width: str, height: str, where: str) -> tuple[float, float]:
    try:
        size = whole_number(row[width]), whole_number(row[height])
        if min(size) <= 0:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{where}: {width} {row[width]!r} and {height} {row[height]!r} should be whole numbers above 0"
        ) from None
    return size
