"""NIH ChestX-ray14 as released (Wang et al. 2017): Data_Entry_2017.csv, two lists of the split, and BBox_List_2017.csv.

Healthy: `No Finding`. Abnormal: one of the 14 findings or more. Left out: AP views. Shvetsova et al. 2021 also keep the
two views apart. The test is the official one. Validation is drawn from the patients of the other list. The healthy
images of all its other patients are for training.
"""

import csv
import re
from pathlib import Path

from ...errors import UserError
from ..listed import Listed, draw_splits, open_listed
from ..names import Names
from ..places import Box
from ..split import ReadOptions, Split
from ..tables import read_number, read_table, read_text, whole_number

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")  # the newer one first, if both are there
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
BOXES = "BBox_List_2017.csv"
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "View Position")
FINDINGS = frozenset(
    "Atelectasis Cardiomegaly Consolidation Edema Effusion Emphysema Fibrosis Hernia Infiltration Mass Nodule "
    "Pleural_Thickening Pneumonia Pneumothorax".split()
)
HEALTHY = "No Finding"
SIDE = 1024  # of the released images in pixels, to which the boxes belong
_IMAGE = re.compile(r"\d{8}_\d{3}\.png")
_WHERE = "from https://nihcc.app.box.com/v/ChestXray-NIHCC"


def is_nih(root: Path) -> bool:
    """Return whether a folder has one of the release's tables, or its image folders with images of its names."""
    if any((root / name).is_file() for name in (*TABLES, BOXES)):
        return True
    return any(_IMAGE.fullmatch(path.name) for folder in _folders(root) for path in folder.glob("*_000.png"))


def open_nih(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the PA images of NIH ChestX-ray14.

    Args:
        root: folder of the tables. The images are in `images`, or in `images_001/images` to `images_012/images`.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split. Boxes are known of images of which every finding has one.

    Raises:
        UserError: a table is missing or invalid, an image is in no list or in both; or as `listed.open_listed` raises
            it.
    """
    table = next((root / name for name in TABLES if (root / name).is_file()), root / TABLES[1])
    for path in (table, *(root / name for name in LISTS.values())):
        if not path.is_file():
            raise UserError(
                f"{root} is NIH ChestX-ray14 but {path.name} is missing: download it {_WHERE} and put it there"
            )
    split = _read_lists(root, options.names)
    boxes = _read_boxes(root / BOXES)
    files = {path.name: path for folder in _folders(root) for path in folder.glob("*.png")}
    rows: dict[str, list[Listed]] = {"train": [], "test": []}
    for line, row in read_table(table, COLUMNS):
        name, patient, findings, view = _read_row(row, f"{table} line {line}", options.names)
        if name not in split:
            raise UserError(
                f"{table} line {line}: {options.names.quote(name)} is neither in {LISTS['train']} nor in "
                f"{LISTS['test']}: download the lists {_WHERE}"
            )
        if view == "PA":
            mine = tuple(box for box in boxes.get(name, ()) if box.finding in findings)
            located = {box.finding for box in mine} == set(findings)
            rows[split[name]].append(
                Listed(
                    files.get(name, root / "images" / name),
                    int(bool(findings)),
                    patient,
                    findings,
                    mine if located else None,
                    (SIDE, SIDE),
                )
            )
    drawn = draw_splits(rows["train"], {"test": rows["test"]})
    held = {row.patient for row in drawn["val"]}
    # `draw_splits` keeps the healthy images of patients with a finding in another image out of train. Here those are
    # nearly half of all.
    drawn["train"] = [row for row in rows["train"] if row.patient not in held]
    return open_listed(root, drawn, options, drawn=True)


def _folders(root: Path) -> list[Path]:
    """Return the folders that may hold images: of all archives unpacked as one, one by one, or smaller copies."""
    return sorted(
        folder
        for pattern in ("images", "images[_-][0-9]*", "images[_-][0-9]*/images*")
        for folder in root.glob(pattern)
        if folder.is_dir()
    )


def _read_lists(root: Path, names: Names) -> dict[str, str]:
    """Return {image: `train` or `test`}."""
    split: dict[str, str] = {}
    for name, file in LISTS.items():
        for image in read_text(root / file).split():
            if split.setdefault(image, name) != name:
                raise UserError(f"{root / file} has {names.quote(image)}, which is also in {LISTS['train']}: keep one")
    return split


def _read_row(row: dict[str, str], where: str, names: Names) -> tuple[str, str, tuple[str, ...], str]:
    """Return the image's name, its patient, its findings (none if it is healthy) and its view."""
    name, labels, patient, view = (row[column].strip() for column in COLUMNS)
    if not _IMAGE.fullmatch(name):
        raise UserError(f"{where}: Image Index is {names.quote(name)}, it should be one such as 00000001_000.png")
    if view not in ("PA", "AP"):
        raise UserError(f"{where}: View Position is {view!r}, it should be PA or AP")
    findings = () if labels == HEALTHY else tuple(labels.split("|"))
    if unknown := set(findings) - FINDINGS:
        raise UserError(
            f"{where}: Finding Labels has {min(unknown)!r}, it should be {HEALTHY}, or some of "
            f"{', '.join(sorted(FINDINGS))} with | between them"
        )
    try:
        same = whole_number(patient) == int(name[:8])
    except ValueError:
        same = False
    if not same:
        raise UserError(f"{where}: Patient ID is not the number that {names.quote(name)} begins with: correct one")
    return name, name[:8], findings, view


def _read_boxes(path: Path) -> dict[str, list[Box]]:
    """Return {image: its boxes}; none if there is no such file.

    Its header has commas inside of a column's name, `Bbox [x,y,w,h],,,`, so it has more cells than the rows.
    """
    boxes: dict[str, list[Box]] = {}
    lines = csv.reader(read_text(path, "a CSV").splitlines()) if path.is_file() else ()
    for number, cells in enumerate(lines, start=1):
        cells = [cell.strip() for cell in cells]
        if number == 1:
            if cells[:6] != ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]:
                raise UserError(
                    f"{path} does not begin with Image Index,Finding Label,Bbox [x,y,w,h]: download it again"
                )
            continue
        try:
            left, top, width, height = map(read_number, cells[2:6])
            name, finding = cells[0], "Infiltration" if cells[1] == "Infiltrate" else cells[1]
            inside = 0 <= left < left + width <= SIDE and 0 <= top < top + height <= SIDE
            if not inside or finding not in FINDINGS or not _IMAGE.fullmatch(name):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path} line {number}: {','.join(cells[1:])} is no box: it should be a finding, x, y, width and "
                f"height in pixels of {SIDE} x {SIDE}"
            ) from None
        boxes.setdefault(name, []).append(Box(finding, left, top, left + width, top + height))
    return boxes
