"""RSNA Pneumonia Detection Challenge as released on Kaggle (Shih et al. 2019): stage_2_*.csv and stage_2_train_images.

Healthy: the class `Normal` alone. Abnormal: `Lung Opacity`, and `No Lung Opacity / Not Normal`, in which the
radiologists saw something else. Target = 0 therefore does not mean healthy. PA and AP views are read. The splits are
drawn, because the release has no labels of stage_2_test_images.
"""

import json
import logging
from pathlib import Path

from ...errors import UserError
from ..listed import Listed, draw_splits, open_listed
from ..names import Names
from ..places import Box
from ..split import ReadOptions, Split
from ..tables import read_number, read_table, read_text

log = logging.getLogger(__name__)

CLASSES = "stage_2_detailed_class_info.csv"
BOXES = "stage_2_train_labels.csv"
IMAGES = "stage_2_train_images"
PATIENTS = "pneumonia-challenge-dataset-mappings_2018.json"
HEALTHY, OPACITY, OTHER = "Normal", "Lung Opacity", "No Lung Opacity / Not Normal"
EDGES = ("x", "y", "width", "height")


def is_rsna(root: Path) -> bool:
    """Return whether a folder has files or folders of the challenge's second stage."""
    return any((root / name).exists() for name in (CLASSES, BOXES, IMAGES, "stage_2_test_images"))


def open_rsna(root: Path, options: ReadOptions) -> dict[str, Split]:
    """Read the labeled images of the RSNA Pneumonia Detection Challenge.

    The images are of NIH ChestX-ray14, several of a patient, but patientId is another one for every image. RSNA's
    mapping file says which are of one patient. Without it a warning says that this is not known.

    Args:
        root: folder of the CSVs and of stage_2_train_images, with RSNA's mapping file or without.
        options: `ReadOptions`.

    Returns:
        dict of split name to Split. Boxes are known of healthy images and of lung opacities.

    Raises:
        UserError: a file is missing or invalid, the two CSVs contradict each other; or as `listed.open_listed` raises
            it.
    """
    for name in (CLASSES, BOXES, IMAGES):
        if not (root / name).exists():
            raise UserError(
                f"{root} is of the RSNA Pneumonia Detection Challenge but {name} is missing: download it from "
                "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge and put it there, unpacked"
            )
    classes = _read_classes(root / CLASSES, options.names)
    boxes = _read_boxes(root / BOXES, classes, options.names)
    patients = _read_patients(root / PATIENTS)
    if missing := [name for name in classes if patients and name not in patients]:
        named = options.names.quote(missing[0])
        raise UserError(f"{root / PATIENTS} does not name {named}, which {CLASSES} lists: download it again")
    rows = [
        Listed(
            root / IMAGES / f"{name}.dcm",
            int(found != HEALTHY),
            patients.get(name, name),
            (found,) if found != HEALTHY else (),
            tuple(boxes[name]) if found == OPACITY else None,
        )
        for name, found in classes.items()
    ]
    return open_listed(root, draw_splits(rows), options, drawn=True)


def _read_classes(path: Path, names: Names) -> dict[str, str]:
    """Return {image: its class}. An image has a row per box."""
    classes: dict[str, str] = {}
    for line, row in read_table(path, ("patientId", "class")):
        name, found = row["patientId"].strip(), row["class"].strip()
        if not name or found not in (HEALTHY, OPACITY, OTHER):
            raise UserError(f"{path} line {line}: class is {found!r}, it should be {HEALTHY}, {OPACITY} or {OTHER}")
        if classes.setdefault(name, found) != found:
            raise UserError(
                f"{path} line {line}: {names.quote(name)} has another class than in an earlier line: download it again"
            )
    return classes


def _read_boxes(path: Path, classes: dict[str, str], names: Names) -> dict[str, list[Box]]:
    """Return {image: its boxes}; an image without lung opacity has none.

    Raises:
        UserError: a value is invalid, or the classes say something else of an image.
    """
    boxes: dict[str, list[Box]] = {}
    for line, row in read_table(path, ("patientId", *EDGES, "Target")):
        name, target = row["patientId"].strip(), row["Target"].strip()
        mine, cells = boxes.setdefault(name, []), [row[edge].strip() for edge in EDGES]
        if name not in classes or target != str(int(classes[name] == OPACITY)):
            raise UserError(
                f"{path} line {line}: Target of {names.quote(name)} is {target!r}, but its class in {CLASSES} is "
                f"{classes.get(name, 'missing')!r}: download both again"
            )
        if target == "0" and not any(cells):
            continue
        try:
            left, top, width, height = map(read_number, cells)
            if target == "0" or not (left >= 0 and top >= 0 and 0 < width < 1e5 and 0 < height < 1e5):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path} line {line}: {', '.join(cells)} should be a box, x, y, width and height in pixels, where "
                "Target is 1, and empty where it is 0"
            ) from None
        mine.append(Box(OPACITY, left, top, left + width, top + height))
    if missing := [name for name in classes if name not in boxes]:
        raise UserError(f"{path} does not list {names.quote(missing[0])}, which {CLASSES} lists: download both again")
    return boxes


def _read_patients(path: Path) -> dict[str, str]:
    """Return {image: number of its patient in NIH ChestX-ray14}; none if there is no such file."""
    if not path.is_file():
        log.warning(
            "which images are of one patient is not known, so that a patient may be in two splits: download "
            "https://s3.amazonaws.com/east1.public.rsna.org/AI/2018/%s and put it into %s",
            path.name,
            path.parent,
        )
        return {}
    try:
        # An image of NIH ChestX-ray14 is named 00000001_000.png: the patient's number, and that of the examination.
        return {item["subset_img_id"]: item["img_id"].split("_")[0] for item in json.loads(read_text(path))}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f"{path} is no list of img_id and subset_img_id: download it again") from None
