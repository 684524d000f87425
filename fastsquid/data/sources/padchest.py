"""PadChest as released (Bustos et al. 2020): a CSV with the findings of each image, and images in folders 0 to 54.

View: PA, of adults. Healthy: `normal` is the only label. Abnormal: a label for anything else. Left out: images labeled
`exclude` or `suboptimal study`, images with no label or with only `unchanged`, and `normal` together with other labels.
Also left out are images that are stored inverted (MONOCHROME1). fastsquid draws the splits by patient, because the
release has none.
"""

import ast
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ...errors import UserError
from ..listed import Listed, draw_splits, open_listed
from ..split import ReadOptions, Split
from ..tables import read_table

COLUMNS = (
    "ImageID",
    "ImageDir",
    "PatientID",
    "Projection",
    "Pediatric",
    "PhotometricInterpretation_DICOM",
    "Labels",
)
UNUSABLE = frozenset(("exclude", "suboptimal study"))
_TABLE = re.compile(r"PADCHEST_chest_x_ray_images_labels.*\.csv(\.gz)?", re.IGNORECASE)
_IMAGE = re.compile(r"\d{30,}(-\d+)?_[\w-]+\.png")
_FOLDERS = ("", "images", "images-224")  # the last one: small images, as torchxrayvision's authors offer them


def is_padchest(root: Path) -> bool:
    """Return whether a folder has the CSV of PadChest, or images that are named as its images."""
    if any(_tables(root)):
        return True
    folders = [root / name for name in _FOLDERS]
    folders += [folder / str(number) for folder in folders[:2] for number in range(55)]
    return any(
        _IMAGE.fullmatch(path.name) for folder in folders if folder.is_dir() for path in islice(folder.iterdir(), 20)
    )


def open_padchest(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the PA images of PadChest.

    Args:
        root: Path of the folder with the CSV, as it is or packed with `.gz`. The images are in folders 0 to 54, or all
            in one; there, or in a folder `images` or `images-224`.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split, without the splits that have no images.

    Raises:
        UserError: the CSV or images are missing, a value is wrong, or as `listed.open_listed` raises it.
    """
    paths = sorted(_tables(root), key=lambda path: path.suffix.lower() == ".gz")
    if not paths:
        raise UserError(
            f"{root} is PadChest but PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv is missing: download it from "
            "https://bimcv.cipf.es/bimcv-projects/padchest and put it beside the folders of images"
        )
    rows = list(_read_rows(root, paths[0]))
    if not any(not row.label for row in rows):
        raise UserError(f"{paths[0]} lists no healthy images: it needs rows of PA images with only the label normal")
    return open_listed(root, draw_splits(rows), options, drawn=True)


def _tables(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if _TABLE.fullmatch(path.name))


def _read_rows(root: Path, path: Path) -> Iterator[Listed]:
    folders = [root / name for name in _FOLDERS if (root / name).is_dir()]
    for line, row in read_table(path, COLUMNS):
        image, folder, patient, view, pediatric, gray, labels = (row[name].strip() for name in COLUMNS)
        if view != "PA" or pediatric.lower() not in ("", "no") or gray.upper() == "MONOCHROME1":
            continue
        where = f"{path} line {line}"
        if not image or not patient:
            raise UserError(f"{where} has no ImageID or no PatientID: download the file again")
        findings = _read_labels(labels, where)
        if findings <= {"unchanged"} or findings & UNUSABLE or "normal" in findings and len(findings) > 1:
            continue
        shown = tuple(sorted(findings - {"normal", "unchanged"}))
        candidates = [base / part / image for base in folders for part in (_folder_name(folder), "")]
        file = next((one for one in candidates if one.is_file()), candidates[0])
        yield Listed(file, int(bool(shown)), patient, shown)


def _folder_name(text: str) -> str:
    """Return the name of an image's folder, which other programs write as `12.0`."""
    return re.sub(r"\.0*$", "", text)


def _read_labels(text: str, where: str) -> set[str]:
    """Return the labels of an image, in lower case.

    Args:
        text: a list as Python writes it, with blanks and empty labels in it; or nothing, or `nan`.
    """
    if text.lower() in ("", "nan"):
        return set()
    try:
        labels = ast.literal_eval(text)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise UserError(f"{where}: Labels is {text!r}, it should be a list such as ['normal']") from None
    return {label.strip().lower() for label in labels} - {""}
