"""VinDr-CXR as released on PhysioNet (Nguyen et al. 2022): train/ and test/ of DICOM files, annotations/ of CSVs.

Healthy: every radiologist wrote `No finding`, and nothing else. Abnormal: every one wrote a finding. Left out: images
on which they disagree about that. Three radiologists read each training image on their own. A finding counts if more
than half of them wrote it, and its boxes are those of all who did. The test's labels are one consensus of five. The
splits are official, but validation is drawn from train. All views are PA. Patients are not known: no file names them.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from ...errors import UserError
from ..listed import Listed, draw_splits, open_listed
from ..names import Names
from ..places import Box
from ..split import ReadOptions, Split
from ..tables import read_number, read_table, whole_number

log = logging.getLogger(__name__)

HEALTHY = "No finding"
LOCAL = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion"),
)
GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis")  # of the whole image, without boxes
OTHER = ("Other diseases", "Other disease")  # the name in the table of train, and of test
EDGES = ("x_min", "y_min", "x_max", "y_max")
PARTS = ("train", "test")
_TABLES = [f"annotations/{kind}_{part}.csv" for part in PARTS for kind in ("image_labels", "annotations")]


def is_vindr(root: Path) -> bool:
    """Return whether a folder has one of the release's tables."""
    return any((root / name).is_file() for name in _TABLES)


def open_vindr(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read VinDr-CXR.

    Args:
        root: folder of train/, test/ and annotations/.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split. Boxes are not known of images whose findings have none, such as `Pneumonia`.

    Raises:
        UserError: a table or a folder is missing, or a table is invalid; or as `listed.open_listed` raises it.
    """
    for name in (*_TABLES, *PARTS):
        if not (root / name).exists():
            raise UserError(
                f"{root} is VinDr-CXR but {name} is missing: download it from "
                "https://physionet.org/content/vindr-cxr/1.0.0/ and put it there"
            )
    train, test = (_read_part(root, part, options.names) for part in PARTS)
    return open_listed(root, draw_splits(train, {"test": test}), options, drawn=True)


def agree(votes: Sequence[frozenset[str]]) -> tuple[int | None, tuple[str, ...]]:
    """Return the label and the findings on which the radiologists of an image agree.

    Args:
        votes: what each of them wrote, findings or `HEALTHY`.

    Returns:
        0 or 1, or None if they disagree about it; and the sorted findings that more than half of them wrote.
    """
    if all(vote == {HEALTHY} for vote in votes):
        return 0, ()
    if any(HEALTHY in vote or not vote for vote in votes):
        return None, ()
    counts = Counter(chain.from_iterable(votes))
    return 1, tuple(sorted(name for name, count in counts.items() if 2 * count > len(votes)))


def read_box(row: dict[str, str], finding: str, where: str) -> Box:
    """Return the box in a row with the columns `EDGES`, in pixels.

    Raises:
        UserError: it is none.
    """
    cells = [row[edge].strip() for edge in EDGES]
    try:
        left, top, right, bottom = map(read_number, cells)
        if not (0 <= left < right < 1e5 and 0 <= top < bottom < 1e5):
            raise ValueError
    except ValueError:
        raise UserError(
            f"{where}: {', '.join(cells)} is no box: it should be x_min, y_min, x_max and y_max in pixels"
        ) from None
    return Box(finding, left, top, right, bottom)


def warn_of_disagreement(count: int, images: int) -> None:
    """Log how many images are left out because their radiologists disagree whether they are healthy."""
    if count:
        log.warning(
            "left out %d of %d images: their radiologists disagree whether they show a finding, or wrote nothing",
            count,
            images,
        )


def _read_part(root: Path, part: str, names: Names) -> list[Listed]:
    votes = _read_votes(root / f"annotations/image_labels_{part}.csv", part, names)
    boxes = _read_boxes(root / f"annotations/annotations_{part}.csv", votes, names)
    rows = []
    for image, mine in votes.items():
        label, findings = agree(mine)
        if label is not None:
            places = tuple(box for box in boxes.get(image, ()) if box.finding in findings)
            file = root / part / f"{image}.dicom"
            rows.append(Listed(file, label, findings=findings, boxes=places or None))
    warn_of_disagreement(len(votes) - len(rows), len(votes))
    return rows


def _read_votes(path: Path, part: str, names: Names) -> dict[str, list[frozenset[str]]]:
    """Return {image: what each radiologist wrote}; of the test there is one consensus instead."""
    columns = ("image_id", *(("rad_id",) if part == "train" else ()), HEALTHY, *LOCAL, *GLOBAL)
    votes: dict[str, dict[str, frozenset[str]]] = {}
    for line, row in read_table(path, columns, OTHER):
        where = f"{path} line {line}"
        image, reader = _read_image(row, where), row.get("rad_id", "").strip()
        written = frozenset(name for name in _named(row) if _is_written(row[name], name, where))
        if reader in votes.setdefault(image, {}):
            raise UserError(
                f"{where}: {names.quote(image)} has a row of {reader or 'the consensus'} already: download it again"
            )
        votes[image][reader] = frozenset(OTHER[0] if name in OTHER else name for name in written)
    return {image: list(mine.values()) for image, mine in votes.items()}


def _named(row: dict[str, str]) -> Iterable[str]:
    return (name for name in (HEALTHY, *LOCAL, *GLOBAL, *OTHER) if name in row)


def _is_written(text: str, name: str, where: str) -> bool:
    try:
        number = whole_number(text.strip() or "0")
        if number not in (0, 1):
            raise ValueError
    except ValueError:
        raise UserError(f"{where}: {name} is {text!r}, it should be 0 or 1") from None
    return bool(number)


def _read_boxes(path: Path, votes: dict[str, list[frozenset[str]]], names: Names) -> dict[str, list[Box]]:
    """Return {image: all boxes of all radiologists}."""
    boxes: dict[str, list[Box]] = {}
    for line, row in read_table(path, ("image_id", "class_name", *EDGES)):
        where = f"{path} line {line}"
        image, finding = _read_image(row, where), row["class_name"].strip()
        if image not in votes:
            raise UserError(
                f"{where}: {names.quote(image)} is not in the table of image labels beside it: download both again"
            )
        if finding in LOCAL:
            boxes.setdefault(image, []).append(read_box(row, finding, where))
        elif finding not in (HEALTHY, *GLOBAL, *OTHER) or any(row[edge].strip() for edge in EDGES):
            raise UserError(f"{where}: class_name is {finding!r}, which is no finding with a box: download it again")
    return boxes


def _read_image(row: dict[str, str], where: str) -> str:
    image = row["image_id"].strip()
    if not image:
        raise UserError(f"{where} has no image_id: download it again")
    return image
